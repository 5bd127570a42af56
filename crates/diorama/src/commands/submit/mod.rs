//! `diorama submit`: checks a manifest here, uploads the references that are files, by content and each once, and sends
//! the rows; of a manifest that is an object already, it sends the name. The same command again finds what it sent.

mod estimate;
mod references;
mod rows;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use diorama_coordinator::RunStatus;
use diorama_coordinator::api::SubmitRequest;
use diorama_core::id::Sha256Hex;
use diorama_core::manifest::ExtraColumns;
use diorama_core::measure::{Asked, check_task};
use diorama_core::range::NAME_BYTES;
use diorama_core::retry::RetryPolicy;
use diorama_core::run::Labels;
use diorama_core::task::Task;
use diorama_manifest::{Format, LISTED_SKIPPED, Manifest, ManifestError, ManifestReport, References, Rules};
use diorama_runtime::config::Config;
use diorama_runtime::options::OnInvalid;
use reqwest::multipart::{Form, Part};
use reqwest::{Method, StatusCode};
use tempfile::NamedTempFile;
use tokio_util::sync::CancellationToken;

use self::estimate::{Sample, Whole, estimate, shard_size};
use self::references::upload_references;
use self::rows::write_rows;
use super::blocking;
use super::run::{asked, invalid, open};
use crate::cli::{Cli, Submit};
use crate::exit::{self, Failure};
use crate::fleet::client::{Client, ClientError};
use crate::{issues, output};

/// How often references are uploaded that are gone when the rows are sent.
const UPLOADS: u32 = 3;

/// What an address of an object begins with.
const OBJECT: &str = "s3://";

pub(crate) async fn run(command: &Submit, cli: &Cli, drain: CancellationToken) -> Result<u8, Failure> {
    let config = cli.configuration().map_err(Failure::usage)?;
    let asked = asked(&config.run)?;
    let client = Client::new(&config.client)?;
    tokio::select! {
        done = submit(command, cli, &config, &client, &asked) => done,
        () = drain.cancelled() => Ok(exit::DRAINED),
    }
}

async fn submit(command: &Submit, cli: &Cli, config: &Config, client: &Client, asked: &Asked) -> Result<u8, Failure> {
    if let Some(count) = command.estimate {
        let (sample, whole) = sample(command, config, client, asked, count).await?;
        estimate(cli, client, &sample, &whole).await?;
        if !command.yes {
            if !cli.json() {
                output::line("nothing more was submitted; the same command with --yes submits the whole manifest");
            }
            return Ok(exit::DONE);
        }
    }
    let (status, is_new) = submitted(client, async || match object(command) {
        Some(address) => of_object(command, config, address),
        None => of_file(&checked(command, config, asked).await?, command, config, client, None).await,
    })
    .await?;
    if !is_new {
        tracing::warn!(
            "this manifest was submitted before with these settings, as {}; --again makes another run of it",
            status.run
        );
    }
    tell(cli, &status)?;
    if command.watch { super::runs::watch(cli, client, status.run.as_str()).await } else { Ok(exit::DONE) }
}

/// The address of a manifest that is an object.
fn object(command: &Submit) -> Option<&str> {
    command.manifest.to_str().filter(|manifest| manifest.starts_with(OBJECT))
}

/// Submits `count` of the rows as a run of their own.
async fn sample(
    command: &Submit,
    config: &Config,
    client: &Client,
    asked: &Asked,
    count: u64,
) -> Result<(RunStatus, Whole), Failure> {
    if object(command).is_some() {
        return Err(Failure::usage(anyhow::anyhow!(
            "--estimate draws its rows on this machine, which it cannot do from a manifest in the store; download it \
             and submit the file"
        )));
    }
    let checked = checked(command, config, asked).await?;
    let drawn = Sample::draw(checked.report.tasks, count, config.run.seed);
    let (status, _) =
        submitted(client, async || of_file(&checked, command, config, client, Some(&drawn)).await).await?;
    Ok((status, Whole { tasks: checked.report.tasks, price: command.price }))
}

/// Sends what `prepare` gives, and prepares it again where references were collected meanwhile. Says whether the run is
/// new.
async fn submitted(
    client: &Client,
    prepare: impl AsyncFn() -> Result<Submission, Failure>,
) -> Result<(RunStatus, bool), Failure> {
    let mut uploads = 0;
    loop {
        let submission = prepare().await?;
        uploads += 1;
        match send(client, &submission).await? {
            Sent::Run(status, is_new) => return Ok((*status, is_new)),
            // What was there when we looked was collected since.
            Sent::Misses(error) if submission.rows.is_some() && uploads < UPLOADS => {
                tracing::warn!(%error, "uploading what is missing");
            }
            Sent::Misses(error) => return Err(error.into()),
        }
    }
}

/// What is sent.
struct Submission {
    request: SubmitRequest,
    /// The rows, and the issues of those that were skipped; none where the manifest is an object.
    rows: Option<(NamedTempFile, NamedTempFile)>,
    /// By which it is known again.
    key: String,
}

/// The coordinator reads the object, checks it, and says what is wrong with it.
fn of_object(command: &Submit, config: &Config, address: &str) -> Result<Submission, Failure> {
    let format = command.manifest_format.or_else(|| Format::of(Path::new(address)));
    let format = format.ok_or_else(|| Failure::usage(ManifestError::UnknownFormat(command.manifest.clone())))?;
    let request = SubmitRequest {
        manifest_format: format.to_string(),
        manifest_object: Some(address.to_owned()),
        skip_invalid: config.run.on_invalid == OnInvalid::Skip,
        extra_columns: config.run.extra_columns,
        columns: command.reading.columns()?,
        ..request(command, config)?
    };
    let key = idempotency_key(&request, "", command.again);
    Ok(Submission { request, rows: None, key })
}

/// A manifest that was read to its end, and can be submitted.
struct Checked {
    manifest: Manifest,
    report: Arc<ManifestReport>,
}

async fn checked(command: &Submit, config: &Config, asked: &Asked) -> Result<Checked, Failure> {
    let rules = Rules {
        settings: config.settings.clone(),
        seed: config.run.seed,
        compare: config.run.compare.clone(),
        references: References::FilesAndRemote,
        plain_http: config.references.allow_private_references,
        follow_links: command.reading.follow_links,
        extra_columns: config.run.extra_columns,
        columns: command.reading.columns()?,
    };
    let manifest = open(&command.manifest, command.manifest_format, rules)?;
    let skip = config.run.on_invalid == OnInvalid::Skip;
    let (checked, measures) = (manifest.clone(), asked.measures.clone());
    let check = move |task: &Task| check_task(&measures, task);
    let validate = move || checked.validate(&check, if skip { LISTED_SKIPPED } else { issues::SHOWN });
    let report = blocking(validate).await?.map_err(Failure::permanent)?;
    if report.issue_count > 0 && !(skip && report.tasks > 0) {
        return Err(invalid(&command.manifest, &report, skip));
    }
    for issue in report.skipped() {
        tracing::warn!("skipped: {issue}");
    }
    Ok(Checked { manifest, report: Arc::new(report) })
}

/// The rows of a file, or a sample of them, with their references uploaded.
async fn of_file(
    Checked { manifest, report }: &Checked,
    command: &Submit,
    config: &Config,
    client: &Client,
    sample: Option<&Sample>,
) -> Result<Submission, Failure> {
    let mut request = request(command, config)?;
    if let Some(sample) = sample {
        let name = request.name.as_ref().unwrap_or(&request.manifest);
        let name = format!("{} rows of {name}", sample.len());
        request.name = Some(name[..name.floor_char_boundary(NAME_BYTES)].to_owned());
        request.shard_size = shard_size(sample.len(), request.shard_size);
    }
    let blobs = upload_references(client, manifest, report, sample).await?;
    let key = idempotency_key(&request, report.sha256.as_str(), command.again);
    let settings = config.settings.clone();
    let (manifest, report, sample) = (manifest.clone(), report.clone(), sample.cloned());
    let rows = blocking(move || write_rows(&manifest, &report, sample.as_ref(), &settings, &blobs)).await??;
    Ok(Submission { request, rows: Some(rows), key })
}

fn request(command: &Submit, config: &Config) -> Result<SubmitRequest, Failure> {
    let options = &config.run;
    let settings = serde_json::to_value(&config.settings).map_err(Failure::permanent)?;
    let mut settings = settings.as_object().cloned().unwrap_or_default();
    settings.retain(|_, value| !value.is_null());
    Ok(SubmitRequest {
        pool: config.client.pool.clone(),
        name: command.name.clone(),
        labels: labels(&command.labels).map_err(|error| Failure::usage(anyhow::anyhow!(error)))?,
        manifest: command.manifest.display().to_string(),
        manifest_format: "jsonl".to_owned(),
        manifest_object: None,
        settings,
        seed: options.seed.get(),
        compare: options.compare.clone(),
        measures: options.measures.clone(),
        accept: options.accept.clone(),
        accept_tries: options.accept_tries,
        format: options.format,
        shard_size: options.shard_size,
        retry: RetryPolicy {
            max_rounds: options.max_rounds,
            delay_seconds: options.retry_delay,
            ..RetryPolicy::default()
        },
        keep_references: options.keep_references,
        stop_if: command.stop_if,
        // The bad rows were left out here, with their lines.
        skip_invalid: false,
        // So were columns that are not carried, and the others have our names by now.
        extra_columns: ExtraColumns::Carry,
        columns: BTreeMap::new(),
        priority: command.priority,
        weight: command.weight,
    })
}

/// The labels by name.
fn labels(given: &[(String, String)]) -> Result<Labels, String> {
    let mut labels = Labels::new();
    for (name, value) in given {
        if labels.insert(name.clone(), value.clone()).is_some() {
            return Err(format!("--label {name} is given twice; a label has one value"));
        }
    }
    Ok(labels)
}

/// The same manifest with the same spec is the same submission, unless the user wants it again.
fn idempotency_key(request: &SubmitRequest, manifest: &str, again: bool) -> String {
    let spec = serde_json::to_string(request).unwrap_or_default();
    let nonce = if again { uuid::Uuid::now_v7().to_string() } else { String::new() };
    Sha256Hex::of(format!("{spec}\n{manifest}\n{nonce}").as_bytes()).to_string()
}

/// What the coordinator made of the form.
enum Sent {
    /// The run, and whether it is a new one.
    Run(Box<RunStatus>, bool),
    /// Uploaded references that the rows name are not there.
    Misses(ClientError),
}

/// Sends the form. It may be sent twice: the key makes one run of it.
async fn send(client: &Client, submission: &Submission) -> Result<Sent, Failure> {
    let spec = serde_json::to_string(&submission.request).map_err(Failure::permanent)?;
    let mut tries = 0u32;
    loop {
        let mut form = Form::new().part("spec", Part::text(spec.clone()));
        if let Some((rows, skipped)) = &submission.rows {
            let part = async |file: &NamedTempFile| Part::file(file.path()).await.map_err(Failure::try_again);
            form = form.part("manifest", part(rows).await?).part("invalid", part(skipped).await?);
        }
        // Validation of millions of rows takes longer than a request otherwise may.
        let sending = client.long_request(Method::POST, "/v1/runs").header("Idempotency-Key", &submission.key);
        match client.send(sending.multipart(form)).await {
            Ok(response) => {
                let is_new = response.status() == StatusCode::CREATED || tries > 0;
                return Ok(Sent::Run(client.read(response).await?, is_new));
            }
            Err(error) if error.is_refused_as("unknown_blobs") => return Ok(Sent::Misses(error)),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_has_one_value() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let read = labels(&[pair("team", "birds"), pair("set", "a=b")]).unwrap();
        assert_eq!(read.into_iter().collect::<Vec<_>>(), [pair("set", "a=b"), pair("team", "birds")]);
        assert!(labels(&[pair("team", "a"), pair("team", "a")]).unwrap_err().contains("--label team"));
    }
}
