//! The whole fleet at one moment, and as a stream: what a page about it shows.
//!
//! However many look, services are asked once a second at most.

use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::http::header;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use diorama_backends::progress::Heartbeat;
use diorama_core::clock;
use diorama_core::id::{RunId, ShardId, WorkerId};
use diorama_core::key::SharedKey;
use diorama_core::run::RunSpec;
use futures::stream::{self, Stream, StreamExt};
use jiff::Timestamp;
use serde::Serialize;
use tokio::time::Instant;
use utoipa::ToSchema;

use super::history::{History, Series};
use super::problems::{self, FleetProblem, Since};
use super::{PoolStatus, all};
use crate::api::auth::Caller;
use crate::api::outlook::{self, Outlook};
use crate::api::turns::Turns;
use crate::api::{Api, Problem, Shared, active};
use crate::index::runs_below;
use crate::status::RunStatus;
use crate::waiting::Waiting;

type UnbufferedHeader = [(&'static str, &'static str); 1];

/// A proxy between us and the page is not to hold the stream back.
const UNBUFFERED: UnbufferedHeader = [("x-accel-buffering", "no")];

/// Between two looks.
const LOOK: Duration = Duration::from_millis(if cfg!(test) { 20 } else { 1000 });

/// How long a part of a look may take.
const PART: Duration = Duration::from_secs(3);

/// Runs submitted lately that are asked what they made in the last hour, when the first one looks.
const LATELY: usize = 50;

/// Runs that are asked at a time.
const AT_ONCE: usize = 16;

/// The fleet.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub(super) struct Fleet {
    /// When somebody looked.
    #[schema(value_type = String, format = DateTime)]
    at: Timestamp,
    /// The version of the coordinator that looked.
    version: &'static str,
    /// Whether the runs are driven: true where this coordinator does, null where it does not and another one may.
    leader: Option<bool>,
    /// Null while RabbitMQ or Redis is away.
    pools: Option<Vec<PoolStatus>>,
    /// Null while Redis is away.
    workers: Option<Vec<WorkerStatus>>,
    /// The runs that have not ended, the latest first.
    runs: Vec<RunStatus>,
    /// Pictures of all runs over the last hour.
    throughput: Series,
    problems: Vec<FleetProblem>,
}

/// A worker with a recent heartbeat.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
struct WorkerStatus {
    /// What it says of itself: worker, pool, state, model, identity, device, done; and where it knows them started_at,
    /// device_share, pictures_per_second, memory_bytes, model_load_seconds.
    #[serde(flatten)]
    #[schema(value_type = Object)]
    heartbeat: Heartbeat,
    /// The shard that it is at.
    shard: Option<ShardInWork>,
}

/// A shard that a worker is at.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
struct ShardInWork {
    #[schema(value_type = String)]
    run: RunId,
    #[schema(value_type = String, example = "r0-000012")]
    shard: ShardId,
    /// Pictures of it that are made.
    done: u64,
}

/// The last look, for whoever asks within a second of it.
#[derive(Default)]
pub(crate) struct Overview(tokio::sync::Mutex<Looks>);

#[derive(Default)]
struct Looks {
    last: Option<(Instant, Arc<Told>)>,
    history: Option<History>,
    /// How the runs stood.
    runs: Vec<RunStatus>,
    since: Since,
}

/// The fleet, and how it is told.
struct Told {
    fleet: Fleet,
    whole: Words,
}

/// The fleet as JSON.
#[derive(Clone)]
struct Words {
    json: String,
    /// The same without what changes at every look.
    news: String,
}

impl Words {
    fn of(mut fleet: Fleet) -> Self {
        let json = serde_json::to_string(&fleet).unwrap_or_default();
        (fleet.at, fleet.throughput.now) = (Timestamp::UNIX_EPOCH, 0);
        Self { json, news: serde_json::to_string(&fleet).unwrap_or_default() }
    }
}

impl Told {
    /// What the caller may know of it.
    fn to(&self, caller: &Caller) -> Words {
        if caller.sees_all() { self.whole.clone() } else { Words::of(self.fleet.clone().seen_by(caller)) }
    }
}

impl Fleet {
    /// Without the runs of others: what remains of them is what they ask of pools and workers.
    fn seen_by(mut self, caller: &Caller) -> Self {
        self.runs.retain(|run| caller.sees(run.owner.as_ref()));
        let seen: HashSet<RunId> = self.runs.iter().map(|run| run.run.clone()).collect();
        for run in &mut self.runs {
            if matches!(&run.waiting, Some(Waiting::Run { run, .. }) if !seen.contains(run)) {
                run.waiting = Some(Waiting::Turn);
            }
        }
        for worker in self.workers.iter_mut().flatten() {
            worker.shard = worker.shard.take().filter(|shard| seen.contains(&shard.run));
        }
        self.problems.retain(|problem| problem.is_for(|run| seen.iter().any(|seen| seen.as_str() == run)));
        self
    }
}

/// The whole fleet: pools, workers with what each is at, the runs that have not ended, pictures over the last hour, and
/// what is wrong, in words.
#[utoipa::path(get, path = "/v1/fleet", tag = "fleet", responses((status = 200, body = Fleet)))]
pub(super) async fn show(State(api): State<Shared>, Extension(caller): Extension<Caller>) -> Response {
    let told = now(&api).await.to(&caller);
    ([(header::CONTENT_TYPE, "application/json")], told.json).into_response()
}

/// Server-sent events: `fleet` with what `/v1/fleet` says, at once and whenever that changes, once a second at most.
#[utoipa::path(get, path = "/v1/events", tag = "fleet",
    responses((status = 200, description = "text/event-stream"), (status = 401, body = Problem),
              (status = 429, description = "too many streams", body = Problem)))]
pub(super) async fn events(
    State(api): State<Shared>,
    Extension(caller): Extension<Caller>,
) -> Result<(UnbufferedHeader, Sse<impl Stream<Item = Result<Event, Infallible>>>), Problem> {
    let hold = Arc::new(api.usage.stream(&caller)?);
    let next = move |last: Option<Words>| {
        let (api, caller, hold) = (api.clone(), caller.clone(), hold.clone());
        async move {
            let _held = hold;
            loop {
                if last.is_some() {
                    tokio::time::sleep(LOOK).await;
                }
                if !api.is_still_good(&caller) {
                    return None;
                }
                let told = now(&api).await.to(&caller);
                if last.as_ref().is_none_or(|last| last.news != told.news) {
                    let event = Event::default().event("fleet").data(&told.json);
                    return Some((Ok(event), Some(told)));
                }
            }
        }
    };
    Ok((UNBUFFERED, Sse::new(stream::unfold(None, next)).keep_alive(KeepAlive::default())))
}

/// The fleet as it was within the last second.
async fn now(api: &Api) -> Arc<Told> {
    let mut looks = api.overview.0.lock().await;
    if let Some((at, told)) = &looks.last
        && at.elapsed() < LOOK
    {
        return told.clone();
    }
    let fleet = look(api, &mut looks).await;
    let told = Arc::new(Told { whole: Words::of(fleet.clone()), fleet });
    looks.last = Some((Instant::now(), told.clone()));
    told
}

async fn look(api: &Api, looks: &mut Looks) -> Fleet {
    let (turns, mut problems) = (Turns::new(api), Vec::new());
    let mut note = |what: &str, problem: Problem| {
        problems.push(FleetProblem::degraded(format!("{what}: {}.", problem.detail)));
    };
    // The runs are listed now and then only; so the store itself is asked, too.
    let leader = SharedKey::Leader.to_string();
    let store = async { Ok(api.backends().objects.head(&leader).await.map(drop)?) };
    let (specs, store) = tokio::join!(within(active::specs(api, active::LIST)), within(store));
    if let Err(problem) = store {
        note("The object store is down", problem);
    }
    let specs = specs.unwrap_or_else(|problem| {
        note("The runs cannot be listed", problem);
        api.active.last()
    });
    let outlooks = within(outlook::of(api, &specs)).await;
    let outlooks = outlooks.map_err(|problem| note("The state of runs and workers is not known", problem));
    let (pools, workers) = match &outlooks {
        Ok(outlooks) => {
            let workers = async { Ok(api.backends().progress.workers().await?) };
            let (pools, workers) = tokio::join!(within(all(api, outlooks)), within(workers));
            let pools = pools.map_err(|problem| note("The state of the pools is not known", problem)).ok();
            (pools, workers.ok().map(|workers| at_work(outlooks, workers)))
        }
        Err(()) => (None, None),
    };
    let outlooks = outlooks.ok();

    let (mut history, is_whole) = match looks.history.take() {
        Some(history) => (history, true),
        None => within(async { Ok(made_lately(api).await) }).await.unwrap_or_default(),
    };
    for outlook in outlooks.iter().flatten() {
        if let Some(live) = &outlook.live {
            history.note(&outlook.status.run, &live.throughput);
        }
    }
    let throughput = history.series();
    // What could not be asked is asked again.
    looks.history = is_whole.then_some(history);

    let mut runs = match outlooks {
        Some(outlooks) => {
            let mut runs = Vec::with_capacity(outlooks.len());
            for Outlook { mut status, run, .. } in outlooks {
                turns.explain(&run, &mut status).await;
                runs.push(status);
            }
            runs
        }
        // Those that cannot be told of in time stand as they stood.
        None => {
            within(async { Ok(by_markers(api, &specs, &turns).await) }).await.unwrap_or_else(|_| looks.runs.clone())
        }
    };
    runs.sort_by(|a, b| b.run.cmp(&a.run));
    problems.extend(problems::find(pools.as_deref().unwrap_or_default(), &runs, &mut looks.since));
    looks.runs.clone_from(&runs);
    let leader = api.config.leading.borrow().then_some(true);
    let version = env!("CARGO_PKG_VERSION");
    Fleet { at: clock::now(), version, leader, pools, workers, runs, throughput, problems }
}

/// Waits for a part of a look, but not for long: a service that hangs is one that is away.
async fn within<T>(part: impl Future<Output = Result<T, Problem>>) -> Result<T, Problem> {
    let late = || Problem::new(503, "late", format!("no answer within {} s", PART.as_secs()));
    tokio::time::timeout(PART, part).await.unwrap_or_else(|_| Err(late()))
}

/// How the runs stand while the progress service is away: by their logs and markers. One that cannot be read is left out.
async fn by_markers(api: &Api, specs: &[Arc<RunSpec>], turns: &Turns<'_>) -> Vec<RunStatus> {
    let look = |spec: Arc<RunSpec>| async move {
        let opened = api.glance_at_any(&spec.run).await.ok().flatten()?;
        opened.status_among(turns, api).await.ok()
    };
    let looked = stream::iter(specs.iter().cloned()).map(look).buffered(AT_ONCE);
    looked.filter_map(std::future::ready).collect().await
}

/// The workers, each with the shard that it is at; where it holds several, the one that it has made most of.
fn at_work(runs: &[Outlook], workers: Vec<Heartbeat>) -> Vec<WorkerStatus> {
    let mut held: HashMap<WorkerId, ShardInWork> = HashMap::new();
    for run in runs {
        for (shard, holder) in run.live.iter().flat_map(|live| &live.holders) {
            let here = ShardInWork { run: run.status.run.clone(), shard: *shard, done: holder.done };
            let known = held.entry(holder.worker.clone()).or_insert_with(|| here.clone());
            if known.done < here.done {
                *known = here;
            }
        }
    }
    workers.into_iter().map(|heartbeat| WorkerStatus { shard: held.remove(&heartbeat.worker), heartbeat }).collect()
}

/// What the runs submitted lately made in the last hour: those that have ended are not asked again. And whether all of
/// them could be asked.
async fn made_lately(api: &Api) -> (History, bool) {
    let (mut history, mut is_whole) = (History::default(), true);
    let Ok(runs) = runs_below(&*api.backends().objects, SharedKey::SUBMITTED).await else { return (history, false) };
    let asked = stream::iter(runs.into_iter().rev().take(LATELY)).map(|run| async move {
        let throughput = api.backends().progress.throughput(&run).await;
        throughput.map(|throughput| (run, throughput))
    });
    let mut asked = asked.buffer_unordered(AT_ONCE);
    while let Some(answer) = asked.next().await {
        match answer {
            Ok((run, throughput)) => history.note(&run, &throughput),
            Err(_) => is_whole = false,
        }
    }
    (history, is_whole)
}
