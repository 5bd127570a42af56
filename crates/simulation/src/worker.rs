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

/// The process of a worker that lives.
#[derive(Clone)]
struct Life {
    worker: WorkerId,
    drain: CancellationToken,
    death: CancellationToken,
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
    life: Arc<Mutex<Option<Life>>>,
}

impl Machine {
    pub(crate) fn new(node: Node, pool: Pool, model: u64) -> Self {
        Self { node, pool, model, disk: Arc::new(Disk::new()), life: Arc::default() }
    }

    /// Its worker is told to hand back what it has and to end.
    pub(crate) fn drain(&self) {
        if let Some(life) = &*locked(&self.life) {
            life.drain.cancel();
        }
    }

    /// Its worker dies in the midst of what it does.
    pub(crate) fn dies(&self) {
        let Some(life) = locked(&self.life).take() else { return };
        self.disk.outlives();
        self.node.world.dies(&life.worker);
        life.death.cancel();
    }

    /// Its worker is killed; gives the machine as the next one finds it.
    pub(crate) fn killed(&self, node: Node, model: u64) -> Self {
        self.dies();
        Self { node, pool: self.pool.clone(), model, disk: self.disk.clone(), life: Arc::default() }
    }

    /// Serves the pool until it is dropped: whatever ends a worker, another one is started.
    pub(crate) async fn serve(self) {
        loop {
            let worker = WorkerId::new(self.node.world.next_name("worker")).unwrap();
            let life = Life { worker, drain: CancellationToken::new(), death: CancellationToken::new() };
            *locked(&self.life) = Some(life.clone());
            match life.death.run_until_cancelled(self.work(&life)).await {
                None | Some(Ok(()) | Err(WorkerError::Device(DeviceError::Stopped))) => {}
                Some(Err(error)) if error.is_retryable() => {}
                Some(Err(error)) => self.node.world.breaks(format!("a worker ended for good: {error}")),
            }
        }
    }

    /// The life of a process, as `diorama worker` has it.
    async fn work(&self, life: &Life) -> Result<(), WorkerError> {
        let world = &self.node.world;
        // The model is loaded.
        tokio::time::sleep(Duration::from_millis(500 + world.roll(2000))).await;
        let (device, _plugged) = Device::simulated(Box::new(Studio::new(world, self.model)), pace(self));
        let (backends, root) = (self.node.backends(), self.disk.root.path());
        // What cannot be swept now is swept by the next one.
        let _ = life.drain.run_until_cancelled(Scratch::sweep(root, backends.objects.clone())).await;
        let scratch = Scratch::open(root, &life.worker).unwrap();
        *locked(&self.disk.in_use) = Some(scratch.path().to_owned());
        let config = WorkerConfig {
            on_outage: OnOutage::Wait,
            ..WorkerConfig::new(life.worker.clone(), self.pool.clone(), Layout::Shared, scratch)
        };
        let ended = Worker::new(backends, device, config).run(life.drain.clone()).await;
        *locked(&self.disk.in_use) = None;
        ended.map(drop)
    }
}
