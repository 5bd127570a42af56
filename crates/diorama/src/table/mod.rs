//! `results.parquet`: the lines of a folder's `results.jsonl` as a table, with each picture's prompt beside its files, for
//! pandas and whatever else reads Parquet.
//!
//! Reads the lines and the pictures' records; it is what a run on one machine and a downloaded one have in common.

mod columns;
mod records;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::Path;

use anyhow::{Context, Result};
use diorama_core::key::{RESULTS, TABLE};
use diorama_core::outcome::{Outcome, TaskOutcome};
use serde_json::Value;

use self::columns::{Column, Table};
use self::records::Records;

/// Rows that are written together.
const ROWS: usize = 20_000;

/// The files of a picture that have a column of their own; those of comparisons come besides.
const FILES: [&str; 5] = ["image", "mask", "overlay", "record", "reference"];

/// Writes the table of the results in `folder`.
pub(crate) fn write(folder: &Path) -> Result<()> {
    let path = folder.join(TABLE);
    // Written aside and renamed: a table is whole or not there.
    let draft = folder.join(".results.parquet.part");
    let written = fill(folder, &draft).and_then(|()| Ok(fs::rename(&draft, &path)?));
    written.with_context(|| format!("writing {}", path.display()))
}

fn fill(folder: &Path, draft: &Path) -> Result<()> {
    let shape = Shape::of(folder)?;
    let mut table = Table::create(draft, shape.columns())?;
    let mut records = Records::of(folder);
    let mut rows = Vec::with_capacity(ROWS);
    for line in lines(folder)? {
        let (outcome, rest) = read(&line?)?;
        rows.push(shape.row(&outcome, &rest, records.of_task(&outcome)?));
        if rows.len() == ROWS {
            table.add(std::mem::take(&mut rows))?;
        }
    }
    table.add(rows)?;
    table.finish()
}

fn lines(folder: &Path) -> Result<impl Iterator<Item = std::io::Result<String>>> {
    let path = folder.join(RESULTS);
    Ok(BufReader::new(File::open(&path).with_context(|| format!("reading {}", path.display()))?).lines())
}

/// A line, and all of it as it stands, with what this version does not know.
fn read(line: &str) -> Result<(TaskOutcome, Value)> {
    let outcome = serde_json::from_str(line).context("reading results.jsonl")?;
    Ok((outcome, serde_json::from_str(line).context("reading results.jsonl")?))
}

/// Which columns there are, by what the lines hold.
#[derive(Default)]
struct Shape {
    scores: BTreeSet<String>,
    measures: BTreeSet<String>,
    /// Whether the run accepts only some pictures.
    has_tries: bool,
    compared: BTreeSet<String>,
    /// Columns of the user's own, where lines have them.
    has_extra: bool,
}

impl Shape {
    fn of(folder: &Path) -> Result<Self> {
        let mut shape = Self::default();
        for line in lines(folder)? {
            let (outcome, rest) = read(&line?)?;
            shape.has_extra |= rest.get("extra").is_some();
            let Outcome::Done { files, scores, measures, accepted, .. } = outcome.outcome else { continue };
            shape.scores.extend(scores.into_keys());
            shape.measures.extend(measures.into_keys());
            shape.has_tries |= accepted.is_some();
            shape.compared.extend(files.into_keys().filter(|role| role.starts_with("compare.")));
        }
        Ok(shape)
    }

    fn columns(&self) -> Vec<(String, Column)> {
        let text = |name: &str| (name.to_owned(), Column::Text);
        let mut columns = vec![("task".to_owned(), Column::Whole)];
        columns.extend(["custom_id", "prompt"].map(text));
        columns.push(("subjects".to_owned(), Column::Texts));
        columns.push(("seed".to_owned(), Column::Whole));
        columns.push(text("archive"));
        columns.extend(FILES.map(text));
        columns.extend(self.compared.iter().map(|role| text(role)));
        columns.push(("mask_coverage".to_owned(), Column::Real));
        columns.extend(self.scores.iter().map(|name| (name.clone(), Column::Real)));
        columns.extend(self.measures.iter().map(|name| (format!("measures.{name}"), Column::Real)));
        if self.has_tries {
            columns.extend([("accepted".to_owned(), Column::Truth), text("tries")]);
        }
        columns.push(("warnings".to_owned(), Column::Texts));
        columns.extend(self.has_extra.then(|| text("extra")));
        columns
    }

    /// A line's values, in the order of the columns.
    fn row(&self, outcome: &TaskOutcome, rest: &Value, record: Option<Value>) -> Vec<Value> {
        let TaskOutcome { task, custom_id, seed, outcome, .. } = outcome;
        let Outcome::Done { archive, files, mask_coverage, scores, measures, accepted, tries, warnings } = outcome
        else {
            return Vec::new();
        };
        let record = record.unwrap_or_default();
        let subjects = record["subjects"].as_array().map(|all| all.iter().map(|one| one["text"].clone()).collect());
        let path = |role: &str| files.get(role).map_or(Value::Null, |file| file.path.clone().into());
        let mut row: Vec<Value> = vec![task.0.into(), custom_id.as_str().into(), record["prompt"].clone()];
        row.push(subjects.map_or(Value::Null, Value::Array));
        row.extend([seed.get().into(), archive.clone().into()]);
        row.extend(FILES.iter().map(|role| path(role)));
        row.extend(self.compared.iter().map(|role| path(role)));
        row.push((*mask_coverage).into());
        row.extend(self.scores.iter().map(|name| scores.get(name).copied().into()));
        row.extend(self.measures.iter().map(|name| measures.get(name).copied().into()));
        if self.has_tries {
            row.extend([(*accepted).into(), serde_json::to_string(tries).ok().into()]);
        }
        row.push(warnings.clone().into());
        row.extend(self.has_extra.then(|| rest.get("extra").map_or(Value::Null, |extra| extra.to_string().into())));
        row
    }
}

#[cfg(test)]
mod tests {
    use parquet::file::reader::{FileReader, SerializedFileReader};
    use serde_json::json;

    use super::*;

    fn line(task: u64, scores: &Value, extra: Option<Value>) -> String {
        let file = |path: String| json!({"path": path, "sha256": "0".repeat(64), "bytes": 1});
        let mut line = json!({
            "task": task, "custom_id": format!("t{task}"), "seed": 7, "status": "done",
            "files": {"image": file(format!("images/t{task}.png")), "record": file(format!("records/t{task}.json"))},
            "mask_coverage": 0.25, "scores": scores, "warnings": ["an empty mask"],
        });
        if let Some(extra) = extra {
            line["extra"] = extra;
        }
        line.to_string()
    }

    #[test]
    fn a_table_has_a_row_a_line_with_its_prompt_and_a_column_a_score() {
        let folder = tempfile::tempdir().unwrap();
        let lines =
            [line(0, &json!({}), None), line(1, &json!({"kept.img2img": 31.5}), Some(json!({"licence": "CC0"})))];
        fs::write(folder.path().join(RESULTS), lines.join("\n") + "\n").unwrap();
        fs::create_dir(folder.path().join("records")).unwrap();
        let record = json!({"prompt": "a red duck \"here\"", "subjects": [{"text": "duck"}, {"text": "鳥"}]});
        fs::write(folder.path().join("records/t0.json"), record.to_string()).unwrap();
        write(folder.path()).unwrap();
        let reader = SerializedFileReader::new(File::open(folder.path().join(TABLE)).unwrap()).unwrap();
        assert_eq!(reader.metadata().file_metadata().num_rows(), 2);
        let rows: Vec<Value> = reader.into_iter().map(|row| row.unwrap().to_json_value()).collect();
        assert_eq!(rows[0]["prompt"], "a red duck \"here\"");
        assert_eq!(rows[0]["subjects"], json!(["duck", "鳥"]));
        assert_eq!((&rows[0]["kept.img2img"], &rows[1]["kept.img2img"]), (&json!(null), &json!(31.5)));
        assert_eq!((&rows[0]["image"], &rows[0]["archive"]), (&json!("images/t0.png"), &json!(null)));
        assert_eq!((&rows[0]["extra"], &rows[1]["extra"]), (&json!(null), &json!("{\"licence\":\"CC0\"}")));
        assert_eq!(rows[1]["warnings"], json!(["an empty mask"]));
        assert_eq!((&rows[1]["prompt"], &rows[1]["subjects"]), (&json!(null), &json!(null)), "its record is gone");
        assert_eq!((&rows[1]["task"], &rows[1]["seed"]), (&json!(1), &json!(7)));
    }

    #[test]
    fn measures_are_columns_of_numbers_and_tries_are_json() {
        let folder = tempfile::tempdir().unwrap();
        let measured = |task: u64, more: Value| {
            let mut line: Value = serde_json::from_str(&line(task, &json!({}), None)).unwrap();
            line.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            line.to_string()
        };
        let tries = json!([{"seed": 7, "measures": {"clip": 26.5}, "accepted": true}]);
        let lines = [
            measured(0, json!({"measures": {"coverage": 0.5}, "accepted": false, "tries": []})),
            measured(1, json!({"measures": {"clip": 26.5, "coverage": 0.25}, "accepted": true, "tries": tries})),
        ];
        fs::write(folder.path().join(RESULTS), lines.join("\n")).unwrap();
        write(folder.path()).unwrap();
        let reader = SerializedFileReader::new(File::open(folder.path().join(TABLE)).unwrap()).unwrap();
        let rows: Vec<Value> = reader.into_iter().map(|row| row.unwrap().to_json_value()).collect();
        assert_eq!((&rows[0]["measures.clip"], &rows[1]["measures.clip"]), (&json!(null), &json!(26.5)));
        assert_eq!((&rows[0]["measures.coverage"], &rows[1]["measures.coverage"]), (&json!(0.5), &json!(0.25)));
        assert_eq!((&rows[0]["accepted"], &rows[1]["accepted"]), (&json!(false), &json!(true)));
        assert_eq!(serde_json::from_str::<Value>(rows[1]["tries"].as_str().unwrap()).unwrap(), tries);
    }

    #[test]
    fn a_run_without_a_picture_has_an_empty_table() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(RESULTS), "").unwrap();
        write(folder.path()).unwrap();
        let reader = SerializedFileReader::new(File::open(folder.path().join(TABLE)).unwrap()).unwrap();
        assert_eq!(reader.metadata().file_metadata().num_rows(), 0);
        assert!(reader.metadata().file_metadata().schema_descr().num_columns() > 10);
    }
}
