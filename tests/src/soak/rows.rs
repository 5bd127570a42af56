//! The rows of the soak's manifest, and the count of what became of each: which were lost, which doubled.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufWriter, Write};
use std::path::Path;

use serde::Deserialize;

/// The share of rows that the synthetic engine fails, always the same ones, so that rounds of retries are in the soak.
pub(super) const FAIL_RATE: f64 = 0.01;

/// The engine fails a task by its seed alone; the rows have their numbers for seeds.
fn fails(row: u64) -> bool {
    (row % 10_000) as f64 / 10_000.0 < FAIL_RATE
}

/// Writes a manifest of `rows` rows.
pub(super) fn write(path: &Path, rows: u64) -> std::io::Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    for row in 0..rows {
        writeln!(file, r#"{{"custom_id":"t{row}","prompt":"seagull number {row}","seed":{row}}}"#)?;
    }
    file.into_inner()?.sync_all()
}

/// A line of `results.jsonl` or `errors.jsonl`, as far as it matters here.
#[derive(Deserialize)]
struct Line {
    custom_id: String,
    #[serde(default)]
    code: Option<String>,
}

/// What became of every row.
#[derive(Debug, Default, PartialEq)]
pub struct Tally {
    /// Rows with a picture.
    pub done: u64,
    /// Rows that failed, by code.
    pub failed: BTreeMap<String, u64>,
    /// Rows without an outcome.
    pub lost: u64,
    /// Outcomes beyond a row's first.
    pub doubled: u64,
    /// Outcomes that a row cannot have: of no row, a picture of a row that always fails, another failure than the
    /// engine's or `poison`.
    pub wrong: u64,
    seen: Vec<bool>,
}

impl Tally {
    /// A tally of `rows` rows, none of which has an outcome.
    pub(super) fn new(rows: u64) -> Self {
        Self { lost: rows, seen: vec![false; rows as usize], ..Self::default() }
    }

    /// Reads the outcomes of one of the two files.
    pub(super) fn read(&mut self, lines: impl BufRead) -> std::io::Result<()> {
        for line in lines.lines() {
            let line: Line = serde_json::from_str(&line?)?;
            self.add(&line);
        }
        Ok(())
    }

    fn add(&mut self, line: &Line) {
        let row = line.custom_id.strip_prefix('t').and_then(|row| row.parse::<u64>().ok());
        let Some((row, seen)) = row.and_then(|row| Some((row, self.seen.get_mut(row as usize)?))) else {
            self.wrong += 1;
            return;
        };
        if std::mem::replace(seen, true) {
            self.doubled += 1;
        } else {
            self.lost -= 1;
        }
        match &line.code {
            None => self.done += 1,
            Some(code) => *self.failed.entry(code.clone()).or_default() += 1,
        }
        let possible = match line.code.as_deref() {
            None => !fails(row),
            Some("model_error") => fails(row),
            // A worker that was killed three times on one shard: the third time, this row ran alone.
            Some("poison") => true,
            Some(_) => false,
        };
        self.wrong += u64::from(!possible);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lost_doubled_or_impossible_is_counted() {
        let mut tally = Tally::new(300);
        let done = |row: u64| format!(r#"{{"custom_id":"t{row}","status":"done"}}"#);
        let results: Vec<String> = (101..299).chain([150]).map(done).collect();
        tally.read(results.join("\n").as_bytes()).unwrap();
        let failed = |row: u64, code: &str| format!(r#"{{"custom_id":"t{row}","status":"failed","code":"{code}"}}"#);
        let mut errors: Vec<String> = (0..98).map(|row| failed(row, "model_error")).collect();
        errors.extend([failed(299, "poison"), failed(100, "model_error"), failed(700, "model_error")]);
        tally.read(errors.join("\n").as_bytes()).unwrap();
        tally.read(done(98).as_bytes()).unwrap();
        assert_eq!((tally.lost, tally.doubled, tally.wrong), (1, 1, 3), "99; 150; 100, 700 and 98");
        assert_eq!(tally.done, 200);
        assert_eq!(tally.failed, [("model_error".to_owned(), 99), ("poison".to_owned(), 1)].into());
    }
}
