//! Parquet, by its row API: text, numbers, booleans and lists of them; other types are refused by the key's own check.
//!
//! The library panics on some damaged files (60.1: "Decoder for dict should have been set"). No panic leaves this
//! module: a damaged file is an issue like any other.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};

use diorama_core::manifest::ManifestIssue;
use parquet::basic::Repetition;
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::{Field, Row};
use serde_json::{Map, Number, Value};

use crate::raw::{Raw, Rows, column_issues, issue, known_keys};

pub(crate) fn rows(file: File) -> Rows {
    match caught(|| open(file)) {
        Ok((issues, rows)) => {
            let header = (!issues.is_empty()).then_some(Ok(Raw::File(issues)));
            Box::new(header.into_iter().chain(rows))
        }
        Err(error) => Box::new(std::iter::once(Ok(Raw::File(vec![unreadable(0, &error)])))),
    }
}

fn open(file: File) -> Result<(Vec<ManifestIssue>, Rows), ParquetError> {
    let reader = SerializedFileReader::new(file)?;
    let schema = reader.metadata().file_metadata().schema();
    let columns: Vec<String> = schema.get_fields().iter().map(|field| field.name().to_owned()).collect();
    let mut issues = column_issues(0, columns.iter().map(String::as_str));
    for field in schema.get_fields() {
        // The row API turns such a column into nothing readable; say it once instead of for every row.
        if field.get_basic_info().has_repetition() && field.get_basic_info().repetition() == Repetition::REPEATED {
            let message = format!("the column {:?} is a bare repeated field; write it as a list", field.name());
            issues.push(issue(0, "wrong_type", Some(field.name()), message));
        }
    }
    let mut rows = reader.into_iter();
    let (mut line, mut ended) = (0, false);
    let rows = std::iter::from_fn(move || {
        if ended {
            return None;
        }
        line += 1;
        // A reader that panicked is not asked again.
        let row = caught(|| rows.next().transpose()).transpose()?;
        ended = row.is_err();
        Some(Ok(row.map_or_else(|error| Raw::File(vec![unreadable(line, &error)]), |row| cells(line, row))))
    });
    Ok((issues, Box::new(rows)))
}

fn caught<T>(read: impl FnOnce() -> Result<T, ParquetError>) -> Result<T, ParquetError> {
    catch_unwind(AssertUnwindSafe(read))
        .unwrap_or_else(|_| Err(ParquetError::General("the file is damaged".to_owned())))
}

fn unreadable(line: u64, error: &ParquetError) -> ManifestIssue {
    issue(line, "invalid_parquet", None, format!("is not readable as Parquet: {error}"))
}

fn cells(line: u64, row: Row) -> Raw {
    let (mut map, mut issues) = (Map::new(), Vec::new());
    for (column, field) in row.into_columns() {
        if !known_keys().any(|known| known == column) {
            continue;
        }
        match value(&field) {
            Ok(Value::Null) => {}
            Ok(value) => {
                map.insert(column, value);
            }
            Err(problem) => issues.push(issue(line, "wrong_type", Some(&column), problem)),
        }
    }
    if issues.is_empty() { Raw::Row(line, map) } else { Raw::Bad(line, issues) }
}

fn value(field: &Field) -> Result<Value, String> {
    let float = |number: f64| {
        Number::from_f64(number).map(Value::Number).ok_or_else(|| format!("{number} is not a number to work with"))
    };
    Ok(match field {
        Field::Null => Value::Null,
        Field::Bool(value) => Value::from(*value),
        Field::Byte(value) => Value::from(*value),
        Field::Short(value) => Value::from(*value),
        Field::Int(value) => Value::from(*value),
        Field::Long(value) => Value::from(*value),
        Field::UByte(value) => Value::from(*value),
        Field::UShort(value) => Value::from(*value),
        Field::UInt(value) => Value::from(*value),
        Field::ULong(value) => Value::from(*value),
        // Through text, so that 0.9f32 is 0.9 and not 0.8999999761581421.
        Field::Float(value) => float(value.to_string().parse().unwrap_or(f64::from(*value)))?,
        Field::Double(value) => float(*value)?,
        Field::Str(text) => Value::from(text.as_str()),
        Field::Bytes(bytes) => match std::str::from_utf8(bytes.data()) {
            Ok(text) => Value::from(text),
            Err(error) => return Err(format!("is not UTF-8 at byte {} of the cell", error.valid_up_to())),
        },
        Field::ListInternal(list) => list.elements().iter().map(value).collect::<Result<Value, _>>()?,
        other => return Err(format!("{other} has a type that no key of a row has")),
    })
}
