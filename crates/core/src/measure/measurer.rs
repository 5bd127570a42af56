//! The contract between a worker and what measures its pictures: synchronous, owned by the thread that owns the device.

use std::collections::BTreeMap;

use crate::picture::{Gray8, Rgb8};

/// A picture with what it is compared to, decoded.
#[derive(Debug, Clone)]
pub struct Subject {
    /// The picture.
    pub picture: Rgb8,
    /// The reference in the picture's size.
    pub reference: Option<Rgb8>,
    /// White where the subject may be; from whoever made the task, never the picture's own mask.
    pub region: Option<Gray8>,
    /// The prompt.
    pub prompt: Option<String>,
    /// The share of the picture that its mask covers, 0 to 1.
    pub coverage: Option<f64>,
}

/// Why a picture was not measured. The same call may work later.
#[derive(Debug, Clone, thiserror::Error)]
pub enum MeasureError {
    /// The device has no memory for a network.
    #[error("the device has no memory to measure a picture: {0}")]
    OutOfMemory(String),
    /// Anything else that the library reports.
    #[error("measuring failed: {0}")]
    Failed(String),
}

/// Measures pictures.
pub trait Measurer: Send {
    /// The measures that it can take, by name: those whose networks it has.
    fn measures(&self) -> &[&'static str];

    /// Its networks by name, each with the SHA-256 of its weights: with others, scores do not compare.
    fn networks(&self) -> BTreeMap<String, String>;

    /// The measures of one picture among `wanted`, by name. One that this picture cannot have (a region without an inside,
    /// a picture that is too small for a network) is absent, never 0.
    fn measure(&mut self, subject: &Subject, wanted: &[String]) -> Result<BTreeMap<String, f64>, MeasureError>;
}
