//! The soak: a fleet with the real services makes a great many synthetic tasks while every few seconds a random part of it
//! is killed, frozen or emptied. In the end every task has exactly one outcome, and the counters are those of the markers.
//!
//! `make soak` runs it large, `tests/system/fleet/soak.rs` small. Both are this code.

#![allow(clippy::print_stderr, reason = "whoever waits for a soak is told how far it is")]

mod fleet;
mod report;
mod rows;
mod strikes;

use std::io::BufRead;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use self::fleet::Fleet;
use self::strikes::Striker;

pub use self::fleet::Kind;
pub use self::report::{Counters, Report};
pub use self::rows::Tally;
pub use self::strikes::{Blow, Struck};

/// How long the run may stand still under blows. Each outage alone lasts seconds.
const STANDSTILL: Duration = Duration::from_secs(240);

/// How long a coordinator may be silent.
const PATIENCE: Duration = Duration::from_secs(3);

/// Between two looks at the run.
const LOOK: Duration = Duration::from_millis(300);

/// The built programs.
#[derive(Debug, Clone)]
pub struct Programs {
    pub diorama: PathBuf,
    pub s3: PathBuf,
}

/// How a soak goes.
#[derive(Debug, Clone)]
pub struct Options {
    /// Rows of the manifest.
    pub tasks: u64,
    /// Tasks a shard.
    pub shard_size: u32,
    pub workers: usize,
    /// How long a batch of 32 tasks takes on a worker's device.
    pub latency: Duration,
    /// What decides which part is struck how, in which order, and for how long.
    pub seed: u64,
    /// Between two blows, on average.
    pub strike_every: Duration,
    /// How often the broker is killed at most: it takes ten seconds to come back.
    pub broker_kills: Option<u64>,
    /// Where the members' logs go; with everything else, in a folder that does not stay, where it is not given.
    pub logs: Option<PathBuf>,
}

/// What is known of the run while it goes.
struct Seen {
    /// Round, done and failed, to tell whether it goes on; and when that changed last.
    progress: (u64, u64, u64),
    changed: Instant,
    /// When it was last seen not to have ended.
    running: Instant,
    ended: bool,
}

/// Runs a soak. `None` where `stop` was set before its end: then nothing is proven. Panics where the fleet cannot be
/// started, or stands still.
pub fn run(programs: &Programs, options: &Options, stop: &AtomicBool) -> Option<Report> {
    let work = tempfile::Builder::new().prefix("diorama-soak-").tempdir().unwrap();
    rows::write(&work.path().join("rows.jsonl"), options.tasks).unwrap();
    let fleet = Fleet::start(programs, options, work.path());
    let started = Instant::now();
    let run = submit(&fleet, options);
    let submission = started.elapsed();
    eprintln!("soak: {} tasks were submitted in {:.1} s as run {run}", options.tasks, submission.as_secs_f64());

    let begun = Instant::now();
    let (struck, last_running) = strike_until_the_end(&fleet, &run, options, stop)?;
    let took = begun.elapsed();
    eprintln!("soak: the run has ended after {:.1} s; now it is verified", took.as_secs_f64());

    // At once: nothing starts a worker again that ended because of the last blow.
    let bad_drains = fleet.drain_workers();
    fleet.until_let_go(&run);
    let counters = counters(&fleet, &run, struck.redis_at.is_some_and(|at| at + LOOK * 10 >= last_running));
    let tally = tally(&fleet, &run, options.tasks);
    let repair: &[&str] = &["--repair", "--grace", "0"];
    let verified = [&[], repair, &[]].map(|how| fleet.run(&[&["verify", &run], how].concat()));
    Some(Report { options: options.clone(), submission, took, struck, bad_drains, counters, tally, verified })
}

/// Submits the manifest to a coordinator that nothing strikes yet.
fn submit(fleet: &Fleet, options: &Options) -> String {
    let (size, rounds) = (options.shard_size.to_string(), ["--max-rounds", "2", "--retry-delay", "1"]);
    let what = ["submit", "rows.jsonl", "--method", "txt2img", "--format", "webdataset", "--shard-size", &size];
    let submitted = fleet.run(&[&what[..], &rounds].concat());
    submitted["run"]
        .as_str()
        .unwrap_or_else(|| panic!("the manifest was refused: {:.2000}", submitted.to_string()))
        .to_owned()
}

/// Strikes until the run has ended; what was struck, and when the run was last seen not to have ended.
fn strike_until_the_end(fleet: &Fleet, run: &str, options: &Options, stop: &AtomicBool) -> Option<(Struck, Instant)> {
    let now = Instant::now();
    let seen = Mutex::new(Seen { progress: (0, 0, 0), changed: now, running: now, ended: false });
    std::thread::scope(|scope| {
        let watching = scope.spawn(|| watch(fleet, run, &seen, stop));
        let mut striker = Striker::new(scope, fleet, options.seed, options.strike_every, options.broker_kills);
        while !watching.is_finished() {
            striker.go_on();
            std::thread::sleep(Duration::from_millis(50));
        }
        let struck = striker.finish();
        watching.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let seen = seen.lock().unwrap();
        seen.ended.then_some((struck, seen.running))
    })
}

/// Looks at the run until it has ended or stands still.
fn watch(fleet: &Fleet, run: &str, seen: &Mutex<Seen>, stop: &AtomicBool) {
    let mut said = Instant::now();
    while !stop.load(Ordering::Acquire) {
        let status = fleet.coordinators.iter().find_map(|address| {
            let answer = get(*address, &format!("/v1/runs/{run}"))?;
            serde_json::from_reader::<_, Value>(answer).ok()
        });
        let mut seen = seen.lock().unwrap();
        if let Some(status) = status {
            if !status["summary"].is_null() {
                seen.ended = true;
                return;
            }
            seen.running = Instant::now();
            let number = |name: &str| status[name].as_u64().unwrap_or_default();
            let progress = (number("round"), number("done"), number("failed"));
            if seen.progress != progress {
                (seen.progress, seen.changed) = (progress, Instant::now());
            }
            assert_eq!(status["state"], "running", "nobody asked for that: {status}");
        }
        if said.elapsed() > Duration::from_secs(10) {
            said = Instant::now();
            eprintln!("soak: round {}, {} done, {} failed", seen.progress.0, seen.progress.1, seen.progress.2);
        }
        assert!(
            seen.changed.elapsed() < STANDSTILL,
            "the run stands still at {:?} (round, done, failed)",
            seen.progress
        );
        drop(seen);
        std::thread::sleep(LOOK);
    }
}

/// The counters as Redis has them, against the markers. Where Redis lost them after the coordinator's last look, they
/// may be fewer.
fn counters(fleet: &Fleet, run: &str, may_be_lost: bool) -> Counters {
    let said = fleet.counters(run);
    let rebuilt = fleet.run(&["reconcile", run]);
    let markers = ["shards", "done", "failed", "retrying"].map(|name| rebuilt[name].as_u64().unwrap());
    let now = fleet.counters(run);
    if now != markers {
        Counters::Wrong { said: now, markers }
    } else if said == markers {
        Counters::Equal
    } else if may_be_lost && said.iter().zip(&markers).all(|(said, marker)| said <= marker) {
        Counters::Rebuilt { said, markers }
    } else {
        Counters::Wrong { said, markers }
    }
}

/// Reads the outcome of every row, without asking `verify`.
fn tally(fleet: &Fleet, run: &str, rows: u64) -> Tally {
    let mut tally = Tally::new(rows);
    for file in ["results", "errors"] {
        let path = format!("/v1/runs/{run}/{file}");
        let answer = fleet.coordinators.iter().find_map(|address| get(*address, &path));
        let answer = answer.unwrap_or_else(|| panic!("no coordinator gives the {file}"));
        tally.read(answer).unwrap_or_else(|error| panic!("the {file} cannot be read: {error}"));
    }
    tally
}

/// The programs of this build, beside `program`.
pub fn programs_beside(program: &Path) -> Programs {
    Programs { diorama: program.with_file_name("diorama-under-test"), s3: program.with_file_name("diorama-s3") }
}

/// GETs `path` of a coordinator.
fn get(address: SocketAddr, path: &str) -> Option<impl BufRead + use<>> {
    crate::http::ask(address, &format!("GET {path}"), PATIENCE)
}
