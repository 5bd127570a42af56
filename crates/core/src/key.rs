//! Every object's key comes out of one enum: nothing else in Diorama builds a path of the store.

use std::fmt;

use crate::id::{AttemptId, CustomId, RunId, Sha256Hex, ShardId};
use crate::run::OutputFormat;

/// Where a run's objects lie: below `runs/{run}/` in a shared store, or at the root of a folder that holds one run
/// (`diorama run --out DIR`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunRoot {
    /// A store with many runs.
    Shared(RunId),
    /// A folder that is the run.
    Own,
}

/// An object of a run, or a shared blob. What more than one process may write under one name is written once, under a
/// condition; everything else carries the attempt that wrote it in its name. So nothing is ever rewritten.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ObjectKey {
    /// The immutable spec.
    Spec,
    /// The entry of the run's log with this number, from 0.
    Decision(u64),
    /// A shard's validated rows, as the writer of its round wrote them.
    Input(ShardId, AttemptId),
    /// The rows that were refused and skipped, one a line, as the submission wrote them.
    InvalidRows(AttemptId),
    /// The list with this number, from 0, of the uploaded references that a submission's rows name, one a line; and
    /// whether it is the last.
    BlobList(AttemptId, u32, bool),
    /// One attempt's archive.
    Archive(ShardId, AttemptId),
    /// One file of a picture in files format: `folder/{custom_id}{suffix}`, below the attempt that made it.
    File(ShardId, AttemptId, Folder, CustomId, String),
    /// What an attempt had finished of its shard when it handed it back.
    Part(ShardId, AttemptId),
    /// The commit marker of a shard.
    Commit(ShardId),
    /// That the first attempt on a shard began.
    FirstAttempt(ShardId),
    /// The entry with this number, from 0, that an attempt adds to its shard's journal.
    Journal(ShardId, AttemptId, u32),
    /// The shards that an ending left out: they count as cancelled.
    Void(AttemptId),
    /// The outcomes of tasks with a picture, one a line, of one ending.
    Results(AttemptId),
    /// The outcomes of tasks without, and the rows that were refused, of one ending.
    Errors(AttemptId),
    /// Counts and rates of a run that has ended, for whoever looks into the folder; the log has them too.
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
    /// The references as they were used.
    UsedReferences,
}

impl Folder {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Images, Self::Masks, Self::Overlays, Self::Heatmaps, Self::Records, Self::Compare, Self::UsedReferences];

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Images => "images",
            Self::Masks => "masks",
            Self::Overlays => "overlays",
            Self::Heatmaps => "heatmaps",
            Self::Records => "records",
            Self::Compare => "compare",
            Self::UsedReferences => "used-references",
        }
    }
}

impl ObjectKey {
    /// The key in a store whose run lies at `root`.
    pub fn path(&self, root: &RunRoot) -> String {
        match (self, root) {
            (Self::Blob(sha256), _) => format!("{BLOBS}{sha256}"),
            (_, RunRoot::Own) => self.relative(root),
            (_, RunRoot::Shared(run)) => format!("runs/{run}/{}", self.relative(root)),
        }
    }

    /// The key relative to the run. In a folder of its own a run has one process at a time, so what users look for has
    /// the name that they expect; in a shared store it lies below whoever wrote it.
    pub fn relative(&self, root: &RunRoot) -> String {
        let own = *root == RunRoot::Own;
        match self {
            Self::Spec => "run.json".to_owned(),
            Self::Decision(number) => format!("decisions/{number:06}.json"),
            Self::Input(shard, writer) => format!("input/{shard}.{writer}.jsonl"),
            Self::InvalidRows(writer) => format!("input/invalid.{writer}.jsonl"),
            Self::BlobList(writer, number, false) => format!("{BLOB_LISTS}{writer}.{number:05}"),
            Self::BlobList(writer, number, true) => format!("{BLOB_LISTS}{writer}.{number:05}{LAST_BLOB_LIST}"),
            Self::Archive(shard, attempt) => format!("shards/{shard}.{attempt}.tar"),
            Self::File(_, _, folder, id, suffix) if own => format!("{}/{id}{suffix}", folder.as_str()),
            Self::File(shard, attempt, folder, id, suffix) => {
                format!("files/{shard}.{attempt}/{}/{id}{suffix}", folder.as_str())
            }
            Self::Part(shard, attempt) => format!("parts/{shard}.{attempt}.json"),
            Self::Commit(shard) => format!("commits/{shard}.json"),
            Self::FirstAttempt(shard) => format!("journal/{shard}.json"),
            Self::Journal(shard, attempt, number) => format!("journal/{shard}.{attempt}.{number:05}.json"),
            Self::Void(ending) => format!("endings/{ending}/void.json"),
            Self::Results(_) if own => RESULTS.to_owned(),
            Self::Results(ending) => format!("endings/{ending}/{RESULTS}"),
            Self::Errors(_) if own => ERRORS.to_owned(),
            Self::Errors(ending) => format!("endings/{ending}/{ERRORS}"),
            Self::Summary => "summary.json".to_owned(),
            Self::Gallery => "index.html".to_owned(),
            Self::Blob(sha256) => format!("{BLOBS}{sha256}"),
        }
    }
}

/// What a run in a folder of its own has directly in it: what its objects' keys begin with.
pub fn names_in_own_folder(format: OutputFormat) -> Vec<&'static str> {
    let shared = ["run.json", RESULTS, TABLE, ERRORS, "summary.json", "index.html"];
    let folders =
        [DECISIONS, INPUTS, COMMITS, ENDINGS, "parts/", "journal/"].map(|folder| folder.trim_end_matches('/'));
    let pictures = match format {
        OutputFormat::Files => Folder::ALL.map(Folder::as_str).to_vec(),
        OutputFormat::Webdataset => vec!["shards"],
    };
    [&shared[..], &folders[..], &pictures].concat()
}

/// The folders of a run, relative to it, whose objects belong to one shard each.
pub const SHARD_FOLDERS: [&str; 4] = ["shards/", "files/", "parts/", "journal/"];

/// The list of a run's pictures, in a folder of its own and for users.
pub const RESULTS: &str = "results.jsonl";

/// The same list as a table in Parquet.
pub const TABLE: &str = "results.parquet";

/// The list of what has no picture.
pub const ERRORS: &str = "errors.jsonl";

/// What every [`ObjectKey::Commit`] begins with, relative to the run.
pub const COMMITS: &str = "commits/";

/// What every [`ObjectKey::Decision`] begins with, relative to the run.
pub const DECISIONS: &str = "decisions/";

/// What every [`ObjectKey::Input`], [`ObjectKey::InvalidRows`] and [`ObjectKey::BlobList`] begins with, relative to the run.
pub const INPUTS: &str = "input/";

/// What every [`ObjectKey::BlobList`] begins with, relative to the run.
pub const BLOB_LISTS: &str = "input/blobs.";

/// What the name of a submission's last [`ObjectKey::BlobList`] ends with.
const LAST_BLOB_LIST: &str = ".end";

/// What every [`ObjectKey::Blob`] begins with.
pub const BLOBS: &str = "blobs/";

/// What the objects of every ending begin with, relative to the run.
pub const ENDINGS: &str = "endings/";

/// What every object of every run of a shared store begins with.
pub const RUNS: &str = "runs/";

/// Whether a key of a shared store is one of the fleet's own objects.
pub fn is_of_fleet(key: &str) -> bool {
    [RUNS, BLOBS, SharedKey::INDEX].iter().any(|prefix| key.starts_with(prefix))
}

/// The shard that a key relative to its run is about: of an input, an archive, a file below its attempt, a part, a
/// marker or an entry of the journal.
pub fn shard_of(relative: &str) -> Option<ShardId> {
    relative.split('/').nth(1)?.split('.').next()?.parse().ok()
}

/// The number of a [`ObjectKey::Decision`], from its key relative to the run.
pub fn decision_of(relative: &str) -> Option<u64> {
    let digits = relative.strip_prefix(DECISIONS)?.strip_suffix(".json")?;
    digits.parse().ok().filter(|number| format!("{number:06}") == digits)
}

/// Writer and number of a [`ObjectKey::BlobList`], and whether it is the writer's last, from its key relative to the run.
pub fn blob_list_of(relative: &str) -> Option<(AttemptId, u32, bool)> {
    let rest = relative.strip_prefix(BLOB_LISTS)?;
    let (rest, is_last) = rest.strip_suffix(LAST_BLOB_LIST).map_or((rest, false), |rest| (rest, true));
    let (writer, number) = rest.rsplit_once('.')?;
    Some((AttemptId::new(writer).ok()?, number.parse().ok()?, is_last))
}

/// The blob that a full key names.
pub fn blob_of(key: &str) -> Option<Sha256Hex> {
    Sha256Hex::try_from(key.strip_prefix(BLOBS)?.to_owned()).ok()
}

/// The run that a full key of a shared store belongs to.
pub fn run_of(key: &str) -> Option<RunId> {
    RunId::new(key.strip_prefix(RUNS)?.split_once('/')?.0).ok()
}

/// Where a user expects the file that lies at `relative`: without the attempt that made it.
pub fn as_users_name_it(relative: &str) -> &str {
    let within = relative.strip_prefix("files/").and_then(|rest| rest.split_once('/'));
    within.map_or(relative, |(_, file)| file)
}

/// Where a user expects a member of an archive that is about this task: where the same file lies in files format.
pub fn member_as_users_name_it(id: &CustomId, member: &str) -> String {
    let in_folder = |folder: Folder, rest: &str| format!("{}/{id}.{rest}", folder.as_str());
    match member.split_once('.').map(|(_, end)| end) {
        Some("png") => in_folder(Folder::Images, "png"),
        Some("record") => in_folder(Folder::Records, "json"),
        Some("json") => format!("metadata/{id}.json"),
        Some("txt") => format!("prompts/{id}.txt"),
        end => match end.and_then(|end| end.split_once('.')) {
            Some(("mask", rest)) => in_folder(Folder::Masks, rest),
            Some(("overlay", rest)) => in_folder(Folder::Overlays, rest),
            Some(("heatmap", rest)) => in_folder(Folder::Heatmaps, rest),
            Some(("compare", rest)) => in_folder(Folder::Compare, rest),
            Some(("reference", rest)) => in_folder(Folder::UsedReferences, rest),
            _ => member.to_owned(),
        },
    }
}

/// An object beside the runs of a shared store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SharedKey {
    /// That the run was submitted; listed in the order of submission, because run ids rise.
    Submitted(RunId),
    /// That the run has not ended; removed when it has.
    Active(RunId),
    /// That the run was deleted, for as long as something late may still appear under its name.
    Deleted(RunId),
    /// The coordinator that drives the runs while the progress service, which has the lease, is away.
    Leader,
    /// Which run a submission became, by the key that its sender chose and how often that was submitted anew, because
    /// its run was deleted: the last one counts.
    Idempotency(Sha256Hex, u32),
    /// The blobs that a collection is about to remove, one a line, until it has.
    Collecting(AttemptId),
}

impl SharedKey {
    /// Below which all of them lie.
    const INDEX: &'static str = "index/";
    /// What every [`SharedKey::Submitted`] begins with.
    pub const SUBMITTED: &'static str = "index/submitted/";
    /// What every [`SharedKey::Active`] begins with.
    pub const ACTIVE: &'static str = "index/active/";
    /// What every [`SharedKey::Deleted`] begins with.
    pub const DELETED: &'static str = "index/deleted/";
    /// What every [`SharedKey::Idempotency`] begins with.
    pub const IDEMPOTENCY: &'static str = "index/idempotency/";
    /// What every [`SharedKey::Collecting`] begins with.
    pub const COLLECTING: &'static str = "index/collecting/";

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
            Self::Deleted(run) => write!(f, "{}{run}", Self::DELETED),
            Self::Leader => f.write_str("index/leader"),
            Self::Idempotency(key, number) => write!(f, "{}{key}.{number}", Self::IDEMPOTENCY),
            Self::Collecting(collection) => write!(f, "{}{collection}", Self::COLLECTING),
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
        let (attempt, file) = (AttemptId::new("0a").unwrap(), "images/x.y.png");
        let picture =
            ObjectKey::File(shard, attempt.clone(), Folder::Images, CustomId::new("x.y").unwrap(), ".png".to_owned());
        assert_eq!(picture.path(&RunRoot::Own), file);
        let shared = picture.relative(&RunRoot::Shared(run.clone()));
        assert_eq!((shared.as_str(), as_users_name_it(&shared)), ("files/r0-000012.0a/images/x.y.png", file));
        assert_eq!(as_users_name_it(file), file);
        let id = CustomId::new("x.y").unwrap();
        for (member, place) in [
            ("x%2Ey.png", "images/x.y.png"),
            ("x%2Ey.mask.png", "masks/x.y.png"),
            ("x%2Ey.heatmap.png", "heatmaps/x.y.png"),
            ("x%2Ey.compare.img2img-reduced.png", "compare/x.y.img2img-reduced.png"),
            ("x%2Ey.reference.png", "used-references/x.y.png"),
            ("x%2Ey.record", "records/x.y.json"),
            ("x%2Ey.json", "metadata/x.y.json"),
            ("x%2Ey.txt", "prompts/x.y.txt"),
            ("x%2Ey.later.bin", "x%2Ey.later.bin"),
        ] {
            assert_eq!(member_as_users_name_it(&id, member), place);
        }
        let blob = ObjectKey::Blob(Sha256Hex::of(b""));
        assert_eq!(blob.path(&RunRoot::Own), blob.path(&RunRoot::Shared(run)));
    }

    #[test]
    fn every_object_of_a_run_in_a_folder_of_its_own_has_a_name_that_is_listed() {
        let (shard, attempt) = (ShardId { round: Round(0), index: 1 }, AttemptId::new("0a").unwrap());
        let file =
            |folder| ObjectKey::File(shard, attempt.clone(), folder, CustomId::new("x").unwrap(), ".png".to_owned());
        let shared = [
            ObjectKey::Spec,
            ObjectKey::Decision(1),
            ObjectKey::Input(shard, attempt.clone()),
            ObjectKey::InvalidRows(attempt.clone()),
            ObjectKey::Part(shard, attempt.clone()),
            ObjectKey::Commit(shard),
            ObjectKey::FirstAttempt(shard),
            ObjectKey::Void(attempt.clone()),
            ObjectKey::Results(attempt.clone()),
            ObjectKey::Errors(attempt.clone()),
            ObjectKey::Summary,
            ObjectKey::Gallery,
        ];
        for (format, own) in [
            (OutputFormat::Files, Folder::ALL.map(file).to_vec()),
            (OutputFormat::Webdataset, vec![ObjectKey::Archive(shard, attempt.clone())]),
        ] {
            for key in shared.iter().chain(&own) {
                let path = key.path(&RunRoot::Own);
                assert!(names_in_own_folder(format).contains(&path.split('/').next().unwrap()), "{path}");
            }
        }
    }

    #[test]
    fn a_key_tells_the_shard_the_run_and_the_number_that_it_was_made_of() {
        let (shard, attempt) = (ShardId { round: Round(3), index: 7 }, AttemptId::new("0a").unwrap());
        let id = CustomId::new("x.y").unwrap();
        let keys = [
            ObjectKey::Input(shard, attempt.clone()),
            ObjectKey::Archive(shard, attempt.clone()),
            ObjectKey::File(shard, attempt.clone(), Folder::Masks, id, ".png".to_owned()),
            ObjectKey::Part(shard, attempt.clone()),
            ObjectKey::Commit(shard),
            ObjectKey::FirstAttempt(shard),
            ObjectKey::Journal(shard, attempt.clone(), 4),
        ];
        let root = RunRoot::Shared(RunId::new("a").unwrap());
        for key in keys {
            assert_eq!(shard_of(&key.relative(&root)), Some(shard), "{key:?}");
            assert_eq!(run_of(&key.path(&root)), Some(RunId::new("a").unwrap()), "{key:?}");
        }
        assert_eq!(shard_of(&ObjectKey::InvalidRows(attempt.clone()).relative(&root)), None);
        assert_eq!(decision_of(&ObjectKey::Decision(12).relative(&root)), Some(12));
        assert_eq!(decision_of("decisions/12.json"), None);
        assert_eq!((run_of("index/active/a"), run_of("runs/a")), (None, None));
        for is_last in [false, true] {
            let list = ObjectKey::BlobList(attempt.clone(), 3, is_last).relative(&root);
            assert_eq!(blob_list_of(&list), Some((attempt.clone(), 3, is_last)));
        }
        assert_eq!(blob_list_of(&ObjectKey::InvalidRows(attempt).relative(&root)), None);
        let blob = Sha256Hex::of(b"x");
        assert_eq!(blob_of(&ObjectKey::Blob(blob.clone()).path(&root)), Some(blob));
    }
}
