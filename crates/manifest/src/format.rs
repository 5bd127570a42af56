//! The formats of a manifest.
//!
//! A reader holds one row at a time, whatever the size of the file.

use std::fmt;
use std::fs::File;
use std::io;
use std::path::Path;
use std::str::FromStr;

use diorama_core::text::quoted;

use crate::raw::{Rows, unreadable};
use crate::rules::Rules;
use crate::{csv, jsonl, parquet, sniff};

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
    pub(crate) fn rows(self, mut file: File, path: &Path, rules: &Rules) -> io::Result<Rows> {
        if let Some((code, message)) = sniff::refusal(&sniff::first(&mut file)?, self) {
            return Ok(unreadable(code, message));
        }
        Ok(match self {
            Self::Jsonl => Box::new(jsonl::rows(file, rules)),
            Self::Csv => Box::new(csv::rows(file, path.to_owned(), rules)),
            Self::Parquet => parquet::rows(file, rules),
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
            _ => Err(format!("{} is not one of {}", quoted(text), Self::CHOICES.join(", "))),
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
