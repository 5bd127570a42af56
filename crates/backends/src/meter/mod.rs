//! Times every request to a service for Prometheus, without knowing what is asked: a decorator for each of the traits.

mod objects;
mod progress;
mod queue;

use std::time::Instant;

use prometheus::{Error, HistogramOpts, HistogramVec, Registry};

use crate::kind::ErrorKind;
use crate::objects::ObjectError;
use crate::progress::ProgressError;
use crate::queue::QueueError;

/// From a lookup in memory to a store that takes its time.
const SECONDS: [f64; 13] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0];

/// Where the requests of a process are counted. Clones share it.
#[derive(Debug, Clone)]
pub struct Meter {
    seconds: HistogramVec,
}

/// A service whose requests are timed.
pub struct Metered<S> {
    inner: S,
    meter: Meter,
    service: &'static str,
}

impl Meter {
    /// Registers `diorama_backend_request_seconds{service, operation, outcome}`; the outcome is `ok` or the kind of the
    /// error.
    pub fn register(registry: &Registry) -> Result<Self, Error> {
        let about = "Seconds of each request to a service, by how it ended";
        let opts = HistogramOpts::new("diorama_backend_request_seconds", about).buckets(SECONDS.to_vec());
        let seconds = HistogramVec::new(opts, &["service", "operation", "outcome"])?;
        registry.register(Box::new(seconds.clone()))?;
        Ok(Self { seconds })
    }

    /// The same service, timed under the name `service`.
    pub fn of<S>(&self, service: &'static str, inner: S) -> Metered<S> {
        Metered { inner, meter: self.clone(), service }
    }

    async fn time<T, E: Kinded>(
        &self,
        service: &str,
        operation: &str,
        request: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let started = Instant::now();
        let answer = request.await;
        let outcome = match &answer {
            Ok(_) => "ok",
            Err(error) => name(error.kind()),
        };
        self.seconds.with_label_values(&[service, operation, outcome]).observe(started.elapsed().as_secs_f64());
        answer
    }
}

impl<S> Metered<S> {
    async fn time<T, E: Kinded>(&self, operation: &str, request: impl Future<Output = Result<T, E>>) -> Result<T, E> {
        self.meter.time(self.service, operation, request).await
    }
}

/// An error of a service, which has a kind.
trait Kinded {
    fn kind(&self) -> ErrorKind;
}

impl Kinded for ObjectError {
    fn kind(&self) -> ErrorKind {
        self.kind.into()
    }
}

impl Kinded for ProgressError {
    fn kind(&self) -> ErrorKind {
        self.kind()
    }
}

impl Kinded for QueueError {
    fn kind(&self) -> ErrorKind {
        self.kind()
    }
}

fn name(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::Permanent => "permanent",
        ErrorKind::Transient => "transient",
        ErrorKind::Conflict => "conflict",
        ErrorKind::NotFound => "not_found",
    }
}

#[cfg(test)]
mod tests {
    use diorama_core::id::{Pool, Round, RunId, ShardId};
    use diorama_core::message::ShardMessage;

    use super::*;
    use crate::objects::Objects;
    use crate::objects::embedded::FolderObjects;
    use crate::progress::Progress;
    use crate::progress::embedded::EmbeddedProgress;
    use crate::queue::embedded::EmbeddedQueue;
    use crate::queue::{Queue, Settlement};

    #[tokio::test]
    async fn every_request_is_counted_once_under_its_service_operation_and_outcome() {
        let registry = Registry::new();
        let meter = Meter::register(&registry).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let objects = meter.of("s3", FolderObjects::open(folder.path()).unwrap());
        objects.put("a", bytes::Bytes::from_static(b"1")).await.unwrap();
        objects.get("a").await.unwrap();
        objects.get("nothing").await.unwrap_err();
        let progress = meter.of("redis", EmbeddedProgress::default());
        progress.ring().await.unwrap();
        let queue = meter.of("rabbitmq", EmbeddedQueue::default());
        let pool = Pool::new("pool").unwrap();
        let message = ShardMessage { run: RunId::new("run").unwrap(), shard: ShardId { round: Round(0), index: 0 } };
        queue.publish(&pool, &message).await.unwrap();
        let mut consumer = queue.consume(&pool, 1).await.unwrap();
        let delivery = consumer.next().await.unwrap();
        delivery.settle(Settlement::Ack).await.unwrap();

        let counted = |service: &str, operation: &str, outcome: &str| {
            meter.seconds.with_label_values(&[service, operation, outcome]).get_sample_count()
        };
        for (service, operation, outcome) in [
            ("s3", "put", "ok"),
            ("s3", "get", "ok"),
            ("s3", "get", "not_found"),
            ("redis", "ring", "ok"),
            ("rabbitmq", "publish", "ok"),
            ("rabbitmq", "consume", "ok"),
            ("rabbitmq", "settle", "ok"),
        ] {
            assert_eq!(counted(service, operation, outcome), 1, "{service} {operation} {outcome}");
        }
    }
}
