//! What a soak came to: a table for people, and whether anything was lost, doubled, miscounted or not as its owner wished.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde_json::Value;

use super::{Options, Story, Struck, Tally, Wanted};

/// The counters (shards, done, failed, retrying) against the markers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counters {
    /// The same.
    Equal,
    /// Fewer, because Redis was struck after the end of the run; the same once they were rebuilt.
    Rebuilt {
        /// What Redis said.
        said: [u64; 4],
        /// What the markers say.
        markers: [u64; 4],
    },
    /// Different for no such reason.
    Wrong {
        /// What Redis said.
        said: [u64; 4],
        /// What the markers say.
        markers: [u64; 4],
    },
}

/// What one run came to.
#[derive(Debug)]
pub struct RunReport {
    /// Its name.
    pub name: String,
    /// Its id.
    pub run: String,
    /// What its owner did with it.
    pub story: Story,
    /// What its owner asked for last.
    pub wanted: Wanted,
    /// What it is.
    pub state: String,
    /// Whether it is not what it was when it ended.
    pub has_changed: bool,
    /// Its rows.
    pub tasks: u64,
    /// From the command `submit` to its end.
    pub submission: Duration,
    /// The counters.
    pub counters: Counters,
    /// What `reconcile` said of the done and the failed.
    pub counted: [u64; 2],
    /// What became of every row.
    pub tally: Tally,
    /// What `verify` said: as the soak ended, repairing, and after the repair.
    pub verified: [Value; 3],
}

impl RunReport {
    /// Everything that must not be, in words.
    fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let tally = &self.tally;
        for (count, what) in [(tally.lost, "lost"), (tally.doubled, "doubled"), (tally.wrong, "wrong")] {
            if count > 0 {
                faults.push(format!("{count} outcomes are {what}: {:?}", tally.failed));
            }
        }
        let wanted = if self.wanted == Wanted::Cancelled { "cancelled" } else { "finished" };
        if self.state != wanted {
            faults.push(format!("it should be {wanted} and is {}", self.state));
        }
        if self.has_changed {
            faults.push("it has changed after its end".to_owned());
        }
        if let Counters::Wrong { said, markers } = self.counters {
            faults.push(format!("the counters say {said:?}, the markers {markers:?}"));
        }
        let outcomes = [tally.done, tally.failures()];
        // What waited for its next round when the run was cancelled is counted as that.
        let is_cut_short = self.wanted == Wanted::Cancelled && self.counted[1] <= outcomes[1];
        if self.counted[0] != outcomes[0] || (self.counted[1] != outcomes[1] && !is_cut_short) {
            faults.push(format!("reconcile says {:?}, done and failed are {outcomes:?}", self.counted));
        }
        for verified in &self.verified {
            let found = ["tasks", "done", "failed"].map(|name| verified[name].as_u64());
            if found != [self.tasks, outcomes[0], outcomes[1]].map(Some) || verified["problem_count"] != 0 {
                faults.push(format!("verify: {verified}"));
            }
        }
        if self.orphans()[2] != Some(0) {
            faults.push(format!("orphans after the repair: {:?}", self.orphans()[2]));
        }
        faults.into_iter().map(|fault| format!("{} ({}, {:?}): {fault}", self.name, self.run, self.story)).collect()
    }

    /// Objects that no marker names: as the soak ended, after that, and after the repair.
    fn orphans(&self) -> [Option<u64>; 3] {
        self.verified.each_ref().map(|verified| verified["orphans"].as_u64())
    }
}

/// What a soak came to.
#[derive(Debug)]
pub struct Report {
    /// How it was done.
    pub options: Options,
    /// From the first submission to the end of the last run.
    pub took: Duration,
    /// What was struck.
    pub struck: Struck,
    /// What owners and those who look after the fleet did, and how often.
    pub acts: BTreeMap<&'static str, u64>,
    /// Runs that were deleted.
    pub deleted: usize,
    /// Every run that is there.
    pub runs: Vec<RunReport>,
    /// What was wrong with anything but those.
    pub faults: Vec<String>,
}

impl Report {
    /// Everything that must not be, in words.
    pub fn faults(&self) -> Vec<String> {
        let of_runs = self.runs.iter().flat_map(RunReport::faults);
        self.struck.bad_ends.iter().chain(&self.faults).cloned().chain(of_runs).collect()
    }

    /// Adds something up over all runs.
    fn sum(&self, of: impl Fn(&RunReport) -> u64) -> u64 {
        self.runs.iter().map(of).sum()
    }

    /// How often something happened, by its name.
    fn count<T: PartialEq>(&self, of: impl Fn(&RunReport) -> T, is: impl Fn(&T) -> bool) -> usize {
        self.runs.iter().filter(|run| is(&of(run))).count()
    }
}

/// `a 1, b 2`
fn listed<K: fmt::Display>(counts: impl IntoIterator<Item = (K, u64)>) -> String {
    counts.into_iter().map(|(name, times)| format!("{name} {times}")).collect::<Vec<_>>().join(", ")
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (options, struck) = (&self.options, &self.struck);
        let mut row = |name: &str, value: String| writeln!(f, "| {name:<18} | {value}");
        let seconds = |time: Duration| format!("{:.1} s", time.as_secs_f64());
        let shards = |run: &RunReport| run.verified[2]["shards"].as_u64().unwrap_or_default();
        row("tasks", options.tasks.to_string())?;
        let (finished, cancelled) = (
            self.count(|run| run.state.clone(), |state| state == "finished"),
            self.count(|run| run.state.clone(), |state| state == "cancelled"),
        );
        row(
            "runs",
            format!(
                "{} at once: {finished} finished, {cancelled} cancelled; {} deleted before",
                options.runs, self.deleted
            ),
        )?;
        row("shards", format!("{} of {} tasks", self.sum(shards), options.shard_size))?;
        row("seed", options.seed.to_string())?;
        row("workers", options.workers.to_string())?;
        row("acts", listed(self.acts.iter().map(|(act, times)| (*act, *times))))?;
        let blows = struck.blows.iter().map(|((part, blow), times)| (format!("{part:?} {blow:?}"), *times));
        row("blows", format!("{}: {}", struck.blows.values().sum::<u64>(), listed(blows)))?;
        row("started again", format!("{} times after an exit with 75", struck.tried_again))?;
        row("done", self.sum(|run| run.tally.done).to_string())?;
        let mut failed: BTreeMap<&str, u64> = BTreeMap::new();
        for (code, times) in self.runs.iter().flat_map(|run| &run.tally.failed) {
            *failed.entry(code).or_default() += times;
        }
        row("failed", listed(failed))?;
        row("lost", self.sum(|run| run.tally.lost).to_string())?;
        row("doubled", self.sum(|run| run.tally.doubled).to_string())?;
        row("wrong", self.sum(|run| run.tally.wrong).to_string())?;
        let equal = self.count(|run| run.counters, |counters| *counters == Counters::Equal);
        let rebuilt = self.count(|run| run.counters, |counters| matches!(counters, Counters::Rebuilt { .. }));
        row("counters", format!("{equal} equal, {rebuilt} rebuilt after Redis lost them behind the end"))?;
        let orphans = |at: usize| self.sum(|run| run.orphans()[at].unwrap_or_default());
        row("orphans", format!("{} before the repair, {} after it", orphans(0), orphans(2)))?;
        let longest = self.runs.iter().map(|run| run.submission).max().unwrap_or_default();
        row("submission", format!("{} at most", seconds(longest)))?;
        row("took", seconds(self.took))?;
        row("tasks/s", format!("{:.0}", options.tasks as f64 / self.took.as_secs_f64()))?;
        let faults = self.faults();
        row("verdict", if faults.is_empty() { "whole".to_owned() } else { format!("{} FAULTS", faults.len()) })?;
        faults.iter().try_for_each(|fault| writeln!(f, "FAULT {fault}"))
    }
}
