//! What explains a picture: heat maps, the mask's overlay and the record. It needs no device, so a worker draws it beside
//! the next batch.

use diorama_core::generator::{Generated, Heatmap, Job, ReferencePicture};
use diorama_core::outcome::{ErrorCode, TaskError};
use diorama_core::picture::Gray8;
use diorama_core::record::{EditRecord, GeneratorInfo, Record, ReferenceRecord, SubjectRecord};
use diorama_core::settings as core;
use diorama_diffusion::Error;
use diorama_diffusion::image_processor::Gray;
use diorama_diffusion::method::{Score, Settings};
use diorama_diffusion::pipeline::Sample;

use crate::libtorch::{placement, rgb8, task_error};
use crate::resolve::fit;

/// A picture that the model made, and who made it from what.
pub(crate) struct Unexplained {
    pub(crate) job: Job,
    pub(crate) settings: Settings,
    pub(crate) sample: Sample,
    pub(crate) info: GeneratorInfo,
}

impl Unexplained {
    /// Draws and writes down what explains it.
    pub(crate) fn draw(self) -> Result<Generated, TaskError> {
        let failed = |error: Error| task_error(&error);
        let heatmaps = self.sample.heat_maps().map_err(failed)?;
        let overlay = self.sample.overlay().map_err(failed)?;
        let record = self.record()?;
        let mask = self.sample.mask().cloned();
        Ok(Generated {
            image: rgb8(self.sample.image),
            mask: mask.map(gray8),
            overlay: overlay.map(rgb8),
            reference: self.sample.reference.map(rgb8),
            heatmaps: heatmaps
                .into_iter()
                .map(|(subject, picture)| Heatmap { subject, picture: rgb8(picture) })
                .collect(),
            record,
        })
    }

    fn record(&self) -> Result<Record, TaskError> {
        let Self { job, settings, sample, info } = self;
        let task = &job.task;
        let mut resolved = serde_json::to_value(settings)
            .map_err(|error| TaskError::permanent(ErrorCode::ModelError, format!("writing the record: {error}")))?;
        if let Some(object) = resolved.as_object_mut() {
            object
                .insert("method".to_owned(), task.settings.method.unwrap_or(core::Method::AbsGradSam).as_str().into());
            object.insert("fit".to_owned(), fit(&task.settings).to_string().into());
        }
        let source = task.reference.as_ref().map(ToString::to_string).unwrap_or_default();
        let reference = |reference: &ReferencePicture| ReferenceRecord {
            source: source.clone(),
            sha256: reference.sha256.clone(),
            width: reference.width,
            height: reference.height,
            used: Some(placement(task, settings, reference)),
        };
        Ok(Record {
            version: 1,
            custom_id: task.custom_id.clone(),
            prompt: task.prompt.clone(),
            prompt_truncated_to: sample.prompt.truncated_to.clone(),
            subjects: sample
                .prompt
                .subjects
                .iter()
                .map(|subject| SubjectRecord { text: subject.text.clone(), positions: subject.positions.clone() })
                .collect(),
            seed: task.seed,
            reference: job.reference.as_deref().map(reference),
            region: None,
            settings: resolved,
            generator: info.clone(),
            edits: sample
                .edits
                .iter()
                .map(|edit| EditRecord {
                    step: edit.step as u32,
                    timestep: edit.timestep,
                    layers: if settings.score == Score::GuidanceDifference {
                        Vec::new()
                    } else {
                        settings.layers.clone()
                    },
                    coverage: edit.coverage,
                    subject_coverage: edit.subject_coverage.clone(),
                    estimator: edit.estimator.describe(),
                })
                .collect(),
            mask_coverage: sample.mask().map(covered),
            warnings: sample.warnings.clone(),
            task: task.clone(),
        })
    }
}

/// The share of a mask's pixels that are set.
fn covered(mask: &Gray) -> f64 {
    mask.data.iter().filter(|value| **value != 0).count() as f64 / mask.data.len().max(1) as f64
}

fn gray8(picture: Gray) -> Gray8 {
    Gray8 { width: picture.width, height: picture.height, data: picture.data }
}
