//! What a worker counts for Prometheus: one struct, made and registered once.

use diorama_core::marker::CommitMarker;
use diorama_core::outcome::Outcome;
use prometheus::{
    Counter, Error, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

/// A shard takes from milliseconds (synthetic) to many minutes.
const SECONDS: [f64; 12] = [0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 120.0, 300.0, 900.0, 3600.0];

/// The metrics of one worker. Clones share them.
#[derive(Debug, Clone)]
pub struct Metrics {
    shards: IntCounterVec,
    tasks: IntCounterVec,
    steps: HistogramVec,
    device_seconds: Counter,
    archive_bytes: IntCounter,
    held: IntGauge,
}

/// The steps of a shard that are timed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Spec, log, marker and input are read.
    Fetch,
    /// The attempt is noted, the tasks are checked, references are loaded, pictures are made, encoded and stored; with the
    /// wait for the shard before it.
    Generate,
    /// The archive is uploaded, the marker written, the progress told.
    Commit,
}

impl Step {
    fn as_str(self) -> &'static str {
        match self {
            Self::Fetch => "fetch",
            Self::Generate => "generate",
            Self::Commit => "commit",
        }
    }
}

impl Metrics {
    /// Registers the metrics, with what never changes about this worker as labels of `diorama_worker_info`.
    pub fn register(registry: &Registry, worker: &str, pool: &str, model: &str, device: &str) -> Result<Self, Error> {
        let counters = |name: &str, help: &str, label: &str| IntCounterVec::new(Opts::new(name, help), &[label]);
        let made = Self {
            shards: counters("diorama_worker_shards_total", "Shards by how their delivery ended", "ending")?,
            tasks: counters(
                "diorama_worker_tasks_total",
                "Committed tasks: done, or the code of the error",
                "outcome",
            )?,
            steps: HistogramVec::new(
                HistogramOpts::new("diorama_worker_step_seconds", "Seconds of each step of a shard")
                    .buckets(SECONDS.to_vec()),
                &["step"],
            )?,
            device_seconds: Counter::new(
                "diorama_worker_device_seconds_total",
                "Seconds in which the device had a batch",
            )?,
            archive_bytes: IntCounter::new("diorama_worker_archive_bytes_total", "Bytes of committed archives")?,
            held: IntGauge::new("diorama_worker_held_shards", "Shards in this worker's hands")?,
        };
        let info = IntGaugeVec::new(
            Opts::new("diorama_worker_info", "1, with who this worker is"),
            &["worker", "pool", "model", "device"],
        )?;
        info.with_label_values(&[worker, pool, model, device]).set(1);
        registry.register(Box::new(info))?;
        registry.register(Box::new(made.shards.clone()))?;
        registry.register(Box::new(made.tasks.clone()))?;
        registry.register(Box::new(made.steps.clone()))?;
        registry.register(Box::new(made.device_seconds.clone()))?;
        registry.register(Box::new(made.archive_bytes.clone()))?;
        registry.register(Box::new(made.held.clone()))?;
        Ok(made)
    }

    pub(crate) fn ended(&self, ending: &str) {
        self.shards.with_label_values(&[ending]).inc();
    }

    pub(crate) fn committed(&self, marker: &CommitMarker) {
        for outcome in &marker.outcomes {
            let label = match &outcome.outcome {
                Outcome::Done { .. } => "done",
                Outcome::Failed(error) => error.code.as_str(),
            };
            self.tasks.with_label_values(&[label]).inc();
        }
        self.archive_bytes.inc_by(marker.archives.iter().map(|archive| archive.bytes).sum());
    }

    pub(crate) fn step(&self, step: Step, seconds: f64) {
        self.steps.with_label_values(&[step.as_str()]).observe(seconds);
    }

    pub(crate) fn device(&self, seconds: f64) {
        self.device_seconds.inc_by(seconds.max(0.0));
    }

    pub(crate) fn held(&self, shards: usize) {
        self.held.set(shards as i64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_labels_are_what_prometheus_takes() {
        let registry = Registry::new();
        let metrics = Metrics::register(&registry, "w", "p", "m", "cpu").unwrap();
        metrics.step(Step::Fetch, 0.2);
        metrics.ended("committed");
        metrics.device(1.5);
        let families: Vec<_> = registry.gather().iter().map(|family| family.name().to_owned()).collect();
        for name in ["diorama_worker_info", "diorama_worker_shards_total", "diorama_worker_step_seconds"] {
            assert!(families.iter().any(|family| family == name), "{name} is not in {families:?}");
        }
    }
}
