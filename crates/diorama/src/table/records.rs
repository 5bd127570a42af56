//! The records of the pictures in a folder, whether they lie there as files or in archives.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use diorama_core::outcome::{Outcome, TaskOutcome};
use serde_json::Value;

/// Reads them in the order of the lines, whose archives are neighbours.
pub(super) struct Records {
    folder: PathBuf,
    /// The records of the archive that was read last, by their members' names.
    archive: Option<(String, HashMap<String, Vec<u8>>)>,
}

impl Records {
    pub(super) fn of(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), archive: None }
    }

    /// The record of a task's picture; `None` where it is not there, or is none.
    pub(super) fn of_task(&mut self, outcome: &TaskOutcome) -> Result<Option<Value>> {
        let Outcome::Done { archive, files, .. } = &outcome.outcome else { return Ok(None) };
        let Some(record) = files.get("record") else { return Ok(None) };
        let bytes = match archive {
            None => fs::read(self.folder.join(&record.path)).ok(),
            Some(archive) => {
                if self.archive.as_ref().is_none_or(|(read, _)| read != archive) {
                    self.archive = Some((archive.clone(), self.read(archive)?));
                }
                self.archive.as_ref().and_then(|(_, records)| records.get(&record.path).cloned())
            }
        };
        Ok(bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
    }

    fn read(&self, archive: &str) -> Result<HashMap<String, Vec<u8>>> {
        let path = self.folder.join(archive);
        let reading = || format!("reading {}", path.display());
        let mut tar = tar::Archive::new(BufReader::new(File::open(&path).with_context(reading)?));
        let mut records = HashMap::new();
        for entry in tar.entries().with_context(reading)? {
            let mut entry = entry.with_context(reading)?;
            let member = entry.path().with_context(reading)?.display().to_string();
            if member.ends_with(".record") {
                let mut bytes = Vec::new();
                entry.read_to_end(&mut bytes).with_context(reading)?;
                records.insert(member, bytes);
            }
        }
        Ok(records)
    }
}
