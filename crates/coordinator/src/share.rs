//! How runs share a pool's window: those of the highest priority first, among them by weight.
//!
//! A run that has nothing to publish (paused, waiting for a round, everything published) takes no share. The shares of
//! all runs together keep the window, and a run that has waited for long behind others gets one shard at a time, so that
//! none starves.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use diorama_core::id::{Pool, RunId};
use tokio::time::Instant;

/// A run that has published nothing for this long, because others come first, gets one shard at a time.
const STARVED: Duration = Duration::from_secs(300);

/// What a run asks of its pool, and has of it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Demand {
    pool: Pool,
    priority: i32,
    weight: u32,
    /// Whether it has anything to publish.
    wants: bool,
    /// Shards that are out.
    out: usize,
    /// Of those, shards that nobody has taken up.
    waiting: usize,
    /// Since when it has waited with nothing out.
    idle_since: Option<Instant>,
}

impl Demand {
    fn tell(&mut self, wants: bool, out: usize, waiting: usize, now: Instant) {
        (self.wants, self.out, self.waiting) = (wants, out, waiting);
        self.idle_since = if wants && out == 0 { self.idle_since.or(Some(now)) } else { None };
    }
}

/// The shares of all runs that one coordinator drives. Clones share them.
#[derive(Debug, Clone)]
pub struct Shares {
    /// Shards of a pool that are in the queue or in work at a time.
    window: usize,
    pools: Arc<Mutex<Known>>,
}

#[derive(Debug, Default)]
struct Known {
    demands: HashMap<RunId, Demand>,
    /// Everything of the pool that was published before this was taken up, or is lost.
    taken_up: HashMap<Pool, Instant>,
}

/// A run's part in the shares; leaves them on drop.
#[derive(Debug)]
pub(crate) struct Share {
    shares: Shares,
    run: RunId,
    pool: Pool,
}

/// What a run may do now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Turn {
    /// How many more shards it may publish.
    pub(crate) room: usize,
    /// What it has published and nobody has begun is to make room for a run of a higher priority.
    pub(crate) gives_way: bool,
    /// The run that it waits for.
    pub(crate) behind: Option<RunId>,
}

impl Shares {
    /// Shares of pools with this window.
    pub fn new(window: usize) -> Self {
        Self { window: window.max(1), pools: Arc::default() }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.pools.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A run joins, wanting nothing yet.
    pub(crate) fn join(&self, run: &RunId, pool: &Pool, priority: i32, weight: u32) -> Share {
        let (pool, weight) = (pool.clone(), weight.max(1));
        let demand =
            Demand { pool: pool.clone(), priority, weight, wants: false, out: 0, waiting: 0, idle_since: None };
        self.known().demands.insert(run.clone(), demand);
        Share { shares: self.clone(), run: run.clone(), pool }
    }
}

impl Share {
    /// Says whether the run has anything to publish, how many of its shards are out and how many of those wait.
    pub(crate) fn tell(&self, wants: bool, out: usize, waiting: usize, now: Instant) {
        if let Some(own) = self.shares.known().demands.get_mut(&self.run) {
            own.tell(wants, out, waiting, now);
        }
    }

    /// The same, and gives what the run may do.
    pub(crate) fn turn(&self, wants: bool, out: usize, waiting: usize, now: Instant) -> Turn {
        let mut known = self.shares.known();
        let nothing = Turn { room: 0, gives_way: false, behind: None };
        let Some(own) = known.demands.get_mut(&self.run) else { return nothing };
        own.tell(wants, out, waiting, now);
        let own = own.clone();
        let in_pool = || known.demands.iter().filter(|(_, demand)| demand.pool == own.pool);
        let rivals = || in_pool().filter(|(_, demand)| demand.wants);
        let first = rivals().map(|(_, rival)| rival.priority).max().unwrap_or(own.priority);
        let window = self.shares.window;
        let published: usize = in_pool().map(|(_, demand)| demand.out).sum();
        let free = window.saturating_sub(published);
        if first > own.priority {
            let behind = rivals().filter(|(_, rival)| rival.priority == first).map(|(run, _)| run.clone()).min();
            let starved = own.idle_since.is_some_and(|since| now.duration_since(since) >= STARVED);
            // Its one shard does not give way, or it would never be begun.
            return Turn { room: usize::from(wants && starved), gives_way: out > 1, behind };
        }
        if !wants {
            return nothing;
        }
        let equals = || rivals().filter(|(_, rival)| rival.priority == own.priority);
        let weights: u64 = equals().map(|(_, rival)| u64::from(rival.weight)).sum();
        let share = ((window as u64 * u64::from(own.weight) / weights.max(1)) as usize).max(1);
        // What is free goes first to those that have nothing out, in the order in which they came to have nothing.
        let before = |rival: &&Demand| {
            rival.out == 0 && rival.idle_since.is_some() && {
                own.idle_since.is_none_or(|own| rival.idle_since.is_some_and(|other| other < own))
            }
        };
        let ahead = equals().map(|(_, rival)| rival).filter(before).count();
        let room = share.saturating_sub(out).min(free.saturating_sub(ahead));
        Turn { room, gives_way: false, behind: None }
    }

    /// Says when the latest of the run's shards that were taken up had been published; the same of the whole pool.
    pub(crate) fn taken_up(&self, at: Option<Instant>) -> Option<Instant> {
        let mut known = self.shares.known();
        let before = known.taken_up.get(&self.pool).copied();
        let latest = before.max(at);
        if let Some(latest) = latest {
            known.taken_up.insert(self.pool.clone(), latest);
        }
        latest
    }

    /// Shards of the whole pool that were published and that nobody has taken up.
    pub(crate) fn waiting_in_pool(&self) -> usize {
        self.shares
            .known()
            .demands
            .values()
            .filter(|demand| demand.pool == self.pool)
            .map(|demand| demand.waiting)
            .sum()
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.shares.known().demands.remove(&self.run);
    }
}

/// For the model, which goes several ways from where it is.
#[cfg(test)]
impl Shares {
    /// The same, apart from these.
    pub(crate) fn apart(&self) -> Self {
        let known = self.known();
        let known = Known { demands: known.demands.clone(), taken_up: known.taken_up.clone() };
        Self { window: self.window, pools: Arc::new(Mutex::new(known)) }
    }

    /// All that tells these from others, whatever the time; `oldest`: nothing that waits was published before.
    pub(crate) fn hash(&self, now: Instant, oldest: Instant, hasher: &mut impl std::hash::Hasher) {
        use std::hash::Hash;
        let known = self.known();
        let demands: std::collections::BTreeMap<_, _> = known.demands.iter().collect();
        for (run, demand) in demands {
            let idle = demand.idle_since.map(|since| now.duration_since(since));
            (run, demand.wants, demand.out, demand.waiting, idle).hash(hasher);
        }
        let taken_up: std::collections::BTreeMap<_, _> = known.taken_up.iter().collect();
        // It is only asked whether what waits was published before.
        let later = taken_up.into_iter().filter(|(_, at)| **at > oldest);
        later.for_each(|(pool, at)| (pool, now.duration_since(*at)).hash(hasher));
    }
}

#[cfg(test)]
impl Share {
    /// The same among a copy of its shares.
    pub(crate) fn among(&self, shares: &Shares) -> Self {
        Self { shares: shares.clone(), run: self.run.clone(), pool: self.pool.clone() }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    fn share(shares: &Shares, run: &str, priority: i32, weight: u32) -> Share {
        shares.join(&RunId::new(run).unwrap(), &Pool::new("p").unwrap(), priority, weight)
    }

    #[tokio::test]
    async fn many_runs_together_keep_the_window_and_each_gets_its_part() {
        let (shares, now) = (Shares::new(256), Instant::now());
        let runs: Vec<Share> = (0..50).map(|run| share(&shares, &format!("r{run}"), 0, 1)).collect();
        // The queue: what was published first is made first.
        let (mut out, mut queue) = (vec![0; runs.len()], VecDeque::new());
        for made in 0..600 {
            for (run, share) in runs.iter().enumerate() {
                let room = share.turn(true, out[run], out[run], now).room;
                out[run] += room;
                queue.extend(std::iter::repeat_n(run, room));
                share.turn(true, out[run], out[run], now);
            }
            assert!((250..=256).contains(&queue.len()), "{} after {made} shards", queue.len());
            queue.pop_front().into_iter().for_each(|run| out[run] -= 1);
        }
        assert!(out.iter().all(|out| (4..=5).contains(out)), "{out:?}");
    }

    #[tokio::test]
    async fn weights_share_the_window_and_who_wants_nothing_takes_no_part() {
        let (shares, now) = (Shares::new(12), Instant::now());
        let (light, heavy) = (share(&shares, "light", 0, 1), share(&shares, "heavy", 0, 3));
        assert_eq!(light.turn(true, 0, 0, now).room, 12, "nobody else wants");
        assert_eq!(heavy.turn(true, 0, 0, now).room, 9);
        assert_eq!(light.turn(true, 0, 0, now).room, 3);
        heavy.turn(false, 9, 9, now);
        assert_eq!(light.turn(true, 0, 0, now).room, 3, "what is out still fills the window");
        drop(heavy);
        assert_eq!(light.turn(true, 0, 0, now).room, 12);
    }

    #[tokio::test]
    async fn a_lower_priority_gives_way_and_says_behind_whom_it_waits_but_does_not_starve() {
        let (shares, now) = (Shares::new(8), Instant::now());
        let (low, high) = (share(&shares, "low", -5, 1), share(&shares, "high", 10, 1));
        assert_eq!(low.turn(true, 0, 0, now).room, 8);
        low.turn(true, 8, 8, now);
        high.turn(true, 0, 0, now);
        let turn = low.turn(true, 8, 6, now);
        assert_eq!((turn.room, turn.gives_way), (0, true));
        assert_eq!(turn.behind, Some(RunId::new("high").unwrap()));
        assert_eq!(low.turn(true, 0, 0, now).room, 0);
        assert_eq!(high.turn(true, 0, 0, now).room, 8);
        let later = now + STARVED;
        let turn = low.turn(true, 0, 0, later);
        assert_eq!((turn.room, turn.gives_way), (1, false));
        assert!(!low.turn(true, 1, 1, later).gives_way, "its one shard may be begun");
        high.turn(false, 8, 8, now);
        assert_eq!(low.turn(true, 0, 0, now).room, 0, "the window is full");
    }
}
