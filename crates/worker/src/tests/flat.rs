//! A generator without a model: each picture has one colour, that of its task's seed.

use diorama_core::generator::{BatchKey, Generated, Generator, GeneratorError, Job};
use diorama_core::outcome::TaskError;
use diorama_core::picture::{Gray8, Rgb8};
use diorama_core::record::{GeneratorInfo, Record, ReferenceRecord};
use diorama_core::settings::Method;
use diorama_core::task::Task;

const SIDE: u32 = 16;

pub(crate) struct FlatGenerator {
    info: GeneratorInfo,
}

impl FlatGenerator {
    pub(crate) fn new(batch_size: usize) -> Self {
        let info = GeneratorInfo {
            engine: "a test".to_owned(),
            library: "none".to_owned(),
            model: "flat".to_owned(),
            model_sha256: "flat".to_owned(),
            device: "cpu".to_owned(),
            dtype: "f32".to_owned(),
            batch_size,
        };
        Self { info }
    }

    fn picture(&self, job: &Job) -> Generated {
        let task = &job.task;
        let [red, green, blue, ..] = task.seed.get().to_le_bytes();
        let pixels = (SIDE * SIDE) as usize;
        let rgb = || Rgb8 { width: SIDE, height: SIDE, data: [red, green, blue].repeat(pixels) };
        let masked = task.settings.method.unwrap_or(Method::AbsGradSam) == Method::AbsGradSam;
        // The upper half.
        let mask = (0..pixels).map(|at| if at < pixels / 2 { 255 } else { 0 }).collect();
        let reference = job.reference.as_ref().map(|reference| ReferenceRecord {
            source: task.reference.as_ref().map(ToString::to_string).unwrap_or_default(),
            sha256: reference.sha256.clone(),
            width: reference.width,
            height: reference.height,
            used: None,
        });
        Generated {
            image: rgb(),
            overlay: masked.then(rgb),
            reference: job.reference.as_ref().map(|_| rgb()),
            heatmaps: Vec::new(),
            mask: masked.then_some(Gray8 { width: SIDE, height: SIDE, data: mask }),
            record: Record { reference, mask_coverage: masked.then_some(0.5), ..Record::of(task, &self.info) },
        }
    }
}

impl Generator for FlatGenerator {
    fn info(&self) -> &GeneratorInfo {
        &self.info
    }

    fn check(&self, task: &Task) -> Result<BatchKey, TaskError> {
        Ok(BatchKey(format!("{:?} {:?}", task.settings.method, task.settings.size)))
    }

    fn generate(
        &mut self,
        batch: &[Job],
        stop: &(dyn Fn() -> bool + Sync),
    ) -> Result<Vec<Result<Generated, TaskError>>, GeneratorError> {
        if stop() {
            return Err(GeneratorError::Stopped);
        }
        Ok(batch.iter().map(|job| Ok(self.picture(job))).collect())
    }
}
