//! What strikes the fleet: every few seconds a random part is killed, frozen, drained, cut off, emptied, robbed or made to
//! lie, and comes back after a random pause. The order of blows and the lengths of pauses follow from the seed; when they
//! meet which step does not.

use std::collections::BTreeMap;
use std::thread::{Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use fastrand::Rng;
use rustix::process::Signal;

use super::fleet::{AMQP_HEARTBEAT, Fleet, LEASE, POOLS};
use super::parts::{Kind, Part, Site, TRY_AGAIN};
use crate::services::redis::Redis;
use crate::services::s3::Faults;

/// What is done to a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Blow {
    /// SIGKILL, and started again after the pause.
    Kill,
    /// SIGSTOP, and SIGCONT after the pause.
    Freeze,
    /// The same for longer than any lease.
    Stall,
    /// SIGTERM, and started again when it has ended.
    Drain,
    /// Whatever it sends to some of the services, or all, is lost until the pause is over.
    CutOff,
    /// Redis forgets everything.
    Empty,
    /// Redis loses one key.
    LoseKey,
    /// Redis loses two keys.
    LosePair,
    /// The broker loses what waits in one of the queues.
    Purge,
    /// The store does what it is asked and says that it did not, does it late, and shows short pages, until the pause is
    /// over.
    Lie,
}

/// A bag of blows: each is drawn so often, in random order, before the bag is filled again.
const BAG: &[(Kind, Blow, usize)] = &[
    (Kind::Worker, Blow::Kill, 5),
    (Kind::Worker, Blow::Freeze, 1),
    (Kind::Worker, Blow::Stall, 2),
    (Kind::Worker, Blow::Drain, 2),
    (Kind::Worker, Blow::CutOff, 2),
    (Kind::Coordinator, Blow::Kill, 2),
    (Kind::Coordinator, Blow::Freeze, 1),
    (Kind::Coordinator, Blow::Stall, 2),
    (Kind::Coordinator, Blow::Drain, 1),
    (Kind::Coordinator, Blow::CutOff, 1),
    (Kind::RabbitMq, Blow::Kill, 1),
    (Kind::RabbitMq, Blow::Purge, 2),
    (Kind::Redis, Blow::Kill, 1),
    (Kind::Redis, Blow::Freeze, 1),
    (Kind::Redis, Blow::Empty, 1),
    (Kind::Redis, Blow::LoseKey, 2),
    (Kind::Redis, Blow::LosePair, 1),
    (Kind::S3, Blow::Kill, 1),
    (Kind::S3, Blow::Freeze, 1),
    (Kind::S3, Blow::Lie, 1),
];

/// Every blow that there is.
pub fn all_blows() -> impl Iterator<Item = (Kind, Blow)> {
    BAG.iter().map(|(kind, blow, _)| (*kind, *blow))
}

/// How long a part that ended by itself is left alone, as a supervisor would.
const RESTART: Duration = Duration::from_millis(500);

/// What was struck, and what was seen on the way.
#[derive(Debug, Clone, Default)]
pub struct Struck {
    /// Blows by part and kind.
    pub blows: BTreeMap<(Kind, Blow), u64>,
    /// How often a member ended by itself because a service was away, and was started again.
    pub tried_again: u64,
    /// Members that ended as none may: a panic, or "it will not work".
    pub bad_ends: Vec<String>,
    /// When Redis lost something last.
    pub redis_at: Option<Instant>,
}

/// Strikes while it is asked to.
pub(super) struct Striker<'scope, 'env> {
    scope: &'scope Scope<'scope, 'env>,
    fleet: &'scope Fleet,
    rng: Rng,
    bag: Vec<(Kind, Blow)>,
    every: Duration,
    next: Instant,
    broker_kills: Option<u64>,
    /// Each gives what was wrong.
    under_way: Vec<ScopedJoinHandle<'scope, Option<String>>>,
    struck: Struck,
}

impl<'scope, 'env> Striker<'scope, 'env> {
    pub(super) fn new(
        scope: &'scope Scope<'scope, 'env>,
        fleet: &'scope Fleet,
        seed: u64,
        every: Duration,
        broker_kills: Option<u64>,
    ) -> Self {
        Self {
            scope,
            fleet,
            rng: Rng::with_seed(seed),
            bag: Vec::new(),
            every,
            next: Instant::now() + every,
            broker_kills,
            under_way: Vec::new(),
            struck: Struck::default(),
        }
    }

    /// Strikes where it is time to, and starts again who ended by itself.
    pub(super) fn go_on(&mut self) {
        self.join(|handle| handle.is_finished());
        self.supervise();
        if Instant::now() >= self.next {
            // Half to one and a half of the interval.
            self.next = Instant::now() + self.every.mul_f64(0.5 + self.rng.f64());
            self.strike();
        }
    }

    /// Blows so far.
    pub(super) fn blows(&self) -> u64 {
        self.struck.blows.values().sum()
    }

    /// Waits until every part that was struck is back; each blow has a bound.
    pub(super) fn finish(mut self) -> Struck {
        self.join(|_| true);
        self.struck
    }

    /// Joins blows; what went wrong in one goes on here.
    fn join(&mut self, which: impl Fn(&ScopedJoinHandle<'scope, Option<String>>) -> bool) {
        let (done, rest): (Vec<_>, Vec<_>) = std::mem::take(&mut self.under_way).into_iter().partition(which);
        self.under_way = rest;
        for handle in done {
            let wrong = handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            self.struck.bad_ends.extend(wrong);
        }
    }

    fn strike(&mut self) {
        let (kind, blow) = self.draw();
        if (kind, blow) == (Kind::RabbitMq, Blow::Kill)
            && self.broker_kills.is_some_and(|most| self.struck.blows.get(&(kind, blow)).is_some_and(|n| *n >= most))
        {
            return;
        }
        let of_kind: Vec<_> = self.fleet.of(kind).collect();
        let (first, pause, rng) = (self.rng.usize(..of_kind.len()), self.pause(blow), self.rng.fork());
        // A part that is down already is passed over for its neighbour; all down: the blow waits for its turn.
        let standing = (0..of_kind.len()).map(|offset| of_kind[(first + offset) % of_kind.len()]);
        let Some(site) = standing.into_iter().find(|site| !site.is_struck()) else {
            self.bag.insert(0, (kind, blow));
            if self.bag.iter().all(|(other, _)| *other == kind) {
                // A broker that takes long to come back holds up no other blow.
                self.fill();
            }
            return;
        };
        *self.struck.blows.entry((kind, blow)).or_default() += 1;
        if kind == Kind::Redis && blow != Blow::Freeze {
            self.struck.redis_at = Some(Instant::now());
        }
        let name = &site.name;
        self.spawn(site, move |part| hit(part, blow, pause, rng).map(|wrong| format!("{name} {wrong}")));
    }

    /// How long a blow lasts.
    fn pause(&mut self, blow: Blow) -> Duration {
        let some = Duration::from_secs_f64(0.1 + 3.0 * self.rng.f64());
        match blow {
            Blow::Stall | Blow::CutOff => some + LEASE.max(AMQP_HEARTBEAT * 2),
            _ => some,
        }
    }

    fn draw(&mut self) -> (Kind, Blow) {
        loop {
            match self.bag.pop() {
                Some(drawn) => return drawn,
                None => self.fill(),
            }
        }
    }

    /// Puts a whole bag on top of what is left.
    fn fill(&mut self) {
        let mut fresh: Vec<_> =
            BAG.iter().flat_map(|(kind, blow, times)| std::iter::repeat_n((*kind, *blow), *times)).collect();
        self.rng.shuffle(&mut fresh);
        self.bag.extend(fresh);
    }

    fn spawn(&mut self, site: &'scope Site, blow: impl FnOnce(&mut Part) -> Option<String> + Send + 'scope) {
        site.set_struck(true);
        self.under_way.push(self.scope.spawn(move || {
            let wrong = blow(&mut site.part());
            site.set_struck(false);
            wrong
        }));
    }

    fn supervise(&mut self) {
        let fleet = self.fleet;
        for site in fleet.sites.iter().filter(|site| !site.is_struck()) {
            let end = match &mut *site.part() {
                Part::Member(member) => member.end(),
                Part::RabbitMq(_) | Part::Redis(_) | Part::S3(_) => None,
            };
            let Some(end) = end else { continue };
            if end.code() == Some(TRY_AGAIN) {
                self.struck.tried_again += 1;
            } else {
                let (name, words) = (&site.name, fleet.last_words(&site.name));
                self.struck.bad_ends.push(format!("{name} ended with {end}:\n{words}"));
            }
            self.spawn(site, |part| {
                std::thread::sleep(RESTART);
                part.start_again();
                None
            });
        }
    }
}

/// Strikes a part for as long as `pause` says; what was wrong with how it bore that.
fn hit(part: &mut Part, blow: Blow, pause: Duration, mut rng: Rng) -> Option<String> {
    match (blow, part) {
        (Blow::Kill, part) => {
            part.kill();
            std::thread::sleep(pause);
            part.start_again();
        }
        (Blow::Freeze | Blow::Stall, part) => {
            part.signal(Signal::STOP);
            std::thread::sleep(pause);
            part.signal(Signal::CONT);
        }
        (Blow::Drain, Part::Member(member)) => {
            member.signal(Signal::TERM);
            let wrong = member.drained();
            std::thread::sleep(pause);
            member.start_again();
            return wrong;
        }
        (Blow::CutOff, Part::Member(member)) => {
            member.cut([rng.bool(), rng.bool(), rng.bool()]);
            std::thread::sleep(pause);
            member.heal();
        }
        (Blow::Empty, Part::Redis(redis)) => redis.flush(),
        (Blow::LoseKey, Part::Redis(redis)) => lose_keys(redis, 1, &mut rng),
        (Blow::LosePair, Part::Redis(redis)) => lose_keys(redis, 2, &mut rng),
        (Blow::Purge, Part::RabbitMq(rabbitmq)) => {
            let pool = POOLS[rng.usize(..POOLS.len())];
            rabbitmq.purge(&format!("diorama.{pool}"));
        }
        (Blow::Lie, Part::S3(s3)) => {
            s3.set(Faults::lying());
            std::thread::sleep(pause);
            s3.set(Faults::default());
        }
        (blow, _) => unreachable!("nothing of this kind can be struck like this: {blow:?}"),
    }
    None
}

/// Makes Redis lose some of Diorama's keys, whichever there are.
fn lose_keys(redis: &Redis, keys: usize, rng: &mut Rng) {
    let mut all = redis.ask(&["KEYS", "diorama:*"]).expect("Redis answers");
    // The server gives them in an order of its own.
    all.sort();
    for _ in 0..keys.min(all.len()) {
        let key = all.swap_remove(rng.usize(..all.len()));
        redis.ask(&["DEL", &key]).expect("Redis answers");
    }
}
