//! Connects to RabbitMQ, Redis and the object store as the configuration says. What refuses us ends the process with 42,
//! what is away with 75; except a Redis that is away, which a run can do without for a while.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use diorama_backends::meter::Meter;
use diorama_backends::objects::retrying::Retrying;
use diorama_backends::objects::s3::{S3Config, S3Objects};
use diorama_backends::objects::{ObjectError, probe_conditional_put};
use diorama_backends::progress::ProgressError;
use diorama_backends::progress::redis::{RedisConfig, RedisProgress};
use diorama_backends::queue::QueueError;
use diorama_backends::queue::rabbitmq::{RabbitMqConfig, RabbitMqQueue};
use diorama_core::address::{Place, Readable};
use diorama_protocol::{Backends, Exclusive};
use diorama_runtime::options::ServiceOptions;
use prometheus::Registry;
use secrecy::{ExposeSecret, SecretString};
use tokio_util::sync::CancellationToken;

use super::keys;
use crate::exit::Failure;

/// What is missing, with the three ways to say it.
fn missing(key: &str, what: &str) -> Failure {
    let (flag, variable) = (key.replace('_', "-"), key.to_ascii_uppercase());
    Failure::usage(anyhow::anyhow!(
        "no {what}: give --{flag}, DIORAMA_{variable}, or {key} in the file that --config names (config/ has commented examples)"
    ))
}

/// Whether an address says TLS.
fn is_tls(url: &str) -> bool {
    let scheme = url.split(':').next().unwrap_or_default().to_ascii_lowercase();
    matches!(scheme.as_str(), "amqps" | "rediss" | "https")
}

/// The CA file, where the address says TLS: the file is for all three services, and not each of them need have TLS.
fn ca_file(services: &ServiceOptions, url: &SecretString) -> Option<PathBuf> {
    services.ca_file.clone().filter(|_| is_tls(url.expose_secret()))
}

/// A CA file that no service makes use of would be a false safety.
fn check_ca_file(services: &ServiceOptions) -> Result<(), Failure> {
    let urls = [&services.amqp_url, &services.redis_url].map(|url| url.as_ref().map(SecretString::expose_secret));
    let amazon = services.s3_endpoint.as_deref().unwrap_or("https:");
    let tls = urls.into_iter().flatten().chain([amazon]).any(is_tls);
    match &services.ca_file {
        Some(path) if !tls => Err(Failure::usage(anyhow::anyhow!(
            "ca_file is set ({}), but none of amqp_url (amqps://), redis_url (rediss://) and s3_endpoint (https://) \
             uses TLS; change one, or remove ca_file",
            path.display()
        ))),
        _ => Ok(()),
    }
}

/// How S3 is reached.
pub(crate) fn s3_config(services: &ServiceOptions) -> Result<S3Config, Failure> {
    let bucket = services.s3_bucket.clone().ok_or_else(|| missing("s3_bucket", "bucket of the object store"))?;
    Ok(S3Config {
        endpoint: services.s3_endpoint.clone(),
        region: services.s3_region.clone(),
        bucket,
        prefix: services.s3_prefix.clone(),
        credentials: keys::of_fleet(services)?,
        path_style: services.s3_path_style,
        ca_file: services.ca_file.clone(),
        ..S3Config::default()
    })
}

/// Which objects submitters may name.
pub(crate) fn readable(services: &ServiceOptions) -> Readable {
    let own = services.s3_bucket.as_ref().map(|bucket| Place::new(bucket, &services.s3_prefix));
    Readable::new(services.s3_readable.clone(), own)
}

/// How the store is reached for what is not the fleet's own: `s3://` references and manifests.
pub(crate) fn s3_config_of_references(services: &ServiceOptions) -> Result<S3Config, Failure> {
    let fleet = s3_config(services)?;
    Ok(match keys::of_references(services)? {
        Some(credentials) => S3Config { credentials, ..fleet },
        None => fleet,
    })
}

/// How Redis is reached.
pub(crate) fn redis_config(services: &ServiceOptions) -> Result<RedisConfig, Failure> {
    let url = services.redis_url.as_ref().ok_or_else(|| missing("redis_url", "address of Redis"))?;
    Ok(RedisConfig {
        cluster: services.redis_cluster,
        ca_file: ca_file(services, url),
        ..RedisConfig::new(url.clone())
    })
}

/// How RabbitMQ is reached.
pub(crate) fn rabbitmq_config(services: &ServiceOptions, name: &str) -> Result<RabbitMqConfig, Failure> {
    let url = services.amqp_url.as_ref().ok_or_else(|| missing("amqp_url", "address of RabbitMQ"))?;
    Ok(RabbitMqConfig {
        ca_file: ca_file(services, url),
        heartbeat: Duration::from_secs(services.amqp_heartbeat.into()),
        connection_name: name.to_owned(),
        ..RabbitMqConfig::new(url.clone())
    })
}

/// Connects; `None` where a drain was asked for before they all answered. `name` is what the broker's list of
/// connections shows; each request is counted in `registry`.
pub(crate) async fn backends(
    services: &ServiceOptions,
    name: &str,
    registry: &Registry,
    drain: &CancellationToken,
) -> Result<Option<Backends>, Failure> {
    let meter = Meter::register(registry).map_err(Failure::permanent)?;
    tokio::select! {
        backends = connect_metered(services, name, &meter) => backends.map(Some),
        () = drain.cancelled() => Ok(None),
    }
}

/// Connects as [`backends`] does, for a command that is just ended, and whose requests nobody counts.
pub(crate) async fn connect(services: &ServiceOptions, name: &str) -> Result<Backends, Failure> {
    let meter = Meter::register(&Registry::new()).map_err(Failure::permanent)?;
    connect_metered(services, name, &meter).await
}

async fn connect_metered(services: &ServiceOptions, name: &str, meter: &Meter) -> Result<Backends, Failure> {
    // What is missing is said before anything is connected to.
    check_ca_file(services)?;
    let (s3, redis, rabbitmq) = (s3_config(services)?, redis_config(services)?, rabbitmq_config(services, name)?);
    let objects = Retrying::patient(meter.of("s3", S3Objects::connect(s3).map_err(Failure::permanent)?));
    let probed = probe_conditional_put(&objects).await;
    let conditional = probed.map_err(|error| Failure::judged(error, ObjectError::may_pass_later))?;
    let exclusive = if conditional {
        Exclusive::ConditionalPut
    } else {
        tracing::warn!(
            "the object store ignores If-None-Match: commits and decisions are fenced by claims in Redis, which is weaker; \
             see docs/protocol.md"
        );
        Exclusive::Claim
    };
    let progress = progress(&redis, exclusive).await;
    let progress = progress.map_err(|error| Failure::judged(error, ProgressError::is_retryable))?;
    let queue = RabbitMqQueue::connect(rabbitmq).await;
    let queue = queue.map_err(|error| Failure::judged(error, QueueError::is_retryable))?;
    let (queue, progress) = (Arc::new(meter.of("rabbitmq", queue)), Arc::new(meter.of("redis", progress)));
    Ok(Backends { queue, progress, objects: Arc::new(objects), exclusive })
}

/// Connects to Redis. One that is away is done without until it comes, unless it has to fence the commits.
async fn progress(config: &RedisConfig, exclusive: Exclusive) -> Result<RedisProgress, ProgressError> {
    let progress = RedisProgress::open(config)?;
    match progress.check().await {
        Err(error) if error.is_retryable() && exclusive == Exclusive::ConditionalPut => {
            tracing::warn!(%error, "Redis is unreachable: starting without it; it will be used as soon as it answers");
        }
        checked => checked?,
    }
    Ok(progress)
}

/// Seconds of the configuration.
pub(crate) fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds.max(0.0))
}
