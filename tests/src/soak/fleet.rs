//! The parts of the soak's fleet: how each is started, killed, frozen and started again.

use std::fs::{File, OpenOptions};
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use super::{Options, Programs, rows};
use crate::children::{self, Process};
use crate::services::rabbitmq::RabbitMq;
use crate::services::redis::Redis;
use crate::services::s3::{ACCESS_KEY, BUCKET, S3Server, SECRET_KEY};
use crate::services::{free_port, wait_until};

/// What a part is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    Worker,
    Coordinator,
    RabbitMq,
    Redis,
    S3,
}

/// How long a member may take until it listens to signals.
const STARTING: Duration = Duration::from_secs(10);

const BUILD: &str = "build it: cargo build -p diorama-tests --bins";

/// How long a command on the whole run may take: so long, and a millisecond a task.
const COMMAND: Duration = Duration::from_secs(600);

/// Coordinators, so that one can take over.
const COORDINATORS: usize = 2;

/// A coordinator or a worker.
pub(super) struct Member {
    command: Command,
    process: Option<Process>,
    started: Instant,
}

impl Member {
    fn start(&mut self) {
        self.started = Instant::now();
        self.process = Some(Process::spawn(&mut self.command, BUILD));
    }

    /// How it ended by itself; `None` while it runs.
    pub(super) fn end(&mut self) -> Option<ExitStatus> {
        self.process.as_mut()?.end()
    }
}

pub(super) enum Part {
    Member(Member),
    RabbitMq(RabbitMq),
    Redis(Redis),
    S3(S3Server),
}

impl Part {
    pub(super) fn kill(&mut self) {
        match self {
            Self::Member(member) => member.process = None,
            Self::RabbitMq(rabbitmq) => rabbitmq.kill(),
            Self::Redis(redis) => redis.kill(),
            Self::S3(s3) => s3.kill(),
        }
    }

    pub(super) fn start_again(&mut self) {
        match self {
            Self::Member(member) => member.start(),
            Self::RabbitMq(rabbitmq) => rabbitmq.start_again(),
            Self::Redis(redis) => redis.start_again(),
            Self::S3(s3) => s3.start_again(),
        }
    }

    pub(super) fn signal(&self, signal: Signal) {
        match self {
            Self::Member(member) => member.process.iter().for_each(|process| process.signal(signal)),
            Self::RabbitMq(rabbitmq) => rabbitmq.signal(signal),
            Self::Redis(redis) => redis.signal(signal),
            Self::S3(s3) => s3.signal(signal),
        }
    }
}

/// A part in its place. Whoever strikes it takes the lock until it is up again.
pub(super) struct Site {
    pub(super) kind: Kind,
    pub(super) name: String,
    pub(super) part: Mutex<Part>,
    /// Set before a blow is under way, cleared after it.
    pub(super) struck: AtomicBool,
}

impl Site {
    fn new(kind: Kind, name: impl Into<String>, part: Part) -> Self {
        Self { kind, name: name.into(), part: Mutex::new(part), struck: AtomicBool::new(false) }
    }

    pub(super) fn is_struck(&self) -> bool {
        self.struck.load(Ordering::Acquire)
    }
}

/// All of it. Whatever runs dies with this value.
pub(super) struct Fleet {
    pub(super) sites: Vec<Site>,
    pub(super) coordinators: Vec<SocketAddr>,
    program: PathBuf,
    environment: Vec<(&'static str, String)>,
    work: PathBuf,
    logs: PathBuf,
    /// How long a command may take.
    patience: Duration,
}

impl Fleet {
    /// Starts everything; files of all kinds go below `work`.
    pub(super) fn start(programs: &Programs, options: &Options, work: &Path) -> Self {
        let (redis, s3, rabbitmq) = (Redis::start(), S3Server::start(&programs.s3), RabbitMq::start());
        let coordinators: Vec<SocketAddr> =
            (0..COORDINATORS).map(|_| SocketAddr::from(([127, 0, 0, 1], free_port()))).collect();
        let logs = options.logs.clone().unwrap_or_else(|| work.join("logs"));
        std::fs::create_dir_all(&logs).unwrap();
        let environment = vec![
            ("DIORAMA_AMQP_URL", rabbitmq.url()),
            ("DIORAMA_REDIS_URL", redis.url()),
            ("DIORAMA_S3_ENDPOINT", s3.endpoint()),
            ("DIORAMA_S3_BUCKET", BUCKET.to_owned()),
            ("DIORAMA_S3_ACCESS_KEY", ACCESS_KEY.to_owned()),
            ("DIORAMA_S3_SECRET_KEY", SECRET_KEY.to_owned()),
            ("DIORAMA_S3_PATH_STYLE", "true".to_owned()),
            ("DIORAMA_SCRATCH", work.display().to_string()),
            ("DIORAMA_COORDINATOR", format!("http://{}", coordinators[0])),
        ];
        let mut fleet = Self {
            sites: Vec::new(),
            coordinators,
            program: programs.diorama.clone(),
            environment,
            work: work.to_owned(),
            logs,
            patience: COMMAND + Duration::from_millis(options.tasks),
        };
        fleet.sites.push(Site::new(Kind::RabbitMq, "rabbitmq", Part::RabbitMq(rabbitmq)));
        fleet.sites.push(Site::new(Kind::Redis, "redis", Part::Redis(redis)));
        fleet.sites.push(Site::new(Kind::S3, "s3", Part::S3(s3)));
        for (number, address) in fleet.coordinators.clone().into_iter().enumerate() {
            // A fleet that is struck every few seconds must notice in seconds.
            let soon = ["--lease", "3", "--publish-again", "3"];
            let address = address.to_string();
            let arguments = [&["serve", "--listen", &address][..], &soon].concat();
            fleet.add(Kind::Coordinator, &format!("coordinator-{number}"), &arguments);
        }
        let (latency, fail_rate) = (options.latency.as_millis().to_string(), rows::FAIL_RATE.to_string());
        for number in 0..options.workers {
            let name = format!("worker-{number}");
            let engine =
                ["--engine", "synthetic", "--synthetic-latency", &latency, "--synthetic-fail-rate", &fail_rate];
            let more = ["--batch-size", "32", "--heartbeat", "0.5"];
            fleet.add(Kind::Worker, &name, &[&["worker", "--worker", &name][..], &engine, &more].concat());
        }
        wait_until("a coordinator answers", || {
            fleet.coordinators.iter().all(|address| super::get(*address, "/livez").is_some())
        });
        fleet
    }

    fn add(&mut self, kind: Kind, name: &str, arguments: &[&str]) {
        let log = OpenOptions::new().create(true).append(true).open(self.logs.join(format!("{name}.log"))).unwrap();
        let mut command = self.command(arguments);
        command.stdout(Stdio::null()).stderr(log);
        let mut member = Member { command, process: None, started: Instant::now() };
        member.start();
        self.sites.push(Site::new(kind, name, Part::Member(member)));
    }

    /// The program, connected to this fleet, with nothing of the caller's configuration.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = children::command(&self.program);
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("DIORAMA_")) {
            command.env_remove(name);
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.args(arguments).current_dir(&self.work);
        command
    }

    /// Runs a command to its end; the JSON that it prints last. Its log is in `logs`.
    pub(super) fn run(&self, arguments: &[&str]) -> Value {
        let log = File::create(self.logs.join(format!("{}.log", arguments[0]))).unwrap();
        let mut command = self.command(arguments);
        command.arg("--json").stdout(Stdio::piped()).stderr(log);
        let ended = Process::spawn(&mut command, BUILD).output(self.patience);
        let stdout = String::from_utf8_lossy(&ended.stdout).into_owned();
        let last = stdout.trim_end().lines().last().unwrap_or_default();
        serde_json::from_str(last)
            .unwrap_or_else(|error| panic!("diorama {arguments:?} ({}): {error}: {stdout:?}", ended.status))
    }

    /// The last lines of a member's log.
    pub(super) fn last_words(&self, name: &str) -> String {
        let log = std::fs::read(self.logs.join(format!("{name}.log"))).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(5)..].join("\n")
    }

    fn of(&self, kind: Kind) -> impl Iterator<Item = &Site> {
        self.sites.iter().filter(move |site| site.kind == kind)
    }

    /// Waits until no coordinator has anything left to do for an ended run; then its counters are those of its end, also
    /// where Redis lost them while the final files were written.
    pub(super) fn until_let_go(&self, run: &str) {
        let folder = self.of(Kind::S3).find_map(|site| match &*site.part.lock().unwrap() {
            Part::S3(s3) => Some(s3.folder()),
            _ => None,
        });
        let active = folder.unwrap().join("index/active").join(run);
        wait_until("the coordinator lets go of the run", || !active.exists());
    }

    /// Drains the workers; the names of those that did not end as drained ones should.
    pub(super) fn drain_workers(&self) -> Vec<String> {
        let mut working = Vec::new();
        for site in self.of(Kind::Worker) {
            let part = &mut *site.part.lock().unwrap();
            // One that the last blow made end with 75 waits to be started again, which nobody does any more.
            let end = if let Part::Member(member) = part { member.end() } else { None };
            let waits = end.is_some_and(|end| end.code() == Some(75));
            if !waits {
                part.signal(Signal::TERM);
                working.push(site);
            }
        }
        let mut wrong = Vec::new();
        for site in working {
            let Part::Member(member) = &mut *site.part.lock().unwrap() else { continue };
            let mut end = None;
            wait_until("a drained worker ends", || {
                end = member.end();
                end.is_some()
            });
            let drained = end.is_some_and(|end| end.code() == Some(143));
            // One that was only just started again did not listen to signals yet, and had nothing to hand back.
            let unready = end.is_some_and(|end| end.signal() == Some(Signal::TERM.as_raw()))
                && member.started.elapsed() < STARTING;
            if !drained && !unready {
                wrong.push(format!("{} was drained and ended with {end:?}", site.name));
            }
        }
        wrong
    }

    /// What Redis counted of the run: shards, done, failed, retrying.
    pub(super) fn counters(&self, run: &str) -> [u64; 4] {
        let counts = self.of(Kind::Redis).find_map(|site| match &*site.part.lock().unwrap() {
            Part::Redis(redis) => redis.ask(&["HGETALL", &format!("diorama:{{{run}}}:state")]),
            _ => None,
        });
        let counts = counts.expect("Redis answers");
        ["shards", "done", "failed", "retrying"].map(|name| {
            let of_name = |pair: &&[String]| pair[0] == name;
            counts.chunks_exact(2).find(of_name).map_or(0, |pair| pair[1].parse().unwrap())
        })
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        // The members first: they have no word left for services that go before them.
        while self.sites.pop().is_some() {}
    }
}
