//! `diorama worker`: pulls shards of a pool and makes their pictures.

use diorama_core::id::WorkerId;
use diorama_runtime::config::Config;
use diorama_runtime::metrics;
use diorama_worker::engine::{EngineError, MakeGenerator};
use diorama_worker::{Engine, Layout, Metrics, OnOutage, Worker, WorkerConfig, WorkerError};
use prometheus::Registry;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::serve::host;
use crate::cli::Cli;
use crate::exit::{self, Failure};
use crate::fleet::connect::{backends, seconds};
use crate::fleet::references;
use crate::{maker, output};

pub(crate) async fn run(cli: &Cli, drain: CancellationToken) -> Result<u8, Failure> {
    match work(cli, &drain).await {
        // What it held goes to another worker: that is what a drain is for, whatever was away meanwhile.
        Err(failure) if failure.code == exit::TRY_AGAIN && drain.is_cancelled() => {
            tracing::warn!(error = %failure, "the worker was drained while something was away");
            Ok(exit::DRAINED)
        }
        ended => ended,
    }
}

async fn work(cli: &Cli, drain: &CancellationToken) -> Result<u8, Failure> {
    let config = cli.configuration().map_err(Failure::usage)?;
    let name = name(&config)?;
    let remote = references::of_fleet(&config)?;
    let asked = format!("diorama worker {name}");
    let Some(backends) = backends(&config.fleet, &asked, drain).await? else { return Ok(exit::DRAINED) };
    let options = config.options.clone();
    let generator: MakeGenerator = Box::new(move || Ok(maker::make(&options)?.into_generator()));
    let started = tokio::select! {
        started = Engine::start(generator) => started,
        () = drain.cancelled() => return Ok(exit::DRAINED),
    };
    let (engine, device) = started.map_err(Failure::permanent)?;
    let fleet = &config.fleet;
    let scratch = tempfile::Builder::new()
        .prefix("diorama-worker-")
        .tempdir_in(fleet.scratch.clone().unwrap_or_else(std::env::temp_dir))
        .map_err(|error| Failure::permanent(anyhow::anyhow!("the scratch folder cannot be used: {error}")))?;
    let info = engine.info().clone();
    tracing::info!(
        target: "diorama", worker = %name, pool = %fleet.pool, model = info.model, device = info.device, dtype = info.dtype,
        batch = info.batch_size, "ready"
    );
    let registry = Registry::new();
    let metrics = Metrics::register(&registry, name.as_str(), fleet.pool.as_str(), &info.model, &info.device);
    let _endpoint = match &fleet.metrics_listen {
        Some(address) => Some(answer_prometheus(address, registry).await?),
        None => None,
    };
    let worker = Worker::new(
        backends,
        engine,
        WorkerConfig {
            heartbeat: seconds(fleet.heartbeat),
            on_outage: OnOutage::Wait,
            remote: Some(remote),
            max_idle: (fleet.max_idle > 0.0).then(|| seconds(fleet.max_idle)),
            metrics: Some(metrics.map_err(Failure::permanent)?),
            ..WorkerConfig::new(name, fleet.pool.clone(), Layout::Shared, scratch.path().to_owned())
        },
    );
    let worked = worker.run(drain.clone()).await;
    match worked {
        Ok(report) => {
            device.join().await;
            let (committed, pictures) = (report.committed, report.pictures);
            let (handed_back, lost) = (report.handed_back, report.already_committed);
            output::line(&format!(
                "diorama: {committed} shards with {pictures} pictures committed, {handed_back} handed back, {lost} were another's"
            ));
            Ok(if drain.is_cancelled() { exit::DRAINED } else { exit::DONE })
        }
        Err(WorkerError::Engine(EngineError::Stopped)) if drain.is_cancelled() => Ok(exit::DRAINED),
        Err(error) => Err(Failure::judged(error, WorkerError::is_retryable)),
    }
}

/// Answers at `address` as long as the value lives.
async fn answer_prometheus(address: &str, registry: Registry) -> Result<AbortOnDropHandle<()>, Failure> {
    let listener = TcpListener::bind(address)
        .await
        .map_err(|error| Failure::permanent(anyhow::anyhow!("metrics_listen: cannot listen on {address}: {error}")))?;
    Ok(AbortOnDropHandle::new(tokio::spawn(async move {
        if let Err(error) = metrics::serve(listener, registry).await {
            tracing::warn!(%error, "Prometheus is answered no more");
        }
    })))
}

fn name(config: &Config) -> Result<WorkerId, Failure> {
    match &config.fleet.worker {
        Some(name) => Ok(name.clone()),
        None => WorkerId::new(format!("{}-{}", host(), std::process::id())).map_err(Failure::permanent),
    }
}
