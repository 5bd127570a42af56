//! A coordinator against everything that workers and services may do to it, in any order: it keeps its window, and the
//! run ends with one outcome for every task. Time stands still while anybody works, so that minutes of waiting cost
//! nothing and every case repeats.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use diorama_backends::progress::{Head, Holder};
use diorama_core::id::ShardId;
use diorama_core::run::RunSummary;
use proptest::prelude::*;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::unkind::{MemoryObjects, OpenQueue};
use super::*;

/// Between two turns of the pump.
const TURN: Duration = Duration::from_millis(100);

/// After this long a shard that nobody has is published again.
const PUBLISH_AGAIN: Duration = Duration::from_secs(5);

/// How long a dead worker counts as one that holds its shard.
const HOLD: Duration = Duration::from_secs(15);

/// How long a run may take once nothing goes wrong any more; several times what it needs.
const ENOUGH: Duration = Duration::from_secs(600);

/// What happens beside the pump; numbers say to how many messages.
#[derive(Debug, Clone)]
enum Step {
    /// Workers commit shards, tell the progress service, acknowledge.
    Work(u8),
    /// Workers commit shards while the progress service is away: it is not told.
    Silent(u8),
    /// Workers take shards, and say that they hold them.
    Hold(u8),
    /// What is held goes back into the queue: its workers died.
    Return,
    /// What is held is gone: its workers died, and the broker had lost it.
    Vanish,
    Lose(u8),
    Double(u8),
    /// The queue's first messages become its last.
    Delay(u8),
    DeadLetter(u8),
    /// The progress service is emptied.
    Forget,
    /// The progress service loses some of what it knew: the shards whose index has one of these bits.
    Lapse(u8),
    Pause,
    Resume,
    /// The coordinator is stopped and another one goes on.
    Restart,
    /// One more coordinator thinks that it has the lease.
    Second,
    Away,
    Back,
    /// Tenths of a second, as many turns of the pump.
    Turns(u8),
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (1..6u8).prop_map(Step::Work),
        2 => (1..4u8).prop_map(Step::Silent),
        3 => (1..4u8).prop_map(Step::Hold),
        2 => Just(Step::Return),
        1 => Just(Step::Vanish),
        3 => (1..4u8).prop_map(Step::Lose),
        3 => (1..4u8).prop_map(Step::Double),
        2 => (1..4u8).prop_map(Step::Delay),
        1 => (1..3u8).prop_map(Step::DeadLetter),
        2 => Just(Step::Forget),
        2 => (1..=255u8).prop_map(Step::Lapse),
        2 => Just(Step::Pause),
        3 => Just(Step::Resume),
        2 => Just(Step::Restart),
        1 => Just(Step::Second),
        1 => Just(Step::Away),
        2 => Just(Step::Back),
        8 => (1..80u8).prop_map(Step::Turns),
    ]
}

/// A coordinator that drives the run through what passes by, until it is dropped.
async fn conduct(coordinator: Coordinator, spec: RunSpec) {
    while let Err(error) = coordinator.drive(&spec, &CancellationToken::new()).await {
        assert!(error.is_retryable(), "{error}");
        tokio::time::sleep(TURN).await;
    }
}

/// A run, its coordinators, and a worker that is the test.
struct Scene {
    spec: RunSpec,
    window: usize,
    bench: Bench,
    queue: OpenQueue,
    drivers: Vec<AbortOnDropHandle<()>>,
    /// What workers hold, with the end of their last heartbeat.
    holds: Vec<(Instant, ShardId, AttemptId)>,
}

impl Scene {
    async fn new(shards: u64, window: usize) -> Self {
        let mut bench = Bench::shared(Arc::new(MemoryObjects::default()));
        let queue = OpenQueue::default();
        bench.backends.queue = Arc::new(queue.clone());
        // Two tasks a shard, the last shard has one.
        let spec = spec(shards * 2 - 1, 2);
        bench.submit(&spec).await;
        let mut scene = Self { spec, window, bench, queue, drivers: Vec::new(), holds: Vec::new() };
        scene.coordinate();
        scene
    }

    fn coordinate(&mut self) {
        let (coordinator, _) = self.bench.coordinator(|config| {
            config.shares = Shares::new(self.window);
            (config.poll, config.control_poll) = (TURN, TURN);
            config.publish_again_after = PUBLISH_AGAIN;
        });
        self.drivers.push(AbortOnDropHandle::new(tokio::spawn(conduct(coordinator, self.spec.clone()))));
    }

    /// Time goes on, and every coordinator has its turn.
    async fn turn(&mut self) {
        tokio::time::sleep(TURN).await;
        let now = Instant::now();
        let (over, going): (Vec<_>, _) = std::mem::take(&mut self.holds).into_iter().partition(|hold| hold.0 <= now);
        self.holds = going;
        for (_, shard, attempt) in over {
            self.bench.backends.progress.release(&self.spec.run, shard, &attempt).await.unwrap();
        }
    }

    async fn take(&mut self, step: &Step) {
        let take = |count: u8| -> Vec<ShardId> {
            let mut messages = self.queue.messages();
            let count = usize::from(count).min(messages.ready.len());
            if messages.away { Vec::new() } else { messages.ready.drain(..count).collect() }
        };
        match step {
            Step::Work(count) => self.work(take(*count), true).await,
            Step::Silent(count) => self.work(take(*count), false).await,
            Step::Hold(count) => {
                for shard in take(*count) {
                    let worker = WorkerId::new("w").unwrap();
                    let holder = Holder { worker, attempt: AttemptId::generate(), done: 0, failed: 0 };
                    let long = Duration::from_secs(3600);
                    self.bench.backends.progress.hold(&self.spec.run, shard, &holder, long).await.unwrap();
                    self.holds.push((Instant::now() + HOLD, shard, holder.attempt));
                    self.queue.messages().held.push_back(shard);
                }
            }
            Step::Return => {
                let mut messages = self.queue.messages();
                while let Some(shard) = messages.held.pop_back() {
                    messages.ready.push_front(shard);
                }
            }
            Step::Vanish => self.queue.messages().held.clear(),
            Step::Lose(count) => drop(take(*count)),
            Step::Double(count) => {
                let mut messages = self.queue.messages();
                let twice: Vec<_> = messages.ready.iter().take(usize::from(*count)).copied().collect();
                messages.ready.extend(twice);
            }
            Step::Delay(count) => {
                let late = take(*count);
                self.queue.messages().ready.extend(late);
            }
            Step::DeadLetter(count) => {
                let dead = take(*count);
                self.queue.messages().dead.extend(dead);
            }
            Step::Forget => self.bench.backends.progress.forget(&self.spec.run).await.unwrap(),
            Step::Lapse(mask) => self.lapse(*mask).await,
            Step::Pause => self.decide(Act::Paused { reason: None }).await,
            Step::Resume => self.decide(Act::Resumed).await,
            Step::Restart => {
                self.drivers.clear();
                self.coordinate();
            }
            Step::Second if self.drivers.len() < 2 => self.coordinate(),
            Step::Second => {}
            Step::Away => self.queue.messages().away = true,
            Step::Back => self.queue.messages().away = false,
            Step::Turns(count) => {
                for _ in 0..*count {
                    self.turn().await;
                }
            }
        }
    }

    /// Decides what a user asks for; a run that has ended refuses.
    async fn decide(&self, act: Act) {
        match self.bench.decide(&self.spec, act).await {
            Ok(_) | Err(DecideError::Refused(Refused::Illegal { .. })) => {}
            Err(error) => panic!("{error}"),
        }
    }

    /// What a worker does with a delivery. Every seventh task fails in round 0 and heals in round 1.
    async fn work(&self, shards: Vec<ShardId>, told: bool) {
        let decide: Decide = Arc::new(|task, round| if task % 7 == 3 && round == 0 { failed(true) } else { done() });
        for shard in shards {
            if self.bench.store.marker(shard).await.unwrap().is_none() {
                self.bench.commit(&self.spec, shard, &decide).await;
            }
            if told {
                self.bench.count(&self.spec, shard).await;
            }
        }
    }

    async fn lapse(&self, mask: u8) {
        let progress = &self.bench.backends.progress;
        let mut kept = Vec::new();
        for round in (0..3).map(Round) {
            let committed = progress.committed(&self.spec.run, round).await.unwrap();
            let known = (0..64).filter(|index| committed.contains(*index) && index & u32::from(mask) == 0);
            kept.extend(known.map(|index| ShardId { round, index }));
        }
        progress.forget(&self.spec.run).await.unwrap();
        for shard in kept {
            self.bench.count(&self.spec, shard).await;
        }
    }

    async fn ended(&self) -> Option<RunSummary> {
        self.bench.history().await.ended().map(|ended| ended.summary.clone())
    }

    /// The shards that are out and not done, each once: never more than the window, however often the pump was wrong.
    async fn keeps_the_window(&self) -> Result<(), TestCaseError> {
        let mut out: BTreeSet<ShardId> = {
            let messages = self.queue.messages();
            messages.ready.iter().chain(&messages.held).chain(&messages.dead).copied().collect()
        };
        for shard in out.clone() {
            if self.bench.store.marker(shard).await.unwrap().is_some() {
                out.remove(&shard);
            }
        }
        prop_assert!(out.len() <= self.window, "{} shards are out, the window is {}", out.len(), self.window);
        Ok(())
    }

    /// Nothing goes wrong any more, but for what is lost already: the run ends.
    async fn ends(&mut self) -> Result<RunSummary, TestCaseError> {
        for step in [Step::Vanish, Step::Back, Step::Resume] {
            self.take(&step).await;
        }
        let begun = Instant::now();
        loop {
            if let Some(summary) = self.ended().await {
                return Ok(summary);
            }
            self.take(&Step::Work(2)).await;
            self.turn().await;
            self.keeps_the_window().await?;
            prop_assert!(begun.elapsed() < ENOUGH, "the run does not end");
        }
    }
}

async fn survives(shards: u64, window: usize, steps: &[Step]) -> Result<(), TestCaseError> {
    let mut scene = Scene::new(shards, window).await;
    for step in steps {
        if scene.ended().await.is_some() {
            break;
        }
        scene.take(step).await;
        scene.keeps_the_window().await?;
    }
    let summary = scene.ends().await?;
    // `finalise` refuses a task that is lost or doubled; dead letters alone may fail a task.
    prop_assert_eq!(summary.done + summary.failed, scene.spec.tasks);
    let dead = steps.iter().any(|step| matches!(step, Step::DeadLetter(_)));
    prop_assert!(summary.failed == 0 || dead, "{} tasks failed", summary.failed);
    let (said, history) = (scene.bench.counts(&scene.spec).await, scene.bench.history().await);
    let markers = reconcile(&scene.bench.backends, &scene.bench.store, &scene.spec, &history).await.unwrap();
    prop_assert_eq!(said, markers, "the counters agree with the markers");
    Ok(())
}

fn on_one_thread() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap()
}

#[test]
fn whatever_happens_the_window_is_kept_and_every_task_ends_with_one_outcome() {
    let mut config = ProptestConfig::with_cases(256);
    config.failure_persistence = None;
    proptest!(config, |(shards in 1..30u64, window in 1..8usize, steps in prop::collection::vec(any_step(), 0..60))| {
        on_one_thread().block_on(survives(shards, window, &steps))?;
    });
}

#[test]
fn what_the_progress_service_forgets_during_a_pause_is_added_again_and_not_published() {
    on_one_thread().block_on(async {
        let mut scene = Scene::new(20, 2).await;
        for _ in 0..8 {
            scene.take(&Step::Turns(2)).await;
            scene.take(&Step::Work(2)).await;
        }
        for step in [Step::Turns(2), Step::Pause, Step::Turns(4), Step::Forget, Step::Resume] {
            scene.take(&step).await;
        }
        scene.ends().await.unwrap();
        let again = scene.queue.messages().published.values().filter(|times| **times > 1).count();
        assert!(again <= scene.window, "{again} shards were published again, of which most were done");
    });
}

#[test]
fn a_progress_service_that_forgets_the_earlier_rounds_is_told_of_them_again() {
    on_one_thread().block_on(async {
        let mut scene = Scene::new(4, 8).await;
        for step in [Step::Turns(2), Step::Work(4), Step::Turns(2), Step::Forget, Step::Turns(2)] {
            scene.take(&step).await;
        }
        assert!(scene.queue.messages().ready.iter().all(|shard| shard.round == Round(1)), "round 1 is under way");
        let counts = scene.bench.counts(&scene.spec).await;
        assert_eq!((counts.shards, counts.done, counts.retrying), (4, 6, 1));
    });
}

#[test]
fn a_shard_that_takes_long_does_not_make_those_that_wait_behind_it_look_lost() {
    on_one_thread().block_on(async {
        let mut scene = Scene::new(20, 6).await;
        scene.take(&Step::Turns(1)).await;
        let shard = scene.queue.messages().ready.pop_front().unwrap();
        let worker = WorkerId::new("w").unwrap();
        let holder = Holder { worker, attempt: AttemptId::generate(), done: 0, failed: 0 };
        let progress = &scene.bench.backends.progress;
        progress.hold(&scene.spec.run, shard, &holder, Duration::from_secs(3600)).await.unwrap();
        for _ in 0..4 {
            scene.take(&Step::Turns(60)).await;
        }
        let messages = scene.queue.messages();
        assert_eq!(messages.published.len(), 6);
        assert!(messages.published.values().all(|times| *times == 1), "{:?}", messages.published);
    });
}

#[tokio::test]
async fn a_new_leader_takes_back_that_a_run_gives_way_where_the_one_before_had_said_so() {
    let (bench, spec) = (Bench::new(), spec(4, 1));
    bench.submit(&spec).await;
    let head = Head { decisions: bench.history().await.decisions(), state: RunState::Running, gives_way: true };
    bench.backends.progress.announce(&spec.run, &head).await.unwrap();
    let (coordinator, _) = bench.coordinator(|_| ());
    let drain = CancellationToken::new();
    let heard = async {
        while bench.backends.progress.head(&spec.run).await.unwrap().unwrap().gives_way {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        drain.cancel();
    };
    let (end, ()) = within(async { tokio::join!(coordinator.drive(&spec, &drain), heard) }).await;
    assert_eq!(end.unwrap(), RunEnd::Drained);
}
