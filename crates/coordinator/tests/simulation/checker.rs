//! What must hold of a history: of the answers that clients got, and of the objects, while it happens and at the end.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use diorama_backends::progress::Counts;
use diorama_core::id::RunId;
use diorama_core::run::RunState;
use diorama_protocol::decision::{Act, Decision};
use diorama_protocol::history::History;
use diorama_protocol::{Backends, RunStore};

use crate::store::World;

/// What a client was told about a run.
#[derive(Debug, Clone, Default)]
pub(crate) struct Told {
    /// A submission was answered with 201 or 200.
    pub(crate) accepted: bool,
    /// A deletion was accepted.
    pub(crate) deleted: bool,
}

/// Everything that was seen so far.
#[derive(Default)]
pub(crate) struct Checker {
    pub(crate) told: BTreeMap<RunId, Told>,
    /// Entries of logs, and final files that an entry names, as they were first seen.
    seen: HashMap<String, Bytes>,
}

impl Checker {
    /// Looks at the store as it is: what was written once is as it was first seen, or gone with its run.
    pub(crate) fn look(&mut self, world: &World) -> Result<(), String> {
        let now = world.snapshot();
        for (key, bytes) in &now {
            let once = key.contains("/decisions/") || key.contains("/commits/") || key.contains("/endings/");
            if !once {
                continue;
            }
            match self.seen.get(key) {
                Some(first) if first != bytes => return Err(format!("{key} was rewritten")),
                Some(_) => {}
                None => drop(self.seen.insert(key.clone(), bytes.clone())),
            }
        }
        for (run, log) in logs(&now) {
            let mut history = History::default();
            for decision in log {
                let act = decision.act.name();
                history.apply(decision).map_err(|refused| format!("{run}: {act} does not follow: {refused}"))?;
            }
            if history.is_deleted() {
                continue;
            }
            if let Some(ended) = history.ended() {
                for file in [&ended.results, &ended.errors] {
                    let key = format!("runs/{run}/{}", file.path);
                    let there =
                        now.get(&key).is_some_and(|bytes| diorama_core::id::Sha256Hex::of(bytes) == file.sha256);
                    if !there {
                        return Err(format!("{key}, which the log names, is gone or another"));
                    }
                }
            }
        }
        Ok(())
    }

    /// What is known of a run, for whoever looks for the reason.
    pub(crate) fn tell(&self, world: &World, run: &RunId) -> String {
        let objects = world.snapshot();
        let log = logs(&objects).remove(run).unwrap_or_default();
        let acts: Vec<String> =
            log.iter().map(|decision| format!("{} by {}", decision.act.name(), decision.by)).collect();
        let prefix = format!("runs/{run}/commits/");
        let markers = objects.keys().filter(|key| key.starts_with(&prefix)).count();
        let shards: Vec<u32> = log
            .iter()
            .filter_map(|decision| match &decision.act {
                Act::Submitted { round } | Act::RoundOpened { round } => Some(round.shards),
                _ => None,
            })
            .collect();
        let active = objects.contains_key(&format!("index/active/{run}"));
        format!("{run}: {acts:?}, {markers} markers of {shards:?} shards, active: {active}")
    }

    /// After the weather has cleared and everything has come to rest.
    pub(crate) async fn at_rest(&mut self, world: &Arc<World>, backends: &Backends) -> Result<(), String> {
        self.look(world)?;
        let wrong = |run: &RunId, what: String| Err(format!("{run}: {what}"));
        for (run, told) in &self.told {
            let store = RunStore::shared(backends.objects.clone(), run);
            let history = store.history().await.map_err(|error| error.to_string())?;
            if told.deleted || history.is_deleted() {
                if !told.deleted {
                    return wrong(run, "it is deleted, and nobody was told so".to_owned());
                }
                continue;
            }
            if !told.accepted {
                continue;
            }
            let Some(ended) = history.ended() else {
                return wrong(
                    run,
                    format!("it has not ended: {:?}, {} decisions", history.state(), history.decisions()),
                );
            };
            let spec = store.spec().await.map_err(|error| error.to_string())?;
            let Some(spec) = spec else { return wrong(run, "its spec is gone".to_owned()) };
            if ended.summary.done + ended.summary.failed != spec.tasks {
                return wrong(run, format!("{:?} of {} tasks", ended.summary, spec.tasks));
            }
            if cancelled_last(world, run) != (ended.summary.state == RunState::Cancelled) {
                return wrong(run, format!("it ended as {}", ended.summary.state));
            }
            let verified = diorama_coordinator::verify(backends, &store, &spec, &history, None).await;
            let verified = verified.map_err(|error| error.to_string())?;
            if !verified.is_clean() {
                return wrong(run, format!("verify: {}", verified.problems.join("; ")));
            }
            let counted = backends.progress.counted(run).await.map_err(|error| error.to_string())?;
            if counted.complete && counted.counts == Counts::default() {
                return wrong(run, "its counts are complete and nothing".to_owned());
            }
            pictures_are_there(world, run, &ended.results.path)?;
        }
        Ok(())
    }
}

/// Whether the run was cancelled after it was begun, or begun anew, last.
fn cancelled_last(world: &World, run: &RunId) -> bool {
    let mut cancelled = false;
    for decision in logs(&world.snapshot()).remove(run).unwrap_or_default() {
        match decision.act {
            Act::Cancelled => cancelled = true,
            Act::Reopened { .. } => cancelled = false,
            _ => {}
        }
    }
    cancelled
}

/// Every picture that a result names is there.
fn pictures_are_there(world: &World, run: &RunId, results: &str) -> Result<(), String> {
    let objects = world.snapshot();
    let lines = objects.get(&format!("runs/{run}/{results}")).cloned().unwrap_or_default();
    for line in lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let line: serde_json::Value = serde_json::from_slice(line).map_err(|error| error.to_string())?;
        let picture = line["files"]["image"]["path"].as_str().unwrap_or_default();
        if !objects.contains_key(&format!("runs/{run}/{picture}")) {
            return Err(format!("{run}: {picture}, which a result names, is gone"));
        }
    }
    Ok(())
}

fn logs(objects: &BTreeMap<String, Bytes>) -> BTreeMap<RunId, Vec<Decision>> {
    let mut logs: BTreeMap<RunId, Vec<Decision>> = BTreeMap::new();
    for (key, bytes) in objects.iter().filter(|(key, _)| key.contains("/decisions/")) {
        let run = diorama_core::key::run_of(key).unwrap();
        logs.entry(run).or_default().push(serde_json::from_slice(bytes).unwrap());
    }
    logs
}
