//! What must hold when the weather has cleared and everything has come to rest.

use diorama_core::id::RunId;
use diorama_protocol::{Backends, RunStore};

use super::record::Record;
use super::{Broken, Checker};
use crate::world::World;

impl Checker {
    /// Every run has ended, is whole, and is counted; of those that were deleted nothing is left but their logs and what
    /// came late.
    pub(crate) async fn at_rest(&mut self, world: &World, backends: &Backends) -> Result<(), Broken> {
        self.look(world)?;
        for (run, record) in &self.runs {
            let broken = |what: Broken| format!("{run}: at rest, {what}");
            if record.history.is_deleted() {
                nothing_is_left(record).map_err(broken)?;
            } else if record.history.is_submitted() {
                is_whole(backends, run, record).await.map_err(broken)?;
            }
        }
        Ok(())
    }

    /// What is known of a run, for whoever looks for the reason.
    pub(crate) fn tell(&self, run: &RunId) -> String {
        let Some(record) = self.runs.get(run) else { return format!("{run}: unknown") };
        let acts: Vec<String> =
            record.log.iter().map(|entry| format!("{:.1?} {} by {}", entry.at, entry.act, entry.by)).collect();
        let shards: Vec<u32> = record.history.rounds().iter().map(|round| round.shards).collect();
        let active = self.objects.contains_key(&format!("index/active/{run}"));
        format!("{run}: {acts:?}, {} markers of {shards:?} shards, active: {active}", record.markers.len())
    }
}

async fn is_whole(backends: &Backends, run: &RunId, record: &Record) -> Result<(), Broken> {
    let (history, spec) = (&record.history, record.spec.as_ref().ok_or("its spec is gone")?);
    if history.ended().is_none() {
        return Err(format!("it has not ended: {:?}, {} decisions", history.state(), history.decisions()));
    }
    let store = RunStore::shared(backends.objects.clone(), run);
    let verified = diorama_coordinator::verify(backends, &store, spec, history, None).await;
    let verified = verified.map_err(|error| error.to_string())?;
    if verified.is_clean() { Ok(()) } else { Err(format!("verify: {}", verified.problems.join("; "))) }
}

fn nothing_is_left(record: &Record) -> Result<(), Broken> {
    let deleted = record.log.last().map(|entry| entry.at).unwrap_or_default();
    let left = |(relative, at): &(&String, &std::time::Duration)| !relative.starts_with("decisions/") && **at < deleted;
    match record.written.iter().find(left) {
        Some((left, _)) => Err(format!("it was deleted, and {left} is left")),
        None => Ok(()),
    }
}
