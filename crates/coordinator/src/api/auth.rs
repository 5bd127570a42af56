//! Who may do what: bearer tokens with a role each, known by their digests only.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use axum::extract::{Request, State};
use axum::http::{Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use diorama_core::clock;
use diorama_core::id::Sha256Hex;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::token::Caller;
use super::{Problem, Shared, session};

/// What a token allows; each role includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// To look.
    Viewer,
    /// To submit runs and to steer them.
    Submitter,
    /// Everything, the deletion of runs included.
    Admin,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Token {
    /// Whose it is; stands in logs.
    name: String,
    role: Role,
    /// SHA-256 of the token, in hexadecimal.
    sha256: Sha256Hex,
    /// Until when it is good.
    #[serde(default)]
    expires: Option<Timestamp>,
}

/// What a file of tokens holds.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenFile {
    token: Vec<Token>,
}

/// The tokens of a file, as it was read last.
#[derive(Debug)]
pub struct Tokens {
    path: PathBuf,
    known: RwLock<Known>,
}

#[derive(Debug)]
struct Known {
    text: String,
    tokens: Vec<Token>,
}

/// A file of tokens that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the token file {path}: {problem}; it holds [[token]] tables with name, role (viewer, submitter or admin), \
         sha256 of the token and, optionally, expires", path = .path.display())]
pub struct TokensError {
    path: PathBuf,
    problem: String,
}

impl Tokens {
    /// Reads the file.
    pub fn load(path: &Path) -> Result<Self, TokensError> {
        Ok(Self { path: path.to_owned(), known: RwLock::new(read(path)?) })
    }

    /// Reads the file again; whether it has changed. While it cannot be used, the tokens that it had stay good.
    pub(super) fn reload(&self) -> Result<bool, TokensError> {
        let read = read(&self.path)?;
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let changed = known.text != read.text;
        *known = read;
        Ok(changed)
    }

    pub(super) fn caller(&self, token: &str, now: Timestamp) -> Result<Caller, Problem> {
        let digest = Sha256Hex::of(token.as_bytes());
        let unknown = || Problem::new(401, "unknown_token", "unknown token");
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let token = known.tokens.iter().find(|known| known.sha256 == digest).ok_or_else(unknown)?;
        match token.expires {
            Some(expires) if expires <= now => {
                let message = format!("the token of {} expired at {expires}; ask for a new one", token.name);
                Err(Problem::new(401, "expired_token", message))
            }
            _ => Ok(Caller { name: Some(token.name.clone()), role: token.role }),
        }
    }
}

fn read(path: &Path) -> Result<Known, TokensError> {
    let failed = |problem: String| TokensError { path: path.to_owned(), problem };
    let text = std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
    let TokenFile { token: tokens } = toml::from_str(&text).map_err(|error| failed(error.to_string()))?;
    if tokens.is_empty() { Err(failed("it has no tokens".to_owned())) } else { Ok(Known { text, tokens }) }
}

/// Lets a request through where its token's role is high enough: reading needs viewer, deleting admin, everything else
/// submitter.
pub(super) async fn check(State(api): State<Shared>, mut request: Request, next: Next) -> Response {
    let wanted = match *request.method() {
        _ if is_safe(request.method()) => Role::Viewer,
        Method::DELETE => Role::Admin,
        _ => Role::Submitter,
    };
    let caller = match &api.config.tokens {
        Some(tokens) => identify(tokens, &request),
        None => check_local(&request).map(|()| Caller { name: None, role: api.config.role_without_tokens }),
    };
    match caller {
        Ok(caller) if caller.role >= wanted => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Ok(Caller { role, .. }) => {
            let message = format!("this needs the role {wanted:?}, and yours is {role:?}").to_lowercase();
            Problem::new(403, "role_too_low", message).into_response()
        }
        Err(problem) => {
            let is_unknown = problem.status == 401;
            let mut response = problem.into_response();
            if is_unknown {
                response.headers_mut().insert(header::WWW_AUTHENTICATE, header::HeaderValue::from_static("Bearer"));
            }
            response
        }
    }
}

/// Whose token the request carries: in its header, or, from a page, in its cookie.
fn identify(tokens: &Tokens, request: &Request) -> Result<Caller, Problem> {
    let given = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    if let Some(token) = given.and_then(|value| value.strip_prefix("Bearer ")) {
        return tokens.caller(token.trim(), clock::now());
    }
    let missing = || Problem::new(401, "missing_token", "send a token: Authorization: Bearer TOKEN");
    let token = session::token(request.headers()).ok_or_else(missing)?;
    if !is_safe(request.method()) {
        session::check_page(request.headers())?;
    }
    tokens.caller(&token, clock::now())
}

fn is_safe(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD)
}

/// Without tokens whoever reaches the API may do anything, and a browser on this machine reaches it for any page that it
/// shows. So such a coordinator answers to the names of this machine only, and changes nothing for another page.
fn check_local(request: &Request) -> Result<(), Problem> {
    let header = |name| request.headers().get(name).and_then(|value: &header::HeaderValue| value.to_str().ok());
    let host = header(header::HOST).unwrap_or("localhost");
    if !is_loopback(host) {
        let message = format!(
            "without a --tokens-file the API answers to localhost only, and this request was sent to {host:.80?}: give \
             the coordinator tokens, or reach it as localhost"
        );
        return Err(Problem::new(403, "foreign_host", message));
    }
    let Some(origin) = header(header::ORIGIN).filter(|_| !is_safe(request.method())) else { return Ok(()) };
    match origin.split_once("://") {
        Some((_, origin)) if origin == host => Ok(()),
        _ => Err(Problem::new(403, "foreign_page", format!("a page of {origin:.80?} may not change anything here"))),
    }
}

/// Whether a `Host` is this machine's own name or address, whatever the port.
fn is_loopback(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|digit| digit.is_ascii_digit()) => name,
        _ => host,
    };
    let address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    name == "localhost" || name.ends_with(".localhost") || address.is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, role: &str, expires: &str) -> String {
        let sha256 = Sha256Hex::of(name.as_bytes());
        format!("[[token]]\nname = \"{name}\"\nrole = \"{role}\"\nsha256 = \"{sha256}\"\n{expires}\n")
    }

    fn tokens(text: &str) -> (tempfile::NamedTempFile, Tokens) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let tokens = Tokens::load(file.path()).unwrap();
        (file, tokens)
    }

    #[test]
    fn a_token_has_its_role_until_it_expires_and_no_other_text_is_one() {
        let text = [entry("eve", "viewer", ""), entry("old", "admin", "expires = \"2020-01-01T00:00:00Z\"")].concat();
        let (_file, tokens) = tokens(&text);
        let role = |token: &str, now: &str| {
            tokens.caller(token, now.parse().unwrap()).map(|caller| caller.role).map_err(|problem| problem.code)
        };
        assert_eq!(role("eve", "2026-01-01T00:00:00Z"), Ok(Role::Viewer));
        assert_eq!(role("old", "2019-12-31T23:59:59Z"), Ok(Role::Admin));
        assert_eq!(role("old", "2020-01-01T00:00:00Z"), Err("expired_token".to_owned()));
        assert_eq!(role("mallory", "2020-01-01T00:00:00Z"), Err("unknown_token".to_owned()));
        assert_eq!(role("", "2020-01-01T00:00:00Z"), Err("unknown_token".to_owned()));
    }

    #[test]
    fn a_file_that_changes_is_read_again_and_one_that_is_broken_changes_nothing() {
        let (file, tokens) = tokens(&entry("eve", "viewer", ""));
        let role = |token: &str| tokens.caller(token, Timestamp::UNIX_EPOCH).map(|caller| caller.role).ok();
        assert!(!tokens.reload().unwrap(), "nothing has changed");
        std::fs::write(file.path(), "[[token]]\nname = 3").unwrap();
        tokens.reload().unwrap_err();
        assert_eq!((role("eve"), role("sam")), (Some(Role::Viewer), None));
        std::fs::write(file.path(), entry("sam", "admin", "")).unwrap();
        assert!(tokens.reload().unwrap());
        assert_eq!((role("eve"), role("sam")), (None, Some(Role::Admin)), "the old token is revoked");
    }
}
