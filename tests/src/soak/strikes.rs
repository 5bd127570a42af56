//! What strikes the fleet: every few seconds a random part is killed, frozen or emptied, and comes back after a random
//! pause. The order of blows and the lengths of pauses follow from the seed; when they meet which step does not.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};
use std::thread::{Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use fastrand::Rng;
use rustix::process::Signal;

use super::fleet::{Fleet, Kind, Part, Site};

/// What is done to a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Blow {
    /// SIGKILL, and started again after the pause.
    Kill,
    /// SIGSTOP, and SIGCONT after the pause.
    Freeze,
    /// Redis forgets everything.
    Empty,
}

/// A bag of blows: each is drawn once, in random order, before the bag is filled again.
const BAG: &[(Kind, Blow, usize)] = &[
    (Kind::Worker, Blow::Kill, 5),
    (Kind::Worker, Blow::Freeze, 1),
    (Kind::Coordinator, Blow::Kill, 2),
    (Kind::Coordinator, Blow::Freeze, 1),
    (Kind::RabbitMq, Blow::Kill, 1),
    (Kind::Redis, Blow::Kill, 1),
    (Kind::Redis, Blow::Freeze, 1),
    (Kind::Redis, Blow::Empty, 1),
    (Kind::S3, Blow::Kill, 1),
    (Kind::S3, Blow::Freeze, 1),
];

/// How long a part that ended by itself is left alone, as a supervisor would.
const RESTART: Duration = Duration::from_millis(500);

/// A program that may be started again when a service is away, says so with this code.
const TRY_AGAIN: i32 = 75;

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
    under_way: Vec<ScopedJoinHandle<'scope, ()>>,
    pub(super) struck: Struck,
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

    /// Waits until every part that was struck is back.
    pub(super) fn finish(mut self) -> Struck {
        self.join(|_| true);
        self.struck
    }

    /// Joins blows; what went wrong in one goes on here.
    fn join(&mut self, which: impl Fn(&ScopedJoinHandle<'scope, ()>) -> bool) {
        let (done, rest): (Vec<_>, Vec<_>) = std::mem::take(&mut self.under_way).into_iter().partition(which);
        self.under_way = rest;
        for handle in done {
            handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
    }

    fn strike(&mut self) {
        let (kind, blow) = self.draw();
        if (kind, blow) == (Kind::RabbitMq, Blow::Kill)
            && self.broker_kills.is_some_and(|most| self.struck.blows.get(&(kind, blow)).is_some_and(|n| *n >= most))
        {
            return;
        }
        let of_kind: Vec<_> = self.fleet.sites.iter().filter(|site| site.kind == kind).collect();
        let (first, pause) = (self.rng.usize(..of_kind.len()), 0.1 + 3.0 * self.rng.f64());
        // A part that is down already is passed over for its neighbour; all down: the blow waits for its turn.
        let standing = (0..of_kind.len()).map(|offset| of_kind[(first + offset) % of_kind.len()]);
        let Some(site) = standing.into_iter().find(|site| !site.is_struck()) else {
            self.bag.insert(0, (kind, blow));
            return;
        };
        *self.struck.blows.entry((kind, blow)).or_default() += 1;
        if kind == Kind::Redis && blow != Blow::Freeze {
            self.struck.redis_at = Some(Instant::now());
        }
        self.spawn(site, move |part| hit(part, blow, Duration::from_secs_f64(pause)));
    }

    fn draw(&mut self) -> (Kind, Blow) {
        loop {
            match self.bag.pop() {
                Some(drawn) => return drawn,
                None => {
                    let blows = BAG.iter().flat_map(|(kind, blow, times)| std::iter::repeat_n((*kind, *blow), *times));
                    self.bag = blows.collect();
                    self.rng.shuffle(&mut self.bag);
                }
            }
        }
    }

    fn spawn(&mut self, site: &'scope Site, blow: impl FnOnce(&mut Part) + Send + 'scope) {
        site.struck.store(true, Ordering::Release);
        self.under_way.push(self.scope.spawn(move || {
            blow(&mut site.part.lock().unwrap_or_else(PoisonError::into_inner));
            site.struck.store(false, Ordering::Release);
        }));
    }

    fn supervise(&mut self) {
        let fleet = self.fleet;
        for site in fleet.sites.iter().filter(|site| !site.is_struck()) {
            let Some(end) = end(&site.part) else { continue };
            if end.code() == Some(TRY_AGAIN) {
                self.struck.tried_again += 1;
            } else {
                let (name, words) = (&site.name, fleet.last_words(&site.name));
                self.struck.bad_ends.push(format!("{name} ended with {end}:\n{words}"));
            }
            self.spawn(site, |part| {
                std::thread::sleep(RESTART);
                part.start_again();
            });
        }
    }
}

fn end(part: &Mutex<Part>) -> Option<std::process::ExitStatus> {
    match &mut *part.lock().unwrap_or_else(PoisonError::into_inner) {
        Part::Member(member) => member.end(),
        Part::RabbitMq(_) | Part::Redis(_) | Part::S3(_) => None,
    }
}

fn hit(part: &mut Part, blow: Blow, pause: Duration) {
    match (blow, part) {
        (Blow::Empty, Part::Redis(redis)) => redis.flush(),
        (Blow::Empty, _) => unreachable!("only Redis can be emptied"),
        (Blow::Kill, part) => {
            part.kill();
            std::thread::sleep(pause);
            part.start_again();
        }
        (Blow::Freeze, part) => {
            part.signal(Signal::STOP);
            std::thread::sleep(pause);
            part.signal(Signal::CONT);
        }
    }
}
