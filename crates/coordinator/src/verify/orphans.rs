//! What lies there and counts for nothing: what attempts left behind that did not commit.

use diorama_backends::objects::each_listed;
use diorama_core::key::{Folder, RunRoot};
use diorama_protocol::RunStore;
use diorama_protocol::history::History;
use diorama_protocol::mutant::{self, Mutant};

use super::Verification;
use crate::ending::{Named, left_behind};
use crate::error::CoordinatorError;

/// Counts them, and removes them where that is wanted. Of a run that goes on, what its attempts have stored so far is
/// among them.
pub(super) async fn orphans(
    store: &RunStore,
    history: &History,
    named: &Named,
    remove: bool,
    found: &mut Verification,
) -> Result<(), CoordinatorError> {
    let Some(last) = history.last_round() else { return Ok(()) };
    let last = if mutant::is_back(Mutant::RepairTakesNewRounds) { u32::MAX } else { last.round.0 };
    let mut keys = left_behind(store, last, named, |_| true).await?;
    if *store.root() == RunRoot::Own {
        for folder in Folder::ALL {
            each_listed(store.objects(), &format!("{}/", folder.as_str()), |object| {
                keys.extend(Some(object.key).filter(|key| !named.has(key)));
            })
            .await?;
        }
    }
    found.orphans = keys.len() as u64;
    if remove && !keys.is_empty() {
        store.objects().delete_all(&keys).await?;
        found.repaired.push(format!("{} objects that no marker names were removed", keys.len()));
        found.orphans = 0;
    }
    Ok(())
}
