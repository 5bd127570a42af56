//! Networks that lose everything for a while without a word, processes that stand still, and a Redis that dies: the run
//! goes on, and every task has one outcome.

use std::time::{Duration, Instant};

use diorama_tests::services::proxy::Proxy;

use super::{Fleet, Member, leads};
use crate::case::until;

/// A batch of two takes a far worker this long, in milliseconds: a shard of eight four times that, and it has two.
const SLOW: &str = "2000";

/// What is between a worker and a service.
fn proxy(port: u16, url: &str) -> (Proxy, String) {
    let proxy = Proxy::to(port);
    let through = proxy.in_place_of(port, url);
    (proxy, through)
}

/// A worker that is slow, and that notices within seconds that the broker is away; as the broker does of it.
fn far(fleet: &Fleet, variable: &str, url: &str) -> Member {
    let mut command = fleet.working("far", SLOW);
    command.env("DIORAMA_AMQP_HEARTBEAT", "1").env(variable, url);
    fleet.start(command)
}

fn workers(fleet: &Fleet) -> Vec<String> {
    let status = fleet.run(&["status", "--json"]).expect(0).json();
    let name = |worker: &serde_json::Value| worker["worker"].as_str().unwrap().to_owned();
    status["workers"].as_array().unwrap().iter().map(name).collect()
}

#[test]
fn a_worker_cut_off_from_the_broker_while_it_generates_costs_no_task_and_works_again_afterwards() {
    let fleet = Fleet::new();
    let _coordinator = fleet.serve();
    let (network, url) = proxy(fleet.rabbitmq.port(), &fleet.rabbitmq.url());
    let far = far(&fleet, "DIORAMA_AMQP_URL", &url);
    let run = fleet.submit(80);
    until("it has two shards", || fleet.status(&run)["shards_running"] == 2);
    network.cut();
    // The broker takes the two shards from it, and the other worker makes them.
    let mut near = fleet.worker("near");
    fleet.proves_whole(&run, 80);
    far.until_logged("a late acknowledgement");
    near.kill();
    network.heal();
    far.until_logged("consuming through RabbitMQ continues");
    let again = fleet.submit_as("again", 8, &[]);
    fleet.proves_whole(&again, 8);
    fleet.proves_whole(&run, 80);
}

#[test]
fn a_worker_that_stands_still_for_a_minute_loses_its_shards_when_it_goes_on() {
    let fleet = Fleet::new();
    let _coordinator = fleet.serve();
    let far = far(&fleet, "DIORAMA_AMQP_URL", &fleet.rabbitmq.url());
    let run = fleet.submit(80);
    until("it has two shards", || fleet.status(&run)["shards_running"] == 2);
    far.freeze();
    let frozen = Instant::now();
    let mut near = fleet.worker("near");
    fleet.proves_whole(&run, 80);
    std::thread::sleep(Duration::from_secs(60).saturating_sub(frozen.elapsed()));
    far.go_on();
    far.until_logged("a late acknowledgement");
    near.kill();
    let again = fleet.submit_as("again", 8, &[]);
    fleet.proves_whole(&again, 8);
    fleet.proves_whole(&run, 80);
}

#[test]
fn a_worker_cut_off_from_redis_works_on_and_its_shards_are_counted() {
    let fleet = Fleet::new();
    let _coordinator = fleet.serve();
    let (network, url) = proxy(fleet.redis.port(), &fleet.redis.url());
    let mut command = fleet.working("far", "20");
    command.env("DIORAMA_REDIS_URL", &url);
    let far = fleet.start(command);
    let _near = fleet.worker("near");
    let run = fleet.submit(400);
    fleet.until_done(&run, 40);
    network.cut();
    far.until_logged("the progress service does not know that the shard is done");
    until("it counts as gone", || workers(&fleet) == ["near"]);
    // The run ends while it is away: what it commits is found by those who are not.
    fleet.proves_whole(&run, 400);
    network.heal();
    until("it is back", || workers(&fleet) == ["far", "near"]);
    let again = fleet.submit_as("again", 80, &[]);
    fleet.proves_whole(&again, 80);
    fleet.proves_whole(&run, 400);
}

#[test]
fn a_worker_cut_off_from_the_store_waits_with_its_shards_and_the_others_go_on() {
    let fleet = Fleet::new();
    let _coordinator = fleet.serve();
    let endpoint = fleet.s3.endpoint();
    let (network, url) = proxy(fleet.s3.port(), &endpoint);
    let mut command = fleet.working("far", SLOW);
    command.env("DIORAMA_S3_ENDPOINT", &url);
    let _far = fleet.start(command);
    let run = fleet.submit(80);
    until("it has two shards", || fleet.status(&run)["shards_running"] == 2);
    network.cut();
    let _near = fleet.worker("near");
    fleet.until_done(&run, 64);
    assert!(fleet.status(&run)["summary"].is_null(), "the shards of the one that is cut off were lost");
    network.heal();
    fleet.proves_whole(&run, 80);
}

#[test]
fn a_slow_network_to_every_service_costs_time_and_no_task() {
    let fleet = Fleet::new();
    let _coordinator = fleet.serve();
    let endpoint = fleet.s3.endpoint();
    let (broker, amqp) = proxy(fleet.rabbitmq.port(), &fleet.rabbitmq.url());
    let (progress, redis) = proxy(fleet.redis.port(), &fleet.redis.url());
    let (store, s3) = proxy(fleet.s3.port(), &endpoint);
    for network in [&broker, &progress, &store] {
        network.delay(Duration::from_millis(50));
    }
    let mut command = fleet.working("far", "20");
    command.env("DIORAMA_AMQP_URL", amqp).env("DIORAMA_REDIS_URL", redis).env("DIORAMA_S3_ENDPOINT", s3);
    let _far = fleet.start(command);
    let run = fleet.submit(80);
    fleet.proves_whole(&run, 80);
}

#[test]
fn a_redis_that_is_killed_and_comes_back_with_its_file_costs_no_task() {
    let mut fleet = Fleet::new();
    let (_coordinator, worker) = (fleet.serve(), fleet.worker("one"));
    let run = fleet.submit(400);
    fleet.until_done(&run, 40);
    fleet.redis.kill();
    worker.until_logged("the progress service does not know that the shard is done");
    assert_eq!(leads(&fleet.coordinator), Some(true), "the coordinator's own metrics need no Redis");
    fleet.redis.start_again();
    fleet.proves_whole(&run, 400);
}
