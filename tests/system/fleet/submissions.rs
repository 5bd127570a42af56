//! Ways in which a run comes to the coordinator: cut off and repeated, with rows left out, as an object of a bucket, with
//! references in a folder that all share, and with a token or without.

use std::fs;

use diorama_core::id::Sha256Hex;
use diorama_tests::services::s3::Faults;
use serde_json::{Value, json};

use super::Fleet;
use crate::case::{end, lines, until};

impl Fleet {
    /// The runs that the coordinator knows.
    fn runs(&self) -> Vec<Value> {
        self.run(&["status", "--all", "--json"]).expect(0).json()["runs"].as_array().unwrap().clone()
    }

    fn blobs(&self) -> usize {
        fs::read_dir(self.s3.folder().join("blobs")).map_or(0, Iterator::count)
    }

    /// Writes rows as an object of the fleet's bucket.
    fn write_object(&self, key: &str, rows: &[Value]) {
        let path = self.s3.folder().join(key);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, rows.iter().map(|row| format!("{row}\n")).collect::<String>()).unwrap();
    }
}

#[test]
fn a_submission_killed_while_it_uploads_is_one_run_when_the_same_command_is_given_again() {
    const PLACES: usize = 60;
    let fleet = Fleet::new();
    let (_coordinator, _worker) = (fleet.serve(), fleet.worker("one"));
    let row = |n: usize| {
        let shade = |x: u32, _| image::Rgb([n as u8, x as u8, 7]);
        image::RgbImage::from_fn(32, 24, shade).save(fleet.case.path(&format!("shore-{n}.png"))).unwrap();
        json!({"custom_id": format!("row-{n}"), "reference": format!("shore-{n}.png"), "prompt": "a seagull"})
    };
    fleet.case.write_rows(&(0..PLACES).map(row).collect::<Vec<_>>());
    let submit = ["submit", "rows.jsonl", "--shard-size", "8", "--json"];
    // Slow enough that the upload does not end before it is killed.
    fleet.s3.set(Faults { delay_ms: 200, ..Faults::default() });
    let mut cut_off = fleet.start(fleet.command(&submit));
    until("some are there", || fleet.blobs() >= 5);
    cut_off.kill();
    fleet.s3.set(Faults::default());
    let sent = fleet.blobs();
    assert!(sent < PLACES, "everything was sent before it was killed");
    assert_eq!(fleet.runs(), [Value::Null; 0], "half a submission became a run");

    let run = fleet.run(&submit).expect(0).json()["run"].as_str().unwrap().to_owned();
    assert_eq!(fleet.blobs(), PLACES);
    let again = fleet.run(&submit).expect(0);
    assert_eq!(again.json()["run"], run.as_str());
    assert!(again.stderr.contains("was submitted before"), "{}", again.stderr);
    assert_eq!(fleet.runs().len(), 1);
    fleet.proves_whole(&run, PLACES as u64);
}

#[test]
fn bad_rows_are_left_out_where_that_is_asked_for_and_stand_among_the_errors() {
    let fleet = Fleet::new();
    let (_coordinator, _worker) = (fleet.serve(), fleet.worker("one"));
    let good = |n: usize| json!({"custom_id": format!("row-{n}"), "reference": "place-0.png", "prompt": "a seagull"});
    let rows = [good(0), json!({"custom_id": "no-prompt", "reference": "place-0.png"}), good(1), good(0), good(2)];
    fleet.case.write_rows(&rows);
    let refused = fleet.run(&["submit", "rows.jsonl", "--json"]).expect(42).json();
    assert_eq!((&refused["valid_rows"], &refused["issue_count"]), (&3.into(), &2.into()), "{refused}");
    assert_eq!(fleet.runs(), [Value::Null; 0]);

    let skip = ["submit", "rows.jsonl", "--on-invalid", "skip", "--json"];
    let run = fleet.run(&skip).expect(0).json()["run"].as_str().unwrap().to_owned();
    fleet.proves_whole(&run, 3);
    fleet.run(&["results", &run, "--to", "results"]).expect(0);
    let errors = lines(&fleet.case.path("results/errors.jsonl"));
    let found: Vec<_> = errors.iter().map(|error| (&error["status"], &error["line"], &error["code"])).collect();
    let invalid = Value::from("invalid");
    let wanted = [(&invalid, &json!(2), &json!("missing_key")), (&invalid, &json!(4), &json!("duplicate_id"))];
    assert_eq!(found, wanted);
    assert_eq!(fleet.status(&run)["invalid_rows"], 2);
}

#[test]
fn a_manifest_in_a_bucket_becomes_a_run_and_its_files_come_from_the_folder_that_all_share() {
    let fleet = Fleet::new();
    let shared = fleet.case.path("shared");
    fs::create_dir_all(shared.join("north")).unwrap();
    fs::copy(fleet.case.path("place-1.png"), shared.join("north/dunes.png")).unwrap();
    let mut serving = fleet.serving(&fleet.coordinator);
    serving.args(["--reference-root", shared.to_str().unwrap(), "--s3-readable", "diorama/manifests"]);
    let _coordinator = fleet.serve_as(serving);
    let _worker = fleet.worker("one");
    let row = |id: &str, reference: &str| json!({"custom_id": id, "reference": reference, "prompt": "a seagull"});

    fleet.write_object("manifests/bad.jsonl", &[row("gone", "north/gone.png"), row("out", "../place-0.png")]);
    let refused = fleet.run(&["submit", "s3://diorama/manifests/bad.jsonl", "--json"]).expect(42);
    let codes: Vec<_> =
        refused.json()["issues"].as_array().unwrap().iter().map(|issue| issue["code"].clone()).collect();
    assert_eq!(codes, ["missing_file", "outside_folder"]);
    let told = fleet.run(&["submit", "s3://diorama/manifests/bad.jsonl"]).expect(42).stderr;
    assert!(told.contains("line 1: missing_file") && told.contains("line 2: outside_folder"), "{told}");
    let absent = fleet.run(&["submit", "s3://diorama/manifests/absent.jsonl", "--json"]).expect(42).json();
    assert_eq!(absent["code"], "object_refused", "{absent}");

    fleet.write_object("manifests/good.jsonl", &[row("a", "north/dunes.png"), row("b", "north/dunes.png")]);
    let submit = ["submit", "s3://diorama/manifests/good.jsonl", "--json"];
    let run = fleet.run(&submit).expect(0).json()["run"].as_str().unwrap().to_owned();
    fleet.proves_whole(&run, 2);
    assert_eq!(fleet.blobs(), 0, "what all share was uploaded");
    assert_eq!(fleet.run(&submit).expect(0).json()["run"], run.as_str());
    assert_ne!(fleet.run(&[&submit[..], &["--again"]].concat()).expect(0).json()["run"], run.as_str());
}

#[test]
fn each_command_does_what_its_token_allows_and_says_what_it_lacks() {
    let fleet = Fleet::new();
    let tokens = fleet.case.path("tokens.toml");
    let entry = |(name, role): (&str, &str)| {
        format!("[[token]]\nname = \"{name}\"\nrole = \"{role}\"\nsha256 = \"{}\"\n\n", Sha256Hex::of(name.as_bytes()))
    };
    let roles = [("vera", "viewer"), ("sam", "submitter"), ("ada", "admin")];
    fs::write(&tokens, roles.map(entry).concat()).unwrap();
    let mut serving = fleet.serving(&fleet.coordinator);
    serving.args(["--tokens-file", tokens.to_str().unwrap()]);
    let _members = [fleet.start(serving), fleet.worker("one")];
    let with = |token: &str, arguments: &[&str]| {
        let mut command = fleet.command(arguments);
        if !token.is_empty() {
            command.env("DIORAMA_TOKEN", token);
        }
        end(&mut command)
    };
    until("the coordinator answers", || with("vera", &["status"]).code == Some(0));
    fleet.case.manifest(4);
    let submit = ["submit", "rows.jsonl", "--json"];
    for (token, code) in [("", "missing_token"), ("nobody", "unknown_token"), ("vera", "role_too_low")] {
        let refused = with(token, &submit).expect(42).json();
        assert_eq!(refused["code"], code, "{token}: {refused}");
        assert!(!refused.to_string().contains("nobody"), "the token is told: {refused}");
    }
    assert_eq!(fleet.blobs(), 0, "references were taken from somebody who may not send them");
    let run = with("sam", &submit).expect(0).json()["run"].as_str().unwrap().to_owned();
    let ended = || with("vera", &["status", &run, "--json"]).expect(0).json()["summary"].is_object();
    until("the run ends", ended);
    with("vera", &["results", &run, "--to", "results"]).expect(0);
    assert_eq!(lines(&fleet.case.path("results/results.jsonl")).len(), 4);
    assert_eq!(with("vera", &["retry", &run, "--json"]).expect(42).json()["code"], "role_too_low");
}

#[test]
fn a_run_whose_settings_do_not_fit_the_model_waits_for_its_owner_instead_of_failing_to_its_last_row() {
    let fleet = Fleet::new();
    let _coordinator = fleet.serve();
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/demo");
    let _worker = fleet.start(fleet.command(&["worker", "--model", model, "--batch-size", "2", "--heartbeat", "0.5"]));
    let quick = ["--steps", "4", "--edit-steps", "2"];
    let elsewhere = [&["--layers", "up_blocks.9.attentions.0.transformer_blocks.0.attn2"][..], &quick].concat();

    let run = fleet.submit_as("elsewhere", 24, &elsewhere);
    until("the run is paused", || fleet.status(&run)["state"] == "paused");
    let reason = fleet.status(&run)["reason"].as_str().unwrap().to_owned();
    assert!(reason.contains("layers") && reason.contains("up_blocks.9") && reason.contains("resume it"), "{reason}");
    assert_eq!(fleet.status(&run)["failed"], 0);
    // A row of its own that does not fit is that row's failure, and nobody is asked.
    let mut rows: Vec<Value> = (0..3)
        .map(|n| json!({"custom_id": format!("r{n}"), "reference": "place-0.png", "prompt": "a seagull"}))
        .collect();
    rows[1]["layers"] = json!("up_blocks.9.attentions.0.transformer_blocks.0.attn2");
    fleet.case.write_rows(&rows);
    let other =
        fleet.run(&[&["submit", "rows.jsonl", "--shard-size", "1", "--json"][..], &quick].concat()).expect(0).json();
    assert_eq!(fleet.proves_one_outcome_each(other["run"].as_str().unwrap(), 3), 1);

    fleet.run(&["resume", &run]).expect(0);
    assert_eq!(fleet.proves_one_outcome_each(&run, 24), 24);
    assert_eq!(fleet.status(&run)["summary"]["failures"]["invalid_settings"], 24);
}

#[test]
fn an_estimate_makes_a_sample_once_and_says_what_the_whole_will_take() {
    let fleet = Fleet::new();
    let mut priced = fleet.serving(&fleet.coordinator);
    priced.args(["--prices", "other=1,default=7200"]);
    let (_coordinator, worker) = (fleet.serve_as(priced), fleet.worker("one"));
    fleet.case.manifest(200);
    let estimate = ["submit", "rows.jsonl", "--estimate", "16", "--price", "2", "--json"];
    let told = fleet.run(&estimate).expect(0).json();
    let (sample, outlook) = (&told["sample"], &told["estimate"]);
    assert_eq!((&sample["tasks"], &sample["shards"], &sample["done"]), (&16.into(), &8.into(), &16.into()), "{told}");
    assert_eq!((&outlook["tasks"], &outlook["workers"]), (&200.into(), &1.into()), "{told}");
    let mean = |figure: &str| outlook[figure]["mean"].as_f64().unwrap();
    assert!((mean("pictures_per_second") * mean("seconds") / 200.0 - 1.0).abs() < 1e-9, "{told}");
    assert!((mean("worker_hours") * 2.0 / mean("cost") - 1.0).abs() < 1e-9, "{told}");
    assert!(outlook["seconds"]["low"].as_f64() < outlook["seconds"]["high"].as_f64(), "{told}");
    assert_eq!(fleet.run(&estimate).expect(0).json()["sample"]["run"], sample["run"]);
    assert_eq!(fleet.runs().len(), 1, "an estimate submits the sample alone, and once");

    let went_on = fleet.run(&[&estimate[..], &["--yes"]].concat()).expect(0).stdout;
    let run: Value = serde_json::from_str(went_on.lines().last().unwrap()).unwrap();
    assert_eq!((&run["tasks"], fleet.runs().len()), (&200.into(), 2));
    let run = run["run"].as_str().unwrap();
    let costs_two_a_second = |status: &Value| {
        let (seconds, cost) = (status["device_seconds"].as_f64().unwrap(), status["cost"]["so_far"].as_f64().unwrap());
        assert!(seconds > 0.0 && (cost / seconds - 2.0).abs() < 1e-9, "{status}");
        seconds
    };
    until("half of it is made", || fleet.status(run)["done"].as_u64().unwrap() >= 100);
    let live = fleet.status(run);
    let counted = costs_two_a_second(&live);
    let settled = live["done"].as_f64().unwrap();
    let to_come = live["cost"]["to_come"].as_f64().unwrap();
    assert!((to_come - 2.0 * counted / settled * (200.0 - settled)).abs() < 1e-6, "{live}");
    fleet.proves_whole(run, 200);
    let ended = fleet.status(run);
    assert_eq!(ended["device_seconds"], ended["summary"]["device_seconds"], "{ended}");
    assert!(costs_two_a_second(&ended) >= counted && ended["cost"]["to_come"] == 0.0, "{ended}");
    worker.ends_in_good_order("the worker");

    let _failing = fleet.start(fleet.command(&["worker", "--engine", "synthetic", "--synthetic-fail-rate", "1"]));
    let hopeless = ["submit", "rows.jsonl", "--estimate", "8", "--max-rounds", "0", "--yes", "--name", "hopeless"];
    let refused = fleet.run(&hopeless).expect(42).stderr;
    assert!(refused.contains("made no picture") && refused.contains("nothing more was submitted"), "{refused}");
    assert_eq!(fleet.runs().len(), 3);
    let object = fleet.run(&["submit", "s3://pictures/rows.jsonl", "--estimate", "8"]).expect(2).stderr;
    assert!(object.contains("download it"), "{object}");
}
