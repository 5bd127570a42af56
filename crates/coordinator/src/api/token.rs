//! Who is asking, as the API sees it.

use axum::{Extension, Json};
use serde::Serialize;
use utoipa::ToSchema;

use super::{Problem, Role};

/// The token of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(super) struct Caller {
    /// Its name in the file of tokens; `None` where no token is needed.
    pub(super) name: Option<String>,
    /// What it allows.
    #[schema(value_type = String, example = "viewer")]
    pub(super) role: Role,
}

/// The name and the role of the token that is sent.
#[utoipa::path(get, path = "/v1/token", tag = "fleet",
    responses((status = 200, body = Caller), (status = 401, body = Problem)))]
pub(super) async fn show(Extension(caller): Extension<Caller>) -> Json<Caller> {
    Json(caller)
}
