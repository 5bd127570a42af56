//! One shard, from delivery to acknowledgement. The order of the steps is the protocol: files, marker, progress,
//! acknowledgement; a death between any two of them loses nothing and repeats nothing that was committed.

use std::sync::Arc;

use diorama_backends::objects::ObjectErrorKind;
use diorama_backends::queue::{Delivery, QueueError};
use diorama_core::clock;
use diorama_core::id::AttemptId;
use diorama_core::key::ObjectKey;
use diorama_core::marker::CommitMarker;
use diorama_core::outcome::{ErrorCode, TaskError};
use diorama_core::run::RunSpec;
use diorama_protocol::RunStore;
use diorama_protocol::count::count_marker;
use diorama_protocol::fault;
use diorama_protocol::history::History;
use diorama_protocol::mutant::{self, Mutant};
use jiff::Timestamp;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;
use tracing::Instrument;

use crate::context::{Context, IN_FLIGHT, Layout};
use crate::ending::{Ending, Interrupt};
use crate::error::WorkerError;
use crate::fit;
use crate::generate::{Generation, group_size};
use crate::hold::Hold;
use crate::input;
use crate::journal::{Journal, Note};
use crate::made::Made;
use crate::metrics::Step;
use crate::output::Place;
use crate::plan::{Keys, groups, variants};
use crate::poison::{order, poisoned};
use crate::reference::References;
use crate::runs::Known;
use crate::sink::Sink;
use crate::work::Work;

/// Runs one delivery: reads its inputs, generates, stores the outputs, commits, acknowledges.
///
/// An error means that this worker cannot go on; the shard was handed back.
pub(crate) async fn run(context: Arc<Context>, delivery: Delivery) -> Result<(), WorkerError> {
    let worker = &context.config.worker;
    let Some(hold) = context.holding.take(delivery, worker).await else { return Ok(()) };
    let (run, shard, attempt) = (hold.run(), hold.shard(), hold.attempt());
    let span = tracing::info_span!("shard", %run, %shard, %attempt, %worker);
    let hold = Arc::new(hold);
    async {
        let attempted = attempted(&context, &hold).await;
        settle(&context, &hold, attempted).await
    }
    .instrument(span)
    .await
}

async fn attempted(context: &Arc<Context>, hold: &Arc<Hold>) -> Result<Ending, Interrupt> {
    let mut shard = timed(context, Step::Fetch, Shard::prepare(context, hold)).await?;
    let made = async {
        timed(context, Step::Generate, async {
            shard.begin().await?;
            shard.generate().await
        })
        .await?;
        timed(context, Step::Commit, shard.commit()).await
    };
    let attempted = made.await;
    shard.close(attempted).await
}

/// Runs a step; one that leads to the next is timed.
async fn timed<T>(
    context: &Context,
    step: Step,
    future: impl Future<Output = Result<T, Interrupt>>,
) -> Result<T, Interrupt> {
    let started = Instant::now();
    let result = future.await;
    if result.is_ok() {
        context.measure(|metrics| metrics.step(step, started.elapsed().as_secs_f64()));
    }
    result
}

/// Ends the delivery. A queue that does not know it any more has given it to somebody else, who will find the marker.
async fn settle(context: &Context, hold: &Hold, attempted: Result<Ending, Interrupt>) -> Result<(), WorkerError> {
    let (mut ending, broken) = match attempted {
        Ok(ending) | Err(Interrupt::Ended(ending)) => (ending, None),
        Err(Interrupt::Broken(error)) => (Ending::HandedBack, Some(error)),
    };
    // A commit that was counted ended it in the same step.
    let delivery = hold.release(ending == Ending::Committed).await;
    // Only now: who got the shard once more while we held it has left it to us, and no more is published of it on account
    // of what was decided until then.
    if ending == Ending::LetGo && context.is_wanted_again(hold.run(), hold.shard()).await {
        ending = Ending::HandedBack;
    }
    context.count(|report| match ending {
        Ending::Committed => report.committed += 1,
        Ending::AlreadyCommitted => report.already_committed += 1,
        Ending::HandedBack => report.handed_back += 1,
        Ending::LetGo | Ending::Decided => report.let_go += 1,
        Ending::HeldElsewhere => report.held_elsewhere += 1,
        Ending::DeadLettered => report.dead_lettered += 1,
    });
    context.measure(|metrics| metrics.ended(ending.as_str()));
    let settled = match delivery {
        Some(delivery) => delivery.settle(ending.settlement()).await,
        None => Ok(()),
    };
    fault::point("worker.after-ack");
    match (broken, settled) {
        (Some(error), _) => Err(error),
        (None, Err(error @ QueueError::Stale(_))) => {
            tracing::warn!(%error, "a late acknowledgement");
            Ok(())
        }
        (None, settled) => Ok(settled?),
    }
}

/// A shard in our hands, with everything read that it needs.
struct Shard {
    context: Arc<Context>,
    work: Arc<Work>,
    known: Known,
    started_at: Timestamp,
    /// Its share of the worker.
    flight: Option<OwnedSemaphorePermit>,
    journal: Journal,
    keys: Keys,
    /// It runs task by task, alone on this worker, journalled.
    suspected: bool,
    made: Made,
}

impl Shard {
    /// Looks whether there is anything left to do, notes that an attempt begins, and reads the tasks. Whatever of a run
    /// could kill a worker comes behind the note.
    async fn prepare(context: &Arc<Context>, hold: &Arc<Hold>) -> Result<Self, Interrupt> {
        let (run, id, started_at) = (hold.run(), hold.shard(), clock::now());
        let (store, worker) = (context.store(run), &context.config.worker);
        // A second delivery says that the first one's worker is gone, or gave it up.
        if hold.deliveries() == 1
            && let Some(other) = hold.other_holder(worker).await
        {
            tracing::info!(holder = %other.worker, "published twice: another worker has it");
            return Err(Interrupt::Ended(Ending::HeldElsewhere));
        }
        let known = context.may_go_on(&store, run, id, false).await?;
        hold.tell().await;
        // Before the run is bound to a worker that cannot do all of it.
        if !fit::can_measure(context, &store, &known).await? || !fit::is_our_model(context, &store, &known).await? {
            return Err(Interrupt::Ended(Ending::LetGo));
        }
        if let Some(marker) = store.marker(id).await? {
            tell_progress(context, &known.spec, &known.history, &marker).await;
            return Err(Interrupt::Ended(Ending::AlreadyCommitted));
        }
        if !fit::is_within_caps(context, &store, &known).await? {
            return Err(Interrupt::Ended(Ending::LetGo));
        }
        // Before it is noted: the shard that waits for its share is not to blame for what kills the worker meanwhile.
        let flight = context.share(1).await?;
        let (config, attempt) = (&context.config, hold.attempt());
        config.scratch.note(run, id, attempt).await;
        let mut journal = Journal::begin(&store, id, attempt, worker, context.backends.exclusive).await?;
        fault::point("worker.after-journal");
        let tasks = match input::tasks(context, &store, id, &known, &journal).await {
            Ok(tasks) => tasks,
            Err(interrupt) => {
                hand_back(&mut journal, &store, false).await;
                config.scratch.forget(attempt).await;
                return Err(interrupt);
            }
        };
        let spec = known.spec.clone();
        let place = Place::new(spec.format, store.root(), id, &name_of_files(hold.attempt()));
        let work = Work {
            id,
            attempt: hold.attempt().clone(),
            variants: tasks.iter().map(|task| variants(task, &spec.compare)).collect(),
            references: References {
                root: if spec.reference_root.is_empty() { "." } else { &spec.reference_root }.into(),
                store: store.clone(),
                limits: context.config.limits,
                remote: context.config.remote.clone(),
                metrics: context.config.metrics.clone(),
            },
            sink: Sink::open(place, store.clone(), context.config.scratch.path(), tasks.len()),
            settings: known.settings.clone(),
            model: context.device.identity(&spec.measures),
            spec,
            tasks,
            store,
            hold: hold.clone(),
        };
        Ok(Self {
            context: context.clone(),
            work: Arc::new(work),
            known,
            started_at,
            flight: Some(flight),
            journal,
            keys: Keys::new(),
            suspected: false,
            made: Made::default(),
        })
    }

    /// Takes over what earlier attempts kept, and asks the generator which tasks fit together.
    async fn begin(&mut self) -> Result<(), Interrupt> {
        let Self { context, work, journal, .. } = self;
        let store = &work.store;
        // The journal, not the number of deliveries: a shard that was handed back in good order is not suspected.
        let (unfinished, parts) = (journal.unfinished(), journal.parts());
        if unfinished >= work.spec.retry.poison_after {
            tracing::warn!(unfinished, "attempts on this shard died or stalled; running it task by task");
            self.suspected = true;
            // It was read, and nobody died of that: whoever dies while it waits for its mates does not die of it.
            journal.note(store, Note::Idle).await?;
            // Two suspected ones that keep their own shares would wait for each other.
            self.flight = None;
            self.flight = Some(context.share(IN_FLIGHT).await?);
        }
        let mut kept = Vec::new();
        for attempt in parts {
            let part = match store.part(work.id, &attempt).await {
                Ok(part) => part,
                // What it kept is made again.
                Err(error) if error.kind == ObjectErrorKind::Damaged => {
                    tracing::warn!(%error, "a part is not used");
                    None
                }
                Err(error) => return Err(error.into()),
            };
            kept.extend(part);
        }
        // Of parts that overlap, the one that saves most.
        kept.sort_by_key(|part| std::cmp::Reverse(part.outcomes.len()));
        for part in kept {
            let attempt = part.attempt.clone();
            if self.made.inherit(part, work) {
                tracing::info!(from = %attempt, "continuing from what an earlier attempt kept");
            }
        }
        let mut keys = context.device.check(work.variants.concat()).await?.into_iter();
        self.keys = work.variants.iter().map(|variants| keys.by_ref().take(variants.len()).collect()).collect();
        if fit::settings_fit(context, work, &self.known, &self.keys).await? {
            Ok(())
        } else {
            Err(Interrupt::Ended(Ending::LetGo))
        }
    }

    /// Runs every task that may run, and stores what comes of it.
    async fn generate(&mut self) -> Result<(), Interrupt> {
        let Self { context, work, journal, keys, made, .. } = self;
        // Whoever holds the lock of a folder of its own is alone with it.
        let traces = journal.traces(context.config.layout == Layout::OwnFolder);
        let poisoned = poisoned(&traces);
        for (position, task) in work.tasks.iter().enumerate() {
            match keys[position].first() {
                _ if made.has(position) => {}
                _ if poisoned.contains(&task.index) => made.refuse(position, poison()),
                Some(Err(error)) => made.refuse(position, error.clone()),
                _ => {}
            }
        }
        work.sink.store(made.positions().map(|position| (position, Vec::new())).collect()).await?;
        let (done, failed) = made.counts();
        work.hold.made(done, failed).await;
        let size = if self.suspected { 1 } else { group_size(&work.spec, context.device.info().batch_size) };
        let groups = groups(keys, |position| !made.has(position), size);
        let generation = Generation { context, work, keys, made };
        if self.suspected {
            let mut positions = groups.concat();
            order(&mut positions, &traces, |position| work.tasks[*position].index);
            generation.one_by_one(positions, journal).await?;
        } else {
            generation.overlapped(groups).await?;
        }
        fault::point("worker.after-files");
        Ok(())
    }

    /// Puts the archive, then the marker, once, then tells the progress service.
    async fn commit(&mut self) -> Result<Ending, Interrupt> {
        let Self { context, work, made, known, .. } = self;
        let archive = work.sink.finish().await?;
        fault::point("worker.after-archive");
        let marker = CommitMarker {
            version: 2,
            run: work.spec.run.clone(),
            shard: work.id,
            attempt: work.attempt.clone(),
            worker: context.config.worker.clone(),
            model: Some(work.model.clone()),
            settings: work.settings.clone(),
            archives: made.archives(archive),
            outcomes: made.outcomes(work),
            started_at: self.started_at,
            committed_at: clock::now(),
            device_seconds: made.device_seconds(),
        };
        fault::point("worker.before-marker");
        let winner = context.backends.commit(&work.store, marker).await?;
        fault::point("worker.after-marker");
        if winner.attempt == work.attempt {
            let done = winner.outcomes.iter().filter(|outcome| outcome.outcome.is_done()).count();
            context.count(|report| report.pictures += done as u64);
            context.measure(|metrics| metrics.committed(&winner));
            tell_progress(context, &work.spec, &known.history, &winner).await;
            fault::point("worker.after-progress");
            return Ok(Ending::Committed);
        }
        tracing::warn!(winner = %winner.worker, "another worker committed this shard first");
        work.sink.discard(made.own_files()).await?;
        tell_progress(context, &work.spec, &known.history, &winner).await;
        Ok(Ending::AlreadyCommitted)
    }

    /// Ends the attempt: the one place for that, however it went. Failures here cost nothing but a suspicion, or pictures
    /// that are made again.
    async fn close(mut self, attempted: Result<Ending, Interrupt>) -> Result<Ending, Interrupt> {
        if matches!(attempted, Err(Interrupt::Ended(Ending::Decided)))
            && let Err(error) = self.work.sink.discard(self.made.own_files()).await
        {
            tracing::warn!(%error, "unneeded output could not be removed; garbage collection will");
        }
        let part = match &attempted {
            // Nobody asks the journal of a shard that is decided.
            Ok(_) | Err(Interrupt::Ended(Ending::Committed | Ending::AlreadyCommitted | Ending::Decided)) => None,
            Err(Interrupt::Ended(Ending::DeadLettered | Ending::HeldElsewhere)) => Some(false),
            Err(Interrupt::Ended(Ending::HandedBack | Ending::LetGo)) => Some(self.keep_part().await),
            // What was broken off may have been stored without our knowing: none of it is kept.
            Err(Interrupt::Broken(_)) => Some(false),
        };
        let Self { context, work, journal, .. } = &mut self;
        if let Some(part) = part {
            hand_back(journal, &work.store, part).await;
        }
        context.config.scratch.forget(&work.attempt).await;
        attempted
    }

    /// Stores what this attempt has finished, for whoever goes on; whether there is a part. Given up rather than held up.
    async fn keep_part(&self) -> bool {
        if !self.made.has_own() {
            return false;
        }
        let Self { context, work, made, .. } = self;
        let keep = async {
            let archive = work.sink.finish().await?;
            if work.sink.place().archive().is_some() && archive.is_none() {
                // It could not be stored before.
                return Ok(false);
            }
            let key = ObjectKey::Part(work.id, work.attempt.clone());
            work.store.write_json(&key, &made.part(work, archive)).await?;
            Ok::<_, WorkerError>(true)
        };
        match tokio::time::timeout_at(context.keep_until(), keep).await {
            Ok(Ok(kept)) => {
                fault::point("worker.after-part");
                kept
            }
            Ok(Err(error)) => {
                tracing::warn!(%error, "finished pictures of the shard could not be stored");
                false
            }
            Err(_) => {
                tracing::warn!("finished pictures of the shard could not be stored in time");
                false
            }
        }
    }
}

/// What an attempt's files are named after.
fn name_of_files(attempt: &AttemptId) -> AttemptId {
    match mutant::is_back(Mutant::FilesShareNames) {
        true => AttemptId::new("all").unwrap_or_else(|_| attempt.clone()),
        false => attempt.clone(),
    }
}

/// The progress service may be away: it is rebuilt from the markers, so the shard is done all the same.
async fn tell_progress(context: &Context, spec: &RunSpec, history: &History, marker: &CommitMarker) {
    let last_round = history.budget(marker.shard.round, &spec.retry);
    if let Err(error) = count_marker(&*context.backends.progress, &spec.run, marker, last_round).await {
        tracing::warn!(%error, "the progress service does not know that the shard is done");
    }
}

/// Notes that the attempt ends in good order without a commit; or takes back that it began.
async fn hand_back(journal: &mut Journal, store: &RunStore, part: bool) {
    let mut noted = journal.note(store, Note::HandedBack { part }).await;
    if noted.is_err() {
        noted = journal.withdraw(store).await;
    }
    if let Err(error) = noted {
        tracing::warn!(%error, "the shard's journal could not be brought up to date");
    }
}

fn poison() -> TaskError {
    let message = "workers kept dying while this task ran alone; it is not retried";
    TaskError::permanent(ErrorCode::Poison, message)
}
