//! A fleet with the real services: RabbitMQ, Redis and S3 of its own, coordinators and workers as processes, and whatever
//! dies in the middle.

use std::cell::Cell;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use diorama_tests::services::rabbitmq::RabbitMq;
use diorama_tests::services::redis::Redis;
use diorama_tests::services::s3::{ACCESS_KEY, BUCKET, S3Server, SECRET_KEY};
use diorama_tests::services::{Process, free_port};
use serde_json::Value;

use crate::case::{Case, End, end, until};

mod coordinators;
mod messages;
mod network;
mod outages;
mod references;
mod runs;

/// One fleet at a time: a broker takes a core while it starts.
static ONE: Mutex<()> = Mutex::new(());

/// The services and where the coordinator listens.
pub(crate) struct Fleet {
    pub(crate) case: Case,
    pub(crate) rabbitmq: RabbitMq,
    pub(crate) redis: Redis,
    pub(crate) s3: S3Server,
    pub(crate) coordinator: String,
    /// Processes that were started.
    members: Cell<usize>,
    _alone: MutexGuard<'static, ()>,
}

/// A coordinator or a worker. It dies with the test.
pub(crate) struct Member {
    process: Process,
    log: PathBuf,
}

impl Member {
    pub(crate) fn kill(&mut self) {
        self.process.kill();
    }

    pub(crate) fn freeze(&self) {
        self.process.freeze();
    }

    pub(crate) fn go_on(&self) {
        self.process.go_on();
    }

    /// Waits until it has ended by itself.
    #[track_caller]
    pub(crate) fn until_dead(&mut self) {
        diorama_tests::services::wait_until("the process dies", || self.process.has_ended());
    }

    pub(crate) fn has_logged(&self, part: &str) -> bool {
        fs::read_to_string(&self.log).unwrap().contains(part)
    }

    /// Waits until it has logged `part`.
    #[track_caller]
    pub(crate) fn until_logged(&self, part: &str) {
        until(part, || self.has_logged(part));
    }
}

impl Fleet {
    pub(crate) fn new() -> Self {
        let alone = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        let s3 = S3Server::start(Path::new(env!("CARGO_BIN_EXE_diorama-s3")));
        let coordinator = format!("127.0.0.1:{}", free_port());
        Self {
            case: Case::new(),
            rabbitmq: RabbitMq::start(),
            redis: Redis::start(),
            s3,
            coordinator,
            members: Cell::new(0),
            _alone: alone,
        }
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.case.diorama(arguments);
        command
            .env("DIORAMA_AMQP_URL", self.rabbitmq.url())
            .env("DIORAMA_REDIS_URL", self.redis.url())
            .env("DIORAMA_S3_ENDPOINT", self.s3.endpoint())
            .env("DIORAMA_S3_BUCKET", BUCKET)
            .env("DIORAMA_S3_ACCESS_KEY", ACCESS_KEY)
            .env("DIORAMA_S3_SECRET_KEY", SECRET_KEY)
            .env("DIORAMA_S3_PATH_STYLE", "true")
            .env("DIORAMA_COORDINATOR", format!("http://{}", self.coordinator));
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> End {
        end(&mut self.command(arguments))
    }

    /// Starts the program with more variables in its environment.
    pub(crate) fn start_with(&self, variables: &[(&str, &str)], arguments: &[&str]) -> Member {
        let mut command = self.command(arguments);
        command.envs(variables.iter().copied());
        self.launch(command)
    }

    /// Starts a command; what it says is kept.
    pub(crate) fn launch(&self, mut command: Command) -> Member {
        self.members.set(self.members.get() + 1);
        let log = self.case.path(&format!("member-{}.log", self.members.get()));
        command.stdout(Stdio::null()).stderr(File::create(&log).unwrap());
        Member { process: Process::spawn(&mut command, "build it: cargo build -p diorama-tests"), log }
    }

    /// The command of a coordinator that listens on `address`.
    pub(crate) fn serving(&self, address: &str) -> Command {
        self.command(&["serve", "--listen", address, "--lease", "3", "--publish-again", "3"])
    }

    pub(crate) fn serve(&self) -> Member {
        let member = self.launch(self.serving(&self.coordinator));
        until("the coordinator answers", || self.run(&["status"]).code == Some(0));
        member
    }

    /// The command of a worker whose batch of two takes `latency` milliseconds.
    pub(crate) fn working(&self, name: &str, latency: &str) -> Command {
        let synthetic = ["--engine", "synthetic", "--synthetic-latency", latency, "--batch-size", "2"];
        self.command(&[&["worker", "--worker", name, "--heartbeat", "0.5"][..], &synthetic].concat())
    }

    pub(crate) fn worker(&self, name: &str) -> Member {
        self.launch(self.working(name, "20"))
    }

    /// Submits `rows` rows and gives the run.
    pub(crate) fn submit(&self, rows: usize) -> String {
        self.submit_as("fleet", rows, &[])
    }

    /// Submits `rows` rows under a name, with more flags. Another name is another run.
    pub(crate) fn submit_as(&self, name: &str, rows: usize, more: &[&str]) -> String {
        let submitted = end(&mut self.submitting(name, rows, more)).expect(0);
        submitted.json()["run"].as_str().unwrap().to_owned()
    }

    /// The command that submits.
    pub(crate) fn submitting(&self, name: &str, rows: usize, more: &[&str]) -> Command {
        self.case.manifest(rows);
        let submit = ["submit", "rows.jsonl", "--name", name, "--shard-size", "8", "--format", "webdataset", "--json"];
        self.command(&[&submit[..], more].concat())
    }

    pub(crate) fn status(&self, run: &str) -> Value {
        self.run(&["status", run, "--json"]).expect(0).json()
    }

    pub(crate) fn until_done(&self, run: &str, wanted: u64) {
        until("the run gets on", || self.status(run)["done"].as_u64().unwrap() >= wanted);
    }

    /// Waits for the end and proves that nothing was lost or doubled.
    pub(crate) fn proves_whole(&self, run: &str, rows: u64) {
        let failed = self.proves_one_outcome_each(run, rows);
        assert_eq!(failed, 0, "{}", self.status(run));
    }

    /// Waits for the end and proves that every task has one outcome; how many failed.
    pub(crate) fn proves_one_outcome_each(&self, run: &str, rows: u64) -> u64 {
        until("the run ends", || !self.status(run)["summary"].is_null());
        let status = self.status(run);
        let (done, failed) = (status["done"].as_u64().unwrap(), status["failed"].as_u64().unwrap());
        assert_eq!(done + failed, rows, "{status}");
        let verified = self.run(&["verify", run, "--repair", "--json"]).expect(0).json();
        let found = ["tasks", "done", "failed", "orphans", "problem_count"].map(|key| verified[key].as_u64().unwrap());
        assert_eq!(found, [rows, done, failed, 0, 0], "{verified}");
        failed
    }
}

/// Asks a coordinator for its metrics; `None` where it does not answer within two seconds.
pub(crate) fn metrics(coordinator: &str) -> Option<String> {
    let patience = Some(Duration::from_secs(2));
    let mut stream = TcpStream::connect(coordinator).ok()?;
    stream.set_read_timeout(patience).ok()?;
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: {coordinator}\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    answer.starts_with("HTTP/1.1 200").then_some(answer)
}

/// Whether the coordinator answers, and drives the runs.
pub(crate) fn leads(coordinator: &str) -> Option<bool> {
    metrics(coordinator).map(|metrics| metrics.lines().any(|line| line == "diorama_coordinator_leader 1"))
}
