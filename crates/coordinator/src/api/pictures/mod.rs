//! What was made of a run, to look at: its shards, their pictures with masks, heat maps and references, what failed, how
//! the scores lie. From the markers, so it is the same before the run's end and after it.

mod failures;
mod files;
mod latest;
mod scores;
mod section;
mod shards;
mod shelf;
mod task;

use std::collections::BTreeMap;
use std::sync::Arc;

use diorama_core::id::ShardId;
use diorama_core::marker::CommitMarker;
use diorama_core::measure::Try;
use diorama_core::outcome::{Outcome, TaskError, TaskOutcome};
use diorama_core::task::{Reference, Task};
use diorama_core::text::quoted;
use jiff::Timestamp;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub(crate) use self::shelf::Shelf;
use super::{Opened, Problem, Shared};

/// The routes of this module.
pub(super) fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new()
        .routes(routes!(shards::map))
        .routes(routes!(shards::show))
        .routes(routes!(latest::list))
        .routes(routes!(failures::failures))
        .routes(routes!(scores::scores))
        .routes(routes!(task::show))
        .routes(routes!(files::file))
}

/// A task and what was made of it. Its URLs are relative to the API's root.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct Picture {
    /// Its place in the manifest, from 0.
    task: u64,
    /// The user's name of it.
    custom_id: String,
    prompt: String,
    #[schema(value_type = u64)]
    seed: u64,
    /// The shard that this outcome comes from.
    #[schema(value_type = String, example = "r0-000012")]
    shard: ShardId,
    status: Status,
    #[schema(value_type = Option<String>, format = DateTime)]
    committed_at: Option<Timestamp>,
    /// Who committed it.
    worker: Option<String>,
    /// The share of the picture that the mask covers, 0 to 1.
    mask_coverage: Option<f64>,
    /// How much of the place was kept outside a region that its row gives.
    scores: BTreeMap<String, f64>,
    /// What the run asked to be measured, by name.
    measures: BTreeMap<String, f64>,
    /// Whether it fulfils the run's condition, where there is one.
    accepted: Option<bool>,
    /// Every picture that was made of the task until one was accepted: seed, measures, accepted.
    #[schema(value_type = Vec<Object>)]
    tries: Vec<Try>,
    warnings: Vec<String>,
    /// Why there is no picture.
    #[schema(value_type = Option<Object>)]
    error: Option<TaskError>,
    /// The words of the prompt that name the subject, where the manifest gives them.
    subjects: Vec<String>,
    reference: Option<ReferenceLink>,
    /// The files by role: `image`, `mask`, `overlay`, `heatmap.NOUN`, `compare.METHOD`, `record`. With `?width=256` a
    /// smaller picture.
    files: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum Status {
    Done,
    Failed,
    /// Its shard is not committed.
    Waiting,
}

/// The place that a picture was made from.
#[derive(Debug, Clone, Serialize, ToSchema)]
struct ReferenceLink {
    /// As the manifest has it.
    source: String,
    /// Where it can be looked at; `None` where it lies where the coordinator does not read.
    url: Option<String>,
}

/// The role under which a task's reference is served.
const REFERENCE: &str = "reference";

impl Picture {
    fn waiting(api: &Shared, run: &Opened, shard: ShardId, task: &Task) -> Self {
        let link = |reference: &Reference| ReferenceLink {
            source: reference.to_string(),
            url: files::is_readable(api, reference).then(|| url(run, shard, task, REFERENCE)),
        };
        Self {
            task: task.index.0,
            custom_id: task.custom_id.to_string(),
            prompt: task.prompt.clone(),
            seed: task.seed.get(),
            shard,
            status: Status::Waiting,
            committed_at: None,
            worker: None,
            mask_coverage: None,
            scores: BTreeMap::new(),
            measures: BTreeMap::new(),
            accepted: None,
            tries: Vec::new(),
            warnings: Vec::new(),
            error: None,
            subjects: task.subjects.clone().unwrap_or_default(),
            reference: task.reference.as_ref().map(link),
            files: BTreeMap::new(),
        }
    }

    fn of(api: &Shared, run: &Opened, marker: &CommitMarker, task: &Task, outcome: &TaskOutcome) -> Self {
        let mut picture = Self::waiting(api, run, marker.shard, task);
        picture.committed_at = Some(marker.committed_at);
        picture.worker = Some(marker.worker.to_string());
        match &outcome.outcome {
            Outcome::Done { files, mask_coverage, scores, measures, accepted, tries, warnings, .. } => {
                picture.status = Status::Done;
                picture.seed = outcome.seed.get();
                picture.measures.clone_from(measures);
                picture.accepted = *accepted;
                picture.tries.clone_from(tries);
                picture.mask_coverage = *mask_coverage;
                picture.scores.clone_from(scores);
                picture.warnings.clone_from(warnings);
                picture.files = files.keys().map(|role| (role.clone(), url(run, marker.shard, task, role))).collect();
            }
            Outcome::Failed(error) => picture.failed(error),
        }
        picture
    }

    fn failed(&mut self, error: &TaskError) {
        self.status = Status::Failed;
        self.error = Some(error.clone());
    }
}

fn url(run: &Opened, shard: ShardId, task: &Task, role: &str) -> String {
    let role = utf8_percent_encode(role, NON_ALPHANUMERIC);
    format!("v1/runs/{}/files/{shard}/{}/{role}", run.spec.run, task.index.0)
}

/// The shard that a path names; of a round that the run has.
fn shard_of(run: &Opened, shard: &str) -> Result<ShardId, Problem> {
    let unknown = || Problem::not_found("unknown_shard", format!("the run has no shard {}", quoted(shard)));
    let shard: ShardId = shard.parse().map_err(|_| unknown())?;
    let round = run.history.round(shard.round).filter(|round| shard.index < round.shards);
    round.map(|_| shard).ok_or_else(unknown)
}

/// The pictures of a shard: with its marker as it was made, without it as they are wanted.
async fn pictures(
    api: &Shared,
    run: &Opened,
    shard: ShardId,
) -> Result<(Vec<Picture>, Option<Arc<CommitMarker>>), Problem> {
    let marker = async { Ok::<_, Problem>(api.shelf.marker(run, shard).await?) };
    let (tasks, marker) = futures::try_join!(api.shelf.tasks(run, shard), marker)?;
    let picture = |task: &Task| {
        let outcome = marker.as_ref().and_then(|marker| Some((marker, outcome_of(marker, task)?)));
        match outcome {
            Some((marker, outcome)) => Picture::of(api, run, marker, task, outcome),
            None => Picture::waiting(api, run, shard, task),
        }
    };
    Ok((tasks.iter().map(picture).collect(), marker))
}

fn outcome_of<'a>(marker: &'a CommitMarker, task: &Task) -> Option<&'a TaskOutcome> {
    marker.outcomes.iter().find(|outcome| outcome.task == task.index)
}
