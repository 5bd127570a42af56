//! The commit marker: the one small object whose existence means "this shard is done", written once.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::id::{AttemptId, RunId, Sha256Hex, ShardId, WorkerId};
use crate::outcome::{Outcome, TaskEnd, TaskOutcome};
use crate::run::{AcceptanceCounts, ModelIdentity, RunSpec};

/// What a worker commits: which archive counts, and the outcome of every task of the shard.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CommitMarker {
    /// The format of this marker: 2.
    pub version: u32,
    /// The run.
    pub run: RunId,
    /// The shard.
    pub shard: ShardId,
    /// The delivery that won.
    pub attempt: AttemptId,
    /// The worker that won.
    pub worker: WorkerId,
    /// The model that made its pictures; none where the coordinator committed failures.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub model: Option<ModelIdentity>,
    /// The digest of the run's settings, as [`settings_digest`] makes it.
    pub settings: Sha256Hex,
    /// The archives that hold its pictures: this attempt's, and those of earlier ones that handed the shard back. None in
    /// files format and where no task made a picture.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub archives: Vec<ArchiveRef>,
    /// One outcome a task, in the shard's order.
    pub outcomes: Vec<TaskOutcome>,
    /// When the attempt began.
    pub started_at: Timestamp,
    /// When it was committed.
    pub committed_at: Timestamp,
    /// Seconds that the model ran.
    pub device_seconds: f64,
}

/// What a marker counts: how many pictures there are, and the tasks that have none. The files of the pictures, which are
/// most of a marker, are passed over, so that it is read several times as fast as a [`CommitMarker`].
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(from = "Ends")]
pub struct Tally {
    /// The run.
    pub run: RunId,
    /// The shard.
    pub shard: ShardId,
    /// Tasks whose picture was made.
    pub done: u64,
    /// The others, in the shard's order.
    pub failed: Vec<TaskOutcome>,
    /// What became of the pictures, where the run accepts only some.
    pub acceptance: AcceptanceCounts,
    /// Seconds that the model ran.
    pub device_seconds: f64,
}

impl Tally {
    /// Tasks of the shard.
    pub fn tasks(&self) -> u64 {
        self.done + self.failed.len() as u64
    }

    fn of(run: RunId, shard: ShardId, ends: impl Iterator<Item = TaskEnd>, device_seconds: f64) -> Self {
        let mut tally =
            Self { run, shard, done: 0, failed: Vec::new(), acceptance: AcceptanceCounts::default(), device_seconds };
        for end in ends {
            match end {
                TaskEnd::Done { accepted, tries } => {
                    tally.done += 1;
                    tally.acceptance.add(accepted, tries);
                }
                TaskEnd::Failed(outcome) => tally.failed.push(outcome),
            }
        }
        tally
    }
}

impl From<&CommitMarker> for Tally {
    fn from(marker: &CommitMarker) -> Self {
        let ends = marker.outcomes.iter().map(|outcome| match &outcome.outcome {
            Outcome::Done { accepted, tries, .. } => TaskEnd::Done { accepted: *accepted, tries: tries.len() },
            Outcome::Failed(_) => TaskEnd::Failed(outcome.clone()),
        });
        Self::of(marker.run.clone(), marker.shard, ends, marker.device_seconds)
    }
}

/// A marker as a [`Tally`] reads it.
#[derive(Deserialize)]
struct Ends {
    run: RunId,
    shard: ShardId,
    outcomes: Vec<TaskEnd>,
    #[serde(default)]
    device_seconds: f64,
}

impl From<Ends> for Tally {
    fn from(ends: Ends) -> Self {
        Self::of(ends.run, ends.shard, ends.outcomes.into_iter(), ends.device_seconds)
    }
}

/// An archive in the object store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchiveRef {
    /// Its key, relative to the run.
    pub key: String,
    /// The digest of its bytes.
    pub sha256: Sha256Hex,
    /// Its length.
    pub bytes: u64,
}

/// What an attempt had finished of its shard when it handed it back: whoever goes on makes the rest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Part {
    /// The format of this part: 1.
    pub version: u32,
    /// The run.
    pub run: RunId,
    /// The shard.
    pub shard: ShardId,
    /// The attempt that made it.
    pub attempt: AttemptId,
    /// The model that made its pictures; a worker with another one makes them again.
    pub model: ModelIdentity,
    /// As in [`CommitMarker::settings`].
    pub settings: Sha256Hex,
    /// The archive that holds them; none in files format.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub archive: Option<ArchiveRef>,
    /// Outcomes of tasks with a picture, in the shard's order.
    pub outcomes: Vec<TaskOutcome>,
    /// Seconds that the model ran for them.
    pub device_seconds: f64,
}

/// SHA-256 over what of a run's spec decides its pixels, besides the model and the tasks: its settings and the methods
/// that it is compared with.
pub fn settings_digest(spec: &RunSpec) -> Sha256Hex {
    // Plain data with string keys: this cannot fail.
    Sha256Hex::of(&serde_json::to_vec(&(&spec.settings, &spec.compare)).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::clock;
    use crate::id::{CustomId, Round, Seed, TaskIndex};
    use crate::measure::Try;
    use crate::outcome::{ErrorCode, FileRef, TaskError};

    fn marker(outcomes: Vec<TaskOutcome>) -> CommitMarker {
        CommitMarker {
            version: 2,
            run: RunId::new("r").unwrap(),
            shard: ShardId { round: Round(0), index: 0 },
            attempt: AttemptId::new("0a").unwrap(),
            worker: WorkerId::new("w").unwrap(),
            model: None,
            settings: Sha256Hex::of(b""),
            archives: Vec::new(),
            outcomes,
            started_at: clock::now(),
            committed_at: clock::now(),
            device_seconds: 1.0,
        }
    }

    #[test]
    fn a_marker_that_is_read_to_be_counted_counts_what_the_whole_one_counts() {
        let file = FileRef { path: "a \"b\".png".to_owned(), sha256: Sha256Hex::of(b"a"), bytes: 1 };
        let a_try = Try { seed: Seed::new(1).unwrap(), measures: BTreeMap::new(), accepted: false, error: None };
        let done = Outcome::Done {
            archive: None,
            files: BTreeMap::from([("image".to_owned(), file)]),
            mask_coverage: Some(0.5),
            scores: BTreeMap::new(),
            measures: BTreeMap::new(),
            accepted: Some(false),
            tries: vec![a_try.clone(), a_try],
            warnings: vec!["an empty mask".to_owned()],
        };
        let failed = |retryable| {
            let (code, message) = (ErrorCode::ModelError, "busy, \"status\":\"done\"".to_owned());
            Outcome::Failed(TaskError { code, message, retryable })
        };
        let id = |index: u64| CustomId::new(format!("task-{index}")).unwrap();
        let outcome = |(index, outcome)| {
            let index = index as u64;
            TaskOutcome {
                task: TaskIndex(index),
                custom_id: id(index),
                seed: Seed::new(index).unwrap(),
                outcome,
                extra: Default::default(),
            }
        };
        let outcomes = [done.clone(), failed(true), done, failed(false)].into_iter().enumerate().map(outcome);
        let marker = marker(outcomes.collect());
        let tally = Tally::from(&marker);
        assert_eq!((tally.done, tally.tasks()), (2, 4));
        assert_eq!(tally.acceptance, AcceptanceCounts { accepted: 0, kept: 2, tries: 2 });
        assert_eq!(tally.failed, [marker.outcomes[1].clone(), marker.outcomes[3].clone()]);
        let json = serde_json::to_vec_pretty(&marker).unwrap();
        assert_eq!(serde_json::from_slice::<Tally>(&json).unwrap(), tally);
    }

    #[test]
    fn a_damaged_marker_is_not_counted() {
        let whole = r#""outcomes":[]}"#;
        let of_a_shard = |outcomes: &str| format!(r#"{{"run":"r","shard":"r0-000000",{outcomes}"#);
        assert_eq!(serde_json::from_str::<Tally>(&of_a_shard(whole)).unwrap().tasks(), 0);
        assert!(serde_json::from_str::<Tally>(&format!("{{{whole}")).is_err(), "it says not of what it is");
        for damaged in [
            r#"}"#,
            r#""outcomes":[{"task":0,"custom_id":"a","seed":1}]}"#,
            r#""outcomes":[{"task":0,"custom_id":"a","seed":1,"status":"gone"}]}"#,
            r#""outcomes":[{"task":0,"custom_id":"a","seed":1,"status":"failed"}]}"#,
            r#""outcomes":[{"task":0,"custom_id":"a","seed":1,"status":"done"}"#,
            r#""outcomes":[{"task":0,"custom_id":"a","seed":1,"status":"done"}]}"#,
        ] {
            assert!(serde_json::from_str::<Tally>(&of_a_shard(damaged)).is_err(), "{damaged}");
        }
    }
}
