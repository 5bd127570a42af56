//! The deletion of a run that has ended, or was never completely submitted, with everything that it made.
//!
//! The log's last entry decides: from then on there is no such run. What is removed, and in which order, matters to
//! nobody then; the log itself goes last, and a note that the run was there stays for a while, because a worker that was
//! cut off may still write something under its name.

use diorama_backends::objects::{ObjectError, check_key};
use diorama_core::id::RunId;
use diorama_core::key::{COMMITS, DECISIONS, ObjectKey, SharedKey};
use diorama_protocol::decision::Act;
use diorama_protocol::history::History;
use diorama_protocol::{Backends, RunStore, fault};

use crate::error::CoordinatorError;

/// Objects that are listed at a time.
const PAGE: usize = 1000;

/// Refuses where a run without a log is no half submission: what is committed shows that it had one.
pub(crate) async fn had_no_log(store: &RunStore) -> Result<(), ObjectError> {
    let is_committed = !store.objects().list(&store.relative(COMMITS), None, 1).await?.objects.is_empty();
    if is_committed && store.exists(&ObjectKey::Spec).await? {
        let log = store.path(&ObjectKey::Decision(0));
        return Err(ObjectError::damaged(log, "it is gone, and shards of the run are committed"));
    }
    Ok(())
}

/// Decides that there is no such run any more.
pub(crate) async fn delete(
    backends: &Backends,
    store: &RunStore,
    run: &RunId,
    history: &mut History,
    by: &str,
) -> Result<(), CoordinatorError> {
    // It must be found again by whoever removes it.
    backends.objects.put(&SharedKey::Deleted(run.clone()).to_string(), bytes::Bytes::new()).await?;
    match backends.decide(store, run, history, by, Act::Deleted).await {
        Ok(_) => {}
        Err(error) => {
            backends.objects.delete(&SharedKey::Deleted(run.clone()).to_string()).await?;
            return Err(error.into());
        }
    }
    fault::point("delete.after-decision");
    Ok(())
}

/// Removes everything of a deleted run but its log.
pub(crate) async fn carry_out(backends: &Backends, store: &RunStore, run: &RunId) -> Result<(), CoordinatorError> {
    store.delete(&ObjectKey::Spec).await?;
    remove_below(backends, store, |key| !store.within(key).starts_with(DECISIONS)).await?;
    backends.progress.forget(run).await?;
    for key in [SharedKey::Submitted(run.clone()), SharedKey::Active(run.clone())] {
        backends.objects.delete(&key.to_string()).await?;
    }
    tracing::info!("the run was deleted");
    Ok(())
}

/// Removes what was written late under the name of a run that was deleted long ago, its log, and the note that it was
/// there.
pub(crate) async fn forget(backends: &Backends, run: &RunId) -> Result<u64, CoordinatorError> {
    let store = RunStore::shared(backends.objects.clone(), run);
    let removed = remove_below(backends, &store, |_| true).await?;
    backends.progress.forget(run).await?;
    for key in [SharedKey::Submitted(run.clone()), SharedKey::Active(run.clone()), SharedKey::Deleted(run.clone())] {
        backends.objects.delete(&key.to_string()).await?;
    }
    Ok(removed)
}

async fn remove_below(
    backends: &Backends,
    store: &RunStore,
    goes: impl Fn(&str) -> bool,
) -> Result<u64, CoordinatorError> {
    let objects = &*backends.objects;
    let (mut after, mut removed): (Option<String>, u64) = (None, 0);
    loop {
        let page = objects.list(&store.relative(""), after.as_deref(), PAGE).await?;
        // What has no name of ours cannot be removed by one, and keeps nothing else from going.
        let ours = page.objects.into_iter().map(|object| object.key).filter(|key| check_key(key).is_ok());
        let keys: Vec<String> = ours.filter(|key| goes(key)).collect();
        objects.delete_all(&keys).await?;
        removed += keys.len() as u64;
        fault::point("delete.after-page");
        match page.next {
            Some(next) => after = Some(next),
            None => return Ok(removed),
        }
    }
}
