//! Every alert, provoked in a real fleet in which a minute lasts a second.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use diorama_backends::queue::Queue;
use diorama_backends::queue::rabbitmq::{RabbitMqConfig, RabbitMqQueue};
use diorama_core::id::{Pool, Round, RunId, ShardId};
use diorama_core::message::ShardMessage;
use diorama_tests::services::free_port;
use diorama_tests::services::s3::Faults;
use serde_json::Value;

use super::{Watched, selectors};
use crate::case::until;

/// The alerts that fired when they should, by name.
type Seen = BTreeMap<String, Value>;

/// How long a fleet in order is watched.
const IN_ORDER: Duration = Duration::from_secs(40);

impl Watched {
    /// Publishes a shard of a run that does not exist, which no worker can read.
    pub(super) fn publish_what_no_run_has(&self, pool: &str) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let run = RunId::new("01890a5d-ac96-774b-bcce-b302099a8057").unwrap();
        let message = ShardMessage { run, shard: ShardId { round: Round(0), index: 0 } };
        runtime.block_on(async {
            let queue = RabbitMqQueue::connect(RabbitMqConfig::new(self.fleet.rabbitmq.url().into())).await.unwrap();
            queue.publish(&Pool::new(pool).unwrap(), &message).await.unwrap();
        });
    }

    /// The alerts that fire.
    fn firing(&self) -> Vec<Value> {
        let mut alerts = self.prometheus.alerts();
        alerts.retain(|alert| alert["state"] == "firing");
        alerts
    }

    fn fires(&self, name: &str) -> bool {
        self.firing().iter().any(|alert| alert["labels"]["alertname"] == name)
    }

    /// Waits until an alert fires whose labels include these, and notes it.
    #[track_caller]
    fn until_fires(&self, seen: &mut Seen, name: &str, labels: &[(&str, &str)]) {
        let is_meant = |alert: &Value| {
            alert["labels"]["alertname"] == name && labels.iter().all(|(label, value)| alert["labels"][label] == *value)
        };
        let found = RefCell::new(None);
        until(&format!("{name} fires {labels:?}"), || {
            *found.borrow_mut() = self.firing().into_iter().find(is_meant);
            found.borrow().is_some()
        });
        seen.extend(found.take().map(|alert| (name.to_owned(), alert)));
    }

    /// A second model, in a pool whose worker has the synthetic one. Without the engine there is only that.
    fn until_two_models_are_told(&self, seen: &mut Seen, pool: &str, number: usize) {
        let name = "DioramaMixedModels";
        if !cfg!(feature = "engine") {
            seen.insert(name.to_owned(), Value::Null);
            return;
        }
        let model = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/demo");
        let mut command = self.fleet.command(&["worker", "--worker", "demo", "--pool", pool, "--model", model]);
        command.args(["--device", "cpu", "--metrics-listen", &self.workers[number]]);
        let _demo = self.fleet.start(command);
        self.until_fires(seen, name, &[("pool", pool)]);
    }

    /// Every alert was provoked, what each looks at was there, and its words have no gaps.
    fn each_was_seen_and_speaks(&self, seen: &Seen) {
        let rules = self.prometheus.rules();
        for rule in &rules {
            let (name, query) = (rule["name"].as_str().unwrap(), rule["query"].as_str().unwrap());
            assert!(seen.contains_key(name), "{name} was not provoked");
            for selector in selectors(query) {
                let found = self.prometheus.query(&format!("last_over_time({selector}[1h])"));
                assert!(!found.is_empty(), "{name} looks at {selector}, which there never was");
            }
        }
        assert_eq!(seen.len(), rules.len());
        for (name, alert) in seen {
            let said = alert["annotations"].to_string();
            assert!(!said.contains("no value") && !said.contains("error"), "{name}: {said}");
        }
    }
}

#[test]
fn no_alert_fires_in_a_fleet_that_works_and_each_of_them_does_where_its_trouble_is() {
    let mut watched = Watched::new(1, 8);
    let mut seen = Seen::new();
    let _good = watched.worker("good", 0, "500", &[]);
    watched.submit("good", 8000);
    watched.until_any("diorama_worker_tasks_total{outcome=\"done\",pool=\"good\"} > 8");
    let quiet = Instant::now();
    while quiet.elapsed() < IN_ORDER {
        assert!(watched.firing().is_empty(), "{:?}", watched.firing());
        std::thread::sleep(Duration::from_secs(1));
    }

    // Each has a pool of its own. The store takes its time, so that devices wait for it where pictures are quick.
    watched.fleet.s3.set(Faults { delay_ms: 100, ..Faults::default() });
    let _failing = watched.worker("failing", 1, "100", &["--synthetic-fail-rate", "0.5"]);
    let _still = watched.worker("still", 2, "60000", &[]);
    let _hasty = watched.worker("hasty", 3, "1", &[]);
    for (pool, rows) in [("failing", 8000), ("still", 64), ("hasty", 8000), ("forsaken", 16)] {
        watched.submit(pool, rows);
    }
    // A pool without a run: nobody takes its dead letters.
    let _unreadable = watched.worker("unreadable", 4, "20", &[]);
    watched.publish_what_no_run_has("unreadable");
    watched.until_fires(&mut seen, "DioramaShardsUnreadable", &[("pool", "unreadable")]);
    watched.until_fires(&mut seen, "DioramaNoWorkers", &[("pool", "forsaken")]);
    watched.until_fires(&mut seen, "DioramaDeadLettersStay", &[("pool", "unreadable")]);
    watched.until_fires(&mut seen, "DioramaTasksFail", &[("pool", "failing")]);
    watched.until_fires(&mut seen, "DioramaDeviceIdle", &[("pool", "hasty")]);
    watched.until_fires(&mut seen, "DioramaPoolStandsStill", &[("pool", "still")]);
    until("it starts over and over", || {
        let mut restless = watched.worker("restless", 5, "20", &[]);
        restless.kill();
        watched.fires("DioramaProcessRestarts")
    });
    watched.until_fires(&mut seen, "DioramaProcessRestarts", &[("instance", &watched.workers[5])]);
    watched.until_two_models_are_told(&mut seen, "still", 7);
    assert!(!watched.firing().iter().any(|alert| alert["labels"]["pool"] == "good"), "{:?}", watched.firing());

    let _helping = watched.worker("forsaken", 6, "20", &[]);
    until("the alert is over", || !watched.fires("DioramaNoWorkers"));

    // One that nobody watches takes over while the other stands still.
    let unwatched = watched.fleet.start(watched.fleet.serving(&format!("127.0.0.1:{}", free_port())));
    watched.coordinators[0].freeze();
    unwatched.until_logged("this coordinator is the leader now");
    watched.coordinators[0].go_on();
    watched.until_fires(&mut seen, "DioramaNoLeader", &[]);
    drop(unwatched);

    watched.fleet.redis.kill();
    watched.until_fires(&mut seen, "DioramaServiceFails", &[("service", "redis")]);
    watched.fleet.rabbitmq.kill();
    watched.until_fires(&mut seen, "DioramaServiceFails", &[("service", "rabbitmq")]);
    watched.fleet.s3.kill();
    watched.until_fires(&mut seen, "DioramaServiceFails", &[("service", "s3")]);
    watched.coordinators.clear();
    watched.until_fires(&mut seen, "DioramaCoordinatorAbsent", &[]);

    watched.each_was_seen_and_speaks(&seen);
}
