//! Publishes with confirms, many callers at a time, through one task that owns the connection.
//!
//! The task takes what has gathered, publishes it, waits for all confirms, and answers; meanwhile the next batch gathers.
//! One task and whole batches, because of how lapin numbers and matches: two tasks that publish on one channel can have
//! each other's confirms, and a returned message is attached to whichever confirm comes next. Within a batch that has all
//! its confirms, every return is there, and names its message.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use diorama_core::id::Pool;
use diorama_core::message::ShardMessage;
use futures::future::join_all;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Confirmation};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::link::{Endpoint, Link, Outage, pauses};
use super::problem::Problem;
use super::topology::{Declared, queue_of};
use crate::kind::ErrorKind;
use crate::queue::QueueError;

const PUBLISHING: &str = "publishing";
/// Messages in flight at most: beyond it a broker gains nothing.
const BATCH: usize = 1000;
/// `delivery_mode` of messages that survive a restart of the broker.
const PERSISTENT: u8 = 2;

pub(super) struct Publisher {
    requests: mpsc::Sender<Request>,
    patience: Duration,
    _task: AbortOnDropHandle<()>,
}

struct Request {
    pool: Pool,
    body: Vec<u8>,
    deadline: Instant,
    answer: oneshot::Sender<Result<(), QueueError>>,
}

impl Publisher {
    /// Publishes through `link` first, and through later ones when it breaks.
    pub(super) fn start(endpoint: Arc<Endpoint>, link: Link, patience: Duration) -> Self {
        let (requests, received) = mpsc::channel(BATCH);
        let task = Task { endpoint, link: None, fresh: Some(link), outage: Outage::none("publishing") };
        Self { requests, patience, _task: AbortOnDropHandle::new(tokio::spawn(task.run(received))) }
    }

    pub(super) async fn publish(&self, pool: &Pool, message: &ShardMessage) -> Result<(), QueueError> {
        let body = serde_json::to_vec(message)
            .map_err(|error| QueueError::failed(ErrorKind::Permanent, PUBLISHING, error.to_string()))?;
        let (answer, answered) = oneshot::channel();
        let request = Request { pool: pool.clone(), body, deadline: Instant::now() + self.patience, answer };
        let ended = || {
            let problem = "the task that publishes has ended: the program is shutting down";
            QueueError::failed(ErrorKind::Transient, PUBLISHING, problem)
        };
        self.requests.send(request).await.map_err(|_| ended())?;
        answered.await.map_err(|_| ended())?
    }
}

struct Open {
    link: Link,
    declared: Declared,
}

struct Task {
    endpoint: Arc<Endpoint>,
    link: Option<Open>,
    /// Open, but not yet told to confirm.
    fresh: Option<Link>,
    outage: Outage,
}

impl Task {
    async fn run(mut self, mut requests: mpsc::Receiver<Request>) {
        let mut batch = Vec::with_capacity(BATCH);
        while requests.recv_many(&mut batch, BATCH).await > 0 {
            let mut pauses = pauses();
            loop {
                let (failed, problem) = self.publish(std::mem::take(&mut batch)).await;
                let Some(problem) = problem else {
                    self.outage.ends();
                    break;
                };
                self.outage.goes_on(&problem);
                batch = give_up_on_the_late(failed, &problem);
                tokio::time::sleep(pauses.next().unwrap_or_default()).await;
                // Who comes during an outage has a deadline too.
                while batch.len() < BATCH
                    && let Ok(request) = requests.try_recv()
                {
                    batch.push(request);
                }
                if batch.is_empty() {
                    break;
                }
            }
        }
    }

    /// Publishes the batch, answers those that the broker has, and returns the others with the reason.
    async fn publish(&mut self, batch: Vec<Request>) -> (Vec<Request>, Option<Problem>) {
        // A broker in alarm reads nothing, for as long as the alarm lasts.
        let Some(first) = batch.iter().map(|request| request.deadline).min() else { return (batch, None) };
        let outcome = tokio::time::timeout_at(first, self.confirmed(&batch)).await;
        let outcomes = match outcome {
            Ok(Ok(outcomes)) => outcomes,
            Ok(Err(Undone { problem, pool })) => {
                self.link = None;
                // A queue that is refused is no fault of the messages for other ones.
                let concerned = |request: &Request| pool.is_none() || pool.as_ref() == Some(&request.pool);
                if problem.kind.is_retryable() || batch.iter().all(concerned) {
                    return (batch, Some(problem));
                }
                let (refused, others): (Vec<_>, Vec<_>) = batch.into_iter().partition(concerned);
                give_up_on_the_late(refused, &problem);
                return (others, Some(problem.that_may_pass()));
            }
            Err(_) => {
                let blocked = self.link.take().is_some_and(|open| open.link.connection.status().blocked());
                let problem = match blocked {
                    true => "the broker is in alarm and accepts no messages: free its memory or disk",
                    false => "the broker did not confirm in time",
                };
                return (batch, Some(Problem::transient(format!("{}: {problem}", self.endpoint.address()))));
            }
        };
        let (mut failed, mut problem) = (Vec::new(), None::<Problem>);
        for (request, outcome) in batch.into_iter().zip(outcomes) {
            match outcome {
                Outcome::Taken => {
                    let _ = request.answer.send(Ok(()));
                    continue;
                }
                Outcome::Unroutable => {
                    if let Some(open) = &mut self.link {
                        open.declared.forget(&request.pool);
                    }
                    let text = format!("the queue {} is gone: declaring it again", queue_of(&request.pool));
                    problem = Some(Problem::transient(text));
                }
                Outcome::Refused => {
                    problem = Some(Problem::transient(format!("the queue {} refuses", queue_of(&request.pool))));
                }
                Outcome::Unknown(error) => {
                    self.link = None;
                    let unknown = Problem::from(error).while_doing(&self.endpoint.address());
                    // What the broker said of one message closed the channel for all: that word is the one that counts.
                    if problem.as_ref().is_none_or(|problem| problem.kind.is_retryable()) {
                        problem = Some(unknown);
                    }
                }
            }
            failed.push(request);
        }
        (failed, problem)
    }

    /// What became of each message, all confirms seen.
    async fn confirmed(&mut self, batch: &[Request]) -> Result<Vec<Outcome>, Undone> {
        let pools: HashSet<&Pool> = batch.iter().map(|request| &request.pool).collect();
        let open = self.open().await.map_err(|problem| Undone { problem, pool: None })?;
        for pool in pools {
            let declared = open.1.declared.ensure(open.0, &open.1.link.channel, pool).await;
            declared.map_err(|problem| Undone { problem, pool: Some(pool.clone()) })?;
        }
        let channel = &open.1.link.channel;
        let publishing = join_all(batch.iter().enumerate().map(|(index, request)| {
            let properties = BasicProperties::default()
                .with_delivery_mode(PERSISTENT)
                .with_content_type("application/json".into())
                .with_message_id(index.to_string().into());
            let options = BasicPublishOptions { mandatory: true, ..Default::default() };
            channel.basic_publish("".into(), queue_of(&request.pool), options, &request.body, properties)
        }));
        let confirms = publishing.await.into_iter().map(async |sent| sent?.await);
        let mut returned = HashSet::new();
        let mut outcomes = Vec::with_capacity(batch.len());
        for confirmed in join_all(confirms).await {
            let outcome = match &confirmed {
                Ok(Confirmation::Ack(_)) => Outcome::Taken,
                Ok(Confirmation::Nack(_) | Confirmation::NotRequested) => Outcome::Refused,
                Err(error) => Outcome::Unknown(error.clone()),
            };
            outcomes.push(outcome);
            if let Some(message) = confirmed.ok().and_then(Confirmation::take_message)
                && let Some(id) = message.properties.message_id()
            {
                returned.insert(id.to_string());
            }
        }
        for (index, outcome) in outcomes.iter_mut().enumerate() {
            if returned.contains(&index.to_string()) {
                *outcome = Outcome::Unroutable;
            }
        }
        Ok(outcomes)
    }

    async fn open(&mut self) -> Result<(&Endpoint, &mut Open), Problem> {
        if self.link.as_ref().is_some_and(|open| !open.link.is_up()) {
            self.link = None;
        }
        if self.link.is_none() {
            let link = match self.fresh.take().filter(Link::is_up) {
                Some(link) => link,
                None => self.endpoint.open("publish").await?,
            };
            link.channel.confirm_select(ConfirmSelectOptions::default()).await.map_err(Problem::from)?;
            self.link = Some(Open { link, declared: Declared::default() });
        }
        let open = self.link.as_mut().ok_or_else(|| Problem::transient("no connection"))?;
        Ok((&self.endpoint, open))
    }
}

/// Why nothing of a batch was published; of which pool's queue, where it is about one.
struct Undone {
    problem: Problem,
    pool: Option<Pool>,
}

enum Outcome {
    Taken,
    Unroutable,
    Refused,
    /// The connection broke first.
    Unknown(lapin::Error),
}

/// Answers whose time is over, and everybody where no time will help.
fn give_up_on_the_late(failed: Vec<Request>, problem: &Problem) -> Vec<Request> {
    let now = Instant::now();
    let helps = problem.kind.is_retryable();
    let (waiting, late): (Vec<_>, Vec<_>) = failed.into_iter().partition(|request| helps && request.deadline > now);
    for request in late {
        let _ = request.answer.send(Err(problem.clone().of(PUBLISHING)));
    }
    waiting
}
