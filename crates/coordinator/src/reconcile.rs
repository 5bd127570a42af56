//! Rebuilds the progress of a run from its commit markers, which are the truth.

use diorama_backends::kind::ErrorKind;
use diorama_backends::progress::{Counts, ProgressError};
use diorama_core::id::ShardId;
use diorama_core::round::RoundInfo;
use diorama_core::run::RunSpec;
use diorama_core::shards::ShardSet;
use diorama_protocol::count::{count_tally, counts_of_void};
use diorama_protocol::history::History;
use diorama_protocol::{Backends, RunStore};
use futures::{StreamExt, TryStreamExt, stream};

use crate::error::CoordinatorError;

/// Markers that are read at a time.
const AT_ONCE: usize = 256;

/// How often everything is added anew, because the progress service forgot it in between, or the run was taken further.
const TRIES: usize = 5;

/// How often the counts of an ended run are rebuilt until they are right.
const SETTLING: usize = 5;

/// Forgets what the progress service knows about the run and adds every marker anew. Of the counts that it gives,
/// `failed` are the tasks that have failed for good.
pub async fn reconcile(
    backends: &Backends,
    store: &RunStore,
    spec: &RunSpec,
    history: &History,
) -> Result<Counts, CoordinatorError> {
    let counts = rebuild(backends, store, spec, history).await?;
    Ok(Counts { failed: history.last_round().map_or(counts.failed, |round| round.failed(counts.failed)), ..counts })
}

/// The same; `failed` are the failures that the markers count.
pub(crate) async fn rebuild(
    backends: &Backends,
    store: &RunStore,
    spec: &RunSpec,
    history: &History,
) -> Result<Counts, CoordinatorError> {
    let mut history = history.clone();
    let mut counts = Counts::default();
    for _ in 0..SETTLING {
        backends.progress.forget(&spec.run).await?;
        // What a worker counts from now on is counted anew, and what it had counted before has its marker.
        counts = catch_up(backends, store, spec, &history).await?;
        store.refresh(&mut history).await?;
        if are_settled(&history, counts) {
            return Ok(counts);
        }
        // A worker that is late told of a shard that is void while we counted.
    }
    tracing::warn!("the counts in the progress service still disagree with the markers");
    Ok(counts)
}

/// Whether these are the counts of the run as it ended; of one that has not, they may be any.
pub(crate) fn are_settled(history: &History, counts: Counts) -> bool {
    history.ended().is_none_or(|ended| counts == ended.counts)
}

/// Adds the markers that the progress service does not know, and says then that its counts are complete. Nothing is
/// counted twice, whoever else counts meanwhile.
pub(crate) async fn catch_up(
    backends: &Backends,
    store: &RunStore,
    spec: &RunSpec,
    history: &History,
) -> Result<Counts, CoordinatorError> {
    let (progress, mut history) = (&*backends.progress, history.clone());
    for _ in 0..TRIES {
        // Before anything is added: what is lost from now on is lost with it.
        let generation = progress.generation(&spec.run).await?;
        let mut added = Vec::with_capacity(history.rounds().len());
        let voids = store.voids(&history).await?;
        for round in history.rounds() {
            let void = voids.iter().find(|void| void.round == round.round).map(|void| &void.shards);
            added.push(add_round(backends, store, spec, round, void).await?);
        }
        let all = added.iter().map(|round| round.len()).sum();
        progress.complete(&spec.run, &generation, all).await?;
        let counted = progress.counted(&spec.run).await?;
        // Bits and counts are lost together: where the bits are there still, the counts are those of all of them.
        let mut is_all = counted.complete;
        for (round, added) in history.rounds().iter().zip(&added) {
            let there = progress.committed(&spec.run, round.round).await?;
            is_all &= added.iter().all(|index| there.contains(index));
        }
        // A coordinator that is late knows only the rounds that there were.
        let is_news = store.refresh(&mut history).await?;
        if is_all && !is_news {
            backends.announce(&spec.run, &history).await;
            return Ok(counted.counts);
        }
    }
    let problem = format!("it keeps losing data while it is rebuilt; tried {TRIES} times");
    Err(ProgressError::new(ErrorKind::Transient, "adding the markers to the counts", problem).into())
}

/// Adds a round; gives the shards of it that are committed or void.
async fn add_round(
    backends: &Backends,
    store: &RunStore,
    spec: &RunSpec,
    round: &RoundInfo,
    void: Option<&ShardSet>,
) -> Result<ShardSet, CoordinatorError> {
    let progress = &*backends.progress;
    let known = progress.committed(&spec.run, round.round).await?;
    if let Some(void) = void {
        let unknown = void.iter().filter(|index| !known.contains(*index));
        let counts = |index| (ShardId { round: round.round, index }, counts_of_void(round, index, spec.shard_size));
        progress.commit_many(&spec.run, &unknown.map(counts).collect::<Vec<_>>()).await?;
    }
    let last_round = round.last_round(&spec.retry);
    let is_void = |index: u32| void.is_some_and(|void| void.contains(index));
    let mut committed = store.committed(round, 0..round.shards).await?;
    let unknown: Vec<u32> = committed.iter().filter(|index| !known.contains(*index) && !is_void(*index)).collect();
    let add = |index: u32| async move {
        let shard = ShardId { round: round.round, index };
        if let Some(tally) = store.tally(shard).await? {
            count_tally(progress, &spec.run, tally, last_round).await?;
        }
        Ok::<_, CoordinatorError>(())
    };
    stream::iter(unknown).map(add).buffer_unordered(AT_ONCE).try_collect::<()>().await?;
    committed.extend(void.unwrap_or(&ShardSet::default()));
    Ok(committed)
}
