//! Runs: list, status, changes of state, events.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::QueryRejection;
use axum::extract::{FromRequestParts, Path, Query, State};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::{Extension, Json};
use diorama_core::id::RunId;
use diorama_core::key::SharedKey;
use diorama_core::run::{RunSpec, RunState};
use diorama_core::text::quoted;
use diorama_protocol::decision::Act;
use futures::stream::{self, Stream, StreamExt};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::auth::Caller;
use super::fleet::Series;
use super::turns::Turns;
use super::{Opened, Problem, Shared};
use crate::delete;
use crate::index::runs_below;
use crate::service::hand_over;
use crate::status::RunStatus;

/// Between two looks for the stream of events.
const EVENT_POLL: Duration = Duration::from_millis(if cfg!(test) { 5 } else { 1000 });

/// Runs that are looked at, at a time, where filters choose among all of them.
const AT_ONCE: usize = 128;

/// Which part of the list.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Paging {
    /// The run behind which the page begins.
    after: Option<String>,
    /// Runs a page: 1 to 100, 50 where it is not given.
    limit: Option<usize>,
    /// Only runs that have not ended.
    #[serde(default)]
    active: bool,
    /// Only runs in this state: submitting, running, paused, cancelled or finished.
    #[param(value_type = Option<String>)]
    state: Option<RunState>,
    /// Only runs whose name contains this.
    name: Option<String>,
    /// Only runs with this label: `name=value`.
    label: Option<String>,
}

impl Paging {
    /// Runs that are looked at, at a time: without a filter, no more than the page shows.
    fn at_once(&self, caller: &Caller, limit: usize) -> usize {
        let chooses = self.state.is_some() || self.name.is_some() || self.label.is_some() || !caller.sees_all();
        if chooses { AT_ONCE } else { limit + 1 }
    }

    fn fits(&self, run: &RunStatus) -> bool {
        let state = self.state.is_none_or(|state| state == run.state);
        let part = self.name.as_deref().unwrap_or_default();
        let name = run.name.as_deref().unwrap_or_default().contains(part);
        let label = self.label.as_deref().is_none_or(|label| {
            let (name, value) = label.split_once('=').unwrap_or((label, ""));
            run.labels.get(name).is_some_and(|known| known == value)
        });
        state && name && label && !(self.active && run.summary.is_some())
    }
}

/// One page of runs, the latest first.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct RunPage {
    /// How each of them stands.
    runs: Vec<RunStatus>,
    /// What to give as `after` for the next page; absent at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
    /// Runs that cannot be read.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    damaged: Vec<DamagedRun>,
}

/// A run that cannot be read.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct DamagedRun {
    /// Its id.
    run: String,
    /// What is wrong with it.
    problem: String,
}

/// The runs that the caller sees, the latest first.
#[utoipa::path(get, path = "/v1/runs", tag = "runs", params(Paging),
    responses((status = 200, body = RunPage), (status = 400, body = Problem), (status = 401, body = Problem)))]
pub(super) async fn list(
    State(api): State<Shared>,
    Extension(caller): Extension<Caller>,
    paging: Result<Query<Paging>, QueryRejection>,
) -> Result<Json<RunPage>, Problem> {
    let Query(paging) = paging?;
    let prefix = if paging.active { SharedKey::ACTIVE } else { SharedKey::SUBMITTED };
    let limit = paging.limit.unwrap_or(50).clamp(1, 100);
    // The latest first.
    let mut ids: Vec<RunId> = runs_below(&*api.backends().objects, prefix).await?.into_iter().rev().collect();
    if let Some(after) = &paging.after {
        ids.retain(|run| run.as_str() < after.as_str());
    }
    let turns = Turns::new(&api);
    let look = |run: RunId| {
        let (api, turns, caller) = (&api, &turns, &caller);
        async move {
            let looked = async {
                match api.open(caller, &run).await? {
                    Some(opened) => Ok::<_, Problem>(Some(opened.status_among(turns, api).await?)),
                    None => Ok(None),
                }
            };
            let looked = looked.await;
            (run, looked)
        }
    };
    let mut page = RunPage { runs: Vec::new(), next: None, damaged: Vec::new() };
    let mut looked = stream::iter(ids).map(look).buffered(paging.at_once(&caller, limit));
    while let Some((run, status)) = looked.next().await {
        if page.runs.len() == limit {
            page.next = page.runs.last().map(|last| last.run.to_string());
            break;
        }
        match status {
            Ok(Some(status)) if paging.fits(&status) => page.runs.push(status),
            // It is not meant, or it was deleted.
            Ok(_) => {}
            // Only a service that is away says something of all of them.
            Err(problem) if problem.status != 503 => {
                // Nor is it said whose it is.
                if !caller.sees_all() {
                    continue;
                }
                page.damaged.push(DamagedRun { run: run.to_string(), problem: problem.detail });
            }
            Err(problem) => return Err(problem),
        }
    }
    Ok(Json(page))
}

/// How a run stands.
#[utoipa::path(get, path = "/v1/runs/{run}", tag = "runs", params(("run" = String, Path)),
    responses((status = 200, body = RunStatus), (status = 404, body = Problem)))]
pub(super) async fn show(State(api): State<Shared>, run: Opened) -> Result<Json<RunStatus>, Problem> {
    Ok(Json(run.status(&api).await?))
}

/// What was submitted: the manifest's digest, the settings, the seed, the shards' size, when failures are tried again.
#[utoipa::path(get, path = "/v1/runs/{run}/spec", tag = "runs", params(("run" = String, Path)),
    responses((status = 200, body = Object), (status = 404, body = Problem)))]
pub(super) async fn spec(run: Opened) -> Json<RunSpec> {
    Json(run.spec.as_ref().clone())
}

/// Pictures of a run by interval, over the last hour in which it made any.
#[utoipa::path(get, path = "/v1/runs/{run}/throughput", tag = "runs", params(("run" = String, Path)),
    responses((status = 200, body = Series), (status = 404, body = Problem)))]
pub(super) async fn throughput(State(api): State<Shared>, run: Opened) -> Result<Json<Series>, Problem> {
    Ok(Json(api.backends().progress.throughput(&run.spec.run).await?.into()))
}

/// What the path asks to be done to a run.
pub(super) struct Action(Act);

impl FromRequestParts<Shared> for Action {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Shared) -> Result<Self, Problem> {
        let path = Path::<(String, String)>::from_request_parts(parts, api).await;
        let Path((_, action)) = path.map_err(|error| Problem::bad_request("invalid_path", error.body_text()))?;
        match action.as_str() {
            "pause" => Ok(Self(Act::Paused { reason: None })),
            "resume" => Ok(Self(Act::Resumed)),
            "cancel" => Ok(Self(Act::Cancelled)),
            _ => {
                let message = format!("there is no action {}: pause, resume and cancel are actions", quoted(&action));
                Err(Problem::not_found("unknown_action", message))
            }
        }
    }
}

/// Pauses, resumes or cancels a run: `action` is `pause`, `resume` or `cancel`. Workers stop before their next batch.
#[utoipa::path(post, path = "/v1/runs/{run}/{action}", tag = "runs",
    params(("run" = String, Path), ("action" = String, Path, description = "pause, resume or cancel")),
    responses((status = 200, body = RunStatus), (status = 404, body = Problem),
              (status = 409, description = "the run's state does not allow it", body = Problem)))]
pub(super) async fn change(
    State(api): State<Shared>,
    Action(act): Action,
    mut run: Opened,
) -> Result<Json<RunStatus>, Problem> {
    run.decide(&api, act).await?;
    Ok(Json(run.status(&api).await?))
}

/// Deletes a run that has ended or cannot be brought to its end, with everything that it made, or one that was never
/// completely submitted. Its uploaded references go later, unless another run names them. For the role admin.
#[utoipa::path(delete, path = "/v1/runs/{run}", tag = "runs", params(("run" = String, Path)),
    responses((status = 202, description = "it is deleted, and its objects are being removed"),
              (status = 403, body = Problem), (status = 404, body = Problem),
              (status = 409, description = "the run has not ended", body = Problem)))]
pub(super) async fn delete(
    State(api): State<Shared>,
    Path(run): Path<String>,
    opened: Result<Opened, Problem>,
) -> Result<StatusCode, Problem> {
    match opened {
        Ok(mut opened) => {
            let (backends, run) = (api.backends(), opened.spec.run.clone());
            delete::delete(backends, &opened.store, &run, &mut opened.history, &api.config.name).await?;
            hand_over(backends, &run).await?;
        }
        // For an admin, who alone may delete, there is no run that is another's.
        Err(problem) => {
            let Ok(run) = RunId::new(run) else { return Err(problem) };
            let mut history = api.store(&run).history().await?;
            let there = api.backends().objects.head(&SharedKey::Submitted(run.clone()).to_string()).await?.is_some();
            if !there {
                return Err(problem);
            }
            // Half a submission without a spec; or whoever deleted it died in the middle.
            let (backends, store) = (api.backends(), api.store(&run));
            delete::delete(backends, &store, &run, &mut history, &api.config.name).await?;
            hand_over(backends, &run).await?;
        }
    }
    Ok(StatusCode::ACCEPTED)
}

/// Server-sent events: `status` with the run's status at once and whenever it changes, `end` when the run has ended.
#[utoipa::path(get, path = "/v1/runs/{run}/events", tag = "runs", params(("run" = String, Path)),
    responses((status = 200, description = "text/event-stream"), (status = 404, body = Problem)))]
pub(super) async fn events(
    State(api): State<Shared>,
    Extension(caller): Extension<Caller>,
    run: Opened,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Problem> {
    let hold = Arc::new(api.usage.stream(&caller)?);
    let run = Arc::new(run);
    let next = move |(mut last, ended): (Option<RunStatus>, bool)| {
        let (api, run, caller, hold) = (api.clone(), run.clone(), caller.clone(), hold.clone());
        async move {
            if ended {
                return None;
            }
            loop {
                if last.is_some() {
                    tokio::time::sleep(EVENT_POLL).await;
                }
                // A token that was revoked or has expired follows nothing any more.
                if !api.is_still_good(&caller) {
                    return None;
                }
                let _held = &hold;
                let now = async {
                    match run.again(&api).await? {
                        Some(opened) => Ok::<_, Problem>(Some(opened.status(&api).await?)),
                        None => Ok(None),
                    }
                };
                match now.await {
                    // It was deleted.
                    Ok(None) => return None,
                    Ok(Some(now)) if last.as_ref() != Some(&now) => {
                        let ended = now.summary.is_some();
                        let name = if ended { "end" } else { "status" };
                        let event = Event::default().event(name).json_data(&now).unwrap_or_default();
                        return Some((Ok(event), (Some(now), ended)));
                    }
                    Ok(Some(_)) => {}
                    Err(problem) => {
                        tracing::warn!(problem = problem.detail, "an event stream resumes when the services are back");
                        last = None;
                        tokio::time::sleep(EVENT_POLL).await;
                    }
                }
            }
        }
    };
    Ok(Sse::new(stream::unfold((None, false), next)).keep_alive(KeepAlive::default()))
}
