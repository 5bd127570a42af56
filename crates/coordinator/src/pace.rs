//! How fast a pool takes what is published, and so how much of its window is worth using: what its workers have in their
//! hands, and what they take until somebody looks again. Pure.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// A worker has this many shards in its hands.
const IN_HANDS: u64 = 2;

/// Of the window, so much is used whatever is known of the workers.
const LEAST: usize = 16;

/// What is committed is counted over intervals of this length,
const INTERVAL: Duration = Duration::from_millis(200);

/// and the fastest of so many counts.
const INTERVALS: usize = 5;

/// The reserve: as many shards as are committed in this time.
const RESERVE: Duration = Duration::from_secs(1);

/// The pace of one pool.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pace {
    workers: Option<u64>,
    /// Shards that were committed since then.
    current: Option<(Instant, u64)>,
    /// Shards a second in the latest intervals.
    rates: VecDeque<f64>,
}

impl Pace {
    /// This many shards were committed since the last time.
    pub(crate) fn made(&mut self, shards: u64, now: Instant) {
        let (since, made) = self.current.get_or_insert((now, 0));
        *made += shards;
        let (elapsed, made) = (now.duration_since(*since), *made);
        if elapsed >= INTERVAL {
            self.rates.push_back(made as f64 / elapsed.as_secs_f64());
            if self.rates.len() > INTERVALS {
                self.rates.pop_front();
            }
            self.current = Some((now, 0));
        }
    }

    /// So many workers take what is published.
    pub(crate) fn served_by(&mut self, workers: u64) {
        self.workers = Some(workers);
    }

    /// How much of `window` is used. All of it while nobody has said who takes from it.
    pub(crate) fn window(&self, window: usize) -> usize {
        let Some(workers) = self.workers else { return window };
        let fastest = self.rates.iter().copied().fold(0.0, f64::max);
        let reserve = ((fastest * RESERVE.as_secs_f64()).ceil() as u64).max(workers);
        let useful = usize::try_from(IN_HANDS * workers + reserve).unwrap_or(usize::MAX);
        useful.max(LEAST).min(window)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn slow_workers_have_a_short_queue_and_fast_ones_the_whole_window() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        assert_eq!(pace.window(256), 256, "nobody has said how many workers there are");
        pace.served_by(0);
        assert_eq!((pace.window(256), pace.window(8)), (LEAST, 8));
        pace.served_by(20);
        assert_eq!(pace.window(256), 60);
        // Twenty shards in each interval: a hundred a second.
        for interval in 0..10 {
            pace.made(20, start + interval * INTERVAL);
        }
        assert_eq!(pace.window(256), 140);
        for interval in 10..20 {
            pace.made(200, start + interval * INTERVAL);
        }
        assert_eq!(pace.window(256), 256);
        for interval in 20..30 {
            pace.made(0, start + interval * INTERVAL);
        }
        assert_eq!(pace.window(256), 60);
    }
}
