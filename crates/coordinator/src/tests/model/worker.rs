//! What a worker does with a delivery: as `crates/worker` has it, which the coordinator's tests cannot use. What is wanted of
//! a shard is the real log's word.

use diorama_core::id::ShardId;

use super::log::{Log, Outcome};
use super::scenes::{Fault, Scene};
use super::world::{Attempt, BELIEVED, Held, Holder, World};

/// Whether workers are to go on with a shard, by what they know of the log.
fn is_wanted(log: &Log, shard: ShardId) -> bool {
    log.history().wants_work() && log.history().is_under_way(shard)
}

impl World {
    /// Whether the worker is connected and has room.
    pub(super) fn has_room(&self, scene: &Scene, worker: usize) -> bool {
        let worker = &self.workers[worker];
        !worker.stands_still && worker.hands.len() < scene.hands
    }

    /// Whether the worker hears that a shard in its hands is not wanted any more.
    pub(super) fn is_to_let_go(&self, held: &Held) -> bool {
        !is_wanted(&self.runs[held.run].heard(), held.shard)
    }

    /// Takes the first message.
    pub(super) fn take(&mut self, scene: &Scene, worker: usize) {
        let Some(message) = self.queue.pop_front() else { return };
        let (run, shard) = (message.run, message.shard);
        let mut hands = self.workers[worker].hands.iter_mut();
        if let Some(held) = hands.find(|held| (held.run, held.shard) == (run, shard)) {
            // The older delivery is acknowledged, and the attempt goes on with this one.
            if scene.fault != Some(Fault::NewerDeliveriesAreAcknowledged) {
                held.is_alive = true;
            }
            return;
        }
        let state = &mut self.runs[run];
        if !message.again && state.holders.get(&shard).is_some_and(|holder| holder.attempt.worker != worker) {
            return;
        }
        let mut log = state.heard();
        if log.history().last_round().unwrap().round < shard.round {
            log = state.log.clone();
        }
        if !is_wanted(&log, shard) {
            return;
        }
        if state.markers.contains_key(&shard) {
            state.counted.insert(shard);
            return;
        }
        let attempt = Attempt { worker, number: state.attempts };
        state.attempts += 1;
        state.holders.insert(shard, Holder { attempt, believed: BELIEVED });
        self.workers[worker].hands.push(Held { run, shard, attempt, is_alive: true, age: 0 });
    }

    /// Commits a shard in its hands, tells the progress service, acknowledges.
    pub(super) fn finish(&mut self, scene: &Scene, worker: usize, at: usize, outcome: Outcome) {
        let held = self.release(worker, at);
        self.commit(scene, &held, outcome);
        self.runs[held.run].counted.insert(held.shard);
    }

    /// Commits, and dies before it tells anybody.
    pub(super) fn die_untold(&mut self, scene: &Scene, worker: usize, at: usize) {
        let held = self.workers[worker].hands[at].clone();
        self.commit(scene, &held, Outcome::Done);
        self.die(worker);
    }

    /// The store's conditional put of a marker.
    fn commit(&mut self, scene: &Scene, held: &Held, outcome: Outcome) {
        let run = &mut self.runs[held.run];
        let is_first = !run.markers.contains_key(&held.shard);
        if is_first || scene.fault == Some(Fault::MarkersAreRewritten) {
            run.markers.insert(held.shard, (held.attempt, outcome));
            run.winners.insert((held.shard, held.attempt));
        }
    }

    /// Acknowledges a shard that is not wanted.
    pub(super) fn let_go(&mut self, worker: usize, at: usize) {
        self.release(worker, at);
    }

    /// Gives a shard back to the queue, through the channel that its delivery came by.
    pub(super) fn hand_back(&mut self, worker: usize, at: usize) {
        let held = self.release(worker, at);
        if held.is_alive {
            self.requeue(held.run, held.shard);
        }
    }

    fn release(&mut self, worker: usize, at: usize) -> Held {
        let held = self.workers[worker].hands.remove(at);
        let holders = &mut self.runs[held.run].holders;
        if holders.get(&held.shard).is_some_and(|holder| holder.attempt == held.attempt) {
            holders.remove(&held.shard);
        }
        held
    }

    /// The broker gives what the worker has not settled to somebody else; the worker does not know.
    pub(super) fn cut_off(&mut self, worker: usize) {
        for at in 0..self.workers[worker].hands.len() {
            let held = &mut self.workers[worker].hands[at];
            if std::mem::take(&mut held.is_alive) {
                let (run, shard) = (held.run, held.shard);
                self.requeue(run, shard);
            }
        }
    }

    /// The worker is gone, and another one with its name is there. The progress service believes in it for a while.
    pub(super) fn die(&mut self, worker: usize) {
        self.cut_off(worker);
        self.workers[worker].hands.clear();
    }

    /// Signs of life, and their absence.
    pub(super) fn heartbeats(&mut self) {
        for run in &mut self.runs {
            for holder in run.holders.values_mut() {
                holder.believed -= 1;
            }
            run.holders.retain(|_, holder| holder.believed > 0);
        }
        for worker in self.workers.iter_mut().filter(|worker| !worker.stands_still) {
            for held in &mut worker.hands {
                held.age += 1;
                let holder = Holder { attempt: held.attempt, believed: BELIEVED };
                self.runs[held.run].holders.insert(held.shard, holder);
            }
        }
    }
}
