//! The journal of a shard: which attempts began, how they ended where that was no commit, and, once a shard is
//! suspected, which task runs alone. What follows from it is [`crate::poison`]'s.
//!
//! An attempt that began and neither committed nor handed the shard back died or stands still. Kept in the object store,
//! because a count of deliveries dies with an embedded queue. Each entry is an object of its own, written once, so that
//! neither a late writer nor the length of a shard costs anything: `journal/SHARD.json` that the first attempt began, in
//! one request and with nothing to read, where the store honours conditions; everything else
//! `journal/SHARD.ATTEMPT.NUMBER.json`. Nobody asks once the shard
//! is committed: the end of the run removes all journals in a few requests.

use std::collections::BTreeMap;

use diorama_backends::objects::{ObjectError, ObjectErrorKind, Put, list_all};
use diorama_core::id::{AttemptId, ShardId, TaskIndex, WorkerId};
use diorama_core::key::ObjectKey;
use diorama_protocol::{Exclusive, RunStore};
use futures::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};

use crate::poison::Trace;

/// Entries that are read at a time.
const READING: usize = 16;

/// The number of an entry that somebody else adds to the journal of an attempt that is proven dead: behind all of its own.
const LAST: u32 = 99_999;

/// One entry.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Entry {
    /// The format of this entry: 1.
    version: u32,
    attempt: AttemptId,
    #[serde(flatten)]
    event: Event,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Event {
    /// The attempt began.
    Began { worker: WorkerId },
    /// This task alone is being decoded or generated.
    Running { task: TaskIndex },
    /// No task is running any more; what is left is storing and committing.
    Idle,
    /// The attempt ended in good order without a commit; it is no death. `part`: what it had finished is kept, in
    /// `parts/SHARD.ATTEMPT.json`.
    HandedBack { part: bool },
    /// Its process died, while its machine lived on; written by whoever found its scratch folder.
    Died,
}

/// What an attempt may say of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Note {
    /// This task is about to run alone.
    Running(TaskIndex),
    /// No task runs any more.
    Idle,
    /// It ends in good order without a commit, and whether it keeps a part.
    HandedBack {
        /// Whether its part is stored.
        part: bool,
    },
}

/// The journal as an attempt read it when it began, and where it adds to it.
#[derive(Debug)]
pub(crate) struct Journal {
    shard: ShardId,
    attempt: AttemptId,
    /// What others wrote, by attempt, each in its order.
    earlier: BTreeMap<AttemptId, Vec<Event>>,
    /// Objects of ours.
    own: Vec<String>,
    next: u32,
}

impl Journal {
    /// Notes that an attempt begins: in one request where it is the first one; otherwise what was noted of earlier ones is
    /// read, too.
    pub(crate) async fn begin(
        store: &RunStore,
        shard: ShardId,
        attempt: &AttemptId,
        worker: &WorkerId,
        exclusive: Exclusive,
    ) -> Result<Self, ObjectError> {
        let mut journal = Self { shard, attempt: attempt.clone(), earlier: BTreeMap::new(), own: Vec::new(), next: 0 };
        let began = Event::Began { worker: worker.clone() };
        // A store that ignores the condition would let two attempts be the first, and one of them would not be noted.
        if exclusive == Exclusive::ConditionalPut && journal.is_first(store, &began).await? {
            return Ok(journal);
        }
        journal.earlier = read(store, shard, attempt).await?;
        journal.add(store, began).await?;
        Ok(journal)
    }

    /// Notes in the one object of this name that the first attempt began, unless another one did.
    async fn is_first(&mut self, store: &RunStore, began: &Event) -> Result<bool, ObjectError> {
        let (key, entry) = (ObjectKey::FirstAttempt(self.shard), self.entry(began.clone()));
        let bytes = store.json_lines(&key, std::slice::from_ref(&entry))?;
        let first = store.path(&key);
        let is_first = store.objects().put_if_absent(&first, bytes).await? == Put::Created;
        if is_first {
            self.own.push(first);
        }
        Ok(is_first)
    }

    /// Attempts before this one that died or stand still, as far as is known.
    pub(crate) fn unfinished(&self) -> u32 {
        let is_over = |events: &[Event]| events.iter().any(|event| matches!(event, Event::HandedBack { .. }));
        self.earlier.values().filter(|events| !is_over(events)).count() as u32
    }

    /// Earlier attempts that died or stand still, and never began a task alone. A suspected shard's attempt begins one as
    /// soon as it has read the shard.
    pub(crate) fn died_before_any_task(&self) -> u32 {
        let spoke = |event: &Event| matches!(event, Event::HandedBack { .. } | Event::Running { .. } | Event::Idle);
        self.earlier.values().filter(|events| !events.iter().any(spoke)).count() as u32
    }

    /// What every earlier attempt leaves to think. `all_dead`: none of them can be alive.
    pub(crate) fn traces(&self, all_dead: bool) -> Vec<Trace> {
        self.earlier.values().map(|events| trace(events, all_dead)).collect()
    }

    /// Earlier attempts that kept a part, in the order in which they began.
    pub(crate) fn parts(&self) -> Vec<AttemptId> {
        let kept = |events: &[Event]| events.iter().any(|event| matches!(event, Event::HandedBack { part: true }));
        self.earlier.iter().filter(|(_, events)| kept(events)).map(|(attempt, _)| attempt.clone()).collect()
    }

    /// Adds what the attempt says of itself.
    pub(crate) async fn note(&mut self, store: &RunStore, note: Note) -> Result<(), ObjectError> {
        let event = match note {
            Note::Running(task) => Event::Running { task },
            Note::Idle => Event::Idle,
            Note::HandedBack { part } => Event::HandedBack { part },
        };
        self.add(store, event).await
    }

    /// Takes back everything that this attempt noted: where nothing can be written (a full disk) it is as if it had never
    /// begun. A task that only had the bad luck to run just then would be blamed otherwise.
    pub(crate) async fn withdraw(&self, store: &RunStore) -> Result<(), ObjectError> {
        store.objects().delete_all(&self.own).await
    }

    async fn add(&mut self, store: &RunStore, event: Event) -> Result<(), ObjectError> {
        let key = ObjectKey::Journal(self.shard, self.attempt.clone(), self.next);
        self.own.push(store.path(&key));
        self.next += 1;
        store.write_json(&key, &self.entry(event)).await
    }

    fn entry(&self, event: Event) -> Entry {
        Entry { version: 1, attempt: self.attempt.clone(), event }
    }
}

/// Notes that an attempt of another process died with it. Says nothing where nobody will ask: the shard is committed, or
/// the run is gone.
pub(crate) async fn note_death(store: &RunStore, shard: ShardId, attempt: &AttemptId) -> Result<(), ObjectError> {
    if !store.exists(&ObjectKey::Spec).await? || store.exists(&ObjectKey::Commit(shard)).await? {
        return Ok(());
    }
    let entry = Entry { version: 1, attempt: attempt.clone(), event: Event::Died };
    store.write_json(&ObjectKey::Journal(shard, attempt.clone(), LAST), &entry).await
}

/// What others wrote into the shard's journal.
async fn read(
    store: &RunStore,
    shard: ShardId,
    ours: &AttemptId,
) -> Result<BTreeMap<AttemptId, Vec<Event>>, ObjectError> {
    let first = store.path(&ObjectKey::FirstAttempt(shard));
    let prefix = first.strip_suffix("json").unwrap_or(&first);
    let mut keys: Vec<String> = list_all(store.objects(), prefix).await?.into_iter().map(|object| object.key).collect();
    // That the first attempt began comes before what else it noted; the rest is in the order of attempts and numbers.
    keys.sort_by_key(|key| (*key != first, key.clone()));
    let read = |key: String| async move {
        match store.objects().get(&key).await {
            // One that does not parse was written by another version; it cannot say that a task is to blame.
            Ok(bytes) => Ok(serde_json::from_slice::<Entry>(&bytes).ok()),
            Err(error) if error.kind == ObjectErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    };
    let entries: Vec<Option<Entry>> = stream::iter(keys).map(read).buffered(READING).try_collect().await?;
    let mut by_attempt: BTreeMap<AttemptId, Vec<Event>> = BTreeMap::new();
    for entry in entries.into_iter().flatten().filter(|entry| entry.attempt != *ours) {
        by_attempt.entry(entry.attempt).or_default().push(entry.event);
    }
    Ok(by_attempt)
}

/// What an attempt leaves to think.
fn trace(events: &[Event], is_dead: bool) -> Trace {
    let mut trace = Trace { is_dead, ..Trace::default() };
    for event in events {
        match event {
            Event::Running { task } => {
                trace.survived.extend(trace.last);
                trace.last = Some(*task);
            }
            Event::Idle => trace.survived.extend(trace.last.take()),
            // It shows life, but the task may not have been done.
            Event::HandedBack { .. } => trace.last = None,
            Event::Died => trace.is_dead = true,
            Event::Began { .. } => {}
        }
    }
    trace
}

#[cfg(test)]
mod tests;
