//! What a folder of `diorama results` says about its rows: the lines of its lists, and the records of the pictures, which
//! hold their tasks.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use anyhow::{Context, Result};
use diorama_core::key::{ERRORS, ObjectKey, RESULTS, RunRoot};
use diorama_core::manifest::ManifestIssue;
use diorama_core::outcome::{Outcome, TaskOutcome};
use diorama_core::run::{RunSpec, RunSummary};

use super::pictures::References;
use super::rows::{Row, Rows, describe, files, refused_row, row, without_record};

/// The lists of a downloaded run.
pub(super) struct Downloaded<'a> {
    folder: &'a Path,
    pub(super) spec: RunSpec,
    /// How the run ended, where it has.
    pub(super) summary: Option<RunSummary>,
}

impl<'a> Downloaded<'a> {
    /// What lies in the folder; `None` where that is a run itself.
    pub(super) fn open(folder: &'a Path) -> Result<Option<Self>> {
        let at = |key: ObjectKey| folder.join(key.path(&RunRoot::Own));
        if at(ObjectKey::Decision(0)).exists() || !folder.join(RESULTS).exists() {
            return Ok(None);
        }
        let spec = std::fs::read(at(ObjectKey::Spec)).with_context(|| format!("reading {}", folder.display()))?;
        let summary = std::fs::read(at(ObjectKey::Summary)).ok();
        Ok(Some(Self {
            folder,
            spec: serde_json::from_slice(&spec).context("reading run.json")?,
            summary: summary.and_then(|summary| serde_json::from_slice(&summary).ok()),
        }))
    }

    /// The first `limit` rows of each list.
    pub(super) fn rows(&self, limit: u64) -> Result<Rows> {
        let mut by_archive: BTreeMap<Option<String>, Vec<TaskOutcome>> = BTreeMap::new();
        for line in self.lines(RESULTS, limit)? {
            let outcome: TaskOutcome = serde_json::from_str(&line).context("reading results.jsonl")?;
            let Outcome::Done { archive, .. } = &outcome.outcome else { continue };
            by_archive.entry(archive.clone()).or_default().push(outcome);
        }
        let mut references = References::new(self.folder, Path::new(&self.spec.reference_root));
        let (mut rows, mut made_by) = (BTreeMap::<u64, Row>::new(), None);
        for (archive, outcomes) in &by_archive {
            let mut files = files(self.folder, archive.as_deref(), outcomes)?;
            for outcome in outcomes {
                let made = files.remove(&outcome.task.0);
                let record = made.as_ref().and_then(|made| made.record.as_ref());
                made_by = made_by.or_else(|| record.map(describe));
                let task = record.map(|record| record.task.clone());
                let shown = match task {
                    Some(task) => row(&task, outcome, made, &mut references),
                    None => without_record(outcome),
                };
                rows.insert(outcome.task.0, shown);
            }
        }
        let mut refused = Vec::new();
        for line in self.lines(ERRORS, limit)? {
            match serde_json::from_str::<TaskOutcome>(&line) {
                Ok(outcome) => drop(rows.insert(outcome.task.0, without_record(&outcome))),
                Err(_) => {
                    let issue: ManifestIssue = serde_json::from_str(&line).context("reading errors.jsonl")?;
                    refused.push(refused_row(issue));
                }
            }
        }
        Ok(Rows { rows: rows.into_values().chain(refused).collect(), made_by })
    }

    fn lines(&self, list: &str, limit: u64) -> Result<Vec<String>> {
        let path = self.folder.join(list);
        let reading = || format!("reading {}", path.display());
        let lines = BufReader::new(File::open(&path).with_context(reading)?).lines();
        lines.take(limit as usize).collect::<std::io::Result<_>>().with_context(reading)
    }
}
