//! How runs share a pool's window: those of the highest priority first, among them by weight.
//!
//! Among runs of a priority, the next shard is that of the run that has had the least for its weight since it came
//! (start-time fair queueing). A run that has nothing to publish (paused, waiting for a round, everything published) takes
//! no part. All runs together keep the window, and one that has waited for long behind others gets one shard at a time,
//! so that none starves.
//!
//! What is published is taken in order, so a deep queue would be deaf to all of that: no more of the window is used than
//! keeps the pool's workers busy until the next look ([`crate::pace`]).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use diorama_core::id::{Pool, RunId};
use tokio::time::Instant;

use crate::pace::Pace;

/// A run that has published nothing for this long, because others come first, gets one shard at a time.
const STARVED: Duration = Duration::from_secs(300);

/// How a run stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Standing {
    /// Whether it has anything to publish.
    pub(crate) wants: bool,
    /// Shards that are out.
    pub(crate) out: usize,
    /// Of those, shards that nobody has taken up.
    pub(crate) waiting: usize,
    /// Shards of the round that are committed.
    pub(crate) made: u64,
}

/// A run that has not said for this long how it stands, because it waits for a service, keeps nothing from the others.
const SILENT: Duration = Duration::from_secs(5);

/// What a run asks of its pool, and has of it.
#[derive(Debug, Clone, PartialEq)]
struct Demand {
    pool: Pool,
    priority: i32,
    weight: u32,
    stands: Standing,
    /// When it said that; `None` before it did.
    said: Option<Instant>,
    /// When it joined.
    joined: Instant,
    /// What it counts as having had when it came, for its weight: as much as the others.
    came_with: f64,
    /// Since when it has waited with nothing out.
    idle_since: Option<Instant>,
    /// It had starved, and has its one shard out.
    has_its_one: bool,
}

impl Demand {
    /// Whether it competes for what is free.
    fn competes(&self, now: Instant) -> bool {
        self.stands.wants && self.said.is_some_and(|said| now.duration_since(said) < SILENT)
    }

    /// Whether it has just joined and has yet to say how it stands: what is free is not all given to whoever speaks first.
    fn is_new(&self, now: Instant) -> bool {
        self.said.is_none() && now.saturating_duration_since(self.joined) < SILENT
    }

    /// Shards that it has had for its weight.
    fn had(&self, shards: u64) -> f64 {
        self.came_with + shards as f64 / f64::from(self.weight)
    }

    /// The same with what is out.
    fn gets(&self) -> f64 {
        self.had(self.stands.made + self.stands.out as u64)
    }
}

/// The shares of all runs that one coordinator drives. Clones share them.
#[derive(Debug, Clone)]
pub struct Shares {
    /// Shards of a pool that are in the queue or in work at a time.
    window: usize,
    pools: Arc<Mutex<Known>>,
}

#[derive(Debug, Clone, Default)]
struct Known {
    demands: HashMap<RunId, Demand>,
    /// Everything of the pool that was published before this was taken up, or is lost.
    taken_up: HashMap<Pool, Instant>,
    paces: HashMap<Pool, Pace>,
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

    /// Whether any run is in the pool.
    pub(crate) fn has_runs(&self, pool: &Pool) -> bool {
        self.known().demands.values().any(|demand| demand.pool == *pool)
    }

    /// A run joins, wanting nothing yet.
    pub(crate) fn join(&self, run: &RunId, pool: &Pool, priority: i32, weight: u32) -> Share {
        let (pool, weight, stands) = (pool.clone(), weight.max(1), Standing::default());
        let demand = Demand {
            pool: pool.clone(),
            priority,
            weight,
            stands,
            said: None,
            joined: Instant::now(),
            came_with: 0.0,
            idle_since: None,
            has_its_one: false,
        };
        self.known().demands.insert(run.clone(), demand);
        Share { shares: self.clone(), run: run.clone(), pool }
    }
}

impl Share {
    /// Says how the run stands.
    pub(crate) fn tell(&self, stands: Standing, now: Instant) {
        self.shares.known().tell(&self.run, stands, now);
    }

    /// The same, and gives what the run may do.
    pub(crate) fn turn(&self, stands: Standing, now: Instant) -> Turn {
        let mut known = self.shares.known();
        let nothing = Turn { room: 0, gives_way: false, behind: None };
        let Standing { wants, out, .. } = stands;
        let Some(own) = known.tell(&self.run, stands, now) else { return nothing };
        let has_its_one = std::mem::take(&mut own.has_its_one);
        let own = own.clone();
        let in_pool = || known.demands.iter().filter(|(_, demand)| demand.pool == own.pool);
        let rivals = || in_pool().filter(|(_, demand)| demand.competes(now));
        let first = rivals().map(|(_, rival)| rival.priority).max().unwrap_or(own.priority);
        let window = known.paces.get(&self.pool).map_or(self.shares.window, |pace| pace.window(self.shares.window));
        let published: usize = in_pool().map(|(_, demand)| demand.stands.out).sum();
        let free = window.saturating_sub(published);
        if first > own.priority {
            let behind = rivals().filter(|(_, rival)| rival.priority == first).map(|(run, _)| run.clone()).min();
            let starved = own.idle_since.is_some_and(|since| now.duration_since(since) >= STARVED);
            // Its one shard does not give way, or it would never be begun. What else it has in the queue, known to us or
            // not, does so for as long as a run goes first.
            let has_its_one = starved || (has_its_one && out > 0);
            if let Some(own) = known.demands.get_mut(&self.run) {
                own.has_its_one = has_its_one;
            }
            return Turn { room: usize::from(wants && starved), gives_way: !has_its_one, behind };
        }
        if !wants {
            return nothing;
        }
        let equals = in_pool().filter(|(_, rival)| rival.competes(now) || rival.is_new(now));
        let equals = equals.filter(|(_, rival)| rival.priority == own.priority);
        let mut next: Vec<_> = equals.map(|(run, rival)| (rival.gets(), rival.weight, run)).collect();
        // What is free goes, shard by shard, to whoever would have had the least with it; the others fetch theirs.
        let with = |(gets, weight, _): &(f64, u32, &RunId)| gets + 1.0 / f64::from(*weight);
        let mut room = 0;
        for _ in 0..free {
            let least = next.iter_mut().min_by(|one, other| with(one).total_cmp(&with(other)).then(one.2.cmp(other.2)));
            let Some(least) = least else { break };
            room += usize::from(*least.2 == self.run);
            least.0 = with(least);
        }
        Turn { room, gives_way: false, behind: None }
    }

    /// Says how many workers take what is published.
    pub(crate) fn served_by(&self, workers: u64) {
        self.shares.known().paces.entry(self.pool.clone()).or_default().served_by(workers);
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
            .map(|demand| demand.stands.waiting)
            .sum()
    }
}

impl Known {
    fn tell(&mut self, run: &RunId, stands: Standing, now: Instant) -> Option<&mut Demand> {
        let before = self.demands.get(run)?.clone();
        let comes = stands.wants && !before.competes(now);
        let came_with = if comes { self.had(run, &before, stands, now) } else { None };
        // What it had made before it said anything was made by nobody now.
        let made = before.said.map_or(0, |_| stands.made.saturating_sub(before.stands.made));
        self.paces.entry(before.pool.clone()).or_default().made(made, now);
        let own = self.demands.get_mut(run)?;
        (own.stands, own.said) = (stands, Some(now));
        own.came_with = came_with.unwrap_or(own.came_with);
        own.idle_since = if stands.wants && stands.out == 0 { own.idle_since.or(Some(now)) } else { None };
        Some(own)
    }

    /// What a run that begins to want counts as having had without what it made until now: as much as whoever had the
    /// least of those that it competes with; `None` where there is nobody.
    fn had(&self, run: &RunId, own: &Demand, stands: Standing, now: Instant) -> Option<f64> {
        let is_equal = |rival: &Demand| rival.pool == own.pool && rival.priority == own.priority;
        let rivals = self.demands.iter().filter(|(other, _)| *other != run);
        let rivals = rivals.filter(|(_, rival)| is_equal(rival) && rival.competes(now));
        let least = rivals.map(|(_, rival)| rival.had(rival.stands.made)).min_by(f64::total_cmp)?;
        Some(least - stands.made as f64 / f64::from(own.weight))
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
        let known = known.clone();
        Self { window: self.window, pools: Arc::new(Mutex::new(known)) }
    }

    /// All that tells these from others, whatever the time; but for the pace of the pools, which matters to windows larger
    /// than a model's. `oldest`: nothing that waits was published before.
    pub(crate) fn hash(&self, now: Instant, oldest: Instant, hasher: &mut impl std::hash::Hasher) {
        use std::hash::Hash;
        let known = self.known();
        let demands: std::collections::BTreeMap<_, _> = known.demands.iter().collect();
        for (run, demand) in demands {
            let Standing { wants, out, waiting, made } = demand.stands;
            let [idle, said] = [demand.idle_since, demand.said].map(|at| at.map(|at| now.duration_since(at)));
            let said = said.map(|said| said.min(SILENT));
            (run, wants, out, waiting, made, said, demand.came_with.to_bits(), idle, demand.has_its_one).hash(hasher);
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

    fn stands(wants: bool, out: usize, waiting: usize) -> Standing {
        Standing { wants, out, waiting, made: 0 }
    }

    fn share(shares: &Shares, run: &str, priority: i32, weight: u32) -> Share {
        shares.join(&RunId::new(run).unwrap(), &Pool::new("p").unwrap(), priority, weight)
    }

    #[tokio::test]
    async fn many_runs_together_keep_the_window_and_each_gets_its_part() {
        let (shares, now) = (Shares::new(256), Instant::now());
        let runs: Vec<Share> = (0..50).map(|run| share(&shares, &format!("r{run}"), 0, 1)).collect();
        for share in &runs {
            let room = share.turn(stands(true, 0, 0), now).room;
            assert!((5..=6).contains(&room), "whoever speaks first leaves the others theirs: {room}");
        }
        // The queue: what was published first is made first.
        let (mut out, mut made, mut queue) = (vec![0; runs.len()], vec![0; runs.len()], VecDeque::new());
        for all in 0..600 {
            for (run, share) in runs.iter().enumerate() {
                let stands = |out| Standing { made: made[run], ..stands(true, out, out) };
                let room = share.turn(stands(out[run]), now).room;
                out[run] += room;
                queue.extend(std::iter::repeat_n(run, room));
                share.turn(stands(out[run]), now);
            }
            // What is left for a run that has had its turn, it takes at the next one.
            assert!((250..=256).contains(&queue.len()), "{} after {all} shards", queue.len());
            queue.pop_front().into_iter().for_each(|run| (out[run], made[run]) = (out[run] - 1, made[run] + 1));
        }
        assert!(made.iter().all(|made| (11..=13).contains(made)), "{made:?}");
        assert!(out.iter().all(|out| (4..=6).contains(out)), "{out:?}");
    }

    #[tokio::test]
    async fn who_comes_later_is_neither_behind_nor_ahead_and_an_odd_weight_gets_its_exact_part() {
        let (shares, now) = (Shares::new(48), Instant::now());
        let mut runs = vec![share(&shares, "first", 0, 1)];
        let (mut out, mut made, mut queue) = ([0; 2], [1000, 0], VecDeque::new());
        let mut begun = [0; 2];
        for all in 0..2000 {
            if all == 500 {
                runs.push(share(&shares, "second", 0, 6));
            }
            for (run, share) in runs.iter().enumerate() {
                let stands = |out| Standing { made: made[run], ..stands(true, out, out) };
                let room = share.turn(stands(out[run]), now).room;
                out[run] += room;
                queue.extend(std::iter::repeat_n(run, room));
                share.turn(stands(out[run]), now);
            }
            let run = queue.pop_front().unwrap();
            (out[run], made[run]) = (out[run] - 1, made[run] + 1);
            begun[run] += usize::from(all >= 500);
        }
        // A seventh of 1,500 shards, those that waited when the second came among them.
        assert!((213..=216).contains(&begun[0]), "{begun:?}");
    }

    #[tokio::test]
    async fn weights_share_the_window_and_who_wants_nothing_takes_no_part() {
        let (shares, now) = (Shares::new(12), Instant::now());
        let (light, heavy) = (share(&shares, "light", 0, 1), share(&shares, "heavy", 0, 3));
        assert_eq!(light.turn(stands(true, 0, 0), now).room, 3, "the other one has just joined");
        assert_eq!(light.turn(stands(true, 0, 0), now + SILENT * 2).room, 12, "and wants nothing");
        assert_eq!(heavy.turn(stands(true, 0, 0), now).room, 9);
        assert_eq!(light.turn(stands(true, 0, 0), now).room, 3);
        heavy.turn(stands(false, 9, 9), now);
        assert_eq!(light.turn(stands(true, 0, 0), now).room, 3, "what is out still fills the window");
        drop(heavy);
        assert_eq!(light.turn(stands(true, 0, 0), now).room, 12);
    }

    #[tokio::test]
    async fn a_run_that_waits_for_a_service_keeps_nothing_from_the_others_and_catches_nothing_up() {
        let (shares, now) = (Shares::new(10), Instant::now());
        let (first, second) = (share(&shares, "first", 0, 1), share(&shares, "second", 0, 1));
        first.turn(stands(true, 0, 0), now);
        second.turn(stands(true, 0, 0), now);
        let made = |made, out| Standing { made, ..stands(true, out, out) };
        assert_eq!(second.turn(made(100, 0), now).room, 0, "the first has had nothing");
        let later = now + SILENT;
        assert_eq!(second.turn(made(100, 0), later).room, 10);
        assert_eq!(first.turn(stands(true, 0, 0), later).room, 5, "and not all for a while");
    }

    #[tokio::test]
    async fn a_lower_priority_gives_way_and_says_behind_whom_it_waits_but_does_not_starve() {
        let (shares, now) = (Shares::new(8), Instant::now());
        let (low, high) = (share(&shares, "low", -5, 1), share(&shares, "high", 10, 1));
        assert_eq!(low.turn(stands(true, 0, 0), now).room, 8);
        low.turn(stands(true, 8, 8), now);
        high.turn(stands(true, 0, 0), now);
        let turn = low.turn(stands(true, 8, 6), now);
        assert_eq!((turn.room, turn.gives_way), (0, true));
        assert_eq!(turn.behind, Some(RunId::new("high").unwrap()));
        for out in [1, 0] {
            let turn = low.turn(stands(true, out, 0), now);
            assert_eq!((turn.room, turn.gives_way), (0, true), "what lies in the queue gives way, {out} of it known");
        }
        assert_eq!(high.turn(stands(true, 0, 0), now).room, 8);
        let later = now + STARVED;
        high.turn(stands(true, 0, 0), later);
        let turn = low.turn(stands(true, 0, 0), later);
        assert_eq!((turn.room, turn.gives_way), (1, false));
        assert!(!low.turn(stands(true, 1, 1), later).gives_way, "its one shard may be begun");
        assert!(low.turn(stands(true, 0, 0), later).gives_way, "and it was the only one");
        high.turn(stands(false, 8, 8), now);
        assert_eq!(low.turn(stands(true, 0, 0), now).room, 0, "the window is full");
    }
}
