//! Uploaded references, and which runs name them. A submission lists the blobs of its rows beside its inputs; the
//! collection of garbage removes old blobs that no list names.
//!
//! The two could pass each other: a submission finds a blob that is just about to be removed. So each of them says what it
//! does before it looks at what the other says. A submission writes a list, reads the notes of collections, and looks
//! whether the blobs are there; a collection writes a note of what it is about to remove, and reads the lists. At least
//! one of them sees the other, however long either stands still in between.

mod collect;

use std::collections::{BTreeSet, HashSet};

use bytes::Bytes;
use diorama_backends::objects::{ObjectError, ObjectErrorKind, Objects, list_all};
use diorama_core::id::{AttemptId, Sha256Hex};
use diorama_core::key::{ObjectKey, RunRoot, SharedKey};
use diorama_core::task::{Reference, Task};
use diorama_protocol::RunStore;
use futures::{StreamExt, TryStreamExt, stream};

pub(crate) use self::collect::collect;
use crate::error::CoordinatorError;

/// Blobs that a list names at most: what a submission holds in memory of them.
const LISTED: usize = 1 << 16;

/// Blobs that are looked for at a time.
const LOOKING: usize = 64;

/// Missing blobs that an error names; all are counted.
const NAMED: usize = 100;

/// A SHA-256, as short as it can be.
type Digest = [u8; 32];

/// The blobs that the rows of a submission name, listed as the rows come.
pub(crate) struct BlobLists<'a> {
    store: &'a RunStore,
    writer: &'a AttemptId,
    number: u32,
    named: BTreeSet<Digest>,
    missing: u64,
    first_missing: Vec<Sha256Hex>,
}

impl<'a> BlobLists<'a> {
    /// No list yet, beside the inputs of `writer`.
    pub(crate) fn new(store: &'a RunStore, writer: &'a AttemptId) -> Self {
        Self { store, writer, number: 0, named: BTreeSet::new(), missing: 0, first_missing: Vec::new() }
    }

    /// Lists what the tasks name.
    pub(crate) async fn add(&mut self, tasks: &[Task]) -> Result<(), CoordinatorError> {
        for task in tasks {
            for named in [&task.reference, &task.region] {
                if let Some(Reference::Blob(sha256)) = named {
                    self.named.insert(sha256.digest());
                }
            }
            if self.named.len() >= LISTED {
                self.write(false).await?;
            }
        }
        Ok(())
    }

    /// Writes the last list: from now on nothing of them is removed.
    ///
    /// # Errors
    /// [`CoordinatorError::UnknownBlobs`] where some are not there, [`CoordinatorError::BlobsGoing`] where some are just
    /// being removed.
    pub(crate) async fn complete(mut self) -> Result<(), CoordinatorError> {
        if *self.store.root() == RunRoot::Own {
            // A folder of one run has no blobs.
            return Ok(());
        }
        self.write(true).await?;
        match self.missing {
            0 => Ok(()),
            count => Err(CoordinatorError::UnknownBlobs { count, first: self.first_missing }),
        }
    }

    async fn write(&mut self, is_last: bool) -> Result<(), CoordinatorError> {
        let objects = self.store.objects();
        let key = ObjectKey::BlobList(self.writer.clone(), self.number, is_last);
        objects.put(&self.store.path(&key), text(&self.named)).await?;
        self.number += 1;
        if self.named.is_empty() {
            return Ok(());
        }
        if going(objects).await?.iter().any(|blob| self.named.contains(blob)) {
            return Err(CoordinatorError::BlobsGoing);
        }
        let look = |blob: Digest| async move {
            let sha256 = Sha256Hex::from_digest(blob);
            let there = objects.head(&path(&sha256)).await?.is_some();
            Ok::<_, ObjectError>((!there).then_some(sha256))
        };
        let named = std::mem::take(&mut self.named);
        let mut looked = stream::iter(named).map(look).buffered(LOOKING);
        while let Some(missing) = looked.try_next().await? {
            self.missing += u64::from(missing.is_some());
            self.first_missing.extend(missing.filter(|_| self.first_missing.len() < NAMED));
        }
        Ok(())
    }
}

/// Blobs that collections are about to remove.
async fn going(objects: &dyn Objects) -> Result<HashSet<Digest>, ObjectError> {
    let mut going = HashSet::new();
    for note in list_all(objects, SharedKey::COLLECTING).await? {
        match objects.get(&note.key).await {
            Ok(text) => going.extend(digests(&note.key, &text)?),
            // Its collection is over.
            Err(error) if error.kind == ObjectErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(going)
}

fn path(sha256: &Sha256Hex) -> String {
    ObjectKey::Blob(sha256.clone()).path(&RunRoot::Own)
}

/// Blobs, one a line.
fn text<'a>(blobs: impl IntoIterator<Item = &'a Digest>) -> Bytes {
    blobs.into_iter().map(|blob| format!("{}\n", Sha256Hex::from_digest(*blob))).collect::<String>().into()
}

/// The blobs of [`text`].
fn digests(key: &str, text: &[u8]) -> Result<Vec<Digest>, ObjectError> {
    let line = |line: &str| Sha256Hex::try_from(line.to_owned()).map(|sha256| sha256.digest());
    let damaged = |problem: String| ObjectError::damaged(key, problem);
    let text = std::str::from_utf8(text).map_err(|error| damaged(error.to_string()))?;
    text.lines().map(|text| line(text).map_err(|error| damaged(error.to_string()))).collect()
}
