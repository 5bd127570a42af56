//! A model of marker, window, lease and ending, which stateright checks: every order of steps, with every choice of a few
//! adversities out of many kinds.
//!
//! **What is real.** The fold of the log and what may be decided next ([`diorama_protocol::history::History`]), what follows
//! from it ([`crate::coordinator::next`]), and the plan of the pump with its window and its share of the pool
//! ([`crate::plan::Plan`]). **What is told again.** The order of calls around them: the loop that writes an entry, how a
//! coordinator hears, the queue, the store, the lease, what the progress service remembers, and the worker, which the
//! coordinator must not depend on. A look of the pump is one step here; the real one takes several calls, and the simulation
//! cuts it at each.
//!
//! **Safety** are properties of every state that can be reached: `properties`.
//!
//! **Liveness.** stateright's `eventually` is right on paths that end and silent about cycles. So the model has none: a step
//! of time is only taken when everybody has done what there was to do (that is the fairness), at most [`scenes::QUIET`] of
//! them come one after the other without an entry, a marker or an adversity, and `next_state` asserts that every step leads
//! on. What ends a path is then a run that has ended, or one that never will, and that a run has ended is seen in the last
//! state whichever way led there. That a lost shard is published again *soon, whatever else goes on* is more than that it is
//! at last: for this the state counts for how long each shard was nowhere, and the count has a bound.
//!
//! **What is not shown.** More runs, shards, workers, coordinators and adversities than the scenes have; delays beyond the
//! steps of time; priorities and weights; a store that ignores conditions; bindings to a model; poison, parts and dead
//! letters; deletion and garbage; how long anything takes in seconds. `SCENE="two runs"` checks that one alone.

mod coordinator;
mod log;
mod properties;
mod scenes;
mod steps;
mod worker;
mod world;

use std::collections::BTreeMap;
use std::time::Instant;

use stateright::{Checker, HasDiscoveries, Model, Path};

use scenes::Adversity::{
    self, Cancel, CutOff, Die, DieUntold, Double, Fail, Forget, Freeze, HandBack, Lose, Pause, Purge, Resume, Retry,
    Silence, StandStill,
};
use scenes::{Fault, Scene};
use steps::Step;

fn scene(name: &'static str, kinds: &[Adversity], adversities: u8) -> Scene {
    Scene {
        name,
        began: tokio::time::Instant::now(),
        coordinators: 1,
        workers: 1,
        hands: 1,
        window: 2,
        shards: vec![2],
        kinds: kinds.to_vec(),
        adversities,
        adrift: 5,
        fault: None,
    }
}

fn scenes() -> Vec<Scene> {
    vec![
        Scene { shards: vec![1, 5], window: 3, adrift: 4, ..scene("a busy pool", &[Lose, Purge], 1) },
        Scene { shards: vec![2, 1], ..scene("two runs", &[Lose, Purge, Double], 2) },
        Scene { shards: vec![1], workers: 2, hands: 2, adrift: 0, ..scene("connections", &[CutOff, HandBack], 3) },
        Scene { shards: vec![1], workers: 2, adrift: 6, ..scene("deaths", &[Die, DieUntold, StandStill, Lose], 2) },
        Scene { adrift: 2, ..scene("an owner", &[Pause, Resume, Cancel, Retry, Fail], 3) },
        Scene { coordinators: 2, shards: vec![1], ..scene("a lost lease", &[Freeze, Cancel, Retry], 3) },
        Scene { coordinators: 2, shards: vec![1], ..scene("rounds and a lost lease", &[Freeze, Fail, Retry], 4) },
        Scene {
            coordinators: 2,
            shards: vec![1],
            adrift: 6,
            ..scene("what nobody hears", &[Silence, Forget, Freeze, Pause, Resume, Cancel], 2)
        },
    ]
}

/// What is found against the scene, by the name of the property: the steps that lead there.
fn check(scene: Scene, until: HasDiscoveries) -> BTreeMap<&'static str, String> {
    let (began, name, fault) = (Instant::now(), scene.name, scene.fault);
    let checker = scene.checker().finish_when(until).spawn_bfs().join();
    let (states, depth, seconds) = (checker.unique_state_count(), checker.max_depth(), began.elapsed().as_secs_f64());
    println!("{name}, without the mend of {fault:?}: {states} states, {depth} steps deep, {seconds:.1} s");
    let steps = |path: Path<_, Step>| path.into_actions().iter().map(|step| format!("\n  {step:?}")).collect();
    checker.discoveries().into_iter().map(|(property, path)| (property, steps(path))).collect()
}

#[test]
fn whatever_goes_wrong_what_was_decided_stays_and_every_run_ends() {
    let one = std::env::var("SCENE").ok();
    for scene in scenes().into_iter().filter(|scene| one.as_deref().is_none_or(|one| one == scene.name)) {
        let name = scene.name;
        let found = check(scene, HasDiscoveries::AnyFailures);
        found.iter().for_each(|(property, steps)| println!("{property}:{steps}"));
        assert!(found.is_empty(), "{name}: {:?} does not hold", found.keys());
    }
}

#[test]
fn each_mend_that_is_taken_out_is_missed() {
    for (fault, name, property) in [
        (Fault::RunsLookAtThemselves, "a busy pool", properties::ADRIFT),
        (Fault::LostStaysLost, "two runs", properties::ENDS),
        (Fault::NewerDeliveriesAreAcknowledged, "connections", properties::ADRIFT),
        (Fault::PauseThatIsOverIsMissed, "an owner", properties::ADRIFT),
        (Fault::LogIsRewritten, "a lost lease", properties::STAYS),
        (Fault::MarkersAreRewritten, "connections", properties::ONE_MARKER),
        (Fault::CancelIsForgotten, "an owner", properties::CANCELLED),
        (Fault::LateDecisionsAreTriedAgain, "rounds and a lost lease", properties::WRITABLE),
        (Fault::LateDecisionsAreTriedAgain, "a lost lease", properties::AS_ENDED),
    ] {
        let scene = scenes().into_iter().find(|scene| scene.name == name).unwrap();
        let found = check(Scene { fault: Some(fault), ..scene }, HasDiscoveries::AnyOf([property].into()));
        let steps = found.get(property).unwrap_or_else(|| panic!("{fault:?}: {property:?} is said to hold"));
        println!("{property}:{steps}");
    }
}
