//! What is made of an evaluation's rows: summaries with intervals, comparisons of series, tables, plots, a page.

mod figure;
mod page;
mod pictures;
mod plots;
mod summary;
mod tables;

use std::path::{Path, PathBuf};

use diorama_picture::whole;
pub use summary::{Comparison, Group, Summaries, rows};

use crate::error::{Error, Result};
use crate::run::{Evaluation, ROWS};

/// Which tables are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Preset {
    /// Every measure.
    #[default]
    All,
    /// The paper's two, mean and median by model, with plots by scene and category.
    Paper,
}

/// What was written.
#[derive(Debug, Clone)]
pub struct Report {
    /// The table, as it is printed.
    pub table: String,
    /// The page.
    pub page: PathBuf,
    /// What was computed of the rows.
    pub summaries: Summaries,
}

/// What an evaluation writes into its folder.
pub const NAMES: [&str; 9] = [
    "index.html",
    ROWS,
    "plots",
    "side-by-side.svg",
    "summary.json",
    "table.csv",
    "table.md",
    "table.tex",
    ".selections.json",
];

/// Writes `summary.json`, `table.{md,csv,tex}`, `plots/`, `side-by-side.svg` and `index.html` into `out`, from its
/// `evaluation.jsonl`.
///
/// # Errors
/// [`Error::Input`] where the rows cannot be read; [`Error::Disk`].
pub fn write(out: &Path, evaluation: &Evaluation, preset: Preset) -> Result<Report> {
    let summaries = Summaries::of(&out.join(ROWS), evaluation)?;
    let write = |name: &str, text: &str| put(&out.join(name), text.as_bytes());
    let markdown = tables::markdown(&summaries, evaluation, preset);
    write("table.md", &markdown)?;
    write("table.csv", &tables::csv(&summaries))?;
    write("table.tex", &tables::latex(&summaries, preset))?;
    let json = serde_json::json!({ "evaluation": evaluation, "summaries": summaries });
    write("summary.json", &format!("{json:#}\n"))?;
    for (name, svg) in plots::all(&summaries, preset) {
        write(&format!("plots/{name}.svg"), &svg)?;
    }
    let rows = page::first_rows(&out.join(ROWS))?;
    if let Some(svg) = figure::side_by_side(&rows, &summaries, preset) {
        write("side-by-side.svg", &svg)?;
    }
    let page = out.join("index.html");
    put(&page, page::render(out, &rows, &summaries, evaluation)?.as_bytes())?;
    Ok(Report { table: markdown, page, summaries })
}

/// Writes a file as a whole, and the folders above it.
fn put(path: &Path, bytes: &[u8]) -> Result<()> {
    let disk = |error| Error::disk(path, error);
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).map_err(disk)?;
    whole::put(path, bytes).map_err(disk)
}
