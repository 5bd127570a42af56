//! The device: whoever owns the generator, behind a channel of depth 1, so that the next batch lies ready when the device
//! is; and of what measures pictures there. An OS thread for a real one; a task for a simulation, in whose time a batch takes as long as it is told.
//!
//! A panic of the generator ends its batch, a batch too large for the device is made in the smaller ones that are left,
//! a batch that failed as a whole is run again one by one so that one task cannot fail its mates. Never does I/O.

mod owner;
#[cfg(feature = "testing")]
mod simulated;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;

use diorama_backends::blocking::panic_message;
use diorama_core::causes;
use diorama_core::generator::{BatchKey, Generator, Job, Made};
use diorama_core::measure::{Measurer, Subject, needed_networks};
use diorama_core::outcome::TaskError;
use diorama_core::record::GeneratorInfo;
use diorama_core::run::ModelIdentity;
use diorama_core::task::Task;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::Span;

use self::owner::Owner;
#[cfg(feature = "testing")]
pub use self::simulated::Pace;

/// Any error of the code that makes a generator.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What works on the device.
pub struct Engine {
    /// Makes the pictures.
    pub generator: Box<dyn Generator>,
    /// Measures them; without it, runs that want measures are refused.
    pub measurer: Option<Box<dyn Measurer>>,
}

/// Makes them, on the device's thread.
pub type MakeEngine = Box<dyn FnOnce() -> Result<Engine, BoxError> + Send>;

/// Why the device gave nothing.
#[derive(Debug, Clone, thiserror::Error)]
pub enum DeviceError {
    /// The generator could not be made.
    #[error("{0}")]
    Start(String),
    /// The batch was abandoned, because [`Device::stop_now`] said so.
    #[error("stopped before the batch was done")]
    Stopped,
    /// Nothing more will run in this process.
    #[error("the device is lost: {0}; start the worker again, and run `diorama doctor` if that does not help")]
    Lost(String),
}

/// What a measurer can do, and with what.
#[derive(Debug, Default)]
struct MeasurerInfo {
    measures: Vec<&'static str>,
    /// With the digests of their weights.
    networks: BTreeMap<String, String>,
}

/// A batch that the device has done.
#[derive(Debug)]
pub struct Batch {
    /// One result a job, in the batch's order; what is left to do of each is for another thread.
    pub results: Vec<Result<Made, TaskError>>,
    /// Seconds that the model ran.
    pub device_seconds: f64,
}

/// What the device measured.
#[derive(Debug)]
pub struct Measured {
    /// One result a picture, in their order: the measures by name.
    pub results: Vec<Result<BTreeMap<String, f64>, TaskError>>,
    /// Seconds that it took.
    pub device_seconds: f64,
}

/// A batch that the device will do.
pub struct Pending(oneshot::Receiver<Result<Batch, DeviceError>>);

impl Pending {
    /// Waits for the device.
    pub async fn done(self) -> Result<Batch, DeviceError> {
        self.0.await.unwrap_or_else(|_| Err(DeviceError::Lost("its thread ended".to_owned())))
    }
}

enum Request {
    Check(Vec<Task>, oneshot::Sender<Vec<Result<BatchKey, TaskError>>>),
    /// The span of the batch goes along, so that what the owner logs names the shard.
    Generate(Vec<Job>, Span, oneshot::Sender<Result<Batch, DeviceError>>),
    /// The names of what is wanted go along.
    Measure(Vec<Subject>, Vec<String>, Span, oneshot::Sender<Result<Measured, DeviceError>>),
}

/// The handle of the device. Clones share it; its thread ends with the last one.
#[derive(Clone)]
pub struct Device {
    requests: mpsc::Sender<Request>,
    info: Arc<GeneratorInfo>,
    measurer: Arc<MeasurerInfo>,
    stop: CancellationToken,
}

impl Device {
    /// Starts the thread, makes generator and measurer on it and waits until they are there.
    pub async fn start(make: MakeEngine) -> Result<(Self, DeviceThread), DeviceError> {
        let (requests, mut incoming) = mpsc::channel(1);
        let (ready, started) = oneshot::channel();
        let stop = CancellationToken::new();
        let stop_thread = stop.clone();
        let thread = std::thread::Builder::new()
            .name("device".to_owned())
            .spawn(move || {
                let engine = match catch_unwind(AssertUnwindSafe(make)) {
                    Ok(Ok(engine)) => engine,
                    Ok(Err(error)) => return drop(ready.send(Err(DeviceError::Start(causes::in_one_line(&*error))))),
                    Err(panic) => return drop(ready.send(Err(DeviceError::Start(panic_message(&*panic))))),
                };
                let mut owner = Owner { engine, stop: stop_thread };
                if ready.send(Ok((owner.engine.generator.info().clone(), owner.measurer_info()))).is_err() {
                    return;
                }
                while let Some(request) = incoming.blocking_recv() {
                    owner.answer(request);
                }
            })
            .map_err(|error| DeviceError::Start(format!("the device's thread cannot be started: {error}")))?;
        let (info, measurer) = started
            .await
            .unwrap_or_else(|_| Err(DeviceError::Start("the device's thread ended immediately".to_owned())))?;
        Ok((Self { requests, info: Arc::new(info), measurer: Arc::new(measurer), stop }, DeviceThread(Some(thread))))
    }

    /// Who the generator is.
    pub fn info(&self) -> &GeneratorInfo {
        &self.info
    }

    /// What decides the pictures that are made here, and what measures of these names say of them.
    pub fn identity(&self, measures: &[String]) -> ModelIdentity {
        let networks = needed_networks(measures, &self.measurer.networks);
        ModelIdentity { networks, ..ModelIdentity::from(self.info()) }
    }

    /// Those of `wanted` that cannot be taken here.
    pub fn unmeasurable<'a>(&self, wanted: &'a [String]) -> Vec<&'a str> {
        let wanted = wanted.iter().map(String::as_str);
        wanted.filter(|name| !self.measurer.measures.contains(name)).collect()
    }

    /// Measures pictures between two batches.
    pub async fn measure(&self, subjects: Vec<Subject>, wanted: &[String]) -> Result<Measured, DeviceError> {
        let (reply, answer) = oneshot::channel();
        let lost = || DeviceError::Lost("its thread ended".to_owned());
        let request = Request::Measure(subjects, wanted.to_vec(), Span::current(), reply);
        self.requests.send(request).await.map_err(|_| lost())?;
        answer.await.map_err(|_| lost())?
    }

    /// Checks tasks; the device answers between two batches.
    pub async fn check(&self, tasks: Vec<Task>) -> Result<Vec<Result<BatchKey, TaskError>>, DeviceError> {
        let (reply, answer) = oneshot::channel();
        let lost = || DeviceError::Lost("its thread ended".to_owned());
        self.requests.send(Request::Check(tasks, reply)).await.map_err(|_| lost())?;
        answer.await.map_err(|_| lost())
    }

    /// Waits until the next batch would lie right behind the one on the device.
    pub async fn room(&self) -> Result<(), DeviceError> {
        let room = self.requests.reserve().await;
        room.map(drop).map_err(|_| DeviceError::Lost("its thread ended".to_owned()))
    }

    /// Puts a batch in front of the device. Waits while another one lies there.
    pub async fn submit(&self, jobs: Vec<Job>) -> Result<Pending, DeviceError> {
        let (reply, answer) = oneshot::channel();
        let span = tracing::info_span!("batch", tasks = jobs.len());
        let sent = self.requests.send(Request::Generate(jobs, span, reply)).await;
        sent.map_err(|_| DeviceError::Lost("its thread ended".to_owned()))?;
        Ok(Pending(answer))
    }

    /// Makes the device abandon its batch between two steps, and every later one.
    pub fn stop_now(&self) {
        self.stop.cancel();
    }
}

/// The thread itself: whoever started it waits for its end, so that a model is never torn down behind the process's exit.
pub struct DeviceThread(Option<JoinHandle<()>>);

impl DeviceThread {
    /// Waits for the thread; every [`Device`] must be dropped before, or this never comes back.
    pub async fn join(mut self) {
        if let Some(thread) = self.0.take() {
            // Its panics were caught batch by batch; nothing is left to report.
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
    }
}
