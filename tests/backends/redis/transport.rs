//! Passwords, TLS, a cluster; and what errors say, and never say.

use std::time::{Duration, Instant};

use diorama_backends::kind::ErrorKind;
use diorama_backends::progress::Progress;
use diorama_backends::progress::redis::{RedisConfig, RedisProgress};
use diorama_tests::services::certificates::Certificates;
use diorama_tests::services::redis::Redis;

use super::{ONE, run, shard, write_everything};

/// What no waiting mends, in words without the secret.
async fn refusal(config: &RedisConfig) -> String {
    let error = RedisProgress::connect(config).await.err().expect("this cannot connect");
    assert_eq!(error.kind(), ErrorKind::Permanent, "{error}");
    let said = format!("{error} {error:?}");
    assert!(!said.contains("hunter2"), "{said}");
    error.to_string()
}

#[tokio::test]
async fn a_wrong_or_missing_password_is_a_clear_error_that_does_not_say_it() {
    let redis = Redis::start_with(&["--requirepass", "right-hunter2"]);
    let with = |user: &str| RedisConfig::new(redis.url().replace("//", &format!("//{user}")).into());
    let address = format!("127.0.0.1:{}", redis.port());
    for wrong in ["", ":wrong-hunter2@", "nobody:wrong-hunter2@"] {
        let error = refusal(&with(wrong)).await;
        assert!(error.contains(&address) && error.contains("check user"), "{wrong:?}: {error}");
    }
    let right = with(":right-hunter2@");
    assert!(!format!("{right:?}").contains("hunter2"));
    let progress = RedisProgress::connect(&right).await.unwrap();
    assert!(progress.commit(&run("secret"), shard(0, 0), ONE, &[]).await.unwrap());
}

#[tokio::test]
async fn an_error_during_an_outage_does_not_say_the_password() {
    let mut redis = Redis::start_with(&["--requirepass", "right-hunter2"]);
    let config = RedisConfig::new(redis.url().replace("//", "//:right-hunter2@").into());
    let progress = RedisProgress::connect(&config).await.unwrap();
    redis.kill();
    let error = progress.counted(&run("secret")).await.unwrap_err();
    let again = RedisProgress::connect(&config).await.err().unwrap();
    for error in [error, again] {
        assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
        assert!(error.is_retryable(), "{error}");
    }
}

#[tokio::test]
async fn a_url_of_something_else_is_refused_without_being_repeated() {
    for url in ["http://:hunter2@localhost", "redis:hunter2", "hunter2", "redis://:hunter2@host/no-number"] {
        refusal(&RedisConfig::new(url.to_owned().into())).await;
    }
    let mut config = RedisConfig::new("redis://localhost".to_owned().into());
    config.ca_file = Some("ca.pem".into());
    assert!(refusal(&config).await.contains("rediss://"), "a CA without TLS would be a false safety");
}

#[tokio::test]
async fn tls_with_its_own_authority_works_and_a_strange_authority_is_refused() {
    let redis = Redis::start_with_tls(&["--requirepass", "right-hunter2"]);
    let strange = Certificates::new();
    let mut config = RedisConfig::new(redis.url().replace("//", "//:right-hunter2@").into());
    config.ca_file = Some(redis.ca_file());
    let progress = RedisProgress::connect(&config).await.unwrap();
    assert!(progress.commit(&run("tls"), shard(0, 0), ONE, &[]).await.unwrap());
    for ca_file in [None, Some(strange.authority())] {
        config.ca_file = ca_file;
        let error = refusal(&config).await;
        assert!(error.contains("ertificate") && error.contains("ca_file"), "{error}");
    }
    config.ca_file = Some("missing.pem".into());
    assert!(refusal(&config).await.contains("missing.pem"));
}

#[tokio::test]
async fn a_run_lives_on_a_cluster() {
    let redis = Redis::start_with(&["--cluster-enabled", "yes"]);
    redis.ask(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]).unwrap();
    let mut config = RedisConfig::new(redis.url().into());
    config.cluster = true;
    // The node takes a moment to find that it has all slots.
    let started = Instant::now();
    let progress = loop {
        let up = redis.ask(&["CLUSTER", "INFO"]).unwrap()[0].contains("cluster_state:ok");
        match RedisProgress::connect(&config).await {
            Ok(progress) if up => break progress,
            _ => assert!(started.elapsed() < Duration::from_secs(30), "the cluster does not come up"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    // A cluster refuses a script whose keys are in several slots.
    for run in ["one", "two", "three"].map(run) {
        write_everything(&progress, &run).await;
        assert_eq!(progress.counted(&run).await.unwrap().counts.shards, 3);
        progress.expire(&run, Duration::from_secs(600)).await.unwrap();
        progress.forget(&run).await.unwrap();
        assert_eq!(progress.counted(&run).await.unwrap().counts.shards, 0);
    }
    assert!(progress.lease("pump", "a", Duration::from_secs(600)).await.unwrap());
    assert_eq!(progress.workers().await.unwrap(), []);
}
