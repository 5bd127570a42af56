//! A look at a broker: whether it lets us in, is new enough, and does with a private queue what a fleet needs.

use std::time::Duration;

use diorama_core::id::AttemptId;
use lapin::options::{
    BasicAckOptions, BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions,
    QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Confirmation};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::RabbitMqConfig;
use super::link::{Endpoint, GREETING, Link};
use super::problem::Problem;
use crate::diagnosis::{Finding, is_at_least};

/// The first version that has what we use: dead letters that are not lost on their way.
const LEAST: (u32, u32) = (3, 10);

/// How long one step may take.
const PATIENCE: Duration = Duration::from_secs(10);

const CONNECTION: &str = "RabbitMQ: connection";
const VERSION: &str = "RabbitMQ: version";
const QUEUES: &str = "RabbitMQ: queues";

/// Looks at the broker of `config`. Leaves nothing behind: its queue is its own and ends with it.
pub async fn diagnose(config: &RabbitMqConfig) -> Vec<Finding> {
    let endpoint = match Endpoint::new(config) {
        Ok(endpoint) => endpoint,
        Err(error) => return vec![Finding::problem(CONNECTION, error.to_string(), "correct amqp_url and ca_file")],
    };
    let link = match endpoint.open("doctor").await {
        Ok(link) => link,
        Err(Problem { kind, text, .. }) if kind.is_retryable() => {
            return vec![Finding::away(CONNECTION, text, "start the broker, or correct amqp_url")];
        }
        Err(Problem { text, .. }) => {
            let advice = "correct amqp_url and ca_file, or the broker's users and vhosts";
            return vec![Finding::problem(CONNECTION, text, advice)];
        }
    };
    let connected = Finding::ok(CONNECTION, endpoint.address());
    vec![connected, version(&endpoint).await, queues(&link).await]
}

/// The broker's version, from its greeting, which lapin keeps to itself.
async fn version(endpoint: &Endpoint) -> Finding {
    let Some(address) = endpoint.plain_address() else {
        return Finding::ok(VERSION, "not checked over TLS; 3.10 or later is needed");
    };
    let found = match tokio::time::timeout(PATIENCE, greeting(address)).await {
        Ok(Ok(greeting)) => version_in(&greeting).unwrap_or_default(),
        Ok(Err(_)) | Err(_) => String::new(),
    };
    match is_at_least(&found, LEAST) {
        Some(true) => Finding::ok(VERSION, found),
        Some(false) => Finding::problem(VERSION, found, "3.10 or later is needed: update the broker"),
        None => Finding::warning(VERSION, "the broker does not tell", "see that it is RabbitMQ 3.10 or later"),
    }
}

/// The frame that a broker sends first: `connection.start`, with its properties.
async fn greeting(address: (&str, u16)) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(GREETING).await?;
    let mut head = [0; 7];
    stream.read_exact(&mut head).await?;
    let length = u32::from_be_bytes([head[3], head[4], head[5], head[6]]);
    let mut frame = vec![0; length.min(1 << 16) as usize];
    stream.read_exact(&mut frame).await?;
    Ok(frame)
}

/// The property `version`, a long string.
fn version_in(frame: &[u8]) -> Option<String> {
    const NAME: &[u8] = b"\x07versionS";
    let at = frame.windows(NAME.len()).position(|window| window == NAME)? + NAME.len();
    let length = u32::from_be_bytes(frame.get(at..at + 4)?.try_into().ok()?) as usize;
    Some(String::from_utf8_lossy(frame.get(at + 4..at + 4 + length.min(100))?).into_owned())
}

/// Declares a quorum queue, publishes with a confirm, takes the message, and removes the queue.
async fn queues(link: &Link) -> Finding {
    let name: ShortString = format!("diorama.doctor-{}", AttemptId::generate()).into();
    let found = match tokio::time::timeout(PATIENCE, use_queue(link, &name)).await {
        Ok(Ok(())) => Finding::ok(QUEUES, "a quorum queue accepts a message, confirms it and returns it"),
        Ok(Err(problem)) => Finding::problem(
            QUEUES,
            problem,
            "give the user the right to configure, write and read queues and exchanges named diorama.* and the default \
             exchange (rabbitmqctl set_permissions)",
        ),
        Err(_) if link.connection.status().blocked() => Finding::away(
            QUEUES,
            "the broker is in alarm and accepts no messages",
            "free its memory or disk (rabbitmqctl status shows the alarm)",
        ),
        Err(_) => Finding::away(
            QUEUES,
            format!("a message to a quorum queue was not confirmed within {PATIENCE:?}"),
            "see whether a majority of the broker's nodes is up; docs/operations.md on queues without a leader",
        ),
    };
    // Where this fails, the queue goes a minute later by itself.
    let delete = link.channel.queue_delete(name, QueueDeleteOptions::default());
    let _ = tokio::time::timeout(Duration::from_secs(2), delete).await;
    found
}

async fn use_queue(link: &Link, name: &ShortString) -> Result<(), String> {
    let channel = &link.channel;
    let words = |error: lapin::Error| error.to_string();
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    arguments.insert("x-expires".into(), AMQPValue::LongLongInt(60_000));
    let durable = QueueDeclareOptions { durable: true, ..Default::default() };
    channel.queue_declare(name.clone(), durable, arguments).await.map_err(words)?;
    channel.confirm_select(ConfirmSelectOptions::default()).await.map_err(words)?;
    let options = BasicPublishOptions { mandatory: true, ..Default::default() };
    let publish = channel.basic_publish("".into(), name.clone(), options, b"doctor", BasicProperties::default());
    let confirmed = publish.await.map_err(words)?.await.map_err(words)?;
    match confirmed {
        Confirmation::Ack(None) => {}
        other => return Err(format!("the broker did not take a message: {other:?}")),
    }
    let taken = channel.basic_get(name.clone(), BasicGetOptions { no_ack: false }).await.map_err(words)?;
    let message = taken.ok_or_else(|| "a message was confirmed and is not in its queue".to_owned())?;
    message.delivery.acker.ack(BasicAckOptions::default()).await.map_err(words)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_found_in_a_greeting_and_in_nothing_else() {
        let frame = b"\x00\x0a\x00\x0a\x00\x09\x00\x00\x00\x20\x07productS\x00\x00\x00\x08RabbitMQ\x07versionS\x00\x00\x00\x063.10.8";
        assert_eq!(version_in(frame).as_deref(), Some("3.10.8"));
        assert_eq!(version_in(&frame[..frame.len() - 1]), None);
        assert_eq!(version_in(b"HTTP/1.1 400 Bad Request"), None);
    }
}
