//! The journal of a shard: which attempts began, and, once a shard is suspected, which task ran when one died.
//!
//! An attempt that began and neither committed nor handed the shard back died. Kept in the object store, because a
//! count of deliveries dies with an embedded queue. Nobody asks any more once the shard is committed: the end of the run
//! removes all journals in a few requests, rather than every shard its own.

use std::collections::BTreeSet;

use bytes::Bytes;
use diorama_backends::Exclusive;
use diorama_backends::objects::{ObjectError, Put};
use diorama_backends::run_store::RunStore;
use diorama_core::id::{AttemptId, ShardId, TaskIndex, WorkerId};
use diorama_core::key::ObjectKey;
use serde::{Deserialize, Serialize};

/// One line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Entry {
    /// The attempt began.
    Started { attempt: AttemptId, worker: WorkerId },
    /// This task alone is being decoded or generated.
    Running { attempt: AttemptId, task: TaskIndex },
    /// No task is running any more; what is left is storing and committing.
    Idle { attempt: AttemptId },
    /// The attempt ended in good order without a commit; it is no death.
    HandedBack { attempt: AttemptId },
}

impl Entry {
    fn attempt(&self) -> &AttemptId {
        match self {
            Self::Started { attempt, .. }
            | Self::Running { attempt, .. }
            | Self::Idle { attempt }
            | Self::HandedBack { attempt } => attempt,
        }
    }
}

/// The journal as it was read, with what this attempt adds.
#[derive(Debug, Clone)]
pub(crate) struct Journal {
    shard: ShardId,
    /// The attempt that holds it.
    attempt: AttemptId,
    entries: Vec<Entry>,
}

impl Journal {
    /// Begins an attempt: notes it where it is the first one, in one request; otherwise reads what was noted of earlier
    /// ones, and [`Journal::started`] is still to be called.
    pub(crate) async fn begin(
        store: &RunStore,
        shard: ShardId,
        attempt: &AttemptId,
        worker: &WorkerId,
        exclusive: Exclusive,
    ) -> Result<Self, ObjectError> {
        let key = ObjectKey::Journal(shard);
        let started = Entry::Started { attempt: attempt.clone(), worker: worker.clone() };
        let mut journal = Self { shard, attempt: attempt.clone(), entries: vec![started] };
        // A store that ignores the condition would overwrite the deaths of others.
        let first = exclusive == Exclusive::ConditionalPut
            && store.objects().put_if_absent(&store.path(&key), journal.lines(store)?).await? == Put::Created;
        if !first {
            let bytes = store.read(&key).await?.unwrap_or_default();
            // A line that does not parse was written by another version; it cannot say that a task is to blame.
            journal.entries =
                bytes.split(|b| *b == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect();
        }
        Ok(journal)
    }

    /// Attempts that died, up to now and as far as is known.
    pub(crate) fn deaths(&self) -> u32 {
        let died = |entry: &&Entry| matches!(entry, Entry::Started { attempt, .. } if self.died(attempt));
        self.entries.iter().filter(died).count() as u32
    }

    /// The tasks that ran, alone, when an attempt died.
    pub(crate) fn poisoned(&self) -> BTreeSet<TaskIndex> {
        let is_last = |at: usize, attempt| !self.entries[at + 1..].iter().any(|later| later.attempt() == attempt);
        self.entries
            .iter()
            .enumerate()
            .filter_map(|(at, entry)| match entry {
                Entry::Running { attempt, task } if is_last(at, attempt) => Some(*task),
                _ => None,
            })
            .collect()
    }

    fn died(&self, attempt: &AttemptId) -> bool {
        *attempt != self.attempt
            && !self
                .entries
                .iter()
                .any(|entry| matches!(entry, Entry::HandedBack { attempt: handed } if handed == attempt))
    }

    /// Notes that this attempt begins, unless that is noted: by [`Journal::begin`], or by a put whose answer was lost.
    pub(crate) async fn started(&mut self, store: &RunStore, worker: &WorkerId) -> Result<(), ObjectError> {
        if self.entries.iter().any(|entry| *entry.attempt() == self.attempt) {
            return Ok(());
        }
        self.append(store, Entry::Started { attempt: self.attempt.clone(), worker: worker.clone() }).await
    }

    /// Notes that `task` is about to run alone.
    pub(crate) async fn running(&mut self, store: &RunStore, task: TaskIndex) -> Result<(), ObjectError> {
        self.append(store, Entry::Running { attempt: self.attempt.clone(), task }).await
    }

    /// Notes that no task runs any more.
    pub(crate) async fn idle(&mut self, store: &RunStore) -> Result<(), ObjectError> {
        self.append(store, Entry::Idle { attempt: self.attempt.clone() }).await
    }

    /// Notes that the attempt ends in good order without a commit. A journal without deaths is removed instead.
    pub(crate) async fn handed_back(&mut self, store: &RunStore) -> Result<(), ObjectError> {
        self.entries.push(Entry::HandedBack { attempt: self.attempt.clone() });
        if self.deaths() == 0 || self.write(store).await.is_err() {
            // Where nothing can be written (a full disk) a suspicion is lost; the other way round, a task that only
            // had the bad luck to run just then would be blamed.
            return self.remove(store).await;
        }
        Ok(())
    }

    /// Nobody will ask again.
    pub(crate) async fn remove(&self, store: &RunStore) -> Result<(), ObjectError> {
        store.delete(&ObjectKey::Journal(self.shard)).await
    }

    async fn append(&mut self, store: &RunStore, entry: Entry) -> Result<(), ObjectError> {
        self.entries.push(entry);
        self.write(store).await
    }

    async fn write(&self, store: &RunStore) -> Result<(), ObjectError> {
        store.objects().put(&store.path(&ObjectKey::Journal(self.shard)), self.lines(store)?).await
    }

    fn lines(&self, store: &RunStore) -> Result<Bytes, ObjectError> {
        store.json_lines(&ObjectKey::Journal(self.shard), &self.entries)
    }
}

#[cfg(test)]
mod tests {
    use diorama_core::id::Round;

    use super::*;

    fn attempt(name: &str) -> AttemptId {
        AttemptId::new(name).unwrap()
    }

    fn started(name: &str) -> Entry {
        Entry::Started { attempt: attempt(name), worker: WorkerId::new("w").unwrap() }
    }

    fn running(name: &str, task: u64) -> Entry {
        Entry::Running { attempt: attempt(name), task: TaskIndex(task) }
    }

    fn journal(entries: impl IntoIterator<Item = Entry>) -> Journal {
        Journal {
            shard: ShardId { round: Round(0), index: 0 },
            attempt: attempt("ours"),
            entries: entries.into_iter().collect(),
        }
    }

    #[test]
    fn a_hand_back_is_no_death() {
        let handed_back = Entry::HandedBack { attempt: attempt("b") };
        let journal = journal([started("a"), started("b"), handed_back, started("c")]);
        assert_eq!(journal.deaths(), 2);
    }

    #[test]
    fn only_the_task_that_ran_when_the_attempt_died_is_to_blame() {
        let idle = Entry::Idle { attempt: attempt("c") };
        let handed_back = Entry::HandedBack { attempt: attempt("d") };
        let journal = journal([
            started("a"),
            running("a", 0),
            running("a", 1),
            started("b"),
            running("b", 0),
            running("b", 2),
            running("b", 5),
            started("c"),
            running("c", 7),
            idle,
            started("d"),
            running("d", 8),
            handed_back,
        ]);
        assert_eq!(journal.poisoned().into_iter().map(|task| task.0).collect::<Vec<_>>(), [1, 5]);
    }
}
