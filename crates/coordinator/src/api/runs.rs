//! Runs: list, status, changes of state, events.

use std::convert::Infallible;
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::sse::{Event, KeepAlive, Sse};
use diorama_core::id::RunId;
use diorama_core::key::SharedKey;
use diorama_core::run::RunState;
use futures::stream::{self, Stream};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{Problem, Shared};
use crate::reopen::hand_over;
use crate::status::{RunStatus, status};

/// Between two looks for the stream of events.
const EVENT_POLL: Duration = Duration::from_millis(if cfg!(test) { 5 } else { 1000 });

/// Which part of the list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct Paging {
    /// The run behind which the page begins.
    after: Option<String>,
    /// Runs a page: 1 to 100, 50 where it is not given.
    limit: Option<usize>,
    /// Only runs that have not ended.
    #[serde(default)]
    active: bool,
}

/// One page of runs, in the order of submission.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct RunPage {
    /// How each of them stands.
    #[schema(value_type = Vec<Object>)]
    runs: Vec<RunStatus>,
    /// What to give as `after` for the next page; absent at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// The runs, in the order of submission.
#[utoipa::path(get, path = "/v1/runs", tag = "runs", params(Paging),
    responses((status = 200, body = RunPage), (status = 401, body = Problem)))]
pub(super) async fn list(State(api): State<Shared>, Query(paging): Query<Paging>) -> Result<Json<RunPage>, Problem> {
    let prefix = if paging.active { SharedKey::ACTIVE } else { SharedKey::SUBMITTED };
    let after = paging.after.map(|run| format!("{prefix}{run}"));
    let limit = paging.limit.unwrap_or(50).clamp(1, 100);
    let page = api.backends().objects.list(prefix, after.as_deref(), limit).await?;
    let mut runs = Vec::with_capacity(page.objects.len());
    for object in &page.objects {
        let Some(run) = SharedKey::run(&object.key) else { continue };
        match api.run(run.as_str()).await {
            Ok((store, spec)) => runs.push(status(api.backends(), &store, &spec).await?),
            Err(problem) if problem.status == 404 => {} // Its submission is under way.
            Err(problem) => return Err(problem),
        }
    }
    let next = page.next.as_deref().and_then(SharedKey::run).map(|run| run.to_string());
    Ok(Json(RunPage { runs, next }))
}

/// How a run stands.
#[utoipa::path(get, path = "/v1/runs/{run}", tag = "runs", params(("run" = String, Path)),
    responses((status = 200, body = Object), (status = 404, body = Problem)))]
pub(super) async fn show(State(api): State<Shared>, Path(run): Path<String>) -> Result<Json<RunStatus>, Problem> {
    let (store, spec) = api.run(&run).await?;
    Ok(Json(status(api.backends(), &store, &spec).await?))
}

/// Pauses, resumes or cancels a run: `action` is `pause`, `resume` or `cancel`. Workers stop before their next batch.
#[utoipa::path(post, path = "/v1/runs/{run}/{action}", tag = "runs",
    params(("run" = String, Path), ("action" = String, Path, description = "pause, resume or cancel")),
    responses((status = 200, body = Object), (status = 404, body = Problem),
              (status = 409, description = "the run's state does not allow it", body = Problem)))]
pub(super) async fn change(
    State(api): State<Shared>,
    Path((run, action)): Path<(String, String)>,
) -> Result<Json<RunStatus>, Problem> {
    let wanted = match action.as_str() {
        "pause" => RunState::Paused,
        "resume" => RunState::Running,
        "cancel" => RunState::Cancelled,
        _ => {
            let message = format!("there is no action {action:?}: pause, resume and cancel are actions");
            return Err(Problem::not_found("unknown_action", message));
        }
    };
    let (store, spec) = api.run(&run).await?;
    let now = status(api.backends(), &store, &spec).await?;
    now.state.to(wanted).map_err(|illegal| Problem::conflict("illegal_transition", illegal.to_string()))?;
    match wanted {
        RunState::Paused => store.pause(None).await?,
        RunState::Cancelled => store.cancel().await?,
        RunState::Running | RunState::Finished => store.resume().await?,
    }
    Ok(Json(status(api.backends(), &store, &spec).await?))
}

/// Deletes a run that has ended, with everything that it made; uploaded references stay. For the role admin.
#[utoipa::path(delete, path = "/v1/runs/{run}", tag = "runs", params(("run" = String, Path)),
    responses((status = 202, description = "it is gone for everybody, and its objects are being removed"),
              (status = 403, body = Problem), (status = 404, body = Problem),
              (status = 409, description = "the run has not ended", body = Problem)))]
pub(super) async fn delete(State(api): State<Shared>, Path(run): Path<String>) -> Result<StatusCode, Problem> {
    let objects = &*api.backends().objects;
    match api.run(&run).await {
        Ok((store, spec)) => crate::delete::delete(&store, &spec.run).await?,
        // Where whoever deleted it died in the middle, this is what was missing.
        Err(problem) => match RunId::new(run) {
            Ok(run) if crate::delete::is_under_way(objects, &run).await? => hand_over(objects, &run).await?,
            _ => return Err(problem),
        },
    }
    Ok(StatusCode::ACCEPTED)
}

/// Server-sent events: `status` with the run's status at once and whenever it changes, `end` when the run has ended.
#[utoipa::path(get, path = "/v1/runs/{run}/events", tag = "runs", params(("run" = String, Path)),
    responses((status = 200, description = "text/event-stream"), (status = 404, body = Problem)))]
pub(super) async fn events(
    State(api): State<Shared>,
    Path(run): Path<String>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Problem> {
    let (store, spec) = api.run(&run).await?;
    let next = move |(mut last, ended): (Option<RunStatus>, bool)| {
        let (api, store, spec) = (api.clone(), store.clone(), spec.clone());
        async move {
            if ended {
                return None;
            }
            loop {
                if last.is_some() {
                    tokio::time::sleep(EVENT_POLL).await;
                }
                match status(api.backends(), &store, &spec).await {
                    Ok(now) if last.as_ref() != Some(&now) => {
                        let ended = now.summary.is_some();
                        let name = if ended { "end" } else { "status" };
                        let event = Event::default().event(name).json_data(&now).unwrap_or_default();
                        return Some((Ok(event), (Some(now), ended)));
                    }
                    Ok(_) => {}
                    Err(error) => {
                        tracing::warn!(%error, "a stream of events goes on when the services are back");
                        last = None;
                        tokio::time::sleep(EVENT_POLL).await;
                    }
                }
            }
        }
    };
    Ok(Sse::new(stream::unfold((None, false), next)).keep_alive(KeepAlive::default()))
}
