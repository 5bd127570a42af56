//! What everything in a story shares: time, chance, the weather, the objects, the queue and the progress service; and the
//! log of everything that was written.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use diorama_backends::objects::Put;
use diorama_backends::progress::embedded::{EmbeddedProgress, Part};
use diorama_core::id::{Pool, RunId, ShardId, WorkerId};
use diorama_core::key::blob_of;
use diorama_protocol::mutant::{Mutant, is_back};
use diorama_protocol::{CLAIM, Exclusive, SENT_WITHIN};
use jiff::Timestamp;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::queue::PoolQueue;

pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

thread_local! {
    static BEGAN: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// The time of day: every story begins at the same one.
fn time_of_day() -> Timestamp {
    let story = BEGAN.get().map_or(Duration::ZERO, |began| began.elapsed());
    Timestamp::from_second(1_900_000_000).unwrap() + story
}

/// How often a call goes wrong, out of a thousand.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Chaos {
    pub(crate) refused: u32,
    pub(crate) answer_lost: u32,
    pub(crate) late: u32,
    /// The progress service does not answer at all.
    pub(crate) progress_away: bool,
}

/// What a call comes to.
pub(crate) enum Fate {
    Done,
    Refused,
    AnswerLost,
    Late(Duration),
}

/// An object.
#[derive(Clone)]
pub(crate) struct Object {
    pub(crate) bytes: Bytes,
    pub(crate) modified: Timestamp,
}

/// Something that was written, or removed.
pub(crate) struct Write {
    pub(crate) at: Duration,
    pub(crate) key: String,
    pub(crate) bytes: Option<Bytes>,
}

#[derive(Default)]
pub(crate) struct Store {
    objects: BTreeMap<String, Object>,
    /// What the checker has not seen yet.
    writes: Vec<Write>,
}

impl Store {
    pub(crate) fn objects(&self) -> &BTreeMap<String, Object> {
        &self.objects
    }

    pub(crate) fn put(&mut self, world: &World, key: String, bytes: Bytes) {
        world.note(&(&key, &bytes));
        self.writes.push(Write { at: world.now(), key: key.clone(), bytes: Some(bytes.clone()) });
        self.objects.insert(key, Object { bytes, modified: time_of_day() });
    }

    /// Writes what is not there yet; over it all the same where the store ignores the condition.
    pub(crate) fn put_if_absent(&mut self, world: &World, key: String, bytes: Bytes) -> Put {
        if world.exclusive == Exclusive::ConditionalPut && self.objects.contains_key(&key) {
            return Put::Exists;
        }
        self.put(world, key, bytes);
        Put::Created
    }

    pub(crate) fn delete(&mut self, world: &World, key: String) {
        if self.objects.remove(&key).is_some() {
            world.note(&key);
            self.writes.push(Write { at: world.now(), key, bytes: None });
        }
    }
}

pub(crate) struct World {
    began: Instant,
    /// Whether the story is told to whoever listens.
    aloud: bool,
    /// What makes a write the only one: of some stories' stores only a claim in the progress service does.
    pub(crate) exclusive: Exclusive,
    rng: Mutex<fastrand::Rng>,
    story: Mutex<DefaultHasher>,
    chaos: Mutex<Chaos>,
    store: Mutex<Store>,
    pub(crate) queue: Mutex<BTreeMap<Pool, PoolQueue>>,
    pub(crate) queued: Notify,
    progress: Mutex<EmbeddedProgress>,
    /// When somebody was at a shard last.
    touched: Mutex<BTreeMap<RunId, BTreeMap<ShardId, Duration>>>,
    runs: Mutex<BTreeSet<RunId>>,
    /// How many processes had a name so far, and a number.
    names: AtomicU64,
    nodes: AtomicU64,
    /// When each worker's process died.
    died: Mutex<BTreeMap<WorkerId, Duration>>,
    /// Whether processes may stand still.
    stormy: AtomicBool,
    broken: Mutex<Option<String>>,
}

impl World {
    /// The world of the story with this seed; whatever this thread does follows from it.
    pub(crate) fn new(seed: u64) -> Arc<Self> {
        let began = Instant::now();
        BEGAN.set(Some(began));
        diorama_core::clock::simulated::begin(time_of_day);
        diorama_core::id::seeded::begin(seed);
        fastrand::seed(seed);
        let mut rng = fastrand::Rng::with_seed(seed);
        let ignores_conditions = rng.u64(0..5) == 0 || is_back(Mutant::ClaimsAreTimeless);
        Arc::new(Self {
            began,
            aloud: std::env::var_os("ALOUD").is_some(),
            exclusive: if ignores_conditions { Exclusive::Claim } else { Exclusive::ConditionalPut },
            rng: Mutex::new(rng),
            story: Mutex::default(),
            chaos: Mutex::default(),
            store: Mutex::default(),
            queue: Mutex::default(),
            queued: Notify::new(),
            progress: Mutex::default(),
            touched: Mutex::default(),
            runs: Mutex::default(),
            names: AtomicU64::new(0),
            nodes: AtomicU64::new(0),
            died: Mutex::default(),
            stormy: AtomicBool::new(true),
            broken: Mutex::default(),
        })
    }

    /// How long the story has gone on.
    pub(crate) fn now(&self) -> Duration {
        self.began.elapsed()
    }

    pub(crate) fn roll(&self, below: u64) -> u64 {
        locked(&self.rng).u64(0..below.max(1))
    }

    /// Something happened that belongs to the story.
    pub(crate) fn note(&self, what: &(impl Hash + std::fmt::Debug)) {
        if self.aloud {
            println!("{:>12.3?} {what:?}", self.now());
        }
        let mut story = locked(&self.story);
        self.now().hash(&mut *story);
        what.hash(&mut *story);
    }

    /// Two stories with the same digest are the same.
    pub(crate) fn digest(&self) -> u64 {
        locked(&self.story).finish()
    }

    pub(crate) fn chaos(&self) -> Chaos {
        *locked(&self.chaos)
    }

    pub(crate) fn set_chaos(&self, chaos: Chaos) {
        *locked(&self.chaos) = chaos;
    }

    pub(crate) fn fate(&self) -> Fate {
        let chaos = self.chaos();
        let dice = self.roll(1000) as u32;
        if dice < chaos.refused {
            Fate::Refused
        } else if dice < chaos.refused + chaos.answer_lost {
            Fate::AnswerLost
        } else if dice < chaos.refused + chaos.answer_lost + chaos.late {
            Fate::Late(self.on_its_way())
        } else {
            Fate::Done
        }
    }

    /// How long after it failed a call takes effect. No claim fences what is on its way for longer than it leaves for that;
    /// that is the store's weakness, and not told here.
    fn on_its_way(&self) -> Duration {
        let longest = match self.exclusive {
            Exclusive::ConditionalPut => Duration::from_secs(60),
            Exclusive::Claim => CLAIM - SENT_WITHIN,
        };
        Duration::from_millis(self.roll(longest.as_millis() as u64))
    }

    /// Until when what somebody claimed who died keeps everybody else waiting.
    pub(crate) fn claims_last(&self) -> Duration {
        match self.exclusive {
            Exclusive::ConditionalPut => Duration::ZERO,
            Exclusive::Claim => CLAIM,
        }
    }

    /// The way of a call.
    pub(crate) async fn lag(&self) {
        let millis = match self.roll(20) {
            0 => self.roll(2000),
            _ => self.roll(20),
        };
        tokio::time::sleep(Duration::from_millis(millis)).await;
    }

    pub(crate) fn store(&self) -> MutexGuard<'_, Store> {
        locked(&self.store)
    }

    /// What was written since the last time.
    pub(crate) fn writes(&self) -> Vec<Write> {
        std::mem::take(&mut self.store().writes)
    }

    pub(crate) fn progress(&self) -> EmbeddedProgress {
        locked(&self.progress).clone()
    }

    /// The progress service forgets everything.
    pub(crate) fn empty_progress(&self) {
        *locked(&self.progress) = EmbeddedProgress::default();
    }

    /// It forgets one part, or two, of some run.
    pub(crate) fn lose_parts(&self) {
        let runs: Vec<RunId> = locked(&self.runs).iter().cloned().collect();
        let Some(run) = runs.get(self.roll(runs.len() as u64) as usize) else { return };
        for _ in 0..1 + self.roll(2) {
            let part = Part::ALL[self.roll(Part::ALL.len() as u64) as usize];
            if part == Part::Claims && self.exclusive == Exclusive::Claim {
                continue;
            }
            let torn = part == Part::State && is_back(Mutant::CountsOutliveBits);
            self.progress().lose(run, if torn { Part::Bits } else { part });
        }
    }

    /// A name that no process had before.
    pub(crate) fn next_name(&self, kind: &str) -> String {
        format!("{kind}-{}", self.names.fetch_add(1, Ordering::Relaxed) + 1)
    }

    pub(crate) fn next_node(&self) -> u64 {
        self.nodes.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// A worker's process dies.
    pub(crate) fn dies(&self, worker: &WorkerId) {
        self.note(&("died", worker));
        locked(&self.died).insert(worker.clone(), self.now());
    }

    /// Whether the worker's process was dead then.
    pub(crate) fn was_dead(&self, worker: &WorkerId, then: Duration) -> bool {
        locked(&self.died).get(worker).is_some_and(|at| *at <= then)
    }

    pub(crate) fn is_stormy(&self) -> bool {
        self.stormy.load(Ordering::Relaxed)
    }

    /// From now on no process stands still.
    pub(crate) fn calm_begins(&self) {
        self.stormy.store(false, Ordering::Relaxed);
    }

    /// The store loses a reference.
    pub(crate) fn lose_blob(&self) {
        let mut store = self.store();
        let blobs: Vec<String> = store.objects.keys().filter(|key| blob_of(key).is_some()).cloned().collect();
        if let Some(blob) = blobs.get(self.roll(blobs.len() as u64) as usize) {
            store.objects.remove(blob);
        }
    }

    /// A process did what none may.
    pub(crate) fn breaks(&self, what: String) {
        locked(&self.broken).get_or_insert(what);
    }

    /// What no process may do, and one did.
    pub(crate) fn broken(&self) -> Option<String> {
        locked(&self.broken).clone()
    }

    /// Somebody is at the shard.
    pub(crate) fn touch(&self, run: &RunId, shard: ShardId) {
        locked(&self.touched).entry(run.clone()).or_default().insert(shard, self.now());
        locked(&self.runs).insert(run.clone());
    }

    /// When somebody was at each shard of the run last.
    pub(crate) fn touched(&self, run: &RunId) -> BTreeMap<ShardId, Duration> {
        locked(&self.touched).get(run).cloned().unwrap_or_default()
    }
}
