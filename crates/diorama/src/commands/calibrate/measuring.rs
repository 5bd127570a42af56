//! Settings to figures: a run of each in a folder of its own, as `diorama run` makes it, and one evaluation of all of them
//! together, as `diorama eval` does it. Both go on where they were stopped, so a calibration does.

use std::collections::BTreeSet;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use diorama_coordinator::{RunEnd, RunProgress};
use diorama_core::generator::{BatchKey, Generated, Generator, GeneratorError, Job};
use diorama_core::id::Sha256Hex;
use diorama_core::measure::Asked;
use diorama_core::outcome::TaskError;
use diorama_core::record::GeneratorInfo;
use diorama_core::settings::Settings;
use diorama_core::task::Task;
use diorama_engine::LibtorchGenerator;
use diorama_evaluation::evaluator::Evaluator;
use diorama_evaluation::report::rows as evaluated;
use diorama_evaluation::run::{ROWS, Request, evaluate};
use diorama_evaluation::source::Opening;
use diorama_evaluation::{Error, networks::Networks};
use diorama_runtime::config::Config;
use diorama_worker::device::Engine;
use indicatif::ProgressBar;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::goal::Goal;
use super::rows::{self, Half, Rows};
use super::search::Column;
use crate::commands::{blocking, run};
use crate::embedded::{EmbeddedError, RunFolder};
use crate::exit::Failure;

/// Measures settings on the pictures of either half.
pub(super) struct Measuring<'a> {
    pub(super) rows: &'a Rows,
    pub(super) halves: [Vec<&'a Task>; 2],
    pub(super) work: PathBuf,
    pub(super) config: Config,
    pub(super) follow_links: bool,
    pub(super) generator: Arc<Mutex<LibtorchGenerator>>,
    pub(super) goal: Goal,
    /// None while it measures.
    pub(super) evaluator: Option<Evaluator>,
    pub(super) drain: CancellationToken,
    pub(super) bar: ProgressBar,
    /// The pictures that were made, by settings and name.
    pub(super) made: BTreeSet<(String, Half, usize)>,
}

impl Measuring<'_> {
    /// The figures of each of `settings` on some pictures of a half; none where the calibration is to stop.
    pub(super) async fn measure(
        &mut self,
        what: &str,
        settings: &[Settings],
        half: Half,
        samples: Range<usize>,
    ) -> Result<Option<Vec<Column>>, Failure> {
        if samples.is_empty() {
            return Ok(Some(vec![Column::new(); settings.len()]));
        }
        tracing::info!("{what}: {} settings on {} pictures each", settings.len(), samples.len());
        let mut sources = Vec::new();
        for settings in settings {
            let key = key(settings);
            let Some(folder) = self.make(settings, &key, half, samples.clone()).await? else { return Ok(None) };
            self.made.extend(samples.clone().map(|at| (key.clone(), half, at)));
            self.bar.set_position(self.made.len() as u64);
            sources.push((folder, key));
        }
        let out = self.work.join("measured").join(format!("{what}-{}-{}", samples.start, samples.end));
        // Settings that no picture could be made with have no folder to evaluate.
        let has_pictures = |folder: &Path| fs::metadata(folder.join("results.jsonl")).is_ok_and(|is| is.len() > 0);
        let there: Vec<(PathBuf, String)> =
            sources.iter().filter(|(folder, _)| has_pictures(folder)).cloned().collect();
        if there.is_empty() {
            return Err(self.nothing("no picture could be made; errors.jsonl of each run says why", "pictures"));
        }
        if !self.evaluate(there, out.clone()).await? {
            return Ok(None);
        }
        let mut columns = vec![vec![None; samples.len()]; sources.len()];
        let failed = |error: Error| Failure::judged(error, Error::is_retryable);
        for row in evaluated(&out.join(ROWS)).map_err(failed)? {
            let row = row.map_err(failed)?;
            let of = sources.iter().position(|(_, key)| *key == row.series);
            let at = samples.clone().position(|at| rows::name(at) == row.custom_id);
            if let (Some(of), Some(at)) = (of, at) {
                columns[of][at] = self.goal.figures(&row);
            }
        }
        if columns.iter().flatten().all(Option::is_none) {
            return Err(self.nothing("nothing could be measured; evaluation.jsonl says why", "measured"));
        }
        Ok(Some(columns))
    }

    /// Why there is nothing to compare, and where that is told.
    fn nothing(&self, problem: &str, folder: &str) -> Failure {
        Failure::permanent(anyhow::anyhow!("{problem} (below {})", self.work.join(folder).display()))
    }

    /// The folder of a run with these settings that has ended; none where it was stopped.
    async fn make(
        &self,
        settings: &Settings,
        key: &str,
        half: Half,
        samples: Range<usize>,
    ) -> Result<Option<PathBuf>, Failure> {
        let part = format!("{}-{}-{}", half.name(), samples.start, samples.end);
        let path = self.work.join(format!("{part}.jsonl"));
        fs::write(&path, rows::manifest(&self.halves[half as usize], samples.clone()))
            .map_err(|error| rows::unwritable(&path, error))?;
        let config = Config { settings: settings.clone(), ..self.config.clone() };
        let manifest = rows::opened(&path, &self.rows.root, &config, self.follow_links)?;
        let embedded = |error| Failure::judged(error, EmbeddedError::is_retryable);
        let folder = RunFolder::open(&self.work.join("pictures").join(key).join(part)).map_err(embedded)?;
        let engine = Engine { generator: Box::new(Lent::of(self.generator.clone())), measurer: None };
        let nothing = Asked::default();
        let plan = match folder.existing().await.map_err(embedded)? {
            Some(existing) if existing.history.is_submitted() => {
                run::resume(&path, &config, &manifest, existing, nothing, Box::new(move || Ok(engine)))?
            }
            _ => blocking(move || run::planned(&path, &config, &manifest, nothing, engine)).await??,
        };
        let (updates, mut shown) = watch::channel(RunProgress::start(plan.spec.tasks));
        let (bar, before) = (self.bar.clone(), self.made.len() as u64);
        let display = tokio::spawn(async move {
            while shown.changed().await.is_ok() {
                bar.set_position(before + shown.borrow_and_update().done);
            }
        });
        let end = folder.run(folder.services(), plan, self.drain.clone(), updates).await.map_err(embedded)?;
        display.await.map_err(Failure::permanent)?;
        match end {
            RunEnd::Finished(_) => Ok(Some(folder.path().to_owned())),
            RunEnd::Drained => Ok(None),
            RunEnd::Cancelled(_) | RunEnd::Deleted => Err(Failure::permanent(anyhow::anyhow!(
                "the run in {} was ended by somebody else; remove that folder",
                folder.path().display()
            ))),
        }
    }

    /// Whether it came to its end.
    async fn evaluate(&mut self, sources: Vec<(PathBuf, String)>, out: PathBuf) -> Result<bool, Failure> {
        let request = Request { sources, opening: Opening::default(), region: None, clean: false, out };
        let mut evaluator = self.evaluator.take().unwrap_or_else(|| Evaluator::new(Networks::none()));
        let drain = self.drain.clone();
        let (evaluator, done) = blocking(move || {
            let done = evaluate(&request, &mut evaluator, &|| drain.is_cancelled(), &mut |_, _| {});
            (evaluator, done)
        })
        .await?;
        self.evaluator = Some(evaluator);
        match done {
            Ok(_) => Ok(true),
            Err(Error::Stopped) => Ok(false),
            Err(error) => Err(Failure::judged(error, Error::is_retryable)),
        }
    }
}

/// A name for settings, the same each time.
pub(super) fn key(settings: &Settings) -> String {
    let json = serde_json::to_vec(settings).unwrap_or_default();
    Sha256Hex::of(&json).to_string().chars().take(12).collect()
}

/// The one loaded model, as the generator of one run after the other.
struct Lent {
    info: GeneratorInfo,
    generator: Arc<Mutex<LibtorchGenerator>>,
}

impl Lent {
    fn of(generator: Arc<Mutex<LibtorchGenerator>>) -> Self {
        let info = locked(&generator).info().clone();
        Self { info, generator }
    }
}

fn locked(generator: &Mutex<LibtorchGenerator>) -> MutexGuard<'_, LibtorchGenerator> {
    generator.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Generator for Lent {
    fn info(&self) -> &GeneratorInfo {
        &self.info
    }

    fn check(&self, task: &Task) -> Result<BatchKey, TaskError> {
        locked(&self.generator).check(task)
    }

    fn generate(
        &mut self,
        batch: &[Job],
        stop: &(dyn Fn() -> bool + Sync),
    ) -> Result<Vec<Result<Generated, TaskError>>, GeneratorError> {
        let mut generator = locked(&self.generator);
        let made = generator.generate(batch, stop);
        // Its batches are smaller once the device was out of memory.
        self.info.clone_from(generator.info());
        made
    }
}
