//! What must happen in time while somebody is there to do it: runs do not starve, no shard is passed over for long, and a
//! pool does not stand still. Bounds hold while it is calm: nothing was frozen, killed or cut off for as long as they say.
//! Lost messages, lost keys, brief pauses and other runs are no excuse.

use std::collections::BTreeMap;
use std::time::Duration;

use diorama_backends::progress::Progress;
use diorama_core::clock;
use diorama_core::id::{RunId, ShardId};
use diorama_core::round::RoundInfo;
use futures::FutureExt;

use super::record::Record;
use super::{Broken, Checker};
use crate::world::World;

/// How long a run may wait for its turn, and what each other run of the pool adds to that.
const PATIENCE: Duration = Duration::from_secs(150);
const PATIENCE_A_RUN: Duration = Duration::from_secs(15);

/// How long a whole pool with work may stand still where no message was lost: shorter than it takes until a shard that
/// nobody has is published again.
const STANDSTILL: Duration = Duration::from_secs(25);

/// How long a shard may wait behind one that comes after it, where no message was lost: what was published before a pause
/// may lie before it in the queue. Shorter, too.
const PASSED_OVER: Duration = Duration::from_secs(75);

/// How long it takes until a run is taken up that was handed over while it was calm: somebody rang, or the progress
/// service was away and the leader lists all the time.
const HEARD: Duration = Duration::from_secs(20);

/// The same of one that was handed over in a storm, so that the bell may not have rung: until the leader's next listing.
const LISTED: Duration = Duration::from_secs(130);

/// How long a marker may not be counted while its run goes on.
const UNCOUNTED: Duration = Duration::from_secs(120);

/// Since when nothing was in the way.
#[derive(Default)]
pub(super) struct Calm {
    /// Of processes and services.
    since: Duration,
    /// Of messages and of what the progress service knows: since when all of it is made good.
    nothing_lost_since: Duration,
    /// Until when a run went behind one of a higher priority.
    behind_until: BTreeMap<RunId, Duration>,
}

/// A run with shards that are to be made, now.
struct Wanted<'a> {
    run: &'a RunId,
    record: &'a Record,
    round: &'a RoundInfo,
    pool: &'a str,
    priority: i32,
    /// Since when it could have been worked on.
    since: Duration,
    /// When anything of it was made, or held, last.
    moved: Duration,
}

impl Checker {
    /// Something got in the way, from which the fleet recovers within this time.
    pub(crate) fn disturbed(&mut self, world: &World, recovery: Duration) {
        self.calm.since = self.calm.since.max(world.now() + recovery);
    }

    /// Something was lost that is made good within this time.
    pub(crate) fn lost_something(&mut self, world: &World, made_good: Duration) {
        self.calm.nothing_lost_since = self.calm.nothing_lost_since.max(world.now() + made_good);
    }

    /// Since when it is calm.
    pub(super) fn calm_since(&self) -> Duration {
        self.calm.since
    }

    pub(super) fn time_goes_by(&mut self, world: &World) -> Result<(), Broken> {
        let now = world.now();
        let mut behind = std::mem::take(&mut self.calm.behind_until);
        let wanted: Vec<Wanted<'_>> =
            self.runs.iter().filter_map(|(run, record)| self.wanted(world, run, record)).collect();
        for this in &wanted {
            if wanted.iter().any(|other| other.pool == this.pool && other.priority > this.priority) {
                behind.insert(this.run.clone(), now);
            }
        }
        let calm = self.calm.since;
        let checked = if now < calm + STANDSTILL {
            Ok(())
        } else {
            wanted.iter().try_for_each(|this| {
                let behind = behind.get(this.run).copied().unwrap_or_default();
                self.moves(world, &wanted, this, calm.max(behind))
            })
        };
        self.calm.behind_until = behind;
        checked
    }

    /// One run goes on, and so does its pool.
    fn moves(
        &self,
        world: &World,
        wanted: &[Wanted<'_>],
        this: &Wanted<'_>,
        undisturbed: Duration,
    ) -> Result<(), Broken> {
        let now = world.now();
        let in_pool = wanted.iter().filter(|other| other.pool == this.pool).count();
        let patience = PATIENCE + PATIENCE_A_RUN * in_pool as u32;
        let since = this.since.max(undisturbed);
        if now > since.max(this.moved) + patience {
            return Err(format!("{}: nobody took up a shard of it since {:?}", this.run, since.max(this.moved)));
        }
        this.passed_over(world, since, patience)?;
        this.counted(world, since)?;
        let since = since.max(self.calm.nothing_lost_since);
        this.passed_over(world, since, PASSED_OVER)?;
        let since = since.max(self.pool_moved(world, this.pool));
        if now > since + STANDSTILL {
            return Err(format!("{}: its pool stands still since {since:?}", this.run));
        }
        Ok(())
    }

    /// When anybody was at a shard of the pool last.
    fn pool_moved(&self, world: &World, pool: &str) -> Duration {
        let in_pool =
            self.runs.iter().filter(|(_, record)| record.spec.as_ref().is_some_and(|spec| spec.pool.as_str() == pool));
        in_pool.map(|(run, record)| record.moved(world, run)).max().unwrap_or_default()
    }

    /// The run, where workers are to go on with it now.
    fn wanted<'a>(&'a self, world: &World, run: &'a RunId, record: &'a Record) -> Option<Wanted<'a>> {
        let (spec, history) = (record.spec.as_ref()?, &record.history);
        let round = history.last_round().filter(|_| history.wants_work())?;
        record.open(round).next()?;
        // A run that nobody handed over is found by a sweep.
        let (handed_over, was_calm) = *self.handed_over.get(run)?;
        let moved = record.moved(world, run);
        let within = if was_calm { HEARD } else { LISTED };
        let listed = if moved < handed_over { handed_over + within } else { handed_over };
        let waited = Duration::try_from(clock::now().duration_since(round.not_before)).ok()?;
        let begun = world.now().saturating_sub(waited);
        let decided = record.log.last().map_or(Duration::ZERO, |entry| entry.at);
        let since = begun.max(decided).max(listed);
        Some(Wanted { run, record, round, pool: spec.pool.as_str(), priority: spec.priority, since, moved })
    }
}

impl Record {
    /// When anybody was at a shard of it, or committed one, last.
    fn moved(&self, world: &World, run: &RunId) -> Duration {
        let touched = world.touched(run).into_values().max().unwrap_or_default();
        self.markers.values().map(|marker| marker.at).max().unwrap_or_default().max(touched)
    }
}

impl Wanted<'_> {
    /// A shard does not wait for long behind one that comes after it.
    fn passed_over(&self, world: &World, since: Duration, patience: Duration) -> Result<(), Broken> {
        let (now, touched) = (world.now(), world.touched(self.run));
        let last = |shard: ShardId| {
            let marker = self.record.markers.get(&shard).map(|marker| marker.at);
            marker.max(touched.get(&shard).copied())
        };
        // The first time that a later one was taken up, since this one could have been.
        let mut later: Option<Duration> = None;
        let shards: Vec<ShardId> = self.round.shard_ids().collect();
        for shard in shards.into_iter().rev() {
            let taken_up = last(shard);
            let is_open = !self.record.markers.contains_key(&shard) && !self.record.is_void(shard);
            let waits_since = taken_up.unwrap_or_default().max(since);
            if is_open && later.is_some_and(|later| now > later.max(waits_since) + patience) {
                return Err(format!("{}: shard {shard} was passed over since {later:?}", self.run));
            }
            later = match (later, taken_up.filter(|at| *at > since)) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
        }
        Ok(())
    }

    /// Counts that say that they are complete are: of everything that was committed some time ago.
    fn counted(&self, world: &World, since: Duration) -> Result<(), Broken> {
        let now = world.now();
        let progress = world.progress();
        let counted = progress.counted(self.run).now_or_never().and_then(Result::ok).unwrap_or_default();
        if !counted.complete || world.chaos().progress_away || now < since + UNCOUNTED {
            return Ok(());
        }
        for round in self.record.history.rounds() {
            let bits =
                progress.committed(self.run, round.round).now_or_never().and_then(Result::ok).unwrap_or_default();
            let old = |shard: &ShardId| {
                self.record.markers.get(shard).is_some_and(|marker| marker.at + UNCOUNTED < now)
                    && !bits.contains(shard.index)
            };
            if let Some(shard) = round.shard_ids().find(old) {
                return Err(format!("{}: shard {shard} has its marker for long and is not counted", self.run));
            }
        }
        Ok(())
    }
}
