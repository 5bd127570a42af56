//! Pictures over time, of one run and of the fleet.

use std::collections::{BTreeMap, HashMap};

use diorama_backends::progress::{Interval, THROUGHPUT_INTERVALS, THROUGHPUT_SECONDS, Throughput};
use diorama_core::id::RunId;
use serde::Serialize;
use utoipa::ToSchema;

/// Pictures by interval, the oldest first; intervals without any are left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(in crate::api) struct Series {
    /// The length of an interval, in seconds.
    pub(super) seconds: i64,
    /// When this was read, in seconds since 1970 by the progress service's clock.
    pub(super) now: i64,
    pub(super) intervals: Vec<Made>,
}

/// Pictures committed in one interval.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(in crate::api) struct Made {
    /// When it began, in seconds since 1970.
    at: i64,
    done: u64,
}

impl From<Throughput> for Series {
    fn from(Throughput { now, intervals }: Throughput) -> Self {
        let intervals = intervals.into_iter().map(|Interval { at, done }| Made { at, done }).collect();
        Self { seconds: THROUGHPUT_SECONDS, now, intervals }
    }
}

/// What each run made in the last hour, those that have ended since among them.
#[derive(Default)]
pub(super) struct History {
    runs: HashMap<RunId, BTreeMap<i64, u64>>,
    now: i64,
}

impl History {
    /// Notes what the progress service says of a run now: of each interval, all of it.
    pub(super) fn note(&mut self, run: &RunId, throughput: &Throughput) {
        self.now = self.now.max(throughput.now);
        let known = self.runs.entry(run.clone()).or_default();
        known.extend(throughput.intervals.iter().map(|interval| (interval.at, interval.done)));
    }

    /// All runs together, over the last hour.
    pub(super) fn series(&mut self) -> Series {
        let since = self.now - THROUGHPUT_SECONDS * THROUGHPUT_INTERVALS as i64;
        let mut all: BTreeMap<i64, u64> = BTreeMap::new();
        self.runs.retain(|_, made| {
            made.retain(|at, _| *at > since);
            made.iter().for_each(|(at, done)| *all.entry(*at).or_default() += done);
            !made.is_empty()
        });
        let intervals = all.into_iter().map(|(at, done)| Made { at, done }).collect();
        Series { seconds: THROUGHPUT_SECONDS, now: self.now, intervals }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_runs_add_up_and_what_is_older_than_an_hour_is_forgotten() {
        let mut history = History::default();
        let mut note = |run: &str, now: i64, intervals: &[(i64, u64)]| {
            let intervals = intervals.iter().map(|(at, done)| Interval { at: *at, done: *done }).collect();
            history.note(&RunId::new(run).unwrap(), &Throughput { now, intervals });
            history.series().intervals.iter().map(|made| (made.at, made.done)).collect::<Vec<_>>()
        };
        assert_eq!(note("a", 105, &[(90, 5), (100, 2)]), [(90, 5), (100, 2)]);
        assert_eq!(note("a", 108, &[(90, 5), (100, 4)]), [(90, 5), (100, 4)], "an interval is counted once");
        assert_eq!(note("b", 109, &[(100, 3)]), [(90, 5), (100, 7)]);
        assert_eq!(note("b", 3695, &[(3690, 1)]), [(100, 7), (3690, 1)]);
        assert_eq!(note("b", 9000, &[]), []);
        assert!(history.runs.is_empty());
    }
}
