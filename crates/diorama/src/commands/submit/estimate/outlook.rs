//! What a whole run will take, from a sample of it.

use std::time::Duration;

use serde::Serialize;

use crate::progress::duration;

/// The 97.5 % quantiles of Student's t distribution with 1, 2, … degrees of freedom; beyond them, the normal one.
const STUDENT: [f64; 15] =
    [12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131];
const NORMAL: f64 = 1.960;

/// What a shard of the sample took.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sampled {
    /// Its tasks.
    pub(super) tasks: u64,
    /// Seconds of one worker, from its start to its commit.
    pub(super) seconds: f64,
}

/// A figure with its 95 % interval; no interval where there is only one shard to go by.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Figure {
    mean: f64,
    low: Option<f64>,
    high: Option<f64>,
}

impl Figure {
    fn times(self, factor: f64) -> Self {
        Self {
            mean: self.mean * factor,
            low: self.low.map(|low| low * factor),
            high: self.high.map(|high| high * factor),
        }
    }

    /// One over it, where 0 stands for what is too small to tell.
    fn inverse(self) -> Self {
        let over = |value: f64| (value > 0.0).then(|| 1.0 / value);
        Self { mean: over(self.mean).unwrap_or(0.0), low: self.high.and_then(over), high: self.low.and_then(over) }
    }

    fn in_words(self, word: impl Fn(f64) -> String) -> String {
        match (self.low, self.high) {
            (Some(low), Some(high)) => format!("{} ({} to {})", word(self.mean), word(low), word(high)),
            _ => word(self.mean),
        }
    }
}

/// What the whole run will take.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Outlook {
    /// Tasks of the whole run.
    tasks: u64,
    /// Workers of its pool that are connected now.
    workers: u64,
    /// Of one worker.
    pictures_per_second: Figure,
    /// Of all workers together, whatever their number.
    worker_hours: Figure,
    /// On the workers that are connected now, if they do nothing else; absent where there are none.
    seconds: Option<Figure>,
    /// Worker-hours at the price that was given.
    cost: Option<Figure>,
}

impl Outlook {
    /// `None` of no shards, or of none that took any time.
    pub(super) fn of(shards: &[Sampled], tasks: u64, workers: u64, price: Option<f64>) -> Option<Self> {
        let seconds = seconds_a_task(shards)?;
        let whole = seconds.times(tasks as f64);
        let worker_hours = whole.times(1.0 / 3600.0);
        Some(Self {
            tasks,
            workers,
            pictures_per_second: seconds.inverse(),
            worker_hours,
            seconds: (workers > 0).then(|| whole.times(1.0 / workers as f64)),
            cost: price.map(|price| worker_hours.times(price)),
        })
    }

    pub(super) fn in_words(&self, pool: &str) -> String {
        let time = |seconds: f64| duration(Duration::from_secs_f64(seconds.clamp(0.0, 1e9)));
        let rate = self.pictures_per_second.in_words(|rate| format!("{rate:.2}"));
        let hours = self.worker_hours.in_words(|hours| format!("{hours:.2}"));
        let mut text = format!("a worker makes {rate} pictures/s\nall {} rows take {hours} worker-hours", self.tasks);
        if let Some(cost) = self.cost {
            text.push_str(&format!(", which cost {}", cost.in_words(|cost| format!("{cost:.2}"))));
        }
        match (self.seconds, self.workers) {
            (Some(seconds), 1) => text.push_str(&format!(
                "\n{} on the one worker of pool {pool}, if it does nothing else",
                seconds.in_words(time)
            )),
            (Some(seconds), workers) => text.push_str(&format!(
                "\n{} on the {workers} workers of pool {pool}, if they do nothing else",
                seconds.in_words(time)
            )),
            (None, _) => text.push_str(&format!("\nno workers are connected to pool {pool} any more")),
        }
        if self.pictures_per_second.low.is_none() {
            text.push_str("\nthe sample was a single shard, so there is no interval; use --estimate 16 or more");
        }
        text
    }
}

/// Seconds of one worker a task: the ratio of all seconds to all tasks, with the interval of a ratio estimate (Cochran,
/// Sampling Techniques, 1977, section 6.4) by Student's t.
fn seconds_a_task(shards: &[Sampled]) -> Option<Figure> {
    let tasks: u64 = shards.iter().map(|shard| shard.tasks).sum();
    let seconds: f64 = shards.iter().map(|shard| shard.seconds).sum();
    if tasks == 0 || seconds <= 0.0 {
        return None;
    }
    let (count, mean) = (shards.len() as f64, seconds / tasks as f64);
    if shards.len() < 2 {
        return Some(Figure { mean, low: None, high: None });
    }
    let squares: f64 = shards.iter().map(|shard| (shard.seconds - mean * shard.tasks as f64).powi(2)).sum();
    let deviation = (squares / (count - 1.0) / count).sqrt() / (tasks as f64 / count);
    let half = deviation * STUDENT.get(shards.len() - 2).copied().unwrap_or(NORMAL);
    Some(Figure { mean, low: Some((mean - half).max(0.0)), high: Some(mean + half) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shards(seconds: &[f64]) -> Vec<Sampled> {
        seconds.iter().map(|seconds| Sampled { tasks: 5, seconds: *seconds }).collect()
    }

    #[test]
    fn the_whole_takes_what_the_sample_took_in_proportion() {
        let outlook = Outlook::of(&shards(&[10.0; 8]), 36_000, 4, Some(2.5)).unwrap();
        let certain = |mean: f64| Figure { mean, low: Some(mean), high: Some(mean) };
        assert_eq!(outlook.pictures_per_second, certain(0.5));
        assert_eq!(outlook.worker_hours, certain(20.0));
        assert_eq!((outlook.seconds, outlook.cost), (Some(certain(18_000.0)), Some(certain(50.0))));
    }

    #[test]
    fn the_interval_holds_the_true_rate_in_about_95_of_a_hundred_samples() {
        let mut random = fastrand::Rng::with_seed(5);
        let mut held = 0;
        for _ in 0..2000 {
            // A shard takes 5 to 15 s, 10 in the mean: 2 s a task.
            let seconds: Vec<f64> = (0..8).map(|_| 5.0 + 10.0 * random.f64()).collect();
            let figure = seconds_a_task(&shards(&seconds)).unwrap();
            held += u32::from(figure.low.unwrap() <= 2.0 && 2.0 <= figure.high.unwrap());
        }
        assert!((1860..1940).contains(&held), "{held} of 2000");
    }

    #[test]
    fn one_shard_gives_a_figure_without_an_interval_and_no_shard_none() {
        let outlook = Outlook::of(&shards(&[10.0]), 100, 0, None).unwrap();
        assert_eq!((outlook.pictures_per_second.low, outlook.seconds, outlook.cost), (None, None, None));
        assert!(outlook.in_words("default").contains("--estimate 16"));
        assert_eq!(Outlook::of(&[], 100, 1, None), None);
        assert_eq!(Outlook::of(&shards(&[0.0]), 100, 1, None), None);
    }
}
