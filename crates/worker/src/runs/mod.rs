//! What this worker knows of runs: their specs, their logs as far as it has read them. Asks the progress service once a
//! second whether there is news, and the object store only where there is, or where nobody says.
//!
//! Ids of runs are never used again, so what is known stays true; still it is bounded, and forgotten when it was not
//! wanted for a while.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use diorama_backends::objects::ObjectError;
use diorama_core::id::{RunId, Sha256Hex, ShardId};
use diorama_core::key::ObjectKey;
use diorama_core::marker::settings_digest;
use diorama_core::run::RunSpec;
use diorama_protocol::history::History;
use diorama_protocol::{Backends, RunStore};
use tokio::time::Instant;

use crate::lock::locked;

/// How long a decision may be unknown to us where the progress service works and nobody chose otherwise, and how long it
/// may take to answer.
pub(crate) const HEARD_WITHIN: Duration = Duration::from_secs(1);

/// Between two looks at the log where the progress service is away, or does not know the run.
const UNHEARD: Duration = HEARD_WITHIN;

/// Between two looks at the log all the same: whoever decided may have told nobody.
const SELDOM: Duration = Duration::from_secs(60);

/// Runs that are known at a time.
const MOST: usize = 256;

/// How long an unwanted run is known.
const UNUSED: Duration = Duration::from_secs(600);

/// What is known of one run.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    /// The spec. Immutable.
    pub(crate) spec: Arc<RunSpec>,
    /// The digest of the spec's settings, as markers carry it.
    pub(crate) settings: Sha256Hex,
    pub(crate) history: Arc<History>,
    /// Shards that were not begun make room for another run.
    gives_way: bool,
    /// When the progress service was asked last.
    asked: Option<Instant>,
    /// When the log was read last.
    read: Instant,
    used: Instant,
}

/// What is wanted of a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wish {
    /// It is to be run.
    Work,
    /// Not now; whoever wants it later publishes it again.
    NotNow,
    /// What became of its tasks is decided.
    Decided,
}

impl Known {
    /// What is wanted of a shard; `begun`: a batch of it was made already.
    pub(crate) fn wish(&self, shard: ShardId, begun: bool) -> Wish {
        let history = &self.history;
        if history.is_deleted() || history.is_cancelled() || history.ending().is_some() || history.reopening().is_some()
        {
            return Wish::Decided;
        }
        match (history.is_submitted(), history.is_under_way(shard)) {
            (true, false) => Wish::Decided,
            (true, true) if history.wants_work() && (begun || !self.gives_way) => Wish::Work,
            _ => Wish::NotNow,
        }
    }

    /// Whether the log that we know ends before the shard's round.
    fn is_behind(&self, shard: ShardId) -> bool {
        self.history.last_round().is_none_or(|last| last.round < shard.round)
    }
}

/// The runs that this worker knows.
#[derive(Debug, Default)]
pub(crate) struct Runs(Mutex<HashMap<RunId, Known>>);

impl Runs {
    /// What is known of the run whose `shard` we have, not older than `age` where the progress service works; `None` where
    /// there is no such run.
    pub(crate) async fn look(
        &self,
        backends: &Backends,
        store: &RunStore,
        run: &RunId,
        shard: ShardId,
        age: Duration,
    ) -> Result<Option<Known>, ObjectError> {
        self.look_at(Instant::now(), backends, store, run, shard, age).await
    }

    /// The same, at this moment.
    async fn look_at(
        &self,
        now: Instant,
        backends: &Backends,
        store: &RunStore,
        run: &RunId,
        shard: ShardId,
        age: Duration,
    ) -> Result<Option<Known>, ObjectError> {
        let mut known = match self.known(run, now) {
            Some(known) => known,
            None => match read(store, now).await? {
                Some(known) => self.keep(run, known, now),
                None => return Ok(None),
            },
        };
        let is_behind = known.is_behind(shard);
        if !is_behind && known.asked.is_some_and(|asked| now.duration_since(asked) < age) {
            return Ok(Some(known));
        }
        known.asked = Some(now);
        // Kept before the answer is there, so that two shards of a run ask once.
        self.keep(run, known.clone(), now);
        // Who wants to know what holds now cannot do with what held a moment ago.
        let unheard = UNHEARD.min(age);
        let head = tokio::time::timeout(HEARD_WITHIN, backends.progress.head(run)).await;
        // Only the progress service knows, and where it says nothing no run gives way: what it said a while ago would let go
        // of a shard that its coordinator believes in the queue.
        known.gives_way = false;
        let (is_news, pause, tells) = match head {
            Ok(Ok(Some(head))) => {
                known.gives_way = head.gives_way;
                let ours = known.history.decisions();
                (head.decisions > ours, SELDOM, head.decisions < ours)
            }
            Ok(Ok(None)) => (false, unheard, true),
            Ok(Err(_)) | Err(_) => (false, unheard, false),
        };
        if is_behind || is_news || now.duration_since(known.read) >= pause {
            let mut history = (*known.history).clone();
            store.refresh(&mut history).await?;
            (known.history, known.read) = (Arc::new(history), now);
        }
        if tells {
            // A run that was deleted has no log that could say so.
            if !store.exists(&ObjectKey::Spec).await? {
                locked(&self.0).remove(run);
                return Ok(None);
            }
            backends.announce(run, &known.history).await;
        }
        Ok(Some(self.keep(run, known, now)))
    }

    /// Takes over a log that was read, or written to, on the way.
    pub(crate) fn learn(&self, run: &RunId, history: History) -> Arc<History> {
        let (history, now) = (Arc::new(history), Instant::now());
        if let Some(known) = self.known(run, now) {
            return self.keep(run, Known { history, read: now, ..known }, now).history;
        }
        history
    }

    fn known(&self, run: &RunId, now: Instant) -> Option<Known> {
        let mut runs = locked(&self.0);
        let known = runs.get_mut(run)?;
        known.used = now;
        Some(known.clone())
    }

    /// Keeps what is newer of this and what is there; makes room.
    fn keep(&self, run: &RunId, mut known: Known, now: Instant) -> Known {
        let mut runs = locked(&self.0);
        if let Some(other) = runs.get(run)
            && other.history.decisions() > known.history.decisions()
        {
            known.history = other.history.clone();
        }
        runs.retain(|_, other| now.duration_since(other.used) < UNUSED);
        if runs.len() >= MOST && !runs.contains_key(run) {
            let oldest = runs.iter().min_by_key(|(_, other)| other.used).map(|(run, _)| run.clone());
            oldest.map(|oldest| runs.remove(&oldest));
        }
        runs.insert(run.clone(), known.clone());
        known
    }
}

/// Reads everything about a run that we have not heard of.
async fn read(store: &RunStore, now: Instant) -> Result<Option<Known>, ObjectError> {
    let Some(spec) = store.spec().await? else { return Ok(None) };
    let history = Arc::new(store.history().await?);
    let settings = settings_digest(&spec);
    Ok(Some(Known { spec: Arc::new(spec), settings, history, gives_way: false, asked: None, read: now, used: now }))
}

#[cfg(test)]
mod tests;
