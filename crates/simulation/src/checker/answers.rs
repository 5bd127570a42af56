//! What clients are told must agree with the log: while they asked, it was so.

use std::time::Duration;

use axum::http::StatusCode;
use diorama_core::id::RunId;
use diorama_core::run::RunState;
use serde_json::Value;

use super::record::{Entry, Record};
use super::{Broken, Checker};
use crate::world::World;

/// A request about a run, and when it was sent to whom.
pub(crate) struct Asked {
    pub(crate) run: RunId,
    /// `pause`, `resume`, `cancel`, `retry`, `delete`, `show`.
    pub(crate) what: &'static str,
    pub(crate) at: Duration,
    /// The coordinator that was asked.
    pub(crate) of: String,
}

impl Checker {
    /// The answer to a request about a run.
    pub(crate) fn answered(
        &mut self,
        world: &World,
        asked: &Asked,
        status: StatusCode,
        body: &Value,
    ) -> Result<(), Broken> {
        self.look(world)?;
        let wrong = |why: &str| Err(format!("{}: {} was answered with {status}, {why}: {body}", asked.run, asked.what));
        let Some(record) = self.runs.get(&asked.run) else { return wrong("and there was never such a run") };
        let meanwhile = Meanwhile { record, since: asked.at };
        if status.is_server_error() {
            // The progress service being away is no reason.
            return if self.calm_since() < asked.at { wrong("though the store was there") } else { Ok(()) };
        }
        if status == StatusCode::NOT_FOUND {
            let gone = record.history.is_deleted() || !record.history.is_submitted();
            return if gone { Ok(()) } else { wrong("and it is there") };
        }
        let holds = match (asked.what, status.is_success()) {
            ("pause", true) => meanwhile.was(RunState::Paused),
            ("resume", true) => meanwhile.was(RunState::Running),
            ("cancel", true) => meanwhile.was(RunState::Cancelled),
            ("retry", true) => meanwhile.did("reopened", None),
            ("delete", true) => record.history.is_deleted(),
            ("pause", false) => !meanwhile.did("paused", Some(&asked.of)),
            ("resume", false) => !meanwhile.did("resumed", Some(&asked.of)),
            ("cancel", false) => !meanwhile.did("cancelled", Some(&asked.of)),
            ("retry", false) => !meanwhile.did("reopened", Some(&asked.of)),
            ("delete", false) => !meanwhile.did("deleted", Some(&asked.of)),
            _ => return self.shown(world, asked, body),
        };
        if holds { Ok(()) } else { wrong("and the log says otherwise") }
    }

    /// A status: the run was in that state, and no more is counted than there is.
    pub(crate) fn shown(&self, _: &World, asked: &Asked, body: &Value) -> Result<(), Broken> {
        let Some(record) = self.runs.get(&asked.run) else { return Ok(()) };
        let meanwhile = Meanwhile { record, since: asked.at };
        let state = serde_json::from_value::<RunState>(body["state"].clone()).map_err(|error| error.to_string())?;
        if !meanwhile.was(state) {
            return Err(format!("{} was shown as {state} when it was not", asked.run));
        }
        let done: u64 = record.markers.values().map(|marker| marker.counts.done).sum();
        if body["done"].as_u64().is_none_or(|said| said > done) {
            return Err(format!("{}: {} were said to be done of {done}", asked.run, body["done"]));
        }
        Ok(())
    }

    /// A submission was accepted.
    pub(crate) fn accepted(&mut self, world: &World, run: &RunId) -> Result<(), Broken> {
        self.look(world)?;
        match self.runs.get(run).filter(|record| record.log.iter().any(|entry| entry.act == "submitted")) {
            Some(_) => Ok(()),
            None => Err(format!("{run} was accepted, and its log does not say so")),
        }
    }

    /// The list that was asked for then: every run that was there all the time is on it.
    pub(crate) fn listed(&mut self, world: &World, since: Duration, body: &Value) -> Result<(), Broken> {
        self.look(world)?;
        let none = Vec::new();
        let listed = body["runs"].as_array().unwrap_or(&none);
        if body["damaged"].is_array() {
            return Err(format!("runs are said to be damaged: {}", body["damaged"]));
        }
        for (run, record) in self.runs.iter().filter(|(_, record)| record.history.is_submitted()) {
            let there = record.log.first().is_some_and(|entry| entry.at < since);
            match listed.iter().find(|status| status["run"] == run.as_str()) {
                Some(status) => {
                    let asked = Asked { run: run.clone(), what: "show", at: since, of: String::new() };
                    self.shown(world, &asked, status)?;
                }
                None if there && body["next"].is_null() => return Err(format!("{run} is not on the list of runs")),
                None => {}
            }
        }
        Ok(())
    }
}

/// A run's log from some moment on.
struct Meanwhile<'a> {
    record: &'a Record,
    since: Duration,
}

impl Meanwhile<'_> {
    fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.record.log.iter().filter(|entry| entry.at >= self.since)
    }

    /// Whether the run was in this state: at the beginning, or later.
    fn was(&self, state: RunState) -> bool {
        let before = self.record.log.iter().rev().find(|entry| entry.at < self.since);
        let at_first = before.map_or(Some(RunState::Submitting), |entry| entry.state);
        at_first == Some(state) || self.entries().any(|entry| entry.state == Some(state))
    }

    /// Whether this was decided, by that coordinator or by anybody.
    fn did(&self, act: &str, by: Option<&str>) -> bool {
        self.entries().any(|entry| entry.act == act && by.is_none_or(|by| entry.by == by))
    }
}
