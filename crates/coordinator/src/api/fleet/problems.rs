//! What is wrong with the fleet, in words, with what to do about it.

use std::collections::HashMap;
use std::time::Duration;

use diorama_core::run::RunState;
use serde::Serialize;
use tokio::time::Instant;
use utoipa::ToSchema;

use super::PoolStatus;
use crate::status::RunStatus;
use crate::waiting::Waiting;

/// Work that nobody takes up for so long stands still.
const STANDS_STILL: Duration = Duration::from_secs(90);

/// Workers that are there have said so within that time, also after the progress service forgot them.
const HEARTBEATS: Duration = Duration::from_secs(if cfg!(test) { 0 } else { 10 });

/// Failures are many from this share of the outcomes.
const MANY: f64 = 0.05;

/// And from this number.
const MANY_AT_LEAST: u64 = 20;

/// Something that somebody should do something about.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub(super) struct FleetProblem {
    /// A stable code.
    #[schema(value_type = String, example = "no_workers")]
    code: &'static str,
    /// What is wrong, in a sentence.
    what: String,
    /// What to do, in a sentence.
    advice: String,
    /// The run that it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    run: Option<String>,
    /// The pool that it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pool: Option<String>,
}

impl FleetProblem {
    fn new(code: &'static str, what: String, advice: impl Into<String>) -> Self {
        Self { code, what, advice: advice.into(), run: None, pool: None }
    }

    /// A service that does not answer.
    pub(super) fn degraded(what: String) -> Self {
        Self::new(
            "degraded",
            what,
            "Runs continue as far as they can; `diorama doctor` shows the state of each service.",
        )
    }

    /// Whether it is about no run, or about one that `is_seen`.
    pub(super) fn is_for(&self, is_seen: impl Fn(&str) -> bool) -> bool {
        self.run.as_deref().is_none_or(is_seen)
    }

    fn of_run(self, run: &RunStatus) -> Self {
        Self { run: Some(run.run.to_string()), ..self }
    }

    fn of_pool(self, pool: &str) -> Self {
        Self { pool: Some(pool.to_owned()), ..self }
    }
}

/// Since when something holds, by what it is.
#[derive(Default)]
pub(super) struct Since(HashMap<String, Instant>);

impl Since {
    /// Whether `what` has held at every look for as long as that.
    fn holds(&mut self, what: String, now: bool, length: Duration) -> bool {
        if !now {
            self.0.remove(&what);
            return false;
        }
        self.0.entry(what).or_insert_with(Instant::now).elapsed() >= length
    }
}

/// What is wrong with pools and runs.
pub(super) fn find(pools: &[PoolStatus], runs: &[RunStatus], since: &mut Since) -> Vec<FleetProblem> {
    let mut found = Vec::new();
    for pool in pools {
        found.extend(of_pool(pool, runs, since).map(|problem| problem.of_pool(&pool.pool)));
    }
    for run in runs {
        found.extend(of_run(run, since).map(|problem| problem.of_run(run)));
    }
    found
}

fn of_pool(pool: &PoolStatus, runs: &[RunStatus], since: &mut Since) -> impl Iterator<Item = FleetProblem> + use<> {
    let name = &pool.pool;
    let alone = pool.wanted_workers > 0 && pool.workers == 0;
    let no_workers = since.holds(format!("workers of {name}"), alone, HEARTBEATS).then(|| {
        let what = format!("{} shards wait in the pool {name}, and no workers are connected to it.", pool.outstanding);
        let advice =
            format!("Start workers with `diorama worker --pool {name}`, or find out why the previous ones are gone.");
        FleetProblem::new("no_workers", what, advice)
    });
    let held = runs.iter().filter(|run| run.pool.as_str() == name).any(|run| run.shards_running > 0);
    let still = pool.wanted_workers > 0 && pool.workers > 0 && !held;
    let stands_still = since.holds(format!("pool {name}"), still, STANDS_STILL).then(|| {
        let what =
            format!("The pool {name} has workers and work, but no shard has been in progress for more than a minute.");
        FleetProblem::new(
            "stands_still",
            what,
            "Read the log of a worker of the pool, then that of the leading coordinator.",
        )
    });
    let dead = (pool.dead > 0).then(|| {
        let what = format!("The pool {name} has {} dead letters.", pool.dead);
        let advice =
            "The leading coordinator takes them while a run of the pool is running; resume or cancel paused runs.";
        FleetProblem::new("dead_letters", what, advice)
    });
    [no_workers, stands_still, dead].into_iter().flatten()
}

fn of_run(run: &RunStatus, since: &mut Since) -> impl Iterator<Item = FleetProblem> + use<> {
    let id = &run.run;
    let name = run.name.as_deref().unwrap_or(id.as_str());
    let degraded = run.degraded.as_ref().map(|why| {
        let advice = "The counts will be correct once the service is back; `diorama reconcile` rebuilds them.";
        FleetProblem::new("degraded", format!("The figures of {name} are unreliable: {why}."), advice)
    });
    let paused = run.reason.as_ref().filter(|_| run.state == RunState::Paused).map(|reason| {
        let advice = format!("Fix that, then `diorama resume {id}`.");
        FleetProblem::new("paused_by_diorama", format!("{name} was paused: {reason}"), advice)
    });
    let is_stuck = run.waiting == Some(Waiting::Coordinator);
    let no_leader = since.holds(format!("run {id}"), is_stuck, STANDS_STILL).then(|| {
        let what = format!("{name} has waited for a coordinator for more than a minute.");
        FleetProblem::new(
            "no_leader",
            what,
            "Check whether a coordinator leads (`diorama_coordinator_leader`) and read its log.",
        )
    });
    let settled = run.done + run.failed;
    let are_many = run.failed >= MANY_AT_LEAST && run.failed as f64 > MANY * settled as f64;
    let failures = are_many.then(|| {
        let share = 100.0 * run.failed as f64 / settled as f64;
        let what = format!("{share:.0} % of the tasks of {name} with an outcome failed ({} of {settled}).", run.failed);
        FleetProblem::new(
            "many_failures",
            what,
            "The run's page has examples by code; pause the run if you did not expect them.",
        )
    });
    [degraded, paused, no_leader, failures].into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(workers: u64, wanted_workers: u64, dead: u64) -> PoolStatus {
        let (pool, outstanding) = ("gpus".to_owned(), wanted_workers);
        PoolStatus { pool, workers, runs: 1, ready: 0, consumers: workers, dead, outstanding, wanted_workers }
    }

    fn codes(pools: &[PoolStatus], since: &mut Since) -> Vec<&'static str> {
        find(pools, &[], since).iter().map(|problem| problem.code).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_pool_with_work_needs_workers_that_take_it() {
        let mut since = Since::default();
        assert_eq!(codes(&[pool(0, 0, 0)], &mut since), [""; 0], "at rest nothing is wrong");
        assert_eq!(codes(&[pool(0, 3, 0)], &mut since), ["no_workers"]);
        assert_eq!(codes(&[pool(2, 3, 1)], &mut since), ["dead_letters"], "workers may just have come");
        tokio::time::advance(STANDS_STILL).await;
        assert_eq!(codes(&[pool(2, 3, 0)], &mut since), ["stands_still"]);
        assert_eq!(codes(&[pool(2, 0, 0)], &mut since), [""; 0]);
        assert_eq!(codes(&[pool(2, 3, 0)], &mut since), [""; 0], "it is counted anew");
    }
}
