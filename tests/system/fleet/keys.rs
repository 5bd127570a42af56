//! The key of the object store from wherever the AWS SDK finds one; and one of their own for references.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::process::Command;
use std::time::{Duration, SystemTime};

use diorama_core::id::Sha256Hex;
use diorama_tests::services::s3::{ACCESS_KEY, SECRET_KEY};
use serde_json::{Value, json};

use super::Fleet;
use crate::case::{end, until};

/// What submitters may name.
const READABLE: (&str, &str) = ("DIORAMA_S3_READABLE", "places,diorama");

/// The command without any key, and with no service that gives out keys but what `variables` name.
fn without_key(fleet: &Fleet, variables: &[(&str, &str)], arguments: &[&str]) -> Command {
    let mut command = fleet.command(arguments);
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("AWS_")) {
        command.env_remove(name);
    }
    command
        .env_remove("DIORAMA_S3_ACCESS_KEY")
        .env_remove("DIORAMA_S3_SECRET_KEY")
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .env("HOME", fleet.case.path("nobody"))
        .envs(variables.iter().copied());
    command
}

/// Gives out the key of the store as the agent of a container does, for as long as the test's process lives. Its address.
fn agent() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for socket in listener.incoming().map_while(Result::ok) {
            let asked = BufReader::new(&socket).lines().map_while(Result::ok).take_while(|line| !line.is_empty());
            if asked.count() == 0 {
                continue;
            }
            let body = temporary_key(&json!({ "Expiration": "2099-01-01T00:00:00Z" }));
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
            let _ = (&socket).write_all((head + &body).as_bytes());
        }
    });
    format!("http://{address}/key")
}

fn temporary_key(more: &Value) -> String {
    let mut key = json!({ "AccessKeyId": ACCESS_KEY, "SecretAccessKey": SECRET_KEY, "Token": "a-session" });
    key.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    key.to_string()
}

#[test]
fn a_fleet_takes_the_key_that_the_sdk_finds_and_doctor_says_where() {
    let fleet = Fleet::new();
    let agent = agent();
    let process = fleet.case.path("key.json");
    fs::write(&process, temporary_key(&json!({ "Version": 1, "SessionToken": "a-session" }))).unwrap();
    let config = fleet.case.path("aws-config");
    let text = format!("[profile fleet]\ncredential_process = cat {}\n", process.display());
    fs::write(&config, text).unwrap();
    let config = config.to_str().unwrap();
    let in_environment = [("AWS_ACCESS_KEY_ID", ACCESS_KEY), ("AWS_SECRET_ACCESS_KEY", SECRET_KEY)];
    let in_container = [("AWS_CONTAINER_CREDENTIALS_FULL_URI", agent.as_str())];
    for (variables, origin) in [
        (&in_environment[..], "a key from the environment (AWS_ACCESS_KEY_ID)"),
        (&in_container, "a temporary key from the container's role, good until 2099-01-01T00:00:00Z"),
        (&[("AWS_CONFIG_FILE", config), ("AWS_PROFILE", "fleet")], "a temporary key from a credential process"),
        (&[("AWS_CONFIG_FILE", config), ("DIORAMA_S3_PROFILE", "fleet")], "a temporary key from a credential process"),
    ] {
        let over = end(&mut without_key(&fleet, variables, &["doctor", "--json"]));
        let checks: Vec<Value> = serde_json::from_str(&over.stdout).unwrap();
        let found = |name: &str| checks.iter().find(|check| check["name"] == name).unwrap().clone();
        let key = found("object store: key");
        assert!(key["found"].as_str().unwrap().starts_with(origin), "{key}");
        assert_eq!(
            (&found("object store: list")["verdict"], &found("object store: clock")["verdict"]),
            (&"ok".into(), &"ok".into())
        );
        assert!(!over.stdout.contains(SECRET_KEY) && !over.stdout.contains("a-session"), "{}", over.stdout);
    }
    let over = end(&mut without_key(&fleet, &[], &["doctor"])).expect(42);
    assert!(over.stdout.contains("NoCredentials") && over.stdout.contains("s3_secret_key_file"), "{}", over.stdout);

    // And a whole run with it.
    let listen = ["serve", "--listen", &fleet.coordinator, "--lease", "3"];
    let _coordinator = fleet.serve_as(without_key(&fleet, &in_container, &listen));
    let work = ["worker", "--engine", "synthetic", "--heartbeat", "0.5"];
    let _worker = fleet.start(without_key(&fleet, &in_container, &work));
    let run = fleet.submit(9);
    fleet.proves_whole(&run, 9);
}

#[test]
fn each_part_of_a_fleet_needs_no_more_than_its_policy_and_may_do_no_more() {
    let fleet = Fleet::new();
    let place = fs::read(fleet.case.path("place-1.png")).unwrap();
    let places = fleet.s3.folder().with_file_name("places");
    fs::create_dir_all(&places).unwrap();
    fs::write(places.join("dunes.png"), &place).unwrap();
    fs::write(fleet.s3.folder().join("own.png"), &place).unwrap();
    let row = |id: &str, reference: &str| json!({"custom_id": id, "reference": reference, "prompt": "a seagull"});
    let rows = [
        row("uploaded", "place-0.png"),
        row("object", "s3://places/dunes.png"),
        row("not-allowed", "s3://diorama/own.png"),
    ];
    fleet.case.write_rows(&rows);
    // The policies of docs/policies, by whose names the store of the tests knows their keys. What submitters may name goes
    // further than the key for references.
    let reader =
        [("DIORAMA_REFERENCE_S3_ACCESS_KEY", "references"), ("DIORAMA_REFERENCE_S3_SECRET_KEY", SECRET_KEY), READABLE];
    let as_part = |part: &str, mut command: Command| {
        command.env("DIORAMA_S3_ACCESS_KEY", part).envs(reader);
        command
    };
    let coordinator = fleet.serve_as(as_part("coordinator", fleet.serving(&fleet.coordinator)));
    let worker = fleet.start(as_part("worker", fleet.working("w", "20")));
    let submit = ["submit", "rows.jsonl", "--max-rounds", "1", "--retry-delay", "0", "--json"];
    let run = fleet.run(&submit).expect(0).json()["run"].as_str().unwrap().to_owned();
    assert_eq!(fleet.proves_one_outcome_each(&run, 3), 1, "{}", fleet.status(&run));
    fleet.run(&["results", &run, "--to", "results"]).expect(0);
    let failed = fs::read_to_string(fleet.case.path("results/errors.jsonl")).unwrap();
    assert!(failed.contains("not-allowed") && failed.contains("reference_unreadable"), "{failed}");
    // In files, too, of which those of a drained worker are removed again.
    fleet.case.manifest(40);
    let submit = ["submit", "rows.jsonl", "--name", "files", "--shard-size", "8", "--format", "files", "--json"];
    let files = fleet.run(&submit).expect(0).json()["run"].as_str().unwrap().to_owned();
    fleet.until_done(&files, 8);
    worker.ends_in_good_order("a worker with its own rights");
    let _next = fleet.start(as_part("worker", fleet.working("v", "5")));
    fleet.proves_whole(&files, 40);
    for member in [coordinator.logged(), _next.logged()] {
        assert!(!member.contains("may not s3:"), "{member}");
    }
    // What a worker's key is not for: to collect an old blob that no run names.
    let blob = fleet.s3.folder().join("blobs").join(Sha256Hex::of(b"old").as_str());
    fs::write(&blob, "old").unwrap();
    let days_ago = SystemTime::now() - Duration::from_secs(3 * 86_400);
    fs::File::options().write(true).open(&blob).unwrap().set_modified(days_ago).unwrap();
    let over = end(&mut as_part("worker", fleet.command(&["gc", "--yes"])));
    assert!(over.code != Some(0) && blob.exists(), "{}", over.stdout);
    end(&mut as_part("coordinator", fleet.command(&["gc", "--yes"]))).expect(0);
    assert!(!blob.exists());
}

#[test]
fn references_are_read_with_their_own_key_and_everything_else_with_the_fleets() {
    let fleet = Fleet::new();
    let place = fs::read(fleet.case.path("place-1.png")).unwrap();
    fs::write(fleet.s3.folder().join("own.png"), place).unwrap();
    let row = |id: &str, reference: &str| json!({"custom_id": id, "reference": reference, "prompt": "a seagull"});
    fleet.case.write_rows(&[row("uploaded", "place-0.png"), row("object", "s3://diorama/own.png")]);
    let mut serving = fleet.serving(&fleet.coordinator);
    serving.envs([READABLE]);
    let _coordinator = fleet.serve_as(serving);
    let submit = ["submit", "rows.jsonl", "--max-rounds", "0", "--json", "--name"];
    // A key that the store does not know: it reads nothing, and the fleet's own goes on.
    let reader =
        [("DIORAMA_REFERENCE_S3_ACCESS_KEY", "reader"), ("DIORAMA_REFERENCE_S3_SECRET_KEY", "wrong"), READABLE];
    for (variables, done) in [(&reader[..], 1), (&[READABLE], 2)] {
        let worker = fleet.start_with(variables, &["worker", "--engine", "synthetic", "--heartbeat", "0.5"]);
        let name = format!("with {done}");
        let run = fleet.run(&[&submit[..], &[&name]].concat()).expect(0).json()["run"].as_str().unwrap().to_owned();
        until("the run ends", || !fleet.status(&run)["summary"].is_null());
        let status = fleet.status(&run);
        assert_eq!((&status["done"], &status["failed"]), (&done.into(), &(2 - done).into()), "{status}");
        worker.ends_in_good_order("the worker");
    }
}
