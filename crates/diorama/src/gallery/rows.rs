//! What a run's folder says about each of its rows.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use diorama_core::manifest::ManifestIssue;
use diorama_core::marker::{ArchiveRef, CommitMarker};
use diorama_core::outcome::{Outcome, TaskOutcome};
use diorama_core::record::Record;
use diorama_core::run::RunSpec;
use diorama_core::task::Task;
use serde::Serialize;

use super::pictures::{Archive, References};
use super::read_json;

/// One row of the page.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    id: String,
    prompt: String,
    subjects: Vec<String>,
    seed: Option<u64>,
    coverage: Option<f64>,
    /// PSNR in dB outside the mask.
    background: Option<f64>,
    warnings: Vec<String>,
    /// Names and values of the settings that the run or the row set.
    settings: Vec<(String, String)>,
    pictures: Vec<Picture>,
    error: Option<Problem>,
}

/// One picture of a row, by its path below the folder.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Picture {
    pub(super) role: String,
    pub(super) name: String,
    pub(super) src: String,
    /// PSNR in dB outside the mask, of the picture and of those that it is compared with.
    pub(super) background: Option<f64>,
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

/// The first `limit` tasks of the run in `folder`, then the rows that were refused.
pub(super) fn read(folder: &Path, spec: &RunSpec, limit: u64) -> Result<Rows> {
    let mut rows: BTreeMap<u64, Row> = BTreeMap::new();
    let mut made_by = None;
    let mut tasks = tasks(folder, limit)?;
    let mut references = References::new(folder, Path::new(&spec.reference_root));
    // A later round's marker says more about a task than an earlier one's.
    for path in sorted(&folder.join("commits"), ".json")? {
        let marker: CommitMarker = read_json(&path)?;
        let wanted = |outcome: &&TaskOutcome| tasks.contains_key(&outcome.task.0);
        let outcomes: Vec<&TaskOutcome> = marker.outcomes.iter().filter(wanted).collect();
        if outcomes.is_empty() {
            continue;
        }
        let mut files = files(folder, marker.archive.as_ref(), &outcomes)?;
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
    let rows = rows.into_values().chain(refused(folder, limit)?).collect();
    Ok(Rows { rows, made_by })
}

/// `demo, f32 on cpu · abs-grad-sam, ddim, 25 steps, strength 0.9, guidance 4`: what the record says, where it does.
fn describe(record: &Record) -> String {
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

/// The tasks by index, as they were submitted.
fn tasks(folder: &Path, limit: u64) -> Result<BTreeMap<u64, Task>> {
    let mut tasks = BTreeMap::new();
    for path in sorted(&folder.join("input"), ".jsonl")? {
        let file = File::open(&path).with_context(|| format!("reading {}", path.display()))?;
        for line in BufReader::new(file).lines() {
            let line = line.with_context(|| format!("reading {}", path.display()))?;
            let task: Task = serde_json::from_str(&line).with_context(|| format!("reading {}", path.display()))?;
            if task.index.0 < limit {
                tasks.insert(task.index.0, task);
            }
        }
        if tasks.len() as u64 >= limit {
            break;
        }
    }
    Ok(tasks)
}

/// The files of `folder` with this end of name, by name: rounds, then shards.
fn sorted(folder: &Path, end: &str) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    match fs::read_dir(folder) {
        Ok(entries) => {
            for entry in entries {
                let path = entry.with_context(|| format!("listing {}", folder.display()))?.path();
                let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
                if name.starts_with('r') && name.ends_with(end) {
                    paths.push(path);
                }
            }
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("listing {}", folder.display())),
    }
    paths.sort_by_key(|path| (round(path), path.clone()));
    Ok(paths)
}

/// The round in a shard's name, so that round 10 comes after round 9.
fn round(path: &Path) -> Option<u32> {
    path.file_name()?.to_str()?.strip_prefix('r')?.split('-').next()?.parse().ok()
}

/// What was made of a task: its pictures to show, and its record.
struct Made {
    pictures: Vec<Picture>,
    record: Option<Record>,
}

fn files(folder: &Path, archive: Option<&ArchiveRef>, outcomes: &[&TaskOutcome]) -> Result<BTreeMap<u64, Made>> {
    let mut archive = archive.map(|archive| Archive::read(folder, &archive.key, outcomes)).transpose()?;
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
                made.pictures.push(Picture { role: role.clone(), name, src, background: background(role, scores) });
            }
        }
        made.pictures.sort_by_key(|picture| rank(&picture.role));
        all.insert(outcome.task.0, made);
    }
    Ok(all)
}

fn background(role: &str, scores: &BTreeMap<String, f64>) -> Option<f64> {
    let key = match role.split_once('.') {
        None if role == "image" => "background_psnr".to_owned(),
        Some(("compare", method)) => format!("background_psnr.{method}"),
        _ => return None,
    };
    scores.get(&key).copied()
}

/// What the page calls a role; the bare mask is not shown beside its overlay.
fn name(role: &str) -> Option<String> {
    match role {
        "image" => Some("picture".to_owned()),
        "overlay" => Some("mask".to_owned()),
        _ => match role.split_once('.')? {
            ("heatmap", subject) => Some(format!("heat map: {subject}")),
            ("compare", method) => Some(method.to_owned()),
            _ => None,
        },
    }
}

fn rank(role: &str) -> u8 {
    match role.split('.').next() {
        Some("image") => 0,
        Some("overlay") => 1,
        Some("heatmap") => 2,
        _ => 3,
    }
}

/// Whether a role's picture is shown, and so taken out of an archive.
pub(super) fn is_shown(role: &str) -> bool {
    name(role).is_some()
}

fn row(task: &Task, outcome: &TaskOutcome, made: Option<Made>, references: &mut References) -> Row {
    let made = made.unwrap_or(Made { pictures: Vec::new(), record: None });
    let mut row = bare(task, None);
    let known = made.record.as_ref().and_then(|record| record.reference.as_ref()).map(|reference| &reference.sha256);
    row.pictures.extend(task.reference.as_ref().and_then(|reference| references.thumbnail(reference, known)));
    row.pictures.extend(made.pictures);
    if let Some(record) = made.record {
        row.subjects = record.subjects.into_iter().map(|subject| subject.text).collect();
    }
    match &outcome.outcome {
        Outcome::Done { mask_coverage, scores, warnings, .. } => {
            row.coverage = *mask_coverage;
            row.background = background("image", scores);
            row.warnings.clone_from(warnings);
        }
        Outcome::Failed(error) => row.error = Some(problem(error.code.as_str(), &error.message)),
    }
    row
}

fn bare(task: &Task, error: Option<Problem>) -> Row {
    let settings = serde_json::to_value(&task.settings).unwrap_or_default();
    let settings = settings.as_object().cloned().unwrap_or_default().into_iter();
    Row {
        id: task.custom_id.to_string(),
        prompt: task.prompt.clone(),
        subjects: task.subjects.clone().unwrap_or_default(),
        seed: Some(task.seed.get()),
        coverage: None,
        background: None,
        warnings: Vec::new(),
        settings: settings.map(|(key, value)| (key, plain(&value))).collect(),
        pictures: Vec::new(),
        error,
    }
}

fn plain(value: &serde_json::Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn problem(code: &str, message: &str) -> Problem {
    Problem { code: code.to_owned(), message: message.to_owned(), line: None }
}

/// The manifest's rows that never became tasks.
fn refused(folder: &Path, limit: u64) -> Result<Vec<Row>> {
    let path = folder.join("errors.jsonl");
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
    };
    let mut rows = Vec::new();
    for line in BufReader::new(file).lines().take(limit as usize) {
        let line = line.with_context(|| format!("reading {}", path.display()))?;
        let value: serde_json::Value =
            serde_json::from_str(&line).with_context(|| format!("reading {}", path.display()))?;
        if value["status"] != "invalid" {
            continue;
        }
        let issue: ManifestIssue =
            serde_json::from_value(value).with_context(|| format!("reading {}", path.display()))?;
        rows.push(Row {
            id: issue.custom_id.unwrap_or_default(),
            prompt: String::new(),
            subjects: Vec::new(),
            seed: None,
            coverage: None,
            background: None,
            warnings: Vec::new(),
            settings: Vec::new(),
            pictures: Vec::new(),
            error: Some(Problem { code: issue.code, message: issue.message, line: Some(issue.line) }),
        });
    }
    Ok(rows)
}
