//! What validation promises, on real files in each format.

#![allow(clippy::unwrap_used, reason = "a test panics where a guarantee is broken")]

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;

use diorama_core::id::{Seed, Sha256Hex, TaskIndex};
use diorama_core::manifest::{ExtraColumns, ManifestIssue};
use diorama_core::outcome::{ErrorCode, TaskError};
use diorama_core::settings::{Method, Settings};
use diorama_core::task::Task;
use diorama_manifest::{MAX_LINE_BYTES, MAX_PROMPT_BYTES, Manifest, ManifestError, ManifestReport, References, Rules};
use parquet::column::writer::ColumnWriter;
use parquet::data_type::ByteArray;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use tempfile::TempDir;

const GOOD: &str = r#"{"custom_id":"a","reference":"sea.png","prompt":"a seagull"}"#;

struct Case {
    folder: TempDir,
}

impl Case {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("set")).unwrap();
        fs::write(folder.path().join("set/sea.png"), "x").unwrap();
        fs::write(folder.path().join("secret.png"), "x").unwrap();
        Self { folder }
    }

    fn rules() -> Rules {
        Rules {
            settings: Settings { steps: Some(20), ..Settings::default() },
            seed: Seed::new(7).unwrap(),
            compare: Vec::new(),
            references: References::FilesAndUrls,
            plain_http: false,
            follow_links: false,
            extra_columns: ExtraColumns::Carry,
            columns: BTreeMap::new(),
        }
    }

    fn manifest(&self, name: &str, bytes: impl AsRef<[u8]>) -> Manifest {
        let path = self.folder.path().join("set").join(name);
        fs::write(&path, bytes).unwrap();
        Manifest::open(&path, None, Self::rules()).unwrap()
    }

    fn report(&self, name: &str, bytes: impl AsRef<[u8]>) -> ManifestReport {
        self.manifest(name, bytes).validate(&|_| Ok(()), 1000).unwrap()
    }

    /// `line code param` of each issue.
    fn issues(&self, name: &str, bytes: impl AsRef<[u8]>) -> Vec<String> {
        let report = self.report(name, bytes);
        assert_eq!(report.issue_count, report.issues.len() as u64);
        let short =
            |issue: ManifestIssue| format!("{} {} {}", issue.line, issue.code, issue.param.as_deref().unwrap_or("-"));
        report.issues.into_iter().map(short).collect()
    }

    fn tasks(&self, manifest: &Manifest) -> Vec<Task> {
        let report = manifest.validate(&|_| Ok(()), 1000).unwrap();
        assert_eq!(report.issues, []);
        manifest.tasks(&report).unwrap().collect::<Result<_, _>>().unwrap()
    }
}

fn row(extra: &str) -> String {
    GOOD.replace('}', &format!(",{extra}}}"))
}

#[test]
fn every_problem_is_reported_with_its_line_code_and_key_and_none_hides_another() {
    let case = Case::new();
    let long = "x".repeat(MAX_PROMPT_BYTES + 1);
    let lines = [
        GOOD.to_owned(),
        r#"{"custom_id":"b","refrence":"sea.png","prompt":"","steps":0,"seed":-1}"#.to_owned(),
        GOOD.replace("\"a\"", "\"../a\""),
        r#"{"custom_id":5.5,"reference":true,"prompt":["x"],"subjects":"seagull","strength":"much"}"#.to_owned(),
        GOOD.to_owned(),
        format!(r#"{{"custom_id":"c","reference":"sea.png","prompt":"{long}"}}"#),
        r#"{"custom_id":"d","reference":"sea.png","prompt":"a","subjects":[],"seed":9007199254740992}"#.to_owned(),
        "nonsense".to_owned(),
    ];
    let expected = [
        "2 unknown_key refrence",
        "2 empty_prompt prompt",
        "2 out_of_range steps",
        "2 wrong_type seed",
        "2 missing_key reference",
        "3 unsafe_id custom_id",
        "4 wrong_type custom_id",
        "4 wrong_type reference",
        "4 wrong_type prompt",
        "4 wrong_type subjects",
        "4 wrong_type strength",
        "5 duplicate_id custom_id",
        "6 prompt_too_long prompt",
        "7 wrong_type subjects",
        "7 out_of_range seed",
        "8 wrong_type -",
    ];
    assert_eq!(case.issues("m.jsonl", lines.join("\n")), expected);
    let report = case.report("m.jsonl", lines.join("\r\n"));
    assert_eq!((report.tasks, report.invalid_rows), (1, 7));
    assert!(report.issues[0].message.contains("did you mean \"reference\"?"), "{}", report.issues[0]);
    assert_eq!(report.issues[0].custom_id.as_deref(), Some("b"));
    assert!(report.issues[11].message.contains("line 1"), "{}", report.issues[11]);
}

#[test]
fn issues_are_counted_beyond_those_that_are_kept() {
    let case = Case::new();
    let manifest = case.manifest("m.jsonl", "x\n".repeat(50));
    let report = manifest.validate(&|_| Ok(()), 3).unwrap();
    assert_eq!((report.issues.len(), report.issue_count, report.invalid_rows), (3, 50, 50));
}

#[test]
fn no_reference_leaves_the_manifests_folder() {
    let case = Case::new();
    let set = case.folder.path().join("set");
    std::os::unix::fs::symlink(case.folder.path().join("secret.png"), set.join("link.png")).unwrap();
    std::os::unix::fs::symlink("sea.png", set.join("inner.png")).unwrap();
    fs::create_dir(set.join("dir")).unwrap();
    let inside = set.join("sea.png").canonicalize().unwrap();
    let outside = case.folder.path().join("secret.png");
    let code = |reference: &str| {
        let line = serde_json::json!({"custom_id": "a", "reference": reference, "prompt": "x"}).to_string();
        case.issues("m.jsonl", line).pop().unwrap_or_default()
    };
    for good in ["sea.png", "./sea.png", "dir/../sea.png", "inner.png", inside.to_str().unwrap()] {
        assert_eq!(code(good), "", "{good}");
    }
    for (bad, want) in [
        ("../secret.png", "outside_folder"),
        ("../missing.png", "outside_folder"),
        ("link.png", "outside_folder"),
        (outside.to_str().unwrap(), "outside_folder"),
        ("/etc/passwd", "outside_folder"),
        ("/nowhere/at/all", "outside_folder"),
        ("missing.png", "missing_file"),
        ("dir", "not_a_file"),
        ("", "bad_reference"),
        ("ftp://host/x.png", "bad_reference"),
        ("https://user:word@host/x.png", "bad_reference"),
        ("https:///x.png", "bad_reference"),
        ("s3://bucket", "bad_reference"),
        ("s3://bucket/key.png", "needs_fleet"),
        ("http://host/x.png", "bad_reference"),
    ] {
        assert_eq!(code(bad), format!("1 {want} reference"), "{bad}");
        // A region is fetched as a reference is.
        let line = serde_json::json!({"custom_id": "a", "reference": "sea.png", "region": bad, "prompt": "x"});
        assert_eq!(case.issues("m.jsonl", line.to_string()), [format!("1 {want} region")], "{bad}");
    }
    let alone = r#"{"custom_id":"a","method":"txt2img","region":"sea.png","prompt":"x"}"#;
    assert_eq!(case.issues("m.jsonl", alone), ["1 missing_key reference"]);
    assert_eq!(code("https://host/x.png"), "");
    let rules = Rules { plain_http: true, ..Case::rules() };
    let path = case.folder.path().join("set/m.jsonl");
    fs::write(&path, r#"{"custom_id":"a","prompt":"x","reference":"http://host/x.png"}"#).unwrap();
    let report = Manifest::open(&path, None, rules).unwrap().validate(&|_| Ok(()), 10).unwrap();
    assert_eq!(report.issues, []);
}

#[test]
fn only_methods_that_use_no_reference_do_without() {
    let case = Case::new();
    let line = r#"{"custom_id":"a","prompt":"x","method":"txt2img"}"#;
    assert_eq!(case.issues("m.jsonl", line), [] as [&str; 0]);
    let path = case.folder.path().join("set/m.jsonl");
    let rules = Rules { compare: vec![Method::Img2img], ..Case::rules() };
    let report = Manifest::open(&path, None, rules).unwrap().validate(&|_| Ok(()), 10).unwrap();
    assert_eq!(report.issues[0].code, "missing_key");
}

#[test]
fn an_empty_manifest_is_an_issue_and_a_missing_one_an_error() {
    let case = Case::new();
    assert_eq!(case.issues("m.jsonl", ""), ["0 empty_manifest -"]);
    assert_eq!(case.issues("m.jsonl", "\n\n"), ["0 empty_manifest -"]);
    assert_eq!(case.issues("m.csv", "custom_id,prompt\n"), ["0 empty_manifest -"]);
    assert_eq!(case.issues("e.csv", ""), ["0 empty_manifest -"]);
    let open = |name: &str| Manifest::open(&case.folder.path().join(name), None, Case::rules()).unwrap_err();
    assert!(matches!(open("none.jsonl"), ManifestError::Read { .. }));
    assert!(matches!(open("none.txt"), ManifestError::UnknownFormat(_)));
    assert!(matches!(open("set.jsonl/"), ManifestError::Read { .. }));
}

#[test]
fn what_the_model_refuses_is_an_issue_of_its_row() {
    let case = Case::new();
    let manifest = case.manifest("m.jsonl", format!("{GOOD}\n{}", GOOD.replace("\"a\"", "\"b\"")));
    let refuse_b = |task: &Task| match task.custom_id.as_str() {
        "b" => Err(TaskError::permanent(ErrorCode::NoSubject, "names no subject")),
        _ => Ok(()),
    };
    let report = manifest.validate(&refuse_b, 10).unwrap();
    assert_eq!((report.issues[0].line, report.issues[0].code.as_str()), (2, "no_subject"));
    let tasks: Vec<Task> = manifest.tasks(&report).unwrap().collect::<Result<_, _>>().unwrap();
    assert_eq!(tasks.len(), 1);
}

#[test]
fn the_good_rows_become_tasks_in_order_with_seeds_of_their_own() {
    let case = Case::new();
    let lines = [
        GOOD.to_owned(),
        "broken".to_owned(),
        row(r#""seed":5,"guidance":3,"subjects":["seagull"],"negative_prompt":null"#).replace("\"a\"", "\"b\""),
    ];
    let manifest = case.manifest("m.jsonl", lines.join("\n"));
    let report = manifest.validate(&|_| Ok(()), 10).unwrap();
    let tasks: Vec<Task> = manifest.tasks(&report).unwrap().collect::<Result<_, _>>().unwrap();
    assert_eq!(tasks.len(), 2);
    assert_eq!((tasks[0].index, tasks[1].index), (TaskIndex(0), TaskIndex(1)));
    assert_eq!(tasks[0].seed, Seed::derive(Seed::new(7).unwrap(), &tasks[0].custom_id));
    assert_eq!(tasks[0].settings.steps, Some(20));
    assert_eq!((tasks[1].seed.get(), tasks[1].settings.guidance, tasks[1].settings.steps), (5, Some(3.0), Some(20)));
    assert_eq!(tasks[1].subjects.as_deref(), Some(["seagull".to_owned()].as_slice()));
    assert_eq!(report.sha256, Sha256Hex::of(lines.join("\n").as_bytes()));
}

#[test]
fn a_manifest_that_changes_between_validation_and_use_is_refused() {
    let case = Case::new();
    let manifest = case.manifest("m.jsonl", GOOD);
    let report = manifest.validate(&|_| Ok(()), 10).unwrap();
    case.manifest("m.jsonl", GOOD.replace("seagull", "gull"));
    let items: Vec<_> = manifest.tasks(&report).unwrap().collect();
    assert!(matches!(items.last(), Some(Err(ManifestError::Changed(_)))), "{items:?}");
}

#[test]
fn csv_and_jsonl_mean_the_same() {
    let case = Case::new();
    let csv = "\u{feff}custom_id,reference,prompt,subjects,seed,steps,strength,edit_steps,layers\r\n\
               a,sea.png,\"a seagull, standing\",seagull;sea,5,25,0.6,5;18,last\r\n\
               b,sea.png,a gull,,,,,,\r\n";
    let jsonl = r#"{"custom_id":"a","reference":"sea.png","prompt":"a seagull, standing","subjects":["seagull","sea"],"seed":5,"steps":25,"strength":0.6,"edit_steps":[5,18],"layers":"last"}
{"custom_id":"b","reference":"sea.png","prompt":"a gull"}"#;
    assert_eq!(case.tasks(&case.manifest("m.csv", csv)), case.tasks(&case.manifest("m.jsonl", jsonl)));
}

#[test]
fn csv_problems_are_found_by_column_and_row() {
    let case = Case::new();
    let table = "custom_id,reference,prompt,stepss,strength\na,sea.png,x,1,NaN\nb,sea.png,x\nc,sea.png,x,1,lots\n";
    let expected = ["1 unknown_key stepss", "2 wrong_type strength", "3 wrong_column_count -", "4 wrong_type strength"];
    assert_eq!(case.issues("m.csv", table), expected);
    assert_eq!(case.report("m.csv", table).tasks, 0);
    // A column that nobody knows spoils the file even where its rows are good: `--on-invalid skip` must not hide it.
    assert_eq!(case.report("m.csv", "custom_id,reference,prompt,stepss\na,sea.png,x,1\n").tasks, 0);
    assert_eq!(case.issues("m.csv", "id,reference,prompt\na,sea.png,x\n"), ["1 missing_key custom_id"]);

    let mut bytes = b"custom_id,reference,prompt\na,sea.png,x\nb,sea.png,\xe9t\xe9\nc,sea.png,x\n".to_vec();
    let report = case.report("m.csv", &bytes);
    assert_eq!((report.issues[0].line, report.issues[0].code.as_str(), report.tasks), (3, "not_utf8", 2));
    assert!(report.issues[0].message.contains("offset 49 "), "{}", report.issues[0]);

    bytes.truncate(39);
    bytes.extend(b"b,sea.png,\"");
    bytes.extend(std::iter::repeat_n(b'y', 3 * MAX_LINE_BYTES));
    assert_eq!(case.issues("m.csv", &bytes), ["3 line_too_long -"]);
}

/// A Parquet file with the columns of [`GOOD`], a seed and a strength.
fn parquet_file(rows: &[(&str, &str, &str, i64, f64)]) -> Vec<u8> {
    let schema = "message m { required binary custom_id (UTF8); required binary reference (UTF8);
                  required binary prompt (UTF8); required int64 seed; required double strength; }";
    let mut bytes = Vec::new();
    let properties = Arc::new(WriterProperties::builder().build());
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let mut file = SerializedFileWriter::new(&mut bytes, schema, properties).unwrap();
    let mut group = file.next_row_group().unwrap();
    let mut column = 0;
    while let Some(mut writer) = group.next_column().unwrap() {
        match writer.untyped() {
            ColumnWriter::ByteArrayColumnWriter(typed) => {
                let text = |row: &(&str, &str, &str, i64, f64)| ByteArray::from([row.0, row.1, row.2][column]);
                typed.write_batch(&rows.iter().map(text).collect::<Vec<_>>(), None, None).unwrap();
            }
            ColumnWriter::Int64ColumnWriter(typed) => {
                typed.write_batch(&rows.iter().map(|row| row.3).collect::<Vec<_>>(), None, None).unwrap();
            }
            ColumnWriter::DoubleColumnWriter(typed) => {
                typed.write_batch(&rows.iter().map(|row| row.4).collect::<Vec<_>>(), None, None).unwrap();
            }
            _ => unreachable!("the schema has no other type"),
        }
        column += 1;
        writer.close().unwrap();
    }
    group.close().unwrap();
    file.close().unwrap();
    bytes
}

#[test]
fn parquet_rows_are_read_and_checked_like_any_other() {
    let case = Case::new();
    let good = parquet_file(&[("a", "sea.png", "a seagull", 5, 0.6)]);
    let tasks = case.tasks(&case.manifest("m.parquet", good));
    assert_eq!((tasks[0].custom_id.as_str(), tasks[0].seed.get()), ("a", 5));
    assert_eq!(tasks[0].settings.strength, Some(0.6));

    let bad = parquet_file(&[
        ("a", "sea.png", "x", -1, f64::NAN),
        ("b", "gone.png", "x", 1, 0.5),
        ("b", "sea.png", "x", 1, 0.5),
    ]);
    let expected =
        ["1 wrong_type strength", "1 wrong_type seed", "2 missing_file reference", "3 duplicate_id custom_id"];
    assert_eq!(case.issues("m.parquet", bad), expected);
}

#[test]
fn a_damaged_parquet_file_is_an_issue_and_never_a_panic() {
    let case = Case::new();
    let rows: Vec<_> = (0..20).map(|seed| ("a", "sea.png", "a seagull", seed, 0.6)).collect();
    let good = parquet_file(&rows);
    for length in (0..good.len()).step_by(97) {
        let report = case.report("m.parquet", &good[..length]);
        assert_eq!((report.issues[0].code.as_str(), report.tasks), ("invalid_parquet", 0), "cut at {length}");
    }
    for at in 0..good.len() {
        let mut bytes = good.clone();
        bytes[at] ^= 0xff;
        case.report("m.parquet", bytes);
    }
}
