//! An object store that refuses, is slow, ignores conditions, or is reached over TLS; and a worker whose own disk is full.

use diorama_tests::children;
use diorama_tests::services::s3::Faults;
use serde_json::json;

use super::Fleet;
use crate::case::{PROGRAM, lines, until};

/// Rows whose archive is larger than what goes up in one piece.
const LARGE: usize = 1000;

#[test]
fn a_store_that_refuses_one_request_in_ten_costs_no_task() {
    let fleet = Fleet::new();
    fleet.s3.set(Faults { refuse: 0.1, ..Faults::default() });
    let (_coordinator, _worker) = (fleet.serve(), fleet.worker("one"));
    let run = fleet.submit(120);
    fleet.proves_whole(&run, 120);
}

#[test]
fn a_store_that_tells_every_lie_at_once_gets_whole_runs_all_the_same() {
    let fleet = Fleet::new();
    let lies = Faults::lying();
    fleet.s3.set(lies.clone());
    let (_coordinator, _first, _second) = (fleet.serve(), fleet.worker("first"), fleet.worker("second"));
    // Its only archive goes up in parts: records with long prompts, together above 16 MiB.
    let prompt = "a seagull standing on the beach ".repeat(300);
    let row = |i: usize| json!({"custom_id": format!("t-{i}"), "prompt": prompt, "seed": i, "method": "txt2img"});
    fleet.case.write_rows(&(0..LARGE).map(row).collect::<Vec<_>>());
    let size = LARGE.to_string();
    let submit = ["submit", "rows.jsonl", "--shard-size", &size, "--format", "webdataset", "--json"];
    let large = fleet.run(&submit).expect(0).json()["run"].as_str().unwrap().to_owned();
    let (small, cancelled) = (fleet.submit_as("small", 200, &[]), fleet.submit_as("cancelled", 200, &[]));
    fleet.until_done(&cancelled, 8);
    fleet.run(&["cancel", &cancelled]).expect(0);
    fleet.proves_whole(&large, LARGE as u64);
    fleet.proves_whole(&small, 200);
    let left_out = fleet.proves_one_outcome_each(&cancelled, 200);
    if left_out > 0 {
        fleet.run(&["retry", &cancelled]).expect(0);
        fleet.proves_whole(&cancelled, 200);
    }
    fleet.run(&["results", &small, "--to", "results"]).expect(0);
    assert_eq!(lines(&fleet.case.path("results/results.jsonl")).len(), 200);
    fleet.run(&["delete", &small]).expect(0);
    until("the deleted run is removed", || !fleet.s3.folder().join("index/submitted").join(&small).exists());
    let untold: Vec<_> = lies.rules.iter().filter(|rule| fleet.s3.applied(rule) == 0).collect();
    assert!(untold.is_empty(), "lies that nobody was told: {untold:?}");
}

#[test]
fn a_slow_store_costs_time_and_no_task() {
    let fleet = Fleet::new();
    fleet.s3.set(Faults { delay_ms: 200, ..Faults::default() });
    let (_coordinator, _first, _second) = (fleet.serve(), fleet.worker("first"), fleet.worker("second"));
    let run = fleet.submit(64);
    fleet.proves_whole(&run, 64);
}

#[test]
fn a_store_that_ignores_conditions_takes_one_marker_a_shard_all_the_same() {
    let fleet = Fleet::new();
    fleet.s3.set(Faults { ignore_conditions: true, ..Faults::default() });
    let coordinator = fleet.serve();
    coordinator.until_logged("the object store ignores If-None-Match");
    let run = fleet.submit(16);
    // Somebody stands still with a shard that he has made, just before his marker.
    let mut command = fleet.working("late", "20");
    command.env("DIORAMA_FREEZE", "worker.before-marker:1").env("DIORAMA_AMQP_HEARTBEAT", "1");
    let late = fleet.start(command);
    late.until_frozen("worker.before-marker");
    for _ in 0..2 {
        until("the shards are published again", || {
            let verified = fleet.run(&["verify", &run, "--repair", "--json"]);
            verified.stdout.contains("2 shards without a marker were published again")
        });
    }
    let [mut doomed, _other] = ["doomed", "other"].map(|name| fleet.start(fleet.working(name, "500")));
    fleet.until_done(&run, 2);
    doomed.kill();
    fleet.proves_whole(&run, 16);
    late.go_on();
    late.until_logged("another worker committed this shard first");
    fleet.proves_whole(&run, 16);
}

#[test]
fn a_worker_whose_disk_is_full_says_so_and_another_one_makes_its_pictures() {
    let fleet = Fleet::new();
    let _coordinator = fleet.serve();
    // Their records make an archive that is too large for a worker's memory.
    let prompt = "a seagull standing on the beach ".repeat(300);
    let row = |i: usize| json!({"custom_id": format!("t-{i}"), "prompt": prompt, "seed": i, "method": "txt2img"});
    fleet.case.write_rows(&(0..500).map(row).collect::<Vec<_>>());
    let submit = ["submit", "rows.jsonl", "--shard-size", "250", "--format", "webdataset", "--json"];
    let run = fleet.run(&submit).expect(0).json()["run"].as_str().unwrap().to_owned();
    let worker = fleet.working("small", "0");
    let mut small = children::command("unshare");
    let script = "mount -t tmpfs -o size=16k none \"$SCRATCH\"; exec \"$0\" \"$@\" --scratch \"$SCRATCH\"";
    small.args(["--map-root-user", "--mount", "sh", "-euc", script, PROGRAM]).args(worker.get_args());
    for (name, value) in worker.get_envs() {
        match value {
            Some(value) => small.env(name, value),
            None => small.env_remove(name),
        };
    }
    std::fs::create_dir(fleet.case.path("scratch")).unwrap();
    small.env("SCRATCH", fleet.case.path("scratch")).current_dir(fleet.case.path(""));
    let mut small = fleet.start(small);
    small.until_dead();
    let log = small.logged();
    assert!(log.contains("scratch") && log.contains("free some space"), "{log}");
    assert_eq!(small.code(), Some(75), "{log}");
    assert_eq!(fleet.status(&run)["done"], 0);
    until("the shards are handed back", || fleet.status(&run)["shards_running"] == 0);

    let _other = fleet.start(fleet.working("other", "0"));
    fleet.proves_whole(&run, 500);
}

#[test]
fn a_fleet_works_over_tls_and_not_without_its_authority() {
    let fleet = Fleet::with_tls();
    let (_coordinator, _worker) = (fleet.serve(), fleet.worker("one"));
    let run = fleet.submit(40);
    fleet.proves_whole(&run, 40);

    let refused = crate::case::end(fleet.working("stranger", "20").env_remove("DIORAMA_CA_FILE")).expect(42);
    assert!(refused.stderr.contains("CertificateRefused") && refused.stderr.contains("ca_file"), "{}", refused.stderr);
}
