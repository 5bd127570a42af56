//! Every object's key comes out of one enum: nothing else in Diorama builds a path of the store.

use std::fmt;

use crate::id::{AttemptId, CustomId, RunId, Sha256Hex, ShardId};

/// Where a run's objects lie: below `runs/{run}/` in a shared store, or at the root of a folder that holds one run
/// (`diorama run --out DIR`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunRoot {
    /// A store with many runs.
    Shared(RunId),
    /// A folder that is the run.
    Own,
}

/// An object of a run, or a shared blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ObjectKey {
    /// The immutable spec.
    Spec,
    /// A shard's validated rows, immutable.
    Input(ShardId),
    /// The rows that were refused and skipped, one a line.
    InvalidRows,
    /// That every shard of a round is there, with their number.
    RoundComplete(crate::id::Round),
    /// That the run, which had ended before this round, goes on with it.
    Reopened(crate::id::Round),
    /// One attempt's archive.
    Archive(ShardId, AttemptId),
    /// One file of a picture in files format: `folder/{custom_id}{suffix}`.
    File(Folder, CustomId, String),
    /// The commit marker of a shard.
    Commit(ShardId),
    /// Before each task of a shard that runs task by task: which one is running.
    Journal(ShardId),
    /// Running or paused.
    Control,
    /// That the run is cancelled, whatever [`Self::Control`] says.
    Cancelled,
    /// The model that the run is bound to, where its spec does not say.
    Model,
    /// The outcomes of tasks with a picture, one a line.
    Results,
    /// The outcomes of tasks without, and the rows that were refused.
    Errors,
    /// Counts and rates.
    Summary,
    /// The gallery.
    Gallery,
    /// An uploaded reference, by content; the same for every run.
    Blob(Sha256Hex),
}

/// The folders of a run in files format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Folder {
    /// The pictures.
    Images,
    /// Their last masks.
    Masks,
    /// The masks over the pictures.
    Overlays,
    /// A heat map a subject.
    Heatmaps,
    /// How each picture came to be.
    Records,
    /// What other methods make of the same tasks.
    Compare,
}

impl Folder {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Images, Self::Masks, Self::Overlays, Self::Heatmaps, Self::Records, Self::Compare];

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Images => "images",
            Self::Masks => "masks",
            Self::Overlays => "overlays",
            Self::Heatmaps => "heatmaps",
            Self::Records => "records",
            Self::Compare => "compare",
        }
    }
}

impl ObjectKey {
    /// The key in a store whose run lies at `root`.
    pub fn path(&self, root: &RunRoot) -> String {
        match (self, root) {
            (Self::Blob(sha256), _) => format!("blobs/{sha256}"),
            (_, RunRoot::Own) => self.to_string(),
            (_, RunRoot::Shared(run)) => format!("runs/{run}/{self}"),
        }
    }
}

impl fmt::Display for ObjectKey {
    /// The key relative to the run.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Spec => f.write_str("run.json"),
            Self::Input(shard) => write!(f, "input/{shard}.jsonl"),
            Self::InvalidRows => f.write_str("input/invalid.jsonl"),
            Self::RoundComplete(round) => write!(f, "input/r{}.complete.json", round.0),
            Self::Reopened(round) => write!(f, "input/r{}.reopened.json", round.0),
            Self::Archive(shard, attempt) => write!(f, "shards/{shard}.{attempt}.tar"),
            Self::File(folder, id, suffix) => write!(f, "{}/{id}{suffix}", folder.as_str()),
            Self::Commit(shard) => write!(f, "commits/{shard}.json"),
            Self::Journal(shard) => write!(f, "journal/{shard}.jsonl"),
            Self::Control => f.write_str("control.json"),
            Self::Cancelled => f.write_str("cancelled.json"),
            Self::Model => f.write_str("model.json"),
            Self::Results => f.write_str("results.jsonl"),
            Self::Errors => f.write_str("errors.jsonl"),
            Self::Summary => f.write_str("summary.json"),
            Self::Gallery => f.write_str("index.html"),
            Self::Blob(sha256) => write!(f, "blobs/{sha256}"),
        }
    }
}

/// An object beside the runs of a shared store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SharedKey {
    /// That the run was submitted; listed in the order of submission, because run ids rise.
    Submitted(RunId),
    /// That the run has not ended; removed when it has.
    Active(RunId),
    /// That the run is being deleted.
    Deleting(RunId),
    /// Which run a submission became, by the key that its sender chose.
    Idempotency(Sha256Hex),
}

impl SharedKey {
    /// What every [`SharedKey::Submitted`] begins with.
    pub const SUBMITTED: &'static str = "index/submitted/";
    /// What every [`SharedKey::Active`] begins with.
    pub const ACTIVE: &'static str = "index/active/";

    /// The run that a listed key of [`SharedKey::Submitted`] or [`SharedKey::Active`] is about.
    pub fn run(key: &str) -> Option<RunId> {
        key.rsplit_once('/').and_then(|(_, run)| RunId::new(run).ok())
    }
}

impl fmt::Display for SharedKey {
    /// The full key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Submitted(run) => write!(f, "{}{run}", Self::SUBMITTED),
            Self::Active(run) => write!(f, "{}{run}", Self::ACTIVE),
            Self::Deleting(run) => write!(f, "index/deleting/{run}"),
            Self::Idempotency(key) => write!(f, "index/idempotency/{key}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Round;

    #[test]
    fn a_runs_objects_lie_below_its_root_and_blobs_do_not() {
        let shard = ShardId { round: Round(0), index: 12 };
        let run = RunId::new("a").unwrap();
        assert_eq!(ObjectKey::Commit(shard).path(&RunRoot::Own), "commits/r0-000012.json");
        assert_eq!(ObjectKey::Commit(shard).path(&RunRoot::Shared(run.clone())), "runs/a/commits/r0-000012.json");
        let blob = ObjectKey::Blob(Sha256Hex::of(b""));
        assert_eq!(blob.path(&RunRoot::Own), blob.path(&RunRoot::Shared(run)));
    }
}
