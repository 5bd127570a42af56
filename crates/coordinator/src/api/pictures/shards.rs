//! The shards of a run: a map of a round, and one of them with its tasks.

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use diorama_backends::progress::Holder;
use diorama_core::id::{Round, ShardId};
use diorama_core::round::RoundInfo;
use diorama_core::shards::ShardSet;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::shelf::first_shard;
use super::{Picture, pictures, shard_of};
use crate::api::{Opened, Problem, Shared};

/// Which round.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct WhichRound {
    /// From 0; the last one where it is not given.
    round: Option<u32>,
}

/// The shards of a round. Ranges are `[first, count]`, ascending.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ShardMap {
    round: u32,
    /// All rounds of the run.
    rounds: Vec<RoundOfMap>,
    /// Shards of this round; their indices go from 0.
    shards: u32,
    tasks: u64,
    /// Tasks a shard.
    shard_size: u32,
    committed: Vec<(u32, u32)>,
    /// Left out by a cancellation.
    void: Vec<(u32, u32)>,
    held: Vec<HeldShard>,
    /// Shards of the latest failures.
    failing: Vec<u32>,
}

#[derive(Debug, Serialize, ToSchema)]
struct RoundOfMap {
    round: u32,
    shards: u32,
    tasks: u64,
    /// When it may begin, or could.
    #[schema(value_type = String, format = DateTime)]
    not_before: Timestamp,
    /// Whether somebody asked for failed tasks to be tried again, after the run had ended.
    reopened: bool,
}

/// A shard that a worker is at.
#[derive(Debug, Serialize, ToSchema)]
struct HeldShard {
    index: u32,
    worker: String,
    /// Pictures of it that are made.
    done: u64,
    failed: u64,
}

/// Whose hands a shard is in.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum ShardState {
    Waiting,
    Held,
    Committed,
    Void,
}

/// A shard and its tasks.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Shard {
    #[schema(value_type = String, example = "r0-000012")]
    shard: ShardId,
    round: u32,
    index: u32,
    state: ShardState,
    /// Who is at it: worker, attempt, done, failed.
    #[schema(value_type = Option<Object>)]
    holder: Option<Holder>,
    /// The attempt that committed it.
    attempt: Option<String>,
    /// The worker that committed it.
    worker: Option<String>,
    #[schema(value_type = Option<String>, format = DateTime)]
    started_at: Option<Timestamp>,
    #[schema(value_type = Option<String>, format = DateTime)]
    committed_at: Option<Timestamp>,
    /// Seconds that the model ran for it.
    device_seconds: Option<f64>,
    tasks: Vec<Picture>,
}

/// A map of one round's shards: which are committed, which are held, and by whom.
#[utoipa::path(get, path = "/v1/runs/{run}/shards", tag = "pictures", params(("run" = String, Path), WhichRound),
    responses((status = 200, body = ShardMap), (status = 404, body = Problem)))]
pub(super) async fn map(
    State(api): State<Shared>,
    run: Opened,
    which: Result<Query<WhichRound>, QueryRejection>,
) -> Result<Json<ShardMap>, Problem> {
    let Query(which) = which?;
    let round = match which.round {
        Some(round) => run.history.round(Round(round)),
        None => run.history.last_round(),
    };
    let round = round.ok_or_else(|| Problem::not_found("unknown_round", "the run has no such round"))?;
    let void = void(&run, round.round).await?;
    let committed = committed(&api, &run, round, &void).await?;
    let progress = &api.backends().progress;
    let is_over = run.history.ended().is_some();
    // Beside the truth of the markers these are news, and left out while the progress service is away.
    let held = if is_over { Vec::new() } else { progress.holders(&run.spec.run).await.unwrap_or_default() };
    let of_round = held.into_iter().filter(|(shard, _)| shard.round == round.round);
    let held = of_round.map(|(shard, holder)| HeldShard {
        index: shard.index,
        worker: holder.worker.to_string(),
        done: holder.done,
        failed: holder.failed,
    });
    let held = held.collect();
    let failing = match round.round {
        Round(0) => progress.recent_failures(&run.spec.run).await.unwrap_or_default(),
        _ => Vec::new(),
    };
    let failing: ShardSet = failing.iter().map(|outcome| first_shard(&run, outcome.task.0).index).collect();
    let all = run.history.rounds().iter().map(|info| RoundOfMap {
        round: info.round.0,
        shards: info.shards,
        tasks: info.tasks,
        not_before: info.not_before,
        reopened: info.reopened.is_some(),
    });
    Ok(Json(ShardMap {
        round: round.round.0,
        rounds: all.collect(),
        shards: round.shards,
        tasks: round.tasks,
        shard_size: run.spec.shard_size,
        committed: ranges(&committed),
        void: ranges(&void),
        held,
        failing: failing.iter().collect(),
    }))
}

/// A shard: whose hands it is in, and its tasks with what was made of them.
#[utoipa::path(get, path = "/v1/runs/{run}/shards/{shard}", tag = "pictures",
    params(("run" = String, Path), ("shard" = String, Path, example = "r0-000012")),
    responses((status = 200, body = Shard), (status = 404, body = Problem)))]
pub(super) async fn show(
    State(api): State<Shared>,
    run: Opened,
    Path((_run, shard)): Path<(String, String)>,
) -> Result<Json<Shard>, Problem> {
    let shard = shard_of(&run, &shard)?;
    let (tasks, marker) = pictures(&api, &run, shard).await?;
    let holder = match marker {
        Some(_) => None,
        None => api.backends().progress.holder(&run.spec.run, shard).await.unwrap_or_default(),
    };
    let state = match (&marker, &holder) {
        (Some(_), _) => ShardState::Committed,
        (None, Some(_)) => ShardState::Held,
        (None, None) if void(&run, shard.round).await?.contains(shard.index) => ShardState::Void,
        (None, None) => ShardState::Waiting,
    };
    Ok(Json(Shard {
        shard,
        round: shard.round.0,
        index: shard.index,
        state,
        holder,
        attempt: marker.as_ref().map(|marker| marker.attempt.to_string()),
        worker: marker.as_ref().map(|marker| marker.worker.to_string()),
        started_at: marker.as_ref().map(|marker| marker.started_at),
        committed_at: marker.as_ref().map(|marker| marker.committed_at),
        device_seconds: marker.as_ref().map(|marker| marker.device_seconds),
        tasks,
    }))
}

/// The shards of a round that have a marker, `void` being those that endings left out: all others of a run that has
/// ended, else as the progress service counts them, or, while it is away, as their markers are listed.
pub(super) async fn committed(
    api: &Shared,
    run: &Opened,
    round: &RoundInfo,
    void: &ShardSet,
) -> Result<ShardSet, Problem> {
    if run.history.ended().is_some() {
        return Ok(void.missing(round.shards));
    }
    match api.backends().progress.committed(&run.spec.run, round.round).await {
        // Void shards are counted, too.
        Ok(counted) => Ok(counted.iter().filter(|index| !void.contains(*index)).collect()),
        Err(error) => {
            tracing::debug!(%error, "the markers are listed, because the progress service is away");
            Ok(run.store.committed(round, 0..round.shards).await?)
        }
    }
}

/// The shards of a round that endings left out.
pub(super) async fn void(run: &Opened, round: Round) -> Result<ShardSet, Problem> {
    let mut void = ShardSet::default();
    for other in run.store.voids(&run.history).await?.iter().filter(|void| void.round == round) {
        void.extend(&other.shards);
    }
    Ok(void)
}

/// `[first, count]`, ascending.
fn ranges(set: &ShardSet) -> Vec<(u32, u32)> {
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for index in set.iter() {
        match ranges.last_mut() {
            Some((first, count)) if *first + *count == index => *count += 1,
            _ => ranges.push((index, 1)),
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_becomes_its_ranges() {
        let of = |indices: &[u32]| ranges(&indices.iter().copied().collect());
        assert_eq!(of(&[]), []);
        assert_eq!(of(&[0, 1, 2, 9]), [(0, 3), (9, 1)]);
        assert_eq!(of(&[7, 8]), [(7, 2)]);
    }
}
