//! The leading coordinator finds whatever is to be driven, and stops when it is told to.

use diorama_backends::objects::ObjectErrorKind;
use diorama_backends::objects::faulty::{Fault, FaultyObjects};
use diorama_core::key::SharedKey;
use diorama_core::round::FailedWhere;
use tokio::time::Instant;

use super::unkind::{Hook, Hooked, MemoryObjects, MoodyProgress};
use super::*;
use crate::lease::LEASE;
use crate::reopen::reopen;
use crate::service::hand_over;
use crate::{Grace, Service, ServiceConfig, delete};

/// Longer than the slowest sweep.
const LONG: Duration = Duration::from_secs(1800);

fn service(bench: &Bench, grace: Grace) -> Service {
    let mut runs = CoordinatorConfig::new(bench.scratch().to_owned());
    runs.poll = Duration::from_millis(100);
    let config = ServiceConfig { owner: "one".to_owned(), lease: Duration::from_secs(10), grace, runs };
    Service::new(bench.backends.clone(), config).0
}

/// The service works until `done` says so.
pub(super) async fn until(bench: &Bench, grace: Grace, what: &str, done: impl AsyncFn() -> bool) {
    let drain = CancellationToken::new();
    let wait = async {
        while !done().await {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        drain.cancel();
    };
    tokio::time::timeout(LONG, async { tokio::join!(service(bench, grace).run(drain.clone()), wait) })
        .await
        .expect(what);
}

async fn has(bench: &Bench, key: SharedKey) -> bool {
    bench.backends.objects.head(&key.to_string()).await.unwrap().is_some()
}

/// A submitted run that is in the index and not on the list of active ones.
async fn submitted() -> (Bench, RunSpec) {
    submitted_to(Arc::new(MemoryObjects::default())).await
}

async fn submitted_to(objects: Arc<dyn Objects>) -> (Bench, RunSpec) {
    let (bench, spec) = (Bench::shared(objects), spec(4, 2));
    let key = SharedKey::Submitted(spec.run.clone()).to_string();
    bench.backends.objects.put(&key, Bytes::new()).await.unwrap();
    bench.submit(&spec).await;
    (bench, spec)
}

#[tokio::test(start_paused = true)]
async fn what_is_on_no_list_of_active_runs_is_found_submitted_reopened_and_deleted() {
    let (bench, spec) = submitted().await;
    let worker = bench.worker(&spec, Arc::new(|_, _| failed(false)));
    until(&bench, Grace::default(), "a submitted run ends", async || bench.history().await.ended().is_some()).await;
    drop(worker);

    // Whoever asked for the retry died before the run was handed over; while the coordinator leads, and before.
    let _worker = bench.worker(&spec, Arc::new(|_, _| done()));
    let reopened = async {
        tokio::time::sleep(Duration::from_secs(100)).await;
        let mut history = bench.history().await;
        reopen(&bench.backends, &bench.store, &spec, &mut history, "test", FailedWhere::default()).await.unwrap();
    };
    let ended = async {
        until(&bench, Grace::default(), "a reopened run ends", async || {
            bench.history().await.voids().is_empty() && {
                let history = bench.history().await;
                history.ended().is_some_and(|ended| ended.summary.done == 4)
            }
        })
        .await;
    };
    tokio::join!(reopened, ended);
    until(&bench, Grace::default(), "it is struck off", async || {
        !has(&bench, SharedKey::Active(spec.run.clone())).await
    })
    .await;

    let mut history = bench.history().await;
    delete::delete(&bench.backends, &bench.store, &spec.run, &mut history, "test").await.unwrap();
    until(&bench, Grace::default(), "a deleted run is removed", async || {
        !has(&bench, SharedKey::Submitted(spec.run.clone())).await
    })
    .await;
    assert!(list_all(&*bench.backends.objects, "runs/").await.unwrap().iter().all(|o| o.key.contains("/decisions/")));
}

#[tokio::test(start_paused = true)]
async fn a_leader_keeps_its_lease_through_listings_that_take_longer() {
    let (mut bench, spec) = submitted().await;
    let _worker = bench.worker(&spec, Arc::new(|_, _| done()));
    let slow: Hook = Box::new(|operation, key| {
        let takes = if operation == "list" && key.starts_with("index/") { 40 } else { 0 };
        Box::pin(tokio::time::sleep(Duration::from_secs(takes)))
    });
    bench.backends.objects = Arc::new(Hooked::before(bench.backends.objects.clone(), slow));
    let begun = Instant::now();
    until(&bench, Grace::default(), "the run ends", async || {
        let taken = bench.backends.progress.lease(LEASE, "another", Duration::from_secs(10)).await.unwrap();
        assert!(!taken, "after {:?}", begun.elapsed());
        bench.history().await.ended().is_some()
    })
    .await;
    assert!(begun.elapsed() > Duration::from_secs(40), "it took {:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_the_driving_of_a_run_does_not_leave_it_undriven() {
    let (mut bench, spec) = submitted().await;
    let _worker = bench.worker(&spec, Arc::new(|_, _| done()));
    let panicked = Arc::new(AtomicU32::new(0));
    let count = panicked.clone();
    let panics: Hook = Box::new(move |operation, key| {
        if operation == "get" && key.ends_with("/run.json") && count.fetch_add(1, Ordering::SeqCst) == 0 {
            panic!("a defect");
        }
        Box::pin(std::future::ready(()))
    });
    bench.backends.objects = Arc::new(Hooked::before(bench.backends.objects.clone(), panics));
    until(&bench, Grace::default(), "the run ends", async || bench.history().await.ended().is_some()).await;
    assert!(panicked.load(Ordering::SeqCst) > 1, "it was taken up again");
}

#[tokio::test(start_paused = true)]
async fn half_a_submission_goes_after_the_grace_time_and_not_before() {
    for (grace, goes) in [(Duration::from_secs(24 * 3600), false), (Duration::ZERO, true)] {
        let (bench, spec) = (Bench::shared(Arc::new(MemoryObjects::default())), spec(4, 2));
        let key = SharedKey::Submitted(spec.run.clone());
        bench.backends.objects.put(&key.to_string(), Bytes::new()).await.unwrap();
        bench.backends.write_spec(&bench.store, spec.clone()).await.unwrap();
        let begun = Instant::now();
        let passed = async || begun.elapsed() > LONG / 2 || !has(&bench, key.clone()).await;
        until(&bench, Grace(grace), "the service goes on", passed).await;
        assert_eq!(has(&bench, key.clone()).await, !goes, "{grace:?}");
        assert_eq!(bench.history().await.is_deleted(), goes);
    }
}

#[tokio::test(start_paused = true)]
async fn runs_that_cannot_be_read_keep_no_other_one_from_being_driven() {
    let refuse = |operation, key: &str| match operation == "get" && key.starts_with("runs/c/") {
        true => Fault::Fail(ObjectErrorKind::Permission),
        false => Fault::None,
    };
    let objects = FaultyObjects::new(MemoryObjects::default(), Box::new(refuse));
    let (bench, spec) = submitted_to(Arc::new(objects)).await;
    let _worker = bench.worker(&spec, Arc::new(|_, _| done()));
    for (run, object) in [("a", "decisions/000000.json"), ("b", "run.json"), ("c", "run.json"), ("z", "run.json")] {
        for key in [format!("index/submitted/{run}"), format!("index/active/{run}")] {
            bench.backends.objects.put(&key, Bytes::new()).await.unwrap();
        }
        bench.backends.objects.put(&format!("runs/{run}/{object}"), "{".into()).await.unwrap();
    }
    hand_over(&bench.backends, &spec.run).await.unwrap();
    until(&bench, Grace::default(), "the run ends", async || bench.history().await.ended().is_some()).await;
    assert!(list_all(&*bench.backends.objects, "runs/b/").await.unwrap().len() == 1, "what is damaged stays");
}

#[tokio::test(start_paused = true)]
async fn a_run_whose_log_could_not_be_read_for_a_moment_is_looked_at_again_at_once() {
    for kind in [ObjectErrorKind::Transient, ObjectErrorKind::Away, ObjectErrorKind::UnknownHost] {
        // To the sweep, to whoever takes it up, and to the next one.
        let mut refusals = 3;
        let refuse = move |operation, key: &str| {
            let refuses = operation == "get" && key.ends_with("decisions/000001.json") && refusals > 0;
            refusals -= u32::from(refuses);
            if refuses { Fault::Fail(kind) } else { Fault::None }
        };
        let objects = FaultyObjects::new(MemoryObjects::default(), Box::new(refuse));
        let (bench, spec) = submitted_to(Arc::new(objects)).await;
        hand_over(&bench.backends, &spec.run).await.unwrap();
        let _worker = bench.worker(&spec, Arc::new(|_, _| done()));
        let begun = Instant::now();
        let endings = bench.store.relative("endings/");
        let ended = async || !list_all(&*bench.backends.objects, &endings).await.unwrap().is_empty();
        until(&bench, Grace::default(), "the run ends", ended).await;
        assert!(begun.elapsed() < Duration::from_secs(60), "{kind:?}: after {:?}", begun.elapsed());
    }
}

/// How long a service that has found nothing to do takes from a run's submission, which `submit` carries out, to its end.
async fn from_its_submission_to_its_end(bench: &Bench, spec: &RunSpec, submit: impl Future<Output = ()>) -> Duration {
    let _worker = bench.worker(spec, Arc::new(|_, _| done()));
    let submitted = async {
        tokio::time::sleep(Duration::from_secs(30)).await;
        submit.await;
        Instant::now()
    };
    let ended = until(bench, Grace::default(), "the run ends", async || bench.history().await.ended().is_some());
    tokio::join!(submitted, ended).0.elapsed()
}

#[tokio::test(start_paused = true)]
async fn a_run_for_which_nobody_could_ring_is_taken_up_as_soon_as_the_progress_service_answers() {
    let (progress, spec) = (Arc::new(MoodyProgress::default()), spec(4, 2));
    let mut bench = Bench::shared(Arc::new(MemoryObjects::default()));
    bench.backends.progress = progress.clone();
    let took = from_its_submission_to_its_end(&bench, &spec, async {
        progress.be_away(true);
        // It lists when it notices, and is not to list again before the progress service is back.
        tokio::time::sleep(Duration::from_millis(2200)).await;
        bench.submit(&spec).await;
        hand_over(&bench.backends, &spec.run).await.unwrap();
        progress.be_away(false);
    });
    let took = took.await;
    assert!(took < Duration::from_secs(10), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_run_for_which_somebody_rang_is_taken_up_though_the_listing_failed() {
    let mut listings = 0;
    let refuse = move |operation, key: &str| {
        let lists = operation == "list" && key == SharedKey::ACTIVE;
        listings += u32::from(lists);
        // The first one finds nothing.
        if lists && listings == 2 { Fault::Fail(ObjectErrorKind::Away) } else { Fault::None }
    };
    let objects = FaultyObjects::new(MemoryObjects::default(), Box::new(refuse));
    let (bench, spec) = (Bench::shared(Arc::new(objects)), spec(4, 2));
    let took = from_its_submission_to_its_end(&bench, &spec, async {
        bench.submit(&spec).await;
        hand_over(&bench.backends, &spec.run).await.unwrap();
    });
    let took = took.await;
    assert!(took < Duration::from_secs(10), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_service_that_is_told_to_stop_while_it_removes_a_large_run_stops_at_once() {
    let (mut bench, spec) = submitted().await;
    bench.decide(&spec, Act::Cancelled).await.unwrap();
    let (coordinator, _) = bench.coordinator(|_| ());
    within(coordinator.drive(&spec, &CancellationToken::new())).await.unwrap();
    for index in 0..10_000 {
        let late = ObjectKey::FirstAttempt(ShardId { round: Round(0), index });
        bench.store.objects().put(&bench.store.path(&late), Bytes::new()).await.unwrap();
    }
    let mut history = bench.history().await;
    delete::delete(&bench.backends, &bench.store, &spec.run, &mut history, "test").await.unwrap();
    hand_over(&bench.backends, &spec.run).await.unwrap();

    let (slow, before) = (|| tokio::time::sleep(Duration::from_millis(50)), bench.backends.objects.clone());
    bench.backends.objects = Arc::new(Hooked::before(before.clone(), Box::new(move |_, _| Box::pin(slow()))));
    let drain = CancellationToken::new();
    let stop = async {
        while list_all(&*before, "runs/").await.unwrap().len() > 9_000 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        drain.cancel();
        Instant::now()
    };
    let ((), told) = tokio::join!(service(&bench, Grace::default()).run(drain.clone()), stop);
    assert!(told.elapsed() < Duration::from_secs(1), "{:?}", told.elapsed());
    assert!(list_all(&*before, "runs/").await.unwrap().len() > 1_000, "it was in the middle");
    until(&bench, Grace::default(), "it goes on", async || {
        list_all(&*before, "index/submitted/").await.unwrap().is_empty()
    })
    .await;
}
