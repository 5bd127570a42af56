//! A fleet with the real services: RabbitMQ, Redis and S3 of its own, coordinators and workers as processes, and whatever
//! dies in the middle.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use diorama_tests::services::free_port;
use diorama_tests::services::rabbitmq::RabbitMq;
use diorama_tests::services::redis::Redis;
use diorama_tests::services::s3::{ACCESS_KEY, BUCKET, S3Server, SECRET_KEY};
use serde_json::Value;

use crate::case::{Case, End, end, lines, until};

/// One fleet at a time: a broker takes a core while it starts.
static ONE: Mutex<()> = Mutex::new(());

/// The services and where the coordinator listens.
struct Fleet {
    case: Case,
    rabbitmq: RabbitMq,
    redis: Redis,
    s3: S3Server,
    coordinator: String,
    _alone: MutexGuard<'static, ()>,
}

/// A process that dies with the test.
struct Member(Child);

impl Member {
    fn kill(&mut self) {
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
    fn new() -> Self {
        let alone = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        let s3 = S3Server::start(Path::new(env!("CARGO_BIN_EXE_diorama-s3")));
        let coordinator = format!("127.0.0.1:{}", free_port());
        Self { case: Case::new(), rabbitmq: RabbitMq::start(), redis: Redis::start(), s3, coordinator, _alone: alone }
    }

    fn command(&self, arguments: &[&str]) -> Command {
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

    fn run(&self, arguments: &[&str]) -> End {
        end(&mut self.command(arguments))
    }

    fn start(&self, arguments: &[&str]) -> Member {
        let mut command = self.command(arguments);
        Member(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }

    fn serve(&self) -> Member {
        let member = self.start(&["serve", "--listen", &self.coordinator, "--lease", "3", "--publish-again", "3"]);
        until("the coordinator answers", || self.run(&["status"]).code == Some(0));
        member
    }

    fn worker(&self, name: &str) -> Member {
        let synthetic =
            ["--engine", "synthetic", "--synthetic-latency", "20", "--batch-size", "2", "--heartbeat", "0.5"];
        self.start(&[&["worker", "--worker", name][..], &synthetic].concat())
    }

    /// Submits `rows` rows and gives the run.
    fn submit(&self, rows: usize) -> String {
        self.case.manifest(rows);
        let submitted = self.run(&["submit", "rows.jsonl", "--shard-size", "8", "--format", "webdataset", "--json"]);
        submitted.expect(0).json()["run"].as_str().unwrap().to_owned()
    }

    fn status(&self, run: &str) -> Value {
        self.run(&["status", run, "--json"]).expect(0).json()
    }

    fn until_done(&self, run: &str, wanted: u64) {
        until("the run gets on", || self.status(run)["done"].as_u64().unwrap() >= wanted);
    }

    /// Waits for the end and proves that nothing was lost or doubled.
    fn proves_whole(&self, run: &str, rows: u64) {
        until("the run ends", || !self.status(run)["summary"].is_null());
        let status = self.status(run);
        assert_eq!((&status["done"], &status["failed"]), (&rows.into(), &0.into()), "{status}");
        let verified = self.run(&["verify", run, "--repair", "--json"]).expect(0).json();
        assert_eq!((&verified["tasks"], &verified["done"]), (&rows.into(), &rows.into()), "{verified}");
        assert_eq!((&verified["orphans"], &verified["problem_count"]), (&0.into(), &0.into()), "{verified}");
    }
}

#[test]
fn a_fleet_makes_every_picture_once_and_its_results_are_downloaded_whole() {
    let fleet = Fleet::new();
    let (_coordinator, _worker) = (fleet.serve(), fleet.worker("one"));
    let run = fleet.submit(20);
    assert_eq!(fleet.submit(20), run, "the same manifest with the same settings is the same run");
    let watched = fleet.run(&["watch", &run]);
    assert_eq!(watched.code, Some(0), "{}", watched.stderr);
    fleet.proves_whole(&run, 20);

    let to = fleet.case.path("results");
    fleet.run(&["results", &run, "--to", "results"]).expect(0);
    let results = lines(&to.join("results.jsonl"));
    assert_eq!(results.len(), 20);
    for result in &results {
        let image = result["files"]["image"]["path"].as_str().unwrap();
        assert!(to.join(image).is_file(), "{image} was not extracted");
    }
    std::fs::remove_file(to.join(results[3]["files"]["image"]["path"].as_str().unwrap())).unwrap();
    fleet.run(&["results", &run, "--to", "results"]).expect(0);
    assert!(to.join(results[3]["files"]["image"]["path"].as_str().unwrap()).is_file(), "what is missing comes again");
}

#[test]
fn killed_workers_lose_no_task_and_double_none() {
    let fleet = Fleet::new();
    let _coordinator = fleet.serve();
    let (mut first, _second) = (fleet.worker("first"), fleet.worker("second"));
    let run = fleet.submit(400);
    for wanted in [16, 80, 160] {
        fleet.until_done(&run, wanted);
        first.kill();
        first = fleet.worker("first");
    }
    fleet.proves_whole(&run, 400);
}

#[test]
fn a_killed_coordinator_is_replaced_and_the_run_goes_on() {
    let fleet = Fleet::new();
    let mut coordinator = fleet.serve();
    let _worker = fleet.worker("one");
    let run = fleet.submit(200);
    fleet.until_done(&run, 16);
    coordinator.kill();
    let _other = fleet.serve();
    fleet.proves_whole(&run, 200);
}

#[test]
fn a_redis_that_is_emptied_in_the_middle_is_told_again() {
    let fleet = Fleet::new();
    let (_coordinator, _worker) = (fleet.serve(), fleet.worker("one"));
    let run = fleet.submit(200);
    fleet.until_done(&run, 40);
    fleet.redis.flush();
    fleet.proves_whole(&run, 200);
}

#[test]
fn a_store_that_is_away_for_a_while_costs_no_task() {
    let mut fleet = Fleet::new();
    let (_coordinator, _worker) = (fleet.serve(), fleet.worker("one"));
    let run = fleet.submit(200);
    fleet.until_done(&run, 40);
    fleet.s3.kill();
    // Long enough for every part to notice.
    std::thread::sleep(Duration::from_secs(5));
    fleet.s3.start_again();
    fleet.proves_whole(&run, 200);
}

#[test]
fn a_killed_broker_costs_no_task() {
    let mut fleet = Fleet::new();
    let (_coordinator, _worker) = (fleet.serve(), fleet.worker("one"));
    let run = fleet.submit(200);
    fleet.until_done(&run, 40);
    fleet.rabbitmq.kill();
    fleet.rabbitmq.start_again();
    fleet.proves_whole(&run, 200);
}

#[test]
fn a_paused_run_waits_and_a_cancelled_one_ends_with_an_outcome_for_every_task() {
    let fleet = Fleet::new();
    let (_coordinator, _worker) = (fleet.serve(), fleet.worker("one"));
    let run = fleet.submit(400);
    fleet.until_done(&run, 16);
    assert_eq!(fleet.run(&["pause", &run, "--json"]).expect(0).json()["state"], "paused");
    until("the workers let go", || fleet.status(&run)["shards_running"] == 0);
    let paused = fleet.status(&run)["done"].clone();
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(fleet.status(&run)["done"], paused, "a paused run went on");
    fleet.run(&["resume", &run]).expect(0);
    fleet.until_done(&run, paused.as_u64().unwrap() + 8);
    fleet.run(&["cancel", &run]).expect(0);
    until("the run ends", || !fleet.status(&run)["summary"].is_null());
    let status = fleet.status(&run);
    let (done, failed) = (status["done"].as_u64().unwrap(), status["failed"].as_u64().unwrap());
    assert_eq!(done + failed, 400, "{status}");
    assert_eq!(status["summary"]["failures"]["cancelled"], failed);
    assert!(failed > 0, "the run was over before it was cancelled");
    let verified = fleet.run(&["verify", &run, "--json"]).expect(0).json();
    assert_eq!((&verified["done"], &verified["failed"]), (&done.into(), &failed.into()), "{verified}");
    assert_eq!(fleet.run(&["resume", &run]).code, Some(42), "an ended run was resumed");
}
