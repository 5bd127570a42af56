//! The index: which runs there are, as the names of objects.

use std::collections::BTreeSet;

use diorama_backends::objects::{ObjectError, Objects, list_all};
use diorama_core::id::RunId;
use diorama_core::key::SharedKey;

/// The runs that have an entry below `prefix`: [`SharedKey::SUBMITTED`], [`SharedKey::ACTIVE`] or [`SharedKey::DELETED`].
/// Ids rise with time, so they are in the order of submission. What is no run's name is left out.
pub(crate) async fn runs_below(objects: &dyn Objects, prefix: &str) -> Result<BTreeSet<RunId>, ObjectError> {
    let listed = list_all(objects, prefix).await?;
    Ok(listed.iter().filter_map(|object| SharedKey::run(&object.key)).collect())
}
