//! What a real Redis refuses, sorted by whether waiting mends it, in words that name the setting.

use std::time::{Duration, Instant};

use diorama_backends::kind::ErrorKind::{self, Permanent, Transient};
use diorama_backends::progress::redis::{RedisConfig, RedisProgress};
use diorama_backends::progress::{Progress, ProgressError};
use diorama_tests::services::redis::Redis;
use diorama_tests::services::{free_port, wait_until};
use tokio::net::TcpListener;

use super::{ONE, config, connect, run, shard};

#[track_caller]
fn assert_is(error: &ProgressError, kind: ErrorKind, part: &str) {
    assert!(error.kind() == kind && error.to_string().contains(part), "{:?}, no {part:?}: {error}", error.kind());
}

async fn refusal(config: &RedisConfig) -> ProgressError {
    RedisProgress::connect(config).await.err().expect("this cannot connect")
}

/// What a commit comes to.
async fn told(progress: &RedisProgress) -> ProgressError {
    progress.commit(&run("told"), shard(0, 0), ONE, &[]).await.unwrap_err()
}

#[tokio::test]
async fn a_wrong_setting_is_permanent_and_named() {
    let (plain, tls) = (Redis::start(), Redis::start_with_tls(&[]));
    let with = |url: String| RedisConfig::new(url.into());
    assert_is(&refusal(&with(format!("{}/99", plain.url()))).await, Permanent, "no such database");
    assert_is(&refusal(&with(plain.url().replace("//", "//:secret@"))).await, Permanent, "redis_url");
    let into_plain = format!("rediss://localhost:{}", plain.port());
    assert_is(&refusal(&with(into_plain)).await, Permanent, "start redis_url with redis://");
    let into_tls = tls.url().replace("rediss", "redis");
    assert_is(&refusal(&with(into_tls)).await, Permanent, "start redis_url with rediss://");
    let malformed = plain.folder().join("malformed.pem");
    std::fs::write(&malformed, "no certificate").unwrap();
    let malformed = RedisConfig { ca_file: Some(malformed), ..with(tls.url()) };
    assert_is(&refusal(&malformed).await, Permanent, "set ca_file");
    let not_for_this_name =
        RedisConfig { ca_file: Some(tls.ca_file()), ..with(tls.url().replace("localhost", "127.0.0.1")) };
    assert_is(&refusal(&not_for_this_name).await, Permanent, "certificate");
    let clustered = RedisConfig { cluster: true, ..config(&plain) };
    assert_is(&refusal(&clustered).await, Permanent, "leave redis_cluster out");
}

#[tokio::test]
async fn a_server_that_is_away_silent_or_nowhere_is_transient() {
    let with = |url: String| RedisConfig { timeout: Duration::from_millis(500), ..RedisConfig::new(url.into()) };
    assert_is(&refusal(&with(format!("redis://127.0.0.1:{}", free_port()))).await, Transient, "check that it runs");
    assert_is(&refusal(&with("redis://no-such-host.invalid".to_owned())).await, Transient, "no-such-host.invalid");
    let silent = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let silent = with(format!("redis://{}", silent.local_addr().unwrap()));
    assert_is(&refusal(&silent).await, Transient, "did not answer");
}

#[tokio::test]
async fn a_server_that_is_full_or_failing_over_is_transient() {
    let redis = Redis::start();
    let progress = connect(&redis).await;
    redis.ask(&["CONFIG", "SET", "maxmemory", "1"]).unwrap();
    assert_is(&told(&progress).await, Transient, "room");
    redis.ask(&["CONFIG", "SET", "maxmemory", "0"]).unwrap();
    redis.ask(&["REPLICAOF", "127.0.0.1", &free_port().to_string()]).unwrap();
    assert_is(&told(&progress).await, Transient, "failing over");
    redis.ask(&["REPLICAOF", "NO", "ONE"]).unwrap();
    assert!(progress.commit(&run("told"), shard(0, 0), ONE, &[]).await.unwrap());
    redis.ask(&["CONFIG", "SET", "maxclients", "1"]).unwrap();
    // It says so and hangs up; what comes first is a matter of luck.
    assert_is(&refusal(&config(&redis)).await, Transient, "Redis at");
}

#[tokio::test]
async fn a_user_without_rights_is_permanent() {
    let redis = Redis::start();
    redis.ask(&["ACL", "SETUSER", "limited", "on", ">secret", "~*", "+ping"]).unwrap();
    let url = redis.url().replace("//", "//limited:secret@");
    let progress = RedisProgress::connect(&RedisConfig::new(url.into())).await.unwrap();
    assert_is(&told(&progress).await, Permanent, "rights in redis_url");
}

#[tokio::test]
async fn a_cluster_asks_for_its_setting_at_once_and_in_the_middle_of_a_run() {
    let settings = ["--cluster-enabled", "yes", "--cluster-require-full-coverage", "no"];
    let nodes = [Redis::start_with(&settings), Redis::start_with(&settings)];
    let alone = RedisProgress::open(&config(&nodes[0])).unwrap();
    let error = told(&alone).await;
    assert_is(&error, Transient, "Hash slot not served");
    nodes[0].ask(&["CLUSTER", "ADDSLOTSRANGE", "0", "8191"]).unwrap();
    nodes[1].ask(&["CLUSTER", "ADDSLOTSRANGE", "8192", "16383"]).unwrap();
    nodes[0].ask(&["CLUSTER", "MEET", "127.0.0.1", &nodes[1].port().to_string()]).unwrap();
    wait_until("the cluster is whole", || {
        let is_whole = |info: &str| info.contains("cluster_state:ok") && info.contains("cluster_slots_ok:16384");
        nodes.iter().all(|node| is_whole(&node.ask(&["CLUSTER", "INFO"]).unwrap()[0]))
    });
    assert_is(&refusal(&config(&nodes[0])).await, Permanent, "set redis_cluster = true");
    // One that was connected before it became a cluster: half of all runs are on the other node.
    let started = Instant::now();
    let mut number = 0;
    let moved = loop {
        assert!(started.elapsed() < Duration::from_secs(30), "every run is on one node");
        number += 1;
        match alone.counted(&run(&format!("run-{number}"))).await {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert_is(&moved, Permanent, "Moved");
    assert_is(&moved, Permanent, "set redis_cluster = true");
}
