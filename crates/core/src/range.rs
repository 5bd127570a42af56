//! Ranges of numbers, and those that more than one part holds to: the command line, the configuration and the API take
//! the same shards, rounds and priorities, because each reads its range here.

use std::fmt;

use serde_json::Value;

use crate::id::Seed;

/// Tasks a shard.
pub const SHARD_SIZE: Range = Range::new(1.0, 100_000.0);

/// The last round of retries; 0 means that nothing is tried again.
pub const MAX_ROUNDS: Range = Range::new(0.0, 10.0);

/// Seconds before the first round of retries.
pub const RETRY_DELAY: Range = Range::new(0.0, 3600.0);

/// Deaths of workers on a shard after which it runs task by task: as many workers as one task may cost.
pub const POISON_AFTER: Range = Range::new(1.0, 10.0);

/// The priority of a run among those of its pool.
pub const PRIORITY: Range = Range::new(-100.0, 100.0);

/// The share of a run among those of the same priority.
pub const WEIGHT: Range = Range::new(1.0, 1000.0);

/// Seeds: whole numbers that JSON readers of every kind hold exactly.
pub const SEED: Range = Range::new(0.0, Seed::MAX as f64);

/// How often a picture that is not accepted is made again.
pub const ACCEPT_TRIES: Range = Range::new(0.0, 10.0);

/// The same, where it is not said.
pub const ACCEPT_TRIES_DEFAULT: u32 = 3;

/// Bytes of a condition on measures.
pub const CONDITION_BYTES: usize = 4096;

/// Bytes of a run's name.
pub const NAME_BYTES: usize = 200;

/// Numbers from one to another. The bounds of whole numbers are below 2^53, so that they are exact.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Range {
    /// The smallest number, which belongs to it unless [`Range::is_open`].
    pub low: f64,
    /// The largest number, which belongs to it.
    pub high: f64,
    /// Whether `low` itself does not belong to it.
    pub is_open: bool,
}

impl Range {
    /// From `low` to `high`, both included.
    pub const fn new(low: f64, high: f64) -> Self {
        Self { low, high, is_open: false }
    }

    /// Above `low`, and at most `high`.
    pub const fn above(low: f64, high: f64) -> Self {
        Self { low, high, is_open: true }
    }

    /// Whether `number` belongs to it; what is no number does not.
    pub fn contains(&self, number: f64) -> bool {
        number <= self.high && if self.is_open { number > self.low } else { number >= self.low }
    }

    /// What is said of a number that does not belong to it.
    pub fn refusal(&self, number: &Value) -> String {
        format!("{number} is out of range; it must be {self}")
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { low, high, is_open } = self;
        if *is_open { write!(f, "above {low} and at most {high}") } else { write!(f, "{low} to {high}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_holds_its_bounds_and_says_them() {
        assert!([1.0, 2.0, 100_000.0].iter().all(|&number| SHARD_SIZE.contains(number)));
        assert!([0.0, 100_001.0, f64::NAN, f64::INFINITY].iter().all(|&number| !SHARD_SIZE.contains(number)));
        let open = Range::above(0.0, 1.0);
        assert_eq!([0.0, 1e-9, 1.0].map(|number| open.contains(number)), [false, true, true]);
        assert_eq!((SHARD_SIZE.to_string(), open.to_string()), ("1 to 100000".into(), "above 0 and at most 1".into()));
        assert_eq!(SEED.to_string(), format!("0 to {}", Seed::MAX));
    }
}
