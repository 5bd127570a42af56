use std::sync::Mutex as StdMutex;

use diorama_backends::objects::embedded::FolderObjects;
use diorama_backends::objects::faulty::{Fault, FaultyObjects};
use diorama_backends::progress::Head;
use diorama_backends::progress::embedded::EmbeddedProgress;
use diorama_backends::queue::embedded::EmbeddedQueue;
use diorama_core::id::{AttemptId, Round};
use diorama_core::round::RoundInfo;
use diorama_core::run::RunState;
use diorama_protocol::Exclusive;
use diorama_protocol::decision::Act;
use jiff::Timestamp;

use super::*;
use crate::tests::{run_id, spec};

struct Case {
    _folder: tempfile::TempDir,
    backends: Backends,
    requests: Arc<StdMutex<Vec<String>>>,
    run: RunId,
    runs: Runs,
    began: Instant,
}

const SHARD: ShardId = ShardId { round: Round(0), index: 0 };

impl Case {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let requests: Arc<StdMutex<Vec<String>>> = Arc::default();
        let noted = requests.clone();
        let rule = move |operation: &'static str, key: &str| {
            noted.lock().unwrap().push(format!("{operation} {key}"));
            Fault::None
        };
        let objects = FaultyObjects::new(FolderObjects::open(folder.path()).unwrap(), Box::new(rule));
        let backends = Backends {
            queue: Arc::new(EmbeddedQueue::default()),
            progress: Arc::new(EmbeddedProgress::default()),
            objects: Arc::new(objects),
            exclusive: Exclusive::ConditionalPut,
        };
        let case = Self {
            _folder: folder,
            backends,
            requests,
            run: run_id("r"),
            runs: Runs::default(),
            began: Instant::now(),
        };
        let spec = spec(&case.run, diorama_core::run::OutputFormat::Files, 2);
        case.backends.write_spec(&case.store(), spec).await.unwrap();
        let round = RoundInfo::first(1, 2, AttemptId::new("w").unwrap(), Timestamp::UNIX_EPOCH);
        case.decide(Act::Submitted { round }).await;
        case.look(Duration::ZERO).await;
        case
    }

    fn store(&self) -> RunStore {
        RunStore::shared(self.backends.objects.clone(), &self.run)
    }

    async fn decide(&self, act: Act) {
        let mut history = self.store().history().await.unwrap();
        self.backends.decide(&self.store(), &self.run, &mut history, "a test", act).await.unwrap();
    }

    /// Looks this long after the beginning.
    async fn look(&self, after: Duration) -> Option<Wish> {
        self.known(after, SHARD).await.map(|known| known.wish(SHARD, true))
    }

    async fn known(&self, after: Duration, shard: ShardId) -> Option<Known> {
        let (now, store) = (self.began + after, self.store());
        self.runs.look_at(now, &self.backends, &store, &self.run, shard, HEARD_WITHIN).await.unwrap()
    }

    fn asked(&self) -> usize {
        std::mem::take(&mut *self.requests.lock().unwrap()).len()
    }
}

#[tokio::test]
async fn a_working_worker_asks_the_store_about_a_run_less_than_once_in_ten_seconds() {
    let case = Case::new().await;
    case.asked();
    for half_seconds in 1..=600 {
        assert_eq!(case.look(Duration::from_millis(500 * half_seconds)).await, Some(Wish::Work));
    }
    let asked = case.asked();
    assert!((1..=5).contains(&asked), "{asked} requests in five minutes");
}

#[tokio::test]
async fn a_decision_is_heard_within_two_seconds_whether_the_progress_service_knows_of_it_or_not() {
    let case = Case::new().await;
    case.decide(Act::Paused { reason: None }).await;
    assert_eq!(case.look(HEARD_WITHIN).await, Some(Wish::NotNow));

    case.decide(Act::Resumed).await;
    case.backends.progress.forget(&case.run).await.unwrap();
    assert_eq!(case.look(2 * HEARD_WITHIN).await, Some(Wish::Work));
    let head = case.backends.progress.head(&case.run).await.unwrap();
    assert_eq!(head.map(|head| head.decisions), Some(3), "and the others are told");
}

#[tokio::test]
async fn no_run_gives_way_any_longer_than_the_progress_service_says_so() {
    let case = Case::new().await;
    let decisions = case.store().history().await.unwrap().decisions();
    let head = Head { decisions, state: RunState::Running, gives_way: true };
    case.backends.progress.announce(&case.run, &head).await.unwrap();
    let wish = async |after| case.known(after, SHARD).await.map(|known| known.wish(SHARD, false));
    assert_eq!(wish(HEARD_WITHIN).await, Some(Wish::NotNow));
    case.backends.progress.forget(&case.run).await.unwrap();
    assert_eq!(wish(2 * HEARD_WITHIN).await, Some(Wish::Work));
}

#[tokio::test]
async fn a_shard_of_a_round_that_we_have_not_heard_of_makes_us_read_on() {
    let case = Case::new().await;
    // Announced by nobody, and asked for a moment ago.
    let head = Head { decisions: 1, state: RunState::Running, gives_way: false };
    let round =
        RoundInfo { round: Round(1), ..RoundInfo::first(1, 1, AttemptId::new("w").unwrap(), Timestamp::UNIX_EPOCH) };
    case.decide(Act::RoundOpened { round }).await;
    case.backends.progress.forget(&case.run).await.unwrap();
    case.backends.progress.announce(&case.run, &head).await.unwrap();
    let next = ShardId { round: Round(1), index: 0 };
    let known = case.known(Duration::ZERO, next).await.unwrap();
    assert_eq!((known.wish(next, false), known.wish(SHARD, true)), (Wish::Work, Wish::Decided));
}

#[tokio::test]
async fn a_deleted_run_is_unknown_again_and_nobody_is_told_of_it() {
    let case = Case::new().await;
    case.backends.progress.forget(&case.run).await.unwrap();
    case.store().delete(&ObjectKey::Spec).await.unwrap();
    assert_eq!(case.look(UNHEARD).await, None);
    assert_eq!(case.backends.progress.head(&case.run).await.unwrap(), None);
}

#[tokio::test]
async fn what_is_known_is_bounded_and_forgotten_when_it_is_not_used() {
    let case = Case::new().await;
    let known = case.runs.known(&case.run, case.began).unwrap();
    let at = |number: usize| case.began + Duration::from_millis(number as u64);
    for number in 0..2 * MOST {
        let run = run_id(&format!("r{number}"));
        case.runs.keep(&run, Known { used: at(number), ..known.clone() }, at(number));
    }
    assert_eq!(locked(&case.runs.0).len(), MOST);
    let last = 2 * MOST - 1;
    assert!(case.runs.known(&run_id(&format!("r{last}")), at(last)).is_some());
    let later = at(last) + UNUSED;
    case.runs.keep(&case.run, Known { used: later, ..known }, later);
    assert_eq!(locked(&case.runs.0).len(), 1);
}
