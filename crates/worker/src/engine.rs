//! The device: one OS thread that owns the generator, behind a channel of depth 1, so that the next batch lies ready when
//! the device is.
//!
//! A panic of the generator ends its batch, a batch too large for the device is halved and the smaller size remembered,
//! a batch that failed as a whole is run again one by one so that one task cannot fail its mates. Never does I/O.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

use diorama_backends::fault;
use diorama_core::generator::{BatchKey, Generated, Generator, GeneratorError, GeneratorInfo, Job};
use diorama_core::outcome::{ErrorCode, TaskError};
use diorama_core::task::Task;
use tokio::sync::{mpsc, oneshot};

/// Any error of the code that makes a generator.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Makes the generator, on the device's thread.
pub type MakeGenerator = Box<dyn FnOnce() -> Result<Box<dyn Generator>, BoxError> + Send>;

/// Why the device gave nothing.
#[derive(Debug, Clone, thiserror::Error)]
pub enum EngineError {
    /// The generator could not be made.
    #[error("{0}")]
    Start(String),
    /// The batch was abandoned, because [`Engine::stop_now`] said so.
    #[error("stopped before the batch was done")]
    Stopped,
    /// Nothing more will run in this process.
    #[error("the device is lost: {0}; start the worker again, and run `diorama doctor` if that does not help")]
    Lost(String),
}

/// A batch that the device has done.
#[derive(Debug)]
pub struct Batch {
    /// One result a job, in the batch's order.
    pub results: Vec<Result<Generated, TaskError>>,
    /// Seconds that the model ran.
    pub device_seconds: f64,
}

/// A batch that the device will do.
pub struct Pending(oneshot::Receiver<Result<Batch, EngineError>>);

impl Pending {
    /// Waits for the device.
    pub async fn done(self) -> Result<Batch, EngineError> {
        self.0.await.unwrap_or_else(|_| Err(EngineError::Lost("its thread ended".to_owned())))
    }
}

enum Request {
    Check(Vec<Task>, oneshot::Sender<Vec<Result<BatchKey, TaskError>>>),
    Generate(Vec<Job>, oneshot::Sender<Result<Batch, EngineError>>),
}

/// The handle of the device's thread. Clones share it; the thread ends with the last one.
#[derive(Clone)]
pub struct Engine {
    requests: mpsc::Sender<Request>,
    info: Arc<GeneratorInfo>,
    stop: Arc<AtomicBool>,
}

impl Engine {
    /// Starts the thread, makes the generator on it and waits until it is there.
    pub async fn start(make: MakeGenerator) -> Result<(Self, EngineThread), EngineError> {
        let (requests, mut incoming) = mpsc::channel(1);
        let (ready, started) = oneshot::channel();
        let stop = Arc::new(AtomicBool::new(false));
        let stop_thread = stop.clone();
        let thread = std::thread::Builder::new()
            .name("device".to_owned())
            .spawn(move || {
                let generator = match catch_unwind(AssertUnwindSafe(make)) {
                    Ok(Ok(generator)) => generator,
                    Ok(Err(error)) => return drop(ready.send(Err(EngineError::Start(chain(&*error))))),
                    Err(panic) => return drop(ready.send(Err(EngineError::Start(panic_message(&*panic))))),
                };
                if ready.send(Ok(generator.info().clone())).is_err() {
                    return;
                }
                let limit = generator.info().batch_size.max(1);
                let mut device = Device { generator, limit, stop: stop_thread };
                while let Some(request) = incoming.blocking_recv() {
                    // Whoever asked may be gone; then nobody wants the answer.
                    match request {
                        Request::Check(tasks, reply) => drop(reply.send(device.check(&tasks))),
                        Request::Generate(jobs, reply) => {
                            let batch = device.run(&jobs, &|| reply.is_closed());
                            drop(reply.send(batch));
                        }
                    }
                }
            })
            .map_err(|error| EngineError::Start(format!("the device's thread cannot be started: {error}")))?;
        let info = started
            .await
            .unwrap_or_else(|_| Err(EngineError::Start("the device's thread ended at once".to_owned())))?;
        Ok((Self { requests, info: Arc::new(info), stop }, EngineThread(Some(thread))))
    }

    /// Who the generator is.
    pub fn info(&self) -> &GeneratorInfo {
        &self.info
    }

    /// Checks tasks; the device answers between two batches.
    pub async fn check(&self, tasks: Vec<Task>) -> Result<Vec<Result<BatchKey, TaskError>>, EngineError> {
        let (reply, answer) = oneshot::channel();
        let lost = || EngineError::Lost("its thread ended".to_owned());
        self.requests.send(Request::Check(tasks, reply)).await.map_err(|_| lost())?;
        answer.await.map_err(|_| lost())
    }

    /// Puts a batch in front of the device. Waits while another one lies there.
    pub async fn submit(&self, jobs: Vec<Job>) -> Result<Pending, EngineError> {
        let (reply, answer) = oneshot::channel();
        let sent = self.requests.send(Request::Generate(jobs, reply)).await;
        sent.map_err(|_| EngineError::Lost("its thread ended".to_owned()))?;
        Ok(Pending(answer))
    }

    /// Makes the device abandon its batch between two steps, and every later one.
    pub fn stop_now(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// The thread itself: whoever started it waits for its end, so that a model is never torn down behind the process's exit.
pub struct EngineThread(Option<JoinHandle<()>>);

impl EngineThread {
    /// Waits for the thread; every [`Engine`] must be dropped before, or this never comes back.
    pub async fn join(mut self) {
        if let Some(thread) = self.0.take() {
            // Its panics were caught batch by batch; nothing is left to report.
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
    }
}

struct Device {
    generator: Box<dyn Generator>,
    /// The largest batch that fits, as far as we know.
    limit: usize,
    stop: Arc<AtomicBool>,
}

/// How one call of the generator ended.
enum Call {
    Done(Vec<Result<Generated, TaskError>>),
    OutOfMemory(String),
    Failed(String),
}

impl Device {
    fn check(&self, tasks: &[Task]) -> Vec<Result<BatchKey, TaskError>> {
        let check = |task| {
            catch_unwind(AssertUnwindSafe(|| self.generator.check(task))).unwrap_or_else(|panic| {
                let message = format!("checking the task panicked: {}", panic_message(&*panic));
                Err(TaskError::permanent(ErrorCode::ModelError, message))
            })
        };
        tasks.iter().map(check).collect()
    }

    /// Runs the jobs; `unwanted` says when nobody waits for them any more, and then they are abandoned.
    fn run(&mut self, jobs: &[Job], unwanted: &(dyn Fn() -> bool + Sync)) -> Result<Batch, EngineError> {
        let started = Instant::now();
        let mut results = Vec::with_capacity(jobs.len());
        while results.len() < jobs.len() {
            let rest = &jobs[results.len()..];
            let batch = &rest[..rest.len().min(self.limit)];
            match self.call(batch, unwanted)? {
                Call::Done(made) => results.extend(made),
                Call::OutOfMemory(message) if batch.len() > 1 => {
                    self.limit = batch.len() / 2;
                    tracing::warn!(batch = batch.len(), limit = self.limit, %message, "out of memory; smaller batches");
                }
                Call::OutOfMemory(message) => {
                    let message = format!("the device has no memory for even one picture: {message}");
                    results.push(Err(TaskError::transient(ErrorCode::OutOfMemory, message)));
                }
                Call::Failed(message) => {
                    tracing::warn!(batch = batch.len(), %message, "the batch failed; running its tasks one by one");
                    for job in batch {
                        results.push(self.alone(job, unwanted)?);
                    }
                }
            }
        }
        Ok(Batch { results, device_seconds: started.elapsed().as_secs_f64() })
    }

    /// The second and last try of a task whose batch failed.
    fn alone(
        &mut self,
        job: &Job,
        unwanted: &(dyn Fn() -> bool + Sync),
    ) -> Result<Result<Generated, TaskError>, EngineError> {
        let failed = |code, message| Ok(Err(TaskError::transient(code, message)));
        match self.call(std::slice::from_ref(job), unwanted)? {
            Call::Done(mut made) => Ok(made.remove(0)),
            Call::OutOfMemory(message) => failed(ErrorCode::OutOfMemory, message),
            Call::Failed(message) => failed(ErrorCode::ModelError, format!("the model failed: {message}")),
        }
    }

    fn call(&mut self, batch: &[Job], unwanted: &(dyn Fn() -> bool + Sync)) -> Result<Call, EngineError> {
        let stop_now = self.stop.clone();
        let stop = move || stop_now.load(Ordering::Relaxed) || unwanted();
        if stop() {
            return Err(EngineError::Stopped);
        }
        batch.iter().for_each(|job| fault::task(job.task.custom_id.as_str()));
        match catch_unwind(AssertUnwindSafe(|| self.generator.generate(batch, &stop))) {
            Ok(Ok(made)) if made.len() == batch.len() => Ok(Call::Done(made)),
            Ok(Ok(made)) => Ok(Call::Failed(format!("{} results came back for {} tasks", made.len(), batch.len()))),
            Ok(Err(GeneratorError::OutOfMemory { message, .. })) => Ok(Call::OutOfMemory(message)),
            Ok(Err(GeneratorError::Stopped)) => Err(EngineError::Stopped),
            Ok(Err(GeneratorError::DeviceLost(message))) => Err(EngineError::Lost(message)),
            Ok(Err(GeneratorError::Failed(message))) => Ok(Call::Failed(message)),
            Err(panic) => Ok(Call::Failed(format!("it panicked: {}", panic_message(&*panic)))),
        }
    }
}

/// What a panic said.
pub(crate) fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
}

/// An error with its causes, in one line.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
