//! The formats of a manifest, and what every reader yields: rows as JSON objects, or what is wrong with them.
//!
//! A reader holds one row at a time, whatever the size of the file.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::path::Path;
use std::str::FromStr;

use diorama_core::manifest::{ManifestIssue, ROW_KEYS};
use diorama_core::settings::Settings;
use serde_json::{Map, Value};

use super::{csv, jsonl, parquet};

/// The longest line (JSONL) or record (CSV): 1 MiB.
pub const MAX_LINE_BYTES: usize = 1 << 20;

/// How a manifest is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// One JSON object a line.
    Jsonl,
    /// Comma-separated, with a header.
    Csv,
    /// Apache Parquet.
    Parquet,
}

impl Format {
    /// Every format as it is written on the command line.
    pub const CHOICES: [&'static str; 3] = ["jsonl", "csv", "parquet"];

    /// The format that the file's extension names.
    pub fn of(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
            "jsonl" | "ndjson" => Some(Self::Jsonl),
            "csv" => Some(Self::Csv),
            "parquet" => Some(Self::Parquet),
            _ => None,
        }
    }

    /// The rows of `file`, which `path` names.
    pub(super) fn rows(self, mut file: File, path: &Path) -> io::Result<Rows> {
        if let Some(packing) = packing(&mut file)? {
            let message = format!("the manifest is compressed ({packing}): decompress it first");
            return Ok(Box::new(std::iter::once(Ok(Raw::File(vec![issue(0, "compressed", None, message)])))));
        }
        Ok(match self {
            Self::Jsonl => Box::new(jsonl::rows(file)),
            Self::Csv => Box::new(csv::rows(file, path.to_owned())),
            Self::Parquet => parquet::rows(file),
        })
    }
}

impl FromStr for Format {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "jsonl" => Ok(Self::Jsonl),
            "csv" => Ok(Self::Csv),
            "parquet" => Ok(Self::Parquet),
            _ => Err(format!("{text:?} is not one of {}", Self::CHOICES.join(", "))),
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Jsonl => "jsonl",
            Self::Csv => "csv",
            Self::Parquet => "parquet",
        })
    }
}

/// How a file is compressed, by its first bytes; `None` where it is not. Nothing is ever decompressed, so that a small
/// file cannot become a large one.
fn packing(file: &mut File) -> io::Result<Option<&'static str>> {
    let mut first = Vec::new();
    file.by_ref().take(4).read_to_end(&mut first)?;
    file.rewind()?;
    let known: [(&[u8], &str); 5] = [
        (b"\x1f\x8b", "gzip"),
        (b"\x28\xb5\x2f\xfd", "zstd"),
        (b"PK\x03\x04", "zip"),
        (b"BZh", "bzip2"),
        (b"\xfd7zX", "xz"),
    ];
    Ok(known.into_iter().find(|(magic, _)| first.starts_with(magic)).map(|(_, name)| name))
}

/// What a reader yields; an [`io::Error`] ends it.
pub(super) type Rows = Box<dyn Iterator<Item = io::Result<Raw>> + Send>;

/// One row as it was read.
#[derive(Debug)]
pub(super) enum Raw {
    /// A row: its line and its cells.
    Row(u64, Map<String, Value>),
    /// A row that cannot be read; the rows after it can.
    Bad(u64, Vec<ManifestIssue>),
    /// Something that spoils the whole file, such as an unknown column. Rows may follow, so that all is reported.
    File(Vec<ManifestIssue>),
}

pub(super) fn issue(line: u64, code: &str, param: Option<&str>, message: impl Into<String>) -> ManifestIssue {
    ManifestIssue {
        line,
        code: code.to_owned(),
        message: message.into(),
        param: param.map(str::to_owned),
        custom_id: None,
    }
}

/// Every key that a row may have.
pub(super) fn known_keys() -> impl Iterator<Item = &'static str> {
    ROW_KEYS.into_iter().chain(Settings::KEYS)
}

/// What is wrong with a key that no row may have, with the nearest one that it may.
pub(super) fn unknown_key(line: u64, key: &str) -> ManifestIssue {
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
pub(super) fn column_issues<'a>(line: u64, columns: impl Iterator<Item = &'a str> + Clone) -> Vec<ManifestIssue> {
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
    let mut seen = std::collections::HashSet::new();
    for column in columns {
        if !seen.insert(column) {
            issues.push(issue(line, "duplicate_key", Some(column), format!("the column {column:?} occurs twice")));
        }
    }
    issues
}
