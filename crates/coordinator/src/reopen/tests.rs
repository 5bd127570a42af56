//! Reopening, against a simple model of what every task comes to.

use std::sync::Arc;

use diorama_core::id::Round;
use diorama_core::outcome::{ErrorCode, TaskError};
use diorama_core::run::{RunState, RunSummary};
use diorama_protocol::decision::Act;
use proptest::prelude::*;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::tests::{Bench, Decide, done, failed, indices, spec, within};
use crate::{CoordinatorError, RunEnd, status, verify};

/// What a made-up worker says of a task in a round: one of four outcomes, chosen by a hash of both.
fn outcome(salt: u64, task: u64, round: u32) -> Outcome {
    let error = |code, retryable| Outcome::Failed(TaskError { code, message: "x".to_owned(), retryable });
    match (salt.wrapping_mul(2654435761) ^ (task * 31 + u64::from(round) * 17)).wrapping_mul(0x9e3779b97f4a7c15) >> 62 {
        0 => error(ErrorCode::ModelError, true),
        1 => error(ErrorCode::Poison, false),
        2 => error(ErrorCode::OutOfMemory, true),
        _ => done(),
    }
}

/// The outcomes of all tasks, and the rounds that ran.
struct Model {
    salt: u64,
    max_rounds: u32,
    round: u32,
    last: Vec<Outcome>,
}

impl Model {
    fn new(salt: u64, tasks: u64, max_rounds: u32) -> Self {
        let mut model = Self { salt, max_rounds, round: 0, last: vec![done(); tasks as usize] };
        model.run((0..tasks).collect());
        model
    }

    /// Runs `tasks` in this round, and what fails of them in those after it.
    fn run(&mut self, mut tasks: Vec<u64>) {
        let last_round = self.round + self.max_rounds;
        loop {
            for task in &tasks {
                self.last[*task as usize] = outcome(self.salt, *task, self.round);
            }
            let again = |task: &u64| matches!(&self.last[*task as usize], Outcome::Failed(error) if error.retryable);
            tasks.retain(again);
            if tasks.is_empty() || self.round == last_round {
                return;
            }
            self.round += 1;
        }
    }

    fn reopen(&mut self, which: &FailedWhere) {
        let fits = |outcome: &Outcome| matches!(outcome, Outcome::Failed(error) if which.fits(error));
        let tasks = (0..self.last.len() as u64).filter(|task| fits(&self.last[*task as usize])).collect();
        self.round += 1;
        self.run(tasks);
    }

    fn failed(&self, which: &FailedWhere) -> u64 {
        let fits = |outcome: &&Outcome| matches!(outcome, Outcome::Failed(error) if which.fits(error));
        self.last.iter().filter(fits).count() as u64
    }
}

async fn agrees(bench: &Bench, spec: &RunSpec, summary: &RunSummary, model: &Model) {
    let failed = model.failed(&FailedWhere::default());
    let wanted = (spec.tasks - failed, failed, model.round);
    assert_eq!((summary.done, summary.failed, summary.rounds), wanted);
    let wanted: Vec<u64> =
        (0..spec.tasks).filter(|task| matches!(model.last[*task as usize], Outcome::Failed(_))).collect();
    assert_eq!(indices(&bench.lines("errors.jsonl")), wanted);
    let history = bench.history().await;
    let verified = verify(&bench.backends, &bench.store, spec, &history, None).await.unwrap();
    assert_eq!((verified.problems, verified.failed), (vec![], failed));
    let counts = bench.counts(spec).await;
    let rebuilt = crate::reconcile(&bench.backends, &bench.store, spec, &history).await.unwrap();
    assert_eq!((rebuilt.done, rebuilt.failed), (summary.done, summary.failed), "counters, exactly");
    let again = bench.counts(spec).await;
    assert_eq!(counts, again, "the workers counted what the markers say");
}

/// Asks for a retry, as the API does.
async fn retry(bench: &Bench, spec: &RunSpec, which: FailedWhere) -> Result<(), CoordinatorError> {
    let mut history = bench.history().await;
    reopen(&bench.backends, &bench.store, spec, &mut history, "test", which).await
}

/// How the run ended; `None` where it goes on.
async fn ending(bench: &Bench) -> Option<RunSummary> {
    bench.history().await.ended().map(|ended| ended.summary.clone())
}

fn which() -> impl Strategy<Value = FailedWhere> {
    let code = prop::sample::select(vec![ErrorCode::ModelError, ErrorCode::Poison, ErrorCode::OutOfMemory]);
    let codes = prop::option::of(prop::collection::btree_set(code, 1..3));
    (codes, prop::option::of(any::<bool>())).prop_map(|(code, retryable)| FailedWhere { code, retryable })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn reopened_again_and_again_every_task_has_the_outcome_of_its_last_round_and_the_counters_are_exact(
        salt in any::<u64>(),
        tasks in 1u64..40,
        shard_size in 1u32..9,
        max_rounds in 0u32..3,
        retries in prop::collection::vec(which(), 1..4),
    ) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let (bench, mut spec) = (Bench::new(), spec(tasks, shard_size));
            spec.retry.max_rounds = max_rounds;
            bench.submit(&spec).await;
            let decide: Decide = Arc::new(move |task, round| outcome(salt, task, round));
            let RunEnd::Finished(mut summary) = bench.drive(&spec, decide.clone()).await else { panic!("finished") };
            let mut model = Model::new(salt, tasks, max_rounds);
            agrees(&bench, &spec, &summary, &model).await;
            for which in retries {
                let reopened = retry(&bench, &spec, which.clone()).await;
                if model.failed(&which) == 0 {
                    assert!(matches!(reopened, Err(CoordinatorError::NothingFailed { .. })), "{reopened:?}");
                    assert_eq!(ending(&bench).await, Some(summary.clone()), "it is left as it was");
                    continue;
                }
                reopened.unwrap();
                assert_eq!(ending(&bench).await, None);
                let error = retry(&bench, &spec, which.clone()).await.unwrap_err();
                assert_eq!(error.to_string(), "the run is running and has not ended; it can be retried when it has");
                model.reopen(&which);
                let RunEnd::Finished(ended) = bench.drive(&spec, decide.clone()).await else { panic!("finished") };
                agrees(&bench, &spec, &ended, &model).await;
                summary = ended;
            }
        });
    }
}

#[tokio::test]
async fn a_cancelled_run_goes_on_with_its_cancelled_tasks_and_its_other_failures_stay_failures() {
    let (bench, spec) = (Bench::new(), spec(12, 3));
    bench.submit(&spec).await;
    // Would have been tried again, had the run not been cancelled: two of the first shard.
    let first: Decide = Arc::new(|task, _| if task == 1 { done() } else { failed(true) });
    bench.commit(&spec, ShardId { round: Round(0), index: 0 }, &first).await;
    bench.decide(&spec, Act::Cancelled).await.unwrap();
    let good: Decide = Arc::new(|_, _| done());
    let RunEnd::Cancelled(summary) = bench.drive(&spec, good.clone()).await else { panic!("cancelled") };
    assert_eq!((summary.done, summary.failed), (1, 11));

    let which = FailedWhere { code: Some([ErrorCode::Cancelled].into()), retryable: None };
    retry(&bench, &spec, which).await.unwrap();
    // Nobody works: the round is made, and the run waits.
    let (coordinator, _) = bench.coordinator(|_| ());
    let drain = CancellationToken::new();
    let stop_when_it_is_reopened = async {
        while bench.history().await.reopening().is_some() {
            tokio::task::yield_now().await;
        }
        drain.cancel();
    };
    let (end, ()) = within(async { tokio::join!(coordinator.drive(&spec, &drain), stop_when_it_is_reopened) }).await;
    assert_eq!(end.unwrap(), RunEnd::Drained);
    let now = status(&bench.backends, &bench.store, &spec, &bench.history().await).await.unwrap();
    assert_eq!((now.state, now.done, now.failed, now.retrying, now.round), (RunState::Running, 1, 2, 9, 1));

    let RunEnd::Finished(summary) = bench.drive(&spec, good).await else { panic!("finished") };
    assert_eq!((summary.done, summary.failed, summary.failures["model_error"]), (10, 2, 2));
    assert_eq!(indices(&bench.lines("errors.jsonl")), [0, 2]);
    let verified = verify(&bench.backends, &bench.store, &spec, &bench.history().await, None).await.unwrap();
    assert_eq!((verified.problems, verified.done, verified.failed), (vec![], 10, 2));
}
