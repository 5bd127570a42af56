//! One task: its picture, its record, and every outcome that it had.

use axum::Json;
use axum::extract::{Path, State};
use diorama_core::id::{AttemptId, Round, ShardId, TaskIndex, WorkerId};
use diorama_core::marker::CommitMarker;
use diorama_core::outcome::{Outcome, TaskError, TaskOutcome};
use diorama_core::round::RoundInfo;
use diorama_core::task::Task;
use diorama_core::text::quoted;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::shelf::first_shard;
use super::{Picture, Status, files, outcome_of};
use crate::api::{Opened, Problem, Shared};

/// The role of the record beside a picture.
const RECORD: &str = "record";

/// A task, what was made of it and how it came to be.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct TaskDetail {
    picture: Picture,
    /// The record beside the picture: prompt, subjects, seed, every setting in force, what made it, each edit step.
    #[schema(value_type = Option<Object>)]
    record: Option<Value>,
    /// Every outcome that it had, the oldest first.
    history: Vec<PastOutcome>,
    /// The command that makes the picture again.
    replay: String,
}

/// An outcome of a task: the last one counts.
#[derive(Debug, Serialize, ToSchema)]
struct PastOutcome {
    round: u32,
    #[schema(value_type = String)]
    shard: ShardId,
    #[schema(value_type = String)]
    worker: WorkerId,
    #[schema(value_type = String)]
    attempt: AttemptId,
    status: Status,
    #[schema(value_type = Option<Object>)]
    error: Option<TaskError>,
    #[schema(value_type = String, format = DateTime)]
    started_at: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    committed_at: Timestamp,
}

/// A task of a run by its place in the manifest, with its record and every outcome that it had.
#[utoipa::path(get, path = "/v1/runs/{run}/tasks/{task}", tag = "pictures",
    params(("run" = String, Path), ("task" = u64, Path, description = "its place in the manifest, from 0")),
    responses((status = 200, body = TaskDetail), (status = 404, body = Problem)))]
pub(super) async fn show(
    State(api): State<Shared>,
    run: Opened,
    Path((_run, task)): Path<(String, String)>,
) -> Result<Json<TaskDetail>, Problem> {
    let unknown = || Problem::not_found("unknown_task", format!("the run has no task {}", quoted(&task)));
    let index = task.parse().map(TaskIndex).map_err(|_| unknown())?;
    if index.0 >= run.spec.tasks {
        return Err(unknown());
    }
    let first = first_shard(&run, index.0);
    let tasks = api.shelf.tasks(&run, first).await?;
    let task = tasks.iter().find(|task| task.index == index).ok_or_else(unknown)?;
    let mut picture = Picture::waiting(&api, &run, first, task);
    let (mut history, mut record) = (Vec::new(), None);
    for round in run.history.rounds() {
        let Some(shard) = shard_with(&api, &run, round, index).await? else { continue };
        let Some(marker) = api.shelf.marker(&run, shard).await? else { continue };
        let Some(outcome) = outcome_of(&marker, task) else { continue };
        picture = Picture::of(&api, &run, &marker, task, outcome);
        history.push(past(&marker, outcome));
        record = match &outcome.outcome {
            Outcome::Done { .. } => read_record(&api, &run, &marker, task).await?,
            Outcome::Failed(_) => None,
        };
    }
    let replay = format!("diorama replay {} {}", run.spec.run, task.custom_id);
    Ok(Json(TaskDetail { picture, record, history, replay }))
}

fn past(marker: &CommitMarker, outcome: &TaskOutcome) -> PastOutcome {
    let (status, error) = match &outcome.outcome {
        Outcome::Done { .. } => (Status::Done, None),
        Outcome::Failed(error) => (Status::Failed, Some(error.clone())),
    };
    PastOutcome {
        round: marker.shard.round.0,
        shard: marker.shard,
        worker: marker.worker.clone(),
        attempt: marker.attempt.clone(),
        status,
        error,
        started_at: marker.started_at,
        committed_at: marker.committed_at,
    }
}

async fn read_record(api: &Shared, run: &Opened, marker: &CommitMarker, task: &Task) -> Result<Option<Value>, Problem> {
    let bytes = files::of_task(api, run, marker, task, RECORD).await?;
    Ok(bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
}

/// The shard of the round that has the task, where one has: a later round holds some of the tasks, in the manifest's
/// order, so it is searched by halves.
async fn shard_with(
    api: &Shared,
    run: &Opened,
    round: &RoundInfo,
    task: TaskIndex,
) -> Result<Option<ShardId>, Problem> {
    if round.round == Round(0) {
        return Ok(Some(first_shard(run, task.0)));
    }
    let (mut low, mut high) = (0, round.shards);
    while low < high {
        let middle = low + (high - low) / 2;
        let shard = ShardId { round: round.round, index: middle };
        let tasks = api.shelf.tasks(run, shard).await?;
        match (tasks.first(), tasks.last()) {
            (Some(first), _) if task < first.index => high = middle,
            (_, Some(last)) if task > last.index => low = middle + 1,
            _ => return Ok(tasks.iter().any(|other| other.index == task).then_some(shard)),
        }
    }
    Ok(None)
}
