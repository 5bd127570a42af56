//! `diorama generate`: one picture with everything that explains it.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use diorama_core::generator::{Generated, Job};
use diorama_core::id::{CustomId, TaskIndex};
use diorama_core::manifest::Extra;
use diorama_core::outcome::TaskError;
use diorama_core::settings::Method;
use diorama_core::task::{Reference, Task};
use diorama_core::text::shown;
use diorama_picture::{PictureLimits, encode_gray, encode_rgb, read_reference, whole};
use diorama_runtime::config::Config;
use diorama_runtime::options::EngineOptions;
use diorama_worker::SafeNames;
use tokio_util::sync::CancellationToken;

use crate::cli::{Cli, Generate};
use crate::exit::{self, Failure};
use crate::progress::Steps;
use crate::{maker, output, overwrite};

pub(crate) async fn run(command: &Generate, cli: &Cli, drain: CancellationToken) -> Result<u8, Failure> {
    let config = cli.configuration().map_err(Failure::usage)?;
    let task = task(command, &config)?;
    overwrite::refuse_within(&command.out, config.engine.model.as_deref(), "the model")?;
    overwrite::check_picture_folder(&command.out, command.reference.as_deref())?;
    fs::create_dir_all(&command.out)
        .with_context(|| format!("creating the output folder {}", command.out.display()))
        .map_err(Failure::try_again)?;
    let tensors = command.save_tensors.then(|| command.out.join("tensors.safetensors"));
    let mut options = config.engine.clone();
    // One picture needs no room for others, unless it should equal one that was made in a batch.
    options.batch_size = options.batch_size.or(Some(1));
    let stop = drain.clone();
    let made = tokio::task::spawn_blocking(move || {
        let steps = Steps::start();
        picture(task, &options, tensors.as_deref(), &|| {
            steps.step();
            stop.is_cancelled()
        })
    });
    let made = made.await.map_err(Failure::permanent)?;
    if made.is_err() && drain.is_cancelled() {
        // Nothing was written yet, so there is nothing to finish.
        return Ok(exit::DRAINED);
    }
    let made = made?;
    let files = write(&command.out, &made).map_err(Failure::try_again)?;
    tell(command, cli, &made, &files);
    Ok(exit::DONE)
}

fn task(command: &Generate, config: &Config) -> Result<Task, Failure> {
    let usage = |message: String| Failure::usage(anyhow::anyhow!(message));
    if command.prompt.trim().is_empty() {
        return Err(usage("--prompt is empty; say what should appear".to_owned()));
    }
    let limit = diorama_manifest::MAX_PROMPT_BYTES;
    if command.prompt.len() > limit {
        return Err(usage(format!("--prompt has {} bytes; at most {limit} are allowed", command.prompt.len())));
    }
    let without_reference = config.settings.method == Some(Method::Txt2img);
    if command.reference.is_none() && !without_reference {
        return Err(usage("--reference is missing; only --method txt2img needs none".to_owned()));
    }
    let subjects = command.subjects.as_ref().map(|words| words.iter().map(|word| word.trim().to_owned()).collect());
    Ok(Task {
        index: TaskIndex(0),
        custom_id: CustomId::new("image").map_err(Failure::permanent)?,
        reference: command.reference.as_ref().map(|path| Reference::File(path.display().to_string())),
        region: None,
        prompt: command.prompt.clone(),
        subjects,
        seed: config.run.seed,
        settings: config.settings.clone(),
        extra: Extra::new(),
    })
}

/// Loads, checks and makes; `stop` is asked before each step.
fn picture(
    task: Task,
    options: &EngineOptions,
    tensors: Option<&Path>,
    stop: &(dyn Fn() -> bool + Sync),
) -> Result<Generated, Failure> {
    let mut maker = maker::make(options).map_err(Failure::permanent)?;
    maker.as_generator().check(&task).map_err(refused)?;
    let reference = match &task.reference {
        Some(Reference::File(path)) => {
            Some(read_reference(Path::new(path), &PictureLimits::default()).map_err(refused)?)
        }
        _ => None,
    };
    maker.one(Job { task, reference: reference.map(Arc::new) }, tensors, stop).map_err(refused)
}

fn refused(error: TaskError) -> Failure {
    let code = if error.retryable { exit::TRY_AGAIN } else { exit::PERMANENT };
    let json = serde_json::json!({
        "status": "failed", "exit_code": code, "code": error.code, "message": error.message,
        "retryable": error.retryable,
    });
    Failure::new(code, error).with_json(json)
}

/// Writes what was made into `out` and gives the files' names. Each is written aside and renamed, the record first: it
/// shows whose folder this is.
fn write(out: &Path, made: &Generated) -> anyhow::Result<Vec<String>> {
    let mut files = Vec::new();
    let mut put = |name: String, bytes: Vec<u8>| -> anyhow::Result<()> {
        let path = out.join(&name);
        whole::put(&path, &bytes).with_context(|| format!("writing {}", path.display()))?;
        files.push(name);
        Ok(())
    };
    put("record.json".to_owned(), [serde_json::to_vec_pretty(&made.record)?, b"\n".to_vec()].concat())?;
    put("image.png".to_owned(), encode_rgb(&made.image)?)?;
    if let Some(mask) = &made.mask {
        put("mask.png".to_owned(), encode_gray(mask)?)?;
    }
    if let Some(overlay) = &made.overlay {
        put("overlay.png".to_owned(), encode_rgb(overlay)?)?;
    }
    let mut names = SafeNames::default();
    for heatmap in &made.heatmaps {
        let (_, name) = names.next_name(&heatmap.subject);
        put(format!("heatmap-{name}.png"), encode_rgb(&heatmap.picture)?)?;
    }
    Ok(files)
}

fn tell(command: &Generate, cli: &Cli, made: &Generated, files: &[String]) {
    if cli.json() {
        let json = serde_json::json!({
            "status": "done", "out": command.out, "files": files, "seed": made.record.seed,
            "mask_coverage": made.record.mask_coverage, "warnings": made.record.warnings,
        });
        output::line(&json.to_string());
        return;
    }
    output::line(&command.out.join("image.png").display().to_string());
    if !made.record.subjects.is_empty() {
        let subjects: Vec<_> = made.record.subjects.iter().map(|subject| shown(&subject.text)).collect();
        output::line(&format!("subjects: {}", subjects.join(", ")));
    }
    if let Some(coverage) = made.record.mask_coverage {
        output::line(&format!("mask: {:.1} % of the picture", coverage * 100.0));
    }
    for warning in &made.record.warnings {
        output::line(&format!("warning: {warning}"));
    }
}
