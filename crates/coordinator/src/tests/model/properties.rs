//! What must hold.

use std::collections::BTreeSet;

use diorama_core::id::{Round, ShardId};
use stateright::Property;

use super::log::{Log, Outcome, What};
use super::scenes::{QUIET, Scene};
use super::world::{Run, World};

pub(super) const ONE_MARKER: &str = "one marker counts for a shard";
pub(super) const STAYS: &str = "what was decided stays as it was decided";
pub(super) const CANCELLED: &str = "a cancelled run does not end as finished";
pub(super) const ROUNDS: &str = "a round holds what is to be tried again";
pub(super) const WRITABLE: &str = "an ending that has begun can be written";
pub(super) const AS_ENDED: &str = "nothing changes after the end";
pub(super) const ADRIFT: &str = "what is adrift is soon published again";
pub(super) const GOES_ON: &str = "something goes on until every run is settled";
pub(super) const ENDS: &str = "every run that is not paused ends";

pub(super) fn all() -> Vec<Property<Scene>> {
    vec![
        Property::always(ONE_MARKER, |_, world: &World| every(world, has_one_marker_a_shard)),
        Property::always(STAYS, |_, world: &World| {
            every(world, |run| run.log == run.told_written && !run.log.is_broken)
        }),
        Property::always(CANCELLED, |_, world: &World| every(world, |run| keeps_cancelled(&run.log))),
        Property::always(ROUNDS, |_, world: &World| every(world, has_right_rounds)),
        Property::always(WRITABLE, |_, world: &World| {
            every(world, |run| run.log.history().ending().is_none() || run.outcomes(&run.log).is_some())
        }),
        Property::always(AS_ENDED, |_, world: &World| every(world, is_as_it_ended)),
        Property::always(ADRIFT, |scene: &Scene, world: &World| {
            every(world, |run| run.adrift.values().all(|steps| *steps <= scene.adrift))
        }),
        Property::always(GOES_ON, |_, world: &World| world.quiet <= QUIET || world.runs.iter().all(Run::is_settled)),
        Property::eventually(ENDS, |_, world: &World| world.runs.iter().all(Run::is_settled)),
    ]
}

fn every(world: &World, holds: impl Fn(&Run) -> bool) -> bool {
    world.runs.iter().all(holds)
}

fn has_one_marker_a_shard(run: &Run) -> bool {
    let shards: BTreeSet<_> = run.winners.iter().map(|(shard, _)| shard).collect();
    let stored = run.markers.iter().map(|(shard, (attempt, _))| (*shard, *attempt));
    shards.len() == run.winners.len() && stored.collect::<BTreeSet<_>>() == run.winners
}

/// By the entries alone, whatever the fold makes of them.
fn keeps_cancelled(log: &Log) -> bool {
    let mut is_cancelled = false;
    log.entries().iter().all(|entry| {
        match &entry.what {
            What::Cancelled => is_cancelled = true,
            What::Reopened => is_cancelled = false,
            What::EndingBegun { cancelled, .. } => return *cancelled == is_cancelled,
            _ => {}
        }
        true
    })
}

/// Tasks that failed and may be tried again; or, where the run was reopened, all that it ended without.
fn has_right_rounds(run: &Run) -> bool {
    let (mut tasks, mut ended) = (run.log.rounds()[0].clone(), Vec::new());
    run.log.entries().iter().all(|entry| {
        match &entry.what {
            What::Ended(outcomes) => ended.clone_from(outcomes),
            What::RoundOpened { tasks: of_round, round, reopens } => {
                let failed = |(index, _): &(u32, &usize)| {
                    let shard = ShardId { round: Round(*round - 1), index: *index };
                    run.markers.get(&shard).is_some_and(|(_, outcome)| *outcome == Outcome::Failed)
                };
                let expected: Vec<usize> = if *reopens {
                    (0..ended.len()).filter(|task| ended[*task] != Outcome::Done).collect()
                } else {
                    (0..).zip(&tasks).filter(failed).map(|(_, task)| *task).collect()
                };
                tasks.clone_from(of_round);
                return *of_round == expected;
            }
            _ => {}
        }
        true
    })
}

/// Only a reopening follows an end, and what ended is what the store still says.
fn is_as_it_ended(run: &Run) -> bool {
    let entries = run.log.entries();
    let reopens = entries.windows(2).all(|pair| match pair {
        [before, after] => !matches!(before.what, What::Ended(_)) || after.what == What::Reopened,
        _ => true,
    });
    match entries.last().map(|entry| &entry.what) {
        Some(What::Ended(outcomes)) => reopens && run.outcomes(&run.log).as_ref() == Some(outcomes),
        _ => reopens,
    }
}
