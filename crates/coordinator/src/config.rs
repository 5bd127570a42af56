//! How a coordinator works: what it publishes, how often it looks, where it prepares files.

use std::path::PathBuf;
use std::time::Duration;

use diorama_core::id::Pool;

use crate::share::Shares;

/// How a coordinator works.
#[derive(Debug, Clone)]
pub struct CoordinatorConfig {
    /// What it signs decisions with.
    pub name: String,
    /// How many shards may be in the queue or in work at a time, over all runs of a pool.
    pub shares: Shares,
    /// Between two looks at the progress.
    pub poll: Duration,
    /// Between two looks at what was decided.
    pub control_poll: Duration,
    /// A shard that was published longer ago than this, waits nowhere and is held by nobody, is published again.
    pub publish_again_after: Duration,
    /// The pools that are declared: their queues stay, however empty.
    pub pools: Vec<Pool>,
    /// Where the final files are prepared; best on the same file system as a folder store.
    pub scratch: PathBuf,
}

impl CoordinatorConfig {
    /// The defaults, preparing files in `scratch`.
    pub fn new(scratch: PathBuf) -> Self {
        Self {
            name: "embedded".to_owned(),
            shares: Shares::new(16),
            poll: Duration::from_millis(50),
            control_poll: Duration::from_millis(50),
            publish_again_after: Duration::from_secs(60),
            pools: Vec::new(),
            scratch,
        }
    }
}
