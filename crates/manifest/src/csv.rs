//! CSV with a header. Subjects and edit steps are separated by `;` in their cell; an empty cell means unset.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use csv::ByteRecord;
use diorama_core::manifest::ManifestIssue;
use diorama_core::settings::{self, Kind, Settings};
use diorama_core::text::quoted;
use serde_json::Value;

use crate::keys::{Keys, MAX_COLUMNS, Role, known};
use crate::quotes::Quotes;
use crate::raw::{Cells, MAX_LINE_BYTES, Raw, issue};
use crate::rules::Rules;

pub(crate) fn rows(file: File, path: PathBuf, rules: &Rules) -> impl Iterator<Item = io::Result<Raw>> + use<> {
    let record_start = Arc::new(AtomicU64::new(0));
    let limited = Limited { inner: file, served: 0, record_start: Arc::clone(&record_start), quotes: Quotes::new() };
    // The header is read as a record, because it may be wrong too.
    let reader = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(limited);
    let (record, keys) = (ByteRecord::new(), Keys::new(rules));
    Table { reader, record, record_start, path, keys, columns: None, ended: false }
}

struct Table {
    reader: csv::Reader<Limited>,
    record: ByteRecord,
    record_start: Arc<AtomicU64>,
    path: PathBuf,
    keys: Keys,
    columns: Option<Vec<Column>>,
    ended: bool,
}

/// A column of the header.
struct Column {
    name: String,
    role: Role,
}

impl Iterator for Table {
    type Item = io::Result<Raw>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let start = self.reader.position().byte();
        let line = self.reader.position().line();
        self.record_start.store(start, Ordering::Relaxed);
        match self.reader.read_byte_record(&mut self.record) {
            Ok(false) => return None,
            Ok(true) => {}
            Err(error) => {
                self.ended = true;
                return Some(read_error(line, error));
            }
        }
        let line = match self.record.position() {
            Some(begins) => begins.line() + self.reader.get_mut().quotes.line_feeds_from(begins.byte()),
            None => line,
        };
        let wrong_quotes = self.wrong_quotes(line);
        if let Some(issues) = wrong_quotes.clone().filter(|_| self.columns.is_some()) {
            return Some(Ok(Raw::Bad(line, issues)));
        }
        if let Some(row) = self.wrong_count(line) {
            return Some(Ok(row));
        }
        let cells = match text(&self.record) {
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
            let names: Vec<&str> = cells.iter().map(|cell| cell.trim()).collect();
            if let Some(message) = wrong_separator(&names, &self.keys) {
                self.ended = true;
                return Some(Ok(Raw::File(vec![issue(line, "wrong_separator", None, message)])));
            }
            if let Some(issues) = wrong_quotes {
                self.ended = true;
                return Some(Ok(Raw::File(issues)));
            }
            let (roles, issues) = self.keys.of_table(line, &names);
            self.ended = issues.iter().any(|issue| issue.code != "unknown_key");
            let column = |(name, role): (&&str, Role)| Column { name: (*name).to_owned(), role };
            self.columns = Some(names.iter().zip(roles).map(column).collect());
            return if issues.is_empty() { self.next() } else { Some(Ok(Raw::File(issues))) };
        };
        Some(Ok(Raw::Row(line, row(columns, &cells))))
    }
}

impl Table {
    /// What is wrong with the quotes of the record that was read last.
    fn wrong_quotes(&mut self, line: u64) -> Option<Vec<ManifestIssue>> {
        let end = self.reader.position().byte();
        let fault = self.reader.get_mut().quotes.fault_before(end)?;
        Some(vec![issue(line, "wrong_quotes", None, fault.message())])
    }

    /// What is wrong with a record of too many or too few cells; of a header that has very many, the file.
    fn wrong_count(&mut self, line: u64) -> Option<Raw> {
        let cells = self.record.len();
        let Some(columns) = self.columns.as_ref().map(Vec::len) else {
            if cells <= MAX_COLUMNS {
                return None;
            }
            self.ended = true;
            let message = format!("there are {cells} columns; at most {MAX_COLUMNS} are allowed");
            return Some(Raw::File(vec![issue(line, "too_many_columns", None, message)]));
        };
        if cells == columns {
            return None;
        }
        let message =
            format!("has {cells} cells, the header has {columns}; is a quote not closed, or a comma not quoted?");
        Some(Raw::Bad(line, vec![issue(line, "wrong_column_count", None, message)]))
    }
}

/// Why the header shows that the cells are not separated by commas.
fn wrong_separator(names: &[&str], keys: &Keys) -> Option<String> {
    let is_ours =
        |name: &str| known(name).is_some() || ["custom_id", "prompt"].iter().any(|key| keys.written(key) == name);
    if names.iter().any(|name| is_ours(name)) {
        return None;
    }
    let bare = |cell: &str| is_ours(cell.trim().trim_matches('"'));
    let separated = |separator: char| {
        let cells_of_ours = |name: &str| name.split(separator).filter(|cell| bare(cell)).count();
        names.iter().any(|name| cells_of_ours(name) > 1) || names.len() == 1 && names[0].contains(separator)
    };
    let hint = names.first().is_some_and(|first| first.to_ascii_lowercase().starts_with("sep="));
    let word = match [';', '\t', '|'].into_iter().find(|separator| separated(*separator)) {
        Some(';') => "semicolons",
        Some('\t') => "tabs",
        Some(_) => "vertical bars",
        None if hint => "what its line `sep=` says",
        None => return None,
    };
    Some(format!(
        "the cells are separated by {word}; save the file with commas (first cell: {})",
        quoted(names.first()?)
    ))
}

fn text(record: &ByteRecord) -> Option<Vec<&str>> {
    record.iter().map(|cell| std::str::from_utf8(cell).ok()).collect()
}

fn row(columns: &[Column], cells: &[&str]) -> Cells {
    let mut row = Cells::default();
    for (Column { name, role }, cell) in columns.iter().zip(cells).filter(|(_, cell)| !cell.trim().is_empty()) {
        match role {
            Role::Key(key) => drop(row.known.insert((*key).to_owned(), value(key, cell))),
            Role::Extra => drop(row.extra.insert(name.clone(), Value::from(*cell))),
            Role::LeftOut | Role::Refused(..) => {}
        }
    }
    row
}

/// The JSON that a cell means. A cell that is no number where one is wanted stays text, and is refused as such later.
fn value(key: &str, cell: &str) -> Value {
    match key {
        "custom_id" | "prompt" | "reference" | "region" => Value::from(cell),
        "subjects" => list(cell, |cell| cell.split(';').map(|subject| Value::from(subject.trim())).collect()),
        "seed" => settings::number(cell),
        setting if Settings::DECLARED.iter().any(|key| key.name == setting && matches!(key.kind, Kind::Wholes)) => {
            list(cell, |cell| Settings::read_text(setting, cell))
        }
        setting => Settings::read_text(setting, cell),
    }
}

/// A list in a cell: as JSON where it begins like one. What only looks so, as lists of data frames do, stays text.
fn list(cell: &str, read: impl Fn(&str) -> Value) -> Value {
    if cell.trim_start().starts_with('[') {
        return serde_json::from_str(cell).unwrap_or_else(|_| Value::from(cell));
    }
    read(cell)
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

/// Ends a record that goes on too long, so that an open quote cannot pull a whole file into memory; watches the quotes.
struct Limited {
    inner: File,
    served: u64,
    record_start: Arc<AtomicU64>,
    quotes: Quotes,
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
        match read {
            0 => self.quotes.end(),
            read => self.quotes.pass(&buffer[..read]),
        }
        Ok(read)
    }
}
