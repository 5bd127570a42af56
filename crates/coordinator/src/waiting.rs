//! Why a run that goes on has nothing in work.
//!
//! Whoever is asked finds it out, from the log and from what the active runs of the pool have left to do: so it is right
//! whichever coordinator drives the runs, and while none does. It is never told by the leading one.

use diorama_core::clock;
use diorama_core::id::RunId;
use diorama_protocol::history::History;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::coordinator::begins_in;

/// What a run waits for that has not ended and of which no worker holds a shard.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "for", rename_all = "snake_case")]
pub enum Waiting {
    /// The leading coordinator: it has a round to open, or the final files to write.
    Coordinator,
    /// The wait before a round of retries.
    Round {
        /// The round.
        round: u32,
        /// When it begins.
        #[schema(value_type = String, format = DateTime)]
        begins_at: Timestamp,
    },
    /// A worker: none serves the pool.
    Worker,
    /// A run of a higher priority in the same pool, which has shards that nobody has begun.
    Run {
        /// That run.
        #[schema(value_type = String)]
        run: RunId,
        /// Its priority.
        priority: i32,
    },
    /// Its turn: workers of the pool are at other shards.
    Turn,
}

impl Waiting {
    /// What follows from the log alone; `None` where workers may go on.
    pub(crate) fn by_log(history: &History) -> Option<Self> {
        let round = history.last_round().filter(|_| history.ended().is_none())?;
        if history.is_stuck() {
            return None;
        }
        let is_at_its_end = history.ending().is_some() || history.is_cancelled();
        if is_at_its_end || history.reopening().is_some() {
            return Some(Self::Coordinator);
        }
        let waits = history.wants_work() && begins_in(round).is_some_and(|wait| !wait.is_zero());
        // Whatever the clock that it was written by, nobody waits longer than the delay.
        let begins_at = || round.not_before.min(clock::now() + round.delay());
        waits.then(|| Self::Round { round: round.round.0, begins_at: begins_at() })
    }
}
