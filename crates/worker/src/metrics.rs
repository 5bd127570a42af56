//! What a worker counts for Prometheus: one struct, made and registered once.

use std::time::Duration;

use diorama_core::id::{Pool, WorkerId};
use diorama_core::marker::CommitMarker;
use diorama_core::outcome::{ErrorCode, Outcome};
use diorama_core::record::GeneratorInfo;
use prometheus::{
    Counter, Error, Gauge, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry,
};

use crate::ending::Ending;
use crate::reference::Origin;

/// A shard takes from milliseconds (synthetic) to many minutes.
const SECONDS: [f64; 12] = [0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 120.0, 300.0, 900.0, 3600.0];

/// The outcome of a task with a picture.
const DONE: &str = "done";

/// What became of a picture of a run with a condition.
const ACCEPTED: &str = "accepted";
const KEPT: &str = "kept";

/// The metrics of one worker. Clones share them.
#[derive(Debug, Clone)]
pub struct Metrics {
    shards: IntCounterVec,
    tasks: IntCounterVec,
    accepted: IntCounterVec,
    tries: IntCounter,
    steps: HistogramVec,
    device_seconds: Counter,
    archive_bytes: IntCounter,
    references: IntCounterVec,
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
    /// Registers the metrics of the worker `worker`; each series has its pool as a label. The model took `loaded_in`.
    pub fn register(
        registry: &Registry,
        worker: &WorkerId,
        pool: &Pool,
        info: &GeneratorInfo,
        loaded_in: Duration,
    ) -> Result<Self, Error> {
        let opts = |name: &str, help: &str| Opts::new(name, help).const_label("pool", pool.as_str());
        let counters = |name: &str, help: &str, label: &str| IntCounterVec::new(opts(name, help), &[label]);
        let steps = HistogramOpts::from(opts("diorama_worker_step_seconds", "Seconds of each step of a shard"));
        let made = Self {
            shards: counters("diorama_worker_shards_total", "Shards by how their delivery ended", "ending")?,
            tasks: counters(
                "diorama_worker_tasks_total",
                "Committed tasks: done, or the code of the error",
                "outcome",
            )?,
            steps: HistogramVec::new(steps.buckets(SECONDS.to_vec()), &["step"])?,
            accepted: counters(
                "diorama_worker_accepted_total",
                "Committed pictures of runs with a condition: accepted, or kept though none of their tries was",
                "result",
            )?,
            tries: IntCounter::with_opts(opts(
                "diorama_worker_tries_total",
                "Pictures that were made again because they were not accepted",
            ))?,
            device_seconds: Counter::with_opts(opts(
                "diorama_worker_device_seconds_total",
                "Seconds in which the device had a batch",
            ))?,
            archive_bytes: IntCounter::with_opts(opts(
                "diorama_worker_archive_bytes_total",
                "Bytes of committed archives",
            ))?,
            references: counters(
                "diorama_worker_references_total",
                "References by where their bytes came from",
                "from",
            )?,
            held: IntGauge::with_opts(opts("diorama_worker_held_shards", "Shards in this worker's hands"))?,
        };
        // A series that begins with its first event has no rate then.
        made.tasks.with_label_values(&[DONE]);
        [ACCEPTED, KEPT].iter().for_each(|result| drop(made.accepted.with_label_values(&[*result])));
        ErrorCode::ALL.iter().for_each(|code| drop(made.tasks.with_label_values(&[code.as_str()])));
        Ending::ALL.iter().for_each(|ending| drop(made.shards.with_label_values(&[ending.as_str()])));
        Origin::ALL.iter().for_each(|origin| drop(made.references.with_label_values(&[origin.as_str()])));

        let about = IntGaugeVec::new(
            opts("diorama_worker_info", "1, with who this worker is"),
            &["worker", "model", "device"],
        )?;
        about.with_label_values(&[worker.as_str(), &info.model, &info.device]).set(1);
        let load = Gauge::with_opts(opts("diorama_worker_model_load_seconds", "Seconds that loading the model took"))?;
        load.set(loaded_in.as_secs_f64());
        registry.register(Box::new(about))?;
        registry.register(Box::new(load))?;
        registry.register(Box::new(made.shards.clone()))?;
        registry.register(Box::new(made.tasks.clone()))?;
        registry.register(Box::new(made.accepted.clone()))?;
        registry.register(Box::new(made.tries.clone()))?;
        registry.register(Box::new(made.steps.clone()))?;
        registry.register(Box::new(made.device_seconds.clone()))?;
        registry.register(Box::new(made.archive_bytes.clone()))?;
        registry.register(Box::new(made.references.clone()))?;
        registry.register(Box::new(made.held.clone()))?;
        Ok(made)
    }

    pub(crate) fn ended(&self, ending: &str) {
        self.shards.with_label_values(&[ending]).inc();
    }

    pub(crate) fn committed(&self, marker: &CommitMarker) {
        for outcome in &marker.outcomes {
            let label = match &outcome.outcome {
                Outcome::Done { .. } => DONE,
                Outcome::Failed(error) => error.code.as_str(),
            };
            if let Outcome::Done { accepted: Some(accepted), tries, .. } = &outcome.outcome {
                self.accepted.with_label_values(&[if *accepted { ACCEPTED } else { KEPT }]).inc();
                self.tries.inc_by(tries.len().saturating_sub(1) as u64);
            }
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

    pub(crate) fn reference(&self, origin: Origin) {
        self.references.with_label_values(&[origin.as_str()]).inc();
    }

    pub(crate) fn held(&self, shards: usize) {
        self.held.set(shards as i64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_series_is_there_from_the_start_and_names_its_pool() {
        let registry = Registry::new();
        let info = GeneratorInfo {
            engine: String::new(),
            library: String::new(),
            model: "m".to_owned(),
            model_sha256: "0".to_owned(),
            device: "cpu".to_owned(),
            dtype: "f32".to_owned(),
            batch_size: 4,
        };
        let (worker, pool) = (WorkerId::new("w").unwrap(), Pool::new("p").unwrap());
        Metrics::register(&registry, &worker, &pool, &info, Duration::from_secs(3)).unwrap();
        let mut text = Vec::new();
        prometheus::Encoder::encode(&prometheus::TextEncoder::new(), &registry.gather(), &mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        for series in [
            r#"diorama_worker_tasks_total{outcome="done",pool="p"} 0"#,
            r#"diorama_worker_tasks_total{outcome="out_of_memory",pool="p"} 0"#,
            r#"diorama_worker_shards_total{ending="handed_back",pool="p"} 0"#,
            r#"diorama_worker_accepted_total{pool="p",result="kept"} 0"#,
            r#"diorama_worker_tries_total{pool="p"} 0"#,
            r#"diorama_worker_references_total{from="cache",pool="p"} 0"#,
            r#"diorama_worker_model_load_seconds{pool="p"} 3"#,
            r#"diorama_worker_info{device="cpu",model="m",pool="p",worker="w"} 1"#,
        ] {
            assert!(text.lines().any(|line| line == series), "{series} is not in\n{text}");
        }
        assert!(text.lines().filter(|line| !line.starts_with('#')).all(|line| line.contains(r#"pool="p""#)), "{text}");
    }
}
