//! What one caller may take: so many requests at a time, and of those that cost CPU, fewer. Who has as many waits, with
//! a request a moment, until it is sent away; with a manifest that is here already, until its turn.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use diorama_core::caps::Caps;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::auth::Caller;
use super::{Problem, Shared};

/// How long a request waits for its turn.
const PATIENCE: Duration = Duration::from_secs(if cfg!(test) { 0 } else { 10 });

/// Manifests of one token that are checked at a time: one while another one arrives.
const CHECKS: usize = 2;

/// What an operator allows.
#[derive(Debug, Clone)]
pub struct ApiLimits {
    /// What a run may ask of the workers.
    pub caps: Caps,
    /// Requests of one token that are answered at a time: until their answer begins.
    pub requests_of_a_token: usize,
}

impl Default for ApiLimits {
    fn default() -> Self {
        Self { caps: Caps::default(), requests_of_a_token: 32 }
    }
}

/// What the callers have under way, by the names of their tokens. They are as many as the file of tokens has.
#[derive(Debug, Default)]
pub(crate) struct Callers(Mutex<HashMap<Option<String>, Turns>>);

#[derive(Debug, Clone)]
struct Turns {
    requests: Arc<Semaphore>,
    checks: Arc<Semaphore>,
}

impl Callers {
    fn of(&self, caller: &Caller, limits: &ApiLimits) -> Turns {
        let mut callers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Turns {
            requests: Arc::new(Semaphore::new(limits.requests_of_a_token)),
            checks: Arc::new(Semaphore::new(CHECKS)),
        };
        callers.entry(caller.name().map(str::to_owned)).or_insert_with(new).clone()
    }

    /// A turn to check a manifest, for as long as the value lives.
    pub(super) async fn check(&self, caller: &Caller, limits: &ApiLimits) -> Option<OwnedSemaphorePermit> {
        // Nobody closes it.
        self.of(caller, limits).checks.acquire_owned().await.ok()
    }
}

/// Lets a request through when its token has fewer under way than it may.
pub(super) async fn take_turn(State(api): State<Shared>, request: Request, next: Next) -> Response {
    let Some(caller) = request.extensions().get::<Caller>().cloned() else { return next.run(request).await };
    let limits = &api.config.limits;
    let turns = api.callers.of(&caller, limits).requests;
    match tokio::time::timeout(PATIENCE, turns.acquire()).await {
        Ok(_turn) => next.run(request).await,
        Err(_) => {
            let most = limits.requests_of_a_token;
            let message = format!("{most} requests of this token are already in progress; try again");
            Problem::new(429, "too_many_requests", message).into_response()
        }
    }
}
