//! What measures pictures right after they were made: the evaluator, on the device of the model.

use std::collections::BTreeMap;
use std::path::PathBuf;

use diorama_core::measure::{MEASURES, MeasureError, Measurer, Subject};
use diorama_engine::device::Device;
use diorama_evaluation::evaluator::Evaluator;
use diorama_evaluation::networks::{Kind, Networks};

/// Measures with the networks that were found.
pub(crate) struct Measuring {
    evaluator: Evaluator,
    measures: Vec<&'static str>,
}

impl Measuring {
    /// Loads the networks below `folders`; without one, what needs none is measured.
    pub(crate) fn load(folders: &[PathBuf], device: &str) -> anyhow::Result<Self> {
        let device: Device = device.parse()?;
        let networks = Networks::load(folders, device)?;
        let loaded: Vec<&str> = networks.loaded.iter().map(|(kind, _)| kind.folder()).collect();
        let there = MEASURES.iter().filter(|measure| measure.needs.network.is_none_or(|name| loaded.contains(&name)));
        let measures = there.map(|measure| measure.name).collect();
        Ok(Self { evaluator: Evaluator::new(networks), measures })
    }
}

impl Measurer for Measuring {
    fn measures(&self) -> &[&'static str] {
        &self.measures
    }

    fn networks(&self) -> BTreeMap<String, String> {
        let hex = |digest: &[u8; 32]| digest.iter().map(|byte| format!("{byte:02x}")).collect();
        let loaded = self.evaluator.networks().loaded.iter();
        loaded.map(|(kind, digest)| (kind.folder().to_owned(), hex(digest))).collect()
    }

    fn measure(&mut self, subject: &Subject, wanted: &[String]) -> Result<BTreeMap<String, f64>, MeasureError> {
        // Nothing is written here, so that what may pass is memory.
        self.evaluator.measure_alone(subject, wanted).map_err(|error| match error.is_retryable() {
            true => MeasureError::OutOfMemory(error.to_string()),
            false => MeasureError::Failed(error.to_string()),
        })
    }
}

/// Where people get the networks that measures of these names need, a line each.
pub(crate) fn origins(measures: &[&str]) -> String {
    let is_needed = |kind: &&Kind| {
        let needs = |name: &&str| {
            let measure = MEASURES.iter().find(|measure| measure.name == *name);
            measure.is_some_and(|measure| measure.needs.network == Some(kind.folder()))
        };
        measures.iter().any(needs)
    };
    let line = |kind: &Kind| format!("\n  {}: {}", kind.folder(), kind.origin());
    Kind::ALL.iter().filter(is_needed).map(line).collect()
}
