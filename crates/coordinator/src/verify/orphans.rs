//! What lies there and no marker names: what attempts left that did not commit.

use std::collections::{BTreeMap, HashSet};

use diorama_backends::objects::{ObjectMeta, each_listed};
use diorama_backends::run_store::RunStore;
use diorama_core::key::Folder;
use diorama_core::marker::CommitMarker;
use diorama_core::outcome::Outcome;
use sha2::{Digest, Sha256};

use super::Verification;
use crate::error::CoordinatorError;

/// Counts them, and removes them where that is wanted.
pub(super) async fn orphans(
    store: &RunStore,
    named: &Named,
    remove: bool,
    found: &mut Verification,
) -> Result<(), CoordinatorError> {
    let folders = Folder::ALL.map(Folder::as_str).into_iter().chain(["shards"]).chain(found.ended.then_some("journal"));
    let mut keys = Vec::new();
    for folder in folders {
        let prefix = store.relative(&format!("{folder}/"));
        let orphan = |object: ObjectMeta| keys.extend(Some(object.key).filter(|key| !named.has(key)));
        each_listed(store.objects(), &prefix, orphan).await?;
    }
    found.orphans = keys.len() as u64;
    if remove && !keys.is_empty() {
        store.objects().delete_all(&keys).await?;
        found.repaired.push(format!("{} objects that no marker names were removed", keys.len()));
        found.orphans = 0;
    }
    Ok(())
}

/// The keys of archives and files that markers name, each as a digest of 64 bits: there may be millions, and one that is
/// no marker's passes for one that is with a chance of their number in 2^64.
#[derive(Default)]
pub(super) struct Named(HashSet<u64>);

impl Named {
    /// Adds what the marker names.
    pub(super) fn of(&mut self, store: &RunStore, marker: CommitMarker) {
        if let Some(archive) = marker.archive {
            self.0.insert(Self::digest(&store.relative(&archive.key)));
            return;
        }
        let done = marker.outcomes.into_iter().filter_map(|outcome| match outcome.outcome {
            Outcome::Done { files, .. } => Some(files),
            Outcome::Failed(_) => None,
        });
        let files = done.flat_map(BTreeMap::into_values);
        self.0.extend(files.map(|file| Self::digest(&store.relative(&file.path))));
    }

    fn has(&self, key: &str) -> bool {
        self.0.contains(&Self::digest(key))
    }

    fn digest(key: &str) -> u64 {
        let digest = Sha256::digest(key);
        u64::from_le_bytes(std::array::from_fn(|index| digest[index]))
    }
}
