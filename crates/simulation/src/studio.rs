//! What a simulated device makes: a picture of one colour a task, the same one whoever makes it. Some tasks fail, some take
//! the whole process with them, some let it stand still; now and then the device has no memory, or is lost.

use std::sync::Arc;
use std::time::Duration;

use diorama_core::generator::{BatchKey, Generated, Generator, GeneratorError, Job};
use diorama_core::outcome::{ErrorCode, TaskError};
use diorama_core::picture::Rgb8;
use diorama_core::record::{GeneratorInfo, Record};
use diorama_core::task::Task;
use diorama_worker::device::Pace;
use futures::FutureExt;

use crate::worker::Machine;
use crate::world::World;

/// A prompt that no model can do anything with.
pub(crate) const NOTHING: &str = "nothing";

/// One that fails every other time, and may work when it is tried again.
pub(crate) const MOODY: &str = "moody";

/// One that kills whatever process runs it.
pub(crate) const DEADLY: &str = "deadly";

/// One that lets whatever process runs it stand still for longer than its heartbeats may be missed; sometimes.
pub(crate) const STUNNING: &str = "stunning";

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
            batch_size: 1 + world.roll(4) as usize,
        };
        Self { world: world.clone(), info }
    }

    fn picture(&self, task: &Task) -> Generated {
        let [red, green, blue, ..] = task.seed.get().to_le_bytes();
        Generated {
            image: Rgb8 { width: 1, height: 1, data: vec![red, green, blue] },
            overlay: None,
            reference: None,
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
        match self.world.roll(200) {
            0 | 1 => return Err(GeneratorError::Failed("it failed as a whole".to_owned())),
            2 | 3 => {
                let tried = self.info.batch_size;
                self.info.batch_size = (tried / 2).max(1);
                return Err(GeneratorError::OutOfMemory { batch: tried, message: "simulated".to_owned() });
            }
            4 => return Err(GeneratorError::DeviceLost("simulated".to_owned())),
            _ => {}
        }
        let make = |job: &Job| match self.world.roll(if job.task.prompt == MOODY { 2 } else { 10 }) {
            0 => Err(TaskError::transient(ErrorCode::ModelError, "busy")),
            _ => Ok(self.picture(&job.task)),
        };
        Ok(batch.iter().map(make).collect())
    }
}

/// How long batches take on a machine: they stand still with it, or never end.
pub(crate) fn pace(machine: &Machine) -> Pace {
    let machine = machine.clone();
    Box::new(move |batch: &[Job]| {
        let has = |prompt: &str| batch.iter().any(|job| job.task.prompt == prompt);
        let (deadly, stunning, machine) = (has(DEADLY), has(STUNNING), machine.clone());
        async move {
            let (node, world) = (&machine.node, &machine.node.world);
            tokio::time::sleep(Duration::from_millis(200 + world.roll(3000))).await;
            node.gate().await;
            if deadly {
                machine.dies();
                std::future::pending::<()>().await;
            }
            if stunning && world.is_stormy() && world.roll(2) == 0 {
                node.freeze_for(Duration::from_millis(30_000 + world.roll(60_000)));
                node.gate().await;
            }
        }
        .boxed()
    })
}
