//! A generator without a model: small deterministic pictures, a hash of the task, after a wait. For load tests of a
//! fleet before paying for GPUs, and for tests of everything around the model. Its records say `synthetic`.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use diorama_core::fit::Placement;
use diorama_core::generator::{BatchKey, Generated, Generator, GeneratorError, Heatmap, Job, ReferencePicture};
use diorama_core::outcome::{ErrorCode, TaskError};
use diorama_core::picture::{Gray8, Rgb8};
use diorama_core::record::{GeneratorInfo, Record, ReferenceRecord, SubjectRecord};
use diorama_core::settings::{Fit, Method};
use diorama_core::task::Task;
use sha2::{Digest, Sha256};

/// How a synthetic generator behaves.
#[derive(Debug, Clone, PartialEq)]
pub struct SyntheticOptions {
    /// How long a batch takes.
    pub latency: Duration,
    /// The share of tasks that fail, 0 to 1: chosen by the task's seed, so the same ones each time. They may be tried
    /// again, so that rounds of retries are exercised too.
    pub fail_rate: f64,
    /// Tasks a batch.
    pub batch_size: usize,
    /// Pixels of a picture's side.
    pub side: u32,
}

impl Default for SyntheticOptions {
    fn default() -> Self {
        Self { latency: Duration::ZERO, fail_rate: 0.0, batch_size: 4, side: 16 }
    }
}

/// Makes a picture out of a task's hash.
pub struct SyntheticGenerator {
    options: SyntheticOptions,
    info: GeneratorInfo,
}

impl SyntheticGenerator {
    /// A generator with these options.
    pub fn new(options: SyntheticOptions) -> Self {
        let info = GeneratorInfo {
            engine: format!("diorama {}", env!("CARGO_PKG_VERSION")),
            library: "none".to_owned(),
            model: "synthetic".to_owned(),
            model_sha256: "synthetic".to_owned(),
            device: "cpu".to_owned(),
            dtype: "f32".to_owned(),
            batch_size: options.batch_size.max(1),
        };
        Self { options, info }
    }

    fn wait(&self, stop: &(dyn Fn() -> bool + Sync)) -> Result<(), GeneratorError> {
        let end = Instant::now() + self.options.latency;
        loop {
            if stop() {
                return Err(GeneratorError::Stopped);
            }
            match end.checked_duration_since(Instant::now()) {
                Some(left) if !left.is_zero() => std::thread::sleep(left.min(Duration::from_millis(10))),
                _ => return Ok(()),
            }
        }
    }

    fn picture(&self, job: &Job) -> Result<Generated, TaskError> {
        let task = &job.task;
        let digest = digest(job);
        // The seed alone decides, so that a failing task fails with every method and in every round.
        if (task.seed.get() % 10_000) as f64 / 10_000.0 < self.options.fail_rate {
            return Err(TaskError::transient(ErrorCode::ModelError, "synthetic failure, as synthetic_fail_rate asked"));
        }
        let side = self.options.side;
        let texture = |salt: u8, length: usize| -> Vec<u8> {
            (0..length).map(|i| digest[i % 32].wrapping_mul((i / 32) as u8 | 1).wrapping_add(salt)).collect()
        };
        let pixels = (side * side) as usize;
        let rgb = |salt| Rgb8 { width: side, height: side, data: texture(salt, pixels * 3) };
        let masked = task.settings.method.unwrap_or(Method::AbsGradSam) == Method::AbsGradSam;
        let subjects = task
            .subjects
            .clone()
            .unwrap_or_else(|| task.prompt.split_whitespace().next().map(str::to_owned).into_iter().collect());
        let mask: Vec<u8> = texture(3, pixels).into_iter().map(|value| if value < 128 { 0 } else { 255 }).collect();
        let coverage = mask.iter().filter(|value| **value == 255).count() as f64 / pixels as f64;
        let reference = job.reference.as_ref().map(|reference| ReferenceRecord {
            source: task.reference.as_ref().map(ToString::to_string).unwrap_or_default(),
            sha256: reference.sha256.clone(),
            width: reference.width,
            height: reference.height,
            used: Some(placement(task, reference, side)),
        });
        let heatmaps =
            subjects.iter().zip(4u8..).map(|(subject, salt)| Heatmap { subject: subject.clone(), picture: rgb(salt) });
        Ok(Generated {
            image: rgb(1),
            overlay: masked.then(|| rgb(2)),
            reference: job
                .reference
                .as_deref()
                .filter(|_| task.settings.method != Some(Method::Txt2img))
                .map(|reference| as_used(reference, &placement(task, reference, side))),
            heatmaps: if masked { heatmaps.collect() } else { Vec::new() },
            mask: masked.then_some(Gray8 { width: side, height: side, data: mask }),
            record: Record {
                subjects: subjects
                    .iter()
                    .map(|text| SubjectRecord { text: text.clone(), positions: Vec::new() })
                    .collect(),
                reference,
                settings: serde_json::json!({ "synthetic": true }),
                mask_coverage: masked.then_some(coverage),
                warnings: vec!["synthetic picture: no model made it".to_owned()],
                ..Record::of(task, &self.info)
            },
        })
    }
}

/// Where a task's reference lies in its picture, whatever size was asked for.
fn placement(task: &Task, reference: &ReferencePicture, side: u32) -> Placement {
    let fit = task.settings.fit.unwrap_or(Fit::Crop);
    fit.place((reference.width, reference.height), (side, side))
}

/// A reference at the picture's size: of each pixel's place, the nearest one.
fn as_used(reference: &ReferencePicture, placement: &Placement) -> Rgb8 {
    let nearest = |place: u32, from: u32, to: u32| (u64::from(place) * u64::from(from) / u64::from(to)) as usize;
    let resize = |part: Rgb8, width: u32, height: u32| {
        let pixel = |x: u32, y: u32| {
            let at = nearest(y, part.height, height) * part.width as usize + nearest(x, part.width, width);
            &part.data[at * 3..at * 3 + 3]
        };
        let data = (0..height).flat_map(|y| (0..width).flat_map(move |x| pixel(x, y))).copied().collect();
        Ok::<_, Infallible>(Rgb8 { width, height, data })
    };
    let Ok(used) = reference.as_used(placement, resize);
    used
}

/// Everything that decides a task's pixels, and nothing else: not the batch, not the time.
fn digest(job: &Job) -> [u8; 32] {
    let task = &job.task;
    let reference = job.reference.as_ref().map(|reference| reference.sha256.as_str()).unwrap_or_default();
    let settings = serde_json::to_string(&task.settings).unwrap_or_default();
    Sha256::new()
        .chain_update(task.seed.get().to_le_bytes())
        .chain_update(reference)
        .chain_update([0])
        .chain_update(&task.prompt)
        .chain_update([0])
        .chain_update(settings)
        .finalize()
        .into()
}

impl Generator for SyntheticGenerator {
    fn info(&self) -> &GeneratorInfo {
        &self.info
    }

    fn check(&self, task: &Task) -> Result<BatchKey, TaskError> {
        if task.prompt.trim().is_empty() {
            return Err(TaskError::permanent(ErrorCode::NoSubject, "the prompt is empty; name a subject"));
        }
        Ok(BatchKey(format!("{:?} {:?}", task.settings.method, task.settings.size)))
    }

    fn generate(
        &mut self,
        batch: &[Job],
        stop: &(dyn Fn() -> bool + Sync),
    ) -> Result<Vec<Result<Generated, TaskError>>, GeneratorError> {
        self.wait(stop)?;
        Ok(batch.iter().map(|job| self.picture(job)).collect())
    }
}
