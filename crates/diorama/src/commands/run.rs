//! `diorama run`: validates the manifest, runs it in this process, writes the gallery.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use diorama_coordinator::{RunEnd, RunProgress, Tasks};
use diorama_core::generator::Generator;
use diorama_core::id::{Pool, RunId, Sha256Hex};
use diorama_core::measure::{self, Asked, check_task, needed_networks};
use diorama_core::outcome::TaskError;
use diorama_core::retry::RetryPolicy;
use diorama_core::run::{Labels, ModelIdentity, RunSpec, RunSummary};
use diorama_core::task::Task;
use diorama_core::text::counted;
use diorama_manifest::{Format, LISTED_SKIPPED, Manifest, ManifestError, ManifestReport, References, Rules};
use diorama_picture::PictureLimits;
use diorama_runtime::config::Config;
use diorama_runtime::options::{OnInvalid, RunOptions};
use diorama_worker::device::{Engine, MakeEngine};
use diorama_worker::variants;
use jiff::Timestamp;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::blocking;
use crate::cli::{Cli, Run};
use crate::embedded::page::RunPage;
use crate::embedded::{EmbeddedError, Existing, Plan, RunFolder};
use crate::exit::{self, Failure};
use crate::fleet::references;
use crate::{gallery, issues, maker, output, overwrite, progress, table};

pub(crate) async fn run(command: &Run, cli: &Cli, drain: CancellationToken) -> Result<u8, Failure> {
    let config = cli.configuration().map_err(Failure::usage)?;
    overwrite::refuse_within(&command.out, config.engine.model.as_deref(), "the model")?;
    overwrite::check_run_folder(&command.out, &[config.run.format])?;
    let asked = asked(&config.run)?;
    let manifest = manifest(command, &config)?;
    let folder = RunFolder::open(&command.out).map_err(embedded)?;
    let existing = folder.existing().await.map_err(embedded)?;
    let had_ended = existing.as_ref().is_some_and(|existing| existing.history.ended().is_some());
    let plan = match existing {
        Some(existing) if existing.history.is_submitted() => {
            let (options, networks) = (config.engine.clone(), networks(&config, &asked));
            let engine: MakeEngine = Box::new(move || Ok(maker::engine(&options, &networks)?));
            resume(&command.manifest, &config, &manifest, existing, asked, engine)?
        }
        _ => {
            let (command, config) = (command.manifest.clone(), config.clone());
            let work = tokio::task::spawn_blocking(move || submit(&command, &config, &manifest, asked));
            tokio::select! {
                plan = work => plan.map_err(Failure::permanent)??,
                // Nothing was submitted yet, so there is nothing to finish.
                () = drain.cancelled() => return Ok(exit::DRAINED),
            }
        }
    };
    let services = folder.services();
    let page = match command.serve {
        Some(listen) => Some(RunPage::open(listen, &folder, &services).await?),
        None => None,
    };
    let (updates, shown) = watch::channel(RunProgress::start(plan.spec.tasks));
    let display = tokio::spawn(progress::show(shown));
    let end = folder.run(services, plan, drain.clone(), updates).await;
    display.await.map_err(Failure::permanent)?;
    let end = end.map_err(embedded)?;
    if had_ended {
        tracing::info!("this run has already ended; nothing was made again");
    }
    let code = finish(cli, folder.path(), end).await?;
    if let Some(page) = page.filter(|_| !drain.is_cancelled()) {
        page.tell_that_it_stays();
        drain.cancelled().await;
    }
    Ok(code)
}

/// What is to be measured and accepted: what cannot be is refused before anything is read.
pub(crate) fn asked(options: &RunOptions) -> Result<Asked, Failure> {
    Asked::read(&options.measures, options.accept.as_deref(), options.accept_tries)
        .map_err(|problem| Failure::permanent(anyhow::anyhow!(problem)))
}

fn manifest(command: &Run, config: &Config) -> Result<Manifest, Failure> {
    let rules = Rules {
        settings: config.settings.clone(),
        seed: config.run.seed,
        compare: config.run.compare.clone(),
        references: References::FilesAndUrls,
        plain_http: config.references.allow_private_references,
        follow_links: command.reading.follow_links,
        extra_columns: config.run.extra_columns,
        columns: command.reading.columns()?,
    };
    open(&command.manifest, command.manifest_format, rules)
}

/// Opens a manifest; one without a format is a wrong command line.
pub(crate) fn open(path: &Path, format: Option<Format>, rules: Rules) -> Result<Manifest, Failure> {
    Manifest::open(path, format, rules).map_err(|error| match error {
        ManifestError::UnknownFormat(_) => Failure::usage(error),
        error => Failure::permanent(error),
    })
}

/// A plan for a folder whose run is already submitted: its tasks are in its input shards, and the model is loaded only
/// where something is left to do.
pub(crate) fn resume(
    path: &Path,
    config: &Config,
    manifest: &Manifest,
    existing: Existing,
    asked: Asked,
    engine: MakeEngine,
) -> Result<Plan, Failure> {
    let sha256 = manifest.digest().map_err(Failure::try_again)?;
    let counts = (existing.spec.tasks, existing.spec.invalid_rows);
    // Which model this is shows when it is loaded, if it is needed; until then the spec's stands.
    let model = existing.spec.model;
    Ok(Plan {
        spec: spec(path, config, manifest, sha256, counts, (model, asked))?,
        tasks: Box::new(std::iter::empty()),
        invalid: Vec::new(),
        engine,
        limits: PictureLimits::default(),
        remote: Some(references::of_this_machine(config)),
    })
}

/// A plan for a new run: the model is loaded first, because what it refuses is an issue of the manifest too.
fn submit(path: &Path, config: &Config, manifest: &Manifest, asked: Asked) -> Result<Plan, Failure> {
    let maker = maker::make(&config.engine).map_err(Failure::permanent)?;
    let measurer = maker::measurer(&config.engine, &networks(config, &asked)).map_err(Failure::permanent)?;
    check_networks(&asked, measurer.measures())?;
    planned(path, config, manifest, asked, Engine { generator: maker.into_generator(), measurer: Some(measurer) })
}

/// A plan for a new run on a model that is loaded.
pub(crate) fn planned(
    path: &Path,
    config: &Config,
    manifest: &Manifest,
    asked: Asked,
    engine: Engine,
) -> Result<Plan, Failure> {
    let skip = config.run.on_invalid == OnInvalid::Skip;
    let check = |task: &Task| {
        check_task(&asked.measures, task)?;
        check_all(engine.generator.as_ref(), &config.run, task)
    };
    let report =
        manifest.validate(&check, if skip { LISTED_SKIPPED } else { issues::SHOWN }).map_err(Failure::permanent)?;
    if report.issue_count > 0 && !(skip && report.tasks > 0) {
        return Err(invalid(path, &report, skip));
    }
    let skipped = report.skipped();
    for issue in &skipped {
        tracing::warn!("skipped: {issue}");
    }
    let counts = (report.tasks, report.invalid_rows);
    let networks = engine.measurer.as_ref().map(|measurer| needed_networks(&asked.measures, &measurer.networks()));
    let networks = networks.unwrap_or_default();
    let model = Some(ModelIdentity { networks, ..ModelIdentity::from(engine.generator.info()) });
    let spec = spec(path, config, manifest, report.sha256.clone(), counts, (model, asked))?;
    let tasks = manifest.tasks(&report).map_err(Failure::try_again)?;
    let tasks: Tasks = Box::new(tasks.map(|task| task.map_err(Into::into)));
    Ok(Plan {
        spec,
        tasks,
        invalid: skipped,
        engine: Box::new(move || Ok(engine)),
        limits: PictureLimits::default(),
        remote: Some(references::of_this_machine(config)),
    })
}

/// The folders of networks, where any is needed.
fn networks(config: &Config, asked: &Asked) -> Vec<PathBuf> {
    if asked.measures.is_empty() { Vec::new() } else { config.worker.networks.clone() }
}

/// Refuses measures whose network is not there.
fn check_networks(asked: &Asked, there: &[&str]) -> Result<(), Failure> {
    let missing: Vec<&str> = asked.measures.iter().map(String::as_str).filter(|name| !there.contains(name)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let why = measure::missing(&missing);
    #[cfg(feature = "engine")]
    let origins = crate::measurer::origins(&missing);
    #[cfg(not(feature = "engine"))]
    let origins = "";
    let message = format!("{why}; name the folder that holds it with --networks, or leave the measure out{origins}");
    Err(Failure::permanent(anyhow::anyhow!(message)))
}

/// Asks the model about the task, and about the same task with each method that it is compared with.
fn check_all(generator: &dyn Generator, options: &RunOptions, task: &Task) -> Result<(), TaskError> {
    for variant in variants(task, &options.compare) {
        generator.check(&variant)?;
    }
    Ok(())
}

fn spec(
    path: &Path,
    config: &Config,
    manifest: &Manifest,
    manifest_sha256: Sha256Hex,
    (tasks, invalid_rows): (u64, u64),
    (model, asked): (Option<ModelIdentity>, Asked),
) -> Result<RunSpec, Failure> {
    let options = &config.run;
    Ok(RunSpec {
        version: 1,
        owner: None,
        request_sha256: None,
        run: RunId::generate(),
        name: None,
        labels: Labels::new(),
        pool: Pool::new("embedded").map_err(Failure::permanent)?,
        priority: 0,
        weight: 1,
        submitted_at: Timestamp::now(),
        manifest: path.display().to_string(),
        manifest_sha256,
        reference_root: manifest.root().display().to_string(),
        settings: config.settings.clone(),
        seed: options.seed,
        compare: options.compare.clone(),
        measures: asked.measures,
        accept: asked.accept,
        format: options.format,
        keep_references: options.keep_references,
        shard_size: options.shard_size,
        tasks,
        invalid_rows,
        retry: RetryPolicy {
            max_rounds: options.max_rounds,
            delay_seconds: options.retry_delay,
            ..RetryPolicy::default()
        },
        // Whoever runs it here watches it.
        stop_if: None,
        model,
    })
}

/// The failure that lists what is wrong with a manifest, a line each.
pub(crate) fn invalid(path: &Path, report: &ManifestReport, skip: bool) -> Failure {
    let hint = match (skip, report.tasks) {
        (_, 0) => "no row is valid".to_owned(),
        (_, good) => format!("{good} rows are valid; --on-invalid skip runs those"),
    };
    let message = format!(
        "the manifest {} has {}, so nothing was started ({hint}):{}",
        path.display(),
        counted(report.issue_count, "problem"),
        issues::list(&report.issues, report.issue_count)
    );
    let json = serde_json::json!({
        "status": "invalid_manifest", "exit_code": exit::PERMANENT, "issue_count": report.issue_count,
        "valid_rows": report.tasks, "invalid_rows": report.invalid_rows, "issues": report.issues,
    });
    Failure::permanent(anyhow::anyhow!(message)).with_json(json)
}

async fn finish(cli: &Cli, out: &Path, end: RunEnd) -> Result<u8, Failure> {
    let summary = match end {
        RunEnd::Finished(summary) | RunEnd::Cancelled(summary) => summary,
        RunEnd::Drained => {
            output::error_line("diorama: stopped; run the same command to resume");
            return Ok(exit::DRAINED);
        }
        // Nothing here deletes it; somebody may have put such an entry into the folder.
        RunEnd::Deleted => {
            let message = format!("the run in {} was deleted; choose another folder", out.display());
            return Err(Failure::permanent(anyhow::anyhow!(message)));
        }
    };
    let folder = out.to_owned();
    blocking(move || table::write(&folder))
        .await?
        .context("the pictures were made, but results.parquet was not written")
        .map_err(Failure::try_again)?;
    let page = gallery::write(out)
        .await
        .context("the pictures were made, but the gallery was not written")
        .map_err(Failure::try_again)?;
    if cli.json() {
        let mut json = serde_json::to_value(&summary).map_err(Failure::permanent)?;
        json["gallery"] = serde_json::json!(page);
        output::line(&json.to_string());
    } else {
        output::line(&tell(&summary));
        output::line(&format!("gallery: {}", page.display()));
    }
    let clean = summary.failed == 0 && summary.invalid_rows == 0 && summary.done == summary.tasks;
    Ok(if clean { exit::DONE } else { exit::FAILED_TASKS })
}

fn tell(summary: &RunSummary) -> String {
    let mut text = format!(
        "{} of {} pictures in {} ({:.2} pictures/s)",
        summary.done,
        summary.tasks,
        progress::duration(Duration::from_secs_f64(summary.wall_seconds.max(0.0))),
        summary.pictures_per_second,
    );
    if let Some(counts) = &summary.acceptance {
        text.push_str(&format!("\n{}", super::runs::acceptance(counts)));
    }
    for (code, count) in &summary.failures {
        text.push_str(&format!("\n{count} failed: {code} (errors.jsonl)"));
    }
    if summary.invalid_rows > 0 {
        text.push_str(&format!("\n{} rows were skipped (errors.jsonl)", summary.invalid_rows));
    }
    text
}

fn embedded(error: EmbeddedError) -> Failure {
    Failure::judged(error, EmbeddedError::is_retryable)
}
