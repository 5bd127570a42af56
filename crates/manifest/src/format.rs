//! The formats of a manifest.
//!
//! A reader holds one row at a time, whatever the size of the file.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::path::Path;
use std::str::FromStr;

use crate::raw::{Raw, Rows, issue};
use crate::{csv, jsonl, parquet};

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
    pub(crate) fn rows(self, mut file: File, path: &Path) -> io::Result<Rows> {
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
