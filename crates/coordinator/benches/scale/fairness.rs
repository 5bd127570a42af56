//! Runs that share a pool, over ten minutes of slow shards: who gets how much, who goes first, and that nobody starves.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use diorama_backends::progress::Holder;
use diorama_backends::queue::{Delivery, Settlement};
use diorama_core::id::{AttemptId, CustomId, RunId, Seed, Sha256Hex, TaskIndex, WorkerId};
use diorama_core::marker::CommitMarker;
use diorama_core::outcome::{Outcome, TaskOutcome};
use diorama_core::run::{RunSpec, RunState};
use diorama_protocol::Backends;
use diorama_protocol::RunStore;
use diorama_protocol::count::count_marker;
use jiff::Timestamp;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use crate::report::Report;
use crate::world::{WINDOW, World, spec};

const DELAY: Duration = Duration::from_millis(20);
const TEN_MINUTES: Duration = Duration::from_secs(600);
const WORKERS: usize = 16;

/// What each shard takes a worker.
const SHARD: Duration = Duration::from_secs(10);

/// More shards than anybody makes here.
const MANY: u64 = 5000;

/// The shards that workers began, in order.
type Begun = Arc<Mutex<Vec<(Instant, RunId)>>>;

/// Workers as the protocol has them: they let go of what is to give way, and say what they hold.
fn workers(world: &World, pool: &str) -> (Begun, Vec<AbortOnDropHandle<()>>) {
    let begun = Begun::default();
    let work = |number: usize| {
        let (backends, begun) = (world.backends.clone(), begun.clone());
        let (pool, worker) = (diorama_core::id::Pool::new(pool).unwrap(), WorkerId::new(format!("w{number}")).unwrap());
        AbortOnDropHandle::new(tokio::spawn(async move {
            let mut consumer = backends.queue.consume(&pool, 2).await.unwrap();
            loop {
                let delivery = consumer.next().await.unwrap();
                make(&backends, &worker, delivery, &begun).await;
            }
        }))
    };
    let workers = (0..WORKERS).map(work).collect();
    (begun, workers)
}

async fn make(backends: &Backends, worker: &WorkerId, delivery: Delivery, begun: &Begun) {
    let (run, shard) = (delivery.message.run.clone(), delivery.message.shard);
    let head = backends.progress.head(&run).await.unwrap();
    if !head.is_some_and(|head| head.state == RunState::Running && !head.gives_way) {
        return delivery.settle(Settlement::Ack).await.unwrap();
    }
    let store = RunStore::shared(backends.objects.clone(), &run);
    if store.marker(shard).await.unwrap().is_some() {
        return delivery.settle(Settlement::Ack).await.unwrap();
    }
    begun.lock().unwrap().push((Instant::now(), run.clone()));
    let attempt = AttemptId::generate();
    let holder = Holder { worker: worker.clone(), attempt: attempt.clone(), done: 0, failed: 0 };
    backends.progress.hold(&run, shard, &holder, SHARD * 3).await.unwrap();
    tokio::time::sleep(SHARD).await;
    let outcome = TaskOutcome {
        task: TaskIndex(u64::from(shard.index)),
        custom_id: CustomId::new(format!("row-{}", shard.index)).unwrap(),
        seed: Seed::new(1).unwrap(),
        outcome: Outcome::Done {
            archive: None,
            files: Default::default(),
            mask_coverage: None,
            scores: Default::default(),
            measures: Default::default(),
            accepted: None,
            tries: Vec::new(),
            warnings: Vec::new(),
        },
        extra: Default::default(),
    };
    let marker = CommitMarker {
        version: 2,
        run: run.clone(),
        shard,
        attempt,
        worker: worker.clone(),
        model: None,
        settings: Sha256Hex::of(b"settings"),
        archives: Vec::new(),
        outcomes: vec![outcome],
        started_at: Timestamp::UNIX_EPOCH,
        committed_at: Timestamp::UNIX_EPOCH,
        device_seconds: SHARD.as_secs_f64(),
    };
    let marker = backends.commit(&store, marker).await.unwrap();
    count_marker(&*backends.progress, &run, &marker, 0).await.unwrap();
    delivery.settle(Settlement::Ack).await.unwrap();
}

/// A run with a shard a task.
fn run(name: &str, shards: u64, priority: i32, weight: u32) -> RunSpec {
    RunSpec { priority, weight, ..spec(name, shards, 1) }
}

/// A world in which large runs may come and go.
fn world() -> World {
    World::new(DELAY, Some(&spec("any", MANY, 1)))
}

/// How often each of these runs was begun within ten minutes of `from`.
fn counts<const N: usize>(begun: &Begun, from: Instant, runs: [&str; N]) -> [usize; N] {
    let begun = begun.lock().unwrap();
    let within = |at: Instant| at >= from && at < from + TEN_MINUTES;
    runs.map(|run| begun.iter().filter(|(at, of)| within(*at) && of.as_str() == run).count())
}

pub(crate) async fn measure(report: &mut Report) {
    by_weight(report).await;
    a_late_comer(report).await;
    priority(report).await;
    many(report).await;
}

async fn by_weight(report: &mut Report) {
    let world = world();
    for (name, priority, weight) in [("a", 0, 1), ("b", 0, 2), ("c", 0, 4), ("low", -5, 100)] {
        world.add_run(&run(name, MANY, priority, weight), 0).await;
    }
    let start = Instant::now();
    let (begun, _workers) = workers(&world, "default");
    world.serving(tokio::time::sleep(TEN_MINUTES)).await;
    let [a, b, c, low] = counts(&begun, start, ["a", "b", "c", "low"]);
    let off = worst([(a, 1), (b, 2), (c, 4)]);
    let measured = format!("{a}, {b} and {c} shards; {:.1} % off", off * 100.0);
    report.add("weights 1, 2 and 4 in one pool over ten minutes", measured, "within 5 %", off <= 0.05);
    report.add("beside them, a lower priority", format!("{low} shards"), "does not starve", low > 0);
}

/// How far the worst of these is from its part by weight.
fn worst<const N: usize>(runs: [(usize, usize); N]) -> f64 {
    let (made, weights) = runs.iter().fold((0, 0), |(made, weights), run| (made + run.0, weights + run.1));
    let off = |(of, weight): (usize, usize)| (of as f64 * weights as f64 / (made * weight) as f64 - 1.0).abs();
    runs.into_iter().map(off).fold(0.0, f64::max)
}

async fn a_late_comer(report: &mut Report) {
    let world = world();
    world.add_run(&run("first", MANY, 0, 1), 0).await;
    let (begun, _workers) = workers(&world, "default");
    let came = world
        .serving(async {
            tokio::time::sleep(TEN_MINUTES / 2).await;
            world.add_run(&run("second", MANY, 0, 1), 0).await;
            world.backends.progress.ring().await.unwrap();
            let came = Instant::now();
            tokio::time::sleep(TEN_MINUTES).await;
            came
        })
        .await;
    let [first, second] = counts(&begun, came, ["first", "second"]);
    let off = worst([(first, 1), (second, 1)]);
    let measured = format!("{first} and {second} shards; {:.1} % off", off * 100.0);
    let what = "a second run of the same weight comes five minutes later: the ten minutes from then";
    report.add(what, measured, "within 5 %", off <= 0.05);
}

async fn priority(report: &mut Report) {
    let world = world();
    world.add_run(&run("low", MANY, -5, 1), 0).await;
    let (begun, _workers) = workers(&world, "default");
    let came = world
        .serving(async {
            tokio::time::sleep(TEN_MINUTES / 10).await;
            world.add_run(&run("high", 64, 10, 1), 0).await;
            world.backends.progress.ring().await.unwrap();
            let came = Instant::now();
            tokio::time::sleep(TEN_MINUTES / 2).await;
            came
        })
        .await;
    let begun = begun.lock().unwrap();
    let first = begun.iter().find(|(_, of)| of.as_str() == "high").map(|(at, _)| at.duration_since(came));
    let measured = first.map_or("never".to_owned(), |first| format!("{:.1} s", first.as_secs_f64()));
    let what = "64 shards of priority 10 behind 5,000 of -5, shards of 10 s: the first of them begins after";
    report.add(what, measured, "a shard's time, 10 s", first.is_some_and(|first| first <= SHARD));
}

/// The window is kept by fifty runs together.
async fn many(report: &mut Report) {
    let world = world();
    for number in 0..50 {
        world.add_run(&run(&format!("run-{number:02}"), 100, 0, 1), 0).await;
    }
    let (begun, _workers) = workers(&world, "default");
    let start = Instant::now();
    let pool = diorama_core::id::Pool::new("default").unwrap();
    let most = world
        .serving(async {
            let mut most = 0;
            while start.elapsed() < TEN_MINUTES {
                most = most.max(world.backends.queue.depth(&pool).await.unwrap().ready as usize + WORKERS);
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            most
        })
        .await;
    let begun = begun.lock().unwrap();
    let of = |number: usize| begun.iter().filter(|(_, of)| of.as_str() == format!("run-{number:02}")).count();
    let (fewest, largest) = ((0..50).map(of).min().unwrap_or(0), (0..50).map(of).max().unwrap_or(0));
    let measured = format!("at most {most} shards out; {fewest} to {largest} shards of each run in ten minutes");
    let met = most <= WINDOW && fewest > 0 && largest - fewest <= 2;
    report.add(
        "fifty runs of one weight in a window of 256",
        measured,
        "the window is kept, nobody is left behind",
        met,
    );
}
