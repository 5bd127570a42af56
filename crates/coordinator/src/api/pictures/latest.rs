//! The latest pictures, as they are made.

use std::collections::{BTreeMap, VecDeque};

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use diorama_core::id::{Round, ShardId};
use diorama_core::shards::ShardSet;
use futures::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::shards::{committed, void};
use super::shelf::on;
use super::{Picture, Status, pictures};
use crate::api::{Opened, Problem, Shared};

/// Shards that are looked at for the latest pictures.
const SHARDS: usize = 12;

/// Shards that are remembered as the latest of a run.
const REMEMBERED: usize = 64;

/// How many.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct HowMany {
    /// Pictures: 1 to 100, 24 where it is not given.
    limit: Option<usize>,
}

/// Pictures of a run.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Pictures {
    pictures: Vec<Picture>,
}

/// What was committed last of a run, as far as this process saw: which shards were new whenever somebody looked.
#[derive(Default)]
pub(super) struct Latest {
    seen: BTreeMap<Round, ShardSet>,
    /// The newest first.
    shards: VecDeque<ShardId>,
}

impl Latest {
    /// Notes what is committed of a round now.
    fn note(&mut self, round: Round, committed: ShardSet) {
        let known = self.seen.get(&round);
        let new: Vec<u32> =
            committed.iter().filter(|index| known.is_none_or(|known| !known.contains(*index))).collect();
        for index in new.iter().skip(new.len().saturating_sub(REMEMBERED)) {
            self.shards.push_front(ShardId { round, index: *index });
        }
        self.shards.truncate(REMEMBERED);
        self.seen.insert(round, committed);
    }
}

/// The latest pictures of a run, those committed last first.
#[utoipa::path(get, path = "/v1/runs/{run}/pictures", tag = "pictures", params(("run" = String, Path), HowMany),
    responses((status = 200, body = Pictures), (status = 404, body = Problem)))]
pub(super) async fn list(
    State(api): State<Shared>,
    run: Opened,
    how_many: Result<Query<HowMany>, QueryRejection>,
) -> Result<Json<Pictures>, Problem> {
    let Query(how_many) = how_many?;
    let limit = how_many.limit.unwrap_or(24).clamp(1, 100);
    let shards = latest(&api, &run).await?;
    let (api, run) = (&api, &run);
    let read = stream::iter(shards).map(|shard| pictures(api, run, shard)).buffered(SHARDS);
    let mut shards: Vec<_> = read.try_collect().await?;
    // Who committed last, by the markers: those that were new at one look have no order.
    shards.sort_by_key(|(_, marker)| std::cmp::Reverse(marker.as_ref().map(|marker| marker.committed_at)));
    let made = shards.into_iter().flat_map(|(pictures, _)| pictures);
    let made = made.filter(|picture| picture.status == Status::Done).take(limit);
    Ok(Json(Pictures { pictures: made.collect() }))
}

/// The shards that were committed last.
async fn latest(api: &Shared, run: &Opened) -> Result<Vec<ShardId>, Problem> {
    for info in run.history.rounds() {
        let committed = committed(api, run, info, &void(run, info.round).await?).await?;
        let mut latest = on(&api.shelf.latest);
        latest.get_or_insert_mut(run.spec.run.clone(), Latest::default).note(info.round, committed);
    }
    let mut latest = on(&api.shelf.latest);
    let latest = latest.get(&run.spec.run).map(|latest| latest.shards.iter().take(SHARDS).copied().collect());
    Ok(latest.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_there_at_the_last_look_is_the_latest() {
        let mut latest = Latest::default();
        let mut note = |round: u32, indices: &[u32]| {
            latest.note(Round(round), indices.iter().copied().collect());
            latest.shards.iter().take(3).map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(note(0, &[0, 5, 9]), ["r0-000009", "r0-000005", "r0-000000"], "at the first look, the highest");
        assert_eq!(note(0, &[0, 3, 5, 9]), ["r0-000003", "r0-000009", "r0-000005"]);
        assert_eq!(note(0, &[0, 3, 5, 9]), ["r0-000003", "r0-000009", "r0-000005"], "nothing is new");
        assert_eq!(note(1, &[0]), ["r1-000000", "r0-000003", "r0-000009"]);
        let all: Vec<u32> = (0..100_000).collect();
        note(0, &all);
        assert_eq!(latest.shards.len(), REMEMBERED);
    }
}
