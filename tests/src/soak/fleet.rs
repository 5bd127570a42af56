//! The soak's fleet: its services, its members, and the commands that are run on it.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;

use super::parts::{Kind, Member, Part, Site};
use super::{Options, Programs, rows};
use crate::children::{self, Process};
use crate::services::proxy::Proxy;
use crate::services::rabbitmq::RabbitMq;
use crate::services::redis::Redis;
use crate::services::s3::{ACCESS_KEY, BUCKET, S3Server, SECRET_KEY};
use crate::services::{free_port, wait_until};

/// The lease of the leading coordinator. A fleet that is struck every few seconds must notice in seconds.
pub(super) const LEASE: Duration = Duration::from_secs(3);

/// After twice of this the broker takes the shards of a worker that is silent.
pub(super) const AMQP_HEARTBEAT: Duration = Duration::from_secs(2);

/// Pools; each has runs and workers of its own.
pub(super) const POOLS: [&str; 2] = ["gulls", "terns"];

pub(super) const BUILD: &str = "build it: cargo build -p diorama-tests --bins";

/// How long a command on a whole run may take: so long, and a millisecond a task.
const COMMAND: Duration = Duration::from_secs(600);

/// Coordinators, so that one can take over.
const COORDINATORS: usize = 2;

/// All of it. Whatever runs dies with this value.
pub(super) struct Fleet {
    pub(super) sites: Vec<Site>,
    pub(super) coordinators: Vec<SocketAddr>,
    program: PathBuf,
    environment: Vec<(&'static str, String)>,
    pub(super) work: PathBuf,
    logs: PathBuf,
    /// The bucket's folder.
    pub(super) bucket: PathBuf,
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
            ("DIORAMA_S3_READABLE", format!("{BUCKET}/nowhere")),
            ("DIORAMA_ALLOW_PRIVATE_REFERENCES", "true".to_owned()),
            ("DIORAMA_SCRATCH", work.display().to_string()),
            ("DIORAMA_COORDINATOR", format!("http://{}", coordinators[0])),
        ];
        let ports = [rabbitmq.port(), redis.port(), s3.port()];
        let mut fleet = Self {
            sites: Vec::new(),
            coordinators,
            program: programs.diorama.clone(),
            environment,
            work: work.to_owned(),
            logs,
            bucket: s3.folder(),
            patience: COMMAND + Duration::from_millis(options.tasks),
        };
        fleet.sites.push(Site::new(Kind::RabbitMq, "rabbitmq", Part::RabbitMq(rabbitmq)));
        fleet.sites.push(Site::new(Kind::Redis, "redis", Part::Redis(redis)));
        fleet.sites.push(Site::new(Kind::S3, "s3", Part::S3(s3)));
        let amqp_heartbeat = AMQP_HEARTBEAT.as_secs().to_string();
        for (number, address) in fleet.coordinators.clone().into_iter().enumerate() {
            let (lease, address) = (LEASE.as_secs().to_string(), address.to_string());
            let soon = ["--lease", &lease, "--publish-again", "3", "--amqp-heartbeat", &amqp_heartbeat];
            let arguments = [&["serve", "--listen", &address][..], &soon].concat();
            fleet.add(Kind::Coordinator, &format!("coordinator-{number}"), &arguments, ports);
        }
        let (latency, fail_rate) = (options.latency.as_millis().to_string(), rows::FAIL_RATE.to_string());
        for number in 0..options.workers.max(POOLS.len()) {
            let name = format!("worker-{number}");
            let engine =
                ["--engine", "synthetic", "--synthetic-latency", &latency, "--synthetic-fail-rate", &fail_rate];
            let soon = ["--batch-size", "32", "--heartbeat", "0.5", "--amqp-heartbeat", &amqp_heartbeat];
            let who = ["worker", "--worker", &name, "--pool", POOLS[number % POOLS.len()]];
            fleet.add(Kind::Worker, &name, &[&who[..], &engine, &soon].concat(), ports);
        }
        wait_until("both coordinators answer", || {
            fleet.coordinators.iter().all(|address| super::get(*address, "/livez").is_some())
        });
        fleet
    }

    /// Adds a member that reaches the services (RabbitMQ, Redis, the store) through a network of its own.
    fn add(&mut self, kind: Kind, name: &str, arguments: &[&str], ports: [u16; 3]) {
        let log = OpenOptions::new().create(true).append(true).open(self.logs.join(format!("{name}.log"))).unwrap();
        let mut command = self.command(arguments);
        let networks = ports.map(Proxy::to);
        let variables = ["DIORAMA_AMQP_URL", "DIORAMA_REDIS_URL", "DIORAMA_S3_ENDPOINT"];
        for ((variable, network), port) in variables.into_iter().zip(&networks).zip(ports) {
            let direct = self.environment.iter().find(|(name, _)| *name == variable).map(|(_, url)| url);
            command.env(variable, network.in_place_of(port, direct.expect("it is set above")));
        }
        command.stdout(Stdio::null()).stderr(log);
        self.sites.push(Site::new(kind, name, Part::Member(Member::start(command, networks))));
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

    /// Runs a command to its end, whatever that is. Its log is `name` in `logs`.
    pub(super) fn try_to(&self, name: &str, arguments: &[&str]) -> Output {
        let log = OpenOptions::new().create(true).append(true).open(self.logs.join(format!("{name}.log"))).unwrap();
        let mut command = self.command(arguments);
        command.arg("--json").stdout(Stdio::piped()).stderr(log);
        Process::spawn(&mut command, BUILD).output(self.patience)
    }

    /// Runs a command to its end; the JSON that it prints last.
    pub(super) fn run(&self, arguments: &[&str]) -> Value {
        let ended = self.try_to(arguments[0], arguments);
        json(&ended).unwrap_or_else(|| panic!("diorama {arguments:?} ended with {} and said {ended:?}", ended.status))
    }

    /// The last lines of a member's log.
    pub(super) fn last_words(&self, name: &str) -> String {
        let log = std::fs::read(self.logs.join(format!("{name}.log"))).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(5)..].join("\n")
    }

    /// Every line of any log that speaks of a panic.
    pub(super) fn panics(&self) -> Vec<String> {
        let mut found = Vec::new();
        for file in std::fs::read_dir(&self.logs).unwrap() {
            let path = file.unwrap().path();
            let lines = BufReader::new(File::open(&path).unwrap()).split(b'\n');
            let lines = lines.map(|line| String::from_utf8_lossy(&line.unwrap()).into_owned());
            found.extend(lines.filter(|line| line.contains("panicked at")).map(|line| format!("{path:?}: {line}")));
        }
        found
    }

    pub(super) fn of(&self, kind: Kind) -> impl Iterator<Item = &Site> {
        self.sites.iter().filter(move |site| site.kind == kind)
    }

    /// Sends one command to Redis; `None` where it does not answer.
    pub(super) fn redis(&self, command: &[&str]) -> Option<Vec<String>> {
        self.of(Kind::Redis).find_map(|site| match &*site.part() {
            Part::Redis(redis) => redis.ask(command),
            _ => None,
        })
    }

    /// Waits until no coordinator has anything left to do for an ended run; then its counters are those of its end, also
    /// where Redis lost them while the final files were written.
    pub(super) fn until_let_go(&self, run: &str) {
        let active = self.bucket.join("index/active").join(run);
        wait_until(&format!("the coordinator lets go of the run {run}"), || !active.exists());
    }

    /// Drains all members; those that did not end as drained ones should.
    pub(super) fn drain(&self, kind: Kind) -> Vec<String> {
        let mut working = Vec::new();
        for site in self.of(kind) {
            let Part::Member(member) = &mut *site.part() else { continue };
            // One that the last blow made end with 75 waits to be started again, which nobody does any more.
            if member.end().is_none_or(|end| end.code() != Some(75)) {
                member.signal(rustix::process::Signal::TERM);
                working.push(site);
            }
        }
        let ended = working.into_iter().filter_map(|site| match &mut *site.part() {
            Part::Member(member) => member.drained().map(|wrong| format!("{} {wrong}", site.name)),
            _ => None,
        });
        ended.collect()
    }

    /// What Redis counted of the run: shards, done, failed, retrying.
    pub(super) fn counters(&self, run: &str) -> [u64; 4] {
        let counts = self.redis(&["HGETALL", &format!("diorama:{{{run}}}:state")]).expect("Redis answers");
        ["shards", "done", "failed", "retrying"].map(|name| {
            let of_name = |pair: &&[String]| pair[0] == name;
            counts.chunks_exact(2).find(of_name).map_or(0, |pair| pair[1].parse().unwrap())
        })
    }

    /// Everything that bears the name of a run: objects, and keys of Redis.
    pub(super) fn left_of(&self, run: &str) -> Vec<String> {
        let mut left = named(&self.bucket, run);
        let keys = self.redis(&["KEYS", &format!("diorama:{{{run}}}:*")]).expect("Redis answers");
        left.extend(keys.into_iter().map(|key| format!("{key} of Redis")));
        left
    }
}

/// Every file below `folder` that has `name` in its path.
fn named(folder: &Path, name: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(named(&path, name));
        } else if path.to_string_lossy().contains(name) {
            found.push(path.display().to_string());
        }
    }
    found
}

/// What a command printed last, where that is JSON.
pub(super) fn json(ended: &Output) -> Option<Value> {
    let stdout = String::from_utf8_lossy(&ended.stdout);
    serde_json::from_str(stdout.trim_end().lines().last().unwrap_or_default()).ok()
}

impl Drop for Fleet {
    fn drop(&mut self) {
        // The members first: they have no word left for services that go before them.
        while self.sites.pop().is_some() {}
    }
}
