//! What `verify` finds: every damage to an ended run by name, in either format; and what it may remove.

use std::collections::BTreeMap;

use diorama_core::key::Folder;
use diorama_core::marker::ArchiveRef;
use diorama_core::outcome::FileRef;
use serde_json::json;

use super::unkind::MemoryObjects;
use super::*;
use crate::{Grace, Verification, rounds, verify};

type Stored = BTreeMap<String, Bytes>;

/// A repair that leaves nothing for its age.
const ANY_AGE: Grace = Grace(Duration::ZERO);

/// What is done to the objects of an ended run, and words of the problem that must be found.
type Damage = (&'static str, fn(&mut Stored), &'static str);

/// A run of eight tasks that has ended: task 2 failed first and was done in round 1, task 5 failed for good, and a row
/// was refused.
struct Ended {
    bench: Bench,
    objects: Arc<MemoryObjects>,
    spec: RunSpec,
}

impl Ended {
    async fn new(format: OutputFormat, root: RunRoot) -> Self {
        let objects = Arc::new(MemoryObjects::default());
        let bench = Bench::over(tempfile::tempdir().unwrap(), objects.clone(), root);
        let spec = pictures_spec(format);
        submit_pictures(&bench, &spec).await;
        commit_round(&bench, &spec).await;
        let (coordinator, _) = bench.coordinator(|_| ());
        within(coordinator.drive(&spec, &CancellationToken::new())).await.unwrap();
        // As it is after some days.
        bench.backends.progress.forget(&spec.run).await.unwrap();
        Self { bench, objects, spec }
    }

    /// All objects, by their keys relative to the run.
    fn stored(&self) -> Stored {
        let within = |(key, bytes): (&String, &Bytes)| (self.bench.store.within(key).to_owned(), bytes.clone());
        self.objects.all().iter().map(within).collect()
    }

    fn store(&self, stored: &Stored) {
        let full = |(key, bytes): (&String, &Bytes)| (self.bench.store.relative(key), bytes.clone());
        *self.objects.all() = stored.iter().map(full).collect();
    }

    /// What `verify` finds; an error where the run's log cannot be read.
    async fn verify(&self, repair: bool) -> Result<Verification, CoordinatorError> {
        let history = self.bench.store.history().await?;
        verify(&self.bench.backends, &self.bench.store, &self.spec, &history, repair.then_some(ANY_AGE)).await
    }
}

pub(super) fn pictures_spec(format: OutputFormat) -> RunSpec {
    RunSpec { format, invalid_rows: 1, ..spec(8, 2) }
}

/// Submits the run, commits its first round and opens its second one.
pub(super) async fn submit_pictures(bench: &Bench, spec: &RunSpec) {
    let refused = ManifestIssue {
        line: 3,
        code: "wrong_type".to_owned(),
        message: "3 is not a string".to_owned(),
        param: None,
        custom_id: None,
    };
    let submission = Submission { invalid: vec![refused], ..submission(spec) };
    submit(&bench.backends, &bench.store, "test", submission).await.unwrap();
    commit_round(bench, spec).await;
    let again = rounds::next(&bench.store, spec, &bench.history().await).await.unwrap();
    let round = again.expect("a task is tried again");
    bench.decide(spec, Act::RoundOpened { round }).await.unwrap();
}

/// Commits every shard of the round under way as a worker does, with a file a picture.
pub(super) async fn commit_round(bench: &Bench, spec: &RunSpec) {
    for shard in bench.history().await.last_round().unwrap().shard_ids() {
        commit_pictures(bench, spec, shard).await;
    }
}

async fn commit_pictures(bench: &Bench, spec: &RunSpec, shard: ShardId) {
    let (store, attempt, mut pictures) = (&bench.store, AttemptId::generate(), Vec::new());
    let in_archive = spec.format == OutputFormat::Webdataset;
    let key = ObjectKey::Archive(shard, attempt.clone()).relative(store.root());
    let outcome = |task: Task| {
        let outcome = match (task.index.0, shard.round.0) {
            (2, 0) => failed(true),
            (5, 0 | 1) => failed(false),
            _ => {
                let bytes = format!("the picture of {}", task.custom_id).into_bytes();
                let (id, png) = (task.custom_id.clone(), ".png".to_owned());
                let path = match in_archive {
                    true => format!("{id}.image.png"),
                    false => ObjectKey::File(shard, attempt.clone(), Folder::Images, id, png).relative(store.root()),
                };
                let sha256 = Sha256Hex::of(&bytes);
                let file = FileRef { path: path.clone(), sha256, bytes: bytes.len() as u64 };
                pictures.push((path, bytes));
                let (files, archive) = ([("image".to_owned(), file)].into(), in_archive.then(|| key.clone()));
                Outcome::Done {
                    archive,
                    files,
                    mask_coverage: None,
                    scores: [].into(),
                    measures: Default::default(),
                    accepted: None,
                    tries: Vec::new(),
                    warnings: Vec::new(),
                }
            }
        };
        TaskOutcome { task: task.index, custom_id: task.custom_id, seed: task.seed, outcome, extra: task.extra }
    };
    let history = bench.history().await;
    let tasks = store.input(shard, &history.round(shard.round).unwrap().inputs).await.unwrap().unwrap();
    let outcomes = tasks.into_iter().map(outcome).collect();
    let mut archives = Vec::new();
    if in_archive {
        let tar = tar_of(&pictures);
        archives.push(ArchiveRef { key: key.clone(), sha256: Sha256Hex::of(&tar), bytes: tar.len() as u64 });
        store.objects().put(&store.relative(&key), tar).await.unwrap();
    } else {
        for (path, bytes) in pictures {
            store.objects().put(&store.relative(&path), bytes.into()).await.unwrap();
        }
    }
    let marker = CommitMarker {
        version: 2,
        run: spec.run.clone(),
        shard,
        attempt,
        worker: WorkerId::new("w").unwrap(),
        model: None,
        settings: settings_digest(spec),
        archives,
        outcomes,
        started_at: Timestamp::from_second(100).unwrap(),
        committed_at: Timestamp::from_second(107).unwrap(),
        device_seconds: 0.1,
    };
    bench.backends.commit(store, marker).await.unwrap();
}

fn tar_of(members: &[(String, Vec<u8>)]) -> Bytes {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, bytes) in members {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        tar.append_data(&mut header, path, &**bytes).unwrap();
    }
    tar.into_inner().unwrap().into()
}

fn edit(all: &mut Stored, key: &str, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = all[key].to_vec();
    change(&mut bytes);
    all.insert(key.to_owned(), bytes.into());
}

fn cut_off(all: &mut Stored, key: &str) {
    edit(all, key, |bytes| bytes.truncate(bytes.len() / 2));
}

fn edit_json(all: &mut Stored, key: &str, change: impl FnOnce(&mut Value)) {
    let mut value = serde_json::from_slice(&all[key]).unwrap();
    change(&mut value);
    all.insert(key.to_owned(), value.to_string().into());
}

fn replace(all: &mut Stored, key: &str, old: &str, new: &str) {
    let text = String::from_utf8(all[key].to_vec()).unwrap();
    assert!(text.contains(old), "{text}");
    all.insert(key.to_owned(), text.replacen(old, new, 1).into());
}

/// The key that begins and ends like this.
fn key(all: &Stored, begins: &str, ends: &str) -> String {
    all.keys().rfind(|key| key.starts_with(begins) && key.ends_with(ends)).unwrap().clone()
}

/// The archive of the tasks 0 and 1.
fn archive(all: &Stored) -> String {
    key(all, "shards/r0-000000.", ".tar")
}

fn input(all: &Stored) -> String {
    key(all, "input/r0-000002.", ".jsonl")
}

fn results(all: &Stored) -> String {
    key(all, "", "results.jsonl")
}

fn errors(all: &Stored) -> String {
    key(all, "", "errors.jsonl")
}

/// The last entry of the log, which says how the run ended.
fn ended(all: &Stored) -> String {
    key(all, "decisions/", ".json")
}

fn picture(all: &Stored, id: &str) -> String {
    key(all, "", &format!("images/{id}.png"))
}

/// Other members in that archive, and a marker that vouches for it as a whole.
fn forge(all: &mut Stored, members: &[&str]) {
    let member = |path: &&str| (path.to_string(), format!("the picture of {}", &path[..2]).into_bytes());
    let (key, tar) = (archive(all), tar_of(&members.iter().map(member).collect::<Vec<_>>()));
    edit_json(all, "commits/r0-000000.json", |marker| {
        marker["archives"][0]["sha256"] = Sha256Hex::of(&tar).as_str().into();
        marker["archives"][0]["bytes"] = tar.len().into();
    });
    all.insert(key, tar);
}

const IN_EITHER_FORMAT: &[Damage] = &[
    (
        "a marker is removed",
        |all| drop(all.remove("commits/r0-000001.json")),
        "shard r0-000001: the run has ended and its commit marker is gone",
    ),
    ("a marker is cut off", |all| cut_off(all, "commits/r0-000001.json"), "commits/r0-000001.json cannot be read"),
    (
        "a marker names another task",
        |all| edit_json(all, "commits/r0-000001.json", |marker| marker["outcomes"][1]["custom_id"] = "t7".into()),
        "shard r0-000001: its outcomes do not match its tasks one to one, in order",
    ),
    (
        "a marker has another seed",
        |all| edit_json(all, "commits/r0-000001.json", |marker| marker["outcomes"][1]["seed"] = 77.into()),
        "shard r0-000001: its outcomes do not match its tasks one to one, in order",
    ),
    (
        "a marker lacks a task",
        |all| {
            edit_json(all, "commits/r0-000003.json", |marker| drop(marker["outcomes"].as_array_mut().unwrap().pop()));
        },
        "shard r0-000003: its outcomes do not match its tasks one to one, in order",
    ),
    (
        "a marker has a task twice",
        |all| {
            edit_json(all, "commits/r0-000003.json", |marker| marker["outcomes"][1] = marker["outcomes"][0].clone());
        },
        "task 7 was expected, but task 6 follows",
    ),
    (
        "a marker is another shard's",
        |all| drop(all.insert("commits/r0-000001.json".to_owned(), all["commits/r0-000000.json"].clone())),
        "commits/r0-000001.json cannot be read: it is the marker of r0-000000 of run",
    ),
    (
        "a marker is another run's",
        |all| edit_json(all, "commits/r0-000001.json", |marker| marker["run"] = "other".into()),
        "it is the marker of r0-000001 of run other",
    ),
    ("an input is removed", |all| drop(all.remove(&input(all))), "shard r0-000002: its input is gone"),
    (
        "an input is cut off",
        // Within its last line.
        |all| edit(all, &input(all), |bytes| bytes.truncate(bytes.len() - 2)),
        "cannot be read",
    ),
    (
        "the first entry of the log is lost",
        |all| drop(all.remove("decisions/000000.json")),
        "decisions/000000.json failed: it is gone, and later entries are there",
    ),
    (
        "an entry in the middle is lost",
        |all| drop(all.remove("decisions/000001.json")),
        "decisions/000001.json failed: it is gone, and later entries are there",
    ),
    ("an entry is cut off", |all| cut_off(all, "decisions/000001.json"), "decisions/000001.json failed: EOF"),
    (
        "an entry does not follow",
        |all| drop(all.insert("decisions/000001.json".to_owned(), all["decisions/000000.json"].clone())),
        "decisions/000001.json failed: it does not follow from the entries before",
    ),
    (
        "the whole log is lost",
        |all| all.retain(|key, _| !key.starts_with("decisions/")),
        "the run is not fully submitted",
    ),
    (
        "a marker was made by another model",
        |all| {
            edit_json(all, "commits/r0-000001.json", |marker| {
                marker["model"] = json!({ "sha256": "other", "dtype": "f32" });
            });
        },
        "shard r0-000001: it was made by the model other in f32, but the run is bound to none",
    ),
    (
        "a marker was made with other settings",
        |all| {
            edit_json(all, "commits/r0-000001.json", |marker| marker["settings"] = Sha256Hex::of(b"").as_str().into())
        },
        "shard r0-000001: it was not made with the run's settings",
    ),
    (
        "a result is another task's",
        |all| replace(all, &results(all), "\"t1\"", "\"t9\""),
        "results.jsonl: line 2 does not match the markers",
    ),
    (
        "a result has another digest",
        |all| replace(all, &results(all), Sha256Hex::of(b"the picture of t7").as_str(), Sha256Hex::of(b"").as_str()),
        "results.jsonl: line 7 does not match the markers",
    ),
    ("the results are cut off", |all| cut_off(all, &results(all)), "results.jsonl: line 4 does not match the markers"),
    (
        "the results have a line more",
        |all| edit(all, &results(all), |bytes| bytes.extend_from_within(..)),
        "results.jsonl continues after line 7",
    ),
    ("the results are removed", |all| drop(all.remove(&results(all))), "results.jsonl is gone"),
    (
        "an error has another code",
        |all| replace(all, &errors(all), "model_error", "poison"),
        "errors.jsonl: line 1 does not match the markers",
    ),
    (
        "a refused row is another one",
        |all| replace(all, &errors(all), "\"line\":3", "\"line\":4"),
        "errors.jsonl: line 2 does not match the markers",
    ),
    ("the ending is cut off", |all| cut_off(all, &ended(all)), "failed: EOF"),
    (
        "the summary counts a picture more",
        |all| edit_json(all, &ended(all), |ended| ended["summary"]["done"] = 8.into()),
        "the summary says done 8, the markers say 7",
    ),
    (
        "the summary has other failures",
        |all| edit_json(all, &ended(all), |ended| ended["summary"]["failures"] = json!({ "poison": 1 })),
        "the summary says failures {\"poison\":1}, the markers say {\"model_error\":1}",
    ),
    (
        "the summary has another time",
        |all| edit_json(all, &ended(all), |ended| ended["summary"]["device_seconds"] = 60.5.into()),
        "the summary says device_seconds 60.5, the markers say 0.5",
    ),
];

const IN_WEBDATASET: &[Damage] = &[
    (
        "a byte of a picture is another one",
        // Behind the header of the first member.
        |all| edit(all, &archive(all), |bytes| bytes[512] ^= 1),
        "t0.image.png is not what was committed",
    ),
    (
        "a byte between two members is another one",
        |all| edit(all, &archive(all), |bytes| bytes[1023] ^= 1),
        ".tar is not what was committed",
    ),
    (
        "a byte of a header is another one",
        |all| edit(all, &archive(all), |bytes| bytes[0] ^= 1),
        ".tar cannot be read completely",
    ),
    ("an archive is cut off", |all| cut_off(all, &archive(all)), ".tar cannot be read completely"),
    ("an archive has bytes behind its end", |all| edit(all, &archive(all), |bytes| bytes.push(0)), ".tar is not what"),
    ("an archive is removed", |all| drop(all.remove(&archive(all))), ".tar is gone"),
    (
        "an archive has a foreign member",
        |all| forge(all, &["t0.image.png", "t1.image.png", "t7.image.png"]),
        "t7.image.png belongs to no outcome",
    ),
    ("an archive lacks a member", |all| forge(all, &["t0.image.png"]), "t1.image.png is not in it"),
    (
        "an archive has a member twice",
        |all| forge(all, &["t0.image.png", "t1.image.png", "t0.image.png"]),
        "t0.image.png is in it twice",
    ),
    (
        "a marker has no archives any more",
        |all| edit_json(all, "commits/r0-000000.json", |marker| drop(marker["archives"].take())),
        "commits/r0-000000.json cannot be read",
    ),
    (
        "a marker forgets its archive",
        |all| edit_json(all, "commits/r0-000000.json", |marker| marker["archives"] = json!([])),
        "shard r0-000000: t0 is in an archive that its marker does not name",
    ),
];

const IN_FILES: &[Damage] = &[
    (
        "a byte of a file is another one",
        |all| edit(all, &picture(all, "t0"), |bytes| bytes[3] ^= 1),
        "images/t0.png: its content is not what was committed",
    ),
    (
        "a file of a later round is cut off",
        |all| cut_off(all, &picture(all, "t2")),
        "images/t2.png: its content is not what was committed",
    ),
    ("a file is removed", |all| drop(all.remove(&picture(all, "t0"))), "images/t0.png: it is gone"),
];

/// In either layout, and either format.
fn layouts() -> [(OutputFormat, RunRoot, &'static [Damage]); 4] {
    let shared = || RunRoot::Shared(spec(1, 1).run);
    [
        (OutputFormat::Webdataset, RunRoot::Own, IN_WEBDATASET),
        (OutputFormat::Webdataset, shared(), IN_WEBDATASET),
        (OutputFormat::Files, RunRoot::Own, IN_FILES),
        (OutputFormat::Files, shared(), IN_FILES),
    ]
}

#[tokio::test]
async fn every_damage_to_an_ended_run_is_found_and_a_repair_takes_nothing_away() {
    for (format, root, damages) in layouts() {
        let run = Ended::new(format, root.clone()).await;
        let (whole, place) = (run.stored(), format!("{format:?} {root:?}"));
        let found = run.verify(false).await.unwrap();
        assert_eq!((found.problems, found.orphans, found.files), (vec![], 0, 7), "{place}");
        assert_eq!((found.done, found.failed, found.shards, found.uncommitted), (7, 1, 5, 0), "{place}");
        for (damage, harm, words) in damages.iter().chain(IN_EITHER_FORMAT) {
            let mut harmed = whole.clone();
            harm(&mut harmed);
            run.store(&harmed);
            for repair in [false, true] {
                let problems = match run.verify(repair).await {
                    Ok(found) => found.problems.join("\n"),
                    Err(error) => error.to_string(),
                };
                assert!(problems.contains(words), "{place}: {damage}: {words:?} is not in\n{problems}");
                // What no marker names any more may be all that is left of it.
                assert_eq!(run.stored(), harmed, "{place}: {damage}");
            }
        }
    }
}

#[tokio::test]
async fn what_an_attempt_left_that_did_not_commit_is_counted_and_removed_by_a_repair_alone() {
    for (format, root, _) in layouts() {
        let run = Ended::new(format, root.clone()).await;
        let (whole, place) = (run.stored(), format!("{format:?} {root:?}"));
        let (shard, attempt) = (|index| ShardId { round: Round(0), index }, AttemptId::generate());
        let t5 = |folder, suffix: &str| {
            let id = CustomId::new("t5").unwrap();
            ObjectKey::File(shard(2), attempt.clone(), folder, id, suffix.to_owned())
        };
        let mut left = vec![
            ObjectKey::Archive(shard(0), attempt.clone()),
            ObjectKey::FirstAttempt(shard(1)),
            ObjectKey::Journal(shard(1), attempt.clone(), 0),
            ObjectKey::Part(shard(1), attempt.clone()),
        ];
        if format == OutputFormat::Files {
            // Of a picture that was stored and whose attempt was lost; the one that counts failed this task.
            left.extend([t5(Folder::Images, ".png"), t5(Folder::Heatmaps, ".duck.png")]);
        }
        let (orphans, said) = (left.len() as u64, format!("{} objects that no marker names were removed", left.len()));
        run.objects.all().extend(left.iter().map(|key| (key.path(&root), Bytes::new())));
        run.objects.grow_old(1);
        let with_orphans = run.stored();

        let found = run.verify(false).await.unwrap();
        assert_eq!((found.problems, found.orphans, found.repaired), (vec![], orphans, vec![]), "{place}");
        assert_eq!(run.stored(), with_orphans, "{place}: nobody asked for a repair");
        let found = run.verify(true).await.unwrap();
        assert_eq!((found.problems, found.orphans, found.repaired), (vec![], 0, vec![said]), "{place}");
        assert_eq!(run.stored(), whole, "{place}: the orphans and nothing else");
        let found = run.verify(false).await.unwrap();
        assert_eq!((found.problems, found.orphans, found.repaired), (vec![], 0, vec![]), "{place}");
    }
}

#[tokio::test]
async fn the_archives_of_attempts_at_work_are_counted_and_stay() {
    let run = Ended::new(OutputFormat::Webdataset, RunRoot::Own).await;
    // Submitted, and round 1 opened.
    let begun = |key: &str| key > "decisions/000001.json" && key.starts_with("decisions/");
    run.objects.all().retain(|key, _| key != "commits/r1-000000.json" && !begun(key));
    let going_on = run.stored();
    let found = run.verify(true).await.unwrap();
    assert_eq!((found.problems, found.ended, found.uncommitted, found.orphans), (vec![], false, 1, 1));
    assert_eq!(run.stored(), going_on);
    let said = "1 shard without a marker was published again";
    assert!(found.repaired.iter().any(|repaired| repaired == said), "{:?}", found.repaired);
    assert_eq!(run.bench.backends.queue.depth(&run.spec.pool).await.unwrap().ready, 1);
}

#[tokio::test]
async fn what_is_younger_than_the_grace_time_stays_and_the_repair_says_so() {
    let run = Ended::new(OutputFormat::Webdataset, RunRoot::Shared(spec(1, 1).run)).await;
    let left = |attempt: &str| {
        let attempt = AttemptId::new(attempt).unwrap();
        run.bench.store.path(&ObjectKey::Archive(ShardId { round: Round(0), index: 0 }, attempt))
    };
    run.bench.backends.objects.put(&left("old"), Bytes::new()).await.unwrap();
    run.objects.grow_old(25);
    run.bench.backends.objects.put(&left("young"), Bytes::new()).await.unwrap();
    let (store, history) = (&run.bench.store, run.bench.history().await);
    let found = verify(&run.bench.backends, store, &run.spec, &history, Some(Grace::default())).await.unwrap();
    assert_eq!((found.problems, found.orphans), (vec![], 1));
    assert_eq!(found.repaired, ["1 objects that no marker names were removed"]);
    assert_eq!(found.skipped, ["1 objects that no marker names are younger than 86400s, and stay"]);
    let all = run.objects.all();
    assert_eq!((all.contains_key(&left("old")), all.contains_key(&left("young"))), (false, true));
}
