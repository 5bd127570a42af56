//! Pictures side by side: the reference, then what each series made of it, for the tasks at the best, the middle and the
//! worst of the first measure. One SVG that holds its pictures.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use diorama_core::measure::Better;

use super::plots::{escaped, shortened};
use super::tables::{labelled, measure, number, shown};
use super::{Preset, Summaries};
use crate::report::pictures::thumbnail_of;
use crate::row::Row;
use crate::source::{Place, Reader};

const ROWS: usize = 8;
const SIDE: u32 = 160;
const LEFT: u32 = 170;

/// `None` where no picture can be read.
pub(super) fn side_by_side(rows: &[Row], summaries: &Summaries, preset: Preset) -> Option<String> {
    let mut tasks: BTreeMap<&str, BTreeMap<&str, &Row>> = BTreeMap::new();
    for row in rows.iter().filter(|row| row.problem.is_none()) {
        tasks.entry(&row.custom_id).or_default().insert(&row.series, row);
    }
    let by = shown(summaries, preset).first().copied()?;
    let chosen = chosen(&tasks, summaries.series.first()?, by);
    let columns: Vec<&str> = std::iter::once("reference").chain(summaries.series.iter().map(String::as_str)).collect();
    let (width, height) = (LEFT + (SIDE + 8) * columns.len() as u32, 58 + (SIDE + 26) * chosen.len() as u32);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" \
         font-family=\"system-ui, sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"12\" y=\"22\">best to worst by {}</text>\n",
        escaped(&labelled(by))
    );
    for (at, column) in columns.iter().enumerate() {
        let x = LEFT + (SIDE + 8) * at as u32;
        let _ = writeln!(svg, "<text x=\"{x}\" y=\"46\" font-weight=\"600\">{}</text>", escaped(&shortened(column)));
    }
    let mut reader = Reader::default();
    for (line, id) in chosen.iter().enumerate() {
        let y = 56 + (SIDE + 26) * line as u32;
        let all = &tasks[id];
        let first = all.values().next()?;
        words(&mut svg, first.prompt.as_deref().unwrap_or(id), y);
        for (at, column) in columns.iter().enumerate() {
            let x = LEFT + (SIDE + 8) * at as u32;
            let place = match at {
                0 => first.reference.as_ref().map(|path| Place::File(Path::new(path).to_owned())),
                _ => all.get(column).map(|row| Place::parse(&row.picture)),
            };
            let Some(bytes) = place.and_then(|place| thumbnail_of(&mut reader, &place, SIDE * 2)) else { continue };
            let _ = writeln!(
                svg,
                "<image x=\"{x}\" y=\"{y}\" width=\"{SIDE}\" height=\"{SIDE}\" href=\"data:image/jpeg;base64,{}\"/>",
                BASE64_STANDARD.encode(bytes)
            );
            if let Some(value) = all.get(column).and_then(|row| row.measures.get(by)) {
                let _ =
                    writeln!(svg, "<text x=\"{x}\" y=\"{}\" fill=\"#555\">{}</text>", y + SIDE + 15, number(*value));
            }
        }
    }
    svg.push_str("</svg>\n");
    Some(svg)
}

/// Tasks that the first series has, evenly from its best to its worst.
fn chosen<'a>(tasks: &BTreeMap<&'a str, BTreeMap<&str, &Row>>, series: &str, by: &str) -> Vec<&'a str> {
    let value = |rows: &BTreeMap<&str, &Row>| rows.get(series)?.measures.get(by).copied();
    let mut all: Vec<(f64, &str)> = tasks.iter().filter_map(|(id, rows)| Some((value(rows)?, *id))).collect();
    all.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(b.1)));
    if measure(by).is_some_and(|measure| measure.better == Better::High) {
        all.reverse();
    }
    let count = all.len().min(ROWS);
    (0..count).map(|at| all[at * (all.len() - 1) / (count - 1).max(1)].1).collect()
}

/// A prompt in the margin, a few words a line.
fn words(svg: &mut String, prompt: &str, y: u32) {
    let mut lines = vec![String::new()];
    for word in prompt.split_whitespace().take(40) {
        let last = lines.len() - 1;
        if !lines[last].is_empty() && lines[last].chars().count() + word.chars().count() > 22 {
            lines.push(word.to_owned());
        } else {
            if !lines[last].is_empty() {
                lines[last].push(' ');
            }
            lines[last].push_str(word);
        }
    }
    for (at, line) in lines.iter().take(8).enumerate() {
        let _ = writeln!(svg, "<text x=\"12\" y=\"{}\">{}</text>", y + 14 + 16 * at as u32, escaped(&shortened(line)));
    }
}
