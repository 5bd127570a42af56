//! A fleet with the real services: RabbitMQ, Redis and S3 of its own, coordinators and workers as processes, and whatever
//! dies in the middle.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use diorama_tests::services::free_port;
use diorama_tests::services::rabbitmq::RabbitMq;
use diorama_tests::services::redis::Redis;
use diorama_tests::services::s3::{ACCESS_KEY, BUCKET, S3Server, SECRET_KEY};
use serde_json::Value;

use crate::case::{Case, End, end, until};

mod commands;
mod doctor;
mod outages;
mod references;
mod runs;
mod soak;

/// One fleet at a time: a broker takes a core while it starts.
static ONE: Mutex<()> = Mutex::new(());

/// The services and where the coordinator listens.
pub(crate) struct Fleet {
    pub(crate) case: Case,
    pub(crate) rabbitmq: RabbitMq,
    pub(crate) redis: Redis,
    pub(crate) s3: S3Server,
    pub(crate) coordinator: String,
    _alone: MutexGuard<'static, ()>,
}

/// A process that dies with the test.
pub(crate) struct Member(Child);

impl Member {
    pub(crate) fn kill(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Fleet {
    pub(crate) fn new() -> Self {
        let alone = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        let s3 = S3Server::start(Path::new(env!("CARGO_BIN_EXE_diorama-s3")));
        let coordinator = format!("127.0.0.1:{}", free_port());
        Self { case: Case::new(), rabbitmq: RabbitMq::start(), redis: Redis::start(), s3, coordinator, _alone: alone }
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

    pub(crate) fn start(&self, arguments: &[&str]) -> Member {
        self.start_with(&[], arguments)
    }

    /// With more variables in its environment.
    pub(crate) fn start_with(&self, variables: &[(&str, &str)], arguments: &[&str]) -> Member {
        let mut command = self.command(arguments);
        command.envs(variables.iter().copied());
        Member(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }

    pub(crate) fn serve(&self) -> Member {
        let member = self.start(&["serve", "--listen", &self.coordinator, "--lease", "3", "--publish-again", "3"]);
        until("the coordinator answers", || self.run(&["status"]).code == Some(0));
        member
    }

    pub(crate) fn worker(&self, name: &str) -> Member {
        let synthetic =
            ["--engine", "synthetic", "--synthetic-latency", "20", "--batch-size", "2", "--heartbeat", "0.5"];
        self.start(&[&["worker", "--worker", name][..], &synthetic].concat())
    }

    /// Submits `rows` rows and gives the run.
    pub(crate) fn submit(&self, rows: usize) -> String {
        self.case.manifest(rows);
        let submitted = self.run(&["submit", "rows.jsonl", "--shard-size", "8", "--format", "webdataset", "--json"]);
        submitted.expect(0).json()["run"].as_str().unwrap().to_owned()
    }

    pub(crate) fn status(&self, run: &str) -> Value {
        self.run(&["status", run, "--json"]).expect(0).json()
    }

    pub(crate) fn until_done(&self, run: &str, wanted: u64) {
        until("the run gets on", || self.status(run)["done"].as_u64().unwrap() >= wanted);
    }

    /// Waits for the end and proves that nothing was lost or doubled.
    pub(crate) fn proves_whole(&self, run: &str, rows: u64) {
        until("the run ends", || !self.status(run)["summary"].is_null());
        let status = self.status(run);
        assert_eq!((&status["done"], &status["failed"]), (&rows.into(), &0.into()), "{status}");
        let verified = self.run(&["verify", run, "--repair", "--json"]).expect(0).json();
        assert_eq!((&verified["tasks"], &verified["done"]), (&rows.into(), &rows.into()), "{verified}");
        assert_eq!((&verified["orphans"], &verified["problem_count"]), (&0.into(), &0.into()), "{verified}");
    }
}
