//! The soak: a fleet with the real services makes a great many synthetic tasks, several runs in several pools at once,
//! while their owners pause, resume, cancel, retry, delete and repeat them, somebody verifies, repairs, reconciles and
//! collects garbage, and every few seconds a random part is struck. In the end every run is as its owner asked for it last,
//! every task has exactly one outcome, and the counters are those of the markers.
//!
//! `make soak` runs it large, `tests/system/fleet/soak.rs` small. Both are this code.

#![allow(clippy::print_stderr, reason = "whoever waits for a soak is told how far it is")]

mod check;
mod fleet;
mod janitor;
mod owner;
mod parts;
mod report;
mod rows;
mod strikes;

use std::io::BufRead;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use fastrand::Rng;

use self::fleet::{Fleet, POOLS};
use self::janitor::Looked;
use self::owner::{Broken, Life, Owner, STORIES, Seen};
use self::strikes::Striker;
use crate::services::s3::BUCKET;

pub use self::owner::{Story, Wanted};
pub use self::parts::Kind;
pub use self::report::{Counters, Report, RunReport};
pub use self::rows::Tally;
pub use self::strikes::{Blow, Struck, all_blows};

/// How long a run may stand still under blows. Each outage alone lasts seconds.
const STANDSTILL: Duration = Duration::from_secs(240);

/// How long a coordinator may be silent.
const PATIENCE: Duration = Duration::from_secs(3);

/// Between two looks at a run.
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
    /// Rows of all manifests.
    pub tasks: u64,
    /// Runs that are under way at once; the last one is as many times larger than the first.
    pub runs: u64,
    /// Tasks a shard.
    pub shard_size: u32,
    /// Workers, shared among the pools; each pool has one at least.
    pub workers: usize,
    /// How long a batch of 32 tasks takes on a worker's device.
    pub latency: Duration,
    /// What decides which part is struck how, in which order, and for how long; and what owners do when.
    pub seed: u64,
    /// Between two blows, on average.
    pub strike_every: Duration,
    /// How often the broker is killed at most: it takes ten seconds to come back.
    pub broker_kills: Option<u64>,
    /// Where the members' logs go; with everything else, in a folder that does not stay, where it is not given.
    pub logs: Option<PathBuf>,
}

/// Runs a soak. `None` where `stop` was set before its end: then nothing is proven. Panics where the fleet cannot be
/// started.
pub fn run(programs: &Programs, options: &Options, stop: &AtomicBool) -> Option<Report> {
    let work = tempfile::Builder::new().prefix("diorama-soak-").tempdir().unwrap();
    let fleet = Fleet::start(programs, options, work.path());
    let owners = owners(&fleet, options, stop);
    for owner in &owners {
        rows::write(&work.path().join(owner.manifest()), owner.tasks, BUCKET).unwrap();
    }
    let begun = Instant::now();
    let Lived { lives, looked, mut struck } = live_under_blows(&fleet, &owners, options);
    let took = begun.elapsed();
    if stop.load(Ordering::Acquire) {
        return None;
    }
    eprintln!("soak: the runs have ended after {:.1} s; now they are verified", took.as_secs_f64());
    // At once: nothing starts a member again that ended because of the last blow.
    struck.bad_ends.extend(fleet.drain(Kind::Worker));
    Some(check::report(&fleet, options, &owners, lives, looked, struck, took))
}

/// An owner for each run, with a share of the tasks: the second has twice as many as the first, and so on.
fn owners<'a>(fleet: &'a Fleet, options: &Options, stop: &'a AtomicBool) -> Vec<Owner<'a>> {
    let mut rng = Rng::with_seed(options.seed);
    let runs = options.runs.max(1);
    let (whole, mut given) = (runs * (runs + 1) / 2, 0);
    let owner = |number: u64| {
        let tasks = match number + 1 == runs {
            true => options.tasks - given,
            false => (options.tasks * (number + 1) / whole).max(1),
        };
        given += tasks;
        Owner {
            fleet,
            stop,
            name: format!("run-{number}"),
            pool: POOLS[number as usize % POOLS.len()],
            tasks,
            shard_size: options.shard_size,
            story: STORIES[number as usize % STORIES.len()],
            rng: Mutex::new(rng.fork()),
            seen: Mutex::new(Seen::default()),
        }
    };
    (0..runs).map(owner).collect()
}

/// What came of it all.
struct Lived {
    /// Of each owner.
    lives: Vec<Result<Life, Broken>>,
    looked: Looked,
    struck: Struck,
}

/// Lets all owners live at once, and strikes until the last one has come to the end of its story.
fn live_under_blows(fleet: &Fleet, owners: &[Owner], options: &Options) -> Lived {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let living: Vec<_> = owners.iter().map(|owner| scope.spawn(|| owner.live())).collect();
        let janitor = scope.spawn(|| janitor::look_after(fleet, owners, options.seed, &over));
        let mut striker = Striker::new(scope, fleet, options.seed, options.strike_every, options.broker_kills);
        let mut said = Instant::now();
        while !living.iter().all(|life| life.is_finished()) {
            striker.go_on();
            if said.elapsed() > Duration::from_secs(10) {
                said = Instant::now();
                let left = living.iter().filter(|life| !life.is_finished()).count();
                eprintln!("soak: {left} of {} runs go on, {} blows so far", owners.len(), striker.blows());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        over.store(true, Ordering::Release);
        let struck = striker.finish();
        let panicked = |panic| std::panic::resume_unwind(panic);
        let lives = living.into_iter().map(|life| life.join().unwrap_or_else(panicked)).collect();
        let looked = janitor.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        Lived { lives, looked, struck }
    })
}

/// The programs of this build, beside `program`.
pub fn programs_beside(program: &Path) -> Programs {
    Programs { diorama: program.with_file_name("diorama-under-test"), s3: program.with_file_name("diorama-s3") }
}

/// GETs `path` of a coordinator.
fn get(address: SocketAddr, path: &str) -> Option<impl BufRead + use<>> {
    crate::http::ask(address, &format!("GET {path}"), PATIENCE)
}
