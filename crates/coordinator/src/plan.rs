//! What to publish of a round, from what was seen of it: the run's window within its share of the pool. It reads and writes
//! nothing; the pump does what it says, and the model in the tests runs it as it is.

use std::collections::HashMap;
use std::ops::Range;
use std::time::Duration;

use diorama_backends::queue::QueueDepth;
use diorama_core::id::AttemptId;
use diorama_core::shards::ShardSet;
use tokio::time::Instant;

use crate::share::{Share, Standing, Turn};
use crate::window::{Queued, Window};

/// A worker has this many messages that it has not begun.
const PREFETCHED: u64 = 2;

/// The plan of one round.
#[derive(Debug)]
pub(crate) struct Plan {
    share: Share,
    window: Window,
    /// Of the round.
    shards: u32,
    /// Of those, as many as were known to be committed when it last looked.
    made: u64,
    /// Workers were told that what they have not begun makes room for another run.
    gives_way: bool,
    /// Everything of the pool that was published before this was taken up or is lost.
    taken_up: Option<Instant>,
}

/// What is to be published.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Publish {
    /// Published before, and lost.
    pub(crate) lost: Vec<u32>,
    /// Not published before, as far as is known.
    pub(crate) new: Vec<u32>,
}

impl Plan {
    /// Nothing is out.
    pub(crate) fn new(share: Share, shards: u32) -> Self {
        Self { share, window: Window::new(), shards, made: 0, gives_way: false, taken_up: None }
    }

    /// From the first shard that is out to behind the last; `None` where nothing is out.
    pub(crate) fn out(&self) -> Option<Range<u32>> {
        self.window.range()
    }

    /// Whether the depth of the queue matters: something is out that nobody has taken up, or there is more to publish.
    pub(crate) fn needs_depth(&self) -> bool {
        self.window.waiting() > 0 || self.window.has_more(self.shards)
    }

    /// Whether workers were told that the run gives way.
    pub(crate) fn gives_way(&self) -> bool {
        self.gives_way
    }

    /// The run is paused. Workers let go of what they hold, and with that it is out no more: a pause may last, and the
    /// pool's window is the others' then. It is all published again when the run goes on.
    pub(crate) fn pause(&mut self, committed: &ShardSet, holders: Option<&HashMap<u32, AttemptId>>, now: Instant) {
        self.window.look(committed, holders, now);
        self.window.reset(holders.is_some(), now);
        self.share.tell(Standing { wants: false, waiting: 0, ..self.stands() }, now);
    }

    /// Something was decided: workers may have let go of messages.
    pub(crate) fn decided(&mut self, holders_known: bool, now: Instant) {
        self.window.reset(holders_known, now);
        // What is announced anew gives no way.
        self.gives_way = false;
    }

    /// Workers were told whether the run gives way.
    pub(crate) fn told_to_give_way(&mut self, gives_way: bool, now: Instant) {
        self.window.reset(true, now);
        self.gives_way = gives_way;
    }

    /// What workers hear of giving way, as somebody said it last: whoever led before us, or announced the same log anew.
    pub(crate) fn heard_to_give_way(&mut self, gives_way: bool) {
        self.gives_way = gives_way;
    }

    fn stands(&self) -> Standing {
        Standing {
            wants: self.window.has_more(self.shards),
            out: self.window.len(),
            waiting: self.window.waiting(),
            made: self.made,
        }
    }

    /// Takes in what is committed, and who holds what where that is known.
    pub(crate) fn see(&mut self, committed: &ShardSet, holders: Option<&HashMap<u32, AttemptId>>, now: Instant) {
        self.made = committed.len();
        self.taken_up = self.share.taken_up(self.window.look(committed, holders, now));
        self.share.tell(self.stands(), now);
    }

    /// What the run may do now. `depth` is needed where [`Plan::needs_depth`] says so.
    pub(crate) fn turn(&self, depth: Option<&QueueDepth>, now: Instant) -> Turn {
        if let Some(depth) = depth {
            self.share.served_by(depth.consumers);
        }
        self.share.turn(self.stands(), now)
    }

    /// What is to be published; it counts as published from now on. `depth` as for the turn.
    pub(crate) fn publish(
        &mut self,
        turn: &Turn,
        depth: Option<&QueueDepth>,
        committed: &ShardSet,
        patience: Duration,
        now: Instant,
    ) -> Publish {
        let queued =
            Queued { misses_some: depth.is_some_and(|depth| self.misses_some(depth)), taken_up: self.taken_up };
        let lost = self.window.take_lost(queued, patience, now);
        let mut new = Vec::new();
        if !self.gives_way || turn.room > 0 {
            new = self.window.take(turn.room, self.shards, committed, now);
        }
        self.share.tell(self.stands(), now);
        Publish { lost, new }
    }

    /// Fewer messages wait than shards of the pool's runs that nobody has taken up.
    fn misses_some(&self, depth: &QueueDepth) -> bool {
        let waiting = self.share.waiting_in_pool() as u64;
        depth.ready == 0 || depth.ready + PREFETCHED * depth.consumers < waiting
    }
}

/// For the model, which goes several ways from where it is.
#[cfg(test)]
impl Plan {
    /// The same among a copy of its shares.
    pub(crate) fn among(&self, shares: &crate::share::Shares) -> Self {
        Self { share: self.share.among(shares), window: self.window.clone(), ..*self }
    }

    /// Whether the shard is out.
    pub(crate) fn has_out(&self, index: u32) -> bool {
        self.window.has(index)
    }

    /// When the first of the shards that wait was published.
    pub(crate) fn oldest(&self) -> Option<Instant> {
        self.window.oldest()
    }

    /// All that tells this plan from another one of the same run, whatever the time.
    pub(crate) fn hash(&self, now: Instant, hasher: &mut impl std::hash::Hasher) {
        use std::hash::Hash;
        (self.gives_way, self.made).hash(hasher);
        self.window.hash(now, hasher);
    }
}

#[cfg(test)]
mod tests {
    use diorama_core::id::{Pool, RunId};

    use super::*;
    use crate::share::Shares;

    #[tokio::test]
    async fn a_paused_run_keeps_nothing_of_the_window_for_what_was_let_go() {
        let (shares, pool, now) = (Shares::new(2), Pool::new("pool").unwrap(), Instant::now());
        let plan = |run: &str| Plan::new(shares.join(&RunId::new(run).unwrap(), &pool, 0, 1), 9);
        let (mut paused, none) = (plan("paused"), ShardSet::default());
        let publish = |plan: &mut Plan| {
            let depth = QueueDepth { ready: 0, consumers: 9, dead: 0 };
            plan.see(&none, None, now);
            let turn = plan.turn(Some(&depth), now);
            plan.publish(&turn, Some(&depth), &none, Duration::from_secs(90), now).new
        };
        assert_eq!(publish(&mut paused), [0, 1]);
        let mut other = plan("other");
        let held = [0, 1].map(|index| (index, AttemptId::new("a").unwrap())).into();
        paused.pause(&none, Some(&held), now);
        assert_eq!(publish(&mut other), [0; 0], "workers are at them still");
        paused.pause(&none, Some(&HashMap::new()), now);
        assert_eq!(publish(&mut other), [0, 1]);
    }
}
