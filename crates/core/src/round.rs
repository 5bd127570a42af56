//! Rounds: round 0 is the manifest, a later one holds tasks that failed; and the reopening of a run that has ended.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::id::{AttemptId, Round, ShardId};
use crate::outcome::{ErrorCode, TaskError};
use crate::retry::RetryPolicy;

/// A round all of whose shards are there. Immutable.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RoundInfo {
    /// Which.
    pub round: Round,
    /// Its shards.
    pub shards: u32,
    /// Its tasks.
    pub tasks: u64,
    /// Who wrote its inputs: the part of their names that no other writer has.
    pub inputs: AttemptId,
    /// When it may begin, by the clock of whoever wrote it.
    pub not_before: Timestamp,
    /// The wait before it, in seconds: however far that clock is from another one, nobody waits longer.
    #[serde(default)]
    pub delay_seconds: f64,
    /// Where its budget of rounds begins: at 0, or at the latest round that reopened the run.
    pub budget: Round,
    /// What is to be added to the failures that the markers count, so that the sum speaks of tasks that have failed for
    /// good and no longer of those that a reopening took up again.
    pub failed_offset: i64,
    /// Which tasks it took up, where it reopened the run: those, and no others, of the tasks that had failed by then.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reopened: Option<FailedWhere>,
}

impl RoundInfo {
    /// The manifest's round.
    pub fn first(shards: u32, tasks: u64, inputs: AttemptId, not_before: Timestamp) -> Self {
        let round = Round(0);
        Self {
            round,
            shards,
            tasks,
            inputs,
            not_before,
            delay_seconds: 0.0,
            budget: round,
            failed_offset: 0,
            reopened: None,
        }
    }

    /// The wait before it, of an hour at most.
    pub fn delay(&self) -> std::time::Duration {
        std::time::Duration::from_secs_f64(self.delay_seconds.clamp(0.0, 3600.0))
    }

    /// The round's shards.
    pub fn shard_ids(&self) -> impl Iterator<Item = ShardId> + use<> {
        let round = self.round;
        (0..self.shards).map(move |index| ShardId { round, index })
    }

    /// The last round that a task of this one may go into.
    pub fn last_round(&self, retry: &RetryPolicy) -> u32 {
        self.budget.0.saturating_add(retry.max_rounds)
    }

    /// The failures for good, from those that the markers of all rounds up to this one count.
    pub fn failed(&self, counted: u64) -> u64 {
        counted.saturating_add_signed(self.failed_offset)
    }
}

/// Which failed tasks are meant: those that every condition that is given fits.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FailedWhere {
    /// Their code is one of these.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub code: Option<BTreeSet<ErrorCode>>,
    /// Whether trying again could help with nothing changed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub retryable: Option<bool>,
}

impl FailedWhere {
    /// Whether the task that failed like this is meant.
    pub fn fits(&self, error: &TaskError) -> bool {
        self.code.as_ref().is_none_or(|codes| codes.contains(&error.code))
            && self.retryable.is_none_or(|retryable| retryable == error.retryable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_that_is_not_given_fits_everything() {
        let poison = TaskError::permanent(ErrorCode::Poison, "x");
        let busy = TaskError::transient(ErrorCode::ModelError, "x");
        let read = |json: &str| serde_json::from_str::<FailedWhere>(json).unwrap();
        for (which, fits) in [
            ("{}", (true, true)),
            (r#"{"code":["poison","out_of_memory"]}"#, (true, false)),
            (r#"{"retryable":true}"#, (false, true)),
            (r#"{"code":["poison"],"retryable":true}"#, (false, false)),
            (r#"{"code":[]}"#, (false, false)),
        ] {
            assert_eq!((read(which).fits(&poison), read(which).fits(&busy)), fits, "{which}");
        }
    }
}
