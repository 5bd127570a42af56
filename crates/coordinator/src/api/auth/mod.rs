//! Who may do what: bearer tokens with a role each. What a token sees and steers is checked where a run is opened
//! (`access.rs`).

mod browser;
mod caller;
mod limits;
pub(super) mod show;
mod tokens;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use diorama_core::clock;

pub(crate) use self::caller::Caller;
pub use self::caller::{Role, Sees};

pub use self::show::TokenStatus;
pub use self::tokens::{Tokens, TokensError};
use super::{Api, Problem, Shared, session};

/// Lets a request through where its token's role is high enough: reading needs viewer, deleting admin, everything else
/// submitter. Handlers find the [`Caller`] among the request's extensions, and who logs the answer among its own.
pub(super) async fn check(State(api): State<Shared>, mut request: Request, next: Next) -> Response {
    let wanted = match *request.method() {
        _ if is_safe(request.method()) => Role::Viewer,
        Method::DELETE => Role::Admin,
        _ => Role::Submitter,
    };
    let caller = match identify(&api, request.method(), request.headers()) {
        Ok(caller) => caller,
        Err(problem) => return challenge(problem),
    };
    let mut response = if caller.role() >= wanted {
        request.extensions_mut().insert(caller.clone());
        next.run(request).await
    } else {
        let message = format!("this needs the role {wanted:?}; yours is {:?}", caller.role()).to_lowercase();
        Problem::new(403, "role_too_low", message).into_response()
    };
    response.extensions_mut().insert(caller);
    response
}

/// Without tokens, answers to the names of this machine only, whatever is asked for.
pub(super) async fn check_host(State(api): State<Shared>, request: Request, next: Next) -> Response {
    let checked = if api.config.tokens.is_some() { Ok(()) } else { browser::check_host(request.headers()) };
    match checked {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

fn challenge(problem: Problem) -> Response {
    let is_unknown = problem.status == 401;
    let mut response = problem.into_response();
    if is_unknown {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

/// Who sends the request: by the token in its header, or, from a page, in its cookie.
fn identify(api: &Api, method: &Method, headers: &HeaderMap) -> Result<Caller, Problem> {
    let Some(tokens) = &api.config.tokens else {
        browser::check_local(method, headers)?;
        return Ok(Caller::anybody(api.config.role_without_tokens));
    };
    let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    if let Some(token) = given.and_then(|value| value.strip_prefix("Bearer ")) {
        return tokens.caller(token.trim(), clock::now());
    }
    let missing = || Problem::new(401, "missing_token", "send a token: Authorization: Bearer TOKEN");
    let token = session::token(headers).ok_or_else(missing)?;
    if !is_safe(method) {
        session::check_page(headers)?;
    }
    tokens.caller(&token, clock::now())
}

impl Api {
    /// Whether the caller may go on with what was begun: the token is as it was, and has not expired.
    pub(super) fn is_still_good(&self, caller: &Caller) -> bool {
        match (&self.config.tokens, caller.token()) {
            (Some(tokens), Some(token)) => tokens.is_good(token, clock::now()),
            (tokens, _) => tokens.is_none(),
        }
    }
}

fn is_safe(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD)
}
