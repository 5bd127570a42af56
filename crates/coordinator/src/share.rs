//! How runs share a pool's window: those of the highest priority first, among them by weight.
//!
//! A run that has nothing to publish (paused, waiting for a round, everything published) takes no share. Every run that
//! has may publish at least one shard, so that none of the highest priority starves.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use diorama_core::id::{Pool, RunId};

/// What a run asks of its pool.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Demand {
    pool: Pool,
    priority: i32,
    weight: u32,
    /// Whether it has anything to publish.
    wants: bool,
}

/// The shares of all runs that one coordinator drives. Clones share them.
#[derive(Debug, Clone)]
pub struct Shares {
    /// Shards of a pool that are in the queue or in work at a time.
    window: usize,
    demands: Arc<Mutex<HashMap<RunId, Demand>>>,
}

/// A run's part in the shares; leaves them on drop.
#[derive(Debug)]
pub(crate) struct Share {
    shares: Shares,
    run: RunId,
}

impl Shares {
    /// Shares of pools with this window.
    pub fn new(window: usize) -> Self {
        Self { window: window.max(1), demands: Arc::default() }
    }

    fn demands(&self) -> MutexGuard<'_, HashMap<RunId, Demand>> {
        self.demands.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A run joins, wanting nothing yet.
    pub(crate) fn join(&self, run: &RunId, pool: &Pool, priority: i32, weight: u32) -> Share {
        let demand = Demand { pool: pool.clone(), priority, weight: weight.max(1), wants: false };
        self.demands().insert(run.clone(), demand);
        Share { shares: self.clone(), run: run.clone() }
    }
}

impl Share {
    /// Says whether the run has anything to publish, and gives how many of its shards may be out at a time.
    pub(crate) fn window(&self, wants: bool) -> usize {
        let mut demands = self.shares.demands();
        let Some(own) = demands.get_mut(&self.run) else { return 0 };
        own.wants = wants;
        let own = own.clone();
        let rivals = || demands.values().filter(|demand| demand.wants && demand.pool == own.pool);
        if !wants || rivals().any(|rival| rival.priority > own.priority) {
            return 0;
        }
        let weights: u64 =
            rivals().filter(|rival| rival.priority == own.priority).map(|rival| u64::from(rival.weight)).sum();
        let share = self.shares.window as u64 * u64::from(own.weight) / weights.max(1);
        (share as usize).max(1)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.shares.demands().remove(&self.run);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn join(shares: &Shares, name: &str, pool: &str, priority: i32, weight: u32) -> Share {
        shares.join(&RunId::new(name).unwrap(), &Pool::new(pool).unwrap(), priority, weight)
    }

    #[test]
    fn runs_share_by_weight_and_a_run_that_wants_nothing_leaves_its_share_to_the_others() {
        let shares = Shares::new(40);
        let (light, heavy, elsewhere) =
            (join(&shares, "a", "p", 0, 1), join(&shares, "b", "p", 0, 3), join(&shares, "c", "q", 9, 1));
        assert_eq!(elsewhere.window(true), 40);
        assert_eq!(light.window(true), 40, "nobody else has asked yet");
        assert_eq!(heavy.window(true), 30);
        assert_eq!(light.window(true), 10);
        assert_eq!(heavy.window(false), 0);
        assert_eq!(light.window(true), 40);
        drop(heavy);
        assert_eq!(light.window(true), 40);
    }

    #[test]
    fn a_higher_priority_goes_first_and_a_lower_one_has_what_it_leaves() {
        let shares = Shares::new(8);
        let (low, high) = (join(&shares, "low", "p", 0, 1000), join(&shares, "high", "p", 1, 1));
        assert_eq!((high.window(true), low.window(true)), (8, 0));
        assert_eq!((high.window(false), low.window(true)), (0, 8));
    }

    proptest! {
        #[test]
        fn the_window_is_kept_but_for_the_one_shard_that_every_run_may_have(
            window in 1usize..100,
            runs in prop::collection::vec((0i32..3, 1u32..1000, any::<bool>()), 1..12),
        ) {
            let shares = Shares::new(window);
            let joined: Vec<_> = runs
                .iter()
                .enumerate()
                .map(|(index, (priority, weight, _))| join(&shares, &format!("r{index}"), "p", *priority, *weight))
                .collect();
            let ask = || joined.iter().zip(&runs).map(|(share, (_, _, wants))| share.window(*wants)).collect::<Vec<_>>();
            ask();
            let given = ask();
            let top = runs.iter().filter(|run| run.2).map(|run| run.0).max();
            let sharing = runs.iter().filter(|run| run.2 && Some(run.0) == top).count();
            prop_assert!(given.iter().sum::<usize>() <= window.max(sharing) + sharing);
            for ((priority, _, wants), given) in runs.iter().zip(given) {
                prop_assert_eq!(given > 0, *wants && Some(*priority) == top);
            }
        }
    }
}
