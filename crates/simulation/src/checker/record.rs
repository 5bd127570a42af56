//! What is known of one run: its log, its markers, and what each of its writes must agree with.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use diorama_backends::progress::{Counts, Progress};
use diorama_core::id::ShardId;
use diorama_core::key::{BLOB_LISTS, BLOBS, ObjectKey, RunRoot, decision_of, shard_of};
use diorama_core::marker::{CommitMarker, settings_digest};
use diorama_core::outcome::{ErrorCode, FileRef, Outcome};
use diorama_core::round::RoundInfo;
use diorama_core::run::{RunSpec, RunState};
use diorama_core::shards::ShardSet;
use diorama_protocol::count::{counts_of, counts_of_void};
use diorama_protocol::decision::{Act, Decision, Ended, Void};
use diorama_protocol::history::History;
use futures::FutureExt;

use super::blame::may_be_blamed;
use super::{Broken, Seen};
use crate::world::World;

#[derive(Default)]
pub(super) struct Record {
    pub(super) spec: Option<RunSpec>,
    pub(super) history: History,
    /// When each entry of the log was written, by whom, which act, and the state that followed.
    pub(super) log: Vec<Entry>,
    pub(super) markers: BTreeMap<ShardId, Marker>,
    /// The shards that endings left out, by round.
    pub(super) void: BTreeMap<u32, ShardSet>,
    /// Whether it was cancelled since it began, or began anew, last.
    cancelled: bool,
    pub(super) may_be_deleted: bool,
    /// When each object was written that lies there still.
    pub(super) written: BTreeMap<String, Duration>,
}

pub(super) struct Entry {
    pub(super) at: Duration,
    pub(super) by: String,
    pub(super) act: &'static str,
    pub(super) state: Option<RunState>,
}

pub(super) struct Marker {
    pub(super) at: Duration,
    pub(super) counts: Counts,
    files: Vec<String>,
}

fn ensure(holds: bool, what: &str) -> Result<(), Broken> {
    if holds { Ok(()) } else { Err(what.to_owned()) }
}

impl Record {
    pub(super) fn written(&mut self, relative: &str, bytes: &Bytes, seen: &Seen<'_>) -> Result<(), Broken> {
        self.written.insert(relative.to_owned(), seen.at);
        if self.history.is_deleted() {
            // Somebody is late; the collection removes it.
            return Ok(());
        }
        let unread = |error: serde_json::Error| error.to_string();
        match relative.split('/').next() {
            Some("run.json") => self.spec = Some(serde_json::from_slice(bytes).map_err(unread)?),
            Some("decisions") => {
                let number = decision_of(relative).ok_or("no entry has this name")?;
                let next = self.history.decisions();
                ensure(number == next, &format!("it comes after {next} entries"))?;
                self.decided(serde_json::from_slice(bytes).map_err(unread)?, seen)?;
            }
            Some("commits") => self.committed(serde_json::from_slice(bytes).map_err(unread)?, relative, seen)?,
            _ => {}
        }
        Ok(())
    }

    pub(super) fn removed(&mut self, relative: &str) -> Result<(), Broken> {
        self.written.remove(relative);
        if !self.history.is_submitted() {
            return Ok(());
        }
        let root = RunRoot::Own;
        let lasting = match relative.split('/').next() {
            Some("run.json" | "decisions" | "commits") => true,
            Some("input") => self.history.rounds().iter().any(|round| relative.contains(round.inputs.as_str())),
            Some("endings") => {
                self.history.final_files().any(|file| file == relative)
                    || self.history.voids().iter().any(|void| ObjectKey::Void(void.clone()).relative(&root) == relative)
            }
            Some("files" | "shards") => shard_of(relative).is_some_and(|shard| {
                let counts = !self.is_void(shard);
                counts
                    && self.markers.get(&shard).is_some_and(|marker| marker.files.iter().any(|file| file == relative))
            }),
            _ => false,
        };
        ensure(!lasting, "it counts, and was removed")
    }

    pub(super) fn is_void(&self, shard: ShardId) -> bool {
        self.void.get(&shard.round.0).is_some_and(|void| void.contains(shard.index))
    }

    /// The shards of the round that have no marker and are not void.
    pub(super) fn open<'a>(&'a self, round: &'a RoundInfo) -> impl Iterator<Item = ShardId> + 'a {
        round.shard_ids().filter(|shard| !self.markers.contains_key(shard) && !self.is_void(*shard))
    }

    fn committed(&mut self, marker: CommitMarker, relative: &str, seen: &Seen<'_>) -> Result<(), Broken> {
        let shard = marker.shard;
        ensure(shard_of(relative) == Some(shard) && marker.run == *seen.run, "it speaks of another shard")?;
        let spec = self.spec.as_ref().ok_or("the run has no spec")?;
        let round = self.history.round(shard.round).ok_or("there is no such round")?;
        ensure(shard.index < round.shards, "there is no such shard")?;
        let may_come = self.history.is_under_way(shard) && self.history.ending().is_none();
        ensure(may_come || self.is_void(shard), "it came when the outcome was decided")?;
        // Of a dead letter nothing was made, by no model.
        let is_made = marker.outcomes.iter().any(|outcome| matches!(outcome.outcome, Outcome::Done { .. }));
        let by_the_runs = marker.model.as_ref() == self.history.model();
        ensure(by_the_runs || (marker.model.is_none() && !is_made), "another model than the run's made it")?;
        ensure(marker.settings == settings_digest(spec), "it was made with other settings")?;
        let mut files = Vec::new();
        for outcome in &marker.outcomes {
            if let Outcome::Failed(error) = &outcome.outcome
                && error.code == ErrorCode::Poison
            {
                may_be_blamed(seen, shard, outcome.task)?;
            }
            if let Outcome::Done { archive: None, files: made, .. } = &outcome.outcome {
                // What a void shard's attempts had stored may be gone: it counts for nothing.
                for file in made.values().filter(|_| !self.is_void(shard)) {
                    ensure(seen.is_there(file), &format!("{}, which it names, is not there", file.path))?;
                    files.push(file.path.clone());
                }
            }
            if let Outcome::Done { archive: Some(archive), .. } = &outcome.outcome {
                ensure(
                    marker.archives.iter().any(|other| other.key == *archive),
                    "an archive that an outcome names is none of its own",
                )?;
            }
        }
        for archive in marker.archives.iter().filter(|_| !self.is_void(shard)) {
            let file = FileRef { path: archive.key.clone(), sha256: archive.sha256.clone(), bytes: archive.bytes };
            ensure(seen.is_there(&file), &format!("{}, which it names, is not there", file.path))?;
            files.push(file.path);
        }
        let counts = counts_of(&marker, round.last_round(&spec.retry));
        self.markers.insert(shard, Marker { at: seen.at, counts, files });
        Ok(())
    }

    fn decided(&mut self, decision: Decision, seen: &Seen<'_>) -> Result<(), Broken> {
        let (act, by) = (decision.act.name(), decision.by.clone());
        match &decision.act {
            Act::Submitted { round } => {
                ensure(self.spec.is_some(), "a run without a spec was submitted")?;
                inputs_are_there(round, seen)?;
                references_are_there(round, seen)?;
            }
            Act::RoundOpened { round } => {
                ensure(!self.cancelled, "a round of a cancelled run was opened")?;
                self.is_decided()?;
                inputs_are_there(round, seen)?;
            }
            Act::Cancelled => self.cancelled = true,
            Act::EndingBegun { state, void } => {
                if let Some(void) = void {
                    let object = seen.object(&ObjectKey::Void(void.clone()).relative(&RunRoot::Own));
                    let void: Void = object
                        .and_then(|bytes| serde_json::from_slice(bytes).ok())
                        .ok_or("the shards that it leaves out are written nowhere")?;
                    self.void.entry(void.round.0).or_default().extend(&void.shards);
                }
                ensure(
                    self.cancelled == (*state == RunState::Cancelled),
                    "it ends as what it is not: cancelled or finished",
                )?;
                self.is_decided()?;
            }
            Act::Ended(ended) => self.ended(ended, seen)?,
            Act::Reopened { .. } => {
                ensure(self.history.ended().is_some(), "it was reopened and had not ended")?;
                self.cancelled = false;
            }
            Act::Deleted => {
                ensure(
                    self.may_be_deleted || !self.history.is_submitted(),
                    "it was deleted, and nobody asked for that",
                )?;
            }
            Act::Bound { .. } | Act::Paused { .. } | Act::Resumed | Act::Stuck { .. } => {}
        }
        self.history.apply(decision).map_err(|refused| format!("{act} does not follow: {refused}"))?;
        self.log.push(Entry { at: seen.at, by, act, state: self.history.state() });
        Ok(())
    }

    /// Every shard of every round so far has its marker or is void.
    fn is_decided(&self) -> Result<(), Broken> {
        for round in self.history.rounds() {
            if let Some(open) = self.open(round).next() {
                return Err(format!("nothing is known of shard {open}"));
            }
        }
        Ok(())
    }

    fn ended(&self, ended: &Ended, seen: &Seen<'_>) -> Result<(), Broken> {
        ensure(self.history.ended().is_none(), "it had ended already")?;
        for file in [&ended.results, &ended.errors] {
            ensure(seen.is_there(file), &format!("{}, which it names, is not there", file.path))?;
        }
        let (summary, tasks) = (&ended.summary, self.spec.as_ref().map_or(0, |spec| spec.tasks));
        ensure(summary.done + summary.failed == tasks, &format!("{summary:?} of {tasks} tasks"))?;
        let state = self.history.ending().map(|ending| ending.state);
        ensure(Some(summary.state) == state, "its ending began as another one")
    }

    /// What the progress service counts is what the markers say whose bits are set. What of it is not known, because a void
    /// shard has a marker all the same, may be either.
    pub(super) fn counts_follow_from_bits(&self, world: &World) -> Result<(), Broken> {
        let Some(spec) = self.spec.as_ref().filter(|_| self.history.is_submitted()) else { return Ok(()) };
        let progress = world.progress();
        let counted = progress.counted(&spec.run).now_or_never().and_then(Result::ok).unwrap_or_default();
        let (mut least, mut most) = (Counts::default(), Counts::default());
        for round in self.history.rounds() {
            let bits = progress.committed(&spec.run, round.round).now_or_never().and_then(Result::ok);
            for index in bits.unwrap_or_default().iter() {
                let shard = ShardId { round: round.round, index };
                let said = self.markers.get(&shard).map(|marker| marker.counts);
                let void = self.is_void(shard).then(|| counts_of_void(round, index, spec.shard_size));
                let (first, second) = match (said, void) {
                    (Some(said), Some(void)) => (said, void),
                    (Some(one), None) | (None, Some(one)) => (one, one),
                    (None, None) => return Err(format!("shard {shard} is counted, and has no marker")),
                };
                least = least.plus(each(first, second, u64::min));
                most = most.plus(each(first, second, u64::max));
            }
        }
        let there = counted.counts;
        let fits = each(there, least, u64::max) == there && each(there, most, u64::min) == there;
        ensure(fits, &format!("counted is {there:?}, the bits' markers say {least:?} to {most:?}"))
    }
}

fn each(a: Counts, b: Counts, which: fn(u64, u64) -> u64) -> Counts {
    let (a, b) = (a.numbers(), b.numbers());
    Counts::of(std::array::from_fn(|at| which(a[at], b[at])))
}

/// What the rows begin from was not removed before the run could name it; the store may have lost it.
fn references_are_there(round: &RoundInfo, seen: &Seen<'_>) -> Result<(), Broken> {
    let prefix = format!("runs/{}/{BLOB_LISTS}{}.", seen.run, round.inputs);
    let lists = seen.objects.range(prefix.clone()..).take_while(|(key, _)| key.starts_with(&prefix));
    for (_, list) in lists {
        for blob in String::from_utf8_lossy(list).lines() {
            ensure(seen.objects.contains_key(&format!("{BLOBS}{blob}")), &format!("its reference {blob} was removed"))?;
        }
    }
    Ok(())
}

fn inputs_are_there(round: &RoundInfo, seen: &Seen<'_>) -> Result<(), Broken> {
    for shard in round.shard_ids() {
        let input = ObjectKey::Input(shard, round.inputs.clone()).relative(&RunRoot::Own);
        ensure(seen.object(&input).is_some(), &format!("{input} is not there"))?;
    }
    Ok(())
}
