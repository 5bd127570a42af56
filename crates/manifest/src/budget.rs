//! What checking a manifest may take, and whether anybody still waits for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// What checking a manifest may take. By default all that it takes: on one's own machine, Ctrl-C is the limit.
#[derive(Debug, Clone, Default)]
pub struct Budget {
    seconds: Option<Seconds>,
    stopped: Arc<AtomicBool>,
}

/// CPU seconds: some for any manifest, and some for each MiB of it.
#[derive(Debug, Clone, Copy)]
struct Seconds {
    least: f64,
    a_mib: f64,
}

/// Why a check was given up.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Overdrawn {
    /// It took this many CPU seconds.
    Seconds(f64),
    /// Nobody waits for it any more.
    Stopped,
}

impl Budget {
    /// For what comes from others: `least` CPU seconds, and `a_mib` more for each MiB of the manifest.
    pub fn of_seconds(least: f64, a_mib: f64) -> Self {
        Self { seconds: Some(Seconds { least, a_mib }), ..Self::default() }
    }

    /// Stops the check, which is to be called from elsewhere, when it is dropped.
    pub fn stop_on_drop(&self) -> StopOnDrop {
        StopOnDrop(Arc::clone(&self.stopped))
    }

    /// Begins to count for a file of so many bytes, on this thread.
    pub(crate) fn start(&self, bytes: u64) -> Meter {
        let most = self.seconds.map(|of| of.least + of.a_mib * bytes as f64 / f64::from(1 << 20));
        Meter { most, began: cpu_of_this_thread(), steps: 0, stopped: Arc::clone(&self.stopped) }
    }
}

/// Whoever waits for a check holds it.
#[derive(Debug)]
pub struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The budget of one check, while it is spent.
pub(crate) struct Meter {
    most: Option<f64>,
    began: Duration,
    steps: u32,
    stopped: Arc<AtomicBool>,
}

impl Meter {
    /// Steps, which are rows, between two looks at the clock.
    const STEPS: u32 = 64;

    /// To be called for each row.
    pub(crate) fn step(&mut self) -> Result<(), Overdrawn> {
        self.steps = (self.steps + 1) % Self::STEPS;
        if self.steps == 0 { self.check() } else { Ok(()) }
    }

    pub(crate) fn check(&self) -> Result<(), Overdrawn> {
        if self.stopped.load(Ordering::Relaxed) {
            return Err(Overdrawn::Stopped);
        }
        match self.most {
            Some(most) if cpu_of_this_thread().saturating_sub(self.began).as_secs_f64() > most => {
                Err(Overdrawn::Seconds(most))
            }
            _ => Ok(()),
        }
    }
}

fn cpu_of_this_thread() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs() as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_ends_when_its_seconds_are_spent_or_nobody_waits_for_it() {
        let budget = Budget::of_seconds(0.02, 0.0);
        let mut meter = budget.start(1 << 30);
        let error = loop {
            if let Err(error) = meter.step() {
                break error;
            }
        };
        assert_eq!(error, Overdrawn::Seconds(0.02));

        let budget = Budget::default();
        let meter = budget.start(0);
        let waiting = budget.stop_on_drop();
        assert_eq!(meter.check(), Ok(()));
        drop(waiting);
        assert_eq!(meter.check(), Err(Overdrawn::Stopped));
    }
}
