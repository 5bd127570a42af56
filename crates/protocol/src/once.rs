//! What is written once: commit markers, the entries of a run's log, and which run an idempotency key names. The first
//! writer wins, and every other one learns what he wrote.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use diorama_backends::objects::{ObjectError, ObjectErrorKind, Objects, Put};
use diorama_backends::progress::{Head, Progress};
use diorama_backends::queue::Queue;
use diorama_core::clock;
use diorama_core::id::{AttemptId, RunId, Sha256Hex};
use diorama_core::key::{ObjectKey, SharedKey};
use diorama_core::marker::CommitMarker;
use diorama_core::run::RunSpec;
use tokio::time::Instant;

use crate::decision::{Act, Decision};
use crate::fault;
use crate::history::{History, Need, Refused};
use crate::mutant::{self, Mutant};
use crate::run_store::RunStore;

/// The services, as a coordinator or a worker holds them.
#[derive(Clone)]
pub struct Backends {
    /// Hands out shards.
    pub queue: Arc<dyn Queue>,
    /// Counts, holders and heartbeats; can be rebuilt from the objects.
    pub progress: Arc<dyn Progress>,
    /// The truth.
    pub objects: Arc<dyn Objects>,
    /// How a write is made exclusive.
    pub exclusive: Exclusive,
}

/// What makes the first commit marker of a shard, or the first entry of a number, the only one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exclusive {
    /// The store's conditional put.
    ConditionalPut,
    /// A claim in the progress service, because the store ignores the condition. Weaker: a write that takes effect more
    /// than [`CLAIM`] less [`SENT_WITHIN`] after it was sent, or whose claim was lost, can overwrite what another one wrote.
    Claim,
}

/// How long a claim holds without being renewed.
pub const CLAIM: Duration = Duration::from_secs(60);

/// How long after he claimed it somebody may send an object to the store. The rest of the claim is for what is on its way.
pub const SENT_WITHIN: Duration = Duration::from_secs(30);

/// Between two looks at a claim that somebody else has.
const CLAIMED: Duration = Duration::from_secs(1);

/// Why nothing was decided.
#[derive(Debug, thiserror::Error)]
pub enum DecideError {
    /// What is decided already does not allow it.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The store, or the progress service where the store needs its help.
    #[error(transparent)]
    Objects(#[from] ObjectError),
}

fn late(history: &History, act: &Act) -> Refused {
    Refused::Late { wanted: act.name(), decisions: history.decisions() }
}

impl Backends {
    /// Commits: writes the marker unless there is one. Gives the marker that counts, ours or the other's; its attempt
    /// tells.
    pub async fn commit(&self, store: &RunStore, marker: CommitMarker) -> Result<CommitMarker, ObjectError> {
        let (run, attempt) = (marker.run.clone(), marker.attempt.clone());
        let key = ObjectKey::Commit(marker.shard);
        let claimed = match self.wait_for_turn(store, &run, &key, &attempt).await? {
            Turn::Written(winner) => return Ok(winner),
            Turn::Ours(claimed) => claimed,
        };
        match claimed.write(store.write_json_once(&key, &marker)).await? {
            Put::Created => Ok(marker),
            Put::Exists => match store.marker(marker.shard).await? {
                Some(winner) => Ok(winner),
                None => Err(ObjectError::damaged(store.path(&key), "the marker existed a moment ago and is gone")),
            },
        }
    }

    /// Writes the run's spec unless there is one. Gives the one that counts.
    pub async fn write_spec(&self, store: &RunStore, spec: RunSpec) -> Result<RunSpec, ObjectError> {
        let key = ObjectKey::Spec;
        let claimed = match self.wait_for_turn(store, &spec.run, &key, &AttemptId::generate()).await? {
            Turn::Written(first) => return Ok(first),
            Turn::Ours(claimed) => claimed,
        };
        match claimed.write(store.write_json_once(&key, &spec)).await? {
            Put::Created => Ok(spec),
            Put::Exists => match store.spec().await? {
                Some(first) => Ok(first),
                None => Err(ObjectError::damaged(store.path(&key), "the spec existed a moment ago and is gone")),
            },
        }
    }

    /// Adds `act` to the run's log, where it may be decided: whether it was so already. `history` may be out of date, and
    /// is up to date afterwards. A wish is decided on top of whatever was decided since; what follows from the log
    /// ([`Act::is_derived`]) only as the very next entry.
    ///
    /// # Errors
    /// [`Refused`] says what was decided instead.
    pub async fn decide(
        &self,
        store: &RunStore,
        run: &RunId,
        history: &mut History,
        by: &str,
        act: Act,
    ) -> Result<Need, DecideError> {
        let nonce = AttemptId::generate();
        let judged = history.decisions();
        loop {
            match history.check(&act) {
                // That there is something to try again was judged by the ending that we know, which is not the last one.
                Ok(Need::Write) if matches!(act, Act::Reopened { .. }) && history.decisions() != judged => {
                    return Err(Refused::Late { wanted: "retried", decisions: history.decisions() }.into());
                }
                Ok(Need::Write) => {}
                // What we know may be old: then what follows from it says nothing.
                settled if !store.refresh(history).await? => {
                    self.announce(run, history).await;
                    return Ok(settled?);
                }
                _ if act.is_derived() => return Err(late(history, &act).into()),
                _ => continue,
            }
            let key = ObjectKey::Decision(history.decisions());
            let decision =
                Decision { version: 1, nonce: nonce.clone(), at: clock::now(), by: by.to_owned(), act: act.clone() };
            if let Turn::Ours(claimed) = self.wait_for_turn::<Decision>(store, run, &key, &nonce).await? {
                fault::point("decide.before");
                let put = claimed.write(store.write_json_once(&key, &decision)).await?;
                fault::point("decide.after");
                if put == Put::Created {
                    history.apply(decision)?;
                    self.announce(run, history).await;
                    return Ok(Need::Write);
                }
            }
            // Ours after all, where only its answer was lost; else somebody else was first.
            let written = store.decision(history.decisions()).await?;
            let ours = written.is_some_and(|written| written.nonce == nonce);
            let ours = ours && !mutant::is_back(Mutant::LostAnswerIsRefusal);
            store.refresh(history).await?;
            if ours {
                self.announce(run, history).await;
                return Ok(Need::Write);
            }
            if act.is_derived() {
                return Err(late(history, &act).into());
            }
        }
    }

    /// Tells the progress service how far the log is, so that workers hear of it soon. They ask the store, too, only not
    /// as often.
    pub async fn announce(&self, run: &RunId, history: &History) {
        let Some(state) = history.state() else { return };
        let head = Head { decisions: history.decisions(), state, gives_way: false };
        if let Err(error) = self.progress.announce(run, &head).await {
            tracing::debug!(%run, %error, "a decision could not be announced; workers hear of it later than usual");
        }
    }

    /// Has an idempotency key name `run`, unless it names another one: the run that it names then. `number` says how often
    /// the key was used anew.
    pub async fn name_run(&self, key: &Sha256Hex, number: u32, run: RunId) -> Result<RunId, ObjectError> {
        let entry = SharedKey::Idempotency(key.clone(), number).to_string();
        let named = || async {
            match self.objects.get(&entry).await {
                Ok(bytes) => RunId::new(String::from_utf8_lossy(&bytes))
                    .map(Some)
                    .map_err(|error| ObjectError::damaged(entry.clone(), error.to_string())),
                Err(error) if error.kind == ObjectErrorKind::NotFound => Ok(None),
                Err(error) => Err(error),
            }
        };
        // It belongs to no run: the key itself is the one whose claims these are.
        let claims =
            RunId::new(key.as_str()).map_err(|error| ObjectError::damaged(entry.clone(), error.to_string()))?;
        let claimed = match self.wait_for_claim(&claims, &entry, &AttemptId::generate(), named).await? {
            Turn::Written(first) => return Ok(first),
            Turn::Ours(claimed) => claimed,
        };
        match claimed.write(self.objects.put_if_absent(&entry, Bytes::from(run.to_string()))).await? {
            Put::Created => Ok(run),
            Put::Exists => match named().await? {
                Some(first) => Ok(first),
                None => Err(ObjectError::damaged(entry, "the entry existed a moment ago and is gone")),
            },
        }
    }

    /// Where the store ignores conditions: waits for the claim on `key`, unless the object is there.
    async fn wait_for_turn<T: serde::de::DeserializeOwned>(
        &self,
        store: &RunStore,
        run: &RunId,
        key: &ObjectKey,
        attempt: &AttemptId,
    ) -> Result<Turn<T>, ObjectError> {
        self.wait_for_claim(run, &key.relative(store.root()), attempt, || store.read_json(key)).await
    }

    /// The same of the object `what`, which `read` reads, among the claims of `run`.
    async fn wait_for_claim<T, F: Future<Output = Result<Option<T>, ObjectError>>>(
        &self,
        run: &RunId,
        what: &str,
        attempt: &AttemptId,
        read: impl Fn() -> F,
    ) -> Result<Turn<T>, ObjectError> {
        if self.exclusive == Exclusive::ConditionalPut {
            return Ok(Turn::Ours(Claimed { what: what.to_owned(), until: None }));
        }
        loop {
            if let Some(written) = read().await? {
                return Ok(Turn::Written(written));
            }
            // The service counts from when it hears of it, which is later.
            let until = Instant::now() + SENT_WITHIN;
            let claimed = self.progress.claim(run, what, attempt, CLAIM).await;
            let claimed = claimed.map_err(|error| {
                ObjectError::new(ObjectErrorKind::Transient, "claiming", what.to_owned(), error.to_string())
            })?;
            if claimed != *attempt {
                tokio::time::sleep(CLAIMED).await;
                continue;
            }
            // It may have been written between the look and the claim.
            return Ok(match read().await? {
                Some(written) => Turn::Written(written),
                None => Turn::Ours(Claimed { what: what.to_owned(), until: Some(until) }),
            });
        }
    }
}

/// What a look before something is written once leads to.
enum Turn<T> {
    /// It is there.
    Written(T),
    /// It is for us to write.
    Ours(Claimed),
}

/// That it is for us to write an object.
struct Claimed {
    what: String,
    /// Until when; `None` where the store itself sees to it that it is written once.
    until: Option<Instant>,
}

impl Claimed {
    /// Writes it. When the claim's time is over it says nothing any more: whoever stood still meanwhile, or waits for the
    /// store, sends nothing then, because another one may have claimed the object and written it.
    async fn write<T>(self, write: impl Future<Output = Result<T, ObjectError>>) -> Result<T, ObjectError> {
        let Some(until) = self.until.filter(|_| !mutant::is_back(Mutant::ClaimsAreTimeless)) else {
            return write.await;
        };
        let over = || {
            let problem = "the claim on it ran out before the store answered";
            Poll::Ready(Err(ObjectError::new(ObjectErrorKind::Away, "writing once", self.what.clone(), problem)))
        };
        let mut write = pin!(write);
        let mut end = pin!(tokio::time::sleep_until(until));
        poll_fn(|context| {
            // The clock, not the timer: a process that goes on after it stood still may not have heard that one yet.
            if Instant::now() >= until {
                return over();
            }
            match write.as_mut().poll(context) {
                Poll::Pending if end.as_mut().poll(context).is_ready() => over(),
                polled => polled,
            }
        })
        .await
    }
}
