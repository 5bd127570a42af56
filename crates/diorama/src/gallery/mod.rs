//! The gallery of a run's folder: one page without outer resources, its pictures beside it, for any browser.
//!
//! Reads what a run left (spec, log, input shards, commit markers), so that a run that has not ended yet can be looked at
//! too. Everything from outside goes into the page as JSON with markup escaped, and from there into text.

mod folder;
mod page;
mod pictures;
mod results;
mod roles;
mod rows;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use diorama_core::key::{ObjectKey, RunRoot};
use diorama_picture::whole;

use self::folder::Folder;
use self::results::Downloaded;

/// The folders beside a run's own that its gallery needs.
pub(crate) const FOLDERS: [&str; 2] = ["references", "thumbnails"];

/// Rows in the page: a browser holds so many with ease. The rest is in `results.jsonl`.
const MAX_ROWS: u64 = 20_000;

/// Writes `index.html` into `folder`, which `diorama run` or `diorama results` made, and gives its path.
pub(crate) async fn write(folder: &Path) -> Result<PathBuf> {
    let html = match Downloaded::open(folder)? {
        Some(run) => page::render(&run.spec, run.summary.as_ref(), &run.rows(MAX_ROWS)?),
        None => {
            let run = Folder::open(folder).await?;
            page::render(&run.spec, run.summary(), &rows::read(&run, MAX_ROWS).await?)
        }
    };
    let path = folder.join(ObjectKey::Gallery.relative(&RunRoot::Own));
    whole::put(&path, html.as_bytes()).with_context(|| format!("writing {}", path.display()))?;
    Ok(path)
}
