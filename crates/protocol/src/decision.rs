//! What is decided about a run, as entries of its log: `decisions/000007.json`, each written once, under the condition
//! that there is none. Who writes number 8 has read 7, so somebody who is late learns it from his own write.

use diorama_backends::progress::Counts;
use diorama_core::id::{AttemptId, Round};
use diorama_core::outcome::FileRef;
use diorama_core::round::{FailedWhere, RoundInfo};
use diorama_core::run::{ModelIdentity, RunState, RunSummary};
use diorama_core::shards::ShardSet;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// One entry.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// The format of this entry: 1.
    pub version: u32,
    /// Tells this entry from any other one that was meant for the same number: a writer whose answer was lost finds his
    /// own by it.
    pub nonce: AttemptId,
    /// When it was written, by its writer's clock. For people.
    pub at: Timestamp,
    /// Who wrote it: a coordinator, a worker, or the API of a coordinator. For people.
    pub by: String,
    #[serde(flatten)]
    pub act: Act,
}

/// What is decided.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "act", rename_all = "snake_case")]
pub enum Act {
    /// Every row of the run is stored, as round 0. The first entry.
    Submitted {
        /// Round 0.
        round: RoundInfo,
    },
    /// The run's pictures come from this model and no other one.
    Bound { model: ModelIdentity },
    /// Nothing new is to begin.
    Paused {
        /// Why, where it was not its owner's wish.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        reason: Option<String>,
    },
    /// It goes on.
    Resumed,
    /// Nothing more is to run. What is committed stays.
    Cancelled,
    /// Tasks that failed are tried again, as this round.
    RoundOpened { round: RoundInfo },
    /// From now on no outcome changes any more. What it leads to can be carried out by anybody, any number of times.
    EndingBegun {
        /// `finished`: every shard has its marker and nothing is tried again. `cancelled`: what has none is void.
        state: RunState,
        /// The object that lists the shards without a marker, where there are any: [`Void`]. A marker that appears for
        /// one of them later says nothing.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        void: Option<AttemptId>,
    },
    /// Nothing more is to run, and the run cannot be brought to its end, because something of it is damaged or lost. Resumed,
    /// that is tried again.
    Stuck {
        /// What stands in the way.
        reason: String,
    },
    /// It has ended, with these files.
    Ended(Box<Ended>),
    /// The run, which had ended, goes on with its failed tasks of this kind.
    Reopened {
        /// Which tasks are tried again.
        #[serde(rename = "where")]
        which: FailedWhere,
    },
    /// There is no such run any more. Nothing follows.
    Deleted,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ended {
    /// Counts and rates.
    pub summary: RunSummary,
    /// What the progress service counts of the run from then on: every shard of every round.
    pub counts: Counts,
    /// The outcomes of tasks with a picture.
    pub results: FileRef,
    /// The outcomes of tasks without, and the rows that were refused.
    pub errors: FileRef,
}

impl Act {
    /// Its name, as in the entry.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Submitted { .. } => "submitted",
            Self::Bound { .. } => "bound",
            Self::Paused { .. } => "paused",
            Self::Resumed => "resumed",
            Self::Cancelled => "cancelled",
            Self::RoundOpened { .. } => "round_opened",
            Self::EndingBegun { .. } => "ending_begun",
            Self::Stuck { .. } => "stuck",
            Self::Ended(_) => "ended",
            Self::Reopened { .. } => "reopened",
            Self::Deleted => "deleted",
        }
    }

    /// Whether it is what followed from the log and the markers as its writer knew them, and not what somebody wants: on
    /// top of anything that was decided since, it would say what is not so.
    pub fn is_derived(&self) -> bool {
        match self {
            Self::RoundOpened { .. } | Self::EndingBegun { .. } | Self::Stuck { .. } | Self::Ended(_) => true,
            Self::Submitted { .. }
            | Self::Bound { .. }
            | Self::Paused { .. }
            | Self::Resumed
            | Self::Cancelled
            | Self::Reopened { .. }
            | Self::Deleted => false,
        }
    }
}

/// The shards of a round that had no marker when the run was cancelled. Their tasks count as cancelled; in a round of
/// retries they keep the failure that they had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Void {
    /// The format of this object: 1.
    pub version: u32,
    /// The round: the last one that was opened. Every round before it is committed.
    pub round: Round,
    pub shards: ShardSet,
}
