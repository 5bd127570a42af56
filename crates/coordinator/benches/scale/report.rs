//! What was measured, a row each, as JSON on standard output: `scripts/bench/fleet/report.py` makes a table of it.

use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

/// A row of the table.
#[derive(Serialize)]
pub(crate) struct Row {
    /// What was measured, and of what.
    pub(crate) what: String,
    /// What came out.
    pub(crate) measured: String,
    /// What it should be.
    pub(crate) target: String,
    pub(crate) met: bool,
}

/// Rows so far.
#[derive(Default)]
pub(crate) struct Report(Vec<Row>);

impl Report {
    pub(crate) fn add(&mut self, what: impl Into<String>, measured: impl Into<String>, target: &str, met: bool) {
        let row = Row { what: what.into(), measured: measured.into(), target: target.to_owned(), met };
        eprintln!("{} | {} | {} | {}", row.what, row.measured, row.target, if row.met { "met" } else { "MISSED" });
        self.0.push(row);
    }

    /// Whether every target was met.
    pub(crate) fn print(&self) -> bool {
        println!("{}", serde_json::to_string(&self.0).unwrap());
        self.0.iter().all(|row| row.met)
    }
}

/// How long something takes: the waiting for a store, which tokio's clock counts and which costs no time here, and the CPU
/// that all of it takes. On one core that does nothing else the sum is never less than what would pass.
pub(crate) struct Watch {
    begun: Instant,
    cpu: Duration,
}

#[derive(Clone, Copy)]
pub(crate) struct Taken {
    pub(crate) waiting: Duration,
    pub(crate) cpu: Duration,
}

impl Watch {
    pub(crate) fn start() -> Self {
        Self { begun: Instant::now(), cpu: cpu() }
    }

    pub(crate) fn taken(&self) -> Taken {
        Taken { waiting: self.begun.elapsed(), cpu: cpu().saturating_sub(self.cpu) }
    }
}

impl Taken {
    pub(crate) fn sum(&self) -> Duration {
        self.waiting + self.cpu
    }
}

impl std::fmt::Display for Taken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (waiting, cpu, sum) = (self.waiting.as_secs_f64(), self.cpu.as_secs_f64(), self.sum().as_secs_f64());
        write!(f, "{sum:.2} s ({waiting:.2} s waiting + {cpu:.2} s CPU)")
    }
}

/// The CPU seconds of this process so far.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("Linux says what this process used");
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    // The unit of that file on every Linux.
    Duration::from_millis(ticks * 10)
}
