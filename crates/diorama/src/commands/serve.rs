//! `diorama serve`: a coordinator: the API, and, where it has the lease, the runs.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::Request;
use axum::middleware::{self, Next};
use diorama_backends::objects::s3::S3Objects;
use diorama_coordinator::api::{self, Api, ApiConfig, ApiLimits, ApiMetrics, Role, Tokens};
use diorama_coordinator::{CoordinatorConfig, Grace, Service, ServiceConfig, Shares};
use diorama_core::caps::Caps;
use diorama_runtime::config::Config;
use diorama_runtime::http::{self, Limits, raise_descriptors};
use diorama_runtime::metrics;
use diorama_runtime::options::{CoordinatorOptions, ServiceOptions};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::{Instrument, Span};

use crate::cli::Cli;
use crate::exit::{self, Failure};
use crate::fleet::connect::{backends, readable, s3_config_of_references, seconds};
use crate::listen::listen;
use crate::{identity, output};

/// How long answers under way may take after a drain was asked for.
const GRACE: Duration = Duration::from_secs(5);

pub(crate) async fn run(cli: &Cli, drain: CancellationToken) -> Result<u8, Failure> {
    let Config { services, coordinator, caps, .. } = cli.configuration().map_err(Failure::usage)?;
    let tokens = tokens(&coordinator)?;
    let owner = identity::unique();
    let span = tracing::info_span!("coordinator", coordinator = %owner);
    serve(services, coordinator, caps.caps(), owner, tokens, drain).instrument(span).await
}

async fn serve(
    services: ServiceOptions,
    coordinator: CoordinatorOptions,
    caps: Caps,
    owner: String,
    tokens: Option<Tokens>,
    drain: CancellationToken,
) -> Result<u8, Failure> {
    let asked = format!("diorama coordinator {owner}");
    let registry = metrics::registry().map_err(Failure::permanent)?;
    let Some(backends) = backends(&services, &asked, &registry, &drain).await? else { return Ok(exit::DRAINED) };
    // The same store, without its prefix, and other buckets, as far as the key for references reaches.
    let remote = S3Objects::connect(s3_config_of_references(&services)?).map_err(Failure::permanent)?;
    let scratch = tempfile::Builder::new()
        .prefix("diorama-coordinator-")
        .tempdir_in(coordinator.scratch.clone().unwrap_or_else(std::env::temp_dir))
        .map_err(|error| Failure::permanent(anyhow::anyhow!("the scratch folder cannot be used: {error}")))?;
    raise_descriptors();
    let listener = listen("listen", &coordinator.listen).await?;
    let beside = match &coordinator.metrics_listen {
        Some(address) => Some(listen("metrics_listen", address).await?),
        None => None,
    };
    let address = listener.local_addr().map_err(Failure::permanent)?;

    let runs = CoordinatorConfig {
        name: owner.clone(),
        shares: Shares::new(coordinator.window as usize),
        poll: Duration::from_millis(200),
        control_poll: Duration::from_secs(1),
        publish_again_after: seconds(coordinator.publish_again),
        pools: coordinator.pools.clone(),
        scratch: scratch.path().to_owned(),
    };
    let (lease, grace) = (seconds(coordinator.lease), Grace(seconds(coordinator.gc_grace)));
    let config = ServiceConfig { owner: owner.clone(), lease, grace, runs };
    let (service, leading) = Service::new(backends.clone(), config);
    let api = Api::new(ApiConfig {
        name: owner,
        backends,
        remote: Some(Arc::new(remote)),
        readable: readable(&services),
        scratch: scratch.path().to_owned(),
        reference_root: coordinator.reference_root.clone(),
        plain_http: coordinator.allow_private_references,
        tokens,
        role_without_tokens: Role::Admin,
        max_manifest_bytes: coordinator.max_manifest_bytes,
        max_blob_bytes: coordinator.max_blob_bytes,
        limits: ApiLimits { caps, requests_of_a_token: coordinator.max_requests_per_token },
        leading,
        pools: coordinator.pools,
        prices: coordinator.prices,
        metrics: ApiMetrics::register(registry).map_err(Failure::permanent)?,
    });
    // Each connection is answered by a task of its own.
    let span = Span::current();
    let router = api::router(api.clone())
        .layer(middleware::from_fn(move |request: Request, next: Next| next.run(request).instrument(span.clone())));
    output::line(&format!("diorama: the API is at http://{address} (OpenAPI: /openapi.json)"));
    let limits = Limits {
        connections: coordinator.max_connections,
        of_an_address: coordinator.max_connections_per_address,
        ..Limits::default()
    };
    let answer = async {
        tokio::select! {
            () = http::serve(listener, router, api::crowded(api.clone()), limits, drain.clone()) => {}
            () = async { drain.cancelled().await; tokio::time::sleep(GRACE).await } => {}
        }
    };
    // Probes go on being answered until the process ends.
    let beside = beside.map(|listener| {
        let health = api::health(api.clone());
        let serving = http::serve(listener, health.clone(), health, Limits::default(), CancellationToken::new());
        AbortOnDropHandle::new(tokio::spawn(serving))
    });
    // Cut off in the middle of a look, because a service that is away would take its time.
    let looks = drain.run_until_cancelled(api.keep_metrics(drain.clone()));
    let health = drain.run_until_cancelled(api.keep_health(drain.clone()));
    let tokens = api.keep_tokens(drain.clone());
    tokio::join!(answer, service.run(drain.clone()), looks, health, tokens);
    drop(beside);
    Ok(exit::DRAINED)
}

/// Without tokens anybody who reaches the API may do anything, so then only this machine reaches it; with them, whoever
/// hears one may do what it allows.
fn tokens(options: &CoordinatorOptions) -> Result<Option<Tokens>, Failure> {
    crate::listen::check("--listen", &options.listen)?;
    let is_loopback = match options.listen.parse::<SocketAddr>() {
        Ok(address) => address.ip().is_loopback(),
        Err(_) => options.listen.rsplit_once(':').is_some_and(|(host, _)| host == "localhost"),
    };
    if let Some(path) = &options.tokens_file {
        let tokens = Tokens::load(path).map_err(Failure::usage)?;
        if is_loopback || options.insecure {
            return Ok(Some(tokens));
        }
        return Err(Failure::usage(anyhow::anyhow!(
            "--listen {} is reachable from other machines, and anyone in between can read tokens and pictures: listen \
             on 127.0.0.1 behind a proxy that speaks TLS, or set --insecure true if only such a proxy reaches it",
            options.listen
        )));
    }
    if is_loopback {
        return Ok(None);
    }
    Err(Failure::usage(anyhow::anyhow!(
        "--listen {} is reachable from other machines, but there is no --tokens-file: give one, or listen on 127.0.0.1",
        options.listen
    )))
}
