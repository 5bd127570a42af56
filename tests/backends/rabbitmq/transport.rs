//! Users, passwords, vhosts and TLS; and what errors say, and never say.

use std::path::PathBuf;

use diorama_backends::kind::ErrorKind::{self, Permanent, Transient};
use diorama_backends::queue::rabbitmq::{RabbitMqConfig, RabbitMqQueue};
use diorama_backends::queue::{Queue, Settlement};
use diorama_tests::services::certificates::Certificates;
use diorama_tests::services::free_port;
use diorama_tests::services::rabbitmq::{PASSWORD, RabbitMq, USER};

use super::{Log, ONE, message, next, pool};

/// Why `url` cannot be used, and whether that may pass; the reason never names a password.
async fn refusal(url: &str, ca_file: Option<PathBuf>) -> (String, ErrorKind) {
    let config = RabbitMqConfig { ca_file, ..RabbitMqConfig::new(url.to_owned().into()) };
    assert!(!format!("{config:?}").contains(PASSWORD));
    let error = RabbitMqQueue::connect(config).await.err().unwrap_or_else(|| panic!("{url} connects"));
    let said = format!("{error} {error:?}");
    assert!(!said.contains(PASSWORD) && !said.contains("hunter2"), "{said}");
    (error.to_string(), error.kind())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_the_address_is_said_without_the_password() {
    let _alone = ONE.lock().await;
    let log = Log::begin();
    let broker = RabbitMq::start();
    let (port, nobody) = (broker.port(), free_port());
    for (url, part, wanted) in [
        (format!("amqp://{USER}:hunter2@127.0.0.1:{port}/{USER}"), "check user and password", Permanent),
        (format!("amqp://guest:{PASSWORD}@127.0.0.1:{port}/{USER}"), "check user and password", Permanent),
        (format!("amqp://{USER}:{PASSWORD}@127.0.0.1:{port}/elsewhere"), "refuses the vhost", Permanent),
        (format!("amqp://{USER}:{PASSWORD}@127.0.0.1:{port}"), "refuses the vhost", Permanent),
        (format!("amqp://{USER}:hunter2@127.0.0.1:{nobody}/{USER}"), "that the broker runs", Transient),
        (format!("amqp://{USER}:hunter2@no-such-host.invalid/{USER}"), "check the host's name", Transient),
        ("http://guest:hunter2@127.0.0.1".to_owned(), "amqp://user:password@host", Permanent),
        ("amqp://hunter2".to_owned(), "no user or no password", Permanent),
        ("hunter2".to_owned(), "amqp://user:password@host", Permanent),
    ] {
        let (error, kind) = refusal(&url, None).await;
        assert!(error.contains(part) && kind == wanted, "{kind:?}: {error}");
    }
    // A broker that is full has room later.
    broker.control(&["set_vhost_limits", "-p", USER, "{\"max-connections\": 0}"]);
    let (error, kind) = refusal(&broker.url(), None).await;
    assert!(error.contains("accepts no more connections") && kind == Transient, "{kind:?}: {error}");
    log.holds_no_secret();
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_with_an_own_authority_works_and_whatever_is_wrong_with_it_is_said() {
    let _alone = ONE.lock().await;
    let log = Log::begin();
    let (ours, strange) = (Certificates::new(), Certificates::new());
    let broker = RabbitMq::start_with_tls(&ours);
    let mut config = RabbitMqConfig::new(broker.tls_url().into());
    config.ca_file = Some(ours.authority());
    let queue = RabbitMqQueue::connect(config).await.unwrap();
    queue.publish(&pool(), &message(0)).await.unwrap();
    let mut consumer = queue.consume(&pool(), 1).await.unwrap();
    let delivery = next(&mut consumer).await;
    assert_eq!(delivery.message, message(0));
    delivery.settle(Settlement::Ack).await.unwrap();

    let url = broker.tls_url();
    let elsewhere = url.replace("localhost", "127.0.0.1");
    let plain_port = url.split('@').next().unwrap().to_owned() + &format!("@localhost:{}/{USER}", broker.port());
    for (url, ca_file, parts) in [
        (&url, None, ["TLS failed", "CA file"]),
        (&url, Some(strange.authority()), ["TLS failed", "CA file"]),
        (&elsewhere, Some(ours.authority()), ["TLS failed", "the certificate is for \"127.0.0.1\""]),
        (&plain_port, Some(ours.authority()), ["TLS failed", "the broker's TLS port"]),
        (&url, Some("missing.pem".into()), ["missing.pem", "cannot be read"]),
        (&url, Some(ours.key()), ["holds no certificate", "set ca_file"]),
        (&broker.url(), Some(ours.authority()), ["a CA file is given", "write amqps://"]),
        (&url.replace("amqps", "amqp"), None, ["without TLS", "amqps://"]),
    ] {
        let (error, kind) = refusal(url, ca_file).await;
        assert!(parts.iter().all(|part| error.contains(part)) && kind == Permanent, "{url}: {kind:?}: {error}");
    }
    log.holds_no_secret();
}
