//! Files of JSON lines.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use serde::de::DeserializeOwned;

use crate::error::{Error, Result};

/// Every line of a file; empty ones are passed over.
pub(super) fn json_lines<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>> {
    let file = File::open(path).map_err(|error| Error::input(path, format!("cannot be opened: {error}")))?;
    let mut values = Vec::new();
    for (at, line) in BufReader::new(file).lines().enumerate() {
        let line = line.map_err(|error| Error::input(path, format!("line {} cannot be read: {error}", at + 1)))?;
        // Data tools of some systems begin a file with a byte order mark.
        let line = line.strip_prefix('\u{feff}').filter(|_| at == 0).unwrap_or(&line);
        if !line.trim().is_empty() {
            values.push(json(path, at + 1, line)?);
        }
    }
    Ok(values)
}

/// One line's value; `at` counts from 1.
pub(super) fn json<T: DeserializeOwned>(path: &Path, at: usize, line: &str) -> Result<T> {
    serde_json::from_str(line).map_err(|error| Error::input(path, format!("line {at} is invalid: {error}")))
}
