//! What a coordinator does with a run, one step at a time: the real `next`, the real plan of the pump and the real rules of
//! the log. Between what is computed and what is written of it, it may stand still.

use std::collections::HashMap;

use diorama_backends::queue::QueueDepth;
use diorama_core::id::{Round, ShardId};
use diorama_core::run::RunState;
use diorama_core::shards::ShardSet;
use diorama_protocol::history::Need;

use crate::coordinator::{Next, next};
use crate::plan::{Plan, Publish};

use super::log::{Entry, Log, Outcome, What, act};
use super::scenes::{Fault, PATIENCE, RECHECK, Scene};
use super::world::{Driven, Message, Phase, Run, World};

/// Automatic rounds after the first one, or after a reopening.
const MAX_ROUNDS: usize = 1;

impl World {
    /// Whether the coordinator has anything to do for the run before time goes on.
    pub(super) fn is_due(&self, coordinator: usize, run: usize) -> bool {
        let leader = &self.coordinators[coordinator];
        if leader.is_frozen || !leader.leads {
            return false;
        }
        match leader.driven.get(&run) {
            None => self.runs[run].log.history().ended().is_none(),
            Some(driven) => !driven.is_looked_at || !matches!(driven.phase, Phase::Pumping { .. }),
        }
    }

    /// The coordinator's next step for the run.
    pub(super) fn drive(&mut self, scene: &Scene, coordinator: usize, run: usize) {
        let driven = self.coordinators[coordinator].driven.remove(&run).unwrap_or_else(|| Driven {
            known: self.runs[run].log.clone(),
            phase: Phase::Fresh,
            is_looked_at: false,
            heard: 0,
            listed: 0,
        });
        let Driven { mut known, mut phase, mut is_looked_at, .. } = driven;
        let (mut heard, mut listed) = (driven.heard, driven.listed);
        phase = match phase {
            Phase::Deciding(what) => {
                self.decide(scene, run, &mut known, Entry { what, by: coordinator });
                Phase::Fresh
            }
            Phase::Fresh => match next(known.history()) {
                Next::Nothing(_) | Next::Remove => return,
                Next::Pump => {
                    let shards = known.history().last_round().unwrap().shards;
                    // Once each run of a pool looked at its own traffic only.
                    let pool = if scene.fault == Some(Fault::RunsLookAtThemselves) { run } else { 0 };
                    let plan = self.coordinators[coordinator].plan(run, pool, shards);
                    (heard, listed, is_looked_at) = (0, RECHECK, false);
                    Phase::Pumping { plan, committed: ShardSet::default() }
                }
                Next::End(_) => Phase::Deciding(What::Ended(self.runs[run].outcomes(&known).unwrap_or_default())),
                Next::BeginCancelledEnding => {
                    let is_reopened = known.history().reopening().is_some();
                    let void = if is_reopened { Vec::new() } else { self.runs[run].open(&known) };
                    let round = known.history().rounds().len() - 1;
                    Phase::Deciding(What::EndingBegun { cancelled: true, round, void })
                }
                Next::MakeReopeningRound => {
                    let outcomes = self.runs[run].outcomes(&known).unwrap_or_default();
                    let tasks = (0..outcomes.len()).filter(|task| outcomes[*task] != Outcome::Done).collect();
                    let round = known.history().rounds().len() as u32;
                    Phase::Deciding(What::RoundOpened { round, tasks, reopens: true })
                }
            },
            Phase::Pumping { mut plan, mut committed } => {
                is_looked_at = true;
                let before = known.history().last_round().unwrap().round;
                let is_news = self.runs[run].head.is_none_or(|head| head > known.len());
                if is_news || heard >= RECHECK {
                    heard = 0;
                    let is_changed = self.runs[run].log.len() > known.len();
                    known = self.runs[run].log.clone();
                    let is_passed = scene.fault == Some(Fault::PauseThatIsOverIsMissed)
                        && known.history().state() == Some(RunState::Running);
                    if is_changed && !is_passed {
                        plan.decided(true, self.now);
                    }
                }
                if self.runs[run].head < Some(known.len()) {
                    self.announce(run, known.len());
                }
                let history = known.history();
                let is_other = history.last_round().unwrap().round != before || history.ending().is_some();
                if is_other || history.state() == Some(RunState::Cancelled) && next(history) != Next::Pump {
                    Phase::Fresh
                } else {
                    if listed >= RECHECK {
                        listed = 0;
                        committed.extend(&marked(&self.runs[run], before));
                    }
                    self.look(scene, run, &known, plan, committed)
                }
            }
        };
        let driven = Driven { known, phase, is_looked_at, heard, listed };
        self.coordinators[coordinator].driven.insert(run, driven);
    }

    /// A look of the pump, after what was decided.
    fn look(&mut self, scene: &Scene, run: usize, known: &Log, mut plan: Plan, mut committed: ShardSet) -> Phase {
        let round = known.history().last_round().unwrap().clone();
        let state = &mut self.runs[run];
        let counted = of_round(state.counted.iter().copied(), round.round);
        committed.extend(&counted);
        if !state.is_complete || counted.len() < committed.len() {
            state.counted = state.markers.keys().copied().collect();
            state.is_complete = true;
        }
        if committed.len() >= u64::from(round.shards) {
            return Phase::Deciding(after_round(state, known));
        }
        let of_round = state.holders.iter().filter(|(shard, _)| shard.round == round.round);
        let holders: HashMap<_, _> = of_round.map(|(shard, holder)| (shard.index, holder.attempt.id())).collect();
        if known.history().state() == Some(RunState::Paused) {
            plan.pause(&committed, Some(&holders), self.now);
            return Phase::Pumping { plan, committed };
        }
        plan.see(&committed, Some(&holders), self.now);
        let consumers = self.workers.iter().filter(|worker| !worker.stands_still).count() as u64;
        let depth = QueueDepth { ready: self.queue.len() as u64, consumers, dead: 0 };
        let depth = plan.needs_depth().then_some(depth);
        let turn = plan.turn(depth.as_ref(), self.now);
        let Publish { lost, new } = plan.publish(&turn, depth.as_ref(), &committed, PATIENCE, self.now);
        let lost = if scene.fault == Some(Fault::LostStaysLost) { Vec::new() } else { lost };
        for index in lost.into_iter().chain(new) {
            let shard = ShardId { round: round.round, index };
            self.queue.push_back(Message { run, shard, again: false });
            self.runs[run].adrift.remove(&shard);
        }
        Phase::Pumping { plan, committed }
    }

    /// As [`diorama_protocol::Backends::decide`]: writes the entry where it may be decided and its number is free.
    pub(super) fn decide(&mut self, scene: &Scene, run: usize, known: &mut Log, entry: Entry) {
        loop {
            let act = act(&entry.what, known.len());
            if known.history().check(&act) != Ok(Need::Write) {
                if known.len() == self.runs[run].log.len() {
                    return self.announce(run, known.len());
                }
                *known = self.runs[run].log.clone();
            } else if self.put(scene, run, known.len(), &entry) {
                known.push(entry);
                return self.announce(run, known.len());
            } else {
                *known = self.runs[run].log.clone();
            }
            if act.is_derived() && scene.fault != Some(Fault::LateDecisionsAreTriedAgain) {
                return;
            }
        }
    }

    /// The store's conditional put.
    fn put(&mut self, scene: &Scene, run: usize, number: usize, entry: &Entry) -> bool {
        let run = &mut self.runs[run];
        let is_free = run.log.len() == number;
        match is_free {
            true => run.log.push(entry.clone()),
            false if scene.fault == Some(Fault::LogIsRewritten) => run.log.overwrite(number, entry.clone()),
            false => return false,
        }
        if is_free {
            run.told_written.push(entry.clone());
        }
        true
    }

    fn announce(&mut self, run: usize, entries: usize) {
        if std::mem::take(&mut self.is_silent) {
            return;
        }
        let head = &mut self.runs[run].head;
        *head = (*head).max(Some(entries));
    }
}

/// What follows when a round is committed.
fn after_round(run: &Run, known: &Log) -> What {
    let history = known.history();
    let last = history.last_round().unwrap();
    let budget = (0..history.rounds().len()).rev().find(|round| history.rounds()[*round].reopened.is_some());
    let tasks = &known.rounds()[last.round.0 as usize];
    let failed = |shard: &ShardId| run.markers.get(shard).is_some_and(|(_, outcome)| *outcome == Outcome::Failed);
    let again: Vec<usize> = last.shard_ids().filter(failed).map(|shard| tasks[shard.index as usize]).collect();
    if again.is_empty() || last.round.0 as usize >= budget.unwrap_or(0) + MAX_ROUNDS {
        return What::EndingBegun { cancelled: false, round: last.round.0 as usize, void: Vec::new() };
    }
    What::RoundOpened { round: last.round.0 + 1, tasks: again, reopens: false }
}

fn marked(run: &Run, round: Round) -> ShardSet {
    of_round(run.markers.keys().copied(), round)
}

fn of_round(shards: impl Iterator<Item = ShardId>, round: Round) -> ShardSet {
    shards.filter(|shard| shard.round == round).map(|shard| shard.index).collect()
}
