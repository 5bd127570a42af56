//! What people's tools write into manifests, and what is said of what cannot be read.

#![allow(clippy::unwrap_used, reason = "a test panics where a guarantee is broken")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use diorama_core::id::Seed;
use diorama_core::manifest::ExtraColumns;
use diorama_core::settings::Settings;
use diorama_core::task::{Reference, Task};
use diorama_manifest::{Manifest, ManifestReport, References, Rules, columns};
use serde_json::json;
use tempfile::TempDir;

fn rules() -> Rules {
    Rules {
        settings: Settings::default(),
        seed: Seed::new(7).unwrap(),
        compare: Vec::new(),
        references: References::FilesAndUrls,
        plain_http: false,
        follow_links: false,
        extra_columns: ExtraColumns::Carry,
        columns: Default::default(),
    }
}

/// A folder with `sea.png`, beside which manifests are written.
struct Case(TempDir);

impl Case {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("set")).unwrap();
        fs::write(folder.path().join("set/sea.png"), "x").unwrap();
        Self(folder)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join("set").join(name)
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        fs::write(self.path(name), bytes).unwrap();
        self.path(name)
    }

    fn report(&self, name: &str, bytes: impl AsRef<[u8]>, rules: Rules) -> ManifestReport {
        Manifest::open(&self.write(name, bytes), None, rules).unwrap().validate(&|_| Ok(()), 1000).unwrap()
    }

    /// The only issue of a manifest: its code and its message.
    fn refusal(&self, name: &str, bytes: impl AsRef<[u8]>) -> (String, String) {
        let report = self.report(name, bytes, rules());
        assert_eq!(report.issue_count, 1, "{:?}", report.issues);
        (report.issues[0].code.clone(), report.issues[0].message.clone())
    }

    fn tasks(&self, name: &str, bytes: impl AsRef<[u8]>, rules: Rules) -> Vec<Task> {
        tasks(&self.write(name, bytes), rules)
    }
}

fn tasks(path: &Path, rules: Rules) -> Vec<Task> {
    let manifest = Manifest::open(path, None, rules).unwrap();
    let report = manifest.validate(&|_| Ok(()), 1000).unwrap();
    assert_eq!(report.issues, [], "{}", path.display());
    manifest.tasks(&report).unwrap().collect::<Result<_, _>>().unwrap()
}

/// A file of a real tool.
fn of_a_tool(name: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tools").join(name)).unwrap()
}

#[test]
fn a_number_is_read_by_its_value_in_every_format() {
    let case = Case::new();
    let check = |task: &Task| {
        assert_eq!((task.custom_id.as_str(), task.seed.get(), task.settings.steps), ("7", 7, Some(30)));
        assert_eq!(task.settings.edit_steps.as_deref(), Some([5, 18].as_slice()));
    };
    let row =
        r#"{"custom_id":7.0,"reference":"sea.png","prompt":"a gull","seed":7.0,"steps":3e1,"edit_steps":[5.0,18]}"#;
    check(&case.tasks("m.jsonl", row, rules())[0]);
    let table = "custom_id,reference,prompt,seed,steps,edit_steps\n7,sea.png,a gull,7.0,30.0,5.0;18\n";
    check(&case.tasks("m.csv", table, rules())[0]);
    let halves = r#"{"custom_id":7.5,"reference":"sea.png","prompt":"a gull","seed":7.5}"#;
    let report = case.report("m.jsonl", halves, rules());
    let params: Vec<_> = report.issues.iter().filter_map(|issue| issue.param.as_deref()).collect();
    assert_eq!(params, ["custom_id", "seed"]);
}

#[test]
fn parquet_of_every_tool_is_read() {
    let case = Case::new();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tools");
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|file| file.unwrap().file_name()).collect();
    files.retain(|name| name.to_str().unwrap().ends_with(".parquet"));
    assert!(files.len() >= 8, "{files:?}");
    for name in files {
        let name = name.to_str().unwrap();
        let tasks = case.tasks(name, of_a_tool(name), rules());
        let first = &tasks[0];
        assert_eq!((first.custom_id.as_str(), first.prompt.as_str()), ("1", "a red circle on a beach"), "{name}");
        assert_eq!(
            (first.seed.get(), first.settings.steps, first.settings.strength),
            (7, Some(30), Some(0.8)),
            "{name}"
        );
        assert_eq!(first.subjects.as_deref(), Some(["circle".to_owned()].as_slice()), "{name}");
        assert_eq!(serde_json::Value::Object(first.extra.clone()), json!({"licence": "CC0", "year": 2024}), "{name}");
        assert_eq!(tasks[1].subjects, None, "{name}");
    }
}

#[test]
fn an_encoding_whose_values_grow_is_refused_by_its_name() {
    let (code, message) = Case::new().refusal("m.parquet", of_a_tool("refused/delta-byte-array.parquet"));
    assert_eq!(code, "invalid_parquet");
    assert!(message.contains("\"prompt\"") && message.contains("DELTA_BYTE_ARRAY"), "{message}");
}

#[test]
fn columns_of_the_users_own_are_carried_left_out_or_refused() {
    let case = Case::new();
    let row =
        r#"{"custom_id":"a","reference":"sea.png","prompt":"a gull","licence":"CC0","tags":["x",{"y":1}],"none":null}"#;
    let of = |extra_columns| Rules { extra_columns, ..rules() };
    let carried = case.tasks("m.jsonl", row, of(ExtraColumns::Carry));
    assert_eq!(serde_json::Value::Object(carried[0].extra.clone()), json!({"licence": "CC0", "tags": ["x", {"y": 1}]}));
    assert!(case.tasks("m.jsonl", row, of(ExtraColumns::Ignore))[0].extra.is_empty());
    let report = case.report("m.jsonl", row, of(ExtraColumns::Refuse));
    assert!(report.issues.iter().all(|issue| issue.code == "unknown_key" && issue.message.contains("carry")));
    assert_eq!(report.issue_count, 3);

    let table = "custom_id,reference,prompt,licence,Unnamed: 0,\na,sea.png,a gull,CC0,0,\n";
    let carried = case.tasks("m.csv", table, of(ExtraColumns::Carry));
    assert_eq!(serde_json::Value::Object(carried[0].extra.clone()), json!({"licence": "CC0"}));
    assert!(case.tasks("m.csv", table, of(ExtraColumns::Ignore))[0].extra.is_empty());
    assert_eq!(case.report("m.csv", table, of(ExtraColumns::Refuse)).issues[0].param.as_deref(), Some("licence"));
}

#[test]
fn a_key_that_is_nearly_ours_is_a_mistake_and_another_word_is_not() {
    let case = Case::new();
    let row = |key: &str| format!(r#"{{"custom_id":"a","reference":"sea.png","prompt":"a gull","{key}":"x"}}"#);
    for slip in ["refrence", "Prompt", "custom-id", "negative prompt", "step", "strenght", "guidence"] {
        let (code, message) = case.refusal("m.jsonl", row(slip));
        assert_eq!(code, "unknown_key", "{slip}");
        assert!(message.contains("did you mean") && message.contains("--extra-columns ignore"), "{message}");
    }
    for word in ["scene", "site", "speed", "id", "url", "source", "licence", "width", "split", "caption", "score_of_us"]
    {
        assert_eq!(case.tasks("m.jsonl", row(word), rules())[0].extra[word], "x");
    }
}

#[test]
fn what_is_carried_is_bounded_a_row() {
    let case = Case::new();
    let row = |bytes: usize| {
        let text = "x".repeat(bytes);
        format!(r#"{{"custom_id":"a","reference":"sea.png","prompt":"a gull","alt":"{text}","n":1}}"#)
    };
    assert_eq!(case.tasks("m.jsonl", row(4000), rules()).len(), 1);
    let (code, message) = case.refusal("m.jsonl", row(5000));
    assert_eq!(code, "extra_too_large");
    assert!(message.contains("\"alt\"") && message.contains("4096") && message.contains("ignore"), "{message}");
}

#[test]
fn columns_may_have_other_names() {
    let case = Case::new();
    let names = columns([("prompt", "caption"), ("reference", "image_path"), ("custom_id", "id")]).unwrap();
    let named = Rules { columns: names, ..rules() };
    let table = "id,image_path,caption,prompt\n3,sea.png,a gull,not this\n";
    let row = r#"{"id":3,"image_path":"sea.png","caption":"a gull","prompt":"not this"}"#;
    for (name, text) in [("m.csv", table), ("m.jsonl", row)] {
        let task = case.tasks(name, text, named.clone()).remove(0);
        assert_eq!((task.custom_id.as_str(), task.prompt.as_str()), ("3", "a gull"));
        assert_eq!(task.reference, Some(Reference::File("sea.png".to_owned())));
        assert!(task.extra.is_empty());
    }
    let plain = case.report("m.csv", table, rules());
    assert!(plain.issues[0].message.contains("--columns custom_id=id"), "{:?}", plain.issues);
    // With other names it is another manifest.
    let as_text = Rules { columns: columns([("custom_id", "id")]).unwrap(), ..rules() };
    let digest = |rules| Manifest::open(&case.path("m.csv"), None, rules).unwrap().digest().unwrap();
    assert_ne!(digest(as_text.clone()), digest(named));
    assert_ne!(digest(as_text), digest(rules()));

    let missing =
        case.report("m.csv", "id,caption\n", Rules { columns: columns([("seed", "sead")]).unwrap(), ..rules() });
    assert!(missing.issues.iter().any(|issue| issue.message.contains("seed=sead: there is no column")));
    for (pairs, word) in [
        (vec![("promt", "x")], "not a key"),
        (vec![("prompt", "")], "names no column"),
        (vec![("prompt", "x"), ("reference", "x")], "another key has"),
        (vec![("prompt", "x"), ("prompt", "y")], "twice"),
    ] {
        assert!(columns(pairs).unwrap_err().contains(word));
    }
}

#[test]
fn a_table_that_is_not_separated_by_commas_says_by_what() {
    let case = Case::new();
    for (table, word) in [
        ("custom_id;reference;prompt\na;sea.png;a gull, 0,8\n", "semicolons"),
        ("\u{feff}\"custom_id\"\t\"reference\"\t\"prompt\"\n", "tabs"),
        ("custom_id|prompt\n", "vertical bars"),
        ("id;image;caption\n", "semicolons"),
        ("sep=;\ncustom_id;prompt\n", "sep="),
    ] {
        let (code, message) = case.refusal("m.csv", table);
        assert_eq!(code, "wrong_separator");
        assert!(message.contains(word), "{message}");
    }
}

#[test]
fn a_list_that_a_program_printed_into_a_cell_is_named_and_json_is_read() {
    let case = Case::new();
    let table = |cell: &str| format!("custom_id,reference,prompt,subjects,edit_steps\na,sea.png,a gull,{cell}\n");
    let (code, message) = case.refusal("m.csv", table("\"['gull', 'sea']\","));
    assert_eq!(code, "wrong_type");
    assert!(message.contains("as printed by a program") && message.contains("semicolons"), "{message}");
    let task = case.tasks("m.csv", table("\"[\"\"gull\"\", \"\"sea\"\"]\",\"[5, 18]\""), rules()).remove(0);
    assert_eq!(task.subjects.unwrap(), ["gull", "sea"]);
    assert_eq!(task.settings.edit_steps.unwrap(), [5, 18]);
}

#[test]
fn an_address_is_refused_with_its_cause_or_read_as_it_is_meant() {
    let case = Case::new();
    let row = |reference: &str| json!({"custom_id": "a", "prompt": "a gull", "reference": reference}).to_string();
    for (reference, word) in [
        ("https://host/beach at noon.png", "%20"),
        ("https://host/a\\b.png", "backslash"),
        ("file:///data/a.png", "file://"),
        ("gs://bucket/a.png", "scheme \"gs\""),
        ("sea.png\u{1b}[2J", "U+001B"),
    ] {
        let (code, message) = case.refusal("m.jsonl", row(reference));
        assert_eq!(code, "bad_reference");
        assert!(message.contains(word) && !message.contains('\u{1b}'), "{message}");
    }
    let picture = format!("data:image/png;base64,{}", "iVBORw0KGgo".repeat(40_000));
    let (code, message) = case.refusal("m.jsonl", row(&picture));
    assert_eq!(code, "bad_reference");
    assert!(message.contains("data: URI") && message.len() < 300, "{message}");
    let (_, message) = case.refusal("m.jsonl", row(&"x".repeat(100_000)));
    assert!(message.contains("100000 bytes") && message.len() < 300, "{message}");

    let task = case.tasks("m.jsonl", row("HTTPS://Host/A.png"), rules()).remove(0);
    assert_eq!(task.reference, Some(Reference::Https("https://Host/A.png".to_owned())));
}

#[test]
fn a_path_that_is_nearly_there_is_named() {
    let case = Case::new();
    fs::create_dir(case.path("pictures")).unwrap();
    case.write("pictures/a b.png", "x");
    case.write("pictures/cafe\u{301}.png", "x");
    let row = |reference: &str| json!({"custom_id": "a", "prompt": "a gull", "reference": reference}).to_string();
    for (reference, words) in [
        ("pictures\\a b.png", &["backslash", "\"pictures/a b.png\" is there"][..]),
        ("pictures\\gone.png", &["backslash"]),
        ("C:\\pictures\\a.png", &["backslash"]),
        ("pictures/caf\u{e9}.png", &["another Unicode form", "NFD"]),
        ("pictures/a%20b.png", &["%20"]),
        (" sea.png", &["white space"]),
        ("~/sea.png", &["only shells expand"]),
        ("gone.png", &["does not exist"]),
    ] {
        let (code, message) = case.refusal("m.jsonl", row(reference));
        assert_eq!(code, "missing_file", "{reference}");
        assert!(words.iter().all(|word| message.contains(word)), "{message}");
    }
    let (_, message) = case.refusal("m.jsonl", row("..\\..\\a.png"));
    assert!(message.contains("backslash"), "{message}");
}

#[test]
fn a_link_out_of_the_folder_is_named_and_followed_where_that_is_said() {
    let case = Case::new();
    // As the cache of a hub has it: each file of a snapshot is a link to its content, the manifest too.
    fs::create_dir_all(case.path("blobs")).unwrap();
    fs::create_dir_all(case.path("snapshots/r1/images")).unwrap();
    case.write("blobs/b1", "x");
    case.write("blobs/b2", r#"{"custom_id":"a","reference":"images/place.png","prompt":"a gull"}"#);
    symlink("../../../blobs/b1", case.path("snapshots/r1/images/place.png")).unwrap();
    symlink("../../blobs/b2", case.path("snapshots/r1/rows.jsonl")).unwrap();
    let manifest = case.path("snapshots/r1/rows.jsonl");
    let report = Manifest::open(&manifest, None, rules()).unwrap().validate(&|_| Ok(()), 10).unwrap();
    let issue = &report.issues[0];
    assert_eq!(issue.code, "outside_folder");
    assert!(issue.message.contains("is a link") && issue.message.contains("--follow-links"), "{issue}");
    assert_eq!(tasks(&manifest, Rules { follow_links: true, ..rules() }).len(), 1);
    // What leaves the folder by its own path is no link.
    fs::write(case.path("snapshots/r1/out.jsonl"), r#"{"custom_id":"a","reference":"../../blobs/b1","prompt":"x"}"#)
        .unwrap();
    let outside = Manifest::open(&case.path("snapshots/r1/out.jsonl"), None, Rules { follow_links: true, ..rules() });
    assert_eq!(outside.unwrap().validate(&|_| Ok(()), 10).unwrap().issues[0].code, "outside_folder");
}

#[test]
fn a_pipe_is_read_once_and_taken_for_what_it_is() {
    let case = Case::new();
    let pipe = case.path("pipe");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.unwrap().success());
    let row = r#"{"custom_id":"a","prompt":"a gull","method":"txt2img"}"#;
    let writing = {
        let pipe = pipe.clone();
        std::thread::spawn(move || fs::write(pipe, row).unwrap())
    };
    assert_eq!(tasks(&pipe, rules()).len(), 1);
    writing.join().unwrap();
    let folder = Manifest::open(case.0.path(), Some(diorama_manifest::Format::Csv), rules()).unwrap_err();
    assert!(folder.to_string().contains("it is a folder"), "{folder}");
}

#[test]
fn half_an_emoji_is_one_bad_row() {
    let case = Case::new();
    let row = |id: &str, prompt: &str| format!(r#"{{"custom_id":"{id}","reference":"sea.png","prompt":"{prompt}"}}"#);
    let text = [row("a", "a gull"), row("b", r"a gull \ud83d"), row("c", r"a gull \ud83d\ude00")].join("\n");
    let report = case.report("m.jsonl", text, rules());
    assert_eq!((report.tasks, report.issues[0].line, report.issue_count), (2, 2, 1));
}

#[test]
fn nothing_that_is_quoted_is_long_or_steers_a_terminal() {
    let case = Case::new();
    let wild = "\u{1b}]0;x\u{7}\u{9b}2J\u{202e}".repeat(3000);
    let row = json!({
        "custom_id": wild, "reference": wild, "prompt": [wild], "subjects": wild, "seed": wild, "steps": wild,
        "layers": wild, "size": wild, (wild.as_str()): 1,
    });
    let report = case.report("m.jsonl", row.to_string(), rules());
    assert!(report.issue_count >= 8, "{:?}", report.issues);
    for issue in &report.issues {
        let text = serde_json::to_value(issue).unwrap();
        for text in [&text["message"], &text["param"], &text["custom_id"]] {
            let text = text.as_str().unwrap_or_default();
            assert!(!text.chars().any(|c| c.is_control() || c == '\u{202e}'), "{text:?}");
            assert!(text.len() < 1500, "{} bytes: {text}", text.len());
        }
    }
}

#[test]
fn a_quote_that_swallows_rows_or_is_escaped_otherwise_is_refused_and_the_rows_beside_it_are_read() {
    let case = Case::new();
    let head = "\u{feff}\"custom_id\",\"reference\",\"prompt\"\r\n";
    let issues = |rows: &str| -> Vec<String> {
        let report = case.report("rows.csv", format!("{head}{rows}"), rules());
        assert_eq!(report.tasks, 1, "{:?}", report.issues);
        report.issues.iter().map(|issue| format!("{} {}", issue.line, issue.code)).collect()
    };
    let good = "\"a\",sea.png,\"a 5\"\" duck, in\r\ntwo lines\" \r\n";
    assert_eq!(issues(good), [] as [String; 0]);
    assert_eq!(issues(&format!("{good}b,sea.png,\"a duck\r\nc,sea.png,a goose\r\n")), ["4 wrong_quotes"]);
    assert_eq!(issues(&format!("b,sea.png,\"a \\\"big\\\" duck\"\r\n{good}")), ["2 wrong_quotes"]);
    let (code, message) = case.refusal("rows.csv", "custom_id,\"prompt\na,a duck\n");
    assert!(code == "wrong_quotes" && message.contains("never closed"), "{code}: {message}");
}

#[test]
fn columns_of_ones_own_are_no_deeper_than_a_record_can_be_read_again() {
    let case = Case::new();
    let rows = |levels: usize| {
        let value = (0..levels)
            .fold(json!(1), |value, level| if level % 2 == 0 { json!([value]) } else { json!({ "a": value }) });
        format!("{}\n", json!({ "custom_id": "a", "reference": "sea.png", "prompt": "p", "own": value }))
    };
    let tasks = case.tasks("rows.jsonl", rows(32), rules());
    let text = serde_json::to_string(&tasks[0]).unwrap();
    assert_eq!(serde_json::from_str::<Task>(&text).unwrap(), tasks[0]);
    for levels in [33, 100, 126] {
        let (code, message) = case.refusal("rows.jsonl", rows(levels));
        assert!(code == "extra_too_deep" && message.contains("own"), "{code}: {message}");
    }
}

#[test]
fn a_reference_that_nearly_is_there_is_named_and_one_that_is_no_address_refused() {
    let case = Case::new();
    fs::create_dir(case.path("Sub")).unwrap();
    fs::write(case.path("Sub/Duck.PNG"), "x").unwrap();
    let refusal = |reference: &str| {
        let row = json!({ "custom_id": "a", "reference": reference, "prompt": "p" });
        case.refusal("rows.jsonl", row.to_string())
    };
    for (reference, code, hint) in [
        ("Sea.png", "missing_file", "\"sea.png\" is there: small and capital letters"),
        ("Sub/duck.png", "missing_file", "\"Sub/Duck.PNG\" is there"),
        ("https:/example.org/a.png", "missing_file", "left out a slash"),
        ("https://example.org:99999/a.png", "bad_reference", "is no address"),
        ("https://[::1/a.png", "bad_reference", "is no address"),
    ] {
        let (found, message) = refusal(reference);
        assert!(found == code && message.contains(hint), "{reference}: {found}: {message}");
    }
}

#[test]
fn a_file_of_another_kind_is_called_by_its_name_whatever_it_is_called() {
    let case = Case::new();
    let mut tar = vec![b'a'; 512];
    tar[257..262].copy_from_slice(b"ustar");
    for (bytes, what) in [
        (b"\x1f\x8b\x08\0".to_vec(), "gzip"),
        (b"PK\x03\x04\0".to_vec(), "workbook"),
        (b"ARROW1\0\0".to_vec(), "read_feather"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1".to_vec(), "CSV UTF-8"),
        (tar, "tar archive"),
    ] {
        let path = case.write("rows.data", &bytes);
        let said = Manifest::open(&path, None, rules()).unwrap_err().to_string();
        assert!(said.contains(what), "{said}");
        for name in ["rows.csv", "rows.jsonl", "rows.parquet"] {
            let (_, message) = case.refusal(name, &bytes);
            assert!(message.contains(what), "{name}: {message}");
        }
    }
}
