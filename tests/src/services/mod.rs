//! Private services: each starts on a free port of the loopback interface, keeps its data in a folder of its own, and is
//! killed and swept away on drop. A server that is not installed is a panic with the command that installs it.

pub mod certificates;
pub mod prometheus;
pub mod proxy;
pub mod rabbitmq;
pub mod redis;
pub mod s3;

use std::hash::{BuildHasher, RandomState};
use std::net::TcpListener;
use std::time::{Duration, Instant};

use crate::children::last_lines;

/// How long a service may take to become ready, on a machine that does much else.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A port of the loopback interface that nobody listens on, and that no connection takes before it is used: systems give
/// connections ports from 32768 on.
pub fn free_port() -> u16 {
    loop {
        let random = RandomState::new().hash_one(std::process::id());
        let port = 10_000 + (random % 22_000) as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Waits until `ready` holds.
#[track_caller]
pub fn wait_until(what: &str, ready: impl FnMut() -> bool) {
    wait_until_or(what, ready, String::new);
}

/// Waits until `ready` holds; a failure ends with the last lines of what the service `said`.
#[track_caller]
pub fn wait_until_or(what: &str, mut ready: impl FnMut() -> bool, said: impl FnOnce() -> String) {
    let started = Instant::now();
    while !ready() {
        if started.elapsed() > PATIENCE {
            panic!("{what}: not within {PATIENCE:?}\n{}", last_lines(&said()));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
