//! The alerts as files: Prometheus takes them, each has its unit tests, and each says where its runbook is.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use diorama_tests::services::prometheus::promtool;

use super::{files, rule_files};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// What stands behind `key` on the lines of a text that begin with it.
fn values<'a>(text: &'a str, key: &str) -> Vec<&'a str> {
    text.lines().filter_map(|line| line.trim_start_matches([' ', '-']).strip_prefix(key)).map(str::trim).collect()
}

/// The alerts of all files.
fn alerts() -> BTreeSet<String> {
    let texts = rule_files().into_iter().map(|file| fs::read_to_string(file).unwrap());
    texts.flat_map(|text| values(&text, "alert:").into_iter().map(str::to_owned).collect::<Vec<_>>()).collect()
}

#[test]
fn prometheus_takes_every_rule_and_every_unit_test_passes() {
    for file in rule_files() {
        let (good, said) = promtool(&[Path::new("check"), Path::new("rules"), &file]);
        assert!(good, "{said}");
    }
    for file in files(&Path::new(ROOT).join("tests/alerts"), "yaml") {
        let (good, said) = promtool(&[Path::new("test"), Path::new("rules"), &file]);
        assert!(good, "{said}");
    }
}

#[test]
fn every_alert_has_a_unit_test_in_which_it_fires_and_one_in_which_it_does_not() {
    let (mut fires, mut does_not) = (BTreeSet::new(), BTreeSet::new());
    for file in files(&Path::new(ROOT).join("tests/alerts"), "yaml") {
        let text = fs::read_to_string(file).unwrap();
        for question in text.split("- expr:").skip(1) {
            let name = question.split('"').nth(1).unwrap().to_owned();
            match values(question, "exp_samples:").first() {
                Some(&"[]") => does_not.insert(name),
                _ => fires.insert(name),
            };
        }
    }
    assert_eq!((&fires, &does_not), (&alerts(), &alerts()));
}

#[test]
fn every_alert_says_what_is_wrong_what_to_do_and_where_its_runbook_is() {
    let operations = fs::read_to_string(Path::new(ROOT).join("docs/operations.md")).unwrap();
    let runbooks: BTreeSet<_> = values(&operations, "### ").into_iter().map(str::to_lowercase).collect();
    for file in rule_files() {
        let text = fs::read_to_string(&file).unwrap();
        for rule in text.split("- alert:").skip(1) {
            let name = rule.lines().next().unwrap().trim();
            for key in ["summary:", "description:", "severity:"] {
                assert_eq!(values(rule, key).len(), 1, "{name} has no {key}");
            }
            let runbook = format!("docs/operations.md#{}", name.to_lowercase());
            assert_eq!(values(rule, "runbook_url:"), [runbook.as_str()], "{name}");
            assert!(runbooks.contains(&name.to_lowercase()), "docs/operations.md has no runbook for {name}");
        }
    }
}
