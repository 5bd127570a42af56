//! The gallery of a run's folder: one page without outer resources, its pictures beside it, for any browser.
//!
//! Reads what a run left (spec, input shards, commit markers, errors), so that a run that has not ended yet can be
//! looked at too. Everything from outside goes into the page as JSON with markup escaped, and from there into text.

mod page;
mod pictures;
mod rows;
#[cfg(test)]
mod tests;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use diorama_core::run::{RunSpec, RunSummary};

use self::rows::Rows;

/// Rows in the page: a browser holds so many with ease. The rest is in `results.jsonl`.
const MAX_ROWS: u64 = 20_000;

/// Writes `index.html` into `folder`, which `diorama run` made, and gives its path.
pub(crate) fn write(folder: &Path) -> Result<PathBuf> {
    let spec: RunSpec =
        read_json(&folder.join("run.json")).with_context(|| format!("{} is no folder of a run", folder.display()))?;
    let summary: Option<RunSummary> = read_json(&folder.join("summary.json")).ok();
    let rows = rows::read(folder, &spec, MAX_ROWS)?;
    let html = page::render(&spec, summary.as_ref(), &rows);
    let path = folder.join("index.html");
    // Written aside and renamed: a page is whole or not there.
    let draft = folder.join(".index.html.part");
    fs::write(&draft, html)
        .and_then(|()| fs::rename(&draft, &path))
        .with_context(|| format!("writing {}", path.display()))?;
    Ok(path)
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T> {
    let bytes = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    serde_json::from_slice(&bytes).with_context(|| format!("reading {}", path.display()))
}
