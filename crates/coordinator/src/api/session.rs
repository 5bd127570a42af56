//! Logging in from a browser: a token becomes a cookie that scripts cannot read and other pages cannot use.

use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use diorama_core::clock;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::auth::Caller;
use super::auth::show::TokenStatus;
use super::{Problem, Shared};

/// The cookie's name. It has no path of its own, so it belongs to `v1/` below whatever prefix the page lies at.
const COOKIE: &str = "diorama_session";

/// What a page of ours sends along with whatever changes anything. No form can, and no other page may.
const PAGE: &str = "diorama-page";

/// A token, as a person types it.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Login {
    token: String,
}

/// Who is logged in.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Session {
    #[serde(flatten)]
    token: TokenStatus,
    /// Whether this coordinator asks for tokens.
    tokens: bool,
}

/// Who is logged in, and what they may do.
#[utoipa::path(get, path = "/v1/session", tag = "fleet",
    responses((status = 200, body = Session), (status = 401, body = Problem)))]
pub(super) async fn show(State(api): State<Shared>, Extension(caller): Extension<Caller>) -> Json<Session> {
    Json(Session { token: TokenStatus::from(&caller), tokens: api.config.tokens.is_some() })
}

/// Logs in: the answer sets a cookie that stands for the token. For pages, which send the header `Diorama-Page: 1`.
#[utoipa::path(post, path = "/v1/session", tag = "fleet", request_body = Login,
    responses((status = 204, description = "logged in"), (status = 401, body = Problem), (status = 403, body = Problem)))]
pub(super) async fn log_in(
    State(api): State<Shared>,
    headers: HeaderMap,
    login: Result<Json<Login>, JsonRejection>,
) -> Result<Response, Problem> {
    check_page(&headers)?;
    let Json(Login { token }) = login.map_err(|error| Problem::bad_request("invalid_body", error.body_text()))?;
    let Some(tokens) = &api.config.tokens else { return Ok(StatusCode::NO_CONTENT.into_response()) };
    tokens.caller(token.trim(), clock::now())?;
    let value = BASE64_URL_SAFE_NO_PAD.encode(token.trim());
    Ok(cookie(&headers, &value, ""))
}

/// Logs out: the cookie is removed.
#[utoipa::path(delete, path = "/v1/session", tag = "fleet",
    responses((status = 204, description = "logged out"), (status = 403, body = Problem)))]
pub(super) async fn log_out(headers: HeaderMap) -> Result<Response, Problem> {
    check_page(&headers)?;
    Ok(cookie(&headers, "", "; Max-Age=0"))
}

fn cookie(headers: &HeaderMap, value: &str, more: &str) -> Response {
    // Behind an ingress, which says so, the browser speaks TLS.
    let is_secure = headers.get("x-forwarded-proto").is_some_and(|scheme| scheme == "https");
    let secure = if is_secure { "; Secure" } else { "" };
    let cookie = format!("{COOKIE}={value}; HttpOnly; SameSite=Strict{secure}{more}");
    let mut response = StatusCode::NO_CONTENT.into_response();
    if let Ok(cookie) = HeaderValue::from_str(&cookie) {
        response.headers_mut().insert(header::SET_COOKIE, cookie);
    }
    response
}

/// The token of whoever is logged in.
pub(super) fn token(headers: &HeaderMap) -> Option<String> {
    let cookies = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let value = cookies
        .flat_map(|cookies| cookies.split(';'))
        .find_map(|cookie| cookie.trim().strip_prefix(COOKIE)?.strip_prefix('='))?;
    String::from_utf8(BASE64_URL_SAFE_NO_PAD.decode(value).ok()?).ok()
}

/// Refuses a request that changes something and comes with a cookie from somebody else's page.
pub(super) fn check_page(headers: &HeaderMap) -> Result<(), Problem> {
    let is_ours = headers.get(PAGE).is_some_and(|value| value == "1");
    let message = "a request with a cookie needs the header Diorama-Page: 1; scripts should send a token instead, as \
                   Authorization: Bearer";
    is_ours.then_some(()).ok_or_else(|| Problem::new(403, "not_from_the_page", message))
}
