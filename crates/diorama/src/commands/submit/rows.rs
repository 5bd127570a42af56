//! The rows that are sent, as the coordinator reads them.

use std::io::Write;

use diorama_core::settings::Settings;
use diorama_core::task::{Reference, Task};
use diorama_manifest::{Manifest, ManifestReport};
use tempfile::NamedTempFile;

use super::estimate::Sample;
use super::references::Blobs;
use crate::exit::Failure;

/// The rows, or a sample of them, as the coordinator reads them, and the issues of those that were skipped, as JSON lines.
pub(super) fn write_rows(
    manifest: &Manifest,
    report: &ManifestReport,
    sample: Option<&Sample>,
    of_the_run: &Settings,
    blobs: &Blobs,
) -> Result<(NamedTempFile, NamedTempFile), Failure> {
    let scratch = |error: std::io::Error| {
        Failure::try_again(anyhow::anyhow!("the rows cannot be prepared in the temporary folder: {error}"))
    };
    let of_the_run = serde_json::to_value(of_the_run).map_err(Failure::permanent)?;
    let mut rows = std::io::BufWriter::new(NamedTempFile::new().map_err(scratch)?);
    for (at, task) in (0..).zip(manifest.tasks(report).map_err(Failure::try_again)?) {
        if sample.is_some_and(|sample| !sample.has(at)) {
            continue;
        }
        let row = row(&task.map_err(Failure::try_again)?, &of_the_run, blobs).map_err(Failure::permanent)?;
        writeln!(rows, "{row}").map_err(scratch)?;
    }
    let mut skipped = std::io::BufWriter::new(NamedTempFile::new().map_err(scratch)?);
    // Bad rows belong to the whole run.
    for issue in report.skipped().iter().filter(|_| sample.is_none()) {
        writeln!(skipped, "{}", serde_json::json!(issue)).map_err(scratch)?;
    }
    let done = |file: std::io::BufWriter<NamedTempFile>| file.into_inner().map_err(|error| scratch(error.into_error()));
    Ok((done(rows)?, done(skipped)?))
}

/// A row says only what the run's own settings do not: those go into the spec, once.
fn row(task: &Task, of_the_run: &serde_json::Value, blobs: &Blobs) -> anyhow::Result<serde_json::Value> {
    let mut row = serde_json::to_value(&task.settings)?;
    if let Some(row) = row.as_object_mut() {
        row.retain(|key, value| of_the_run.get(key) != Some(value));
    }
    for (name, value) in &task.extra {
        row[name] = value.clone();
    }
    row["custom_id"] = serde_json::json!(task.custom_id);
    row["prompt"] = serde_json::json!(task.prompt);
    row["seed"] = serde_json::json!(task.seed);
    if let Some(subjects) = &task.subjects {
        row["subjects"] = serde_json::json!(subjects);
    }
    let text = |reference: &Reference| match reference {
        Reference::File(path) => {
            let gone = || anyhow::anyhow!("the manifest changed while it was read; start again");
            Ok::<_, anyhow::Error>(format!("blob:{}", blobs.of(path).ok_or_else(gone)?))
        }
        Reference::Blob(sha256) => Ok(format!("blob:{sha256}")),
        Reference::S3(url) | Reference::Https(url) => Ok(url.clone()),
    };
    for (key, named) in [("reference", &task.reference), ("region", &task.region)] {
        if let Some(named) = named {
            row[key] = serde_json::json!(text(named)?);
        }
    }
    if let Some(row) = row.as_object_mut() {
        row.retain(|_, value| !value.is_null());
    }
    Ok(row)
}

#[cfg(test)]
mod tests {
    use diorama_core::id::{CustomId, Seed, TaskIndex};

    use super::*;

    #[test]
    fn a_row_says_what_it_sets_itself_and_leaves_the_runs_settings_to_the_spec() {
        let settings = |json| serde_json::from_value::<Settings>(json).unwrap();
        let of_the_run = settings(serde_json::json!({ "method": "txt2img", "steps": 30 }));
        let own = settings(serde_json::json!({ "steps": 20 }));
        let task = Task {
            index: TaskIndex(0),
            custom_id: CustomId::new("a").unwrap(),
            reference: None,
            region: None,
            prompt: "a duck".to_owned(),
            subjects: None,
            seed: Seed::new(7).unwrap(),
            settings: of_the_run.overlaid(&own),
            extra: serde_json::from_str(r#"{"licence":"CC0"}"#).unwrap(),
        };
        let row = row(&task, &serde_json::to_value(&of_the_run).unwrap(), &Blobs::default()).unwrap();
        let wanted = serde_json::json!({
            "custom_id": "a", "prompt": "a duck", "seed": 7, "steps": 20, "licence": "CC0",
        });
        assert_eq!(row, wanted);
    }
}
