//! The files in config/ say of every key of their program its name, its default and its range.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::path::PathBuf;

use diorama_core::settings::{Key, Kind, Settings};
use diorama_runtime::config::{Sources, key, keys, load};
use diorama_runtime::options::{
    CapOptions, ClientOptions, CoordinatorOptions, EngineOptions, ReferenceOptions, RunOptions, ServiceOptions,
    WorkerOptions,
};

/// The files, each with the keys of the programs that read it.
fn examples() -> [(&'static str, Vec<&'static Key>); 3] {
    let also = |names: &[&str]| names.iter().map(|name| key(name).unwrap()).collect::<Vec<_>>();
    let of = |tables: &[&'static [Key]]| tables.iter().copied().flatten().collect::<Vec<_>>();
    [
        (
            "diorama.toml",
            of(&[
                EngineOptions::KEYS,
                RunOptions::KEYS,
                ReferenceOptions::KEYS,
                ClientOptions::KEYS,
                Settings::DECLARED,
            ]),
        ),
        (
            "coordinator.toml",
            [
                of(&[ServiceOptions::KEYS, CoordinatorOptions::KEYS, CapOptions::KEYS]),
                also(&["metrics_listen", "scratch", "allow_private_references"]),
            ]
            .concat(),
        ),
        ("worker.toml", of(&[WorkerOptions::KEYS, EngineOptions::KEYS, ReferenceOptions::KEYS, CapOptions::KEYS])),
    ]
}

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../config").join(name)
}

/// What a file says of a key.
struct Shown {
    /// Whether the key is set there, rather than commented out.
    is_set: bool,
    value: String,
    /// Behind the value and in the lines above.
    comment: String,
}

fn shown(text: &str, key: &Key) -> Option<Shown> {
    let lines: Vec<&str> = text.lines().collect();
    let set = format!("{} = ", key.name);
    let at = lines.iter().position(|line| line.trim_start_matches("# ").starts_with(&set))?;
    let (_, value) = lines[at].split_once(" = ")?;
    let (value, behind) = value.split_once("  #").unwrap_or((value, ""));
    let above = lines[..at].iter().rev().take_while(|line| line.starts_with("# ") && !line.contains(" = "));
    let mut comment: Vec<&str> = above.map(|line| line.trim_start_matches("# ")).collect();
    comment.reverse();
    comment.push(behind.trim());
    Some(Shown { is_set: lines[at].starts_with(&set), value: value.trim().to_owned(), comment: comment.join(" ") })
}

/// What a comment has to contain.
fn range(key: &Key) -> Vec<String> {
    match key.kind {
        Kind::Whole(range) | Kind::Real(range) => vec![range.to_string()],
        Kind::OneOf(words) => words.iter().map(|word| (*word).to_owned()).collect(),
        Kind::Switch => vec!["true".to_owned()],
        _ => Vec::new(),
    }
}

#[test]
fn the_examples_show_every_key_of_their_program_with_its_default_and_its_range() {
    let mut wrong = Vec::new();
    for (file, keys) in examples() {
        let text = std::fs::read_to_string(path(file)).unwrap();
        for key in keys {
            let Some(shown) = shown(&text, key) else {
                wrong.push(format!("{file} does not show {}", key.name));
                continue;
            };
            let read: toml::Table = toml::from_str(&format!("value = {}", shown.value)).unwrap();
            let value = serde_json::to_value(&read["value"]).unwrap();
            match key.default.map(|default| default()) {
                Some(default) if value != default || !shown.is_set => {
                    wrong.push(format!("{file}: {} = {value}, and the default is {default}", key.name));
                }
                Some(_) => {}
                None if shown.is_set => wrong.push(format!("{file}: {} is set, and has no default", key.name)),
                None => assert_eq!(key.check(&value), Ok(()), "the example of {} in {file}", key.name),
            }
            for part in range(key).iter().filter(|part| !shown.comment.contains(*part)) {
                wrong.push(format!("{file}: the comment of {} ({:?}) does not say {part:?}", key.name, shown.comment));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_key_is_in_some_example_and_none_changes_a_value() {
    let shown: Vec<&str> = examples().iter().flat_map(|(_, keys)| keys).map(|key| key.name).collect();
    for key in keys() {
        assert!(shown.contains(&key.name), "{} is in no example", key.name);
    }
    let plain = load(&Sources::default()).unwrap();
    for (file, _) in examples() {
        let read = load(&Sources { file: Some(path(file)), ..Sources::default() }).unwrap();
        for (default, read) in plain.entries.iter().zip(&read.entries) {
            assert_eq!(default.value, read.value, "{} in {file}", default.key);
        }
    }
}
