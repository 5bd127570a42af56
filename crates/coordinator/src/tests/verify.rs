//! What `verify` finds: every damage to an ended run by name, in either format; and what it may remove.

use std::collections::BTreeMap;

use diorama_core::key::Folder;
use diorama_core::marker::ArchiveRef;
use diorama_core::outcome::FileRef;
use serde_json::json;

use super::unkind::MemoryObjects;
use super::*;
use crate::{Verification, rounds, verify};

type Stored = BTreeMap<String, Bytes>;

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
    async fn new(format: OutputFormat) -> Self {
        let (mut bench, objects) = (Bench::new(), Arc::new(MemoryObjects::default()));
        bench.backends.objects = objects.clone();
        bench.store = RunStore::new(objects.clone(), RunRoot::Own);
        let store = &bench.store;
        let spec = RunSpec { format, invalid_rows: 1, ..spec(8, 2) };
        let refused = ManifestIssue {
            line: 3,
            code: "wrong_type".to_owned(),
            message: "3 is not a string".to_owned(),
            param: None,
            custom_id: None,
        };
        submit(store, Submission { invalid: vec![refused], ..submission(&spec) }).await.unwrap();
        let first = store.round(Round(0)).await.unwrap().unwrap();
        for shard in first.shard_ids() {
            commit_pictures(store, &spec, shard).await;
        }
        let again = rounds::next(store, &spec, &first).await.unwrap().expect("a task is tried again");
        for shard in again.shard_ids() {
            commit_pictures(store, &spec, shard).await;
        }
        finalise(store, &spec, RunState::Finished, bench.scratch()).await.unwrap();
        Self { bench, objects, spec }
    }

    fn stored(&self) -> Stored {
        self.objects.all().clone()
    }

    async fn verify(&self, repair: bool) -> Verification {
        verify(&self.bench.backends, &self.bench.store, &self.spec, repair).await.unwrap()
    }
}

/// Commits a shard as a worker does, with a file a picture.
async fn commit_pictures(store: &RunStore, spec: &RunSpec, shard: ShardId) {
    let (attempt, mut pictures) = (AttemptId::generate(), Vec::new());
    let outcome = |task: Task| {
        let outcome = match (task.index.0, shard.round.0) {
            (2, 0) => failed(true),
            (5, _) => failed(false),
            _ => {
                let bytes = format!("the picture of {}", task.custom_id).into_bytes();
                let path = match spec.format {
                    OutputFormat::Webdataset => format!("{}.image.png", task.custom_id),
                    OutputFormat::Files => {
                        ObjectKey::File(Folder::Images, task.custom_id.clone(), ".png".to_owned()).to_string()
                    }
                };
                let sha256 = Sha256Hex::of(&bytes);
                let file = FileRef { path: path.clone(), sha256, bytes: bytes.len() as u64 };
                pictures.push((path, bytes));
                let files = [("image".to_owned(), file)].into();
                Outcome::Done { files, mask_coverage: None, scores: [].into(), warnings: Vec::new() }
            }
        };
        TaskOutcome { task: task.index, custom_id: task.custom_id, seed: task.seed, outcome }
    };
    let outcomes = store.input(shard).await.unwrap().unwrap().into_iter().map(outcome).collect();
    let mut archive = None;
    if spec.format == OutputFormat::Webdataset {
        let (key, tar) = (ObjectKey::Archive(shard, attempt.clone()).to_string(), tar_of(&pictures));
        archive = Some(ArchiveRef { key: key.clone(), sha256: Sha256Hex::of(&tar), bytes: tar.len() as u64 });
        store.objects().put(&key, tar).await.unwrap();
    } else {
        for (path, bytes) in pictures {
            store.objects().put(&path, bytes.into()).await.unwrap();
        }
    }
    let marker = CommitMarker {
        version: 1,
        run: spec.run.clone(),
        shard,
        attempt,
        worker: WorkerId::new("w").unwrap(),
        archive,
        outcomes,
        started_at: Timestamp::from_second(100).unwrap(),
        committed_at: Timestamp::from_second(107).unwrap(),
        device_seconds: 0.1,
    };
    store.commit(marker).await.unwrap();
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

/// The archive of the tasks 0 and 1.
fn archive(all: &Stored) -> String {
    all.keys().find(|key| key.starts_with("shards/r0-000000.")).unwrap().clone()
}

/// Other members in that archive, and a marker that vouches for it as a whole.
fn forge(all: &mut Stored, members: &[&str]) {
    let member = |path: &&str| (path.to_string(), format!("the picture of {}", &path[..2]).into_bytes());
    let (key, tar) = (archive(all), tar_of(&members.iter().map(member).collect::<Vec<_>>()));
    edit_json(all, "commits/r0-000000.json", |marker| {
        marker["archive"]["sha256"] = Sha256Hex::of(&tar).as_str().into();
        marker["archive"]["bytes"] = tar.len().into();
    });
    all.insert(key, tar);
}

const IN_EITHER_FORMAT: &[Damage] = &[
    (
        "a marker is removed",
        |all| drop(all.remove("commits/r0-000001.json")),
        "shard r0-000001: the run has ended and its commit marker is gone",
    ),
    (
        "a marker is cut off",
        |all| cut_off(all, "commits/r0-000001.json"),
        "shard r0-000001: commits/r0-000001.json cannot be read",
    ),
    (
        "a marker names another task",
        |all| edit_json(all, "commits/r0-000001.json", |marker| marker["outcomes"][1]["custom_id"] = "t7".into()),
        "shard r0-000001: its outcomes are not those of its tasks",
    ),
    (
        "a marker has another seed",
        |all| edit_json(all, "commits/r0-000001.json", |marker| marker["outcomes"][1]["seed"] = 77.into()),
        "shard r0-000001: its outcomes are not those of its tasks",
    ),
    (
        "a marker lacks a task",
        |all| {
            edit_json(all, "commits/r0-000003.json", |marker| drop(marker["outcomes"].as_array_mut().unwrap().pop()));
        },
        "shard r0-000003: its outcomes are not those of its tasks",
    ),
    (
        "a marker has a task twice",
        |all| {
            edit_json(all, "commits/r0-000003.json", |marker| marker["outcomes"][1] = marker["outcomes"][0].clone());
        },
        "task 7 is wanted, and task 6 comes",
    ),
    (
        "a marker is another shard's",
        |all| drop(all.insert("commits/r0-000001.json".to_owned(), all["commits/r0-000000.json"].clone())),
        "shard r0-000001: its marker speaks of r0-000000",
    ),
    ("an input is removed", |all| drop(all.remove("input/r0-000002.jsonl")), "shard r0-000002: its input is gone"),
    (
        "an input is cut off",
        // Within its last line.
        |all| edit(all, "input/r0-000002.jsonl", |bytes| bytes.truncate(bytes.len() - 2)),
        "shard r0-000002: input/r0-000002.jsonl cannot be read",
    ),
    (
        "the first round is lost",
        |all| drop(all.remove("input/r0.complete.json")),
        "the run is not completely submitted",
    ),
    (
        "the last round is lost",
        |all| drop(all.remove("input/r1.complete.json")),
        "summary.json says rounds 1, the markers say 0",
    ),
    (
        "a result is another task's",
        |all| replace(all, "results.jsonl", "\"t1\"", "\"t9\""),
        "results.jsonl: line 2 is not what the markers say",
    ),
    (
        "a result has another digest",
        |all| replace(all, "results.jsonl", Sha256Hex::of(b"the picture of t7").as_str(), Sha256Hex::of(b"").as_str()),
        "results.jsonl: line 7 is not what the markers say",
    ),
    (
        "the results are cut off",
        |all| cut_off(all, "results.jsonl"),
        "results.jsonl: line 4 is not what the markers say",
    ),
    (
        "the results have a line more",
        |all| edit(all, "results.jsonl", |bytes| bytes.extend_from_within(..)),
        "results.jsonl goes on after line 7",
    ),
    ("the results are removed", |all| drop(all.remove("results.jsonl")), "results.jsonl is gone"),
    (
        "an error has another code",
        |all| replace(all, "errors.jsonl", "model_error", "poison"),
        "errors.jsonl: line 1 is not what the markers say",
    ),
    (
        "a refused row is another one",
        |all| replace(all, "errors.jsonl", "\"line\":3", "\"line\":4"),
        "errors.jsonl: line 2 is not what the markers say",
    ),
    ("the summary is cut off", |all| cut_off(all, "summary.json"), "summary.json failed: EOF"),
    (
        "the summary counts a picture more",
        |all| edit_json(all, "summary.json", |summary| summary["done"] = 8.into()),
        "summary.json says done 8, the markers say 7",
    ),
    (
        "the summary has other failures",
        |all| edit_json(all, "summary.json", |summary| summary["failures"] = json!({ "poison": 1 })),
        "summary.json says failures {\"poison\":1}, the markers say {\"model_error\":1}",
    ),
    (
        "the summary has another time",
        |all| edit_json(all, "summary.json", |summary| summary["device_seconds"] = 60.5.into()),
        "summary.json says device_seconds 60.5, the markers say 0.5",
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
        ".tar cannot be read to its end",
    ),
    ("an archive is cut off", |all| cut_off(all, &archive(all)), ".tar cannot be read to its end"),
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
        "a marker forgets its archive",
        |all| edit_json(all, "commits/r0-000000.json", |marker| drop(marker["archive"].take())),
        "shard r0-000000: t0.image.png: it is gone",
    ),
];

const IN_FILES: &[Damage] = &[
    (
        "a byte of a file is another one",
        |all| edit(all, "images/t0.png", |bytes| bytes[3] ^= 1),
        "shard r0-000000: images/t0.png: its content is not what was committed",
    ),
    (
        "a file of a later round is cut off",
        |all| cut_off(all, "images/t2.png"),
        "shard r1-000000: images/t2.png: its content is not what was committed",
    ),
    ("a file is removed", |all| drop(all.remove("images/t0.png")), "shard r0-000000: images/t0.png: it is gone"),
];

#[tokio::test]
async fn every_damage_to_an_ended_run_is_found_and_a_repair_takes_nothing_away() {
    for (format, damages) in [(OutputFormat::Webdataset, IN_WEBDATASET), (OutputFormat::Files, IN_FILES)] {
        let run = Ended::new(format).await;
        let whole = run.stored();
        let found = run.verify(false).await;
        assert_eq!((found.problems, found.orphans, found.files), (vec![], 0, 7), "{format:?}");
        assert_eq!((found.done, found.failed, found.shards, found.uncommitted), (7, 1, 5, 0), "{format:?}");
        for (damage, harm, words) in damages.iter().chain(IN_EITHER_FORMAT) {
            let mut harmed = whole.clone();
            harm(&mut harmed);
            *run.objects.all() = harmed.clone();
            for repair in [false, true] {
                let found = run.verify(repair).await;
                let problems = found.problems.join("\n");
                assert!(problems.contains(words), "{format:?}: {damage}: {words:?} is not in\n{problems}");
                assert!(!found.is_clean(), "{format:?}: {damage}");
                // What no marker names any more may be all that is left of it.
                assert_eq!(run.stored(), harmed, "{format:?}: {damage}");
            }
        }
    }
}

#[tokio::test]
async fn what_an_attempt_left_that_did_not_commit_is_counted_and_removed_by_a_repair_alone() {
    for format in [OutputFormat::Webdataset, OutputFormat::Files] {
        let run = Ended::new(format).await;
        let whole = run.stored();
        let lost = ObjectKey::Archive(ShardId { round: Round(0), index: 0 }, AttemptId::generate()).to_string();
        let mut left = vec![(lost, tar_of(&[])), ("journal/r0-000001.jsonl".to_owned(), Bytes::new())];
        if format == OutputFormat::Files {
            // Of a picture that was stored and whose attempt was lost; the one that counts failed this task.
            left.extend(["images/t5.png", "heatmaps/t5.duck.png"].map(|key| (key.to_owned(), Bytes::new())));
        }
        let (orphans, said) = (left.len() as u64, format!("{} objects that no marker names were removed", left.len()));
        run.objects.all().extend(left);
        let with_orphans = run.stored();

        let found = run.verify(false).await;
        assert_eq!((found.problems, found.orphans, found.repaired), (vec![], orphans, vec![]), "{format:?}");
        assert_eq!(run.stored(), with_orphans, "{format:?}: nobody asked for a repair");
        let found = run.verify(true).await;
        assert_eq!((found.problems, found.orphans, found.repaired), (vec![], 0, vec![said]), "{format:?}");
        assert_eq!(run.stored(), whole, "{format:?}: the orphans and nothing else");
        let found = run.verify(false).await;
        assert_eq!((found.problems, found.orphans, found.repaired), (vec![], 0, vec![]), "{format:?}");
    }
}

#[tokio::test]
async fn the_archives_of_attempts_at_work_are_counted_and_stay() {
    let run = Ended::new(OutputFormat::Webdataset).await;
    for key in ["summary.json", "commits/r1-000000.json"] {
        run.objects.all().remove(key);
    }
    let going_on = run.stored();
    let found = run.verify(true).await;
    assert_eq!((found.problems, found.ended, found.uncommitted, found.orphans), (vec![], false, 1, 1));
    assert_eq!(run.stored(), going_on);
    let said = "1 shards without a marker were published again";
    assert!(found.repaired.iter().any(|repaired| repaired == said), "{:?}", found.repaired);
    assert_eq!(run.bench.backends.queue.depth(&run.spec.pool).await.unwrap().ready, 1);
}
