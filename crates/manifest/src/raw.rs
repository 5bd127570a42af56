//! What every reader of a format yields: rows as JSON objects, or what is wrong with them.

use std::collections::HashSet;
use std::io;

use diorama_core::manifest::{ManifestIssue, ROW_KEYS};
use diorama_core::settings::Settings;
use serde_json::{Map, Value};

/// The longest line (JSONL) or record (CSV): 1 MiB.
pub const MAX_LINE_BYTES: usize = 1 << 20;

/// What a reader yields; an [`io::Error`] ends it.
pub(crate) type Rows = Box<dyn Iterator<Item = io::Result<Raw>> + Send>;

/// One row as it was read.
#[derive(Debug)]
pub(crate) enum Raw {
    /// A row: its line and its cells.
    Row(u64, Map<String, Value>),
    /// A row that cannot be read; the rows after it can.
    Bad(u64, Vec<ManifestIssue>),
    /// Something that spoils the whole file, such as an unknown column. Rows may follow, so that all is reported.
    File(Vec<ManifestIssue>),
}

pub(crate) fn issue(line: u64, code: &str, param: Option<&str>, message: impl Into<String>) -> ManifestIssue {
    ManifestIssue {
        line,
        code: code.to_owned(),
        message: message.into(),
        param: param.map(str::to_owned),
        custom_id: None,
    }
}

/// Every key that a row may have.
pub(crate) fn known_keys() -> impl Iterator<Item = &'static str> {
    ROW_KEYS.into_iter().chain(Settings::KEYS)
}

/// What is wrong with a key that no row may have, with the nearest one that it may.
pub(crate) fn unknown_key(line: u64, key: &str) -> ManifestIssue {
    let shown: String = key.chars().take(80).collect();
    let wanted = shown.to_ascii_lowercase().replace(['-', ' '], "_");
    let nearest = known_keys()
        .map(|known| (strsim::damerau_levenshtein(&wanted, known), known))
        .min()
        .filter(|(distance, known)| *distance <= 1 + known.len() / 4);
    let message = match nearest {
        Some((_, known)) => format!("{shown:?} is not a key of a row; did you mean {known:?}?"),
        None => {
            format!("{shown:?} is not a key of a row; the keys are {}", known_keys().collect::<Vec<_>>().join(", "))
        }
    };
    issue(line, "unknown_key", Some(&shown), message)
}

/// The unknown and missing columns of a table: problems of the whole file.
pub(crate) fn column_issues<'a>(line: u64, columns: impl Iterator<Item = &'a str> + Clone) -> Vec<ManifestIssue> {
    let mut issues: Vec<_> = columns
        .clone()
        .filter(|column| !known_keys().any(|known| known == *column))
        .map(|column| unknown_key(line, column))
        .collect();
    for required in ["custom_id", "prompt"] {
        if !columns.clone().any(|column| column == required) {
            issues.push(issue(line, "missing_key", Some(required), format!("there is no column {required:?}")));
        }
    }
    let mut seen = HashSet::new();
    for column in columns {
        if !seen.insert(column) {
            issues.push(issue(line, "duplicate_key", Some(column), format!("the column {column:?} occurs twice")));
        }
    }
    issues
}
