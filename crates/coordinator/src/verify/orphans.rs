//! What lies there and counts for nothing: what attempts left behind that did not commit.

use diorama_backends::objects::{ObjectMeta, each_listed};
use diorama_core::key::{Folder, RunRoot};
use diorama_protocol::RunStore;
use diorama_protocol::history::History;
use diorama_protocol::mutant::{self, Mutant};

use super::Verification;
use crate::ending::{Named, left_behind};
use crate::error::CoordinatorError;
use crate::gc::{Grace, is_old};

/// Counts them, and removes those that are as old as `remove` says. Of a run that goes on, what its attempts have stored so
/// far is among them.
pub(super) async fn orphans(
    store: &RunStore,
    history: &History,
    named: &Named,
    remove: Option<Grace>,
    found: &mut Verification,
) -> Result<(), CoordinatorError> {
    let Some(last) = history.last_round() else { return Ok(()) };
    let last = if mutant::is_back(Mutant::RepairTakesNewRounds) { u32::MAX } else { last.round.0 };
    let (mut count, mut old) = (0, Vec::new());
    let mut orphan = |object: ObjectMeta| {
        count += 1;
        old.extend(Some(object).filter(|object| remove.is_some_and(|grace| is_old(object, grace))));
    };
    left_behind(store, last, named, &mut orphan).await?;
    if *store.root() == RunRoot::Own {
        for folder in Folder::ALL {
            each_listed(store.objects(), &format!("{}/", folder.as_str()), |object| {
                if !named.has(&object.key) {
                    orphan(object);
                }
            })
            .await?;
        }
    }
    found.orphans = count;
    if !old.is_empty() {
        let keys: Vec<String> = old.into_iter().map(|object| object.key).collect();
        store.objects().delete_all(&keys).await?;
        found.repaired.push(format!("{} objects that no marker names were removed", keys.len()));
        found.orphans -= keys.len() as u64;
    }
    if let (Some(Grace(grace)), 1..) = (remove, found.orphans) {
        let young = format!("{} objects that no marker names are younger than {grace:?}, and stay", found.orphans);
        found.skipped.push(young);
    }
    Ok(())
}
