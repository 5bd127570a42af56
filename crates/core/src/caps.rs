//! What an operator lets a run ask of the workers, within the ranges that hold everywhere. A shard's work is bounded by
//! the product: tasks, pictures of each, pixels, steps.

use crate::measure::Acceptance;
use crate::outcome::{ErrorCode, TaskError};
use crate::range;
use crate::retry::RetryPolicy;
use crate::settings::{Method, Settings, Size};
use crate::task::Task;

/// Bytes that the rows of one shard take in a worker's memory, a copy for each picture of a row.
pub const SHARD_BYTES: u64 = 64 << 20;

/// The caps.
#[derive(Debug, Clone, PartialEq)]
pub struct Caps {
    /// Tasks a shard.
    pub shard_size: u32,
    /// Rounds of retries.
    pub retry_rounds: u32,
    /// Pixels of a picture, as a size that has so many.
    pub size: Size,
    /// Steps of a schedule.
    pub steps: u32,
    /// How often a picture that is not accepted is made again.
    pub accept_tries: u32,
}

impl Default for Caps {
    /// No narrower than the ranges.
    fn default() -> Self {
        Self {
            shard_size: range::SHARD_SIZE.high as u32,
            retry_rounds: range::MAX_ROUNDS.high as u32,
            size: Size::LARGEST,
            steps: Settings::MOST_STEPS,
            accept_tries: range::ACCEPT_TRIES.high as u32,
        }
    }
}

impl Caps {
    /// What of a run as a whole goes beyond them: each in a sentence.
    pub fn problems(
        &self,
        shard_size: u32,
        retry: &RetryPolicy,
        settings: &Settings,
        compare: &[Method],
        accept: Option<&Acceptance>,
    ) -> Vec<String> {
        let mut problems: Vec<String> = repeated(compare).into_iter().collect();
        for (key, number, cap, name) in [
            ("shard_size", shard_size, self.shard_size, "max_shard_size"),
            ("retry.max_rounds", retry.max_rounds, self.retry_rounds, "max_retry_rounds"),
            ("accept_tries", accept.map_or(0, |accept| accept.tries), self.accept_tries, "max_accept_tries"),
        ] {
            if number > cap {
                problems.push(format!("{key}: {number} is more than this fleet allows, which is {cap} ({name})"));
            }
        }
        problems.extend(self.of_settings(settings).err());
        problems
    }

    /// Refuses a task that goes beyond them.
    pub fn check(&self, task: &Task) -> Result<(), TaskError> {
        self.of_settings(&task.settings).map_err(|problem| TaskError::permanent(ErrorCode::InvalidSettings, problem))
    }

    fn of_settings(&self, settings: &Settings) -> Result<(), String> {
        if let Some(size) = settings.size.filter(|size| size.pixels() > self.size.pixels()) {
            return Err(format!(
                "size: {size} has more pixels than this fleet allows, which is {} (max_size)",
                self.size
            ));
        }
        match settings.steps {
            Some(steps) if steps > self.steps => {
                Err(format!("steps: {steps} is more than this fleet allows, which is {} (max_steps)", self.steps))
            }
            _ => Ok(()),
        }
    }
}

/// Shards that a run may have whatever its size; each KiB of its manifest allows one more. A shard is an object, a message
/// and a marker, so that without a bound a small manifest costs as much as a large one.
const FREE_SHARDS: u64 = 2048;

/// Says so where `tasks` of a manifest of so many bytes make too many shards.
pub fn too_many_shards(tasks: u64, shard_size: u32, bytes: u64) -> Option<String> {
    let (most, shards) = (FREE_SHARDS + bytes / 1024, tasks.div_ceil(u64::from(shard_size.max(1))));
    (shards > most).then(|| {
        format!(
            "shard_size: {shard_size} makes {shards} shards of {tasks} tasks, and a manifest of {bytes} bytes may have \
             {most}; take {} or more",
            tasks.div_ceil(most)
        )
    })
}

/// Says so where a method is to be compared twice.
pub fn repeated(compare: &[Method]) -> Option<String> {
    let again = compare.iter().enumerate().find(|(index, method)| compare[..*index].contains(method))?.1;
    Some(format!("compare: {again} is named twice; name each method once"))
}

/// The pictures that may be made of one row: itself and its comparisons, each for every try.
pub fn pictures(compare: &[Method], accept: Option<&Acceptance>) -> usize {
    (1 + compare.len()) * (1 + accept.map_or(0, |accept| accept.tries as usize))
}

/// Says so where the rows of a shard take more than [`SHARD_BYTES`] with a copy for each of `pictures`.
pub fn too_heavy(tasks: &[Task], pictures: usize) -> Option<String> {
    let mut weight = Weight::new(u32::MAX, pictures);
    tasks.iter().for_each(|task| weight.add(task));
    weight.problem()
}

/// What the shards of a run take in a worker's memory, as its rows come.
#[derive(Debug)]
pub struct Weight {
    shard_size: u32,
    pictures: usize,
    /// Tasks and bytes of the shard that is being filled.
    shard: (u32, u64),
    /// Bytes of the heaviest shard.
    heaviest: u64,
}

impl Weight {
    /// Of a run with so many tasks a shard and so many pictures of each.
    pub fn new(shard_size: u32, pictures: usize) -> Self {
        Self { shard_size: shard_size.max(1), pictures, shard: (0, 0), heaviest: 0 }
    }

    /// Adds the next task.
    pub fn add(&mut self, task: &Task) {
        if self.shard.0 == self.shard_size {
            self.shard = (0, 0);
        }
        self.shard.0 += 1;
        self.shard.1 = self.shard.1.saturating_add(task.bytes().saturating_mul(self.pictures as u64));
        self.heaviest = self.heaviest.max(self.shard.1);
    }

    /// Says so where a shard takes more than [`SHARD_BYTES`].
    pub fn problem(&self) -> Option<String> {
        (self.heaviest > SHARD_BYTES).then(|| {
            format!(
                "the rows of a shard take {} MiB in a worker's memory, {} pictures per row, but may take only {}: \
                 lower shard_size",
                self.heaviest.div_ceil(1 << 20),
                self.pictures,
                SHARD_BYTES >> 20
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::id::{CustomId, Seed, TaskIndex};

    fn settings(key: &str, value: serde_json::Value) -> Settings {
        let mut settings = Settings::default();
        settings.set(key, &value).unwrap();
        settings
    }

    #[test]
    fn what_goes_beyond_a_cap_is_named_with_the_cap() {
        let caps =
            Caps { shard_size: 100, retry_rounds: 1, size: "512x512".parse().unwrap(), steps: 50, accept_tries: 4 };
        let accept = |tries| Acceptance { condition: "clip > 26".parse().unwrap(), tries };
        let retry = RetryPolicy { max_rounds: 2, ..RetryPolicy::default() };
        let methods = [Method::Txt2img, Method::Img2img, Method::Txt2img];
        let problems = caps.problems(101, &retry, &settings("steps", json!(51)), &methods, Some(&accept(5)));
        let named = ["twice", "max_shard_size", "max_retry_rounds", "max_accept_tries", "max_steps"];
        for (problem, cap) in problems.iter().zip(named) {
            assert!(problem.contains(cap), "{problems:?}");
        }
        assert_eq!(problems.len(), named.len());
        // As many pixels in another shape are as much work.
        assert!(caps.of_settings(&settings("size", json!("1024x256"))).is_ok());
        assert!(caps.of_settings(&settings("size", json!("520x512"))).unwrap_err().contains("max_size"));
        let retry = RetryPolicy { max_rounds: 1, ..retry };
        let fine = caps.problems(100, &retry, &Settings::default(), &methods[..2], Some(&accept(4)));
        assert_eq!(fine, Vec::<String>::new());
        assert_eq!((pictures(&methods, None), pictures(&methods[..1], Some(&accept(4)))), (4, 10));
    }

    #[test]
    fn a_shard_is_too_heavy_by_its_own_rows_and_their_pictures() {
        let mut task = Task {
            index: TaskIndex(0),
            custom_id: CustomId::new("a").unwrap(),
            reference: None,
            region: None,
            prompt: "x".repeat(1 << 20),
            subjects: None,
            seed: Seed::new(0).unwrap(),
            settings: Settings::default(),
            extra: Default::default(),
        };
        let tasks = vec![task.clone(); 40];
        assert_eq!(too_heavy(&tasks, 1), None);
        assert!(too_heavy(&tasks, 2).unwrap().contains("81 MiB"), "{:?}", too_heavy(&tasks, 2));
        let mut weight = Weight::new(30, 2);
        tasks.iter().for_each(|task| weight.add(task));
        assert_eq!(weight.problem(), None, "no shard has more than 30 of them");
        task.subjects = Some(vec![String::new(); 1 << 22]);
        assert!(too_heavy(&[task], 1).is_some(), "many small texts are heavy, too");
    }

    #[test]
    fn by_default_whatever_is_in_range_is_allowed() {
        let retry = RetryPolicy { max_rounds: range::MAX_ROUNDS.high as u32, ..RetryPolicy::default() };
        let caps = Caps::default();
        for settings in [settings("steps", json!(1000)), settings("size", json!("4096x4096"))] {
            assert_eq!(
                caps.problems(range::SHARD_SIZE.high as u32, &retry, &settings, &[], None),
                Vec::<String>::new()
            );
        }
    }
}
