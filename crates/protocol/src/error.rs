//! What can be wrong with a run's objects beyond a failed read.

use diorama_backends::objects::ObjectError;
use diorama_core::id::ShardId;

/// A run's objects that cannot be read, or do not fit together.
#[derive(Debug, thiserror::Error)]
pub enum ProtocolError {
    #[error(transparent)]
    Objects(#[from] ObjectError),
    /// A shard that nobody can make sense of.
    #[error(
        "shard {shard} cannot be used: {problem}; the run cannot end. Restore the object from a backup, or submit the \
         run again"
    )]
    Unusable {
        shard: ShardId,
        /// What is wrong with it.
        problem: String,
    },
}

impl ProtocolError {
    /// A shard that nobody can make sense of.
    pub fn unusable(shard: ShardId, problem: impl Into<String>) -> Self {
        Self::Unusable { shard, problem: problem.into() }
    }
}
