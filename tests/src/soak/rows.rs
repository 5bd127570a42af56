//! The rows of the soak's manifests, and the count of what became of each: which were lost, which doubled.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufWriter, Write};
use std::path::Path;

use serde::Deserialize;

/// The share of rows that the synthetic engine fails, always the same ones, so that rounds of retries are in the soak.
pub(super) const FAIL_RATE: f64 = 0.01;

/// The seed of a row: what fails is spread over all shards.
fn seed(row: u64) -> u64 {
    row * 7919 % 10_000
}

/// The engine fails a task by its seed alone, for now and for ever.
fn fails(row: u64) -> bool {
    seed(row) as f64 / 10_000.0 < FAIL_RATE
}

/// A row whose reference is nowhere: trying again cannot help.
fn is_missing(row: u64) -> bool {
    row % 400 == 77
}

/// Writes a manifest of `rows` rows, some of which name an object that is not in `bucket`.
pub(super) fn write(path: &Path, rows: u64, bucket: &str) -> std::io::Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    for row in 0..rows {
        write!(file, r#"{{"custom_id":"t{row}","prompt":"seagull number {row}","seed":{}"#, seed(row))?;
        if is_missing(row) {
            write!(file, r#","method":"img2img","reference":"s3://{bucket}/nowhere/t{row}.png""#)?;
        }
        writeln!(file, "}}")?;
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
    /// Outcomes that a row cannot have: of no row, a picture of a row that always fails, a failure that neither the engine
    /// nor the row's reference nor a cancellation explains, and that is not `poison`.
    pub wrong: u64,
    seen: Vec<bool>,
    was_cancelled: bool,
}

impl Tally {
    /// A tally of `rows` rows, none of which has an outcome; some may never have been tried, because their run was
    /// cancelled.
    pub(super) fn new(rows: u64, was_cancelled: bool) -> Self {
        Self { lost: rows, seen: vec![false; rows as usize], was_cancelled, ..Self::default() }
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
            None => !fails(row) && !is_missing(row),
            Some("model_error") => fails(row),
            Some("reference_unreadable") => is_missing(row),
            Some("cancelled") => self.was_cancelled,
            // Workers died twice, or fell silent four times, while this row ran alone.
            Some("poison") => true,
            Some(_) => false,
        };
        self.wrong += u64::from(!possible);
    }

    /// How many failed.
    pub(super) fn failures(&self) -> u64 {
        self.failed.values().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn done(row: u64) -> String {
        format!(r#"{{"custom_id":"t{row}","status":"done"}}"#)
    }

    fn failed(row: u64, code: &str) -> String {
        format!(r#"{{"custom_id":"t{row}","status":"failed","code":"{code}"}}"#)
    }

    #[test]
    fn what_is_lost_doubled_or_impossible_is_counted() {
        let rows = 500;
        let failing: Vec<u64> = (0..rows).filter(|row| fails(*row)).collect();
        assert!(failing.len() >= 4 && !failing.contains(&77) && !failing.contains(&300), "{failing:?}");
        let mut tally = Tally::new(rows, false);
        let good = (0..rows).filter(|row| !fails(*row) && !is_missing(*row) && ![299, 300].contains(row));
        let results: Vec<String> = good.clone().chain([150]).map(done).collect();
        tally.read(results.join("\n").as_bytes()).unwrap();
        let mut errors: Vec<String> = failing[1..].iter().map(|row| failed(*row, "model_error")).collect();
        errors.extend([failed(77, "reference_unreadable"), failed(477, "model_error")]);
        errors.extend([failed(299, "poison"), failed(700, "model_error")]);
        tally.read(errors.join("\n").as_bytes()).unwrap();
        tally.read(done(failing[0]).as_bytes()).unwrap();
        assert_eq!((tally.lost, tally.doubled, tally.wrong), (1, 1, 3), "300; 150; {}, 477 and 700", failing[0]);
        assert_eq!(tally.done, good.count() as u64 + 2);
        let models = failing.len() as u64;
        assert_eq!(
            tally.failed,
            [("model_error", models), ("poison", 1), ("reference_unreadable", 1)]
                .map(|(code, times)| (code.to_owned(), times))
                .into()
        );
    }

    #[test]
    fn a_row_is_cancelled_only_where_its_run_was() {
        for (was_cancelled, wrong) in [(true, 0), (false, 1)] {
            let mut tally = Tally::new(1, was_cancelled);
            tally.read(failed(0, "cancelled").as_bytes()).unwrap();
            assert_eq!((tally.lost, tally.wrong), (0, wrong));
        }
    }
}
