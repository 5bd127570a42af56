//! Commands and flags. A flag that sets a key of the configuration is text here; `diorama_runtime::config` reads it
//! like the same key from the environment or a file, so that each has one type, one range and one message.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use diorama_coordinator::manifest;
use diorama_runtime::config::{Config, ConfigError, Sources, load};
use diorama_runtime::logging::LogFormat;

/// Makes pictures from a reference picture and a prompt: the prompt's subject appears, the place
/// stays.
///
/// Settings: flag > environment (DIORAMA_…) > file (diorama.toml) > default; `diorama config` says
/// what is in force.
///
/// Exit codes: 0 done, 2 usage, 3 finished with failed tasks, 42 will not work if tried again,
/// 75 try again, 143 drained by a signal (the same command goes on).
#[derive(Debug, Parser)]
#[command(name = "diorama", version, max_term_width = 100, verbatim_doc_comment)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
    /// The configuration file (default: diorama.toml in this folder, where it exists)
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// How log lines are written: text or json
    #[arg(long, global = true, value_name = "FORMAT", default_value = "text")]
    pub(crate) log_format: LogFormat,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Makes one picture, with the mask and the heat map that explain it
    Generate(Generate),
    /// Makes the pictures of a manifest on this machine; the same command again goes on where it stopped
    Run(Run),
    /// Writes the gallery (index.html) of a run's folder again
    Report(Report),
    /// Checks libtorch, the device, the model and the output folder, and says what to do
    Doctor(Doctor),
    /// Prints every setting in force and where it came from
    Config(ShowConfig),
}

#[derive(Debug, Args)]
pub(crate) struct Generate {
    /// The picture of the place
    #[arg(long, value_name = "FILE")]
    pub(crate) reference: Option<PathBuf>,
    /// What should appear
    #[arg(long, value_name = "TEXT")]
    pub(crate) prompt: String,
    /// The words of the prompt that name the subject (default: its nouns)
    #[arg(long, value_name = "A,B", value_delimiter = ',')]
    pub(crate) subjects: Option<Vec<String>>,
    /// The folder for image.png, mask.png, overlay.png, heatmap-NOUN.png and record.json
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// Also writes tensors.safetensors: latents, noise, scores and masks of each edit step
    #[arg(long)]
    pub(crate) save_tensors: bool,
    /// The seed of the noise
    #[arg(long, value_name = "N")]
    seed: Option<String>,
    /// Prints the result as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    method: MethodFlags,
    #[command(flatten)]
    engine: EngineFlags,
}

#[derive(Debug, Args)]
pub(crate) struct Run {
    /// The manifest: JSONL, CSV or Parquet, one row a picture
    pub(crate) manifest: PathBuf,
    /// The folder for the pictures, the results and the gallery
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// The manifest's format, where its extension does not say: jsonl, csv or parquet
    #[arg(long, value_name = "FORMAT")]
    pub(crate) manifest_format: Option<manifest::Format>,
    /// Prints the summary, or what is wrong, as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    run: RunFlags,
    #[command(flatten)]
    method: MethodFlags,
    #[command(flatten)]
    engine: EngineFlags,
}

#[derive(Debug, Args)]
pub(crate) struct Report {
    /// A folder that `diorama run` wrote
    pub(crate) dir: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct Doctor {
    /// The folder that pictures are to be written to
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Prints the checks as JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    engine: EngineFlags,
}

#[derive(Debug, Args)]
pub(crate) struct ShowConfig {
    /// Prints the settings as JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    run: RunFlags,
    #[command(flatten)]
    method: MethodFlags,
    #[command(flatten)]
    engine: EngineFlags,
}

macro_rules! flags {
    ($(#[$doc:meta])* $name:ident under $heading:literal { $($(#[$fdoc:meta])* $field:ident: $value:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Args)]
        #[command(next_help_heading = $heading)]
        struct $name { $($(#[$fdoc])* #[arg(long, value_name = $value, allow_negative_numbers = true)] $field: Option<String>),* }

        impl $name {
            fn pairs(&self) -> Vec<(&'static str, String)> {
                [$((stringify!($field), &self.$field)),*]
                    .into_iter()
                    .filter_map(|(key, text)| Some((key, text.clone()?)))
                    .collect()
            }
        }
    };
}

flags! {
    /// The settings of the method.
    MethodFlags under "Method" {
        /// abs-grad-sam, img2img, img2img-reduced or txt2img
        method: "NAME",
        /// default or paper
        preset: "NAME",
        /// Steps of the whole schedule: 1 to 1000
        steps: "N",
        /// How much of the schedule runs: above 0, at most 1
        strength: "F",
        /// Classifier-free guidance scale: 0 to 100
        guidance: "F",
        /// What should not appear
        negative_prompt: "TEXT",
        /// Steps before which the reference's latents are put back outside the mask, such as 5,18,28
        edit_steps: "N,N",
        /// k in `score > mean + k·std`: -10 to 10
        threshold: "F",
        /// How often the mask is dilated: 0 to 64
        dilation: "N",
        /// σ of the blur over the score, in latent elements: 0 to 50
        blur: "F",
        /// Layers that the score is taken from: last, auto or diffusers paths joined by commas
        layers: "LAYERS",
        /// abs-grad, relu-grad, attention or guidance-difference
        score: "NAME",
        /// Probes of the estimator, for layers without a closed form: 1 to 4096
        probes: "N",
        /// Where denoising starts: reference or noise
        start: "NAME",
        /// ddpm, ddim, euler or dpmpp-2m
        scheduler: "NAME",
        /// The picture's size, each side a multiple of 8, such as 512x512
        size: "WxH",
        /// Puts the reference's pixels back outside the mask, with an edge this many pixels soft: 0 to 256
        paste_back: "F",
    }
}

flags! {
    /// What makes the pictures.
    EngineFlags under "Engine" {
        /// The model's folder, in the layout of diffusers
        model: "DIR",
        /// auto (a GPU where there is one), cpu, cuda or cuda:N
        device: "DEVICE",
        /// f32, bf16 or f16 (default: f32 on a CPU, bf16 on a GPU)
        dtype: "TYPE",
        /// Tasks in a batch: 1 to 256; pictures do not depend on it
        batch_size: "N",
        /// libtorch, or synthetic: no model, for load tests of everything around it
        engine: "NAME",
        /// Milliseconds that a batch of the synthetic engine takes
        synthetic_latency: "MS",
        /// The share of tasks that the synthetic engine fails: 0 to 1
        synthetic_fail_rate: "F",
    }
}

flags! {
    /// How a run is cut, stored and tried again.
    RunFlags under "Run" {
        /// From which rows without a seed derive theirs
        seed: "N",
        /// files (images/ID.png …) or webdataset (tar archives)
        format: "NAME",
        /// Other methods to make beside each picture, such as img2img,img2img-reduced
        compare: "NAMES",
        /// What happens to bad rows: stop (nothing starts) or skip
        on_invalid: "NAME",
        /// Tasks a shard: 1 to 100000
        shard_size: "N",
        /// Rounds of retries for tasks that failed and may work: 0 to 10
        max_rounds: "N",
        /// Seconds before the first of them
        retry_delay: "F",
    }
}

impl Cli {
    /// Whether a program reads the output.
    pub(crate) fn json(&self) -> bool {
        match &self.command {
            Command::Generate(command) => command.json,
            Command::Run(command) => command.json,
            Command::Doctor(command) => command.json,
            Command::Config(command) => command.json,
            Command::Report(_) => false,
        }
    }

    /// The configuration in force for this command.
    pub(crate) fn configuration(&self) -> Result<Config, ConfigError> {
        let flags = match &self.command {
            Command::Generate(command) => {
                let seed = command.seed.clone().map(|seed| ("seed", seed));
                [command.method.pairs(), command.engine.pairs(), seed.into_iter().collect()].concat()
            }
            Command::Run(command) => [command.run.pairs(), command.method.pairs(), command.engine.pairs()].concat(),
            Command::Config(command) => [command.run.pairs(), command.method.pairs(), command.engine.pairs()].concat(),
            Command::Doctor(command) => command.engine.pairs(),
            Command::Report(_) => Vec::new(),
        };
        // Variables whose names or values are no text are none of ours.
        let env = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        let config = load(&Sources { file: self.config.clone(), folder: PathBuf::from("."), env, flags })?;
        for name in &config.unknown_variables {
            tracing::warn!("the environment variable {name} means nothing to diorama; is it misspelt?");
        }
        Ok(config)
    }
}
