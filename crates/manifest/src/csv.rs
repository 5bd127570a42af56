//! CSV with a header. Subjects and edit steps are separated by `;` in their cell; an empty cell means unset.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use csv::ByteRecord;
use diorama_core::manifest::ManifestIssue;
use diorama_core::settings::{self, Settings};
use serde_json::{Map, Value};

use crate::raw::{MAX_LINE_BYTES, Raw, column_issues, issue, known_keys};

pub(crate) fn rows(file: File, path: PathBuf) -> impl Iterator<Item = io::Result<Raw>> {
    let record_start = Arc::new(AtomicU64::new(0));
    let limited = Limited { inner: file, served: 0, record_start: Arc::clone(&record_start) };
    // The header is read as a record, because it may be wrong too.
    let reader = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(limited);
    Table { reader, record_start, path, columns: None, ended: false }
}

struct Table {
    reader: csv::Reader<Limited>,
    record_start: Arc<AtomicU64>,
    path: PathBuf,
    columns: Option<Vec<String>>,
    ended: bool,
}

impl Iterator for Table {
    type Item = io::Result<Raw>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let mut record = ByteRecord::new();
        let start = self.reader.position().byte();
        let line = self.reader.position().line();
        self.record_start.store(start, Ordering::Relaxed);
        match self.reader.read_byte_record(&mut record) {
            Ok(false) => return None,
            Ok(true) => {}
            Err(error) => {
                self.ended = true;
                return Some(read_error(line, error));
            }
        }
        let line = record.position().map_or(line, csv::Position::line);
        let cells = match text(&record) {
            Some(cells) => cells,
            None => {
                let end = self.reader.position().byte();
                return Some(not_utf8(&self.path, start, end).map(|at| {
                    let message = format!("is not UTF-8: the byte at offset {at} of the file; save the file as UTF-8");
                    let issues = vec![issue(line, "not_utf8", None, message)];
                    // Without a header no row can be read.
                    self.ended = self.columns.is_none();
                    if self.ended { Raw::File(issues) } else { Raw::Bad(line, issues) }
                }));
            }
        };
        let Some(columns) = &self.columns else {
            let columns: Vec<String> = cells.iter().map(|cell| cell.trim().to_owned()).collect();
            let issues = column_issues(line, columns.iter().map(String::as_str));
            self.ended = issues.iter().any(|issue| issue.code != "unknown_key");
            self.columns = Some(columns);
            return if issues.is_empty() { self.next() } else { Some(Ok(Raw::File(issues))) };
        };
        Some(Ok(row(line, columns, &cells)))
    }
}

fn text(record: &ByteRecord) -> Option<Vec<&str>> {
    record.iter().map(|cell| std::str::from_utf8(cell).ok()).collect()
}

fn row(line: u64, columns: &[String], cells: &[&str]) -> Raw {
    if cells.len() != columns.len() {
        let message = format!(
            "has {} cells, the header has {}; is a quote left open, or a comma not quoted?",
            cells.len(),
            columns.len()
        );
        return Raw::Bad(line, vec![issue(line, "wrong_column_count", None, message)]);
    }
    let mut map = Map::new();
    for (column, cell) in columns.iter().zip(cells) {
        if !cell.trim().is_empty() && known_keys().any(|known| known == column) {
            map.insert(column.clone(), value(column, cell));
        }
    }
    Raw::Row(line, map)
}

/// The JSON that a cell means. A cell that is no number where one is wanted stays text, and is refused as such later.
fn value(column: &str, cell: &str) -> Value {
    match column {
        "custom_id" | "prompt" | "reference" | "region" => Value::from(cell),
        "subjects" => cell.split(';').map(|subject| Value::from(subject.trim())).collect(),
        "seed" => settings::number(cell),
        setting => Settings::read_text(setting, cell),
    }
}

fn read_error(line: u64, error: csv::Error) -> io::Result<Raw> {
    let file = |issue: ManifestIssue| Ok(Raw::File(vec![issue]));
    match error.into_kind() {
        csv::ErrorKind::Io(error) if error.get_ref().is_some_and(|inner| inner.is::<TooLong>()) => file(issue(
            line,
            "line_too_long",
            None,
            format!(
                "is longer than {MAX_LINE_BYTES} bytes; is a quote left open? What follows it was not checked, because \
                 nobody can say where the next row begins"
            ),
        )),
        csv::ErrorKind::Io(error) => Err(error),
        other => file(issue(line, "invalid_csv", None, format!("is not CSV: {other:?}"))),
    }
}

/// Where the first byte between `start` and `end` of the file is that is not UTF-8.
fn not_utf8(path: &PathBuf, start: u64, end: u64) -> io::Result<u64> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    file.take(end - start).read_to_end(&mut bytes)?;
    Ok(start + std::str::from_utf8(&bytes).err().map_or(0, |error| error.valid_up_to() as u64))
}

/// Ends a record that goes on too long, so that an open quote cannot pull a whole file into memory.
struct Limited {
    inner: File,
    served: u64,
    record_start: Arc<AtomicU64>,
}

#[derive(Debug, thiserror::Error)]
#[error("the record is too long")]
struct TooLong;

impl Read for Limited {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.served - self.record_start.load(Ordering::Relaxed) > MAX_LINE_BYTES as u64 {
            return Err(io::Error::other(TooLong));
        }
        let read = self.inner.read(buffer)?;
        self.served += read as u64;
        Ok(read)
    }
}
