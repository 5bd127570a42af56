//! Who is blamed for the deaths of workers: only a task that ran alone when two processes died, or when four attempts were
//! heard of for the last time.

use std::collections::BTreeMap;

use diorama_core::id::{ShardId, TaskIndex, WorkerId};
use serde_json::Value;

use super::{Broken, Seen};

/// An attempt, as its journal has it.
#[derive(Default)]
struct Attempt {
    worker: Option<WorkerId>,
    /// The task that it ran alone when it was last heard of.
    alone: Option<u64>,
}

/// Whether the task may be blamed now.
pub(super) fn may_be_blamed(seen: &Seen<'_>, shard: ShardId, task: TaskIndex) -> Result<(), Broken> {
    let attempts = attempts(seen, shard);
    let silent = || attempts.values().filter(|attempt| attempt.alone == Some(task.0));
    let is_dead =
        |attempt: &&Attempt| attempt.worker.as_ref().is_some_and(|worker| seen.world.was_dead(worker, seen.at));
    let (silences, deaths) = (silent().count(), silent().filter(is_dead).count());
    if deaths >= 2 || silences >= 4 {
        return Ok(());
    }
    Err(format!("task {task} of {shard} is blamed for {deaths} deaths among {silences} attempts that fell silent"))
}

fn attempts(seen: &Seen<'_>, shard: ShardId) -> BTreeMap<String, Attempt> {
    let first = format!("runs/{}/journal/{shard}.json", seen.run);
    let prefix = first.trim_end_matches("json");
    let of_shard = || seen.objects.range(prefix.to_owned()..).take_while(|(key, _)| key.starts_with(prefix));
    let began_first = of_shard().filter(|(key, _)| **key == first);
    let mut attempts: BTreeMap<String, Attempt> = BTreeMap::new();
    for (_, bytes) in began_first.chain(of_shard().filter(|(key, _)| **key != first)) {
        let entry: Value = serde_json::from_slice(bytes).unwrap_or_default();
        let attempt = attempts.entry(entry["attempt"].to_string()).or_default();
        match entry["event"].as_str() {
            Some("began") => attempt.worker = entry["worker"].as_str().and_then(|worker| WorkerId::new(worker).ok()),
            Some("running") => attempt.alone = entry["task"].as_u64(),
            Some("idle" | "handed_back") => attempt.alone = None,
            _ => {}
        }
    }
    attempts
}
