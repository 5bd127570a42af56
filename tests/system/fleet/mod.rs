//! A fleet with the real services: RabbitMQ, Redis and S3 of its own, coordinators and workers as processes, and whatever
//! dies in the middle.

use std::cell::Cell;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use diorama_protocol::fault::POINTS;
use diorama_tests::children::{PATIENCE, Process};
use diorama_tests::http;
use diorama_tests::services::certificates::Certificates;
use diorama_tests::services::free_port;
use diorama_tests::services::rabbitmq::RabbitMq;
use diorama_tests::services::redis::Redis;
use diorama_tests::services::s3::{ACCESS_KEY, BUCKET, S3Server, SECRET_KEY};
use rustix::process::Signal;
use serde_json::Value;

use self::turns::Turn;
use crate::case::{Case, End, end, until};

mod acceptance;
mod commands;
mod coordinators;
mod crashes;
mod dashboard;
mod doctor;
mod freezes;
mod hostile;
mod keys;
mod messages;
mod network;
mod outages;
mod references;
mod refusals;
mod runs;
mod script;
mod soak;
mod store;
mod submissions;
mod team;
mod turns;
mod watched;

/// The services and where the coordinator listens.
pub(crate) struct Fleet {
    pub(crate) case: Case,
    pub(crate) rabbitmq: RabbitMq,
    pub(crate) redis: Redis,
    pub(crate) s3: S3Server,
    pub(crate) coordinator: String,
    /// Certificates of the authorities that vouch for the services.
    ca_file: Option<PathBuf>,
    _certificates: Option<Certificates>,
    /// Processes that were started.
    members: Cell<usize>,
    _turn: Turn,
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

    /// Waits until it has ended by itself.
    #[track_caller]
    pub(crate) fn until_dead(&mut self) {
        self.code();
    }

    /// Asks it to end, as a system does that needs the machine.
    pub(crate) fn drain(&self) {
        self.process.signal(Signal::TERM);
    }

    /// Waits until it has ended; its exit code, `None` where it was killed.
    #[track_caller]
    pub(crate) fn code(&mut self) -> Option<i32> {
        let log = self.log.clone();
        self.process.until_ended(|| fs::read_to_string(log).unwrap_or_default()).code()
    }

    pub(crate) fn freeze(&self) {
        self.process.freeze();
    }

    /// Waits until it stands still where `DIORAMA_FREEZE` said.
    #[track_caller]
    pub(crate) fn until_frozen(&self, point: &str) {
        until(&format!("{point} is passed"), || self.is_frozen());
    }

    pub(crate) fn is_frozen(&self) -> bool {
        self.process.is_frozen()
    }

    pub(crate) fn go_on(&self) {
        self.process.go_on();
    }

    /// Drains it; it ends as a drained program should, and has not panicked.
    #[track_caller]
    pub(crate) fn ends_in_good_order(mut self, what: &str) {
        self.drain();
        assert_eq!(self.code(), Some(143), "{what}");
        assert!(!self.logged().contains("panicked"), "{what}");
    }

    pub(crate) fn logged(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// Waits until it has logged `part`.
    #[track_caller]
    pub(crate) fn until_logged(&self, part: &str) {
        until(part, || self.logged().contains(part));
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let said = fs::read_to_string(&self.log).unwrap_or_default();
            let _ = writeln!(std::io::stderr(), "{}:\n{said}", self.log.display());
        }
    }
}

impl Fleet {
    pub(crate) fn new() -> Self {
        Self::with(RabbitMq::start, Redis::start, S3Server::start)
    }

    /// With TLS to every service, each with an authority of its own.
    pub(crate) fn with_tls() -> Self {
        let certificates = Certificates::new();
        let mut fleet = Self::with(
            || RabbitMq::start_with_tls(&certificates),
            || Redis::start_with_tls(&[]),
            S3Server::start_with_tls,
        );
        let ca_file = fleet.case.path("authorities.pem");
        let authorities = [certificates.authority(), fleet.redis.ca_file(), fleet.s3.ca_file()];
        fs::write(&ca_file, authorities.map(|path| fs::read_to_string(path).unwrap()).concat()).unwrap();
        (fleet.ca_file, fleet._certificates) = (Some(ca_file), Some(certificates));
        fleet
    }

    fn with(rabbitmq: impl Fn() -> RabbitMq, redis: impl Fn() -> Redis, s3: impl Fn(&Path) -> S3Server) -> Self {
        let turn = turns::share();
        let s3 = s3(Path::new(env!("CARGO_BIN_EXE_diorama-s3")));
        Self {
            case: Case::new(),
            rabbitmq: rabbitmq(),
            redis: redis(),
            s3,
            coordinator: format!("127.0.0.1:{}", free_port()),
            ca_file: None,
            _certificates: None,
            members: Cell::new(0),
            _turn: turn,
        }
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.case.diorama(arguments);
        command
            .env("DIORAMA_AMQP_URL", if self.ca_file.is_some() { self.rabbitmq.tls_url() } else { self.rabbitmq.url() })
            .env("DIORAMA_REDIS_URL", self.redis.url())
            .env("DIORAMA_S3_ENDPOINT", self.s3.endpoint())
            .env("DIORAMA_S3_BUCKET", BUCKET)
            .env("DIORAMA_S3_ACCESS_KEY", ACCESS_KEY)
            .env("DIORAMA_S3_SECRET_KEY", SECRET_KEY)
            .env("DIORAMA_S3_PATH_STYLE", "true")
            .env("DIORAMA_COORDINATOR", format!("http://{}", self.coordinator));
        if let Some(ca_file) = &self.ca_file {
            command.env("DIORAMA_CA_FILE", ca_file);
        }
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> End {
        end(&mut self.command(arguments))
    }

    pub(crate) fn start(&self, mut command: Command) -> Member {
        self.members.set(self.members.get() + 1);
        let log = self.case.path(&format!("member-{}.log", self.members.get()));
        command.stdout(Stdio::null()).stderr(File::create(&log).unwrap());
        Member { process: Process::spawn(&mut command, "build it: cargo build -p diorama-tests"), log }
    }

    /// Starts a command with more variables in its environment.
    pub(crate) fn start_with(&self, variables: &[(&str, &str)], arguments: &[&str]) -> Member {
        let mut command = self.command(arguments);
        command.envs(variables.iter().copied());
        self.start(command)
    }

    /// The command of a coordinator that listens on `address`.
    pub(crate) fn serving(&self, address: &str) -> Command {
        self.command(&["serve", "--listen", address, "--lease", "3", "--publish-again", "3"])
    }

    pub(crate) fn serve(&self) -> Member {
        self.serve_as(self.serving(&self.coordinator))
    }

    /// Starts a coordinator by its command, and waits until it answers.
    pub(crate) fn serve_as(&self, command: Command) -> Member {
        let member = self.start(command);
        until("the coordinator answers", || self.run(&["status"]).code == Some(0));
        member
    }

    /// The command of a worker whose batch of two takes `latency` milliseconds.
    pub(crate) fn working(&self, name: &str, latency: &str) -> Command {
        let synthetic = ["--engine", "synthetic", "--synthetic-latency", latency, "--batch-size", "2"];
        self.command(&[&["worker", "--worker", name, "--heartbeat", "0.5"][..], &synthetic].concat())
    }

    pub(crate) fn worker(&self, name: &str) -> Member {
        self.start(self.working(name, "20"))
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

    /// How the run stands, as the coordinator says it; waits for one that answers.
    #[track_caller]
    pub(crate) fn status(&self, run: &str) -> Value {
        let started = Instant::now();
        loop {
            if let Some(status) = ask(&self.coordinator, &format!("GET /v1/runs/{run}")) {
                return serde_json::from_str(&status).unwrap();
            }
            assert!(started.elapsed() < PATIENCE, "the coordinator does not say how the run stands");
            std::thread::sleep(Duration::from_millis(20));
        }
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
        // Until then its counters may be short, where Redis was emptied a moment ago.
        let active = self.s3.folder().join("index/active").join(run);
        until("the coordinator lets go of the run", || !active.exists());
        let verify = |more: &[&str]| self.run(&[&["verify", run, "--json"], more].concat()).json();
        let found = |verified: &Value, keys: [&str; 4]| keys.map(|key| verified[key].as_u64().unwrap());
        // Counters and markers agree before anything is repaired; what attempts left behind is gone after it.
        let verified = verify(&[]);
        let outcomes = ["tasks", "done", "failed", "problem_count"];
        assert_eq!(found(&verified, outcomes), [rows, done, failed, 0], "{verified}");
        verify(&["--repair", "--grace", "0"]);
        let verified = verify(&[]);
        assert_eq!(found(&verified, outcomes), [rows, done, failed, 0], "{verified}");
        assert_eq!(verified["orphans"], 0, "{verified}");
        failed
    }
}

/// What a coordinator answers to one request, which is a method and a path; `None` where it does not in time, or refuses.
pub(crate) fn ask(coordinator: &str, request: &str) -> Option<String> {
    let mut answer = String::new();
    http::ask(coordinator.parse().unwrap(), request, Duration::from_secs(10))?.read_to_string(&mut answer).ok()?;
    Some(answer)
}

/// The points where the program can be made to die whose names begin with one of these.
pub(crate) fn points(prefixes: &[&str]) -> Vec<&'static str> {
    let is_meant = |point: &&str| prefixes.iter().any(|prefix| point.starts_with(prefix));
    let points: Vec<_> = POINTS.iter().copied().filter(is_meant).collect();
    assert!(!points.is_empty(), "there is no point {prefixes:?}");
    points
}

/// Whether the coordinator answers, and drives the runs.
pub(crate) fn leads(coordinator: &str) -> Option<bool> {
    ask(coordinator, "GET /metrics").map(|metrics| metrics.lines().any(|line| line == "diorama_coordinator_leader 1"))
}
