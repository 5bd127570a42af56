//! How a run of a shared store stands: from its log, and from the progress service where that answers. Any coordinator
//! can say, whoever drives it.

use diorama_backends::progress::{Counts, Holder, THROUGHPUT_SECONDS, Throughput};
use diorama_core::clock;
use diorama_core::id::{Pool, RunId, ShardId};
use diorama_core::price::{Cost, PoolPrice};
use diorama_core::round::RoundInfo;
use diorama_core::run::{AcceptanceCounts, Labels, Owner, RunSpec, RunState, RunSummary};
use diorama_protocol::history::History;
use diorama_protocol::outcomes::Outcomes;
use diorama_protocol::{Backends, RunStore};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::error::CoordinatorError;
use crate::waiting::Waiting;
use crate::watch::retrying;

/// The rate is taken over this many seconds.
const RATE_SECONDS: i64 = 60;

/// How soon the leading coordinator has taken up a run that was submitted.
const FRESH: SignedDuration = SignedDuration::from_secs(10);

/// Shards whose markers are counted one by one where the progress service is away. Of a larger run, the counts are left
/// out then.
const COUNTED_BY_HAND: u64 = 2000;

/// How a run stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RunStatus {
    /// The run.
    #[schema(value_type = String)]
    pub run: RunId,
    /// Whose it is; `None` where it was submitted without a token.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    #[schema(value_type = Option<Object>, example = json!({ "token": "sam", "group": "birds" }))]
    pub owner: Option<Owner>,
    /// What its owner calls it.
    pub name: Option<String>,
    /// What its owner files it under.
    #[serde(skip_serializing_if = "Labels::is_empty", default)]
    #[schema(value_type = Object)]
    pub labels: Labels,
    /// The pool that does the work.
    #[schema(value_type = String)]
    pub pool: Pool,
    /// Submitting, running, paused, cancelled or finished; a run is `cancelled` as soon as that was asked for.
    #[schema(value_type = String, example = "running")]
    pub state: RunState,
    /// What it waits for, where it has not ended and is not paused, and nobody is at work for it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub waiting: Option<Waiting>,
    /// Why it is paused, where that was not its owner's wish.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reason: Option<String>,
    /// What of this cannot be relied on now, and why.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub degraded: Option<String>,
    /// When it was submitted.
    #[schema(value_type = String, format = DateTime)]
    pub submitted_at: Timestamp,
    /// Valid rows.
    pub tasks: u64,
    /// Rows that were refused and skipped.
    pub invalid_rows: u64,
    /// Pictures committed.
    pub done: u64,
    /// Pictures made of shards that are not committed yet.
    pub in_work: u64,
    /// Tasks that failed for good.
    pub failed: u64,
    /// Tasks that failed and will be, or are being, retried.
    pub retrying: u64,
    /// What became of its pictures so far, where it accepts only some.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    #[schema(value_type = Option<Object>)]
    pub acceptance: Option<AcceptanceCounts>,
    /// The round that is under way: 0, then rounds of retries.
    pub round: u32,
    /// Shards of all rounds so far.
    pub shards: u64,
    /// Of those, shards that are committed.
    pub shards_committed: u64,
    /// Shards that workers hold.
    pub shards_running: u64,
    /// Over the last minute; `None` where nothing was made in it.
    pub pictures_per_second: Option<f64>,
    /// Seconds until the rest is done at this rate.
    pub eta_seconds: Option<f64>,
    /// Seconds that models ran for what is committed, over all workers.
    #[serde(default)]
    pub device_seconds: f64,
    /// What that costs, where the operator has given the pool a price (`prices`), in the operator's currency.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    #[schema(value_type = Option<Object>, example = json!({ "so_far": 12.5, "to_come": 40.1 }))]
    pub cost: Option<Cost>,
    /// How it ended, once it has.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    #[schema(value_type = Option<Object>)]
    pub summary: Option<RunSummary>,
}

impl RunStatus {
    /// A run of which nothing but its spec is known.
    fn of_spec(spec: &RunSpec, state: RunState) -> Self {
        Self {
            run: spec.run.clone(),
            owner: spec.owner.clone(),
            name: spec.name.clone(),
            labels: spec.labels.clone(),
            pool: spec.pool.clone(),
            state,
            waiting: None,
            reason: None,
            degraded: None,
            submitted_at: spec.submitted_at,
            tasks: spec.tasks,
            invalid_rows: spec.invalid_rows,
            done: 0,
            in_work: 0,
            failed: 0,
            retrying: 0,
            acceptance: spec.accept.as_ref().map(|_| AcceptanceCounts::default()),
            round: 0,
            shards: 0,
            shards_committed: 0,
            shards_running: 0,
            pictures_per_second: None,
            eta_seconds: None,
            device_seconds: 0.0,
            cost: None,
            summary: None,
        }
    }

    /// A run that was submitted a moment ago, where nothing more can be read of it.
    pub(crate) fn just_submitted(spec: &RunSpec, problem: &str) -> Self {
        let mut status = Self::of_spec(spec, RunState::Running);
        status.degrade(format!("submitted; its status cannot be read right now ({problem})"));
        status
    }

    /// Puts what it costs, at what its pool costs.
    pub(crate) fn price(&mut self, prices: &[PoolPrice]) {
        let left = match self.summary {
            Some(_) => 0,
            None => self.tasks.saturating_sub(self.done + self.failed),
        };
        let settled = self.done + self.failed + self.retrying;
        self.cost = prices
            .iter()
            .find(|price| price.pool == self.pool)
            .map(|price| Cost::of(price.per_hour, self.device_seconds, settled, left));
    }

    pub(crate) fn degrade(&mut self, why: String) {
        self.degraded = Some(match self.degraded.take() {
            Some(before) => format!("{before}; {why}"),
            None => why,
        });
    }
}

/// What the progress service says of a run.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Live {
    counts: Counts,
    complete: bool,
    pub(crate) holders: Vec<(ShardId, Holder)>,
    pub(crate) throughput: Throughput,
}

/// Reads how the run in `store` stands, whose log is `history`.
pub async fn status(
    backends: &Backends,
    store: &RunStore,
    spec: &RunSpec,
    history: &History,
) -> Result<RunStatus, CoordinatorError> {
    let mut status = by_log(spec, history)?;
    let Some(round) = history.last_round().filter(|_| history.ended().is_none()) else { return Ok(status) };
    let error = match live(backends, &spec.run).await {
        Ok(live) => {
            add(&mut status, &live, history, round);
            return Ok(status);
        }
        Err(error) => error,
    };
    tracing::debug!(%error, "a status without the progress service");
    status.degrade("Redis is unreachable, so what workers hold, and what the run waits for, is unknown".to_owned());
    if history.shards() <= COUNTED_BY_HAND {
        match by_hand(store, spec, history).await {
            Ok(counts) => count(&mut status, counts, round),
            Err(error) if error.is_of_the_run() => status.degrade(format!("it cannot be counted: {error}")),
            Err(error) => return Err(error),
        }
    } else {
        status.degrade("the run is too large to count its markers one by one".to_owned());
    }
    Ok(status)
}

/// The same without a request to the store, and what it comes from where the run has not ended: fails where the progress
/// service does.
pub(crate) async fn live_status(
    backends: &Backends,
    spec: &RunSpec,
    history: &History,
) -> Result<(RunStatus, Option<Live>), CoordinatorError> {
    let mut status = by_log(spec, history)?;
    let Some(round) = history.last_round().filter(|_| history.ended().is_none()) else { return Ok((status, None)) };
    let live = live(backends, &spec.run).await?;
    add(&mut status, &live, history, round);
    Ok((status, Some(live)))
}

/// What the log says.
fn by_log(spec: &RunSpec, history: &History) -> Result<RunStatus, CoordinatorError> {
    let state = history.state().ok_or(diorama_protocol::history::Refused::Deleted)?;
    let mut status = RunStatus::of_spec(spec, state);
    status.reason = history.reason().map(str::to_owned);
    status.shards = history.shards();
    if let Some(ended) = history.ended() {
        let summary = &ended.summary;
        (status.done, status.failed, status.round) = (summary.done, summary.failed, summary.rounds);
        status.acceptance = summary.acceptance;
        status.shards_committed = status.shards;
        status.device_seconds = summary.device_seconds;
        status.summary = Some(summary.clone());
    } else if let Some(round) = history.last_round() {
        status.round = round.round.0;
        status.waiting = Waiting::by_log(history);
    }
    Ok(status)
}

/// What the progress service adds to that.
fn add(status: &mut RunStatus, live: &Live, history: &History, round: &RoundInfo) {
    // Of a run that was just submitted there is nothing to count, and nobody has said so yet.
    let is_fresh = live.counts.shards == 0 && clock::now().duration_since(status.submitted_at) < FRESH;
    if !live.complete && !is_fresh {
        status.degrade("the counts are being rebuilt from the markers".to_owned());
    }
    status.in_work = live.holders.iter().map(|(_, holder)| holder.done).sum();
    status.shards_running = live.holders.len() as u64;
    if status.shards_running > 0 {
        status.waiting = None;
    } else if history.wants_work() && status.waiting.is_none() {
        let is_committed = live.counts.shards >= history.shards();
        status.waiting = Some(if is_committed { Waiting::Coordinator } else { Waiting::Turn });
    }
    status.pictures_per_second = rate(&live.throughput);
    count(status, live.counts, round);
    let left = status.tasks.saturating_sub(status.done + status.failed);
    status.eta_seconds = status.pictures_per_second.map(|rate| left as f64 / rate);
}

async fn live(backends: &Backends, run: &RunId) -> Result<Live, diorama_backends::progress::ProgressError> {
    let progress = &backends.progress;
    let counted = progress.counted(run).await?;
    let (holders, throughput) = (progress.holders(run).await?, progress.throughput(run).await?);
    Ok(Live { counts: counted.counts, complete: counted.complete, holders, throughput })
}

/// What the markers say, read one by one.
async fn by_hand(store: &RunStore, spec: &RunSpec, history: &History) -> Result<Counts, CoordinatorError> {
    let mut outcomes = Outcomes::so_far(store, spec, history).await?;
    while outcomes.next().await?.is_some() {}
    Ok(outcomes.totals.counts)
}

fn count(status: &mut RunStatus, counts: Counts, round: &RoundInfo) {
    status.shards_committed = counts.shards;
    status.done = counts.done;
    status.failed = round.failed(counts.failed);
    status.device_seconds = counts.device_ms as f64 / 1000.0;
    let left = status.tasks.saturating_sub(counts.done + status.failed);
    status.retrying = retrying(left, counts, round);
    let Counts { accepted, kept, tries, .. } = counts;
    status.acceptance = status.acceptance.map(|_| AcceptanceCounts { accepted, kept, tries });
}

/// Pictures a second over the last minute; `None` where there are none.
fn rate(throughput: &Throughput) -> Option<f64> {
    let now = throughput.now;
    let recent =
        || throughput.intervals.iter().filter(|interval| interval.at + THROUGHPUT_SECONDS > now - RATE_SECONDS);
    let since = recent().next()?.at.max(now - RATE_SECONDS);
    let done: u64 = recent().map(|interval| interval.done).sum();
    (done > 0).then(|| done as f64 / (now - since).max(1) as f64)
}

#[cfg(test)]
mod tests {
    use diorama_backends::progress::Interval;

    use super::*;

    #[test]
    fn the_rate_is_that_of_the_last_minute() {
        let rate = |intervals: &[(i64, u64)], now| {
            let intervals = intervals.iter().map(|(at, done)| Interval { at: *at, done: *done }).collect();
            rate(&Throughput { now, intervals })
        };
        assert_eq!(rate(&[], 1000), None);
        assert_eq!(rate(&[(100, 50)], 1000), None, "long ago");
        assert_eq!(rate(&[(980, 50), (990, 50)], 1000), Some(5.0));
        let hour: Vec<_> = (0..360).map(|index| (index * 10, 20)).collect();
        assert_eq!(rate(&hour, 3600), Some(2.0));
    }
}
