//! Looks into queues and takes dead letters, one question at a time, through one task that owns the connection.

use std::sync::Arc;
use std::time::Duration;

use diorama_core::id::Pool;
use lapin::options::{BasicAckOptions, BasicGetOptions, QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::FieldTable;
use tokio::sync::{mpsc, oneshot};
use tokio_util::task::AbortOnDropHandle;
use tracing::error;

use super::delivery::{Generation, Origin, read};
use super::link::{Endpoint, Link};
use super::problem::Problem;
use super::topology::{Declared, dead_queue_of, queue_of};
use crate::kind::ErrorKind;
use crate::queue::{Delivery, QueueDepth, QueueError, Settlement};

const TAKING: &str = "taking a dead letter";
const LOOKING: &str = "looking into a queue";
const REMOVING: &str = "removing a queue";

/// A broker that is up answers at once.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

pub(super) struct Inspector {
    questions: mpsc::Sender<Question>,
    _task: AbortOnDropHandle<()>,
}

enum Question {
    DeadLetter(Pool, oneshot::Sender<Result<Option<Delivery>, QueueError>>),
    Depth(Pool, oneshot::Sender<Result<QueueDepth, QueueError>>),
    RemoveIfIdle(Pool, oneshot::Sender<Result<bool, QueueError>>),
}

impl Inspector {
    /// Connects with the first question: workers ask none.
    pub(super) fn start(endpoint: Arc<Endpoint>) -> Self {
        let (questions, asked) = mpsc::channel(16);
        Self { questions, _task: AbortOnDropHandle::new(tokio::spawn(Task { endpoint, open: None }.run(asked))) }
    }

    pub(super) async fn dead_letter(&self, pool: &Pool) -> Result<Option<Delivery>, QueueError> {
        let (answer, answered) = oneshot::channel();
        self.ask(TAKING, Question::DeadLetter(pool.clone(), answer), answered).await
    }

    pub(super) async fn depth(&self, pool: &Pool) -> Result<QueueDepth, QueueError> {
        let (answer, answered) = oneshot::channel();
        self.ask(LOOKING, Question::Depth(pool.clone(), answer), answered).await
    }

    pub(super) async fn remove_if_idle(&self, pool: &Pool) -> Result<bool, QueueError> {
        let (answer, answered) = oneshot::channel();
        self.ask(REMOVING, Question::RemoveIfIdle(pool.clone(), answer), answered).await
    }

    async fn ask<T>(
        &self,
        doing: &'static str,
        question: Question,
        answered: oneshot::Receiver<Result<T, QueueError>>,
    ) -> Result<T, QueueError> {
        let ended = || {
            let problem = "the task that asks has ended: the program is shutting down";
            QueueError::failed(ErrorKind::Transient, doing, problem)
        };
        self.questions.send(question).await.map_err(|_| ended())?;
        answered.await.map_err(|_| ended())?
    }
}

struct Task {
    endpoint: Arc<Endpoint>,
    open: Option<Open>,
}

struct Open {
    link: Link,
    generation: Generation,
    declared: Declared,
}

impl Task {
    async fn run(mut self, mut questions: mpsc::Receiver<Question>) {
        while let Some(question) = questions.recv().await {
            match question {
                Question::DeadLetter(pool, answer) => {
                    let taken = self.ask(TAKING, &pool, Open::dead_letter).await;
                    // Who asked may be gone.
                    if let Err(Ok(Some(delivery))) = answer.send(taken) {
                        let _ = delivery.settle(Settlement::HandBack).await;
                    }
                }
                Question::Depth(pool, answer) => {
                    let _ = answer.send(self.ask(LOOKING, &pool, Open::depth).await);
                }
                Question::RemoveIfIdle(pool, answer) => {
                    let removed = self.ask(REMOVING, &pool, Open::remove_if_idle).await;
                    if let (Ok(true), Some(open)) = (&removed, &mut self.open) {
                        open.declared.forget(&pool);
                    }
                    let _ = answer.send(removed);
                }
            }
        }
    }

    /// Asks, and once more through a new connection where the old one turns out to be dead or the queue deleted.
    async fn ask<T>(
        &mut self,
        doing: &'static str,
        pool: &Pool,
        question: impl AsyncFn(&Open, &Pool) -> Result<T, Problem>,
    ) -> Result<T, QueueError> {
        loop {
            let old = self.open.as_ref().is_some_and(|open| open.link.is_up());
            let asking = async {
                let open = self.open().await?;
                open.1.declared.ensure(open.0, &open.1.link.channel, pool).await?;
                question(open.1, pool).await
            };
            let problem = match tokio::time::timeout(ANSWER_TIMEOUT, asking).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(problem)) => problem,
                Err(_) => {
                    Problem::transient(format!("{}: no answer within {ANSWER_TIMEOUT:?}", self.endpoint.address()))
                }
            };
            self.open = None;
            if !old {
                return Err(problem.of(doing));
            }
        }
    }

    async fn open(&mut self) -> Result<(&Endpoint, &mut Open), Problem> {
        if self.open.as_ref().is_none_or(|open| !open.link.is_up()) {
            let link = self.endpoint.open("inspect").await?;
            let generation = Generation::of(&link.channel);
            self.open = Some(Open { link, generation, declared: Declared::default() });
        }
        let open = self.open.as_mut().ok_or_else(|| Problem::transient("no connection"))?;
        Ok((&self.endpoint, open))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.generation.end();
    }
}

impl Open {
    async fn dead_letter(&self, pool: &Pool) -> Result<Option<Delivery>, Problem> {
        loop {
            let got = self.link.channel.basic_get(dead_queue_of(pool), BasicGetOptions { no_ack: false }).await;
            let Some(message) = got.map_err(Problem::from)? else { return Ok(None) };
            match read(message.delivery, &self.generation, Origin::DeadLetters) {
                Ok(delivery) => return Ok(Some(delivery)),
                Err(unreadable) => {
                    let problem = &unreadable.problem;
                    error!(%pool, problem, "a dead letter is not Diorama's; it is discarded");
                    let acked = unreadable.acker.ack(BasicAckOptions::default()).await;
                    acked.map_err(Problem::from)?;
                }
            }
        }
    }

    /// A quorum queue knows no "if empty": so it is looked at first.
    async fn remove_if_idle(&self, pool: &Pool) -> Result<bool, Problem> {
        if self.depth(pool).await? != QueueDepth::default() {
            return Ok(false);
        }
        for queue in [queue_of(pool), dead_queue_of(pool)] {
            self.link.channel.queue_delete(queue, QueueDeleteOptions::default()).await.map_err(Problem::from)?;
        }
        Ok(true)
    }

    async fn depth(&self, pool: &Pool) -> Result<QueueDepth, Problem> {
        let look = async |queue| {
            let passive = QueueDeclareOptions { passive: true, ..Default::default() };
            self.link.channel.queue_declare(queue, passive, FieldTable::default()).await.map_err(Problem::from)
        };
        let (queue, dead) = (look(queue_of(pool)).await?, look(dead_queue_of(pool)).await?);
        Ok(QueueDepth {
            ready: u64::from(queue.message_count()),
            consumers: u64::from(queue.consumer_count()),
            dead: u64::from(dead.message_count()),
        })
    }
}
