//! A thousand runs, of which ten have not ended: the list, the metrics, and what it costs to have them.

use std::time::Duration;

use diorama_backends::progress::Counts;
use diorama_core::id::{AttemptId, Sha256Hex};
use diorama_core::key::{ObjectKey, SharedKey};
use diorama_core::outcome::FileRef;
use diorama_core::run::{Labels, RunState, RunSummary};
use diorama_protocol::decision::{Act, Ended};
use tokio_util::sync::CancellationToken;

use crate::report::{Report, Watch};
use crate::world::{World, request, spec};

const RUNS: usize = 1000;
const ACTIVE: usize = 10;

/// A store with all of them; the active ones are spread among the others.
async fn thousand(delay: Duration) -> World {
    let world = World::new(delay, None);
    for number in 0..RUNS {
        let mut spec = spec(&format!("run-{number:04}"), 64, 64);
        spec.name = Some(format!("run {number}"));
        spec.labels = Labels::from([("team".to_owned(), format!("t{}", number % 100))]);
        let mut history = world.add_run(&spec, 0).await;
        if number % (RUNS / ACTIVE) != 0 {
            end(&world, &spec, &mut history).await;
        }
    }
    world
}

async fn end(world: &World, spec: &diorama_core::run::RunSpec, history: &mut diorama_protocol::history::History) {
    let name = AttemptId::generate();
    let file = |key: ObjectKey| FileRef {
        path: key.relative(world.run_store(&spec.run).root()),
        sha256: Sha256Hex::of(b""),
        bytes: 0,
    };
    let summary = RunSummary {
        run: spec.run.clone(),
        state: RunState::Finished,
        tasks: spec.tasks,
        done: spec.tasks,
        failed: 0,
        invalid_rows: 0,
        failures: Default::default(),
        rounds: 0,
        shards: 1,
        device_seconds: 1.0,
        wall_seconds: 1.0,
        pictures_per_second: 64.0,
        acceptance: None,
    };
    let (results, errors) = (file(ObjectKey::Results(name.clone())), file(ObjectKey::Errors(name)));
    world.decide(&spec.run, history, Act::EndingBegun { state: RunState::Finished, void: None }).await;
    let counts = Counts { shards: 1, done: spec.tasks, ..Counts::default() };
    world.decide(&spec.run, history, Act::Ended(Box::new(Ended { summary, counts, results, errors }))).await;
    world.store.all().remove(&SharedKey::Active(spec.run.clone()).to_string());
}

pub(crate) async fn measure(report: &mut Report) {
    let world = thousand(Duration::from_millis(20)).await;
    for (what, query, wanted) in [
        ("the first page of 50", "", 50),
        ("those that run", "?state=running&limit=100", ACTIVE),
        ("those with a label", "?label=team=t7&limit=100", RUNS / 100),
        ("those with a name", "?name=run%20999", 1),
    ] {
        // Of a coordinator that has just been started.
        let (_, router) = world.api();
        let (before, watch) = (world.store.requests(), Watch::start());
        let (_, page) = request(&router, "GET", &format!("/v1/runs{query}")).await;
        let (taken, requests) = (watch.taken(), world.store.requests() - before);
        let ids: Vec<&str> = page["runs"].as_array().unwrap().iter().map(|run| run["run"].as_str().unwrap()).collect();
        let is_right = ids.len() == wanted && ids.is_sorted_by(|one, other| one > other);
        let met = is_right && taken.sum() < Duration::from_secs(1);
        let what = format!("`GET /v1/runs`, 1,000 runs of which 990 ended: {what}");
        report.add(what, format!("{taken}, {requests} requests"), "< 1 s at 20 ms a request", met);
    }
    pages(report, &world).await;
    from_memory(report, &world).await;
}

async fn pages(report: &mut Report, world: &World) {
    let (_, router) = world.api();
    let (mut after, mut seen, mut longest) = (String::new(), 0, Duration::ZERO);
    loop {
        let watch = Watch::start();
        let (_, page) = request(&router, "GET", &format!("/v1/runs?limit=100{after}")).await;
        longest = longest.max(watch.taken().sum());
        seen += page["runs"].as_array().unwrap().len();
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => break,
        }
    }
    let measured = format!("{seen} runs, {:.2} s for the slowest page", longest.as_secs_f64());
    let met = seen == RUNS && longest < Duration::from_secs(1);
    report.add("the same, page by page of 100", measured, "all of them, < 1 s a page", met);
}

async fn from_memory(report: &mut Report, world: &World) {
    let (api, router) = world.api();
    let drain = CancellationToken::new();
    let ask = async {
        tokio::time::sleep(Duration::from_secs(60)).await;
        let watch = Watch::start();
        let before = world.store.requests();
        for _ in 0..100 {
            let (_, metrics) = request(&router, "GET", "/metrics").await;
            assert!(metrics.as_str().unwrap().contains("diorama_active_runs{pool=\"default\"} 10"), "{metrics}");
            request(&router, "GET", "/livez").await;
        }
        let asked = (world.store.requests() - before, watch.taken().waiting);
        drain.cancel();
        asked
    };
    let ((requests, waiting), ()) = tokio::join!(ask, api.keep_metrics(drain.clone()));
    let measured = format!("{requests} requests, {} ms of waiting", waiting.as_millis());
    let met = requests == 0 && waiting.is_zero();
    report.add("`/metrics` and `/livez`, 100 times each, with 10 active runs", measured, "from memory", met);
}

/// Requests to the store in an hour of coordinators that have nothing to do.
pub(crate) async fn idle(report: &mut Report) {
    const HOUR: Duration = Duration::from_secs(3600);
    let in_an_hour = async |world: &World| {
        world
            .serving(async {
                tokio::time::sleep(Duration::from_secs(60)).await;
                let before = world.store.requests();
                tokio::time::sleep(HOUR).await;
                world.store.requests() - before
            })
            .await
    };
    let none = in_an_hour(&World::new(Duration::ZERO, None)).await;
    for (what, paused) in [("an idle", false), ("a paused", true)] {
        let large = spec("large", 10_000_000, 64);
        let world = World::new(Duration::from_millis(20), Some(&large));
        let mut history = world.add_run(&large, 0).await;
        if paused {
            world.decide(&large.run, &mut history, Act::Paused { reason: None }).await;
        }
        let requests = in_an_hour(&world).await;
        let rate = requests as f64 / HOUR.as_secs_f64();
        let what = format!("S3 requests of {what} run of 10⁷ tasks");
        let measured = format!("{rate:.4}/s, of which {:.4}/s without a run", none as f64 / HOUR.as_secs_f64());
        report.add(what, measured, "< 0.05/s", rate < 0.05);
    }
    let requests = in_an_hour(&thousand(Duration::from_millis(20)).await).await;
    let each = (requests - none) as f64 / HOUR.as_secs_f64() / RUNS as f64;
    let measured = format!("{each:.4}/s a run");
    report.add("the same of 1,000 runs, 10 of them idle and 990 ended", measured, "< 0.05/s a run", each < 0.05);
}
