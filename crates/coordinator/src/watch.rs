//! How far a run is, for whoever watches it: a progress bar, a log, later the API.

use std::collections::VecDeque;
use std::time::Duration;

use diorama_backends::progress::{Counts, Holder};
use diorama_core::id::{Round, ShardId};
use diorama_core::round::RoundInfo;
use diorama_core::run::{RunSpec, RunState};
use tokio::time::Instant;

/// The rate is taken over this long.
const RATE_OVER: Duration = Duration::from_secs(60);

/// How far a run is.
#[derive(Debug, Clone, PartialEq)]
pub struct RunProgress {
    /// Running, paused, cancelled or finished.
    pub state: RunState,
    /// The round that is under way.
    pub round: Round,
    /// Tasks in all.
    pub total: u64,
    /// Pictures made, those of shards that are not committed yet included.
    pub done: u64,
    /// Tasks that failed for good.
    pub failed: u64,
    /// Tasks that failed and will be, or are being, retried.
    pub retrying: u64,
    /// Shards that a worker holds.
    pub shards_running: u64,
    /// Over the last minute; `None` until something was made.
    pub pictures_per_second: Option<f64>,
    /// How long the rest takes at this rate.
    pub eta: Option<Duration>,
}

impl RunProgress {
    /// Before anything has happened.
    pub fn start(total: u64) -> Self {
        Self {
            state: RunState::Running,
            round: Round(0),
            total,
            done: 0,
            failed: 0,
            retrying: 0,
            shards_running: 0,
            pictures_per_second: None,
            eta: None,
        }
    }
}

/// Turns counts into progress; remembers enough for a rate.
#[derive(Default)]
pub(crate) struct Gauge {
    samples: VecDeque<(Instant, u64)>,
}

impl Gauge {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn read(
        &mut self,
        now: Instant,
        spec: &RunSpec,
        state: RunState,
        round: &RoundInfo,
        counts: Counts,
        holders: &[(ShardId, Holder)],
    ) -> RunProgress {
        let done = counts.done + holders.iter().map(|(_, holder)| holder.done).sum::<u64>();
        if self.samples.back().is_none_or(|(_, last)| *last != done) {
            self.samples.push_back((now, done));
        }
        while self.samples.len() > 2 && now.duration_since(self.samples[1].0) > RATE_OVER {
            self.samples.pop_front();
        }
        let rate = self.samples.front().and_then(|(since, at_first)| {
            let seconds = now.duration_since(*since).as_secs_f64();
            (done > *at_first && seconds > 0.0).then(|| (done - at_first) as f64 / seconds)
        });
        let failed = round.failed(counts.failed);
        let left = spec.tasks.saturating_sub(done + failed);
        RunProgress {
            state,
            round: round.round,
            total: spec.tasks,
            done,
            failed,
            retrying: retrying(spec.tasks.saturating_sub(counts.done + failed), counts, round),
            shards_running: holders.len() as u64,
            pictures_per_second: rate,
            eta: rate.map(|rate| Duration::from_secs_f64((left as f64 / rate).min(1e9))),
        }
    }
}

/// Of the tasks that have no outcome for good yet, `left`, those that failed before: of a round that reopened the run
/// or came after it, all.
pub(crate) fn retrying(left: u64, counts: Counts, round: &RoundInfo) -> u64 {
    if round.budget.0 > 0 { left } else { left.min(counts.retrying) }
}

#[cfg(test)]
mod tests {
    use diorama_core::id::AttemptId;

    use super::*;
    use crate::tests::spec;

    #[test]
    fn the_rate_is_that_of_the_last_minute_and_tells_when_the_rest_is_done() {
        let (spec, start) = (spec(1000, 10), Instant::now());
        let mut gauge = Gauge::new();
        let round = RoundInfo::first(100, 1000, AttemptId::new("w").unwrap(), jiff::Timestamp::UNIX_EPOCH);
        let mut read = |second, done| {
            let counts = Counts { done, ..Counts::default() };
            gauge.read(start + Duration::from_secs(second), &spec, RunState::Running, &round, counts, &[])
        };
        assert_eq!(read(0, 0).pictures_per_second, None);
        // One a second at first, then three.
        for second in 1..=200 {
            read(second, if second <= 100 { second } else { 100 + (second - 100) * 3 });
        }
        let last = read(200, 400);
        assert!((last.pictures_per_second.unwrap() - 3.0).abs() < 0.01, "{last:?}");
        assert!((last.eta.unwrap().as_secs_f64() - 200.0).abs() < 1.0, "{last:?}");
        let stalled = read(400, 400);
        assert!(stalled.pictures_per_second.unwrap() < 1.0, "a stall shows: {stalled:?}");
    }
}
