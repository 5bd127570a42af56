//! The contract between a worker and a model: synchronous, one owner thread, whole batches.

use std::sync::Arc;

use crate::fit::{Placement, Region};
use crate::outcome::TaskError;
use crate::picture::{Gray8, Rgb8};
use crate::record::{GeneratorInfo, Record};
use crate::task::Task;

/// Tasks with equal keys may share a batch.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BatchKey(pub String);

/// A task with its decoded reference.
#[derive(Debug, Clone)]
pub struct Job {
    /// The task.
    pub task: Task,
    /// The decoded reference picture, upright; `None` only for methods without one.
    pub reference: Option<Arc<ReferencePicture>>,
}

/// A decoded reference.
#[derive(Debug, Clone)]
pub struct ReferencePicture {
    /// The pixels after EXIF rotation; of a very large picture a smaller copy.
    pub picture: Rgb8,
    /// Its own width after EXIF rotation, in pixels.
    pub width: u32,
    /// Its own height after EXIF rotation, in pixels.
    pub height: u32,
    /// The digest of the encoded bytes.
    pub sha256: crate::id::Sha256Hex,
}

impl ReferencePicture {
    /// The part of it that a placement uses, in the pixels that are there.
    pub fn used(&self, placement: &Placement) -> Rgb8 {
        let here = (self.picture.width, self.picture.height);
        self.picture.cut(placement.crop.scaled((self.width, self.height), here))
    }

    /// The reference as the picture of a placement uses it: its part, which `resize` brings to a width and a height, and
    /// its edges repeated beyond.
    ///
    /// # Errors
    /// Those of `resize`.
    pub fn as_used<E>(
        &self,
        placement: &Placement,
        resize: impl FnOnce(Rgb8, u32, u32) -> Result<Rgb8, E>,
    ) -> Result<Rgb8, E> {
        let Placement { at, width, height, .. } = *placement;
        let part = resize(self.used(placement), at.width, at.height)?;
        Ok(if at == Region::whole((width, height)) { part } else { part.extended(at, width, height) })
    }
}

/// What a generator makes of one task.
#[derive(Debug, Clone)]
pub struct Generated {
    /// The new picture.
    pub image: Rgb8,
    /// The union of the subjects' masks at the last edit step, at the picture's size: 255 where the subject is.
    pub mask: Option<Gray8>,
    /// The picture with the mask's outline and tint.
    pub overlay: Option<Rgb8>,
    /// The reference at the picture's size, as it was used; `None` for methods without one.
    pub reference: Option<Rgb8>,
    /// The score of each subject over the picture, coloured.
    pub heatmaps: Vec<Heatmap>,
    /// What replay and the gallery need.
    pub record: Record,
}

/// The score map of one subject at the last edit step.
#[derive(Debug, Clone)]
pub struct Heatmap {
    /// The subject's words.
    pub subject: String,
    /// The score, coloured, over the darkened picture.
    pub picture: Rgb8,
}

/// What a generator made of one task, with what needs no device perhaps still to do: such as drawing what explains it.
pub struct Made(Box<dyn FnOnce() -> Result<Generated, TaskError> + Send>);

impl Made {
    /// What `rest` will make of it, on whichever thread [`finish`](Self::finish) is called.
    pub fn unfinished(rest: impl FnOnce() -> Result<Generated, TaskError> + Send + 'static) -> Self {
        Self(Box::new(rest))
    }

    /// Does what is left to do.
    ///
    /// # Errors
    /// The task's own.
    pub fn finish(self) -> Result<Generated, TaskError> {
        (self.0)()
    }
}

impl From<Generated> for Made {
    fn from(generated: Generated) -> Self {
        Self(Box::new(|| Ok(generated)))
    }
}

impl std::fmt::Debug for Made {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Made(..)")
    }
}

/// A failure of the whole batch.
#[derive(Debug, Clone, thiserror::Error)]
pub enum GeneratorError {
    /// The device has no memory for a batch of this size. The generator has halved its
    /// [`batch_size`](GeneratorInfo::batch_size), unless that was 1 already: smaller batches may run.
    #[error("the device has no memory for a batch of {batch}: {message}")]
    OutOfMemory {
        /// Pictures in the batch as it was tried, padding included.
        batch: usize,
        /// The library's words.
        message: String,
    },
    /// The batch was abandoned because `stop` said so.
    #[error("stopped before the batch was done")]
    Stopped,
    /// The device is gone; no further batch will run in this process.
    #[error("the device is lost: {0}")]
    DeviceLost(String),
    /// Anything else that the library reports; the next batch may run.
    #[error("the model failed: {0}")]
    Failed(String),
}

/// Makes pictures. Owned by one thread; a batch's results come in the batch's order.
pub trait Generator: Send {
    /// Who this is.
    fn info(&self) -> &GeneratorInfo;

    /// Checks everything that can be known before any picture is read: settings against the model, subjects against
    /// the prompt. Gives the key of the batches that the task may join.
    fn check(&self, task: &Task) -> Result<BatchKey, TaskError>;

    /// Makes the pictures of `batch` (1 to [`GeneratorInfo::batch_size`] jobs with one [`BatchKey`]). `stop` is asked
    /// between denoising steps, from whichever thread denoises; when it says true the batch ends with [`GeneratorError::Stopped`].
    fn generate(
        &mut self,
        batch: &[Job],
        stop: &(dyn Fn() -> bool + Sync),
    ) -> Result<Vec<Result<Generated, TaskError>>, GeneratorError>;

    /// The same, for a device that should not wait for what others can do: a generator that draws explanations leaves that
    /// to whoever calls [`Made::finish`].
    fn make(
        &mut self,
        batch: &[Job],
        stop: &(dyn Fn() -> bool + Sync),
    ) -> Result<Vec<Result<Made, TaskError>>, GeneratorError> {
        let generated = self.generate(batch, stop)?;
        Ok(generated.into_iter().map(|result| result.map(Made::from)).collect())
    }
}
