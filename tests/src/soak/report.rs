//! What a soak came to: a table for people, and whether anything was lost, doubled or miscounted.

use std::fmt;
use std::time::Duration;

use serde_json::Value;

use super::{Options, Struck, Tally};

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

/// What a soak came to.
#[derive(Debug)]
pub struct Report {
    /// How it was done.
    pub options: Options,
    /// From the command `submit` to its end.
    pub submission: Duration,
    /// From there to the end of the run.
    pub took: Duration,
    /// What was struck.
    pub struck: Struck,
    /// Workers that did not end as drained ones should.
    pub bad_drains: Vec<String>,
    /// The counters.
    pub counters: Counters,
    /// What became of every row.
    pub tally: Tally,
    /// What `verify` said: as the run ended, repairing, and after the repair.
    pub verified: [Value; 3],
}

impl Report {
    /// Everything that must not be, in words.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = [&self.struck.bad_ends[..], &self.bad_drains].concat();
        let tally = &self.tally;
        for (count, what) in [(tally.lost, "lost"), (tally.doubled, "doubled"), (tally.wrong, "wrong")] {
            if count > 0 {
                faults.push(format!("{count} outcomes are {what}"));
            }
        }
        if let Counters::Wrong { said, markers } = self.counters {
            faults.push(format!("the counters say {said:?}, the markers {markers:?}"));
        }
        for verified in &self.verified {
            let found = ["tasks", "done", "failed"].map(|name| verified[name].as_u64());
            let (done, failed) = (tally.done, tally.failed.values().sum::<u64>());
            if found != [self.options.tasks, done, failed].map(Some) || verified["problem_count"] != 0 {
                faults.push(format!("verify: {verified}"));
            }
        }
        if self.orphans()[2] != Some(0) {
            faults.push(format!("orphans after the repair: {:?}", self.orphans()[2]));
        }
        faults
    }

    /// Objects that no marker names: as the run ended, after that, and after the repair.
    fn orphans(&self) -> [Option<u64>; 3] {
        self.verified.each_ref().map(|verified| verified["orphans"].as_u64())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (options, tally, struck) = (&self.options, &self.tally, &self.struck);
        let mut row = |name: &str, value: String| writeln!(f, "| {name:<18} | {value}");
        let seconds = |time: Duration| format!("{:.1} s", time.as_secs_f64());
        row("tasks", options.tasks.to_string())?;
        row("shards", format!("{} of {} tasks", self.verified[2]["shards"], options.shard_size))?;
        row("seed", options.seed.to_string())?;
        row("workers", options.workers.to_string())?;
        let blows = |(part, blow): (_, _), times: u64| format!("{part:?} {blow:?} {times}");
        let parts: Vec<_> = struck.blows.iter().map(|(what, times)| blows(*what, *times)).collect();
        row("blows", format!("{}: {}", struck.blows.values().sum::<u64>(), parts.join(", ")))?;
        row("started again", format!("{} times after an exit with 75", struck.tried_again))?;
        row("done", tally.done.to_string())?;
        row("failed", format!("{:?}", tally.failed))?;
        row("lost", tally.lost.to_string())?;
        row("doubled", tally.doubled.to_string())?;
        row("wrong", tally.wrong.to_string())?;
        row("counters", format!("{:?}", self.counters))?;
        let orphans = self.orphans().map(|orphans| orphans.map_or("?".to_owned(), |orphans| orphans.to_string()));
        row("orphans", format!("{} before the repair, {} after it", orphans[0], orphans[2]))?;
        row("submission", seconds(self.submission))?;
        row("run", seconds(self.took))?;
        row("tasks/s", format!("{:.0}", options.tasks as f64 / self.took.as_secs_f64()))?;
        let faults = self.faults();
        row("verdict", if faults.is_empty() { "whole".to_owned() } else { format!("{} FAULTS", faults.len()) })?;
        faults.iter().try_for_each(|fault| writeln!(f, "FAULT {fault}"))
    }
}
