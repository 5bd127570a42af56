use std::sync::{Arc, Mutex};
use std::thread::ThreadId;

use diorama_core::generator::{Generated, Generator};
use diorama_core::id::{CustomId, Seed, TaskIndex};
use diorama_core::record::GeneratorInfo;
use diorama_core::settings::{Method, Settings};

use super::*;
use crate::tests::flat::FlatGenerator;

/// What happens to a batch before it is made, if anything.
type Harm = Box<dyn Fn(&mut GeneratorInfo, &[Job]) -> Option<GeneratorError> + Send>;

/// Makes flat pictures of what its harm spares.
struct Harmed {
    inner: FlatGenerator,
    info: GeneratorInfo,
    harm: Harm,
}

impl Generator for Harmed {
    fn info(&self) -> &GeneratorInfo {
        &self.info
    }

    fn check(&self, task: &Task) -> Result<BatchKey, TaskError> {
        self.inner.check(task)
    }

    fn generate(
        &mut self,
        batch: &[Job],
        stop: &(dyn Fn() -> bool + Sync),
    ) -> Result<Vec<Result<Generated, TaskError>>, GeneratorError> {
        assert!(batch.len() <= self.info.batch_size, "{} jobs in a batch of {}", batch.len(), self.info.batch_size);
        match (self.harm)(&mut self.info, batch) {
            Some(error) => Err(error),
            None => self.inner.generate(batch, stop),
        }
    }
}

fn owner(batch_size: usize, harm: Harm) -> Owner {
    let inner = FlatGenerator::new(batch_size);
    let info = inner.info().clone();
    let engine = Engine { generator: Box::new(Harmed { inner, info, harm }), measurer: None };
    Owner { engine, stop: CancellationToken::new() }
}

/// Has memory for `room` pictures in a batch, padding included.
fn cramped(batch_size: usize, room: usize) -> Owner {
    let harm = move |info: &mut GeneratorInfo, _: &[Job]| {
        let batch = info.batch_size;
        (batch > room).then(|| {
            info.batch_size = (batch / 2).max(1);
            GeneratorError::OutOfMemory { batch, message: "CUDA out of memory".to_owned() }
        })
    };
    owner(batch_size, Box::new(harm))
}

/// Fails each batch with the task `t1`.
fn harmed(error: fn() -> GeneratorError) -> Owner {
    let is_harmed = |job: &Job| job.task.custom_id.as_str() == "t1";
    owner(4, Box::new(move |_, batch| batch.iter().any(is_harmed).then(error)))
}

fn jobs(count: u64) -> Vec<Job> {
    let job = |index| Job {
        task: Task {
            index: TaskIndex(index),
            custom_id: CustomId::new(format!("t{index}")).unwrap(),
            reference: None,
            region: None,
            prompt: "a duck".to_owned(),
            subjects: None,
            seed: Seed::new(index).unwrap(),
            settings: Settings { method: Some(Method::Txt2img), ..Settings::default() },
            extra: Default::default(),
        },
        reference: None,
    };
    (0..count).map(job).collect()
}

#[test]
fn a_panic_or_an_error_of_the_model_fails_its_own_task_and_neither_its_mates_nor_the_device() {
    let harms: [(fn() -> GeneratorError, _); 2] = [
        (|| panic!("shapes cannot be multiplied"), "panicked: shapes cannot be multiplied"),
        (|| GeneratorError::Failed("an illegal memory access".to_owned()), "an illegal memory access"),
    ];
    for (harm, words) in harms {
        let mut owner = harmed(harm);
        let made = owner.run(&jobs(6), &|| false).unwrap().results;
        for (index, made) in made.into_iter().enumerate() {
            match made {
                Ok(made) => assert_eq!(made.finish().unwrap().record.custom_id.as_str(), format!("t{index}")),
                Err(error) => {
                    assert_eq!((index, error.code, error.retryable), (1, ErrorCode::ModelError, true));
                    assert!(error.message.contains(words), "{}", error.message);
                }
            }
        }
        assert!(owner.run(&jobs(1), &|| false).unwrap().results[0].is_ok());
    }
}

#[test]
fn a_lost_device_ends_everything_and_another_process_may_try() {
    let mut owner = harmed(|| GeneratorError::DeviceLost("CUDA error: unspecified launch failure".to_owned()));
    let error = owner.run(&jobs(4), &|| false).unwrap_err();
    assert!(matches!(&error, DeviceError::Lost(why) if why.contains("launch failure")), "{error}");
    assert!(crate::WorkerError::from(error).is_retryable());
}

#[test]
fn a_batch_that_does_not_fit_is_made_in_smaller_ones_and_the_size_is_remembered() {
    let mut owner = cramped(16, 3);
    let made = owner.run(&jobs(11), &|| false).unwrap().results;
    let ids: Vec<String> =
        made.into_iter().map(|made| made.unwrap().finish().unwrap().record.custom_id.to_string()).collect();
    assert_eq!(ids, (0..11).map(|index| format!("t{index}")).collect::<Vec<_>>());
    assert_eq!(owner.batch_size(), 2);
}

#[test]
fn padding_that_does_not_fit_fails_no_single_task() {
    // One job, padded to sixteen.
    let mut owner = cramped(16, 4);
    assert!(owner.run(&jobs(1), &|| false).unwrap().results[0].is_ok());
    assert_eq!(owner.batch_size(), 4);
}

#[test]
fn a_device_without_memory_for_one_picture_fails_each_task_for_another_try() {
    let made = cramped(4, 0).run(&jobs(3), &|| false).unwrap().results;
    for made in made {
        let error = made.unwrap_err();
        assert_eq!(error.code, ErrorCode::OutOfMemory);
        assert!(error.message.contains("even one picture"), "{}", error.message);
    }
}

/// Leaves each picture unfinished, as a model does whose heat maps are still to be drawn.
struct Unfinished {
    inner: FlatGenerator,
    finished_on: Arc<Mutex<Vec<ThreadId>>>,
}

impl Generator for Unfinished {
    fn info(&self) -> &GeneratorInfo {
        self.inner.info()
    }

    fn check(&self, task: &Task) -> Result<BatchKey, TaskError> {
        self.inner.check(task)
    }

    fn generate(
        &mut self,
        batch: &[Job],
        stop: &(dyn Fn() -> bool + Sync),
    ) -> Result<Vec<Result<Generated, TaskError>>, GeneratorError> {
        self.inner.generate(batch, stop)
    }

    fn make(
        &mut self,
        batch: &[Job],
        stop: &(dyn Fn() -> bool + Sync),
    ) -> Result<Vec<Result<Made, TaskError>>, GeneratorError> {
        let unfinished = |generated| {
            let finished_on = self.finished_on.clone();
            Made::unfinished(move || {
                finished_on.lock().unwrap().push(std::thread::current().id());
                Ok(generated)
            })
        };
        Ok(self.inner.generate(batch, stop)?.into_iter().map(|made| made.map(unfinished)).collect())
    }
}

#[test]
fn what_needs_no_device_is_left_to_whoever_waits_for_it() {
    let finished_on = Arc::new(Mutex::new(Vec::new()));
    let generator = Unfinished { inner: FlatGenerator::new(2), finished_on: finished_on.clone() };
    let engine = Engine { generator: Box::new(generator), measurer: None };
    let mut owner = Owner { engine, stop: CancellationToken::new() };
    let batch = std::thread::spawn(move || owner.run(&jobs(5), &|| false).unwrap()).join().unwrap();
    assert!(finished_on.lock().unwrap().is_empty(), "the device did it");
    for made in batch.results {
        made.unwrap().finish().unwrap();
    }
    assert_eq!(*finished_on.lock().unwrap(), [std::thread::current().id(); 5]);
}

/// Has no memory for the first picture, panics at the second, and measures the others.
struct Moody(u32);

impl Measurer for Moody {
    fn measures(&self) -> &[&'static str] {
        &["coverage"]
    }

    fn networks(&self) -> BTreeMap<String, String> {
        BTreeMap::new()
    }

    fn measure(&mut self, subject: &Subject, _: &[String]) -> Result<BTreeMap<String, f64>, MeasureError> {
        self.0 += 1;
        match self.0 {
            1 => Err(MeasureError::OutOfMemory("CUDA out of memory".to_owned())),
            2 => panic!("shapes cannot be multiplied"),
            _ => Ok(subject.coverage.map(|share| ("coverage".to_owned(), share)).into_iter().collect()),
        }
    }
}

#[test]
fn what_befalls_one_picture_while_it_is_measured_befalls_no_other() {
    let mut owner = owner(4, Box::new(|_, _| None));
    owner.engine.measurer = Some(Box::new(Moody(0)));
    let picture = diorama_core::picture::Rgb8 { width: 1, height: 1, data: vec![0; 3] };
    let subject = Subject { picture, reference: None, region: None, prompt: None, coverage: Some(0.5) };
    let wanted = ["coverage".to_owned()];
    let results = owner.measure(&vec![subject.clone(); 3], &wanted, &|| false).unwrap().results;
    let codes = results.iter().map(|result| result.as_ref().map_err(|error| (error.code, error.retryable)));
    let codes: Vec<_> = codes.map(|result| result.map(|measures| measures["coverage"])).collect();
    assert_eq!(codes, [Err((ErrorCode::OutOfMemory, true)), Err((ErrorCode::ModelError, true)), Ok(0.5)]);
    owner.stop.cancel();
    let stopped = owner.measure(&[subject], &wanted, &|| false).unwrap_err();
    assert!(matches!(stopped, DeviceError::Stopped), "a drain does not wait for it");
}
