//! One shard, from delivery to acknowledgement. The order of the steps is the protocol: files, marker, progress,
//! acknowledgement; a death between any two of them loses nothing and repeats nothing that was committed.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use diorama_backends::fault;
use diorama_backends::objects::{ObjectError, ObjectErrorKind};
use diorama_backends::progress::{Holder, count_marker};
use diorama_backends::queue::{Delivery, QueueError, Settlement};
use diorama_backends::run_store::RunStore;
use diorama_core::generator::Job;
use diorama_core::id::{AttemptId, ShardId};
use diorama_core::key::ObjectKey;
use diorama_core::marker::CommitMarker;
use diorama_core::outcome::{ErrorCode, Outcome, TaskError, TaskOutcome};
use diorama_core::run::{RunSpec, RunState};
use diorama_core::task::Task;
use jiff::Timestamp;
use tokio::sync::{SemaphorePermit, mpsc};
use tokio_util::task::AbortOnDropHandle;

use crate::engine::EngineError;
use crate::error::WorkerError;
use crate::group::{Finished, Loaded, Submitted, TaskEnd, finish, load};
use crate::hold::Hold;
use crate::journal::Journal;
use crate::metrics::Step;
use crate::plan::{Keys, batches, groups, variants};
use crate::reference::References;
use crate::store::Sink;
use crate::worker::{IN_FLIGHT, Worker, flatten};

/// Groups whose pictures may wait to be encoded and stored while the device goes on; then the device waits.
const STORING: usize = 3;

/// How a delivery ends in good order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// Our marker is the one that counts.
    Committed,
    /// Another marker was there, before or first.
    AlreadyCommitted,
    /// We are draining; somebody else will run it.
    HandedBack,
    /// Its run is paused or cancelled; the coordinator publishes it again if it is wanted again.
    LetGo,
    /// Its input is missing or damaged; the coordinator decides.
    DeadLettered,
}

impl Ending {
    fn as_str(self) -> &'static str {
        match self {
            Self::Committed => "committed",
            Self::AlreadyCommitted => "already_committed",
            Self::HandedBack => "handed_back",
            Self::LetGo => "let_go",
            Self::DeadLettered => "dead_lettered",
        }
    }
}

/// Why a step did not lead to the next one.
enum Interrupt {
    Ended(Ending),
    Broken(WorkerError),
}

impl<E: Into<WorkerError>> From<E> for Interrupt {
    fn from(error: E) -> Self {
        match error.into() {
            WorkerError::Engine(EngineError::Stopped) => Self::Ended(Ending::HandedBack),
            error => Self::Broken(error),
        }
    }
}

/// A shard in our hands.
struct Shard<'a> {
    work: Arc<Work>,
    keys: Keys,
    journal: Journal,
    /// It runs task by task, alone on this worker, journalled.
    suspected: bool,
    started_at: Timestamp,
    /// Its share of the worker.
    _flight: SemaphorePermit<'a>,
}

/// What the parallel parts of a shard share.
pub(crate) struct Work {
    pub(crate) id: ShardId,
    pub(crate) attempt: AttemptId,
    pub(crate) spec: Arc<RunSpec>,
    pub(crate) tasks: Vec<Task>,
    /// `variants[position][variant]`: the task, then its comparisons.
    pub(crate) variants: Vec<Vec<Task>>,
    pub(crate) store: RunStore,
    pub(crate) references: References,
    pub(crate) sink: Sink,
    pub(crate) hold: Hold,
}

/// What a shard's tasks came to.
struct Outputs {
    ends: BTreeMap<usize, TaskEnd>,
    device_seconds: f64,
}

impl Worker {
    /// Runs one delivery: fetches its inputs, generates, stores the outputs, commits, acknowledges.
    ///
    /// An error means that this worker cannot go on; the shard was handed back.
    pub(crate) async fn execute_shard(self: Arc<Self>, delivery: Delivery) -> Result<(), WorkerError> {
        let attempted = match self.timed(Step::Fetch, self.fetch_inputs(&delivery)).await {
            Ok(mut shard) => {
                let attempted = match self.timed(Step::Generate, self.generate_and_store(&mut shard)).await {
                    Ok(outputs) => self.timed(Step::Commit, self.commit(&shard, outputs)).await,
                    Err(interrupt) => Err(interrupt),
                };
                self.close(shard, attempted).await
            }
            Err(interrupt) => Err(interrupt),
        };
        match attempted {
            Ok(ending) | Err(Interrupt::Ended(ending)) => self.acknowledge(delivery, ending).await,
            Err(Interrupt::Broken(error)) => {
                self.acknowledge(delivery, Ending::HandedBack).await?;
                Err(error)
            }
        }
    }

    /// Runs a step; one that leads to the next is timed.
    async fn timed<T>(&self, step: Step, future: impl Future<Output = Result<T, Interrupt>>) -> Result<T, Interrupt> {
        let started = Instant::now();
        let result = future.await;
        if result.is_ok() {
            self.measure(|metrics| metrics.step(step, started.elapsed().as_secs_f64()));
        }
        result
    }

    /// Reads the spec and the tasks, looks whether there is anything left to do, notes that an attempt begins and asks
    /// the generator which tasks fit together.
    async fn fetch_inputs(self: &Arc<Self>, delivery: &Delivery) -> Result<Shard<'_>, Interrupt> {
        let message = &delivery.message;
        let (store, id, started_at) = (self.store(&message.run), message.shard, Timestamp::now());
        let Some(spec) = dead_letter_damaged(self.spec(&message.run, &store).await)? else {
            tracing::error!(run = %message.run, shard = %id, "the run of this shard does not exist");
            return Err(Interrupt::Ended(Ending::DeadLettered));
        };
        self.may_go_on(&spec, &store).await?;
        if !dead_letter_damaged(self.is_our_model(&spec, &store).await)? {
            return Err(Interrupt::Ended(Ending::LetGo));
        }
        if let Some(marker) = dead_letter_damaged(store.marker(id).await)? {
            self.tell_progress(&spec, &marker).await;
            return Err(Interrupt::Ended(Ending::AlreadyCommitted));
        }
        let Some(tasks) = dead_letter_damaged(store.input(id).await)? else {
            tracing::error!(run = %message.run, shard = %id, "the shard has no input");
            return Err(Interrupt::Ended(Ending::DeadLettered));
        };

        let mut flight = self.share(1).await?;
        let attempt = AttemptId::generate();
        let holder = Holder { worker: self.config.worker.clone(), attempt: attempt.clone(), done: 0, failed: 0 };
        let Some(hold) = self.hold(message, holder).await else {
            // Published twice, and we have it already: whoever ends the other delivery decides.
            return Err(Interrupt::Ended(Ending::AlreadyCommitted));
        };
        let root = match spec.reference_root.as_str() {
            "" => ".".into(),
            root => root.into(),
        };
        let work = Work {
            id,
            attempt: attempt.clone(),
            variants: tasks.iter().map(|task| variants(task, &spec.compare)).collect(),
            references: References {
                root,
                store: store.clone(),
                limits: self.config.limits,
                remote: self.config.remote.clone(),
            },
            sink: Sink::open(spec.format, store.clone(), &self.config.scratch, tasks.len()),
            spec,
            tasks,
            store: store.clone(),
            hold,
        };
        let mut journal = Journal::begin(&store, id, &attempt, &self.config.worker, self.backends.exclusive).await?;
        // The journal, not the number of deliveries: a shard that was handed back in good order is not suspected.
        let suspected = journal.deaths() >= work.spec.retry.poison_after;
        if suspected {
            tracing::warn!(shard = %id, deaths = journal.deaths(), "workers died on this shard: running it task by task");
            // Two suspected ones that keep their own shares would wait for each other.
            drop(flight);
            flight = self.share(IN_FLIGHT).await?;
        }
        journal.started(&store, &self.config.worker).await?;
        fault::point("worker.after-journal");
        let keys = self.check(&work).await;
        let mut shard =
            Shard { work: Arc::new(work), keys: Vec::new(), journal, suspected, started_at, _flight: flight };
        match keys {
            Ok(keys) => {
                shard.keys = keys;
                Ok(shard)
            }
            Err(interrupt) => match self.close(shard, Err(interrupt)).await {
                Ok(ending) => Err(Interrupt::Ended(ending)),
                Err(interrupt) => Err(interrupt),
            },
        }
    }

    /// Waits for this much of the worker.
    async fn share(&self, shards: u32) -> Result<SemaphorePermit<'_>, Interrupt> {
        tokio::select! {
            biased;
            () = self.stopping.cancelled() => Err(Interrupt::Ended(Ending::HandedBack)),
            share = self.flight.acquire_many(shards) => share.map_err(|_| Interrupt::Ended(Ending::HandedBack)),
        }
    }

    /// Asks the generator about every variant of every task at once.
    async fn check(&self, work: &Work) -> Result<Keys, Interrupt> {
        let mut keys = self.engine.check(work.variants.concat()).await?.into_iter();
        let keys = work.variants.iter().map(|variants| keys.by_ref().take(variants.len()).collect()).collect();
        if self.waits_for_its_owner(work, &keys).await? { Err(Interrupt::Ended(Ending::LetGo)) } else { Ok(keys) }
    }

    /// Runs every task that may run, and stores what comes of it.
    async fn generate_and_store(self: &Arc<Self>, shard: &mut Shard<'_>) -> Result<Outputs, Interrupt> {
        let mut outputs = Outputs { ends: BTreeMap::new(), device_seconds: 0.0 };
        let poisoned = shard.journal.poisoned();
        for (position, task) in shard.work.tasks.iter().enumerate() {
            let error = match shard.keys[position].first() {
                _ if poisoned.contains(&task.index) => poison(),
                Some(Err(error)) => error.clone(),
                _ => continue,
            };
            outputs.ends.insert(position, Err(error));
        }
        shard.work.sink.store(outputs.ends.keys().map(|position| (*position, Vec::new())).collect()).await?;
        shard.work.hold.made(0, outputs.ends.len() as u64).await;
        let size = if shard.suspected { 1 } else { self.engine.info().batch_size };
        let groups = groups(&shard.keys, |position| !outputs.ends.contains_key(&position), size);
        if shard.suspected {
            self.one_by_one(shard, groups, &mut outputs).await?;
        } else {
            self.overlapped(shard, groups, &mut outputs).await?;
        }
        fault::point("worker.after-files");
        Ok(outputs)
    }

    /// The usual way: while the device runs one group, the next is being decoded and the last one stored.
    async fn overlapped(
        self: &Arc<Self>,
        shard: &Shard<'_>,
        groups: Vec<Vec<usize>>,
        outputs: &mut Outputs,
    ) -> Result<(), Interrupt> {
        let (sender, mut loaded) = mpsc::channel(1);
        let wanted = groups.len();
        let work = shard.work.clone();
        let _loader = AbortOnDropHandle::new(tokio::spawn(async move {
            for group in groups {
                if sender.send(load(&work, group).await).await.is_err() {
                    return;
                }
            }
        }));
        let turn = tokio::select! {
            biased;
            () = self.stopping.cancelled() => return Err(Interrupt::Ended(Ending::HandedBack)),
            turn = self.turn.acquire() => turn,
        };
        let mut storing = VecDeque::new();
        // Counted, so that a drain that comes when all of them are under way does not wait for another one.
        for _ in 0..wanted {
            let Some(group) = self.unless_stopping(loaded.recv()).await? else { break };
            self.may_go_on(&shard.work.spec, &shard.work.store).await?;
            let submitted = self.submit(shard, group?).await?;
            storing.push_back(AbortOnDropHandle::new(tokio::spawn(finish(shard.work.clone(), submitted))));
            while storing.len() > STORING
                && let Some(first) = storing.pop_front()
            {
                outputs.add(self.counted(flatten(first.await)?));
            }
        }
        drop(turn);
        for finished in storing {
            outputs.add(self.counted(flatten(finished.await)?));
        }
        Ok(())
    }

    fn counted(&self, finished: Finished) -> Finished {
        self.measure(|metrics| metrics.device(finished.device_seconds));
        finished
    }

    /// The careful way: nothing else runs on this worker, and the journal says which task does.
    async fn one_by_one(
        self: &Arc<Self>,
        shard: &mut Shard<'_>,
        groups: Vec<Vec<usize>>,
        outputs: &mut Outputs,
    ) -> Result<(), Interrupt> {
        let work = shard.work.clone();
        let mut order = groups.concat();
        order.sort_unstable();
        for position in order {
            self.may_go_on(&work.spec, &work.store).await?;
            shard.journal.running(&work.store, work.tasks[position].index).await?;
            let loaded = self.unless_stopping(load(&work, vec![position])).await??;
            let submitted = self.submit(shard, loaded).await?;
            outputs.add(self.counted(finish(work.clone(), submitted).await?));
        }
        shard.journal.idle(&work.store).await?;
        Ok(())
    }

    /// Waits for references, but not into a drain: a slow server must not hold it up.
    async fn unless_stopping<T>(&self, references: impl Future<Output = T>) -> Result<T, Interrupt> {
        tokio::select! {
            biased;
            references = references => Ok(references),
            () = self.stopping.cancelled() => Err(Interrupt::Ended(Ending::HandedBack)),
        }
    }

    /// Gives a group to the device: its tasks, then their comparisons. Waits while the device has enough.
    async fn submit(&self, shard: &Shard<'_>, loaded: Loaded) -> Result<Submitted, Interrupt> {
        let work = &shard.work;
        let mut submitted = Submitted {
            positions: loaded.iter().map(|(position, _)| *position).collect(),
            references: BTreeMap::new(),
            refused: Vec::new(),
            batches: Vec::new(),
        };
        for (position, reference) in loaded {
            match reference {
                Ok(reference) => drop(submitted.references.insert(position, reference)),
                Err(error) => submitted.refused.push((position, error)),
            }
        }
        let positions: Vec<usize> = submitted.references.keys().copied().collect();
        for variant in 0..=work.spec.compare.len() {
            for batch in batches(&shard.keys, &positions, variant) {
                let job = |position: &usize| Job {
                    task: work.variants[*position][variant].clone(),
                    reference: submitted.references[position].clone(),
                };
                let jobs = batch.iter().map(job).collect();
                let pending = tokio::select! {
                    biased;
                    () = self.stopping.cancelled() => return Err(Interrupt::Ended(Ending::HandedBack)),
                    pending = self.engine.submit(jobs) => pending?,
                };
                submitted.batches.push((variant, batch, pending));
            }
        }
        Ok(submitted)
    }

    /// Whether the next batch is still wanted of us.
    async fn may_go_on(&self, spec: &RunSpec, store: &RunStore) -> Result<(), Interrupt> {
        if self.stopping.is_cancelled() {
            return Err(Interrupt::Ended(Ending::HandedBack));
        }
        match self.wanted(&spec.run, store).await? {
            RunState::Running => Ok(()),
            RunState::Paused | RunState::Cancelled | RunState::Finished => Err(Interrupt::Ended(Ending::LetGo)),
        }
    }

    /// Puts the archive, then the marker, once, then tells the progress service.
    async fn commit(&self, shard: &Shard<'_>, mut outputs: Outputs) -> Result<Ending, Interrupt> {
        let work = &shard.work;
        let archive = work.sink.finish(work.id, &work.attempt).await?;
        fault::point("worker.after-archive");
        let outcome = |(position, task): (usize, &Task)| {
            let lost = || Err(TaskError::transient(ErrorCode::ModelError, "the worker lost track of this task"));
            let end = outputs.ends.remove(&position).unwrap_or_else(lost);
            TaskOutcome {
                task: task.index,
                custom_id: task.custom_id.clone(),
                seed: task.seed,
                outcome: end.unwrap_or_else(Outcome::Failed),
            }
        };
        let marker = CommitMarker {
            version: 1,
            run: work.spec.run.clone(),
            shard: work.id,
            attempt: work.attempt.clone(),
            worker: self.config.worker.clone(),
            archive,
            outcomes: work.tasks.iter().enumerate().map(outcome).collect(),
            started_at: shard.started_at,
            committed_at: Timestamp::now(),
            device_seconds: outputs.device_seconds,
        };
        let ours = marker.archive.clone();
        fault::point("worker.before-marker");
        let winner = self.backends.commit(&work.store, marker).await?;
        fault::point("worker.after-marker");
        if winner.attempt == work.attempt {
            let made = winner.outcomes.iter().filter(|outcome| matches!(outcome.outcome, Outcome::Done { .. })).count();
            self.count(|report| report.pictures += made as u64);
            self.measure(|metrics| metrics.committed(&winner));
            self.tell_progress(&work.spec, &winner).await;
            fault::point("worker.after-progress");
            return Ok(Ending::Committed);
        }
        tracing::warn!(shard = %work.id, winner = %winner.worker, "another worker committed this shard first");
        if ours.is_some() {
            work.store.delete(&ObjectKey::Archive(work.id, work.attempt.clone())).await?;
        }
        self.tell_progress(&work.spec, &winner).await;
        Ok(Ending::AlreadyCommitted)
    }

    /// The progress service may be away: it is rebuilt from the markers, so the shard is done all the same.
    async fn tell_progress(&self, spec: &RunSpec, marker: &CommitMarker) {
        let told = async {
            let last_round = self.store(&spec.run).last_round(spec, marker.shard.round).await?;
            count_marker(&*self.backends.progress, &spec.run, marker, last_round).await?;
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
        };
        if let Err(error) = told.await {
            tracing::warn!(%error, shard = %marker.shard, "the progress service does not know that the shard is done");
        }
    }

    /// Ends the attempt in the journal and with the progress service. Failures here cost nothing but a suspicion.
    async fn close(&self, shard: Shard<'_>, attempted: Result<Ending, Interrupt>) -> Result<Ending, Interrupt> {
        let Shard { work, mut journal, .. } = shard;
        let noted = match &attempted {
            // The end of the run removes it, with all others.
            Ok(Ending::Committed) => Ok(()),
            Ok(_) => journal.remove(&work.store).await,
            Err(_) => journal.handed_back(&work.store).await,
        };
        if let Err(error) = noted {
            tracing::warn!(%error, shard = %work.id, "the shard's journal could not be brought up to date");
        }
        // A commit that was counted ended it in the same step.
        if !matches!(attempted, Ok(Ending::Committed)) {
            work.hold.forget().await;
        }
        attempted
    }

    /// Ends the delivery. A queue that does not know it any more has given it to somebody else, who will find the
    /// marker.
    async fn acknowledge(&self, delivery: Delivery, ending: Ending) -> Result<(), WorkerError> {
        let settlement = match ending {
            Ending::Committed | Ending::AlreadyCommitted | Ending::LetGo => Settlement::Ack,
            Ending::HandedBack => Settlement::HandBack,
            Ending::DeadLettered => Settlement::DeadLetter,
        };
        self.count(|report| match ending {
            Ending::Committed => report.committed += 1,
            Ending::AlreadyCommitted => report.already_committed += 1,
            Ending::HandedBack => report.handed_back += 1,
            Ending::LetGo => report.let_go += 1,
            Ending::DeadLettered => report.dead_lettered += 1,
        });
        self.measure(|metrics| metrics.ended(ending.as_str()));
        match delivery.settle(settlement).await {
            Err(error @ QueueError::Stale(_)) => tracing::warn!(%error, "a late acknowledgement"),
            result => result?,
        }
        fault::point("worker.after-ack");
        Ok(())
    }
}

impl Outputs {
    fn add(&mut self, finished: Finished) {
        self.ends.extend(finished.ends);
        self.device_seconds += finished.device_seconds;
    }
}

fn poison() -> TaskError {
    let message = "the worker died every time while this task ran, alone at last; it is not tried again";
    TaskError::permanent(ErrorCode::Poison, message)
}

/// An object that is there but damaged is nothing that a worker can mend or retry.
fn dead_letter_damaged<T>(read: Result<T, ObjectError>) -> Result<T, Interrupt> {
    read.map_err(|error| match error.kind {
        ObjectErrorKind::Damaged => {
            tracing::error!(%error, "the shard cannot be run");
            Interrupt::Ended(Ending::DeadLettered)
        }
        _ => error.into(),
    })
}
