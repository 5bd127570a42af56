//! What travels through a queue: a pointer to work, never the work itself.

use serde::{Deserialize, Serialize};

use crate::id::{RunId, ShardId};

/// One shard to run. Publishing it twice is harmless.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ShardMessage {
    /// The run.
    pub run: RunId,
    /// The shard.
    pub shard: ShardId,
}
