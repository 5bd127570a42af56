//! Whoever owns the generator: answers one request at a time, and keeps a batch's misfortune from everything else.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use diorama_backends::blocking::panic_message;
use diorama_core::generator::{BatchKey, GeneratorError, Job, Made};
use diorama_core::measure::{MeasureError, Measurer, Subject};
use diorama_core::outcome::{ErrorCode, TaskError};
use diorama_core::task::Task;
use diorama_protocol::fault;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Batch, DeviceError, Engine, Measured, MeasurerInfo, Request};

/// Owns generator and measurer.
pub(super) struct Owner {
    pub(super) engine: Engine,
    pub(super) stop: CancellationToken,
}

/// How one call of the generator ended.
enum Call {
    Done(Vec<Result<Made, TaskError>>),
    OutOfMemory(String),
    Failed(String),
}

impl Owner {
    /// Answers; whoever asked may be gone, and then nobody wants the answer.
    pub(super) fn answer(&mut self, request: Request) {
        match request {
            Request::Check(tasks, reply) => drop(reply.send(self.check(&tasks))),
            Request::Generate(jobs, span, reply) => {
                let batch = span.in_scope(|| self.run(&jobs, &|| reply.is_closed()));
                drop(reply.send(batch));
            }
            Request::Measure(subjects, wanted, span, reply) => {
                let measured = span.in_scope(|| self.measure(&subjects, &wanted, &|| reply.is_closed()));
                drop(reply.send(measured));
            }
        }
    }

    /// What can be measured.
    pub(super) fn measurer_info(&self) -> MeasurerInfo {
        let info = |measurer: &dyn Measurer| MeasurerInfo {
            measures: measurer.measures().to_vec(),
            networks: measurer.networks(),
        };
        self.engine.measurer.as_deref().map_or_else(MeasurerInfo::default, info)
    }

    /// Measures picture after picture; `unwanted` says when nobody waits for them any more.
    fn measure(
        &mut self,
        subjects: &[Subject],
        wanted: &[String],
        unwanted: &dyn Fn() -> bool,
    ) -> Result<Measured, DeviceError> {
        let started = Instant::now();
        let mut results = Vec::with_capacity(subjects.len());
        for subject in subjects {
            if self.stop.is_cancelled() || unwanted() {
                return Err(DeviceError::Stopped);
            }
            results.push(self.measure_one(subject, wanted));
        }
        Ok(Measured { results, device_seconds: started.elapsed().as_secs_f64() })
    }

    fn measure_one(&mut self, subject: &Subject, wanted: &[String]) -> Result<BTreeMap<String, f64>, TaskError> {
        let failed = |message: String| TaskError::transient(ErrorCode::ModelError, message);
        let Some(measurer) = &mut self.engine.measurer else {
            return Err(failed("this worker measures no pictures".to_owned()));
        };
        match catch_unwind(AssertUnwindSafe(|| measurer.measure(subject, wanted))) {
            Ok(Ok(measures)) => Ok(measures),
            Ok(Err(error @ MeasureError::OutOfMemory(_))) => {
                Err(TaskError::transient(ErrorCode::OutOfMemory, error.to_string()))
            }
            Ok(Err(error @ MeasureError::Failed(_))) => Err(failed(error.to_string())),
            Err(panic) => Err(failed(format!("measuring panicked: {}", panic_message(&*panic)))),
        }
    }

    fn check(&self, tasks: &[Task]) -> Vec<Result<BatchKey, TaskError>> {
        let check = |task| {
            catch_unwind(AssertUnwindSafe(|| self.engine.generator.check(task))).unwrap_or_else(|panic| {
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
    ) -> Result<Result<Made, TaskError>, DeviceError> {
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
        self.engine.generator.info().batch_size.max(1)
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
                tracing::warn!(batch = size, smaller, %message, "the device has too little memory for the batch; splitting it");
            }
            if smaller >= size || smaller < batch.len() {
                return Ok(call);
            }
        }
    }

    fn call(&mut self, batch: &[Job], unwanted: &(dyn Fn() -> bool + Sync)) -> Result<Call, DeviceError> {
        let stop_now = self.stop.clone();
        let stop = move || stop_now.is_cancelled() || unwanted();
        if stop() {
            return Err(DeviceError::Stopped);
        }
        batch.iter().for_each(|job| fault::task(job.task.custom_id.as_str()));
        match catch_unwind(AssertUnwindSafe(|| self.engine.generator.make(batch, &stop))) {
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
    let message = format!("the device has too little memory for even one picture: {message}");
    TaskError::transient(ErrorCode::OutOfMemory, message)
}

#[cfg(test)]
mod tests;
