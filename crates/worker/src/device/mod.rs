//! The device: one OS thread that owns the generator, behind a channel of depth 1, so that the next batch lies ready when
//! the device is.
//!
//! A panic of the generator ends its batch, a batch too large for the device is made in the smaller ones that are left,
//! a batch that failed as a whole is run again one by one so that one task cannot fail its mates. Never does I/O.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

use diorama_core::causes;
use diorama_core::generator::{BatchKey, Generated, Generator, GeneratorError, Job};
use diorama_core::outcome::{ErrorCode, TaskError};
use diorama_core::record::GeneratorInfo;
use diorama_core::task::Task;
use diorama_protocol::fault;
use tokio::sync::{mpsc, oneshot};
use tracing::Span;

/// Any error of the code that makes a generator.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Makes the generator, on the device's thread.
pub type MakeGenerator = Box<dyn FnOnce() -> Result<Box<dyn Generator>, BoxError> + Send>;

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

/// A batch that the device has done.
#[derive(Debug)]
pub struct Batch {
    /// One result a job, in the batch's order.
    pub results: Vec<Result<Generated, TaskError>>,
    /// Seconds that the model ran.
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
    /// The span of the batch goes along, so that what the thread logs names the shard.
    Generate(Vec<Job>, Span, oneshot::Sender<Result<Batch, DeviceError>>),
}

/// The handle of the device's thread. Clones share it; the thread ends with the last one.
#[derive(Clone)]
pub struct Device {
    requests: mpsc::Sender<Request>,
    info: Arc<GeneratorInfo>,
    stop: Arc<AtomicBool>,
}

impl Device {
    /// Starts the thread, makes the generator on it and waits until it is there.
    pub async fn start(make: MakeGenerator) -> Result<(Self, DeviceThread), DeviceError> {
        let (requests, mut incoming) = mpsc::channel(1);
        let (ready, started) = oneshot::channel();
        let stop = Arc::new(AtomicBool::new(false));
        let stop_thread = stop.clone();
        let thread = std::thread::Builder::new()
            .name("device".to_owned())
            .spawn(move || {
                let generator = match catch_unwind(AssertUnwindSafe(make)) {
                    Ok(Ok(generator)) => generator,
                    Ok(Err(error)) => return drop(ready.send(Err(DeviceError::Start(causes::in_one_line(&*error))))),
                    Err(panic) => return drop(ready.send(Err(DeviceError::Start(panic_message(&*panic))))),
                };
                if ready.send(Ok(generator.info().clone())).is_err() {
                    return;
                }
                let mut owner = Owner { generator, stop: stop_thread };
                while let Some(request) = incoming.blocking_recv() {
                    // Whoever asked may be gone; then nobody wants the answer.
                    match request {
                        Request::Check(tasks, reply) => drop(reply.send(owner.check(&tasks))),
                        Request::Generate(jobs, span, reply) => {
                            let batch = span.in_scope(|| owner.run(&jobs, &|| reply.is_closed()));
                            drop(reply.send(batch));
                        }
                    }
                }
            })
            .map_err(|error| DeviceError::Start(format!("the device's thread cannot be started: {error}")))?;
        let info = started
            .await
            .unwrap_or_else(|_| Err(DeviceError::Start("the device's thread ended at once".to_owned())))?;
        Ok((Self { requests, info: Arc::new(info), stop }, DeviceThread(Some(thread))))
    }

    /// Who the generator is.
    pub fn info(&self) -> &GeneratorInfo {
        &self.info
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
        self.stop.store(true, Ordering::Relaxed);
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

/// Owns the generator, on its thread.
struct Owner {
    generator: Box<dyn Generator>,
    stop: Arc<AtomicBool>,
}

/// How one call of the generator ended.
enum Call {
    Done(Vec<Result<Generated, TaskError>>),
    OutOfMemory(String),
    Failed(String),
}

impl Owner {
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
    fn run(&mut self, jobs: &[Job], unwanted: &(dyn Fn() -> bool + Sync)) -> Result<Batch, DeviceError> {
        let started = Instant::now();
        let mut results = Vec::with_capacity(jobs.len());
        while results.len() < jobs.len() {
            let rest = &jobs[results.len()..];
            let batch = &rest[..rest.len().min(self.batch_size())];
            match self.fitting(batch, unwanted)? {
                Call::Done(made) => results.extend(made),
                Call::OutOfMemory(message) if batch.len() == 1 => results.push(Err(out_of_memory(&message))),
                // Cut anew: the batches are smaller now.
                Call::OutOfMemory(_) => {}
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
    ) -> Result<Result<Generated, TaskError>, DeviceError> {
        match self.fitting(std::slice::from_ref(job), unwanted)? {
            Call::Done(mut made) => Ok(made.remove(0)),
            Call::OutOfMemory(message) => Ok(Err(out_of_memory(&message))),
            Call::Failed(message) => {
                let message = format!("the model failed: {message}");
                Ok(Err(TaskError::transient(ErrorCode::ModelError, message)))
            }
        }
    }

    /// Pictures in a batch: fewer after each time that the device had no memory.
    fn batch_size(&self) -> usize {
        self.generator.info().batch_size.max(1)
    }

    /// Runs the batch, in smaller and smaller padding while the device has no memory for it. Out of memory comes back
    /// only where the batch itself has to be cut, or nothing smaller is left.
    fn fitting(&mut self, batch: &[Job], unwanted: &(dyn Fn() -> bool + Sync)) -> Result<Call, DeviceError> {
        loop {
            let size = self.batch_size();
            let call = self.call(batch, unwanted)?;
            let Call::OutOfMemory(message) = &call else { return Ok(call) };
            let smaller = self.batch_size();
            if smaller < size {
                tracing::warn!(batch = size, smaller, %message, "the device has no memory for the batch; smaller ones now");
            }
            if smaller >= size || smaller < batch.len() {
                return Ok(call);
            }
        }
    }

    fn call(&mut self, batch: &[Job], unwanted: &(dyn Fn() -> bool + Sync)) -> Result<Call, DeviceError> {
        let stop_now = self.stop.clone();
        let stop = move || stop_now.load(Ordering::Relaxed) || unwanted();
        if stop() {
            return Err(DeviceError::Stopped);
        }
        batch.iter().for_each(|job| fault::task(job.task.custom_id.as_str()));
        match catch_unwind(AssertUnwindSafe(|| self.generator.generate(batch, &stop))) {
            Ok(Ok(made)) if made.len() == batch.len() => Ok(Call::Done(made)),
            Ok(Ok(made)) => Ok(Call::Failed(format!("{} results came back for {} tasks", made.len(), batch.len()))),
            Ok(Err(GeneratorError::OutOfMemory { message, .. })) => Ok(Call::OutOfMemory(message)),
            Ok(Err(GeneratorError::Stopped)) => Err(DeviceError::Stopped),
            Ok(Err(GeneratorError::DeviceLost(message))) => Err(DeviceError::Lost(message)),
            Ok(Err(GeneratorError::Failed(message))) => Ok(Call::Failed(message)),
            Err(panic) => Ok(Call::Failed(format!("it panicked: {}", panic_message(&*panic)))),
        }
    }
}

fn out_of_memory(message: &str) -> TaskError {
    let message = format!("the device has no memory for even one picture: {message}");
    TaskError::transient(ErrorCode::OutOfMemory, message)
}

/// What a panic said.
pub(crate) fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
}

#[cfg(test)]
mod tests;
