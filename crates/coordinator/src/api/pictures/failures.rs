//! What failed in a run, by code, with examples: before its end, too.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use diorama_core::outcome::{Outcome, TaskOutcome};
use futures::{StreamExt, TryStreamExt, stream};
use serde::Serialize;
use utoipa::ToSchema;

use super::shelf::first_shard;
use super::{Picture, outcome_of};
use crate::api::{Opened, Problem, Shared};

/// Examples that are shown of a code.
const EXAMPLES: usize = 12;

/// Bytes of the errors file in which examples are looked for.
const LOOKED_AT: u64 = 256 << 10;

/// Failures that are read at a time.
const AT_ONCE: usize = 8;

/// What failed.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Failures {
    /// Tasks by the code of their error.
    codes: BTreeMap<String, u64>,
    /// Whether `codes` counts every failed task; false of a run that goes on, where it counts the latest failures.
    complete: bool,
    /// Some of them, at most twelve a code.
    examples: Vec<Picture>,
}

/// Failed tasks of a run by code, with examples.
#[utoipa::path(get, path = "/v1/runs/{run}/failures", tag = "pictures", params(("run" = String, Path)),
    responses((status = 200, body = Failures), (status = 404, body = Problem)))]
pub(super) async fn failures(State(api): State<Shared>, run: Opened) -> Result<Json<Failures>, Problem> {
    let (outcomes, codes, complete) = match run.history.ended() {
        Some(ended) => {
            let path = run.store.relative(&ended.errors.path);
            let begin = api.backends().objects.read_range(&path, 0, LOOKED_AT).await?;
            let lines = begin.split(|byte| *byte == b'\n');
            // Neither the row that was refused nor the line that is cut off is a task.
            let tasks = lines.filter_map(|line| serde_json::from_slice(line).ok());
            (tasks.collect(), ended.summary.failures.clone(), true)
        }
        None => {
            let outcomes = api.backends().progress.recent_failures(&run.spec.run).await?;
            let codes = counted(&outcomes);
            (outcomes, codes, false)
        }
    };
    let examples = examples(&outcomes);
    let (api, run) = (&api, &run);
    let read = stream::iter(examples).map(|outcome| example(api, run, outcome)).buffered(AT_ONCE);
    Ok(Json(Failures { codes, complete, examples: read.try_collect().await? }))
}

fn code(outcome: &TaskOutcome) -> Option<&'static str> {
    match &outcome.outcome {
        Outcome::Failed(error) => Some(error.code.as_str()),
        Outcome::Done { .. } => None,
    }
}

fn counted(outcomes: &[TaskOutcome]) -> BTreeMap<String, u64> {
    let mut codes = BTreeMap::new();
    for code in outcomes.iter().filter_map(code) {
        *codes.entry(code.to_owned()).or_default() += 1;
    }
    codes
}

/// The first few of each code, each task once.
fn examples(outcomes: &[TaskOutcome]) -> Vec<TaskOutcome> {
    let mut taken: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    let wanted = outcomes.iter().filter(|outcome| {
        let Some(code) = code(outcome) else { return false };
        let tasks = taken.entry(code).or_default();
        let is_wanted = tasks.len() < EXAMPLES && !tasks.contains(&outcome.task.0);
        if is_wanted {
            tasks.push(outcome.task.0);
        }
        is_wanted
    });
    wanted.cloned().collect()
}

async fn example(api: &Shared, run: &Opened, outcome: TaskOutcome) -> Result<Picture, Problem> {
    let shard = first_shard(run, outcome.task.0);
    let tasks = api.shelf.tasks(run, shard).await?;
    let unknown = || Problem::not_found("unknown_task", format!("the run has no task {}", outcome.task.0));
    let task = tasks.iter().find(|task| task.index == outcome.task).ok_or_else(unknown)?;
    let marker = api.shelf.marker(run, shard).await?;
    let mut picture = match marker.as_ref().and_then(|marker| Some((marker, outcome_of(marker, task)?))) {
        Some((marker, first)) => Picture::of(api, run, marker, task, first),
        None => Picture::waiting(api, run, shard, task),
    };
    if let Outcome::Failed(error) = &outcome.outcome {
        picture.failed(error);
    }
    Ok(picture)
}
