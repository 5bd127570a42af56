//! `diorama calibrate`: which layers, score, threshold and edit steps suit a model, measured on references of the user's,
//! written beside the model (docs/evaluation.md).
//!
//! Begins with everything that can be refused, then measures: a search on one half of the rows ([`search`]), a
//! confirmation on the other. The same command goes on where it was stopped, because runs and evaluations do.

mod begun;
mod goal;
mod measuring;
mod outcome;
mod rows;
mod search;
mod space;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use diorama_core::generator::Generator;
use diorama_core::id::Sha256Hex;
use diorama_core::run::OutputFormat;
use diorama_core::settings::{Preset, Settings};
use diorama_core::task::Task;
use diorama_engine::device::Device;
use diorama_engine::{InForce, LibtorchGenerator};
use diorama_evaluation::evaluator::Evaluator;
use diorama_evaluation::networks::Networks;
use diorama_runtime::config::Config;
use serde_json::{Map, Value, json};
use tokio_util::sync::CancellationToken;

use self::begun::Begun;
use self::goal::Goal;
use self::measuring::Measuring;
use self::outcome::{Finalist, Outcome};
use self::rows::{Half, MOST_SEEDS, Rows};
use self::search::{Allotment, Candidate, Search};
use self::space::{Axis, Space};
use super::blocking;
use crate::cli::{Calibrate, Cli};
use crate::exit::{self, Failure};
use crate::maker::{self, Maker};
use crate::{output, overwrite, progress};

/// The file of a model's settings.
const SETTINGS: &str = "diorama.json";
/// Rows of which it is asked whether settings suit them.
const CHECKED: usize = 64;

pub(crate) async fn run(command: &Calibrate, cli: &Cli, drain: CancellationToken) -> Result<u8, Failure> {
    let mut config = cli.configuration().map_err(Failure::usage)?;
    // Only what is measured is made, whatever the configuration says of runs.
    (config.run.compare, config.run.format) = (Vec::new(), OutputFormat::Files);
    let beside = command.folder.join(SETTINGS);
    let out = command.out.clone().unwrap_or_else(|| beside.clone());
    let standing = outcome::standing(if out.exists() { &out } else { &beside })?;
    let (mut asked, options) = (command.clone(), config.clone());
    // A plan leaves nothing behind.
    let scratch = command.dry_run.then(tempfile::tempdir).transpose().map_err(Failure::try_again)?;
    if let Some(scratch) = &scratch {
        asked.work = scratch.path().to_owned();
    }
    let ready = tokio::select! {
        ready = blocking(move || Ready::of(&asked, &options)) => ready??,
        // Nothing was measured yet.
        () = drain.cancelled() => return Ok(exit::DRAINED),
    };
    if command.dry_run {
        tell(cli, &ready.plan(), &ready.describe());
        return Ok(exit::DONE);
    }
    check_writable(&out)?;
    let (space, conditions) = (ready.space.clone(), ready.conditions.clone());
    let Some(outcome) = ready.measure(config, command.reading.follow_links, drain).await? else {
        output::error_line("diorama: stopped; the same command goes on from here");
        return Ok(exit::DRAINED);
    };
    outcome::write(&out, standing, &outcome, &space, conditions)?;
    let told = format!("{}\n{}\n{}", outcome.table(&space), outcome.verdict(), out.display());
    tell(cli, &outcome.json(&space), &told);
    Ok(exit::DONE)
}

fn tell(cli: &Cli, json: &Value, text: &str) {
    if cli.json() { output::line(&json.to_string()) } else { output::line(text) }
}

/// A calibration of which everything that can be refused was.
struct Ready {
    rows: Rows,
    work: PathBuf,
    generator: LibtorchGenerator,
    goal: Goal,
    networks: Networks,
    space: Space,
    axes: Vec<Axis>,
    allotment: Allotment,
    in_force: Candidate,
    /// The paper's settings, where the model can have them.
    paper: Option<Settings>,
    /// What it is measured on and with, for the file.
    conditions: Map<String, Value>,
}

impl Ready {
    fn of(command: &Calibrate, config: &Config) -> Result<Self, Failure> {
        let axes = axes(&command.axes)?;
        let device: Device = config.engine.device.as_str().parse().map_err(Failure::usage)?;
        overwrite::refuse_within(&command.work, Some(&command.folder), "the model")?;
        let work = command.work.clone();
        fs::create_dir_all(&work).map_err(|error| rows::unwritable(&work, error))?;
        let rows = rows::read(command, config, &work)?;
        let generator = match maker::make(&config.engine).map_err(Failure::permanent)? {
            Maker::Libtorch(generator) => *generator,
            Maker::Synthetic(_) => {
                return Err(Failure::usage(anyhow::anyhow!("the synthetic engine has no settings to calibrate")));
            }
        };
        let (goal, networks) = Goal::of(&rows, &command.networks, device, &generator)?;
        let force = generator.in_force(&Settings::default()).map_err(Failure::permanent)?;
        let can = |settings: &Settings| {
            let fits = |task: &Task| generator.check(&with(task, settings)).is_ok();
            rows.tasks.iter().take(CHECKED).all(fits)
        };
        let space = Space::of(generator.cross_attention_layers(), force.timesteps, |score, layers| {
            can(&Candidate { score, layers: layers.to_vec(), ..candidate(&force) }.settings())
        });
        let paper = Some(Settings { preset: Some(Preset::Paper), ..Settings::default() }).filter(can);
        let conditions = conditions(&rows, &generator, &networks, &force)?;
        let identity = json!({ "budget": command.budget, "axes": axes, "conditions": conditions });
        let in_force = Begun::or_new(&work, identity, candidate(&force))?.in_force;
        let options: Vec<usize> = axes.iter().map(|axis| space.options(*axis, &in_force).len()).collect();
        let most = rows.halves().map(|half| half.len() * MOST_SEEDS).into_iter().min().unwrap_or_default();
        let finalists = 2 + usize::from(paper.is_some());
        let allotment = Allotment::of(command.budget, &options, finalists, most).map_err(|least| {
            let problem = format!(
                "--budget {} is too little: {least} pictures are the least for {} options on {} axes; raise it, or search \
                 fewer --axes",
                command.budget,
                options.iter().sum::<usize>(),
                options.len()
            );
            Failure::usage(anyhow::anyhow!(problem))
        })?;
        Ok(Self { rows, work, generator, goal, networks, space, axes, allotment, in_force, paper, conditions })
    }

    /// What would be done, for programs.
    fn plan(&self) -> Value {
        let axis = |axis: &Axis| json!({ "axis": axis, "options": self.space.options(*axis, &self.in_force) });
        json!({
            "subject": self.goal.subject.measure(), "place": self.goal.place, "in_force": self.in_force,
            "axes": self.axes.iter().map(axis).collect::<Vec<_>>(), "pictures": self.allotment,
            "timesteps": self.space.timesteps,
        })
    }

    /// The same for people.
    fn describe(&self) -> String {
        let Allotment { first, search, confirm, pictures } = self.allotment;
        let [searched, confirmed] = self.rows.halves().map(|half| half.len());
        let mut text = format!(
            "at most {pictures} pictures of {} steps each, {} passes of the network\nsubject: {}; place: PSNR in dB {}\n",
            self.space.timesteps,
            pictures as u32 * self.space.timesteps,
            self.goal.subject.measure(),
            self.goal.place.words()
        );
        for axis in &self.axes {
            let options = self.space.options(*axis, &self.in_force).len();
            let (half, rest) = (options.div_ceil(2), search - first);
            text += &format!("{axis}: {options} options on {first} pictures each, {half} of them on {rest} more\n");
        }
        let paper = if self.paper.is_some() { " and those of --preset paper" } else { "" };
        text + &format!(
            "then the settings in force, those found{paper} on {confirm} pictures each\nrows: {searched} to search on, \
             {confirmed} others to confirm on"
        )
    }

    /// Searches and confirms; none where it is to stop.
    async fn measure(
        self,
        config: Config,
        follow_links: bool,
        drain: CancellationToken,
    ) -> Result<Option<Outcome>, Failure> {
        let Self { rows, goal, space, allotment, in_force, .. } = self;
        let mut measuring = Measuring {
            rows: &rows,
            halves: rows.halves(),
            work: self.work,
            config,
            follow_links,
            generator: Arc::new(Mutex::new(self.generator)),
            goal,
            evaluator: Some(Evaluator::new(self.networks)),
            drain,
            bar: progress::count(allotment.pictures as u64, "pictures"),
            made: BTreeSet::new(),
        };
        let mut search = Search::new(space, self.axes, in_force.clone(), allotment, goal.subject.slack());
        while let Some(round) = search.round() {
            let settings: Vec<Settings> = round.candidates.iter().map(Candidate::settings).collect();
            let what = round.axis.to_string();
            match measuring.measure(&what, &settings, Half::Search, round.samples).await? {
                Some(columns) => search.tell(columns),
                None => return Ok(None),
            }
        }
        let (found, steps) = search.end();
        let mut names = vec![("in force", in_force.settings())];
        names.extend((found != in_force).then(|| ("found", found.settings())));
        names.extend(self.paper.map(|paper| ("--preset paper", paper)));
        let (names, settings): (Vec<&str>, Vec<Settings>) = names.into_iter().unzip();
        let Some(columns) = measuring.measure("confirm", &settings, Half::Confirm, 0..allotment.confirm).await? else {
            return Ok(None);
        };
        measuring.bar.finish_and_clear();
        let finalists = names.into_iter().zip(columns).map(|(name, column)| Finalist { name, column }).collect();
        let (rows, pictures) = (measuring.halves.map(|half| half.len()), measuring.made.len());
        Ok(Some(Outcome { goal, allotment, rows, pictures, steps, finalists, found, in_force }))
    }
}

fn axes(names: &[String]) -> Result<Vec<Axis>, Failure> {
    let mut axes = Vec::new();
    for name in names {
        let axis: Axis = name.parse().map_err(Failure::usage)?;
        if !axes.contains(&axis) {
            axes.push(axis);
        }
    }
    Ok(axes)
}

fn candidate(force: &InForce) -> Candidate {
    Candidate {
        score: force.score,
        layers: force.layers.clone(),
        threshold: force.threshold,
        edit_steps: force.edit_steps.clone(),
    }
}

fn with(task: &Task, settings: &Settings) -> Task {
    Task { settings: settings.overlaid(&task.settings), ..task.clone() }
}

/// What a calibration is of and what it is measured with: for the file, and to know the same calibration again.
fn conditions(
    rows: &Rows,
    generator: &LibtorchGenerator,
    networks: &Networks,
    force: &InForce,
) -> Result<Map<String, Value>, Failure> {
    let mut others = force.all.clone();
    for searched in ["score", "layers", "threshold", "edits"] {
        others.as_object_mut().and_then(|settings| settings.remove(searched));
    }
    let hex = |digest: &[u8; 32]| digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let networks: BTreeMap<&str, String> =
        networks.loaded.iter().map(|(kind, digest)| (kind.folder(), hex(digest))).collect();
    let tasks = serde_json::to_vec(&rows.tasks).map_err(Failure::permanent)?;
    let info = generator.info();
    let conditions = json!({
        "by": info.engine, "library": info.library, "model": info.model, "model_sha256": info.model_sha256,
        "device": info.device, "dtype": info.dtype, "batch_size": info.batch_size, "other_settings": others,
        "rows": rows.tasks.len(), "rows_sha256": Sha256Hex::of(&tasks), "references": rows.digests()?,
        "networks": networks,
    });
    Ok(conditions.as_object().cloned().unwrap_or_default())
}

/// Refuses a file that could not be written, before hours of work.
fn check_writable(file: &Path) -> Result<(), Failure> {
    let draft = file.with_extension("json.part");
    fs::write(&draft, "").and_then(|()| fs::remove_file(&draft)).map_err(|error| {
        let problem = format!("{} cannot be written: {error}; name another file with --out", file.display());
        Failure::permanent(anyhow::anyhow!(problem))
    })
}
