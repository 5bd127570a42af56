//! A group of a shard's tasks, on either side of the device: its references and regions are loaded before, its pictures encoded,
//! measured and stored after. Off the async threads, a group at a time.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use diorama_backends::blocking::{self, panic_message};
use diorama_core::generator::{Generated, Made, ReferencePicture};
use diorama_core::id::Seed;
use diorama_core::outcome::{ErrorCode, Outcome, TaskError};
use diorama_core::record::RegionRecord;
use diorama_core::settings::{Method, Size};
use diorama_core::task::Task;
use diorama_picture::{Outside, Region};
use diorama_protocol::fault;
use tokio_util::task::AbortOnDropHandle;
use tracing::{Instrument, Span};

use crate::context::Context;
use crate::device::Pending;
use crate::ending::Interrupt;
use crate::error::{WorkerError, flatten};
use crate::output::{OutputFile, Wanted, by_role, encode};
use crate::tries::{self, Chosen, Decided};
use crate::work::Work;

/// A task with its files stored: [`Outcome::Done`].
#[derive(Debug, Clone)]
pub(crate) struct Kept {
    /// The seed of its picture.
    pub(crate) seed: Seed,
    pub(crate) outcome: Outcome,
}

/// How a task ends.
pub(crate) type TaskEnd = Result<Kept, TaskError>;

/// What a task begins with.
#[derive(Default)]
pub(crate) struct Place {
    /// The reference, where the task or a comparison starts from one.
    pub(crate) reference: Option<Arc<ReferencePicture>>,
    /// Where the subject may be, as the task gives it.
    pub(crate) region: Option<Region>,
}

/// A group of tasks whose references are there.
pub(crate) type Loaded = Vec<(usize, Result<Place, TaskError>)>;

/// A group that the device has or will get: its batches by variant.
pub(crate) struct Submitted {
    pub(crate) positions: Vec<usize>,
    /// Where the subject may be, of the tasks that say so.
    pub(crate) regions: BTreeMap<usize, Region>,
    pub(crate) refused: Vec<(usize, TaskError)>,
    pub(crate) batches: Vec<(usize, Vec<usize>, Pending)>,
    pub(crate) later: Later,
}

/// What a group needs once its pictures are measured: only where the run accepts some of them.
#[derive(Default)]
pub(crate) struct Later {
    /// What its tasks begin with, to make them again.
    pub(crate) references: BTreeMap<usize, Option<Arc<ReferencePicture>>>,
    /// Batches of comparisons, by variant, made with the seeds that are kept.
    pub(crate) comparisons: Vec<(usize, Vec<usize>)>,
}

/// A group that is done, or what of it was decided before it was interrupted.
pub(crate) struct Finished {
    pub(crate) ends: Vec<(usize, TaskEnd)>,
    pub(crate) device_seconds: f64,
    pub(crate) interrupt: Option<Interrupt>,
}

/// Fetches the references and regions of a group, all at once.
pub(crate) async fn load(work: &Arc<Work>, positions: Vec<usize>) -> Result<Loaded, WorkerError> {
    let fetch = |position: usize| {
        let needs_it =
            |task: &Task| task.settings.method != Some(Method::Txt2img) || task.settings.size == Some(Size::Reference);
        let wanted = work.variants[position].iter().any(needs_it);
        let load = load_place(work.clone(), position);
        wanted.then(|| AbortOnDropHandle::new(tokio::spawn(load.in_current_span())))
    };
    let fetching: Vec<_> = positions.into_iter().map(|position| (position, fetch(position))).collect();
    let mut loaded = Vec::with_capacity(fetching.len());
    for (position, fetching) in fetching {
        let place = match fetching {
            Some(fetching) => flatten::<Result<_, TaskError>>(fetching.await)?,
            None => Ok(Place::default()),
        };
        loaded.push((position, place));
    }
    Ok(loaded)
}

/// The outer error is the infrastructure's, the inner one the task's.
async fn load_place(work: Arc<Work>, position: usize) -> Result<Result<Place, TaskError>, WorkerError> {
    let Task { reference: Some(reference), region, .. } = &work.tasks[position] else {
        return Ok(Ok(Place::default()));
    };
    let reference = match work.references.load(reference).await? {
        Ok(picture) => Arc::new(picture),
        Err(error) => return Ok(Err(error)),
    };
    let region = match region {
        None => None,
        Some(region) => match work.references.load_region(region, &reference).await? {
            Ok(region) => Some(region),
            Err(error) => return Ok(Err(error)),
        },
    };
    Ok(Ok(Place { reference: Some(reference), region }))
}

/// What the device made of one task: the task itself and the methods that it is compared with, by their numbers.
pub(crate) type Variants = Vec<(usize, Result<Made, TaskError>)>;

/// Waits for a group's batches, has its pictures measured and made again where the run wants that, then encodes and stores
/// what each task came to.
pub(crate) async fn finish(
    context: Arc<Context>,
    work: Arc<Work>,
    mut submitted: Submitted,
) -> Result<Finished, WorkerError> {
    let mut made: BTreeMap<usize, Variants> = BTreeMap::new();
    let mut device_seconds = 0.0;
    for (variant, positions, pending) in submitted.batches {
        let batch = pending.done().await?;
        device_seconds += batch.device_seconds;
        for (position, result) in positions.into_iter().zip(batch.results) {
            made.entry(position).or_default().push((variant, result));
        }
    }
    fault::point("worker.after-generate");
    let Decided { mut tasks, device_seconds: more_seconds, interrupt } =
        tries::decide(&context, &work, made, &submitted.regions, submitted.later).await?;
    device_seconds += more_seconds;
    tasks.extend(submitted.refused.into_iter().map(|(position, error)| (position, Err(error))));
    let mut encoding = Vec::with_capacity(submitted.positions.len());
    for position in submitted.positions {
        if let Some(chosen) = tasks.remove(&position) {
            encoding.push((position, submitted.regions.remove(&position), chosen));
        }
    }
    let (group, span) = (work.clone(), Span::current());
    let encode = move || {
        let end = |(position, region, chosen): (usize, Option<Region>, Result<Chosen, TaskError>)| {
            (position, chosen.and_then(|chosen| encode_task(&group, position, region.as_ref(), chosen)))
        };
        encoding.into_iter().map(end).collect::<Vec<_>>()
    };
    let encoded = blocking::run(move || span.in_scope(encode)).await?;
    let (mut ends, mut files) = (Vec::with_capacity(encoded.len()), Vec::with_capacity(encoded.len()));
    for (position, encoded) in encoded {
        let (end, own) = match encoded {
            Ok((kept, own)) => (Ok(kept), own),
            Err(error) => (Err(error), Vec::new()),
        };
        ends.push((position, end));
        files.push((position, own));
    }
    work.sink.store(files).await?;
    let done = ends.iter().filter(|(_, end)| end.is_ok()).count() as u64;
    work.hold.made(done, ends.len() as u64 - done).await;
    Ok(Finished { ends, device_seconds, interrupt })
}

/// Finishes what the device left to do; a panic is the task's error.
pub(crate) fn finished(made: Made) -> Result<Generated, TaskError> {
    catch_unwind(AssertUnwindSafe(|| made.finish())).unwrap_or_else(|panic| {
        let message = format!("finishing the picture ended badly: {}", panic_message(&*panic));
        Err(TaskError::permanent(ErrorCode::ModelError, message))
    })
}

/// Finishes, encodes and measures one task's files. Blocking; a panic is the task's error.
fn encode_task(
    work: &Work,
    position: usize,
    region: Option<&Region>,
    chosen: Chosen,
) -> Result<(Kept, Vec<OutputFile>), TaskError> {
    let Chosen { made, seed, measures, verdict } = chosen;
    let mut main = None;
    let mut compared = Vec::new();
    let mut warnings = Vec::new();
    for (variant, result) in made {
        let result = result.and_then(finished);
        match (variant.checked_sub(1).map(|other| work.spec.compare[other]), result) {
            (None, result) => main = Some(result),
            (Some(method), Ok(other)) => compared.push((method, other)),
            (Some(method), Err(error)) => warnings.push(format!("no comparison with {method}: {error}")),
        }
    }
    let lost = || TaskError::transient(ErrorCode::ModelError, "the model gave no result");
    let mut main = main.ok_or_else(lost)??;
    main.record.region = region_record(&work.tasks[position], region);
    warnings.splice(0..0, main.record.warnings.iter().cloned());
    warnings.extend(unmeasured(&work.spec.measures, &measures));
    let (place, id) = (work.sink.place(), &work.tasks[position].custom_id);
    let encoded = catch_unwind(AssertUnwindSafe(|| {
        let files = encode(place, id, Wanted::by(&work.spec), &main, &compared);
        files.map(|files| (files, scores(region, &main, &compared)))
    }));
    let (files, scores) = encoded.unwrap_or_else(|panic| {
        let message = format!("encoding the picture failed: {}", panic_message(&*panic));
        Err(TaskError::permanent(ErrorCode::OutputUnwritable, message))
    })?;
    let (archive, mask_coverage) = (place.archive().cloned(), main.record.mask_coverage);
    let (accepted, tries) = verdict.map_or((None, Vec::new()), |(accepted, tries)| (Some(accepted), tries));
    let by_role = by_role(&files);
    let outcome = Outcome::Done { archive, files: by_role, mask_coverage, scores, measures, accepted, tries, warnings };
    Ok((Kept { seed, outcome }, files))
}

/// Says which measures this picture cannot have.
fn unmeasured(wanted: &[String], measures: &BTreeMap<String, f64>) -> Option<String> {
    let absent: Vec<&str> = wanted.iter().map(String::as_str).filter(|name| !measures.contains_key(*name)).collect();
    (!absent.is_empty()).then(|| format!("not measured, because this picture cannot have it: {}", absent.join(", ")))
}

fn region_record(task: &Task, region: Option<&Region>) -> Option<RegionRecord> {
    let (source, region) = task.region.as_ref().zip(region)?;
    Some(RegionRecord { source: source.to_string(), sha256: region.sha256().clone(), outside: region.outside() })
}

/// How much of the place the task's picture kept, and each that it is compared with: outside the region that the task
/// gives. Without one nothing is said. The mask that a picture's own method found is not a measure of that picture.
fn scores(region: Option<&Region>, main: &Generated, compared: &[(Method, Generated)]) -> BTreeMap<String, f64> {
    let made = std::iter::once(main).chain(compared.iter().map(|(_, made)| made));
    let used = |made: &'_ Generated| made.record.reference.as_ref().and_then(|reference| reference.used);
    let mut references = made.filter_map(|made| made.reference.as_ref().zip(used(made)));
    let outside = region.zip(references.next());
    let outside = outside.and_then(|(region, (reference, used))| Outside::new(reference, region, &used));
    let Some(outside) = outside else { return BTreeMap::new() };
    let own = outside.psnr(&main.image).map(|psnr| ("outside_psnr".to_owned(), psnr));
    let other = |(method, made): &(Method, Generated)| {
        outside.psnr(&made.image).map(|psnr| (format!("outside_psnr.{method}"), psnr))
    };
    own.into_iter().chain(compared.iter().filter_map(other)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_while_a_picture_is_finished_is_that_task_s_error() {
        let error = finished(Made::unfinished(|| panic!("no such colour"))).unwrap_err();
        assert_eq!((error.code, error.retryable), (ErrorCode::ModelError, false));
        assert!(error.message.contains("no such colour"), "{}", error.message);
    }
}
