//! When a failed task is tried again, and when it is left.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Faults of tasks: rounds of retries. Faults of infrastructure cost a task nothing and are not counted here.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RetryPolicy {
    /// The last round: 0 means that nothing is tried again. 0 to 10.
    pub max_rounds: u32,
    /// Seconds before round 1; doubled for each later round, at most an hour.
    pub delay_seconds: f64,
    /// Deaths of workers on a shard after which it runs task by task with a journal. 1 to 10.
    pub poison_after: u32,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { max_rounds: 2, delay_seconds: 5.0, poison_after: 2 }
    }
}

impl RetryPolicy {
    /// The wait before `round` starts (1 and later).
    pub fn delay(&self, round: u32) -> Duration {
        let factor = 2f64.powi(round.saturating_sub(1).min(30) as i32);
        Duration::from_secs_f64((self.delay_seconds.max(0.0) * factor).min(3600.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_delay_grows_and_is_bounded() {
        let policy = RetryPolicy::default();
        assert!(policy.delay(2) > policy.delay(1));
        assert_eq!(policy.delay(1000), Duration::from_secs(3600));
    }
}
