//! `diorama worker`: pulls shards of a pool and makes their pictures.

use std::time::Instant;

use diorama_core::id::WorkerId;
use diorama_runtime::config::Config;
use diorama_runtime::metrics;
use diorama_worker::device::{DeviceError, MakeEngine};
use diorama_worker::{Device, Layout, Metrics, OnOutage, Scratch, Worker, WorkerConfig, WorkerError};
use prometheus::Registry;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument;

use crate::cli::Cli;
use crate::exit::{self, Failure};
use crate::fleet::connect::{backends, seconds};
use crate::fleet::references;
use crate::listen::listen;
use crate::{identity, maker, output};

pub(crate) async fn run(cli: &Cli, drain: CancellationToken) -> Result<u8, Failure> {
    match work(cli, &drain).await {
        // What it held goes to another worker: that is what a drain is for, whatever was away meanwhile.
        Err(failure) if failure.code == exit::TRY_AGAIN && drain.is_cancelled() => {
            tracing::warn!(error = %failure, "drained while a service was unreachable");
            Ok(exit::DRAINED)
        }
        ended => ended,
    }
}

async fn work(cli: &Cli, drain: &CancellationToken) -> Result<u8, Failure> {
    let config = cli.configuration().map_err(Failure::usage)?;
    let name = match &config.worker.worker {
        Some(name) => name.clone(),
        None => WorkerId::new(identity::unique()).map_err(Failure::permanent)?,
    };
    let span = tracing::info_span!("worker", worker = %name, pool = %config.worker.pool);
    pull(&config, name, drain).instrument(span).await
}

async fn pull(config: &Config, name: WorkerId, drain: &CancellationToken) -> Result<u8, Failure> {
    let remote = references::of_fleet(config)?;
    let registry = metrics::registry().map_err(Failure::permanent)?;
    let (ready, is_ready) = watch::channel(false);
    // Before the model is loaded, which takes minutes: whoever looks after the process sees that it lives.
    let _endpoint = match &config.worker.metrics_listen {
        Some(address) => Some(answer_probes(address, registry.clone(), is_ready).await?),
        None => None,
    };
    let asked = format!("diorama worker {name}");
    let Some(backends) = backends(&config.services, &asked, &registry, drain).await? else { return Ok(exit::DRAINED) };
    let (options, networks) = (config.engine.clone(), config.worker.networks.clone());
    let loading = Instant::now();
    let engine: MakeEngine = Box::new(move || Ok(maker::engine(&options, &networks)?));
    let started = tokio::select! {
        started = Device::start(engine) => started,
        () = drain.cancelled() => return Ok(exit::DRAINED),
    };
    let (device, thread) = started.map_err(Failure::permanent)?;
    let loaded_in = loading.elapsed();
    let how = &config.worker;
    let root = how.scratch.clone().unwrap_or_else(std::env::temp_dir);
    // Before anything is pulled: what died here may be what is delivered first.
    match drain.run_until_cancelled(Scratch::sweep(&root, backends.objects.clone())).await {
        None => return Ok(exit::DRAINED),
        Some(Ok(_)) => {}
        Some(Err(error)) => tracing::warn!(%error, "leftovers of killed workers could not be cleaned up"),
    }
    let scratch = Scratch::open(&root, &name)
        .map_err(|error| Failure::permanent(anyhow::anyhow!("the scratch folder cannot be used: {error}")))?;
    let info = device.info().clone();
    tracing::info!(model = info.model, device = info.device, dtype = info.dtype, batch = info.batch_size, "ready");
    let metrics = Metrics::register(&registry, &name, &how.pool, &info, loaded_in).map_err(Failure::permanent)?;
    let worker = Worker::new(
        backends,
        device,
        WorkerConfig {
            model_load: Some(loaded_in),
            heartbeat: seconds(how.heartbeat),
            on_outage: OnOutage::Wait,
            remote: Some(remote),
            max_idle: (how.max_idle > 0.0).then(|| seconds(how.max_idle)),
            metrics: Some(metrics),
            caps: config.caps.caps(),
            ..WorkerConfig::new(name, how.pool.clone(), Layout::Shared, scratch)
        },
    );
    ready.send_replace(true);
    let told = drain.clone();
    let _not_ready_in_a_drain = AbortOnDropHandle::new(tokio::spawn(async move {
        told.cancelled().await;
        ready.send_replace(false);
    }));
    let worked = worker.run(drain.clone()).await;
    match worked {
        Ok(report) => {
            thread.join().await;
            let (committed, pictures) = (report.committed, report.pictures);
            let (handed_back, lost) = (report.handed_back, report.already_committed);
            output::line(&format!(
                "diorama: {committed} shards with {pictures} pictures committed, {handed_back} handed back, {lost} committed by others first"
            ));
            Ok(if drain.is_cancelled() { exit::DRAINED } else { exit::DONE })
        }
        Err(WorkerError::Device(DeviceError::Stopped)) if drain.is_cancelled() => Ok(exit::DRAINED),
        Err(error) => Err(Failure::judged(error, WorkerError::is_retryable)),
    }
}

/// Answers Prometheus and probes at `address` as long as the value lives.
async fn answer_probes(
    address: &str,
    registry: Registry,
    ready: watch::Receiver<bool>,
) -> Result<AbortOnDropHandle<()>, Failure> {
    let listener = listen("metrics_listen", address).await?;
    Ok(AbortOnDropHandle::new(tokio::spawn(metrics::serve(listener, registry, ready))))
}
