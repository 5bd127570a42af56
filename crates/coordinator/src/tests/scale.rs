//! What many or large runs cost the object store, in requests and, at 20 ms a request, in waiting: `benches/scale` has the
//! large figures, these keep them so.

use std::sync::atomic::AtomicU64;

use diorama_core::key::SharedKey;
use diorama_core::round::RoundInfo;
use tower::ServiceExt;

use super::unkind::{Hook, Hooked, MemoryObjects};
use super::*;
use crate::api::router;
use crate::{Grace, Service, ServiceConfig};

const REQUEST: Duration = Duration::from_millis(20);

/// A store that counts requests, each of which takes a while.
fn slow(requests: &Arc<AtomicU64>, takes: Duration) -> Arc<dyn Objects> {
    let requests = requests.clone();
    let before: Hook = Box::new(move |_, _| {
        requests.fetch_add(1, Ordering::SeqCst);
        Box::pin(tokio::time::sleep(takes))
    });
    Arc::new(Hooked::before(Arc::new(MemoryObjects::default()), before))
}

fn service(bench: &Bench) -> Service {
    let mut runs = CoordinatorConfig::new(bench.scratch().to_owned());
    (runs.poll, runs.control_poll) = (Duration::from_millis(200), Duration::from_secs(1));
    let grace = Grace(Duration::from_secs(24 * 3600));
    let config = ServiceConfig { owner: "one".to_owned(), lease: Duration::from_secs(10), grace, runs };
    Service::new(bench.backends.clone(), config).0
}

/// The run is on the lists and completely submitted, by entries alone.
async fn listed(bench: &Bench, spec: &RunSpec) {
    for key in [SharedKey::Submitted(spec.run.clone()), SharedKey::Active(spec.run.clone())] {
        bench.backends.objects.put(&key.to_string(), Bytes::new()).await.unwrap();
    }
    let store = RunStore::shared(bench.backends.objects.clone(), &spec.run);
    bench.backends.write_spec(&store, spec.clone()).await.unwrap();
    let round = RoundInfo::first(spec.shards(), spec.tasks, AttemptId::generate(), Timestamp::UNIX_EPOCH);
    let act = Act::Submitted { round };
    bench.backends.decide(&store, &spec.run, &mut History::default(), "test", act).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_idle_or_paused_run_costs_the_store_less_than_a_request_in_twenty_seconds() {
    for paused in [false, true] {
        let requests = Arc::default();
        let (bench, spec) = (Bench::shared(slow(&requests, REQUEST)), spec(20_000, 4));
        listed(&bench, &spec).await;
        if paused {
            bench.decide(&spec, Act::Paused { reason: None }).await.unwrap();
        }
        let drain = CancellationToken::new();
        let hour = async {
            tokio::time::sleep(Duration::from_secs(60)).await;
            let before = requests.load(Ordering::SeqCst);
            tokio::time::sleep(Duration::from_secs(3600)).await;
            drain.cancel();
            requests.load(Ordering::SeqCst) - before
        };
        let (asked, ()) = tokio::join!(hour, service(&bench).run(drain.clone()));
        // The API's look for its metrics asks thirty times more.
        assert!((1..150).contains(&asked), "{asked} requests in an hour of a run that is paused: {paused}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_takeover_reads_markers_and_pages_side_by_side_where_the_progress_service_knows_nothing() {
    let requests = Arc::default();
    let (bench, spec) = (Bench::shared(slow(&requests, REQUEST)), spec(3000, 1));
    bench.submit(&spec).await;
    bench.backends.objects.put(&SharedKey::Active(spec.run.clone()).to_string(), Bytes::new()).await.unwrap();
    let commits = (0..2999).map(|index| {
        let bench = &bench;
        let spec = &spec;
        async move { bench.commit(spec, ShardId { round: Round(0), index }, &(Arc::new(|_, _| done()) as Decide)).await }
    });
    futures::future::join_all(commits).await;
    let (drain, begun) = (CancellationToken::new(), tokio::time::Instant::now());
    let before = requests.load(Ordering::SeqCst);
    let published = async {
        while bench.backends.queue.depth(&spec.pool).await.unwrap().ready == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let taken = (begun.elapsed(), requests.load(Ordering::SeqCst) - before);
        drain.cancel();
        taken
    };
    let ((waited, asked), ()) = tokio::join!(published, service(&bench).run(drain.clone()));
    // Read one after another, the markers alone would take a minute.
    assert!(waited < Duration::from_secs(1), "{waited:?}");
    assert!(asked < 2999 + 50, "{asked} requests");
    assert_eq!(bench.counts(&spec).await.done, 2999);
}

#[tokio::test(start_paused = true)]
async fn a_filtered_list_of_many_runs_looks_at_them_side_by_side_and_an_unfiltered_page_at_no_more_than_it_shows() {
    let requests = Arc::default();
    let bench = Bench::shared(slow(&requests, REQUEST));
    for number in 0..400 {
        let run = RunId::new(format!("run-{number:03}")).unwrap();
        listed(&bench, &RunSpec { run, name: Some(format!("number {number}")), ..spec(4, 4) }).await;
    }
    for (query, wanted, bound) in [("", 50, 51 * 5), ("?name=399", 1, 400 * 5)] {
        let (begun, before) = (tokio::time::Instant::now(), requests.load(Ordering::SeqCst));
        let request = axum::http::Request::builder().uri(format!("/v1/runs{query}"));
        let response = router(bench.api()).oneshot(request.body(axum::body::Body::empty()).unwrap()).await.unwrap();
        let body = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
        let page: Value = serde_json::from_slice(&body).unwrap();
        let runs = page["runs"].as_array().unwrap();
        assert_eq!((runs.len(), &runs[0]["run"]), (wanted, &"run-399".into()), "{query}");
        assert!(begun.elapsed() < Duration::from_millis(500), "{query}: {:?}", begun.elapsed());
        let asked = requests.load(Ordering::SeqCst) - before;
        assert!(asked <= bound, "{query}: {asked} requests");
    }
}

#[tokio::test(start_paused = true)]
async fn a_coordinator_stops_within_a_second_whatever_it_is_at_and_the_next_one_goes_on() {
    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Section {
        Takeover,
        Cancellation,
        Ending,
    }
    for section in [Section::Takeover, Section::Cancellation, Section::Ending] {
        let requests = Arc::default();
        let (mut bench, spec) = (Bench::shared(Arc::new(MemoryObjects::default())), spec(3000, 1));
        bench.submit(&spec).await;
        bench.backends.objects.put(&SharedKey::Active(spec.run.clone()).to_string(), Bytes::new()).await.unwrap();
        for index in (0..3000).filter(|index| section != Section::Cancellation || index % 2 == 0) {
            let shard = ShardId { round: Round(0), index };
            bench.commit(&spec, shard, &(Arc::new(|_, _| done()) as Decide)).await;
            if section != Section::Takeover {
                bench.count(&spec, shard).await;
            }
        }
        if section == Section::Cancellation {
            bench.decide(&spec, Act::Cancelled).await.unwrap();
        }
        let quick = bench.backends.objects.clone();
        let counts: Arc<AtomicU64> = Arc::clone(&requests);
        let before: Hook = Box::new(move |_, _| {
            counts.fetch_add(1, Ordering::SeqCst);
            Box::pin(tokio::time::sleep(Duration::from_millis(50)))
        });
        bench.backends.objects = Arc::new(Hooked::before(quick.clone(), before));
        let drain = CancellationToken::new();
        let stop = async {
            tokio::time::sleep(Duration::from_millis(700)).await;
            drain.cancel();
            tokio::time::Instant::now()
        };
        let ((), told) = tokio::join!(service(&bench).run(drain.clone()), stop);
        assert!(told.elapsed() < Duration::from_secs(1), "{section:?}: {:?}", told.elapsed());
        assert!(bench.history().await.ended().is_none(), "{section:?}: it was in the middle");

        bench.backends.objects = quick;
        let drain = CancellationToken::new();
        let ended = async {
            while bench.history().await.ended().is_none() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            drain.cancel();
        };
        tokio::join!(service(&bench).run(drain.clone()), ended);
        let summary = bench.history().await.ended().unwrap().summary.clone();
        let cancelled = if section == Section::Cancellation { 1500 } else { 0 };
        assert_eq!((summary.done, summary.failed), (3000 - cancelled, cancelled), "{section:?}");
    }
}
