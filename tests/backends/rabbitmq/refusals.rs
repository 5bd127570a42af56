//! What a broker refuses once we are in: at once where it never granted it, after a while where it did, and told in any
//! case to whoever waits.

use std::time::Duration;

use diorama_backends::kind::ErrorKind;
use diorama_backends::queue::rabbitmq::{RabbitMqConfig, RabbitMqQueue};
use diorama_backends::queue::{Queue, QueueError, Settlement};
use diorama_core::id::Pool;
use diorama_tests::services::rabbitmq::{PASSWORD, RabbitMq, USER};
use lapin::options::QueueDeclareOptions;
use lapin::types::FieldTable;

use super::{Log, ONE, config, connect, foreign_channel, message, pool, until, within};

/// What every use of the pool's queue comes to.
async fn everywhere(queue: &RabbitMqQueue) -> Vec<QueueError> {
    vec![
        within(queue.publish(&pool(), &message(0))).await.unwrap_err(),
        within(queue.consume(&pool(), 1)).await.err().unwrap(),
        within(queue.depth(&pool())).await.unwrap_err(),
        within(queue.dead_letter(&pool())).await.err().unwrap(),
    ]
}

fn assert_permanent(errors: &[QueueError], parts: &[&str]) {
    for error in errors {
        assert_eq!(error.kind(), ErrorKind::Permanent, "{error}");
        assert!(std::error::Error::source(error).is_some(), "{error:?}");
        let said = format!("{error} {error:?}");
        assert!(!said.contains(PASSWORD), "{said}");
        for part in parts {
            assert!(said.contains(part), "no {part:?} in {said}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_declared_otherwise_is_permanent_and_says_how_to_delete_it() {
    let _alone = ONE.lock().await;
    let broker = RabbitMq::start();
    let (_foreign, channel) = foreign_channel(&broker).await;
    let classic = QueueDeclareOptions { durable: true, ..Default::default() };
    channel.queue_declare("diorama.default".into(), classic, FieldTable::default()).await.unwrap();
    let queue = connect(&broker).await;
    let address = format!("127.0.0.1:{}", broker.port());
    assert_permanent(&everywhere(&queue).await, &["PRECONDITION_FAILED", "pool default", "delete_queue", &address]);
    // Another pool's messages, in the same batch, are none the worse.
    let (ours, others) = (pool(), Pool::new("other").unwrap());
    let (one, other) = (message(1), message(2));
    let (refused, taken) =
        within(async { tokio::join!(queue.publish(&ours, &one), queue.publish(&others, &other)) }).await;
    assert_permanent(&[refused.unwrap_err()], &["delete_queue"]);
    taken.unwrap();
    // As it says.
    broker.control(&["delete_queue", "-p", USER, "diorama.default"]);
    within(queue.publish(&pool(), &message(0))).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_without_rights_is_told_which_it_needs() {
    let _alone = ONE.lock().await;
    let broker = RabbitMq::start();
    broker.control(&["set_permissions", "-p", USER, USER, "nothing", "nothing", "nothing"]);
    let queue = connect(&broker).await;
    assert_permanent(&everywhere(&queue).await, &["ACCESS_REFUSED", "set_permissions"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_that_changes_under_a_consumer_is_waited_for_a_while_and_then_told() {
    let _alone = ONE.lock().await;
    let log = Log::begin();
    let broker = RabbitMq::start();
    let change_to = |password: &str| {
        broker.control(&["change_password", USER, password]);
        broker.control(&["close_all_connections", "-p", USER, "a new password"]);
    };
    // Long enough for somebody to put it back, and never waited for to its end.
    let patient = RabbitMqConfig { refusal_patience: Duration::from_secs(3600), ..config(&broker) };
    let patient = RabbitMqQueue::connect(patient).await.unwrap();
    let mut consumer = patient.consume(&pool(), 1).await.unwrap();
    let refused = within(async {
        let refused = async {
            change_to("another");
            log.until_it_has("refuses the login").await;
            broker.control(&["change_password", USER, PASSWORD]);
            log.until_it_has("consuming through RabbitMQ continues").await;
            patient.publish(&pool(), &message(0)).await.unwrap();
        };
        tokio::join!(refused, consumer.next()).1
    });
    refused.await.unwrap().settle(Settlement::Ack).await.unwrap();

    let hasty = RabbitMqConfig { refusal_patience: Duration::from_millis(1), ..config(&broker) };
    let hasty = RabbitMqQueue::connect(hasty).await.unwrap();
    let mut consumer = hasty.consume(&pool(), 1).await.unwrap();
    change_to("another");
    let told = within(consumer.next()).await.err().unwrap();
    assert_permanent(&[told], &["check user and password in amqp_url"]);
    log.until_it_has("consuming through RabbitMQ is refused, until somebody fixes it").await;
    let told = within(hasty.publish(&pool(), &message(1))).await.unwrap_err();
    assert_permanent(&[told], &["check user and password in amqp_url"]);

    // Whoever goes on all the same has a consumer as soon as it is mended.
    broker.control(&["change_password", USER, PASSWORD]);
    until("a message is published again", async || hasty.publish(&pool(), &message(2)).await.is_ok()).await;
    let delivery = within(async {
        loop {
            match consumer.next().await {
                Ok(delivery) => return delivery,
                Err(refused) => assert!(!refused.is_retryable(), "{refused}"),
            }
        }
    });
    assert_eq!(delivery.await.message, message(2));
    log.holds_no_secret();
}
