//! The deletion of a run that has ended, with everything that it made.
//!
//! `index/deleting/{run}` decides: from then on whoever drives the run only removes it, and may begin again at any point.
//! `run.json` goes first, so that nobody ever sees half a run; what the index says of it goes last. References that
//! were uploaded stay: other runs may name them.

use diorama_backends::objects::{ObjectError, Objects};
use diorama_backends::run_store::RunStore;
use diorama_backends::{Backends, fault};
use diorama_core::id::RunId;
use diorama_core::key::{ObjectKey, SharedKey};

use crate::error::CoordinatorError;
use crate::reopen::{ending, hand_over, not_ended};

/// Objects that are listed at a time.
const PAGE: usize = 1000;

/// Whether the run is being deleted.
pub(crate) async fn is_under_way(objects: &dyn Objects, run: &RunId) -> Result<bool, ObjectError> {
    Ok(objects.head(&SharedKey::Deleting(run.clone()).to_string()).await?.is_some())
}

/// Says that an ended run is to be deleted, and hands it over to the leading coordinator. From then on there is no such
/// run for anybody else.
pub(crate) async fn delete(store: &RunStore, run: &RunId) -> Result<(), CoordinatorError> {
    if ending(store).await?.is_none() {
        return Err(not_ended(store, "deleted").await?);
    }
    hand_over(store.objects(), run).await?;
    fault::point("delete.before-word");
    store.objects().put(&SharedKey::Deleting(run.clone()).to_string(), bytes::Bytes::new()).await?;
    fault::point("delete.after-word");
    store.delete(&ObjectKey::Spec).await?;
    // A coordinator may have struck it off the list, because it had ended until now.
    Ok(hand_over(store.objects(), run).await?)
}

/// Removes everything of the run; what the index says of it last.
pub(crate) async fn carry_out(backends: &Backends, store: &RunStore, run: &RunId) -> Result<(), CoordinatorError> {
    let objects = store.objects();
    store.delete(&ObjectKey::Spec).await?;
    let prefix = store.relative("");
    loop {
        let page = objects.list(&prefix, None, PAGE).await?;
        let keys: Vec<String> = page.objects.into_iter().map(|object| object.key).collect();
        objects.delete_all(&keys).await?;
        fault::point("delete.after-page");
        if page.next.is_none() {
            break;
        }
    }
    backends.progress.forget(run).await?;
    for key in [SharedKey::Submitted(run.clone()), SharedKey::Deleting(run.clone()), SharedKey::Active(run.clone())] {
        objects.delete(&key.to_string()).await?;
    }
    tracing::info!(target: "diorama", %run, "the run was deleted");
    Ok(())
}
