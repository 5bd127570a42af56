//! Whatever a manifest holds: it is read or refused, within bounds of time and memory.

#![allow(clippy::unwrap_used, reason = "a test")]

use diorama_core::id::Seed;
use diorama_core::manifest::ExtraColumns;
use diorama_core::settings::Settings;
use diorama_fuzz::fuzz;
use diorama_manifest::{Format, Manifest, References, Rules};

fn reads(format: Format, name: &str) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("manifest");
    let rules = Rules {
        settings: Settings::default(),
        seed: Seed::new(1).unwrap(),
        compare: Vec::new(),
        references: References::Remote,
        plain_http: false,
        follow_links: false,
        extra_columns: ExtraColumns::Carry,
        columns: Default::default(),
    };
    fuzz(name, |bytes| {
        std::fs::write(&path, bytes).unwrap();
        let manifest = Manifest::open(&path, Some(format), rules.clone()).unwrap();
        let Ok(report) = manifest.validate(&|_| Ok(()), 100) else { return };
        let tasks = manifest.tasks(&report).map(|tasks| tasks.map_while(Result::ok).count() as u64);
        assert!(report.issue_count > 0 || report.tasks > 0, "nothing was read and nothing refused");
        if let Ok(tasks) = tasks {
            assert_eq!(tasks, report.tasks, "what was counted is what comes");
        }
    });
}

#[test]
fn whatever_json_lines_hold_they_are_read_or_refused() {
    reads(Format::Jsonl, "jsonl");
}

#[test]
fn whatever_a_csv_file_holds_it_is_read_or_refused() {
    reads(Format::Csv, "csv");
}

#[test]
fn whatever_a_parquet_file_holds_it_is_read_or_refused() {
    reads(Format::Parquet, "parquet");
}
