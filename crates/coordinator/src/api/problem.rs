//! Errors as RFC 9457 says: a status, a stable code, a sentence that helps.

use axum::extract::rejection::QueryRejection;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use diorama_backends::objects::{ObjectError, ObjectErrorKind};
use diorama_backends::progress::ProgressError;
use diorama_backends::queue::QueueError;
use diorama_core::run::RunState;
use diorama_core::text::plain;
use diorama_protocol::history::Refused;
use diorama_protocol::{DecideError, ProtocolError};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::error::CoordinatorError;

/// What went wrong (`application/problem+json`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// The HTTP status.
    #[schema(example = 409)]
    pub status: u16,
    /// A stable code.
    #[schema(example = "illegal_transition")]
    pub code: String,
    /// The status in words.
    pub title: String,
    /// What was wrong and how to mend it.
    pub detail: String,
    /// What is wrong with a manifest: line, code, message, param.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    #[schema(value_type = Option<Vec<Object>>)]
    pub issues: Option<Vec<diorama_core::manifest::ManifestIssue>>,
    /// All of them, where not all are listed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub issue_count: Option<u64>,
}

/// The most characters of a `detail`: room for every list of our own, and none for a body that comes back.
const MAX_DETAIL: usize = 4000;

impl Problem {
    pub(crate) fn new(status: u16, code: &str, detail: impl Into<String>) -> Self {
        let title = StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason()).unwrap_or("Error");
        Self {
            status,
            code: code.to_owned(),
            title: title.to_owned(),
            detail: plain(&detail.into(), MAX_DETAIL),
            issues: None,
            issue_count: None,
        }
    }

    pub(crate) fn bad_request(code: &str, detail: impl Into<String>) -> Self {
        Self::new(400, code, detail)
    }

    pub(crate) fn not_found(code: &str, detail: impl Into<String>) -> Self {
        Self::new(404, code, detail)
    }

    pub(crate) fn conflict(code: &str, detail: impl Into<String>) -> Self {
        Self::new(409, code, detail)
    }

    pub(crate) fn too_large(what: &str, limit: u64) -> Self {
        Self::new(413, "too_large", format!("the {what} is larger than {limit} bytes"))
    }
}

/// The code of a problem, on its answer.
#[derive(Clone)]
pub(super) struct Code(pub(super) String);

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let code = Code(self.code.clone());
        let mut response = (status, axum::Json(self)).into_response();
        response.extensions_mut().insert(code);
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        response
    }
}

/// The services that a request may meet, as an answer names them: where they are and what they said is in the log, for
/// whoever runs the fleet.
#[derive(Clone, Copy)]
enum Service {
    Objects,
    Progress,
    Queue,
}

impl Service {
    fn name(self) -> &'static str {
        match self {
            Self::Objects => "object store",
            Self::Progress => "progress service (Redis)",
            Self::Queue => "queue (RabbitMQ)",
        }
    }

    fn code(self, what: &str) -> String {
        let name = match self {
            Self::Objects => "object_store",
            Self::Progress => "progress",
            Self::Queue => "queue",
        };
        format!("{name}_{what}")
    }

    /// Logged here, because this is where it is decided what becomes of it.
    fn unavailable(self, error: &dyn std::fmt::Display) -> Problem {
        let (code, name) = (self.code("unavailable"), self.name());
        tracing::warn!(%error, code, "a request could not be served");
        Problem::new(503, &code, format!("the {name} does not answer as it should; try again (the log says more)"))
    }

    /// The same of what no repetition mends.
    fn refused(self, error: &dyn std::fmt::Display) -> Problem {
        let (code, name) = (self.code("refused"), self.name());
        tracing::error!(%error, code, "a request could not be served, and no later one will be");
        let detail =
            format!("the {name} refuses the coordinator, and retrying does not help; its log says what to fix");
        Problem::new(500, &code, detail)
    }
}

impl From<ObjectError> for Problem {
    fn from(error: ObjectError) -> Self {
        match error.kind {
            ObjectErrorKind::NotFound => {
                tracing::debug!(%error, "an object is not there");
                Self::not_found("unknown_object", "there is no such object")
            }
            ObjectErrorKind::InvalidKey => Self::bad_request("invalid_key", error.to_string()),
            ObjectErrorKind::Damaged => {
                tracing::error!(%error, "a damaged object");
                Self::new(500, "damaged_object", error.to_string())
            }
            _ if error.may_pass_later() => Service::Objects.unavailable(&error),
            _ => Service::Objects.refused(&error),
        }
    }
}

impl From<ProgressError> for Problem {
    fn from(error: ProgressError) -> Self {
        let service = Service::Progress;
        if error.is_retryable() { service.unavailable(&error) } else { service.refused(&error) }
    }
}

impl From<QueueError> for Problem {
    fn from(error: QueueError) -> Self {
        let service = Service::Queue;
        if error.is_retryable() { service.unavailable(&error) } else { service.refused(&error) }
    }
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Self {
        match &refused {
            Refused::Illegal { from: RunState::Submitting, .. } => Self::conflict(
                "not_submitted",
                format!(
                    "{refused}: its submission is in progress, or was interrupted; send it again, or delete the run"
                ),
            ),
            Refused::Illegal { .. } => Self::conflict("illegal_transition", refused.to_string()),
            Refused::NotEnded { .. } => Self::conflict("not_ended", refused.to_string()),
            Refused::Late { .. } => Self::conflict("changed_meanwhile", format!("{refused}; check again")),
            Refused::Deleted => Self::not_found("unknown_run", refused.to_string()),
        }
    }
}

impl From<QueryRejection> for Problem {
    fn from(rejection: QueryRejection) -> Self {
        // The library's own words stand before those that name the parameter.
        let said = rejection.body_text();
        let said = said.strip_prefix("Failed to deserialize query string: ").unwrap_or(&said);
        Self::bad_request("invalid_query", format!("the query of this address cannot be read: {said}"))
    }
}

impl From<DecideError> for Problem {
    fn from(error: DecideError) -> Self {
        match error {
            DecideError::Refused(refused) => refused.into(),
            DecideError::Objects(error) => error.into(),
        }
    }
}

impl From<ProtocolError> for Problem {
    fn from(error: ProtocolError) -> Self {
        CoordinatorError::from(error).into()
    }
}

impl From<CoordinatorError> for Problem {
    fn from(error: CoordinatorError) -> Self {
        match error {
            CoordinatorError::Objects(error) => error.into(),
            CoordinatorError::Queue(error) => error.into(),
            CoordinatorError::Progress(error) => error.into(),
            CoordinatorError::Differs { .. } => Self::conflict("other_run", error.to_string()),
            CoordinatorError::UnknownBlobs { .. } => Self::conflict("unknown_blobs", error.to_string()),
            CoordinatorError::BlobsGoing => Self::new(503, "blobs_going", format!("{error}; try again")),
            CoordinatorError::Tasks(_) | CoordinatorError::TaskCount { .. } => {
                Self::bad_request("manifest_changed", error.to_string())
            }
            CoordinatorError::TooHeavy(_) => Self::new(413, "shard_too_large", error.to_string()),
            CoordinatorError::Refused(refused) => refused.into(),
            CoordinatorError::NothingFailed { .. } => Self::conflict("nothing_failed", error.to_string()),
            CoordinatorError::Unusable { .. } => {
                tracing::error!(%error, "a damaged run");
                Self::new(500, "damaged_run", error.to_string())
            }
        }
    }
}

/// This machine's disk failed us.
pub(crate) fn disk(error: std::io::Error) -> Problem {
    tracing::error!(%error, "an upload could not be kept");
    Problem::new(503, "scratch_unavailable", "the coordinator cannot write to its scratch folder; try again later")
}

/// A defect of ours.
pub(crate) fn panicked(error: impl std::fmt::Display) -> Problem {
    tracing::error!(%error, "checking a manifest failed");
    Problem::new(500, "internal", "checking the manifest failed; the coordinator's log says more")
}
