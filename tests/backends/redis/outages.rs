//! Redis killed, emptied, silent, and back.

use std::sync::Arc;
use std::time::{Duration, Instant};

use diorama_backends::progress::redis::{RedisConfig, RedisProgress};
use diorama_backends::progress::{Counts, Progress};
use diorama_core::id::Round;
use diorama_tests::services::free_port;
use diorama_tests::services::redis::Redis;
use rustix::process::{Pid, Signal, kill_process};

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::{HEAD, ONE, config, connect, failure, run, shard, write_everything};

/// Far above any time-out in these tests: a command that takes longer has none.
const BOUND: Duration = Duration::from_secs(20);

#[tokio::test]
async fn commits_survive_a_killed_and_restarted_server_on_the_same_connection() {
    let mut redis = Redis::start_with(&["--appendfsync", "always"]);
    let progress = connect(&redis).await;
    let run = run("killed");
    write_everything(&progress, &run).await;
    let before = progress.counted(&run).await.unwrap().counts;
    redis.kill();
    redis.start_again();

    // The same value, no new connect: it notices by itself that the connection is gone, and that the server has
    // forgotten its scripts.
    assert_eq!(progress.counted(&run).await.unwrap().counts, before);
    assert!(!progress.commit(&run, shard(0, 7), ONE, &[]).await.unwrap(), "it was counted before the kill");
    assert!(progress.commit(&run, shard(0, 8), ONE, &[]).await.unwrap());
    assert_eq!(progress.counted(&run).await.unwrap().counts, before.plus(ONE));
}

#[tokio::test]
async fn a_command_while_redis_is_away_fails_in_bounded_time_and_works_when_it_is_back() {
    let mut redis = Redis::start();
    let progress = connect(&redis).await;
    let run = run("away");
    progress.commit(&run, shard(0, 0), ONE, &[]).await.unwrap();
    redis.kill();
    for _ in 0..3 {
        let started = Instant::now();
        let error = progress.counted(&run).await.unwrap_err().to_string();
        assert!(started.elapsed() < BOUND);
        assert!(
            error.contains(&format!("127.0.0.1:{}", redis.port())) && error.contains("check that it runs"),
            "{error}"
        );
    }
    redis.start_again();
    progress.commit(&run, shard(0, 1), ONE, &[]).await.unwrap();
}

#[tokio::test]
async fn a_server_that_falls_silent_is_given_up_in_time_and_used_again_when_it_speaks() {
    let redis = Redis::start();
    let mut config = config(&redis);
    config.timeout = Duration::from_millis(300);
    let progress = RedisProgress::connect(&config).await.unwrap();
    let run = run("silent");
    let server = Pid::from_raw(redis.id() as i32).unwrap();
    kill_process(server, Signal::STOP).unwrap();
    let started = Instant::now();
    let error = progress.counted(&run).await.unwrap_err().to_string();
    assert!(started.elapsed() < BOUND);
    assert!(error.contains("did not answer within 300ms"), "{error}");
    // Whoever comes next does not wait as long, one after the other: nearly all of them fail at once.
    let mut waited = 0;
    for _ in 0..100 {
        let error = progress.counted(&run).await.unwrap_err().to_string();
        waited += u32::from(error.contains("within 300ms"));
    }
    assert!(waited < 10, "{waited} of 100 requests waited for a server that says nothing");
    kill_process(server, Signal::CONT).unwrap();
    let started = Instant::now();
    while progress.commit(&run, shard(0, 0), ONE, &[]).await.is_err() {
        assert!(started.elapsed() < BOUND, "it never speaks again");
    }
    assert_eq!(progress.counted(&run).await.unwrap().counts, ONE);
}

#[tokio::test]
async fn a_server_that_takes_nothing_is_not_asked_for_what_it_knew_until_it_takes_something() {
    let redis = Redis::start();
    let progress = connect(&redis).await;
    let run = run("deaf");
    progress.commit(&run, shard(0, 0), ONE, &[]).await.unwrap();
    progress.announce(&run, &HEAD).await.unwrap();
    let nowhere = free_port().to_string();
    let full = (["CONFIG", "SET", "maxmemory", "1"], ["CONFIG", "SET", "maxmemory", "0"]);
    let replica = (["REPLICAOF", "127.0.0.1", &nowhere], ["REPLICAOF", "NO", "ONE"]);
    for (begin, end) in [(&full.0[..], &full.1[..]), (&replica.0[..], &replica.1[..])] {
        redis.ask(begin).unwrap();
        progress.commit(&run, shard(0, 1), ONE, &[]).await.unwrap_err();
        // What is committed and decided from now on is not in it: nobody may take its word for what there is.
        let told = [
            progress.counted(&run).await.map(drop),
            progress.committed(&run, Round(0)).await.map(drop),
            progress.head(&run).await.map(drop),
            progress.holders(&run).await.map(drop),
            progress.rung().await.map(drop),
        ];
        for told in told {
            let error = told.unwrap_err();
            assert!(error.is_retryable() && error.to_string().contains("out of date"), "{error}");
        }
        redis.ask(end).unwrap();
        let started = Instant::now();
        while !progress.lease("a", "b", BOUND).await.is_ok_and(|has_it| has_it) {
            assert!(started.elapsed() < BOUND, "it never takes anything again");
        }
        assert_eq!(progress.counted(&run).await.unwrap().counts, ONE);
        assert_eq!(progress.head(&run).await.unwrap(), Some(HEAD));
    }
}

#[tokio::test]
async fn an_emptied_server_counts_again_exactly_once_each() {
    let redis = Redis::start();
    let progress = connect(&redis).await;
    let run = run("emptied");
    for index in 0..50 {
        progress.commit(&run, shard(0, index), ONE, &[]).await.unwrap();
    }
    redis.flush();
    assert_eq!(progress.counted(&run).await.unwrap().counts, Counts::default());
    // As reconciliation does it, twice, with workers that go on.
    for index in (0..60).chain(0..50) {
        progress.commit(&run, shard(0, index), ONE, &[]).await.unwrap();
    }
    assert_eq!(progress.counted(&run).await.unwrap().counts.shards, 60);
    assert_eq!(progress.counted(&run).await.unwrap().counts.done, 60 * ONE.done);
    assert_eq!(progress.committed(&run, Round(0)).await.unwrap().len(), 60);
}

/// Lies between a client and a server, and can cut a connection at the moment when the server answers.
struct Between {
    port: u16,
    cut: Arc<Notify>,
    is_cutting: Arc<Notify>,
    _connections: JoinSet<()>,
}

impl Between {
    async fn start(server: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (cut, is_cutting) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let notes = (cut.clone(), is_cutting.clone());
        let mut connections = JoinSet::new();
        connections.spawn(async move {
            let mut open = JoinSet::new();
            loop {
                let (client, _) = listener.accept().await.unwrap();
                open.spawn(carry(client, server, notes.clone()));
            }
        });
        Self { port, cut, is_cutting, _connections: connections }
    }

    /// The connection that is open carries requests only, from now on, and ends when the server has answered one.
    async fn cut_the_next_answer(&self) {
        self.cut.notify_one();
        let cuts = tokio::time::timeout(Duration::from_secs(60), self.is_cutting.notified());
        cuts.await.expect("a connection is open");
    }
}

async fn carry(mut client: TcpStream, server: u16, (cut, is_cutting): (Arc<Notify>, Arc<Notify>)) {
    let mut server = TcpStream::connect(("127.0.0.1", server)).await.unwrap();
    tokio::select! {
        _ = copy_bidirectional(&mut client, &mut server) => return,
        () = cut.notified() => is_cutting.notify_one(),
    }
    let (mut requests, _) = client.split();
    let (answers, mut to_server) = server.split();
    tokio::select! {
        _ = tokio::io::copy(&mut requests, &mut to_server) => {}
        answered = answers.readable() => answered.unwrap(),
    }
}

#[tokio::test]
async fn a_commit_whose_answer_is_lost_counts_once_and_lists_its_failures_once() {
    let redis = Redis::start();
    let between = Between::start(redis.port()).await;
    let config = RedisConfig::new(format!("redis://127.0.0.1:{}", between.port).into());
    let progress = RedisProgress::connect(&config).await.unwrap();
    let run = run("unanswered");
    // The server knows the script from here on.
    assert!(progress.commit(&run, shard(0, 0), ONE, &[failure(0)]).await.unwrap());
    between.cut_the_next_answer().await;
    let first = progress.commit(&run, shard(0, 1), ONE, &[failure(1)]).await.unwrap();
    assert!(!first, "it was sent again, and the first try had done everything");
    assert_eq!(progress.counted(&run).await.unwrap().counts, ONE.plus(ONE));
    assert_eq!(progress.recent_failures(&run).await.unwrap(), [failure(1), failure(0)]);
}
