//! A run's folder, opened to be looked at: by whom else it is used, and whether its run has ended, does not matter.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use diorama_backends::objects::embedded::FolderObjects;
use diorama_core::key::RunRoot;
use diorama_core::run::{RunSpec, RunSummary};
use diorama_protocol::RunStore;
use diorama_protocol::history::History;

/// A run in a folder of its own.
pub(super) struct Folder {
    /// Where its pictures are.
    pub(super) path: PathBuf,
    pub(super) store: RunStore,
    pub(super) spec: RunSpec,
    pub(super) history: History,
}

impl Folder {
    pub(super) async fn open(path: &Path) -> Result<Self> {
        let no_run = || format!("{} is not a folder of a run", path.display());
        let objects = FolderObjects::open_to_read(path).with_context(no_run)?;
        let store = RunStore::new(Arc::new(objects), RunRoot::Own);
        let spec = store.spec().await.with_context(no_run)?.with_context(no_run)?;
        let history = store.history().await.with_context(|| format!("reading the log in {}", path.display()))?;
        Ok(Self { path: path.to_owned(), store, spec, history })
    }

    /// How the run ended, where it has.
    pub(super) fn summary(&self) -> Option<&RunSummary> {
        self.history.ended().map(|ended| &ended.summary)
    }
}
