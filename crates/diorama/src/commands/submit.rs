//! `diorama submit`: checks a manifest here, uploads the references that are files, by content and each once, and sends
//! the rows. The same command again finds what it sent.

use std::collections::{HashMap, HashSet};
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use diorama_coordinator::RunStatus;
use diorama_coordinator::api::SubmitRequest;
use diorama_coordinator::manifest::{Manifest, ManifestReport, References, Rules};
use diorama_core::id::Sha256Hex;
use diorama_core::retry::RetryPolicy;
use diorama_core::settings::Settings;
use diorama_core::task::{Reference, Task};
use diorama_runtime::config::Config;
use diorama_runtime::options::OnInvalid;
use reqwest::Method;
use reqwest::multipart::{Form, Part};
use tempfile::NamedTempFile;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::run::{SHOWN_ISSUES, invalid, open};
use crate::cli::{Cli, Submit};
use crate::exit::{self, Failure};
use crate::fleet::client::Client;
use crate::{output, progress};

/// References that are hashed or uploaded at a time.
const UPLOADING: usize = 8;

pub(crate) async fn run(command: &Submit, cli: &Cli, drain: CancellationToken) -> Result<u8, Failure> {
    let config = cli.configuration().map_err(Failure::usage)?;
    let client = Client::new(&config.fleet)?;
    tokio::select! {
        done = submit(command, cli, &config, &client) => done,
        () = drain.cancelled() => Ok(exit::DRAINED),
    }
}

async fn submit(command: &Submit, cli: &Cli, config: &Config, client: &Client) -> Result<u8, Failure> {
    let rules = Rules {
        settings: config.settings.clone(),
        seed: config.options.seed,
        compare: config.options.compare.clone(),
        references: References::FilesAndRemote,
        plain_http: config.references.allow_private,
    };
    let manifest = open(&command.manifest, command.manifest_format, rules)?;
    let skip = config.options.on_invalid == OnInvalid::Skip;
    let checked = manifest.clone();
    let validate = move || checked.validate(&|_| Ok(()), if skip { usize::MAX } else { SHOWN_ISSUES });
    let report = blocking(validate).await?.map_err(Failure::permanent)?;
    if report.issue_count > 0 && !(skip && report.tasks > 0) {
        return Err(invalid(&command.manifest, &report, skip));
    }
    for issue in &report.issues {
        tracing::warn!(target: "diorama", "skipped: {issue}");
    }
    let request = request(command, config)?;
    let report = Arc::new(report);
    let blobs = upload_references(client, &manifest, &report).await?;
    let (rows, skipped) = {
        let (manifest, report, settings) = (manifest.clone(), report.clone(), config.settings.clone());
        blocking(move || write_rows(&manifest, &report, &settings, &blobs)).await??
    };
    let key = idempotency_key(&request, &report.sha256, command.again);
    let status = send(client, &request, &rows, &skipped, &key).await?;
    tell(cli, &status)?;
    if command.watch { super::runs::watch(cli, client, status.run.as_str()).await } else { Ok(exit::DONE) }
}

fn request(command: &Submit, config: &Config) -> Result<SubmitRequest, Failure> {
    let options = &config.options;
    let settings = serde_json::to_value(&config.settings).map_err(Failure::permanent)?;
    let mut settings = settings.as_object().cloned().unwrap_or_default();
    settings.retain(|_, value| !value.is_null());
    Ok(SubmitRequest {
        pool: config.fleet.pool.clone(),
        name: command.name.clone(),
        manifest: command.manifest.display().to_string(),
        manifest_format: "jsonl".to_owned(),
        manifest_object: None,
        settings,
        seed: options.seed.get(),
        compare: options.compare.clone(),
        format: options.format,
        shard_size: options.shard_size,
        retry: RetryPolicy {
            max_rounds: options.max_rounds,
            delay_seconds: options.retry_delay,
            ..RetryPolicy::default()
        },
        // The bad rows were left out here, with their lines.
        skip_invalid: false,
        priority: command.priority,
        weight: command.weight,
    })
}

/// The same manifest with the same spec is the same submission, unless the user wants it again.
fn idempotency_key(request: &SubmitRequest, manifest: &Sha256Hex, again: bool) -> String {
    let spec = serde_json::to_string(request).unwrap_or_default();
    let nonce = if again { uuid::Uuid::now_v7().to_string() } else { String::new() };
    Sha256Hex::of(format!("{spec}\n{manifest}\n{nonce}").as_bytes()).to_string()
}

/// Hashes every file that the manifest names and uploads those that are not there.
async fn upload_references(
    client: &Client,
    manifest: &Manifest,
    report: &Arc<ManifestReport>,
) -> Result<Blobs, Failure> {
    let (count, mut files) = files(manifest.clone(), report.clone()).await?;
    let bar = progress::count(count as u64, "references");
    let mut blobs = Blobs(HashMap::with_capacity(count));
    let mut uploading: JoinSet<Result<(String, Sha256Hex), Failure>> = JoinSet::new();
    loop {
        tokio::select! {
            Some(file) = files.recv(), if uploading.len() < UPLOADING => {
                uploading.spawn(upload(client.clone(), manifest.root().to_owned(), file?));
            }
            Some(uploaded) = uploading.join_next() => {
                let (file, sha256) = uploaded.map_err(Failure::permanent)??;
                blobs.0.insert(short(&file), sha256.digest());
                bar.inc(1);
            }
            else => break,
        }
    }
    bar.finish_and_clear();
    Ok(blobs)
}

/// What each file's content is, by the file's [`short`] name: a manifest may name millions.
struct Blobs(HashMap<[u8; 16], [u8; 32]>);

impl Blobs {
    fn of(&self, file: &str) -> Option<Sha256Hex> {
        self.0.get(&short(file)).map(|digest| Sha256Hex::from_digest(*digest))
    }
}

/// Half of the SHA-256 of a file's path: as good as the path, and shorter.
fn short(file: &str) -> [u8; 16] {
    let mut short = [0; 16];
    short.copy_from_slice(&Sha256Hex::of(file.as_bytes()).digest()[..16]);
    short
}

async fn upload(client: Client, root: PathBuf, file: String) -> Result<(String, Sha256Hex), Failure> {
    let path = root.join(&file);
    let read = |error| Failure::permanent(anyhow::anyhow!("the reference {} cannot be read: {error}", path.display()));
    let bytes: Bytes = tokio::fs::read(&path).await.map_err(read)?.into();
    let content = bytes.clone();
    let sha256 = blocking(move || Sha256Hex::of(&content)).await?;
    if !client.has_blob(sha256.as_str()).await? {
        let path = format!("/v1/blobs/{sha256}");
        client.send_again(|| client.request(Method::PUT, &path).body(bytes.clone())).await?;
    }
    Ok((file, sha256))
}

/// How many files the manifest names, and each of them once, read as fast as they are taken.
async fn files(
    manifest: Manifest,
    report: Arc<ManifestReport>,
) -> Result<(usize, mpsc::Receiver<Result<String, Failure>>), Failure> {
    let each = |manifest: &Manifest, report: &ManifestReport, visit: &mut dyn FnMut(String) -> bool| {
        for task in manifest.tasks(report).map_err(Failure::try_again)? {
            if let Some(Reference::File(path)) = task.map_err(Failure::try_again)?.reference
                && !visit(path)
            {
                break;
            }
        }
        Ok::<_, Failure>(())
    };
    let counted = (manifest.clone(), report.clone());
    let wanted = blocking(move || {
        let mut wanted = HashSet::new();
        each(&counted.0, &counted.1, &mut |path| {
            wanted.insert(short(&path));
            true
        })?;
        Ok::<_, Failure>(wanted)
    });
    let mut wanted = wanted.await??;
    let count = wanted.len();
    let (sender, files) = mpsc::channel(UPLOADING);
    if wanted.is_empty() {
        return Ok((count, files));
    }
    tokio::task::spawn_blocking(move || {
        // To the last file, or until nobody takes them any more: the upload of one failed.
        let mut send = |path: String| {
            let taken = !wanted.remove(&short(&path)) || sender.blocking_send(Ok(path)).is_ok();
            taken && !wanted.is_empty()
        };
        if let Err(failure) = each(&manifest, &report, &mut send) {
            drop(sender.blocking_send(Err(failure)));
        }
    });
    Ok((count, files))
}

/// The rows as the coordinator reads them, and the issues of those that were skipped, as JSON lines.
fn write_rows(
    manifest: &Manifest,
    report: &ManifestReport,
    of_the_run: &Settings,
    blobs: &Blobs,
) -> Result<(NamedTempFile, NamedTempFile), Failure> {
    let scratch = |error: std::io::Error| {
        Failure::try_again(anyhow::anyhow!("the rows cannot be prepared in the temporary folder: {error}"))
    };
    let of_the_run = serde_json::to_value(of_the_run).map_err(Failure::permanent)?;
    let mut rows = std::io::BufWriter::new(NamedTempFile::new().map_err(scratch)?);
    for task in manifest.tasks(report).map_err(Failure::try_again)? {
        let row = row(&task.map_err(Failure::try_again)?, &of_the_run, blobs).map_err(Failure::permanent)?;
        writeln!(rows, "{row}").map_err(scratch)?;
    }
    let mut skipped = std::io::BufWriter::new(NamedTempFile::new().map_err(scratch)?);
    for issue in &report.issues {
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
    row["custom_id"] = serde_json::json!(task.custom_id);
    row["prompt"] = serde_json::json!(task.prompt);
    row["seed"] = serde_json::json!(task.seed);
    if let Some(subjects) = &task.subjects {
        row["subjects"] = serde_json::json!(subjects);
    }
    if let Some(reference) = &task.reference {
        let text = match reference {
            Reference::File(path) => {
                let gone = || anyhow::anyhow!("the manifest changed while it was read; start again");
                format!("blob:{}", blobs.of(path).ok_or_else(gone)?)
            }
            Reference::Blob(sha256) => format!("blob:{sha256}"),
            Reference::S3(url) | Reference::Https(url) => url.clone(),
        };
        row["reference"] = serde_json::json!(text);
    }
    if let Some(row) = row.as_object_mut() {
        row.retain(|_, value| !value.is_null());
    }
    Ok(row)
}

/// Sends the form. It may be sent twice: the key makes one run of it.
async fn send(
    client: &Client,
    request: &SubmitRequest,
    rows: &NamedTempFile,
    skipped: &NamedTempFile,
    key: &str,
) -> Result<RunStatus, Failure> {
    let spec = serde_json::to_string(request).map_err(Failure::permanent)?;
    let mut tries = 0u32;
    loop {
        let form = Form::new()
            .part("spec", Part::text(spec.clone()))
            .part("manifest", Part::file(rows.path()).await.map_err(Failure::try_again)?)
            .part("invalid", Part::file(skipped.path()).await.map_err(Failure::try_again)?);
        // Validation of millions of rows takes longer than a request otherwise may.
        let sending = client.long_request(Method::POST, "/v1/runs").header("Idempotency-Key", key).multipart(form);
        match client.send(sending).await {
            Ok(response) => return Ok(client.read(response).await?),
            Err(error) if error.is_retryable() && tries < 8 => {
                let wait = std::time::Duration::from_millis(500 << tries.min(4));
                tracing::warn!(%error, ?wait, "trying again");
                tries += 1;
                tokio::time::sleep(wait).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

fn tell(cli: &Cli, status: &RunStatus) -> Result<(), Failure> {
    if cli.json() {
        output::line(&serde_json::to_string(status).map_err(Failure::permanent)?);
        return Ok(());
    }
    output::line(&format!(
        "run {} with {} tasks in the pool {} ({})",
        status.run, status.tasks, status.pool, status.state
    ));
    output::line(&format!("follow it: diorama watch {}", status.run));
    Ok(())
}

async fn blocking<T: Send + 'static>(step: impl FnOnce() -> T + Send + 'static) -> Result<T, Failure> {
    tokio::task::spawn_blocking(step).await.map_err(Failure::permanent)
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
            prompt: "a duck".to_owned(),
            subjects: None,
            seed: Seed::new(7).unwrap(),
            settings: of_the_run.overlaid(&own),
        };
        let row = row(&task, &serde_json::to_value(&of_the_run).unwrap(), &Blobs(HashMap::new())).unwrap();
        assert_eq!(row, serde_json::json!({ "custom_id": "a", "prompt": "a duck", "seed": 7, "steps": 20 }));
    }
}
