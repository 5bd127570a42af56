//! What was read for pages, kept for the next page: markers and inputs never change, and the pictures of one task are
//! asked for one after the other.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use diorama_backends::objects::ObjectError;
use diorama_core::id::{Round, RunId, ShardId};
use diorama_core::marker::CommitMarker;
use diorama_core::task::Task;
use lru::LruCache;
use tokio::sync::Semaphore;

use super::latest::Latest;
use crate::api::{Opened, Problem};

const fn at_most(number: usize) -> NonZeroUsize {
    match NonZeroUsize::new(number) {
        Some(number) => number,
        None => NonZeroUsize::MIN,
    }
}

/// Shards whose marker or tasks are kept: a marker of 64 tasks has some 60 kB.
const SHARDS: NonZeroUsize = at_most(256);

/// Tasks whose files are kept: some MB each, and 8 at most.
const SECTIONS: NonZeroUsize = at_most(16);

/// Thumbnails: some 20 kB each, and 128 kB at most.
const THUMBNAILS: NonZeroUsize = at_most(512);

/// Runs of which is known what was committed last.
const RUNS: NonZeroUsize = at_most(64);

/// Pictures that are decoded at a time.
const DECODING: usize = 2;

/// One shard of one run.
type Key = (RunId, ShardId);

/// The files of one task, by their path in the archive.
pub(super) type Section = Arc<HashMap<String, Bytes>>;

/// What was read lately.
pub(crate) struct Shelf {
    markers: Mutex<LruCache<Key, Arc<CommitMarker>>>,
    tasks: Mutex<LruCache<Key, Arc<Vec<Task>>>>,
    pub(super) sections: Mutex<LruCache<(Key, u64), Section>>,
    pub(super) thumbnails: Mutex<LruCache<(String, u32), Bytes>>,
    pub(super) latest: Mutex<LruCache<RunId, Latest>>,
    pub(super) decoding: Semaphore,
}

impl Default for Shelf {
    fn default() -> Self {
        Self {
            markers: Mutex::new(LruCache::new(SHARDS)),
            tasks: Mutex::new(LruCache::new(SHARDS)),
            sections: Mutex::new(LruCache::new(SECTIONS)),
            thumbnails: Mutex::new(LruCache::new(THUMBNAILS)),
            latest: Mutex::new(LruCache::new(RUNS)),
            decoding: Semaphore::new(DECODING),
        }
    }
}

/// The contents of a shelf, whoever panicked at it.
pub(super) fn on<T>(shelf: &Mutex<T>) -> MutexGuard<'_, T> {
    shelf.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shelf {
    /// The marker of a shard; `None` before it is committed.
    pub(super) async fn marker(&self, run: &Opened, shard: ShardId) -> Result<Option<Arc<CommitMarker>>, ObjectError> {
        let key = (run.spec.run.clone(), shard);
        if let Some(marker) = on(&self.markers).get(&key) {
            return Ok(Some(marker.clone()));
        }
        let Some(marker) = run.store.marker(shard).await? else { return Ok(None) };
        let marker = Arc::new(marker);
        on(&self.markers).put(key, marker.clone());
        Ok(Some(marker))
    }

    /// The tasks of a shard.
    pub(super) async fn tasks(&self, run: &Opened, shard: ShardId) -> Result<Arc<Vec<Task>>, Problem> {
        let key = (run.spec.run.clone(), shard);
        if let Some(tasks) = on(&self.tasks).get(&key) {
            return Ok(tasks.clone());
        }
        let unknown = || Problem::not_found("unknown_shard", format!("the run has no shard {shard}"));
        let writer = run.history.round(shard.round).map(|round| round.inputs.clone()).ok_or_else(unknown)?;
        let tasks = Arc::new(run.store.input(shard, &writer).await?.ok_or_else(unknown)?);
        on(&self.tasks).put(key, tasks.clone());
        Ok(tasks)
    }
}

/// The shard of round 0 that a task of the manifest belongs to.
pub(super) fn first_shard(run: &Opened, task: u64) -> ShardId {
    let index = task / u64::from(run.spec.shard_size.max(1));
    ShardId { round: Round(0), index: u32::try_from(index).unwrap_or(u32::MAX) }
}
