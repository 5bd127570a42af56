use diorama_backends::objects::embedded::FolderObjects;
use diorama_core::id::Round;

use super::*;
use crate::poison::poisoned;
use crate::tests::run_id;

struct Case {
    _folder: tempfile::TempDir,
    store: RunStore,
}

const SHARD: ShardId = ShardId { round: Round(0), index: 3 };

impl Case {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let objects = std::sync::Arc::new(FolderObjects::open(folder.path()).unwrap());
        Self { store: RunStore::shared(objects, &run_id("r")), _folder: folder }
    }

    async fn begin(&self, name: &str) -> Journal {
        let (attempt, worker) = (AttemptId::new(name).unwrap(), WorkerId::new("w").unwrap());
        Journal::begin(&self.store, SHARD, &attempt, &worker, Exclusive::ConditionalPut).await.unwrap()
    }

    async fn note(&self, journal: &mut Journal, note: Note) {
        journal.note(&self.store, note).await.unwrap();
    }

    async fn keys(&self) -> Vec<String> {
        let listed = list_all(self.store.objects(), &self.store.relative("")).await.unwrap();
        listed.iter().map(|object| self.store.within(&object.key).to_owned()).collect()
    }
}

#[tokio::test]
async fn a_hand_back_is_no_death_and_names_its_part() {
    let case = Case::new();
    for (name, part) in [("a", None), ("b", Some(true)), ("c", Some(false)), ("d", None)] {
        let mut journal = case.begin(name).await;
        if let Some(part) = part {
            case.note(&mut journal, Note::HandedBack { part }).await;
        }
    }
    let journal = case.begin("e").await;
    assert_eq!(journal.unfinished(), 2);
    assert_eq!(journal.parts(), [AttemptId::new("b").unwrap()]);
}

#[tokio::test]
async fn only_the_task_that_ran_alone_last_is_suspected() {
    let case = Case::new();
    for name in ["a", "b", "c"] {
        let mut journal = case.begin(name).await;
        case.note(&mut journal, Note::Running(TaskIndex(1))).await;
        case.note(&mut journal, Note::Running(TaskIndex(2))).await;
        if name == "c" {
            // What is left is storing.
            case.note(&mut journal, Note::Idle).await;
        }
    }
    let journal = case.begin("d").await;
    let last: Vec<Option<TaskIndex>> = journal.traces(true).iter().map(|trace| trace.last).collect();
    assert_eq!(last, [Some(TaskIndex(2)), Some(TaskIndex(2)), None]);
    assert!(poisoned(&journal.traces(true)).is_empty(), "the third one survived it");
}

#[tokio::test]
async fn entries_are_objects_of_their_own_that_nobody_writes_again() {
    let case = Case::new();
    let mut first = case.begin("a").await;
    case.note(&mut first, Note::Running(TaskIndex(0))).await;
    case.begin("b").await;
    case.note(&mut first, Note::HandedBack { part: false }).await;
    let keys = ["journal/r0-000003.a.00000.json", "journal/r0-000003.a.00001.json", "journal/r0-000003.b.00000.json"];
    assert_eq!(case.keys().await, [&keys[..], &["journal/r0-000003.json"]].concat());
}

#[tokio::test]
async fn what_is_taken_back_was_never_said() {
    let case = Case::new();
    let mut journal = case.begin("a").await;
    case.note(&mut journal, Note::Running(TaskIndex(0))).await;
    journal.withdraw(&case.store).await.unwrap();
    assert!(case.keys().await.is_empty());
}

#[tokio::test]
async fn an_entry_that_nobody_can_read_blames_nobody() {
    let case = Case::new();
    case.begin("a").await;
    let damaged = case.store.path(&ObjectKey::Journal(SHARD, AttemptId::new("b").unwrap(), 0));
    case.store.objects().put(&damaged, "{".into()).await.unwrap();
    assert_eq!(case.begin("c").await.unfinished(), 1);
}

#[tokio::test]
async fn where_conditions_are_ignored_no_attempt_writes_in_the_place_of_another_one() {
    let (case, worker) = (Case::new(), WorkerId::new("w").unwrap());
    for (earlier, name) in ["a", "b", "c"].into_iter().enumerate() {
        let attempt = AttemptId::new(name).unwrap();
        let journal = Journal::begin(&case.store, SHARD, &attempt, &worker, Exclusive::Claim).await.unwrap();
        assert_eq!(journal.unfinished(), earlier as u32);
    }
    let first = ObjectKey::FirstAttempt(SHARD).relative(case.store.root());
    assert!(!case.keys().await.contains(&first), "it is one name for all");
}
