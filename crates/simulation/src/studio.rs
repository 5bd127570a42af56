//! What a simulated device makes: a picture of one colour a task, the same one whoever makes it. Some tasks fail, some take
//! the whole process with them.

use std::sync::Arc;
use std::time::Duration;

use diorama_core::generator::{BatchKey, Generated, Generator, GeneratorError, Job};
use diorama_core::outcome::{ErrorCode, TaskError};
use diorama_core::picture::Rgb8;
use diorama_core::record::{GeneratorInfo, Record};
use diorama_core::task::Task;
use diorama_worker::device::Pace;
use futures::FutureExt;

use crate::node::Node;
use crate::world::World;

/// A prompt that no model can do anything with.
pub(crate) const NOTHING: &str = "nothing";

/// Makes pictures without a model.
pub(crate) struct Studio {
    world: Arc<World>,
    info: GeneratorInfo,
}

impl Studio {
    /// Serves the model of this number, in small batches or one by one, so that a shard can be left in the middle.
    pub(crate) fn new(world: &Arc<World>, model: u64) -> Self {
        let info = GeneratorInfo {
            engine: "a simulation".to_owned(),
            library: "none".to_owned(),
            model: format!("model-{model}"),
            model_sha256: format!("model-{model}"),
            device: "cpu".to_owned(),
            dtype: "f32".to_owned(),
            batch_size: 1 + world.roll(2) as usize,
        };
        Self { world: world.clone(), info }
    }

    fn picture(&self, task: &Task) -> Generated {
        let [red, green, blue, ..] = task.seed.get().to_le_bytes();
        Generated {
            image: Rgb8 { width: 1, height: 1, data: vec![red, green, blue] },
            overlay: None,
            heatmaps: Vec::new(),
            mask: None,
            record: Record::of(task, &self.info),
        }
    }
}

impl Generator for Studio {
    fn info(&self) -> &GeneratorInfo {
        &self.info
    }

    fn check(&self, task: &Task) -> Result<BatchKey, TaskError> {
        if task.prompt == NOTHING {
            return Err(TaskError::permanent(ErrorCode::NoSubject, "no noun"));
        }
        Ok(BatchKey(String::new()))
    }

    fn generate(
        &mut self,
        batch: &[Job],
        stop: &(dyn Fn() -> bool + Sync),
    ) -> Result<Vec<Result<Generated, TaskError>>, GeneratorError> {
        if stop() {
            return Err(GeneratorError::Stopped);
        }
        if self.world.roll(100) == 0 {
            return Err(GeneratorError::Failed("it failed as a whole".to_owned()));
        }
        let make = |job: &Job| match self.world.roll(10) {
            0 => Err(TaskError::transient(ErrorCode::ModelError, "busy")),
            _ => Ok(self.picture(&job.task)),
        };
        Ok(batch.iter().map(make).collect())
    }
}

/// How long batches take on a machine: they stand still with it.
pub(crate) fn pace(node: &Node) -> Pace {
    let node = node.clone();
    Box::new(move |_| {
        let node = node.clone();
        async move {
            tokio::time::sleep(Duration::from_millis(200 + node.world.roll(3000))).await;
            node.gate().await;
        }
        .boxed()
    })
}
