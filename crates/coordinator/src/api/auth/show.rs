//! What the token of a request allows, for whoever sent it.

use axum::{Extension, Json};
use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use super::caller::{Caller, Role};
use crate::api::Problem;

/// The token of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct TokenStatus {
    /// Its name in the file of tokens; `None` where no token is needed.
    pub name: Option<String>,
    /// What it allows.
    #[schema(value_type = String, example = "viewer")]
    pub role: Role,
    /// The group whose runs it shares.
    pub group: Option<String>,
    /// Whether it sees the runs of others.
    pub sees_all: bool,
    /// Until when it is good; `None`: until it is revoked.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires: Option<Timestamp>,
}

impl From<&Caller> for TokenStatus {
    fn from(caller: &Caller) -> Self {
        let token = caller.token();
        Self {
            name: caller.name().map(str::to_owned),
            role: caller.role(),
            group: token.and_then(|token| token.group.clone()),
            sees_all: caller.sees_all(),
            expires: token.and_then(|token| token.expires),
        }
    }
}

/// The name and the role of the token that is sent.
#[utoipa::path(get, path = "/v1/token", tag = "fleet",
    responses((status = 200, body = TokenStatus), (status = 401, body = Problem)))]
pub(in crate::api) async fn show(Extension(caller): Extension<Caller>) -> Json<TokenStatus> {
    Json(TokenStatus::from(&caller))
}
