//! Rebuilds the progress of a run from its commit markers, which are the truth.

use diorama_backends::progress::{Counts, Progress};
use diorama_backends::run_store::RunStore;
use diorama_core::id::ShardId;
use diorama_core::key::ObjectKey;
use diorama_core::run::RunSpec;

use crate::error::CoordinatorError;

/// Forgets what the progress service knows about the run and adds every marker anew.
pub async fn reconcile(store: &RunStore, spec: &RunSpec, progress: &dyn Progress) -> Result<Counts, CoordinatorError> {
    progress.forget(&spec.run).await?;
    let prefix = store.relative("commits/");
    let mut after: Option<String> = None;
    loop {
        let page = store.objects().list(&prefix, after.as_deref(), 1000).await?;
        for object in page.objects {
            let name = object.key.strip_prefix(&prefix).and_then(|name| name.strip_suffix(".json"));
            let Some(Ok(shard)) = name.map(str::parse::<ShardId>) else { continue };
            if let Some(marker) = store.marker(shard).await? {
                progress.commit(&spec.run, shard, Counts::of(&marker, spec.retry.max_rounds)).await?;
            }
        }
        match page.next {
            Some(next) => after = Some(next),
            None => break,
        }
    }
    tracing::debug!(run = %spec.run, marker = %ObjectKey::Spec, "progress rebuilt from the markers");
    Ok(progress.counts(&spec.run).await?)
}
