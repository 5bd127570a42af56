//! `diorama doctor` on the services of a fleet: each that is right, absent or refuses is told apart, with what to do.

use std::process::Command;

use diorama_tests::services::free_port;
use serde_json::Value;

use super::Fleet;
use crate::case::end;

/// Every check, and the exit code.
fn doctor(command: &mut Command) -> (Vec<Value>, i32) {
    let over = end(command);
    let checks = serde_json::from_str(&over.stdout).unwrap_or_else(|_| panic!("{}\n{}", over.stdout, over.stderr));
    (checks, over.code.unwrap())
}

/// The one check of `checks` whose name is `name`, which must have this verdict and advice.
#[track_caller]
fn finding(checks: &[Value], name: &str, verdict: &str) -> String {
    let found = checks.iter().find(|check| check["name"] == name).unwrap_or_else(|| panic!("no {name} in {checks:#?}"));
    assert_eq!(found["verdict"], verdict, "{found}");
    assert_eq!(found["advice"].is_string(), verdict != "ok", "{found}");
    found["found"].as_str().unwrap().to_owned()
}

#[test]
fn a_fleet_that_works_is_found_well_and_one_that_does_not_is_told_what_to_do() {
    let fleet = Fleet::new();
    let _coordinator = fleet.serve();
    let ask = |change: &[(&str, String)]| {
        let mut command = fleet.command(&["doctor", "--json"]);
        doctor(command.envs(change.iter().map(|(name, value)| (name, value.clone()))))
    };
    let only = |name: &'static str, value: String| ask(&[(name, value)]);

    let (checks, code) = ask(&[]);
    let bad: Vec<_> = checks.iter().filter(|check| check["verdict"] != "ok").collect();
    assert_eq!((bad, code), (vec![], 0));
    for name in [
        "RabbitMQ: connection",
        "RabbitMQ: version",
        "RabbitMQ: queues",
        "Redis: connection",
        "Redis: version",
        "Redis: mode",
        "Redis: scripts",
        "Redis: memory",
        "object store: list",
        "object store: put and get",
        "object store: conditional put",
        "object store: upload in parts",
        "object store: delete",
        "object store: clock",
        "coordinator",
        "coordinator: token",
    ] {
        finding(&checks, name, "ok");
    }
    assert_eq!(std::fs::read_dir(fleet.s3.folder().join("probe")).map_or(0, Iterator::count), 0, "it left something");

    // Wrong passwords: nothing that time mends.
    let right = fleet.rabbitmq.url();
    let (login, broker) = right.rsplit_once('@').unwrap();
    let (user, _) = login.rsplit_once(':').unwrap();
    let (checks, code) = only("DIORAMA_AMQP_URL", format!("{user}:wrong@{broker}"));
    assert!(finding(&checks, "RabbitMQ: connection", "problem").contains("refuses the login"));
    assert_eq!(code, 42);
    let (checks, code) = only("DIORAMA_S3_SECRET_KEY", "wrong".to_owned());
    finding(&checks, "object store: list", "problem");
    assert_eq!(code, 42);
    let (checks, code) = only("DIORAMA_S3_BUCKET", "no-such-bucket".to_owned());
    assert!(finding(&checks, "object store: list", "problem").contains("there is no such bucket"), "{checks:#?}");
    assert_eq!(code, 42);

    // Absent servers: later, perhaps.
    let nowhere = format!("127.0.0.1:{}", free_port());
    let (checks, code) = ask(&[
        ("DIORAMA_AMQP_URL", format!("amqp://guest:guest@{nowhere}/%2f")),
        ("DIORAMA_REDIS_URL", format!("redis://{nowhere}")),
        ("DIORAMA_S3_ENDPOINT", format!("http://{nowhere}")),
        ("DIORAMA_COORDINATOR", format!("http://{nowhere}")),
    ]);
    assert_eq!(code, 75);
    for name in ["RabbitMQ: connection", "Redis: connection", "object store: list", "coordinator"] {
        finding(&checks, name, "problem");
    }

    // What works with a reservation.
    fleet.s3.set(diorama_tests::services::s3::Faults { ignore_conditions: true, ..Default::default() });
    fleet.redis.ask(&["CONFIG", "SET", "maxmemory", "100mb"]);
    fleet.redis.ask(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]);
    let (checks, code) = ask(&[]);
    finding(&checks, "object store: conditional put", "warning");
    assert!(finding(&checks, "Redis: memory", "warning").contains("allkeys-lru"));
    assert_eq!(code, 0);

    // A password, and a user who may neither run scripts nor ask.
    fleet.redis.ask(&["ACL", "SETUSER", "limited", "on", ">secret", "~diorama:*", "+ping", "+set", "+get", "+info"]);
    let limited = fleet.redis.url().replace("redis://", "redis://limited:secret@");
    let (checks, code) = only("DIORAMA_REDIS_URL", limited.clone());
    finding(&checks, "Redis: scripts", "problem");
    assert_eq!(code, 42);
    let (checks, code) = only("DIORAMA_REDIS_URL", limited.replace("secret", "wrong"));
    let found = finding(&checks, "Redis: connection", "problem");
    assert!(!found.contains("wrong@") && code == 42, "{found}");
}
