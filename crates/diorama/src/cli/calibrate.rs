//! The flags of `diorama calibrate`.

use std::path::PathBuf;

use clap::Args;

use super::flags::{MachineFlags, SeedFlag};
use super::reading::{self, Reading};

#[derive(Debug, Clone, Args)]
#[cfg_attr(not(feature = "engine"), expect(dead_code, reason = "measuring needs the engine"))]
pub(crate) struct Calibrate {
    /// The model's folder, in the layout of diffusers
    #[arg(value_name = "MODEL", value_parser = reading::path())]
    pub(crate) folder: PathBuf,
    /// What is measured on: a manifest, or a folder of pictures, the prompts of each a line each in NAME.txt beside it,
    /// and where its subject may be in NAME.region.png
    #[arg(value_name = "REFERENCES", value_parser = reading::path())]
    pub(crate) references: PathBuf,
    /// A prompt for every picture of the folder that has none; may be given several times
    #[arg(long = "prompt", value_name = "TEXT")]
    pub(crate) prompts: Vec<String>,
    /// A folder that holds networks: clip, or judge for the bundled model; may be given several times
    #[arg(long, value_name = "DIR")]
    pub(crate) networks: Vec<PathBuf>,
    /// How many pictures may be made at most
    #[arg(long, value_name = "N", default_value_t = 200)]
    pub(crate) budget: usize,
    /// What is searched, in this order: score (and its layers), threshold, edit-steps
    #[arg(long, value_name = "AXES", value_delimiter = ',', default_value = "score,threshold,edit-steps",
        value_parser = ["score", "threshold", "edit-steps"])]
    pub(crate) axes: Vec<String>,
    /// The file for the settings (default: diorama.json in the model's folder)
    #[arg(long, value_name = "FILE", value_parser = reading::path())]
    pub(crate) out: Option<PathBuf>,
    /// The folder for the pictures that are measured
    #[arg(long, value_name = "DIR", default_value = "calibration", value_parser = reading::path())]
    pub(crate) work: PathBuf,
    /// Says what would be measured and how many pictures that takes, and makes none
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Prints what was measured as JSON
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(crate) reading: Reading,
    #[command(flatten)]
    pub(super) seed: SeedFlag,
    #[command(flatten)]
    pub(super) machine: MachineFlags,
}
