//! What a user says about pictures beside them: JSON lines or CSV with `custom_id` and any of `prompt`, `scene`,
//! `category`, `reference`, `region`. A manifest is one; keys that are not listed here are passed over.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use diorama_core::id::Sha256Hex;
use serde::Deserialize;

use super::text;
use crate::error::{Error, Result};

/// One line.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Line {
    custom_id: String,
    /// The prompt.
    #[serde(default)]
    pub prompt: Option<String>,
    /// What it is filed under.
    #[serde(default)]
    pub scene: Option<String>,
    /// What its scene is filed under.
    #[serde(default)]
    pub category: Option<String>,
    /// A file, relative to this file's folder.
    #[serde(default)]
    pub reference: Option<String>,
    /// A mask's file, relative to this file's folder.
    #[serde(default)]
    pub region: Option<String>,
}

/// What is known, by custom_id.
#[derive(Debug, Default)]
pub struct About {
    folder: PathBuf,
    lines: HashMap<String, Line>,
    digest: String,
}

impl About {
    /// Reads a file; `.csv` is CSV, everything else JSON lines.
    ///
    /// # Errors
    /// [`Error::Input`] with the line.
    pub fn read(path: &Path) -> Result<Self> {
        let lines: Vec<Line> = match path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("csv")) {
            true => csv_lines(path)?,
            false => text::json_lines(path)?,
        };
        let folder = path.parent().map_or_else(PathBuf::new, Path::to_owned);
        let digest = std::fs::read(path).map_or_else(|_| String::new(), |bytes| Sha256Hex::of(&bytes).to_string());
        Ok(Self { folder, digest, lines: lines.into_iter().map(|line| (line.custom_id.clone(), line)).collect() })
    }

    /// The line of a task; an empty one where there is none.
    pub fn of(&self, custom_id: &str) -> Line {
        self.lines.get(custom_id).cloned().unwrap_or_default()
    }

    /// What the file was.
    pub(crate) fn digest(&self) -> &str {
        &self.digest
    }

    /// A path of a line.
    pub fn path(&self, relative: &str) -> PathBuf {
        self.folder.join(relative)
    }
}

fn csv_lines(path: &Path) -> Result<Vec<Line>> {
    let fail = |error: csv::Error| Error::input(path, error.to_string());
    let mut reader = csv::Reader::from_path(path).map_err(fail)?;
    reader.deserialize().collect::<Result<_, _>>().map_err(fail)
}
