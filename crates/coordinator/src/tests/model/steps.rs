//! The steps, and when each can be taken. Time goes on only when everybody has done what is to be done: that is the
//! fairness that liveness rests on.

use diorama_core::id::ShardId;
use diorama_protocol::decision::Act;
use diorama_protocol::history::Need;
use diorama_protocol::mutant::{Mutant, put_back};
use stateright::{Model, Property};

use super::log::{Entry, Outcome, What, act};
use super::properties;
use super::scenes::{Adversity, Fault, LASTS, QUIET, RECHECK, Scene};
use super::world::{LEASE, Leader, Phase, Run, TICK, Worker, World};

/// Who writes what a run's owner wants.
const OWNER: usize = 100;

/// A step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Time,
    Drive {
        coordinator: usize,
        run: usize,
    },
    Take {
        worker: usize,
    },
    Finish {
        worker: usize,
        at: usize,
    },
    LetGo {
        worker: usize,
        at: usize,
    },
    /// A coordinator, or a worker, that stood still goes on.
    Thaw {
        coordinator: usize,
    },
    GoOn {
        worker: usize,
    },
    /// Something goes wrong with, or is asked of, what has this number.
    Adversity(Adversity, usize, usize),
}

impl Model for Scene {
    type State = World;
    type Action = Step;

    fn init_states(&self) -> Vec<World> {
        vec![World::new(self)]
    }

    fn actions(&self, world: &World, steps: &mut Vec<Step>) {
        self.put_fault_back();
        for coordinator in 0..self.coordinators {
            if world.coordinators[coordinator].is_frozen {
                steps.push(Step::Thaw { coordinator });
            }
            // Its runs one after the other.
            let due = (0..self.shards.len()).find(|run| world.is_due(coordinator, *run));
            steps.extend(due.map(|run| Step::Drive { coordinator, run }));
        }
        let mut is_time = steps.iter().all(|step| matches!(step, Step::Thaw { .. }));
        for (worker, state) in world.workers.iter().enumerate() {
            if state.stands_still {
                steps.push(Step::GoOn { worker });
                continue;
            }
            if !world.queue.is_empty() && world.has_room(self, worker) {
                steps.push(Step::Take { worker });
                is_time = false;
            }
            for (at, held) in state.hands.iter().enumerate() {
                let lets_go = world.is_to_let_go(held);
                // It may be past the last place where it asks.
                steps.push(Step::Finish { worker, at });
                steps.extend(lets_go.then_some(Step::LetGo { worker, at }));
                is_time &= !lets_go && held.age < LASTS;
            }
        }
        if is_time && !world.is_at_rest() && world.quiet <= QUIET {
            steps.push(Step::Time);
        }
        if world.left > 0 {
            self.adversities(world, steps);
        }
    }

    fn next_state(&self, last: &World, step: Step) -> Option<World> {
        self.put_fault_back();
        let mut world = last.clone();
        world.acts += 1;
        match step {
            Step::Time => world.time(self),
            Step::Drive { coordinator, run } => world.drive(self, coordinator, run),
            Step::Take { worker } => world.take(self, worker),
            Step::Finish { worker, at } => world.finish(self, worker, at, Outcome::Done),
            Step::LetGo { worker, at } => world.let_go(worker, at),
            Step::Thaw { coordinator } => world.coordinators[coordinator].is_frozen = false,
            Step::GoOn { worker } => world.workers[worker].stands_still = false,
            Step::Adversity(kind, first, second) => {
                world.left -= 1;
                world.suffer(self, kind, first, second);
            }
        }
        if world.progress() > last.progress() {
            (world.quiet, world.acts) = (0, 0);
        }
        // So every path ends, and `eventually` speaks of all of them.
        assert!(rank(&world) > rank(last), "{step:?} leads back");
        Some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        properties::all()
    }
}

/// Grows with every step.
fn rank(world: &World) -> (usize, u8, u16) {
    (world.progress(), world.quiet, world.acts)
}

impl Scene {
    /// On this thread, as the real code asks for it.
    fn put_fault_back(&self) {
        put_back((self.fault == Some(Fault::CancelIsForgotten)).then_some(Mutant::CancelIsForgotten));
    }

    fn adversities(&self, world: &World, steps: &mut Vec<Step>) {
        let (queue, runs) = (world.queue.len(), self.shards.len());
        let working = || world.workers.iter().filter(|worker| !worker.stands_still).count();
        for kind in &self.kinds {
            let mut add = |first, second| steps.push(Step::Adversity(*kind, first, second));
            match kind {
                Adversity::Lose | Adversity::Double => (0..queue).for_each(|at| add(at, 0)),
                Adversity::Purge if queue > 1 => add(0, 0),
                Adversity::Purge => {}
                Adversity::CutOff | Adversity::Die | Adversity::StandStill => {
                    for (worker, state) in world.workers.iter().enumerate() {
                        let alive = state.hands.iter().any(|held| held.is_alive) && !state.stands_still;
                        if alive && (*kind != Adversity::StandStill || working() > 1) {
                            add(worker, 0);
                        }
                    }
                }
                Adversity::HandBack | Adversity::DieUntold | Adversity::Fail => {
                    for (worker, state) in world.workers.iter().enumerate().filter(|(_, state)| !state.stands_still) {
                        (0..state.hands.len()).for_each(|at| add(worker, at));
                    }
                }
                Adversity::Freeze => {
                    let frozen = world.coordinators.iter().filter(|leader| leader.is_frozen).count();
                    for (coordinator, leader) in world.coordinators.iter().enumerate() {
                        if leader.leads && !leader.is_frozen && frozen + 1 < self.coordinators {
                            add(coordinator, 0);
                        }
                    }
                }
                Adversity::Forget => (0..runs).for_each(|run| add(run, 0)),
                Adversity::Silence if !world.is_silent => add(0, 0),
                Adversity::Silence => {}
                Adversity::Pause | Adversity::Resume | Adversity::Cancel | Adversity::Retry => {
                    let allowed = |run: &usize| world.runs[*run].log.history().check(&wish(*kind)) == Ok(Need::Write);
                    let fails = |run: &usize| {
                        let last = world.runs[*run].log.entries().last().map(|entry| &entry.what);
                        *kind != Adversity::Retry
                            || matches!(last, Some(What::Ended(outcomes)) if outcomes.iter().any(|o| *o != Outcome::Done))
                    };
                    (0..runs).filter(allowed).filter(fails).for_each(|run| add(run, 0));
                }
            }
        }
    }
}

fn wish(kind: Adversity) -> Act {
    act(&wished(kind), 0)
}

fn wished(kind: Adversity) -> What {
    match kind {
        Adversity::Pause => What::Paused,
        Adversity::Resume => What::Resumed,
        Adversity::Cancel => What::Cancelled,
        _ => What::Reopened,
    }
}

impl World {
    fn suffer(&mut self, scene: &Scene, kind: Adversity, first: usize, second: usize) {
        match kind {
            Adversity::Lose => drop(self.queue.remove(first)),
            Adversity::Purge => self.queue.clear(),
            Adversity::Double => self.queue.push_back(self.queue[first]),
            Adversity::CutOff => self.cut_off(first),
            Adversity::HandBack => self.hand_back(first, second),
            Adversity::Die => self.die(first),
            Adversity::DieUntold => self.die_untold(scene, first, second),
            Adversity::StandStill => {
                self.cut_off(first);
                self.workers[first].stands_still = true;
            }
            Adversity::Freeze => self.coordinators[first].is_frozen = true,
            Adversity::Forget => {
                let run = &mut self.runs[first];
                (run.head, run.is_complete) = (None, false);
                run.counted.clear();
                run.holders.clear();
            }
            Adversity::Silence => self.is_silent = true,
            Adversity::Fail => self.finish(scene, first, second, Outcome::Failed),
            Adversity::Pause | Adversity::Resume | Adversity::Cancel | Adversity::Retry => {
                let mut known = self.runs[first].log.clone();
                self.decide(scene, first, &mut known, Entry { what: wished(kind), by: OWNER });
            }
        }
    }

    /// Everybody has had a turn.
    fn time(&mut self, scene: &Scene) {
        self.now += TICK;
        self.quiet += 1;
        self.acts = 0;
        self.heartbeats();
        self.renew_lease();
        let counts = scene.may(Adversity::Silence) || scene.may(Adversity::DieUntold);
        for driven in self.coordinators.iter_mut().flat_map(|leader| leader.driven.values_mut()) {
            driven.is_looked_at = false;
            if counts {
                driven.heard = (driven.heard + 1).min(RECHECK);
                driven.listed = (driven.listed + 1).min(RECHECK);
            }
        }
        self.count_adrift();
    }

    fn renew_lease(&mut self) {
        let (owner, left) = self.lease;
        let is_free = |leader: &Leader| !leader.is_frozen;
        self.lease = match self.coordinators.iter().position(is_free) {
            _ if is_free(&self.coordinators[owner]) => (owner, LEASE),
            Some(other) if left <= 1 => (other, LEASE),
            _ => (owner, left - 1),
        };
        let owner = self.lease.0;
        for (index, leader) in self.coordinators.iter_mut().enumerate().filter(|(_, leader)| !leader.is_frozen) {
            leader.leads = index == owner;
            if !leader.leads {
                leader.driven.clear();
            }
        }
    }

    /// What is out, by the leader's plan, and nowhere to be found.
    fn count_adrift(&mut self) {
        for run in 0..self.runs.len() {
            let plan =
                self.leader().and_then(|leader| leader.driven.get(&run)).and_then(|driven| match &driven.phase {
                    Phase::Pumping { plan, .. } => Some(plan),
                    _ => None,
                });
            let history = self.runs[run].log.history();
            let round = history.last_round().filter(|_| history.wants_work());
            let shards = round.into_iter().flat_map(|round| round.shard_ids());
            let is_adrift = |shard: &ShardId| {
                plan.is_some_and(|plan| plan.has_out(shard.index))
                    && !self.runs[run].markers.contains_key(shard)
                    && !self.is_in_hand(run, *shard)
                    && !self.is_queued(run, *shard)
            };
            let adrift: Vec<_> = shards.filter(is_adrift).collect();
            let before = std::mem::take(&mut self.runs[run].adrift);
            let since = |shard: &ShardId| before.get(shard).copied().unwrap_or(0) + 1;
            self.runs[run].adrift = adrift.iter().map(|shard| (*shard, since(shard))).collect();
        }
    }

    /// Nobody has anything left to do.
    fn is_at_rest(&self) -> bool {
        let settled = self.runs.iter().all(Run::is_settled);
        let is_idle = |worker: &Worker| worker.stands_still || worker.hands.is_empty();
        settled && self.queue.is_empty() && self.workers.iter().all(is_idle)
    }
}
