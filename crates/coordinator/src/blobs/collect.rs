//! The removal of blobs that no run names: in a bounded memory, whatever the number of blobs, runs and rows.

use std::collections::{HashMap, HashSet};

use diorama_backends::objects::{ObjectError, ObjectErrorKind, ObjectMeta, Objects, list_all};
use diorama_core::id::{AttemptId, RunId, Sha256Hex};
use diorama_core::key::{BLOB_LISTS, BLOBS, SharedKey, blob_list_of, blob_of};
use diorama_protocol::{Backends, RunStore};
use futures::{StreamExt, TryStreamExt, stream};

use super::{Digest, LOOKING, digests, path, text};
use crate::error::CoordinatorError;
use crate::gc::{Collected, Grace, is_old};
use crate::index::runs_below;

/// Blobs that are held against the lists of all runs at a time.
const CANDIDATES: usize = 1 << 20;

/// Blobs that are removed under one note.
const REMOVED: usize = 1000;

/// Runs whose lists are looked up, and lists that are read, at a time.
const RUNS: usize = 32;
const LISTS: usize = 8;

/// Objects that are listed at a time.
const PAGE: usize = 1000;

/// Removes blobs that are older than `grace` and that no run names; with `dry`, only says which.
///
/// # Errors
/// A run whose lists are not all there may name any blob: then none is removed.
pub(crate) async fn collect(
    backends: &Backends,
    grace: Grace,
    dry: bool,
    collected: &mut Collected,
) -> Result<(), CoordinatorError> {
    let objects = &*backends.objects;
    if !dry {
        remove_old_notes(objects, grace).await?;
    }
    let mut after = None;
    loop {
        let (mut unnamed, next) = old_blobs(objects, grace, after).await?;
        let mut known = HashSet::new();
        if !unnamed.is_empty() {
            spare_named(backends, &mut unnamed, &mut known).await?;
        }
        let mut unnamed: Vec<Digest> = unnamed.into_iter().collect();
        unnamed.sort_unstable();
        for blobs in unnamed.chunks(REMOVED) {
            let gone = if dry { blobs.to_vec() } else { remove(backends, blobs, grace, &mut known).await? };
            collected.blobs += gone.len() as u64;
            gone.into_iter().for_each(|blob| collected.note(path(&Sha256Hex::from_digest(blob))));
        }
        match next {
            Some(next) => after = Some(next),
            None => return Ok(()),
        }
    }
}

/// A collection that died left its note. It does nothing any more when the note is old.
async fn remove_old_notes(objects: &dyn Objects, grace: Grace) -> Result<(), ObjectError> {
    let notes = list_all(objects, SharedKey::COLLECTING).await?;
    let old: Vec<String> = notes.into_iter().filter(|note| is_old(note, grace)).map(|note| note.key).collect();
    objects.delete_all(&old).await
}

/// As many old blobs as are held against the runs at a time, and where the next ones begin.
async fn old_blobs(
    objects: &dyn Objects,
    grace: Grace,
    mut after: Option<String>,
) -> Result<(HashSet<Digest>, Option<String>), ObjectError> {
    let mut old = HashSet::new();
    loop {
        let page = objects.list(BLOBS, after.as_deref(), PAGE).await?;
        let blobs = page.objects.iter().filter(|object| is_old(object, grace));
        old.extend(blobs.filter_map(|object| Some(blob_of(&object.key)?.digest())));
        after = page.next;
        if after.is_none() || old.len() >= CANDIDATES {
            return Ok((old, after));
        }
    }
}

/// Removes blobs that no run named, unless one does by now, or they were uploaded anew. Those that were removed.
async fn remove(
    backends: &Backends,
    blobs: &[Digest],
    grace: Grace,
    known: &mut HashSet<RunId>,
) -> Result<Vec<Digest>, CoordinatorError> {
    let objects = &*backends.objects;
    let note = SharedKey::Collecting(AttemptId::generate()).to_string();
    objects.put(&note, text(blobs)).await?;
    // From here on a submission that names one of them sees the note, or we see its list.
    let mut unnamed: HashSet<Digest> = blobs.iter().copied().collect();
    spare_named(backends, &mut unnamed, known).await?;
    let look = |blob: Digest| async move {
        let there = objects.head(&path(&Sha256Hex::from_digest(blob))).await?;
        Ok::<_, ObjectError>(there.filter(|object: &ObjectMeta| is_old(object, grace)).map(|_| blob))
    };
    let still: Vec<Option<Digest>> = stream::iter(unnamed).map(look).buffer_unordered(LOOKING).try_collect().await?;
    let mut gone: Vec<Digest> = still.into_iter().flatten().collect();
    gone.sort_unstable();
    let keys: Vec<String> = gone.iter().map(|blob| path(&Sha256Hex::from_digest(*blob))).collect();
    // The note stays where this fails: a request that was sent may take effect later.
    objects.delete_all(&keys).await?;
    objects.delete(&note).await?;
    Ok(gone)
}

/// Takes out of `blobs` what runs name that are not `known`, and notes the runs all of whose names were read.
async fn spare_named(
    backends: &Backends,
    blobs: &mut HashSet<Digest>,
    known: &mut HashSet<RunId>,
) -> Result<(), CoordinatorError> {
    let objects = &*backends.objects;
    let runs = runs_below(objects, SharedKey::SUBMITTED).await?;
    let unknown = runs.into_iter().filter(|run| !known.contains(run)).collect::<Vec<_>>();
    let mut lists = stream::iter(unknown).map(|run| lists_of(backends, run)).buffer_unordered(RUNS);
    while let Some(Lists { run, keys, are_complete }) = lists.try_next().await? {
        let read = |key: String| async move {
            match objects.get(&key).await {
                // The run was deleted meanwhile.
                Err(error) if error.kind == ObjectErrorKind::NotFound => Ok(Vec::new()),
                read => digests(&key, &read?),
            }
        };
        let mut read = stream::iter(keys).map(read).buffer_unordered(LISTS);
        while let Some(named) = read.try_next().await? {
            for blob in named {
                blobs.remove(&blob);
            }
        }
        if are_complete {
            known.insert(run);
        }
    }
    Ok(())
}

/// The lists of a run, whoever wrote them.
struct Lists {
    run: RunId,
    keys: Vec<String>,
    /// False of a submission that is under way, or was cut off.
    are_complete: bool,
}

async fn lists_of(backends: &Backends, run: RunId) -> Result<Lists, CoordinatorError> {
    let store = RunStore::shared(backends.objects.clone(), &run);
    let keys: Vec<String> =
        list_all(store.objects(), &store.relative(BLOB_LISTS)).await?.into_iter().map(|object| object.key).collect();
    // By writer: how many there are, and how many there should be.
    let mut writers: HashMap<AttemptId, (u32, Option<u32>)> = HashMap::new();
    for (writer, number, is_last) in keys.iter().filter_map(|key| blob_list_of(store.within(key))) {
        let (there, all) = writers.entry(writer).or_default();
        *there += 1;
        *all = all.or(is_last.then_some(number + 1));
    }
    let are_complete = writers.values().any(|(there, all)| Some(*there) == *all);
    if !are_complete && store.history().await?.is_submitted() {
        return Err(ObjectError::damaged(
            format!("{}*", store.relative(BLOB_LISTS)),
            "the lists of the references that the run names are not all there",
        )
        .into());
    }
    Ok(Lists { run, keys, are_complete })
}
