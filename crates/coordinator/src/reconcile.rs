//! Rebuilds the progress of a run from its commit markers, which are the truth.

use diorama_backends::objects::ObjectError;
use diorama_backends::progress::{Counts, Progress, ShardSet, count_marker};
use diorama_backends::run_store::RunStore;
use diorama_core::id::{Round, ShardId};
use diorama_core::run::RunSpec;
use futures::{StreamExt, TryStreamExt, stream};
use std::collections::HashMap;

use crate::error::CoordinatorError;
use crate::rounds;

/// Markers that are read at a time.
const AT_ONCE: usize = 16;

/// Forgets what the progress service knows about the run and adds every marker anew. Of the counts that it gives,
/// `failed` are the tasks that have failed for good.
pub async fn reconcile(store: &RunStore, spec: &RunSpec, progress: &dyn Progress) -> Result<Counts, CoordinatorError> {
    let counts = rebuild(store, spec, progress).await?;
    let round = rounds::all(store).await?.pop();
    Ok(Counts { failed: round.map_or(counts.failed, |round| round.failed(counts.failed)), ..counts })
}

/// The same; `failed` are the failures that the markers count.
pub(crate) async fn rebuild(
    store: &RunStore,
    spec: &RunSpec,
    progress: &dyn Progress,
) -> Result<Counts, CoordinatorError> {
    progress.forget(&spec.run).await?;
    catch_up(store, spec, progress).await?;
    // What a worker counted between the two was forgotten, and its marker may have been behind the listing.
    catch_up(store, spec, progress).await
}

/// Adds the markers that the progress service does not know. Nothing is counted twice, whoever else counts meanwhile.
pub(crate) async fn catch_up(
    store: &RunStore,
    spec: &RunSpec,
    progress: &dyn Progress,
) -> Result<Counts, CoordinatorError> {
    let prefix = store.relative("commits/");
    let mut known: HashMap<Round, (ShardSet, u32)> = HashMap::new();
    let mut after: Option<String> = None;
    loop {
        let page = store.objects().list(&prefix, after.as_deref(), 1000).await?;
        let mut unknown = Vec::new();
        for object in page.objects {
            let name = object.key.strip_prefix(&prefix).and_then(|name| name.strip_suffix(".json"));
            let Some(Ok(shard)) = name.map(str::parse::<ShardId>) else { continue };
            if let std::collections::hash_map::Entry::Vacant(vacant) = known.entry(shard.round) {
                let last_round = store.last_round(spec, shard.round).await?;
                vacant.insert((progress.committed(&spec.run, shard.round).await?, last_round));
            }
            match known.get(&shard.round) {
                Some((set, last_round)) if !set.contains(shard.index) => unknown.push((shard, *last_round)),
                _ => {}
            }
        }
        let read = |(shard, last_round)| async move { Ok((store.marker(shard).await?, last_round)) };
        let markers = stream::iter(unknown).map(read).buffered(AT_ONCE);
        let add = |(marker, last_round): (Option<diorama_core::marker::CommitMarker>, u32)| async move {
            let Some(marker) = marker else { return Ok(()) };
            count_marker(progress, &spec.run, &marker, last_round).await.map_err(CoordinatorError::from)?;
            Ok(())
        };
        markers.map_err(|error: ObjectError| CoordinatorError::from(error)).try_for_each(add).await?;
        match page.next {
            Some(next) => after = Some(next),
            None => break,
        }
    }
    Ok(progress.counts(&spec.run).await?)
}
