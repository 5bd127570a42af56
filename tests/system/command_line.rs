//! Exit codes, output for programs, configuration, and `generate` and `doctor` without a model.

use std::fs;

use diorama_tests::children;

use crate::case::{Case, PROGRAM, end, tree};

#[test]
fn the_exit_code_says_what_to_do_next() {
    let case = Case::new();
    case.manifest(10);
    let code = |arguments: &[&str]| end(&mut case.diorama(arguments)).code.unwrap();
    let run = |out: &str, more: &[&str]| end(&mut case.run(out, more)).code.unwrap();
    assert_eq!(run("done", &[]), 0);
    assert_eq!(code(&["run"]), 2, "a missing argument");
    assert_eq!(code(&["no-such-command"]), 2);
    assert_eq!(run("usage", &["--steps", "0"]), 2);
    assert_eq!(run("usage", &["--no-such-flag"]), 2);
    assert_eq!(run("failed", &["--synthetic-fail-rate", "1", "--max-rounds", "0"]), 3);
    assert_eq!(code(&["report", "nowhere"]), 42);
    assert_eq!(code(&["run", "rows.jsonl", "--out", "x", "--model", "nowhere"]), 42);
}

#[test]
fn generate_writes_the_picture_and_all_that_explains_it() {
    let case = Case::new();
    let arguments = ["generate", "--reference", "place-0.png", "--prompt", "a seagull", "--subjects", "seagull"];
    let arguments = [&arguments[..], &["--engine", "synthetic", "--out", "one", "--seed", "7", "--json"]].concat();
    let over = end(&mut case.diorama(&arguments)).expect(0);
    let files: Vec<String> = tree(&case.path("one")).into_keys().collect();
    assert_eq!(files, ["heatmap-seagull.png", "image.png", "mask.png", "overlay.png", "record.json"]);
    assert_eq!((&over.json()["status"], &over.json()["seed"]), (&"done".into(), &7.into()));
    let record: serde_json::Value = serde_json::from_slice(&fs::read(case.path("one/record.json")).unwrap()).unwrap();
    assert_eq!((&record["prompt"], &record["seed"]), (&"a seagull".into(), &7.into()));
    // Nobody takes it for a picture of a model.
    assert_eq!(record["settings"]["synthetic"], true);
    assert!(record["warnings"][0].as_str().unwrap().contains("synthetic picture"), "{record}");
}

#[test]
fn generate_refuses_what_cannot_become_a_picture() {
    let case = Case::new();
    fs::write(case.path("text.png"), "no picture").unwrap();
    let generate = |more: &[&str]| {
        let arguments = [&["generate", "--engine", "synthetic", "--out", "one", "--json"], more].concat();
        end(&mut case.diorama(&arguments))
    };
    let good = ["--reference", "place-0.png", "--prompt", "a seagull"];
    generate(&["--prompt", "a seagull"]).expect(2);
    generate(&["--reference", "place-0.png", "--prompt", " "]).expect(2);
    generate(&["--reference", "place-0.png", "--prompt", &"x".repeat(10_001)]).expect(2);
    let failed = generate(&["--reference", "text.png", "--prompt", "a seagull"]).expect(42);
    assert_eq!(failed.json()["code"], "reference_undecodable");
    let failed = generate(&["--reference", "gone.png", "--prompt", "a seagull"]).expect(42);
    assert_eq!(failed.json()["code"], "reference_unreadable");
    generate(&[&good[..], &["--save-tensors"]].concat()).expect(42);
    for (flag, value) in [
        ("--strength", "1.5"),
        ("--guidance", "-1"),
        ("--threshold", "11"),
        ("--size", "60x64"),
        ("--edit-steps", "5,5"),
    ] {
        let refused = generate(&[&good[..], &[flag, value]].concat()).expect(2);
        assert!(refused.stderr.contains("out of range") || refused.stderr.contains("must rise"), "{}", refused.stderr);
    }
    assert!(tree(&case.path("one")).is_empty(), "a refused picture left files");
}

#[test]
fn config_says_where_each_value_came_from() {
    let case = Case::new();
    fs::write(case.path("diorama.toml"), "steps = 10\nguidance = 3.5\n").unwrap();
    let mut command = case.diorama(&["config", "--json", "--threshold", "-0.5"]);
    let config = end(command.env("DIORAMA_STEPS", "20")).expect(0);
    let entries: Vec<serde_json::Value> = serde_json::from_str(&config.stdout).unwrap();
    let entry = |key: &str| entries.iter().find(|entry| entry["key"] == key).unwrap().clone();
    assert_eq!(
        (&entry("steps")["value"], &entry("steps")["source"]),
        (&20.into(), &"environment variable DIORAMA_STEPS".into())
    );
    assert_eq!(entry("threshold")["source"], "flag --threshold");
    assert!(entry("guidance")["source"].as_str().unwrap().starts_with("file "));
    assert_eq!(entry("shard_size")["source"], "default");
}

#[test]
fn doctor_names_what_is_wrong_and_what_to_do() {
    let case = Case::new();
    end(&mut case.diorama(&["doctor", "--engine", "synthetic", "--out", "out"])).expect(0);
    let sick = end(&mut case.diorama(&["doctor", "--json", "--model", "nowhere"])).expect(42);
    let checks: Vec<serde_json::Value> = serde_json::from_str(&sick.stdout).unwrap();
    let problems: Vec<_> = checks.iter().filter(|check| check["verdict"] == "problem").collect();
    assert!(!problems.is_empty() && problems.iter().all(|check| check["advice"].is_string()), "{checks:?}");
}

#[test]
fn log_lines_are_json_where_a_program_reads_them() {
    let case = Case::new();
    fs::write(case.path("rows.jsonl"), "nonsense\n").unwrap();
    case.manifest(2);
    let mut command = case.run("out", &["--log-format", "json"]);
    let over = end(command.env("DIORAMA_STEPPS", "1")).expect(0);
    let line: serde_json::Value = serde_json::from_str(over.stderr.lines().next().unwrap()).unwrap();
    assert!(line["message"].as_str().unwrap().contains("DIORAMA_STEPPS"), "{line}");
}

/// The commented examples of the repository.
const EXAMPLES: [&str; 3] = [
    concat!(env!("CARGO_MANIFEST_DIR"), "/../config/diorama.toml"),
    concat!(env!("CARGO_MANIFEST_DIR"), "/../config/coordinator.toml"),
    concat!(env!("CARGO_MANIFEST_DIR"), "/../config/worker.toml"),
];

fn entries(case: &Case, arguments: &[&str]) -> Vec<serde_json::Value> {
    let config = end(&mut case.diorama(&[&["config", "--json"], arguments].concat())).expect(0);
    serde_json::from_str(&config.stdout).unwrap()
}

#[test]
fn the_example_file_shows_every_key_and_changes_nothing() {
    let case = Case::new();
    let files = EXAMPLES.map(|example| fs::read_to_string(example).unwrap()).join("\n");
    let plain = entries(&case, &[]);
    for example in EXAMPLES {
        for (default, shown) in plain.iter().zip(&entries(&case, &["--config", example])) {
            assert_eq!(default["value"], shown["value"], "{} of {example} is not the default", default["key"]);
        }
    }
    for entry in &plain {
        let key = entry["key"].as_str().unwrap();
        let has = |start: String| files.lines().any(|line| line.starts_with(&start));
        assert!(has(format!("{key} = ")) || has(format!("# {key} = ")), "{key} is in no example");
    }
}

#[test]
fn the_example_file_with_every_comment_taken_away_is_accepted() {
    let case = Case::new();
    let settings = |line: &&str| line.split_once(" = ").is_some_and(|(key, _)| !key.contains(' '));
    let all = EXAMPLES.map(|example| fs::read_to_string(example).unwrap()).join("\n");
    let all = all.lines().map(|line| line.strip_prefix("# ").unwrap_or(line)).filter(settings);
    // A key once, and secrets out of a file that is there.
    fs::write(case.path("secret"), "secret").unwrap();
    let mut keys = std::collections::BTreeMap::new();
    for line in all {
        let (key, value) = line.split_once(" = ").unwrap();
        let is_secret = key.ends_with("_file") && !["ca_file", "tokens_file"].contains(&key);
        keys.entry(key).or_insert(if is_secret { "\"secret\"" } else { value });
    }
    let all: Vec<String> = keys.into_iter().map(|(key, value)| format!("{key} = {value}")).collect();
    fs::write(case.path("all.toml"), all.join("\n")).unwrap();
    let entries = entries(&case, &["--config", "all.toml"]);
    assert!(entries.iter().all(|entry| entry["source"].as_str().unwrap().starts_with("file ")), "{entries:?}");
}

#[test]
fn every_flag_of_the_method_and_the_engine_reaches_the_configuration() {
    let case = Case::new();
    let flags = [
        ("method", "img2img"),
        ("preset", "paper"),
        ("steps", "30"),
        ("strength", "0.7"),
        ("guidance", "5.5"),
        ("negative-prompt", "blur"),
        ("edit-steps", "5,18,28"),
        ("threshold", "-0.5"),
        ("dilation", "2"),
        ("blur", "3.5"),
        ("layers", "last"),
        ("score", "attention"),
        ("probes", "8"),
        ("start", "noise"),
        ("scheduler", "dpmpp-2m"),
        ("scheduler-config", "as-is"),
        ("size", "256x320"),
        ("paste-back", "4.5"),
        ("model", "some/folder"),
        ("variant", "fp16"),
        ("device", "cuda:1"),
        ("dtype", "bf16"),
        ("kernels", "libtorch"),
        ("batch-size", "3"),
        ("engine", "synthetic"),
        ("synthetic-latency", "7"),
        ("synthetic-fail-rate", "0.5"),
        ("seed", "12"),
        ("format", "webdataset"),
        ("compare", "img2img,txt2img"),
        ("on-invalid", "skip"),
        ("shard-size", "9"),
        ("max-rounds", "1"),
        ("retry-delay", "0.5"),
    ];
    let arguments: Vec<String> =
        flags.iter().flat_map(|(flag, value)| [format!("--{flag}"), (*value).to_owned()]).collect();
    let entries = entries(&case, &arguments.iter().map(String::as_str).collect::<Vec<_>>());
    let given = entries.iter().filter(|entry| entry["source"].as_str().unwrap().starts_with("flag ")).count();
    assert_eq!(given, flags.len(), "a flag did not arrive, or one that is not in this list did");
    for entry in &entries {
        let key = entry["key"].as_str().unwrap();
        // The keys of a fleet have their flags where they are used.
        let Some((_, text)) = flags.iter().find(|(flag, _)| flag.replace('-', "_") == key) else { continue };
        let value = match &entry["value"] {
            serde_json::Value::String(text) => text.clone(),
            serde_json::Value::Array(values) => {
                values.iter().map(|value| value.to_string().replace('"', "")).collect::<Vec<_>>().join(",")
            }
            other => other.to_string(),
        };
        assert_eq!((value.as_str(), &entry["source"]), (*text, &format!("flag --{}", key.replace('_', "-")).into()));
    }
}

#[test]
fn a_bar_with_rate_and_time_left_is_drawn_on_a_terminal_and_nowhere_else() {
    let case = Case::new();
    case.manifest(12);
    let run = "run rows.jsonl --engine synthetic --synthetic-latency 150 --batch-size 1 --shard-size 2 --out";
    let piped = end(&mut case.diorama(&[run.split(' ').collect(), vec!["piped"]].concat())).expect(0);
    assert!(!piped.stderr.contains("pictures/s") && !piped.stderr.contains('\u{1b}'), "{}", piped.stderr);

    // `script` gives the program a terminal of its own.
    let mut terminal = children::command("script");
    terminal.args(["--quiet", "--return", "--flush", "--command", &format!("{PROGRAM} {run} shown"), "/dev/null"]);
    terminal.current_dir(case.path("")).env("TERM", "xterm-256color");
    terminal.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let shown = end(&mut terminal).expect(0).stdout;
    for part in ["/12 pictures", " pictures/s", "ETA ", "━"] {
        assert!(shown.contains(part), "{part:?} is not in\n{shown}");
    }
}

#[test]
fn a_coordinator_without_tokens_listens_to_this_machine_only() {
    let case = Case::new();
    for address in ["0.0.0.0:0", "[::]:0", "example.org:7000"] {
        let refused = end(&mut case.diorama(&["serve", "--listen", address])).expect(2);
        assert!(refused.stderr.contains(address) && refused.stderr.contains("--tokens-file"), "{}", refused.stderr);
        let with_tokens = ["serve", "--listen", address, "--tokens-file", "tokens.toml"];
        end(&mut case.diorama(&["token", "new", "ada", "--role", "admin", "--tokens-file", "tokens.toml"])).expect(0);
        let refused = end(&mut case.diorama(&with_tokens)).expect(2);
        assert!(refused.stderr.contains(address) && refused.stderr.contains("--insecure"), "{}", refused.stderr);
        // Then it is the services that are missing.
        let let_in = end(&mut case.diorama(&[&with_tokens[..], &["--insecure", "true"]].concat())).expect(2);
        assert!(let_in.stderr.contains("s3_bucket"), "{}", let_in.stderr);
    }
}

#[test]
fn tokens_are_made_shown_and_revoked_and_the_rest_of_their_file_stays() {
    let case = Case::new();
    let file = case.path("tokens.toml");
    fs::write(
        &file,
        "# ours\n[[token]]\nname = \"old\" # keep\nrole = \"viewer\"\nsha256 = \"".to_owned()
            + &"0".repeat(64)
            + "\"\n",
    )
    .unwrap();
    let token = |arguments: &[&str]| {
        end(&mut case.diorama(&[&["token"], arguments, &["--tokens-file", file.to_str().unwrap()]].concat()))
    };
    let made = token(&["new", "sam", "--role", "submitter", "--group", "birds", "--days", "30"]).expect(0);
    let secret = made.stdout.trim();
    assert!(secret.len() > 40 && !fs::read_to_string(&file).unwrap().contains(secret), "only its digest is kept");
    let listed = token(&["list"]).expect(0).stdout;
    assert!(listed.contains("sam  submitter  group birds  sees its own runs  expires at "), "{listed}");
    assert!(listed.contains("old  viewer  sees all runs  does not expire"), "{listed}");
    let json = token(&["list", "--json"]).expect(0).json();
    assert_eq!(
        (&json[1]["name"], &json[1]["role"], &json[1]["sees_all"]),
        (&"sam".into(), &"submitter".into(), &false.into())
    );
    assert!(token(&["new", "a\u{1b}b", "--role", "viewer"]).expect(2).stderr.contains("control characters"));
    token(&["revoke", "sam"]).expect(0);
    assert!(token(&["revoke", "sam"]).expect(42).stderr.contains("no token named"));
    let left = fs::read_to_string(&file).unwrap();
    assert!(left.starts_with("# ours\n") && left.contains("# keep") && !left.contains("sam"), "{left}");
    token(&["revoke", "old"]).expect(0);
    assert_eq!(token(&["list"]).expect(0).stdout.trim(), "there are no tokens");
}

#[test]
fn a_run_writes_the_files_that_the_documents_name_loose_or_in_archives() {
    let case = Case::new();
    case.write_rows(&[serde_json::json!({"custom_id": "a.1", "reference": "place-0.png", "prompt": "seagull"})]);
    end(&mut case.run("files", &["--compare", "img2img"])).expect(0);
    let written = tree(&case.path("files"));
    let made = [
        "images/a.1.png",
        "masks/a.1.png",
        "overlays/a.1.png",
        "heatmaps/a.1.seagull.png",
        "records/a.1.json",
        "compare/a.1.img2img.png",
        "results.jsonl",
        "results.parquet",
        "errors.jsonl",
        "summary.json",
        "index.html",
    ];
    for name in made {
        assert!(written.contains_key(name), "{name} is not among {:?}", written.keys());
    }

    end(&mut case.run("archives", &["--format", "webdataset"])).expect(0);
    let written = tree(&case.path("archives"));
    let archive = written.keys().find(|name| name.ends_with(".tar")).expect("an archive");
    let mut listing = children::command("tar");
    listing.arg("tf").arg(case.path("archives").join(archive));
    let members = children::output(&mut listing, "install tar").stdout;
    let mut members: Vec<String> = String::from_utf8(members).unwrap().lines().map(str::to_owned).collect();
    members.sort_unstable();
    // Readers of WebDataset cut a name at its first dot.
    let ends = ["heatmap.png", "json", "mask.png", "overlay.png", "png", "record", "txt"];
    let expected = ends.map(|end| format!("a%2E1.{end}"));
    assert_eq!(members, expected);
}
