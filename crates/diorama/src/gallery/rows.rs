//! What a run's folder says about each of its rows.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use diorama_core::manifest::ManifestIssue;
use diorama_core::outcome::{Outcome, TaskOutcome};
use diorama_core::record::Record;
use diorama_core::task::Task;
use diorama_protocol::outcomes::Outcomes;
use diorama_protocol::results::invalid_rows;
use serde::Serialize;

use super::folder::Folder;
use super::pictures::{Archive, References};
use super::roles::{Picture, name, outside, rank};

/// One row of the page.
#[derive(Debug, Default, Serialize)]
pub(super) struct Row {
    id: String,
    prompt: String,
    subjects: Vec<String>,
    seed: Option<u64>,
    coverage: Option<f64>,
    /// PSNR in dB outside the region that the row gives.
    outside: Option<f64>,
    /// What the run asked to be measured.
    measures: BTreeMap<String, f64>,
    accepted: Option<bool>,
    /// Pictures that were made of it.
    tries: usize,
    warnings: Vec<String>,
    /// Names and values of the settings that the run or the row set.
    settings: Vec<(String, String)>,
    pictures: Vec<Picture>,
    error: Option<Problem>,
}

#[derive(Debug, Serialize)]
struct Problem {
    code: String,
    message: String,
    line: Option<u64>,
}

/// What the page shows.
#[derive(Debug, Default)]
pub(super) struct Rows {
    pub(super) rows: Vec<Row>,
    /// The model and the settings of the first picture, in words.
    pub(super) made_by: Option<String>,
}

/// The first `limit` tasks of the run, then the rows that were refused.
pub(super) async fn read(run: &Folder, limit: u64) -> Result<Rows> {
    let mut tasks = tasks(run, limit).await?;
    let outcomes = outcomes(run, limit).await?;
    let mut rows: BTreeMap<u64, Row> = BTreeMap::new();
    let mut made_by = None;
    let mut references = References::new(&run.path, Path::new(&run.spec.reference_root));
    for (archive, outcomes) in &outcomes {
        let mut files = files(&run.path, archive.as_deref(), outcomes)?;
        for outcome in outcomes {
            let Some(task) = tasks.get(&outcome.task.0) else { continue };
            let made = files.remove(&outcome.task.0);
            made_by = made_by.or_else(|| made.as_ref()?.record.as_ref().map(describe));
            rows.insert(outcome.task.0, row(task, outcome, made, &mut references));
        }
    }
    tasks.retain(|index, _| !rows.contains_key(index));
    for (index, task) in tasks {
        rows.insert(index, bare(&task, Some(problem("pending", "not made yet"))));
    }
    let rows = rows.into_values().chain(refused(run, limit).await?).collect();
    Ok(Rows { rows, made_by })
}

/// The last outcome of each of the first `limit` tasks that has one, by the archive that its files are in.
async fn outcomes(run: &Folder, limit: u64) -> Result<BTreeMap<Option<String>, Vec<TaskOutcome>>> {
    let mut by_archive: BTreeMap<Option<String>, Vec<TaskOutcome>> = BTreeMap::new();
    let mut outcomes = Outcomes::so_far(&run.store, &run.spec, &run.history).await?;
    while let Some(last) = outcomes.next().await?.filter(|last| last.outcome.task.0 < limit) {
        let archive = match &last.outcome.outcome {
            Outcome::Done { archive, .. } => archive.clone(),
            Outcome::Failed(_) => None,
        };
        by_archive.entry(archive).or_default().push(last.outcome);
    }
    Ok(by_archive)
}

/// `demo, f32 on cpu · abs-grad-sam, ddim, 25 steps, strength 0.9, guidance 4`: what the record says, where it does.
pub(super) fn describe(record: &Record) -> String {
    let generator = &record.generator;
    let setting = |key: &str, before: &str, after: &str| match &record.settings[key] {
        serde_json::Value::Null => None,
        value => Some(format!("{before}{}{after}", plain(value))),
    };
    let settings = [
        setting("method", "", ""),
        setting("scheduler", "", ""),
        setting("steps", "", " steps"),
        setting("strength", "strength ", ""),
        setting("guidance", "guidance ", ""),
    ];
    let settings: Vec<String> = settings.into_iter().flatten().collect();
    let model = format!("{}, {} on {}", generator.model, generator.dtype, generator.device);
    [vec![model], (!settings.is_empty()).then(|| settings.join(", ")).into_iter().collect()].concat().join(" · ")
}

/// The first `limit` tasks by index, as they were submitted.
async fn tasks(run: &Folder, limit: u64) -> Result<BTreeMap<u64, Task>> {
    let mut tasks = BTreeMap::new();
    let Some(first) = run.history.rounds().first() else { return Ok(tasks) };
    for shard in first.shard_ids() {
        let input = run.store.input(shard, &first.inputs).await?;
        let input = input.with_context(|| format!("the input of {shard} is gone"))?;
        tasks.extend(input.into_iter().filter(|task| task.index.0 < limit).map(|task| (task.index.0, task)));
        if tasks.len() as u64 >= limit {
            break;
        }
    }
    Ok(tasks)
}

/// What was made of a task: its pictures to show, and its record.
pub(super) struct Made {
    pictures: Vec<Picture>,
    pub(super) record: Option<Record>,
}

/// What was made of tasks whose files are in one archive, or all in the folder.
pub(super) fn files(folder: &Path, archive: Option<&str>, outcomes: &[TaskOutcome]) -> Result<BTreeMap<u64, Made>> {
    let mut archive = archive.map(|archive| Archive::read(folder, archive, outcomes)).transpose()?;
    let mut all = BTreeMap::new();
    for outcome in outcomes {
        let Outcome::Done { files, scores, .. } = &outcome.outcome else { continue };
        let mut made = Made { pictures: Vec::new(), record: None };
        for (role, file) in files {
            let (src, bytes) = match &mut archive {
                Some(archive) => (archive.thumbnail(&file.path), archive.take(&file.path)),
                None => (
                    Some(file.path.clone()),
                    (role == "record").then(|| fs::read(folder.join(&file.path)).ok()).flatten(),
                ),
            };
            if role == "record" {
                made.record = bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok());
            } else if let (Some(name), Some(src)) = (name(role), src) {
                made.pictures.push(Picture { role: role.clone(), name, src, outside: outside(role, scores) });
            }
        }
        made.pictures.sort_by_key(|picture| rank(&picture.role));
        all.insert(outcome.task.0, made);
    }
    Ok(all)
}

pub(super) fn row(task: &Task, outcome: &TaskOutcome, made: Option<Made>, references: &mut References) -> Row {
    let made = made.unwrap_or(Made { pictures: Vec::new(), record: None });
    let mut row = bare(task, None);
    let known = made.record.as_ref().and_then(|record| record.reference.as_ref());
    let mut shown = task.reference.as_ref().map(|it| references.thumbnails(it, known)).unwrap_or_default().into_iter();
    let used = shown.next();
    // The one that is stored is the one that was used.
    row.pictures.extend(used.filter(|_| made.pictures.iter().all(|picture| picture.role != "reference")));
    row.pictures.extend(made.pictures);
    row.pictures.extend(shown);
    if let Some(record) = made.record {
        row.subjects = record.subjects.into_iter().map(|subject| subject.text).collect();
    }
    row.seed = Some(outcome.seed.get());
    row.tell(&outcome.outcome);
    row
}

/// A row of which only its line is there.
pub(super) fn without_record(outcome: &TaskOutcome) -> Row {
    let mut row = Row { id: outcome.custom_id.to_string(), seed: Some(outcome.seed.get()), ..Row::default() };
    row.tell(&outcome.outcome);
    row
}

impl Row {
    fn tell(&mut self, outcome: &Outcome) {
        match outcome {
            Outcome::Done { mask_coverage, scores, measures, accepted, tries, warnings, .. } => {
                self.measures.clone_from(measures);
                (self.accepted, self.tries) = (*accepted, tries.len());
                self.coverage = *mask_coverage;
                self.outside = outside("image", scores);
                self.warnings.clone_from(warnings);
            }
            Outcome::Failed(error) => self.error = Some(problem(error.code.as_str(), &error.message)),
        }
    }
}

fn bare(task: &Task, error: Option<Problem>) -> Row {
    let settings = serde_json::to_value(&task.settings).unwrap_or_default();
    let settings = settings.as_object().cloned().unwrap_or_default().into_iter();
    Row {
        id: task.custom_id.to_string(),
        prompt: task.prompt.clone(),
        subjects: task.subjects.clone().unwrap_or_default(),
        seed: Some(task.seed.get()),
        settings: settings.map(|(key, value)| (key, plain(&value))).collect(),
        error,
        ..Row::default()
    }
}

fn plain(value: &serde_json::Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn problem(code: &str, message: &str) -> Problem {
    Problem { code: code.to_owned(), message: message.to_owned(), line: None }
}

/// The manifest's rows that never became tasks.
async fn refused(run: &Folder, limit: u64) -> Result<Vec<Row>> {
    let issues = invalid_rows(&run.store, &run.history).await?;
    Ok(issues.into_iter().take(limit as usize).map(refused_row).collect())
}

/// A row that never became a task.
pub(super) fn refused_row(issue: ManifestIssue) -> Row {
    let error = Problem { code: issue.code, message: issue.message, line: Some(issue.line) };
    Row { id: issue.custom_id.unwrap_or_default(), error: Some(error), ..Row::default() }
}
