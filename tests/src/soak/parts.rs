//! The parts of the soak's fleet: how each is started, killed, frozen, cut off and started again.

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::fleet::BUILD;
use crate::children::Process;
use crate::services::proxy::Proxy;
use crate::services::rabbitmq::RabbitMq;
use crate::services::redis::Redis;
use crate::services::s3::S3Server;

/// What a part is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A worker.
    Worker,
    /// A coordinator.
    Coordinator,
    /// The broker.
    RabbitMq,
    /// The progress service.
    Redis,
    /// The object store.
    S3,
}

/// How long a member may take until it listens to signals.
const STARTING: Duration = Duration::from_secs(10);

/// How soon a drained member ends: 25 s, and more on a machine that does much else.
const DRAINED: Duration = Duration::from_secs(60);

/// The code of a program that was drained.
const DRAINED_CODE: i32 = 143;

/// A program that may be started again when a service is away, says so with this code.
pub(super) const TRY_AGAIN: i32 = 75;

/// A coordinator or a worker, and what is between it and RabbitMQ, Redis and the store.
pub(super) struct Member {
    command: Command,
    process: Option<Process>,
    started: Instant,
    networks: [Proxy; 3],
}

impl Member {
    pub(super) fn start(command: Command, networks: [Proxy; 3]) -> Self {
        let mut member = Self { command, process: None, started: Instant::now(), networks };
        member.start_again();
        member
    }

    pub(super) fn start_again(&mut self) {
        self.started = Instant::now();
        self.process = Some(Process::spawn(&mut self.command, BUILD));
    }

    /// How it ended by itself; `None` while it runs.
    pub(super) fn end(&mut self) -> Option<ExitStatus> {
        self.process.as_mut()?.end()
    }

    pub(super) fn signal(&self, signal: Signal) {
        self.process.iter().for_each(|process| process.signal(signal));
    }

    /// Waits for the end of one that was told to drain; what was wrong with it.
    pub(super) fn drained(&mut self) -> Option<String> {
        let process = self.process.as_mut()?;
        let Some(end) = process.end_within(DRAINED) else {
            return Some(format!("was drained and has not ended within {DRAINED:?}"));
        };
        // One that was only just started did not listen to signals yet, and had nothing to hand back; or a service was away.
        let unready = end.signal() == Some(Signal::TERM.as_raw()) && self.started.elapsed() < STARTING.max(DRAINED);
        let fine = matches!(end.code(), Some(DRAINED_CODE | TRY_AGAIN)) || unready;
        (!fine).then(|| format!("was drained and ended with {end}"))
    }

    /// Cuts it off from those services that `which` says, in the order RabbitMQ, Redis, store; from all where it says none.
    pub(super) fn cut(&self, which: [bool; 3]) {
        let all = which == [false; 3];
        let cut = self.networks.iter().zip(which).filter(|(_, cut)| *cut || all);
        cut.for_each(|(network, _)| network.cut());
    }

    pub(super) fn heal(&self) {
        self.networks.iter().for_each(Proxy::heal);
    }
}

pub(super) enum Part {
    Member(Member),
    RabbitMq(RabbitMq),
    Redis(Redis),
    S3(S3Server),
}

impl Part {
    pub(super) fn kill(&mut self) {
        match self {
            Self::Member(member) => member.process = None,
            Self::RabbitMq(rabbitmq) => rabbitmq.kill(),
            Self::Redis(redis) => redis.kill(),
            Self::S3(s3) => s3.kill(),
        }
    }

    pub(super) fn start_again(&mut self) {
        match self {
            Self::Member(member) => member.start_again(),
            Self::RabbitMq(rabbitmq) => rabbitmq.start_again(),
            Self::Redis(redis) => redis.start_again(),
            Self::S3(s3) => s3.start_again(),
        }
    }

    pub(super) fn signal(&self, signal: Signal) {
        match self {
            Self::Member(member) => member.signal(signal),
            Self::RabbitMq(rabbitmq) => rabbitmq.signal(signal),
            Self::Redis(redis) => redis.signal(signal),
            Self::S3(s3) => s3.signal(signal),
        }
    }
}

/// A part in its place. Whoever strikes it takes the lock until it is up again.
pub(super) struct Site {
    pub(super) kind: Kind,
    pub(super) name: String,
    part: Mutex<Part>,
    /// Set before a blow is under way, cleared after it.
    struck: AtomicBool,
}

impl Site {
    pub(super) fn new(kind: Kind, name: impl Into<String>, part: Part) -> Self {
        Self { kind, name: name.into(), part: Mutex::new(part), struck: AtomicBool::new(false) }
    }

    /// The part; waits until it is up again.
    pub(super) fn part(&self) -> MutexGuard<'_, Part> {
        self.part.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_struck(&self) -> bool {
        self.struck.load(Ordering::Acquire)
    }

    pub(super) fn set_struck(&self, struck: bool) {
        self.struck.store(struck, Ordering::Release);
    }
}
