//! Commands and flags. A flag that sets a key of the configuration is text here; `diorama_runtime::config` reads it
//! like the same key from the environment or a file, so that each has one type, one range and one message.

mod calibrate;
mod flags;
mod reading;
mod token;

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use diorama_core::range::{PRIORITY, WEIGHT};
use diorama_core::stop::StopIf;
use diorama_manifest as manifest;
use diorama_runtime::config::{Config, ConfigError, Sources, load};
use diorama_runtime::logging::LogFormat;

pub(crate) use self::calibrate::Calibrate;
use self::flags::{
    ClientFlags, CoordinatorFlags, EngineFlags, MethodFlags, NetworkFlags, ReferenceFlags, RunFlags, SeedFlag,
    ServeFlags, ServiceFlags, SubmitFlags, WorkerFlags,
};
pub(crate) use self::reading::Reading;
pub(crate) use self::token::{NewToken, Token};

/// Makes pictures from a reference picture and a prompt: the prompt's subject appears, the place
/// stays.
///
/// Settings: flag > environment (DIORAMA_…) > file (diorama.toml) > default; `diorama config` shows
/// the settings in force.
///
/// Exit codes: 0 done, 2 usage, 3 finished with failed tasks, 42 permanent error, 75 temporary error
/// (try again), 143 drained by a signal (the same command resumes).
#[derive(Debug, Parser)]
#[command(name = "diorama", version, max_term_width = 100, verbatim_doc_comment)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
    /// The configuration file (default: diorama.toml in this folder, if it exists)
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The format of log lines: text or json
    #[arg(long, global = true, value_name = "FORMAT", default_value = "text")]
    pub(crate) log_format: LogFormat,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Makes one picture, with the mask and the heat map that explain it
    Generate(Generate),
    /// Makes the pictures of a manifest on this machine; run it again to resume
    Run(Run),
    /// Rewrites the gallery (index.html) of a run's folder
    Report(Report),
    /// Measures and compares the pictures of folders: tables, plots, a page; run it again to resume
    Eval(Eval),
    /// Measures which layers, score, threshold and edit steps suit a model; run the same command to resume
    Calibrate(Calibrate),
    /// Runs a coordinator: the HTTP API, and the runs in the object store
    Serve(Serve),
    /// Runs a worker: takes shards from a pool and makes their pictures
    Worker(Worker),
    /// Sends a manifest to a coordinator, references included; run again, it finds the same run
    Submit(Submit),
    /// Shows the status of the active runs and the workers, or of one run
    Status(Status),
    /// Follows a run to its end
    Watch(OneRun),
    /// Opens a run's page, or the fleet's, in the browser
    Open(Open),
    /// Pauses a run; workers stop before their next batch
    Pause(OneRun),
    /// Resumes a paused run
    Resume(OneRun),
    /// Cancels a run; what is committed is kept, the rest is recorded as cancelled
    Cancel(OneRun),
    /// Retries failed tasks of an ended run, including cancelled ones
    Retry(Retry),
    /// Deletes an ended run and everything it made; needs the role admin
    Delete(OneRun),
    /// Downloads what a run made; run it again to resume
    Results(Results),
    /// Remakes one picture from its record and compares the bytes: exit code 0 if equal, 3 if not
    Replay(Replay),
    /// Proves that a run is complete: one outcome per task, every digest, counters against markers
    Verify(Verify),
    /// Rebuilds a run's counters in Redis from its commit markers
    Reconcile(OneRunOnServices),
    /// Lists what no run owns any more, and removes it with --yes; the leading coordinator does so every hour
    Gc(Gc),
    /// Checks libtorch, device, model, output folder and any services named, and says how to fix problems
    Doctor(Doctor),
    /// Downloads a model to this machine
    #[command(subcommand)]
    Model(Model),
    /// Creates, lists and revokes a coordinator's tokens; the coordinator rereads the file by itself
    #[command(subcommand)]
    Token(Token),
    /// Prints every setting in force and where it came from
    Config(ShowConfig),
}

#[derive(Debug, Subcommand)]
pub(crate) enum Model {
    /// Downloads a model's folder from the object store, whole or not at all; run it again to resume (it does nothing
    /// if the model is already there)
    Fetch(FetchModel),
}

#[derive(Debug, Args)]
pub(crate) struct Generate {
    /// The picture of the place
    #[arg(long, value_name = "FILE", value_parser = reading::path())]
    pub(crate) reference: Option<PathBuf>,
    /// What should appear
    #[arg(long, value_name = "TEXT")]
    pub(crate) prompt: String,
    /// The words of the prompt that name the subject (default: its nouns)
    #[arg(long, value_name = "A,B", value_delimiter = ',')]
    pub(crate) subjects: Option<Vec<String>>,
    /// The folder for image.png, mask.png, overlay.png, heatmap-NOUN.png and record.json
    #[arg(long, value_name = "DIR", value_parser = reading::path())]
    pub(crate) out: PathBuf,
    /// Also writes tensors.safetensors: latents, noise, scores and masks of each edit step
    #[arg(long)]
    pub(crate) save_tensors: bool,
    #[command(flatten)]
    seed: SeedFlag,
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
    /// The manifest: JSONL, CSV or Parquet, one row per picture; a pipe, or - for standard input
    #[arg(value_parser = reading::path())]
    pub(crate) manifest: PathBuf,
    /// The folder for the pictures, the results and the gallery
    #[arg(long, value_name = "DIR", value_parser = reading::path())]
    pub(crate) out: PathBuf,
    /// The manifest's format, where its extension does not say: jsonl, csv or parquet
    #[arg(long, value_name = "FORMAT")]
    pub(crate) manifest_format: Option<manifest::Format>,
    #[command(flatten)]
    pub(crate) reading: Reading,
    /// Serves the run's page, as a coordinator does for a fleet; it stays up after the end, until Ctrl-C
    #[arg(long, value_name = "ADDRESS", num_args = 0..=1, default_missing_value = "127.0.0.1:8700")]
    pub(crate) serve: Option<SocketAddr>,
    /// Prints the summary, or the error, as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    run: RunFlags,
    #[command(flatten)]
    networks: NetworkFlags,
    #[command(flatten)]
    references: ReferenceFlags,
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
#[cfg_attr(not(feature = "engine"), expect(dead_code, reason = "measuring needs the engine"))]
pub(crate) struct Eval {
    /// Folders of `diorama run`, `diorama results --to`, or pictures; the others are compared with the first, by custom_id
    #[arg(value_name = "DIR", required = true)]
    pub(crate) dirs: Vec<PathBuf>,
    /// Names of the folders in tables, in their order (default: the folders' names)
    #[arg(long = "label", value_name = "NAME")]
    pub(crate) labels: Vec<String>,
    /// A folder that holds networks (clip, inception, lpips-squeeze …); can be repeated
    #[arg(long, value_name = "DIR")]
    pub(crate) networks: Vec<PathBuf>,
    /// The folder of the references, if the run does not say or they have moved; for plain pictures, matched by name
    #[arg(long, value_name = "DIR")]
    pub(crate) references: Option<PathBuf>,
    /// Where the subject may be, white: one mask for all, or a folder of {custom_id}.png; the background is the rest
    #[arg(long, value_name = "FILE|DIR")]
    pub(crate) region: Option<PathBuf>,
    /// JSONL or CSV with custom_id and any of prompt, scene, category, reference, region
    #[arg(long, value_name = "FILE")]
    pub(crate) about: Option<PathBuf>,
    /// Which table: paper (pair distance and CLIPScore, mean and median, by scene and category); without it, all measures
    #[arg(long, value_name = "NAME", value_parser = ["paper"])]
    pub(crate) preset: Option<String>,
    /// Also computes FID with clean-fid's resizing
    #[arg(long)]
    pub(crate) clean_fid: bool,
    /// Which pictures of the first folder to keep, such as 'psnr > 24 and coverage < 0.6'
    #[arg(long, value_name = "CONDITION")]
    pub(crate) keep: Option<String>,
    /// Writes the custom_ids of the pictures to keep to this file
    #[arg(long, value_name = "FILE", requires = "keep")]
    pub(crate) ids: Option<PathBuf>,
    /// Writes a manifest of the pictures to keep to this file
    #[arg(long, value_name = "FILE", requires = "keep")]
    pub(crate) manifest: Option<PathBuf>,
    /// The folder for rows, tables, plots and the page (default: evaluation/ in the first folder)
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Where the networks run: auto, cpu, cuda or cuda:N
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    pub(crate) device: String,
    /// Prints the summaries as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Doctor {
    /// Lists what `diorama eval` can compute, and where to get missing networks
    #[arg(long)]
    pub(crate) eval: bool,
    /// A folder that holds networks for `diorama eval`; can be repeated
    #[arg(long, value_name = "DIR", requires = "eval")]
    pub(crate) networks: Vec<PathBuf>,
    /// The folder that pictures will be written to
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Prints the checks as JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    engine: EngineFlags,
    #[command(flatten)]
    services: ServiceFlags,
    #[command(flatten)]
    coordinator: CoordinatorFlags,
}

#[derive(Debug, Args)]
pub(crate) struct Serve {
    #[command(flatten)]
    serve: ServeFlags,
    #[command(flatten)]
    services: ServiceFlags,
}

#[derive(Debug, Args)]
pub(crate) struct Worker {
    #[command(flatten)]
    worker: WorkerFlags,
    #[command(flatten)]
    references: ReferenceFlags,
    #[command(flatten)]
    engine: EngineFlags,
    #[command(flatten)]
    services: ServiceFlags,
}

#[derive(Debug, Args)]
pub(crate) struct Submit {
    /// The manifest: JSONL, CSV or Parquet, one row per picture; or s3://bucket/key, which the coordinator reads
    #[arg(value_parser = reading::path())]
    pub(crate) manifest: PathBuf,
    /// The manifest's format, where its extension does not say: jsonl, csv or parquet
    #[arg(long, value_name = "FORMAT")]
    pub(crate) manifest_format: Option<manifest::Format>,
    #[command(flatten)]
    pub(crate) reading: Reading,
    /// A name for the run
    #[arg(long, value_name = "TEXT")]
    pub(crate) name: Option<String>,
    /// A label for the run; can be repeated
    #[arg(long = "label", value_name = "NAME=VALUE", value_parser = label)]
    pub(crate) labels: Vec<(String, String)>,
    #[arg(long, value_name = "N", default_value_t = 0, allow_negative_numbers = true,
        help = format!("Runs of a higher priority in the same pool go first: {PRIORITY}"))]
    pub(crate) priority: i32,
    #[arg(long, value_name = "N", default_value_t = 1,
        help = format!("The run's share of its pool among runs of the same priority: {WEIGHT}"))]
    pub(crate) weight: u32,
    /// Pauses the run if too many tasks fail: 'failed > 5%' of those with an outcome, or 'failed > 100'
    #[arg(long, value_name = "CONDITION")]
    pub(crate) stop_if: Option<StopIf>,
    /// Makes this many rows first, drawn by the seed, and estimates what all of them will take
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub(crate) estimate: Option<u64>,
    /// The price of a worker-hour, to include the cost in an estimate
    #[arg(long, value_name = "PRICE", requires = "estimate", value_parser = price)]
    pub(crate) price: Option<f64>,
    /// Submits the whole manifest after the estimate
    #[arg(long, requires = "estimate")]
    pub(crate) yes: bool,
    /// Submits a new run even if the same manifest with the same settings was submitted before
    #[arg(long)]
    pub(crate) again: bool,
    /// Follows the run to its end
    #[arg(long)]
    pub(crate) watch: bool,
    /// Prints the run's status as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    submit: SubmitFlags,
    #[command(flatten)]
    client: ClientFlags,
    #[command(flatten)]
    run: RunFlags,
    #[command(flatten)]
    method: MethodFlags,
}

#[derive(Debug, Args)]
pub(crate) struct Status {
    /// The run; without it, every active run and every worker
    pub(crate) run: Option<String>,
    /// Shows ended runs too
    #[arg(long)]
    pub(crate) all: bool,
    /// Prints the status as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    client: ClientFlags,
}

#[derive(Debug, Args)]
pub(crate) struct Open {
    /// The run; without it, the fleet
    pub(crate) run: Option<String>,
    /// Only prints the address
    #[arg(long)]
    pub(crate) print: bool,
    #[command(flatten)]
    client: ClientFlags,
}

#[derive(Debug, Args)]
pub(crate) struct OneRun {
    /// The run
    pub(crate) run: String,
    /// Prints the run's status as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    client: ClientFlags,
}

#[derive(Debug, Args)]
pub(crate) struct Retry {
    /// The run
    pub(crate) run: String,
    /// Only tasks that failed like this: code=poison,out_of_memory or retryable=true; all conditions must match
    #[arg(long = "where", value_name = "KEY=VALUE")]
    pub(crate) conditions: Vec<String>,
    /// Follows the run to its end
    #[arg(long)]
    pub(crate) watch: bool,
    /// Prints the run's status as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    client: ClientFlags,
}

#[derive(Debug, Args)]
pub(crate) struct Results {
    /// The run
    pub(crate) run: String,
    /// The folder for the files
    #[arg(long, value_name = "DIR", value_parser = reading::path())]
    pub(crate) to: PathBuf,
    /// Downloads what is committed so far if the run has not ended
    #[arg(long)]
    pub(crate) partial: bool,
    /// Keeps archives packed, as shards/*.tar
    #[arg(long)]
    pub(crate) keep_archives: bool,
    /// Prints what was downloaded as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    client: ClientFlags,
}

#[derive(Debug, Args)]
#[command(allow_missing_positional = true)]
pub(crate) struct Replay {
    /// A coordinator's run
    #[arg(conflicts_with = "out")]
    pub(crate) run: Option<String>,
    /// The picture's custom_id
    #[arg(required = true)]
    pub(crate) custom_id: String,
    /// A folder of `diorama run`, instead of a run
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// The reference, if the one that the record names has moved
    #[arg(long, value_name = "FILE")]
    pub(crate) reference: Option<PathBuf>,
    /// Writes the new picture to this file
    #[arg(long, value_name = "FILE")]
    pub(crate) to: Option<PathBuf>,
    /// Prints the comparison as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    engine: EngineFlags,
    #[command(flatten)]
    client: ClientFlags,
}

#[derive(Debug, Args)]
pub(crate) struct OneRunOnServices {
    /// The run
    pub(crate) run: String,
    /// Prints what was found as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    services: ServiceFlags,
}

#[derive(Debug, Args)]
pub(crate) struct Verify {
    #[command(flatten)]
    pub(crate) run: OneRunOnServices,
    /// Republishes what is missing, rebuilds wrong counters, removes what no marker of an ended run names
    #[arg(long)]
    pub(crate) repair: bool,
    /// Seconds for which a repair keeps what no marker names; anything younger is left alone (default: gc_grace)
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true, requires = "repair")]
    grace: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Gc {
    /// Removes what was found; without this flag it is only listed
    #[arg(long)]
    pub(crate) yes: bool,
    /// The grace period in seconds: anything younger is left alone (default: gc_grace)
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true)]
    grace: Option<String>,
    /// Prints what was found as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    services: ServiceFlags,
}

#[derive(Debug, Args)]
pub(crate) struct FetchModel {
    /// The folder that holds model_index.json, as s3://BUCKET/FOLDER; its json, txt and safetensors files are fetched
    #[arg(value_name = "URL")]
    pub(crate) from: String,
    /// The folder for the model
    #[arg(long, value_name = "DIR")]
    pub(crate) to: PathBuf,
    /// The expected sha256 of the model, as printed by an earlier fetch
    #[arg(long, value_name = "HEX")]
    pub(crate) sha256: Option<String>,
    /// Prints what was fetched as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    services: ServiceFlags,
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

/// `name=value`; what they may be is the coordinator's to say.
fn label(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write it as name=value")?;
    Ok((name.to_owned(), value.to_owned()))
}

/// A price of one worker-hour.
fn price(text: &str) -> Result<f64, String> {
    diorama_core::price::amount(text).ok_or_else(|| "write it as a number from 0, such as 2.50".to_owned())
}

/// The flag `--grace`, in the place of the key.
fn grace(seconds: &Option<String>) -> Vec<(&'static str, String)> {
    seconds.iter().map(|seconds| ("gc_grace", seconds.clone())).collect()
}

impl Cli {
    /// Whether a program reads the output.
    pub(crate) fn json(&self) -> bool {
        match &self.command {
            Command::Generate(command) => command.json,
            Command::Run(command) => command.json,
            Command::Doctor(command) => command.json,
            Command::Eval(command) => command.json,
            Command::Calibrate(command) => command.json,
            Command::Config(command) => command.json,
            Command::Report(_) | Command::Serve(_) | Command::Worker(_) | Command::Open(_) => false,
            Command::Submit(command) => command.json,
            Command::Status(command) => command.json,
            Command::Watch(command)
            | Command::Pause(command)
            | Command::Resume(command)
            | Command::Cancel(command)
            | Command::Delete(command) => command.json,
            Command::Retry(command) => command.json,
            Command::Replay(command) => command.json,
            Command::Results(command) => command.json,
            Command::Verify(command) => command.run.json,
            Command::Reconcile(command) => command.json,
            Command::Gc(command) => command.json,
            Command::Model(Model::Fetch(command)) => command.json,
            Command::Token(command) => command.file().json,
        }
    }

    /// The configuration in force for this command.
    pub(crate) fn configuration(&self) -> Result<Config, ConfigError> {
        let flags = match &self.command {
            Command::Generate(command) => {
                [command.method.pairs(), command.engine.pairs(), command.seed.pairs()].concat()
            }
            Command::Run(command) => {
                let (run, references) = (command.run.pairs(), command.references.pairs());
                let networks = command.networks.pairs();
                [run, networks, references, command.method.pairs(), command.engine.pairs()].concat()
            }
            Command::Config(command) => [command.run.pairs(), command.method.pairs(), command.engine.pairs()].concat(),
            Command::Doctor(command) => {
                [command.engine.pairs(), command.services.pairs(), command.coordinator.pairs()].concat()
            }
            Command::Report(_) | Command::Eval(_) => Vec::new(),
            Command::Calibrate(command) => {
                let model = ("model", command.folder.display().to_string());
                [vec![model], command.seed.pairs(), command.machine.pairs()].concat()
            }
            Command::Serve(command) => [command.serve.pairs(), command.services.pairs()].concat(),
            Command::Worker(command) => {
                let (worker, references) = (command.worker.pairs(), command.references.pairs());
                [worker, references, command.engine.pairs(), command.services.pairs()].concat()
            }
            Command::Submit(command) => {
                let (run, submit) = (command.run.pairs(), command.submit.pairs());
                [run, submit, command.method.pairs(), command.client.pairs()].concat()
            }
            Command::Status(command) => command.client.pairs(),
            Command::Open(command) => command.client.pairs(),
            Command::Watch(command)
            | Command::Pause(command)
            | Command::Resume(command)
            | Command::Cancel(command)
            | Command::Delete(command) => command.client.pairs(),
            Command::Retry(command) => command.client.pairs(),
            Command::Replay(command) => [command.engine.pairs(), command.client.pairs()].concat(),
            Command::Results(command) => command.client.pairs(),
            Command::Verify(command) => [grace(&command.grace), command.run.services.pairs()].concat(),
            Command::Reconcile(command) => command.services.pairs(),
            Command::Model(Model::Fetch(command)) => command.services.pairs(),
            Command::Token(command) => {
                command.file().tokens_file.iter().map(|file| ("tokens_file", file.clone())).collect()
            }
            Command::Gc(command) => [grace(&command.grace), command.services.pairs()].concat(),
        };
        // Variables whose names or values are not text are not ours.
        let env = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        let config = load(&Sources { file: self.config.clone(), folder: PathBuf::from("."), env, flags })?;
        for name in &config.unknown_variables {
            tracing::warn!("unknown environment variable {name}; is it misspelt?");
        }
        Ok(config)
    }
}
