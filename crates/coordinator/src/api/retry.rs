//! Failed tasks of an ended run, tried again.

use std::collections::BTreeSet;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use diorama_core::outcome::ErrorCode;
use diorama_core::round::FailedWhere;
use serde::Deserialize;
use utoipa::ToSchema;

use super::{Opened, Problem, Shared};
use crate::reopen::reopen;
use crate::service::hand_over;
use crate::status::RunStatus;

/// The largest body, in bytes.
const MAX_BYTES: usize = 1 << 16;

/// Which failed tasks are tried again; without a body, or with an empty object, all of them.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RetryRequest {
    /// Every condition that is given must fit.
    #[serde(default)]
    r#where: RetryWhere,
}

/// Conditions on failed tasks.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RetryWhere {
    /// Their error code is one of these.
    #[schema(example = json!(["poison", "out_of_memory"]))]
    code: Option<Vec<String>>,
    /// Whether they could succeed with nothing changed.
    retryable: Option<bool>,
}

impl RetryRequest {
    async fn read(body: Body) -> Result<Self, Problem> {
        let bytes = axum::body::to_bytes(body, MAX_BYTES).await;
        let bytes = bytes.map_err(|_| Problem::too_large("body, or it was cut off: it", MAX_BYTES as u64))?;
        if bytes.is_empty() {
            return Ok(Self::default());
        }
        serde_json::from_slice(&bytes).map_err(|error| Problem::bad_request("invalid_body", error.to_string()))
    }

    fn which(self) -> Result<FailedWhere, Problem> {
        let RetryWhere { code, retryable } = self.r#where;
        let read = |codes: Vec<String>| {
            if codes.is_empty() {
                return Err(Problem::bad_request(
                    "invalid_body",
                    "where.code is an empty list; leave it out for every code",
                ));
            }
            let codes = codes.iter().map(|code| code.parse::<ErrorCode>()).collect::<Result<BTreeSet<_>, _>>();
            codes.map_err(|message| Problem::bad_request("unknown_code", format!("where.code: {message}")))
        };
        Ok(FailedWhere { code: code.map(read).transpose()?, retryable })
    }
}

/// Tries failed tasks of an ended run again, cancelled ones too; the others keep their outcomes.
#[utoipa::path(post, path = "/v1/runs/{run}/retry", tag = "runs", params(("run" = String, Path)),
    request_body(content = Option<RetryRequest>, description = "optional"),
    responses((status = 200, body = Object), (status = 400, body = Problem), (status = 404, body = Problem),
              (status = 409, description = "the run has not ended, or no failed task matches", body = Problem)))]
pub(super) async fn retry(State(api): State<Shared>, mut run: Opened, body: Body) -> Result<Json<RunStatus>, Problem> {
    let which = RetryRequest::read(body).await?.which()?;
    let reopened = reopen(api.backends(), &run.store, &run.spec, &mut run.history, &api.config.name, which).await;
    // Also where it was reopened before, by somebody who died in the middle.
    hand_over(api.backends(), &run.spec.run).await?;
    reopened?;
    Ok(Json(run.status(&api).await?))
}
