//! The lines of `results.jsonl` and `errors.jsonl`: a task's outcome as it stands in its marker, or a row that was
//! refused.

use diorama_core::manifest::ManifestIssue;
use diorama_core::outcome::TaskOutcome;
use diorama_core::run::RunSpec;
use serde::Serialize;

use crate::error::ProtocolError;
use crate::history::History;
use crate::outcomes::Outcomes;
use crate::run_store::RunStore;

/// A line about a row that never became a task.
#[derive(Serialize)]
struct InvalidLine<'a> {
    status: &'static str,
    #[serde(flatten)]
    issue: &'a ManifestIssue,
}

/// Adds a task's line: of `results.jsonl` where it has a picture, else of `errors.jsonl`.
pub fn add_task(to: &mut Vec<u8>, outcome: &TaskOutcome) {
    add_line(to, outcome);
}

/// Adds the line of `errors.jsonl` about a row that was refused.
pub fn add_invalid(to: &mut Vec<u8>, issue: &ManifestIssue) {
    add_line(to, &InvalidLine { status: "invalid", issue });
}

/// These types have string keys and no maps that could fail.
fn add_line<T: Serialize>(to: &mut Vec<u8>, value: &T) {
    to.extend(serde_json::to_vec(value).unwrap_or_default());
    to.push(b'\n');
}

/// The rows that were refused when the run was submitted.
pub async fn invalid_rows(store: &RunStore, history: &History) -> Result<Vec<ManifestIssue>, ProtocolError> {
    match history.rounds().first() {
        Some(first) => Ok(store.invalid_rows(&first.inputs).await?),
        None => Ok(Vec::new()),
    }
}

/// The lines of `results.jsonl` or `errors.jsonl` of a run that has not ended, as far as they are certain.
pub struct Lines {
    outcomes: Outcomes,
    results: bool,
    invalid: std::vec::IntoIter<ManifestIssue>,
}

impl Lines {
    /// The lines of what is committed so far: of `results.jsonl`, or of `errors.jsonl`.
    pub async fn so_far(
        store: &RunStore,
        spec: &RunSpec,
        history: &History,
        results: bool,
    ) -> Result<Self, ProtocolError> {
        let outcomes = Outcomes::so_far(store, spec, history).await?;
        let invalid = if results { Vec::new() } else { invalid_rows(store, history).await? };
        Ok(Self { outcomes, results, invalid: invalid.into_iter() })
    }

    /// Adds the next line, or passes over a task that has none; false at the end.
    pub async fn next(&mut self, to: &mut Vec<u8>) -> Result<bool, ProtocolError> {
        let Some(last) = self.outcomes.next().await? else {
            let Some(issue) = self.invalid.next() else { return Ok(false) };
            add_invalid(to, &issue);
            return Ok(true);
        };
        let is_done = last.outcome.outcome.is_done();
        if is_done == self.results && (is_done || !self.outcomes.is_pending(&last)) {
            add_task(to, &last.outcome);
        }
        Ok(true)
    }
}
