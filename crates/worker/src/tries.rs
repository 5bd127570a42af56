//! What is measured of a group's pictures, and which of them are made again: those that do not fulfil the run's condition,
//! together, with the next seeds, until each is accepted or was tried as often as the run allows. The best try is kept;
//! nothing of the others is stored but their scores.
//!
//! All of it happens before a task's files are stored, so a shard is written once as ever: whoever goes on with a shard
//! makes the tries of undecided tasks again, and comes to the same pictures.

use std::collections::BTreeMap;
use std::sync::Arc;

use diorama_backends::blocking;
use diorama_core::fit::Placement;
use diorama_core::generator::{Generated, Job, Made};
use diorama_core::id::Seed;
use diorama_core::measure::{Acceptance, Miss, Subject, Try};
use diorama_core::outcome::{ErrorCode, TaskError};
use diorama_core::task::Task;
use diorama_picture::Region;
use diorama_protocol::fault;

use crate::context::Context;
use crate::device::DeviceError;
use crate::ending::{Ending, Interrupt};
use crate::error::WorkerError;
use crate::group::{Later, Variants, finished};
use crate::work::Work;

/// A task's picture, measured.
pub(crate) struct Chosen {
    /// The task itself, then the methods that it is compared with, by their numbers.
    pub(crate) made: Variants,
    pub(crate) seed: Seed,
    pub(crate) measures: BTreeMap<String, f64>,
    /// Whether it is accepted, and every try; none where the run accepts everything.
    pub(crate) verdict: Option<(bool, Vec<Try>)>,
}

/// What came of a group, by position.
#[derive(Default)]
pub(crate) struct Decided {
    pub(crate) tasks: BTreeMap<usize, Result<Chosen, TaskError>>,
    pub(crate) device_seconds: f64,
    /// Why the other tasks are not decided.
    pub(crate) interrupt: Option<Interrupt>,
}

/// Measures a group's pictures where the run wants that, and makes those again that it does not accept.
pub(crate) async fn decide(
    context: &Context,
    work: &Arc<Work>,
    made: BTreeMap<usize, Variants>,
    regions: &BTreeMap<usize, Region>,
    later: Later,
) -> Result<Decided, WorkerError> {
    match &work.spec.accept {
        Some(accept) => Deciding::new(context, work, regions, later, accept).run(made).await,
        None => measured(context, work, made, regions).await,
    }
}

/// The pictures as they are, measured.
async fn measured(
    context: &Context,
    work: &Arc<Work>,
    mut made: BTreeMap<usize, Variants>,
    regions: &BTreeMap<usize, Region>,
) -> Result<Decided, WorkerError> {
    let mut decided = Decided::default();
    let mut measures = if work.spec.measures.is_empty() {
        BTreeMap::new()
    } else {
        let mains = made.iter_mut().filter_map(|(position, variants)| Some((*position, take_main(variants)?)));
        let (mains, failed) = finished_all(mains.collect()).await?;
        for (position, error) in failed {
            made.entry(position).or_default().insert(0, (0, Err(error)));
        }
        let measured = measure(context, work, mains, regions).await?;
        decided.device_seconds += measured.device_seconds;
        let back = |(position, main, measures): (usize, Generated, _)| {
            made.entry(position).or_default().insert(0, (0, Ok(main.into())));
            (position, measures)
        };
        measured.pictures.into_iter().map(back).collect()
    };
    for (position, made) in made {
        let measures = measures.remove(&position).unwrap_or_else(|| Ok(BTreeMap::new()));
        let seed = work.tasks[position].seed;
        let chosen = measures.map(|measures| Chosen { made, seed, measures, verdict: None });
        decided.tasks.insert(position, chosen);
    }
    Ok(decided)
}

/// The picture of the task itself, where it was made.
fn take_main(variants: &mut Variants) -> Option<Result<Made, TaskError>> {
    let place = variants.iter().position(|(variant, result)| *variant == 0 && result.is_ok())?;
    Some(variants.remove(place).1)
}

/// Finishes what the device left to do, off the async threads: the pictures, and the errors of those that have none.
async fn finished_all(made: Vec<(usize, Result<Made, TaskError>)>) -> Result<(Pictures, Errors), WorkerError> {
    let finish = move || {
        let (mut pictures, mut errors) = (Vec::with_capacity(made.len()), Vec::new());
        for (position, result) in made {
            match result.and_then(finished) {
                Ok(picture) => pictures.push((position, picture)),
                Err(error) => errors.push((position, error)),
            }
        }
        (pictures, errors)
    };
    Ok(blocking::run(finish).await?)
}

type Pictures = Vec<(usize, Generated)>;
type Errors = Vec<(usize, TaskError)>;

/// By name, or why a picture could not be measured.
type Measures = Result<BTreeMap<String, f64>, TaskError>;

/// Pictures with what was measured of each.
struct Measured {
    pictures: Vec<(usize, Generated, Measures)>,
    device_seconds: f64,
}

async fn measure(
    context: &Context,
    work: &Arc<Work>,
    pictures: Pictures,
    regions: &BTreeMap<usize, Region>,
) -> Result<Measured, WorkerError> {
    let regions: BTreeMap<usize, Region> =
        pictures.iter().filter_map(|(position, _)| Some((*position, regions.get(position)?.clone()))).collect();
    let of_work = work.clone();
    let prepare = move || {
        let subject =
            |(position, made): &(usize, Generated)| subject(&of_work.tasks[*position], made, regions.get(position));
        let subjects: Vec<Subject> = pictures.iter().map(subject).collect();
        (pictures, subjects)
    };
    let (pictures, subjects) = blocking::run(prepare).await?;
    let measured = context.device.measure(subjects, &work.spec.measures).await?;
    let pictures = pictures.into_iter().zip(measured.results);
    Ok(Measured {
        pictures: pictures.map(|((position, made), measures)| (position, made, measures)).collect(),
        device_seconds: measured.device_seconds,
    })
}

fn subject(task: &Task, made: &Generated, region: Option<&Region>) -> Subject {
    let used = made.record.reference.as_ref().and_then(|reference| reference.used);
    let fits = |used: &Placement| (used.width, used.height) == (made.image.width, made.image.height);
    let placed = region.zip(used.filter(fits)).map(|(region, used)| region.mask(&used));
    // The whole picture never stands in for a region that cannot be placed.
    let has_background = region.is_none() || placed.is_some();
    Subject {
        picture: made.image.clone(),
        reference: made.reference.clone().filter(|_| has_background),
        region: placed,
        prompt: Some(task.prompt.clone()),
        coverage: made.record.mask_coverage,
    }
}

/// The best try of a task so far.
struct Best {
    made: Generated,
    seed: Seed,
    measures: BTreeMap<String, f64>,
    miss: Miss,
}

/// A task that is being decided.
#[derive(Default)]
struct Tried {
    tries: Vec<Try>,
    best: Option<Best>,
    /// Why the first seed gave no picture: that is the task's failure.
    failed: Option<TaskError>,
}

impl Tried {
    fn is_decided(&self, accept: &Acceptance) -> bool {
        let accepted = self.best.as_ref().is_some_and(|best| best.miss.is_none());
        accepted || self.failed.is_some() || self.tries.len() > accept.tries as usize
    }

    fn add(&mut self, accept: &Acceptance, seed: Seed, made: Result<(Generated, BTreeMap<String, f64>), TaskError>) {
        match made {
            Err(error) if self.tries.is_empty() => self.failed = Some(error),
            Err(error) => {
                let measures = BTreeMap::new();
                self.tries.push(Try { seed, measures, accepted: false, error: Some(error.code) });
            }
            Ok((made, measures)) => {
                let miss = accept.condition.expression().miss(&measures);
                self.tries.push(Try { seed, measures: measures.clone(), accepted: miss.is_none(), error: None });
                if self.best.as_ref().is_none_or(|best| miss.order(&best.miss).is_lt()) {
                    self.best = Some(Best { made, seed, measures, miss });
                }
            }
        }
    }
}

/// A group whose tasks are being decided.
struct Deciding<'a> {
    context: &'a Context,
    work: &'a Arc<Work>,
    regions: &'a BTreeMap<usize, Region>,
    later: Later,
    accept: &'a Acceptance,
    tried: BTreeMap<usize, Tried>,
    device_seconds: f64,
}

impl<'a> Deciding<'a> {
    fn new(
        context: &'a Context,
        work: &'a Arc<Work>,
        regions: &'a BTreeMap<usize, Region>,
        later: Later,
        accept: &'a Acceptance,
    ) -> Self {
        Self { context, work, regions, later, accept, tried: BTreeMap::new(), device_seconds: 0.0 }
    }

    async fn run(mut self, first: BTreeMap<usize, Variants>) -> Result<Decided, WorkerError> {
        let all: Vec<usize> = first.keys().copied().collect();
        let mains = first.into_iter().filter_map(|(position, mut made)| Some((position, made.pop()?.1)));
        let mut interrupt = self.add(mains.collect()).await?.err();
        let mut compared = BTreeMap::new();
        if interrupt.is_none() {
            interrupt = self.try_again().await?.err();
        }
        if interrupt.is_none() {
            match self.compare().await? {
                Ok(made) => compared = made,
                Err(stopped) => interrupt = Some(stopped),
            }
        }
        // Without its comparisons a task is not done.
        let keeps_some = interrupt.is_none() || self.later.comparisons.is_empty();
        let mut tasks = BTreeMap::new();
        for position in all.into_iter().filter(|_| keeps_some) {
            let Some(tried) = self.tried.remove(&position).filter(|tried| tried.is_decided(self.accept)) else {
                continue;
            };
            tasks.insert(position, chosen(tried, compared.remove(&position).unwrap_or_default()));
        }
        Ok(Decided { tasks, device_seconds: self.device_seconds, interrupt })
    }

    /// Makes what is not accepted again, all of it with its next seed at a time.
    async fn try_again(&mut self) -> Result<Result<(), Interrupt>, WorkerError> {
        for number in 1..=self.accept.tries {
            let undecided = self.tried.iter().filter(|(_, tried)| !tried.is_decided(self.accept));
            let undecided: Vec<usize> = undecided.map(|(position, _)| *position).collect();
            if undecided.is_empty() {
                break;
            }
            let seeds: Vec<(usize, Seed)> =
                undecided.iter().map(|position| (*position, self.work.tasks[*position].seed.later(number))).collect();
            let made = match self.make(0, &seeds).await? {
                Ok(made) => made,
                Err(interrupt) => return Ok(Err(interrupt)),
            };
            if let Err(interrupt) = self.add(made).await? {
                return Ok(Err(interrupt));
            }
        }
        Ok(Ok(()))
    }

    /// The pictures of other methods, each with the seed that was kept.
    async fn compare(&mut self) -> Result<Result<BTreeMap<usize, Variants>, Interrupt>, WorkerError> {
        let mut compared: BTreeMap<usize, Variants> = BTreeMap::new();
        for (variant, positions) in self.later.comparisons.clone() {
            let kept = |position: usize| Some((position, self.tried.get(&position)?.best.as_ref()?.seed));
            let seeds: Vec<(usize, Seed)> = positions.into_iter().filter_map(kept).collect();
            match self.make(variant, &seeds).await? {
                Ok(made) => {
                    made.into_iter().for_each(|(at, result)| compared.entry(at).or_default().push((variant, result)));
                }
                Err(interrupt) => return Ok(Err(interrupt)),
            }
        }
        Ok(Ok(compared))
    }

    /// Makes pictures of one variant; the inner error is why that is not wanted now.
    async fn make(
        &mut self,
        variant: usize,
        seeds: &[(usize, Seed)],
    ) -> Result<Result<Vec<(usize, Result<Made, TaskError>)>, Interrupt>, WorkerError> {
        if seeds.is_empty() {
            return Ok(Ok(Vec::new()));
        }
        let Work { store, spec, id, .. } = &**self.work;
        if let Err(interrupt) = self.context.may_go_on(store, &spec.run, *id, true).await {
            return Ok(Err(interrupt));
        }
        let job = |(position, seed): &(usize, Seed)| Job {
            task: Task { seed: *seed, ..self.work.variants[*position][variant].clone() },
            reference: self.later.references.get(position).cloned().flatten(),
        };
        let pending = self.context.device.submit(seeds.iter().map(job).collect()).await?;
        let batch = match pending.done().await {
            Ok(batch) => batch,
            Err(DeviceError::Stopped) => return Ok(Err(Interrupt::Ended(Ending::HandedBack))),
            Err(error) => return Err(error.into()),
        };
        fault::point("worker.after-generate");
        self.device_seconds += batch.device_seconds;
        Ok(Ok(seeds.iter().map(|(position, _)| *position).zip(batch.results).collect()))
    }

    /// Measures pictures and adds each to the tries of its task.
    async fn add(&mut self, made: Vec<(usize, Result<Made, TaskError>)>) -> Result<Result<(), Interrupt>, WorkerError> {
        let (pictures, failed) = finished_all(made).await?;
        let mut results: Vec<_> = failed.into_iter().map(|(position, error)| (position, Err(error))).collect();
        let measured = match measure(self.context, self.work, pictures, self.regions).await {
            Ok(measured) => measured,
            Err(WorkerError::Device(DeviceError::Stopped)) => {
                return Ok(Err(Interrupt::Ended(Ending::HandedBack)));
            }
            Err(error) => return Err(error),
        };
        self.device_seconds += measured.device_seconds;
        let of_picture = |(position, made, measures): (usize, Generated, Result<_, _>)| {
            (position, measures.map(|measures| (made, measures)))
        };
        results.extend(measured.pictures.into_iter().map(of_picture));
        for (position, result) in results {
            let tried = self.tried.entry(position).or_default();
            let seed = self.work.tasks[position].seed.later(tried.tries.len() as u32);
            tried.add(self.accept, seed, result);
        }
        Ok(Ok(()))
    }
}

fn chosen(tried: Tried, compared: Variants) -> Result<Chosen, TaskError> {
    let Tried { tries, best, failed } = tried;
    if let Some(error) = failed {
        return Err(error);
    }
    let lost = || TaskError::transient(ErrorCode::ModelError, "the model gave no result");
    let Best { made, seed, measures, miss } = best.ok_or_else(lost)?;
    let made = std::iter::once((0, Ok(made.into()))).chain(compared).collect();
    Ok(Chosen { made, seed, measures, verdict: Some((miss.is_none(), tries)) })
}
