//! `diorama replay RUN CUSTOM_ID`: makes one committed picture again from its record and compares the bytes.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use diorama_core::generator::{Generated, Job, ReferencePicture};
use diorama_core::id::{CustomId, Sha256Hex};
use diorama_core::record::{GeneratorInfo, OWN_KERNELS, Record};
use diorama_core::settings::Fit;
use diorama_core::task::Reference;
use diorama_picture::{PictureLimits, encode_rgb, read_reference, reference_from_bytes};
use diorama_runtime::config::Config;
use diorama_runtime::options::{EngineKind, EngineOptions, Kernels};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use self::committed::Committed;
use crate::cli::{Cli, Replay};
use crate::exit::{self, Failure};
use crate::{maker, output, overwrite};

mod committed;

/// What a replay came to.
#[derive(Debug, Serialize)]
struct Comparison {
    custom_id: CustomId,
    /// Whether the new picture has the very bytes of the committed one.
    same: bool,
    committed_sha256: Sha256Hex,
    sha256: Sha256Hex,
    /// The largest and the mean difference of a pixel's colour, 0 to 255; `None` where the sizes differ.
    max_difference: Option<u8>,
    mean_difference: Option<f64>,
    /// What was different when the committed picture was made.
    environment: Vec<Difference>,
}

/// One thing that was different.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Difference {
    what: &'static str,
    then: String,
    now: String,
}

pub(crate) async fn run(command: &Replay, cli: &Cli, drain: CancellationToken) -> Result<u8, Failure> {
    let config = cli.configuration().map_err(Failure::usage)?;
    let id = CustomId::new(&*command.custom_id).map_err(Failure::usage)?;
    let committed = match (&command.run, &command.out) {
        (Some(run), None) => Committed::of_fleet(&config, run, &id).await?,
        (None, Some(out)) => Committed::of_folder(out, &id).await?,
        _ => {
            let message = "say which run: `diorama replay RUN CUSTOM_ID`, or `diorama replay --out DIR CUSTOM_ID`";
            return Err(Failure::usage(anyhow::anyhow!(message)));
        }
    };
    if let Some(to) = &command.to {
        overwrite::refuse_same(to, file(command, &committed).as_deref(), "the reference")?;
        overwrite::refuse_within(to, command.out.as_deref(), "the run")?;
        overwrite::refuse_within(to, config.engine.model.as_deref(), "the model")?;
        overwrite::refuse_taken(to, "--to")?;
    }
    let reference = reference(command, &committed).await?;
    let (options, stop, record) = (options(&config, &committed.record), drain.clone(), committed.record.clone());
    let made = tokio::task::spawn_blocking(move || make(&options, record, reference, &|| stop.is_cancelled()));
    let made = made.await.map_err(Failure::permanent)?;
    if made.is_err() && drain.is_cancelled() {
        return Ok(exit::DRAINED);
    }
    let made = made?;
    let bytes = encode_rgb(&made.image).map_err(Failure::permanent)?;
    if let Some(to) = &command.to {
        let failed = |error| Failure::try_again(anyhow::anyhow!("writing {}: {error}", to.display()));
        let mut file = std::fs::File::create_new(to).map_err(failed)?;
        std::io::Write::write_all(&mut file, &bytes).map_err(failed)?;
    }
    let comparison = compare(id, &committed, &made, &bytes)?;
    if cli.json() {
        output::line(&serde_json::to_string(&comparison).map_err(Failure::permanent)?);
    } else {
        tell(&comparison);
    }
    Ok(if comparison.same { exit::DONE } else { exit::FAILED_TASKS })
}

/// As the record's, where nothing else was said: batches of the same size, numbers of the same type, the same kernels.
fn options(config: &Config, record: &Record) -> EngineOptions {
    let mut options = config.engine.clone();
    if !config.source("batch_size").is_given() {
        options.batch_size = Some(record.generator.batch_size);
    }
    if !config.source("dtype").is_given() && options.engine == EngineKind::Libtorch {
        options.dtype = serde_json::from_value(serde_json::json!(record.generator.dtype)).unwrap_or(options.dtype);
    }
    if !config.source("kernels").is_given() {
        options.kernels = kernels(&record.generator.library);
    }
    options
}

/// The kernels that a record's library ran on; our own still have to agree with libtorch's here.
fn kernels(library: &str) -> Kernels {
    if library.ends_with(OWN_KERNELS) { Kernels::Auto } else { Kernels::Libtorch }
}

/// The file that the reference is read from, where it is one.
fn file(command: &Replay, committed: &Committed) -> Option<PathBuf> {
    match (&command.reference, &committed.record.task.reference) {
        (Some(path), _) => Some(path.clone()),
        (None, Some(Reference::File(path))) => Some(Path::new(&committed.reference_root).join(path)),
        (None, _) => None,
    }
}

/// The reference that the record names, and no other.
async fn reference(command: &Replay, committed: &Committed) -> Result<Option<ReferencePicture>, Failure> {
    let Some(recorded) = &committed.record.reference else { return Ok(None) };
    let limits = PictureLimits::default();
    let found = match (file(command, committed), &committed.record.task.reference) {
        (Some(path), _) => read_reference(&path, &limits).map_err(Failure::permanent)?,
        (None, Some(Reference::Blob(sha256))) => {
            let bytes = committed.blob(sha256).await?;
            reference_from_bytes(&bytes, &recorded.source, &limits).map_err(Failure::permanent)?
        }
        (None, Some(Reference::S3(url) | Reference::Https(url))) => {
            let message = format!("the reference {url} is remote: download it and give it with --reference FILE");
            return Err(Failure::permanent(anyhow::anyhow!(message)));
        }
        (None, Some(Reference::File(_)) | None) => return Ok(None),
    };
    if found.sha256 != recorded.sha256 {
        let message = format!(
            "the reference {} has the digest {}, but the picture was made from {}: give that one with --reference FILE",
            recorded.source, found.sha256, recorded.sha256
        );
        return Err(Failure::permanent(anyhow::anyhow!(message)));
    }
    Ok(Some(found))
}

fn make(
    options: &EngineOptions,
    record: Record,
    reference: Option<ReferencePicture>,
    stop: &(dyn Fn() -> bool + Sync),
) -> Result<Generated, Failure> {
    let then = &record.generator;
    if then.model == "synthetic" && options.engine != EngineKind::Synthetic {
        let message = "the picture is a synthetic one: give --engine synthetic";
        return Err(Failure::permanent(anyhow::anyhow!(message)));
    }
    let mut maker = maker::make(options).map_err(Failure::permanent)?;
    let now = maker.as_generator().info();
    if now.model_sha256 != then.model_sha256 {
        let message = format!(
            "the picture was made with the model {} ({}), but this is {} ({}): name the former with --model",
            then.model, then.model_sha256, now.model, now.model_sha256
        );
        return Err(Failure::permanent(anyhow::anyhow!(message)));
    }
    let mut task = record.task;
    if record.reference.is_some_and(|reference| reference.used.is_none()) {
        // Of a version that squashed every reference.
        task.settings.fit = Some(Fit::Stretch);
    }
    maker.as_generator().check(&task).map_err(Failure::permanent)?;
    maker.one(Job { task, reference: reference.map(Arc::new) }, None, stop).map_err(Failure::permanent)
}

fn compare(id: CustomId, committed: &Committed, made: &Generated, bytes: &[u8]) -> Result<Comparison, Failure> {
    let (old, new) = (Sha256Hex::of(&committed.image), Sha256Hex::of(bytes));
    let picture = image::load_from_memory(&committed.image).map_err(Failure::permanent)?.to_rgb8();
    let same_size = (picture.width(), picture.height()) == (made.image.width, made.image.height);
    let (max, mean) = difference(picture.as_raw(), &made.image.data);
    Ok(Comparison {
        custom_id: id,
        same: old == new,
        committed_sha256: old,
        sha256: new,
        max_difference: same_size.then_some(max),
        mean_difference: same_size.then_some(mean),
        environment: environment(&committed.record, &made.record),
    })
}

/// The largest and the mean difference of two pictures of the same size.
fn difference(old: &[u8], new: &[u8]) -> (u8, f64) {
    let differences = || old.iter().zip(new).map(|(old, new)| old.abs_diff(*new));
    let sum: u64 = differences().map(u64::from).sum();
    (differences().max().unwrap_or(0), sum as f64 / old.len().max(1) as f64)
}

/// What was different when the committed picture was made.
fn environment(then: &Record, now: &Record) -> Vec<Difference> {
    let of = |info: &GeneratorInfo| {
        [
            ("version", info.engine.clone()),
            ("library", info.library.clone()),
            ("device", info.device.clone()),
            ("dtype", info.dtype.clone()),
            ("batch size", info.batch_size.to_string()),
        ]
    };
    let mut then_and_now: Vec<_> = of(&then.generator).into_iter().zip(of(&now.generator)).collect();
    then_and_now.push((("settings", then.settings.to_string()), ("settings", now.settings.to_string())));
    then_and_now
        .into_iter()
        .filter(|((_, then), (_, now))| then != now)
        .map(|((what, then), (_, now))| Difference { what, then, now })
        .collect()
}

fn tell(comparison: &Comparison) {
    let Comparison { custom_id, sha256, committed_sha256, .. } = comparison;
    if comparison.same {
        output::line(&format!("{custom_id}: same bytes ({sha256})"));
    } else {
        output::line(&format!("{custom_id}: DIFFERS: committed {committed_sha256}, remade {sha256}"));
        output::line(&match (comparison.max_difference, comparison.mean_difference) {
            (Some(max), Some(mean)) => {
                format!("  pixel values differ by at most {max} of 255, {mean:.4} on average")
            }
            _ => "  the pictures have different sizes".to_owned(),
        });
    }
    for Difference { what, then, now } in &comparison.environment {
        output::line(&format!("  {what}: then {then}, now {now}"));
    }
    if !comparison.same && comparison.environment.is_empty() {
        output::line("  nothing in the recorded environment differs");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_difference_of_two_pictures_is_taken_over_every_colour() {
        assert_eq!(difference(&[0, 10, 255, 7], &[0, 10, 255, 7]), (0, 0.0));
        assert_eq!(difference(&[0, 10, 255, 7], &[4, 10, 155, 7]), (100, 26.0));
    }

    #[test]
    fn a_picture_made_on_libtorchs_kernels_is_made_on_them_again() {
        assert_eq!(kernels("libtorch 2.11.0"), Kernels::Libtorch);
        assert_eq!(kernels(&format!("libtorch 2.11.0{OWN_KERNELS}")), Kernels::Auto);
    }
}
