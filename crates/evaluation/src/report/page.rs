//! The page: template, style and script are part of the program; the rows go in as JSON, their pictures as links.

use std::path::Path;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::pictures::{relative, thumbnail_of};
use super::summary::rows;
use super::tables::measure;
use super::{Summaries, put};
use crate::error::Result;
use crate::row::Row;
use crate::run::Evaluation;
use crate::source::{Place, Reader};

const TEMPLATE: &str = include_str!("page.html");
const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("script.js");

/// Rows in the page: a browser holds so many with ease. The rest is in `evaluation.jsonl`.
const MOST_ROWS: usize = 20_000;
/// Pictures that are taken out of archives for the page.
const MOST_COPIES: usize = 2_000;
/// Pixels of such a copy.
const SIDE: u32 = 320;

/// The rows that the page shows.
pub(super) fn first_rows(path: &Path) -> Result<Vec<Row>> {
    rows(path)?.take(MOST_ROWS).collect()
}

pub(super) fn render(out: &Path, rows: &[Row], summaries: &Summaries, evaluation: &Evaluation) -> Result<String> {
    let mut pictures = Pictures { out, reader: Reader::default(), copies: 0 };
    let rows = rows.iter().map(|row| pictures.row(row, summaries)).collect::<Result<Vec<_>>>()?;
    let measures: Vec<_> = summaries.measures.iter().filter_map(|name| measure(name)).collect();
    let data = json!({
        "title": evaluation.sources.join(", "),
        "total": evaluation.measured + evaluation.problems,
        "evaluation": evaluation,
        "measures": measures,
        "summaries": summaries,
        "rows": rows,
    });
    // The data comes last, so that nothing in it is taken for a place in the template.
    Ok(TEMPLATE
        .replace("{{STYLE_HASH}}", &content_hash(STYLE))
        .replace("{{SCRIPT_HASH}}", &content_hash(SCRIPT))
        .replace("{{STYLE}}", STYLE)
        .replace("{{SCRIPT}}", SCRIPT)
        .replace("{{DATA}}", &escape(&data.to_string())))
}

struct Pictures<'a> {
    out: &'a Path,
    reader: Reader,
    copies: usize,
}

impl Pictures<'_> {
    fn row(&mut self, row: &Row, summaries: &Summaries) -> Result<Value> {
        let reference = row.reference.as_deref().and_then(|path| relative(self.out, Path::new(path)));
        let repeats = row.near_duplicate_of.iter().map(|first| format!("nearly repeats {first}"));
        let notes: Vec<String> = row.notes.iter().cloned().chain(repeats).collect();
        Ok(json!({
            "series": summaries.series.iter().position(|name| *name == row.series),
            "id": row.custom_id, "prompt": row.prompt, "scene": row.scene, "category": row.category,
            "seed": row.seed, "source": row.reference, "picture": self.link(row)?, "reference": reference,
            "measures": row.measures, "notes": notes, "problem": row.problem,
        }))
    }

    fn link(&mut self, row: &Row) -> Result<Option<String>> {
        match Place::parse(&row.picture) {
            Place::File(path) => Ok(relative(self.out, &path)),
            place @ Place::Member { .. } if self.copies < MOST_COPIES => {
                let Some(bytes) = thumbnail_of(&mut self.reader, &place, SIDE) else { return Ok(None) };
                let name = format!("pictures/{}.jpg", self.copies);
                self.copies += 1;
                put(&self.out.join(&name), &bytes)?;
                Ok(Some(name))
            }
            Place::Member { .. } => Ok(None),
        }
    }
}

/// JSON that cannot end the script element that holds it.
fn escape(json: &str) -> String {
    json.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026")
}

/// What the page's content security policy allows: exactly this text.
fn content_hash(text: &str) -> String {
    format!("sha256-{}", BASE64_STANDARD.encode(Sha256::digest(text)))
}
