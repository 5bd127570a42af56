//! A machine that serves a pool: the worker as it is, its device simulated, started again whenever it ends. What a process
//! that was killed left on the machine's disk is there for the next one.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use diorama_core::id::{Pool, WorkerId};
use diorama_worker::device::DeviceError;
use diorama_worker::{Device, Layout, OnOutage, Scratch, Worker, WorkerConfig, WorkerError};
use tokio_util::sync::CancellationToken;

use crate::node::Node;
use crate::studio::{Studio, pace};
use crate::world::locked;

/// A disk, which outlives the processes that use it.
pub(crate) struct Disk {
    root: tempfile::TempDir,
    /// The scratch folder of the process that lives.
    in_use: Mutex<Option<PathBuf>>,
}

impl Disk {
    fn new() -> Self {
        Self { root: tempfile::tempdir().unwrap(), in_use: Mutex::default() }
    }

    /// The process that lives is about to be killed: it will clear nothing away.
    fn outlives(&self) {
        if let Some(folder) = locked(&self.in_use).take() {
            let left = folder.with_extension("left");
            std::fs::rename(folder, left).unwrap();
        }
    }
}

/// A machine with a worker.
#[derive(Clone)]
pub(crate) struct Machine {
    pub(crate) node: Node,
    pub(crate) pool: Pool,
    /// The number of the model that it serves.
    pub(crate) model: u64,
    disk: Arc<Disk>,
    /// Of the process that lives.
    drain: Arc<Mutex<CancellationToken>>,
}

impl Machine {
    pub(crate) fn new(node: Node, pool: Pool, model: u64) -> Self {
        Self { node, pool, model, disk: Arc::new(Disk::new()), drain: Arc::default() }
    }

    /// Its worker is told to hand back what it has and to end.
    pub(crate) fn drain(&self) {
        locked(&self.drain).cancel();
    }

    /// Its worker is about to be killed; gives the machine as the next one finds it.
    pub(crate) fn killed(&self, node: Node, model: u64) -> Self {
        self.disk.outlives();
        Self { node, pool: self.pool.clone(), model, disk: self.disk.clone(), drain: Arc::default() }
    }

    /// Serves the pool until it is dropped: whatever ends a worker, another one is started.
    pub(crate) async fn serve(self) {
        loop {
            let drain = CancellationToken::new();
            *locked(&self.drain) = drain.clone();
            match self.work(&drain).await {
                Ok(()) | Err(WorkerError::Device(DeviceError::Stopped)) => {}
                Err(error) if error.is_retryable() => {}
                Err(error) => self.node.world.breaks(format!("a worker ended for good: {error}")),
            }
        }
    }

    /// The life of a process, as `diorama worker` has it.
    async fn work(&self, drain: &CancellationToken) -> Result<(), WorkerError> {
        let world = &self.node.world;
        // The model is loaded.
        tokio::time::sleep(Duration::from_millis(500 + world.roll(2000))).await;
        let (device, _plugged) = Device::simulated(Box::new(Studio::new(world, self.model)), pace(&self.node));
        let (backends, root) = (self.node.backends(), self.disk.root.path());
        // What cannot be swept now is swept by the next one.
        let _ = drain.run_until_cancelled(Scratch::sweep(root, backends.objects.clone())).await;
        let name = WorkerId::new(world.next_name("worker")).unwrap();
        let scratch = Scratch::open(root, &name).unwrap();
        *locked(&self.disk.in_use) = Some(scratch.path().to_owned());
        let config = WorkerConfig {
            on_outage: OnOutage::Wait,
            ..WorkerConfig::new(name, self.pool.clone(), Layout::Shared, scratch)
        };
        let ended = Worker::new(backends, device, config).run(drain.clone()).await;
        *locked(&self.disk.in_use) = None;
        ended.map(drop)
    }
}
