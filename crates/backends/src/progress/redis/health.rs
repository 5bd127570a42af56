//! What the latest answers say of the server, so that one that is no help is done without at once.
//!
//! Two kinds of servers are worse than none. One that says nothing holds up whoever asks until his time-out, request after
//! request: it is asked again by one request at a time, with a pause in between. One that takes nothing (full, a replica)
//! answers readily with what held when it was last told something: it is not asked until it takes something again.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The pauses between two tries of a server that says nothing.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// How long a server that took nothing is not asked, where nobody tells it anything in between.
const DEAF: Duration = Duration::from_secs(15);

/// What is known of the server.
#[derive(Debug, Default)]
pub(super) struct Health(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    silent: Option<Silent>,
    /// Why it took nothing, and until when that is believed.
    deaf: Option<(String, Instant)>,
}

#[derive(Debug, Clone, Copy)]
struct Silent {
    /// When that was known last.
    since: Instant,
    /// Before then nobody tries.
    until: Instant,
    pause: Duration,
}

impl Health {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a request may be sent now. Of a server that says nothing, this is the one that tries it.
    pub(super) fn may_send(&self, now: Instant) -> bool {
        match &mut self.known().silent {
            Some(silent) if now < silent.until => false,
            Some(silent) => {
                // Until it has its answer; where it does not wait for that, somebody else tries then.
                silent.until = now + LONGEST_PAUSE;
                true
            }
            None => true,
        }
    }

    /// It answered, whatever it said.
    pub(super) fn spoke(&self) {
        self.known().silent = None;
    }

    /// It said nothing to a request that was sent at `sent`, for as long as that may take.
    pub(super) fn said_nothing(&self, sent: Instant, now: Instant) {
        let mut known = self.known();
        let pause = match known.silent {
            // Many were on their way when it fell silent.
            Some(silent) if sent < silent.since => return,
            Some(silent) => (silent.pause * 2).min(LONGEST_PAUSE),
            None => FIRST_PAUSE,
        };
        known.silent = Some(Silent { since: now, until: now + pause, pause });
    }

    /// It took what it was told.
    pub(super) fn took(&self) {
        self.known().deaf = None;
    }

    /// It took nothing, for this reason.
    pub(super) fn took_nothing(&self, problem: &str, now: Instant) {
        self.known().deaf = Some((problem.to_owned(), now + DEAF));
    }

    /// Why what it says is out of date, where it is.
    pub(super) fn deaf(&self, now: Instant) -> Option<String> {
        self.known().deaf.as_ref().filter(|(_, until)| now < *until).map(|(problem, _)| problem.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_says_nothing_is_tried_by_one_request_at_a_time_and_ever_less_often() {
        let (health, mut now) = (Health::default(), Instant::now());
        assert!(health.may_send(now) && health.may_send(now));
        let mut sent = now;
        for pause in [500, 1000, 2000, 4000, 5000, 5000].map(Duration::from_millis) {
            now += Duration::from_secs(2);
            for _ in 0..9 {
                health.said_nothing(sent, now);
            }
            assert!(!health.may_send(now + pause - Duration::from_millis(1)), "{pause:?}");
            now += pause;
            assert!(health.may_send(now), "{pause:?}");
            assert!(!health.may_send(now + Duration::from_secs(2)), "one tries it: {pause:?}");
            sent = now;
        }
        health.spoke();
        assert!(health.may_send(now) && health.may_send(now));
        health.said_nothing(now, now);
        assert!(health.may_send(now + FIRST_PAUSE), "that was another silence");
    }

    #[test]
    fn a_server_that_takes_nothing_is_not_asked_until_it_takes_something() {
        let (health, now) = (Health::default(), Instant::now());
        health.took_nothing("it is full", now);
        health.spoke();
        assert_eq!(health.deaf(now).as_deref(), Some("it is full"));
        health.took();
        assert_eq!(health.deaf(now), None);
        health.took_nothing("it is full", now);
        assert_eq!(health.deaf(now + DEAF), None, "whoever has nothing to tell asks again");
    }
}
