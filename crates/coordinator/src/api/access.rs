//! The one way to a run for whoever asks for one: [`Opened`] is what a handler gets, as an argument, and it exists only
//! where the caller may do to the run what the request's method does. What is told of all runs together is made from
//! [`Api::glance_at_any`] and its like, and filtered for each caller before it is sent.

use std::sync::Arc;

use axum::extract::{FromRequestParts, RawPathParams};
use axum::http::request::Parts;
use diorama_backends::objects::ObjectError;
use diorama_core::id::RunId;
use diorama_core::run::RunSpec;
use diorama_core::text::quoted;
use diorama_protocol::decision::Act;
use diorama_protocol::history::History;
use diorama_protocol::{DecideError, RunStore};

use super::auth::Caller;
use super::turns::Turns;
use super::{Api, Problem, Shared};
use crate::catalogue::Known;
use crate::error::CoordinatorError;
use crate::status::{RunStatus, status};

/// A run, as a handler sees it. In a handler's arguments it is the run that the path names, and the caller may look at it,
/// or, where the method changes something, steer it. What is not the caller's to see is answered like what is not there.
pub(crate) struct Opened {
    pub(crate) store: RunStore,
    pub(crate) spec: Arc<RunSpec>,
    pub(crate) history: History,
    /// Who looks; `None` where somebody looks at all runs.
    caller: Option<Caller>,
}

impl FromRequestParts<Shared> for Opened {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Shared) -> Result<Self, Problem> {
        let params = RawPathParams::from_request_parts(parts, api).await;
        let params = params.map_err(|error| Problem::bad_request("invalid_path", error.to_string()))?;
        let name = params.iter().find_map(|(name, value)| (name == "run").then(|| value.to_owned()));
        let name = name.unwrap_or_default();
        let caller = parts.extensions.get::<Caller>().cloned();
        // Only where a route was left outside of the check.
        let caller = caller.ok_or_else(|| Problem::new(401, "missing_token", "the caller is not known"))?;
        let unknown = || Problem::not_found("unknown_run", format!("there is no run {}", quoted(&name)));
        let run = RunId::new(&name).map_err(|_| unknown())?;
        let opened = api.open(&caller, &run).await?.ok_or_else(unknown)?;
        if !parts.method.is_safe() {
            caller.check_steers(opened.spec.owner.as_ref())?;
        }
        Ok(opened)
    }
}

impl Opened {
    fn new((store, known): (RunStore, Known), caller: Option<Caller>) -> Self {
        let Known { spec, history, .. } = known;
        Self { store, spec, history, caller }
    }

    /// The run that the caller has just submitted.
    pub(super) fn submitted(caller: &Caller, store: RunStore, spec: Arc<RunSpec>, history: History) -> Self {
        Self { store, spec, history, caller: Some(caller.clone()) }
    }

    /// Who looks at it; `None` where somebody looks at all runs.
    pub(super) fn caller(&self) -> Option<&Caller> {
        self.caller.as_ref()
    }

    /// The same run as it is now, for who looks again and again: the store is asked only where there is news. `None` where
    /// it was deleted.
    pub(super) async fn again(&self, api: &Api) -> Result<Option<Self>, ObjectError> {
        let heard = api.catalogue.hear(api.backends(), &self.spec.run).await?;
        Ok(heard.map(|heard| Self::new(heard, self.caller.clone())))
    }

    pub(crate) async fn status(&self, api: &Api) -> Result<RunStatus, CoordinatorError> {
        self.status_among(&Turns::new(api), api).await
    }

    /// The same of one of many runs.
    pub(super) async fn status_among(&self, turns: &Turns<'_>, api: &Api) -> Result<RunStatus, CoordinatorError> {
        let mut status = status(api.backends(), &self.store, &self.spec, &self.history).await?;
        status.price(&api.config.prices);
        turns.explain(self, &mut status).await;
        Ok(status)
    }

    /// Decides something of the run.
    pub(crate) async fn decide(&mut self, api: &Api, act: Act) -> Result<(), DecideError> {
        let (run, by) = (&self.spec.run, &api.config.name);
        api.backends().decide(&self.store, run, &mut self.history, by, act).await.map(drop)
    }
}

impl Api {
    pub(crate) fn store(&self, run: &RunId) -> RunStore {
        RunStore::shared(self.backends().objects.clone(), run)
    }

    /// The run as it is now, where there is one that the caller sees.
    pub(super) async fn open(&self, caller: &Caller, run: &RunId) -> Result<Option<Opened>, ObjectError> {
        // A spec never changes: what was found to be another's once costs nothing again.
        if self.catalogue.spec(run).is_some_and(|spec| !caller.sees(spec.owner.as_ref())) {
            return Ok(None);
        }
        let opened = self.catalogue.open(self.backends(), run).await?;
        let opened = opened.map(|opened| Opened::new(opened, Some(caller.clone())));
        Ok(opened.filter(|opened| caller.sees(opened.spec.owner.as_ref())))
    }

    /// Any run, for what is said of all of them together: the store is asked only where there is news.
    pub(super) async fn hear_any(&self, run: &RunId) -> Result<Option<Opened>, ObjectError> {
        let heard = self.catalogue.hear(self.backends(), run).await?;
        Ok(heard.map(|heard| Opened::new(heard, None)))
    }

    /// The same for figures.
    pub(super) async fn glance_at_any(&self, run: &RunId) -> Result<Option<Opened>, ObjectError> {
        let seen = self.catalogue.glance(self.backends(), run).await?;
        Ok(seen.map(|seen| Opened::new(seen, None)))
    }

    /// The spec of any run, where there is one. It never changes, so the store is asked once.
    pub(super) async fn spec_of_any(&self, run: &RunId) -> Result<Option<Arc<RunSpec>>, ObjectError> {
        match self.catalogue.spec(run) {
            Some(spec) => Ok(Some(spec)),
            None => Ok(self.catalogue.open(self.backends(), run).await?.map(|(_, known)| known.spec)),
        }
    }
}
