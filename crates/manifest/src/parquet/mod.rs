//! Parquet, by the library's row API: text, numbers, booleans and lists of them; other types are refused by the key's own
//! check.
//!
//! The library trusts what it reads: it follows a schema by recursion, reserves what is declared, unpacks for as long as
//! there is something, and panics on some damaged files. So a file is walked over first ([`footer`], [`pages`]), what
//! its pages hold is looked at before it is decoded ([`guard`]), and no panic leaves this module: a damaged file is an
//! issue like any other.

mod cell;
mod footer;
mod guard;
mod pages;
mod thrift;

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use diorama_core::manifest::ManifestIssue;
use parquet::errors::ParquetError;
use parquet::file::metadata::ParquetMetaData;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::reader::RowIter;
use parquet::record::{Field, Row};
use parquet::schema::types::{Type, TypePtr};
use serde_json::Value;

use self::guard::{Guarded, Held};
use crate::keys::{Keys, Role};
use crate::raw::{Cells, MAX_LINE_BYTES, Raw, Rows, issue};
use crate::rules::Rules;

/// Rows that a file may have whatever its size; each more needs a byte, because each has an id of its own.
const FREE_ROWS: u64 = 500_000;

/// Values of a column that are read at a time: all columns together hold so many.
const BATCH: usize = 128;

pub(crate) fn rows(file: File, rules: &Rules) -> Rows {
    match caught(|| open(file, &mut Keys::new(rules))) {
        Ok((issues, rows)) => {
            let header = (!issues.is_empty()).then_some(Ok(Raw::File(issues)));
            Box::new(header.into_iter().chain(rows))
        }
        Err(error) => Box::new(std::iter::once(Ok(Raw::File(vec![unreadable(0, &error)])))),
    }
}

/// What is wrong with the file's columns, and its rows.
fn open(file: File, keys: &mut Keys) -> Result<(Vec<ManifestIssue>, Rows), ParquetError> {
    footer::check(&file).map_err(ParquetError::General)?;
    let reader = SerializedFileReader::new(file.try_clone()?)?;
    let schema = reader.metadata().file_metadata().schema_descr().root_schema_ptr();
    let names: Vec<&str> = schema.get_fields().iter().map(|field| field.name()).collect();
    let (roles, mut issues) = keys.of_table(0, &names);
    let fields = || schema.get_fields().iter().zip(&roles);
    for (field, _) in fields().filter(|(field, role)| matches!(role, Role::Key(_)) && cell::is_bare_list(field)) {
        // Say it once instead of for every row.
        let message = format!("the column {:?} is a bare repeated field; write it as a list", field.name());
        issues.push(issue(0, "wrong_type", Some(field.name()), message));
    }
    if issues.iter().any(|issue| issue.code != "unknown_key") {
        return Ok((issues, Box::new(std::iter::empty())));
    }
    let read: Vec<(TypePtr, Role)> = fields()
        .filter(|(field, role)| match role {
            Role::Key(_) => true,
            Role::Extra => cell::can_be_carried(field),
            Role::LeftOut | Role::Refused(..) => false,
        })
        .map(|(field, role)| (field.clone(), role.clone()))
        .collect();
    check_size(&file, reader.metadata(), &read)?;
    let projection = Type::group_type_builder(schema.name())
        .with_fields(read.iter().map(|(field, _)| field.clone()).collect())
        .build()?;
    let held = Held::default();
    let guarded = Guarded { file: reader, held: held.clone() };
    let rows = RowIter::from_file_into(Box::new(guarded)).project(Some(projection))?.with_batch_size(BATCH);
    Ok((issues, Box::new(read_rows(rows, read.into_iter().map(|(_, role)| role).collect(), held))))
}

/// Refuses what would become large once it is read.
fn check_size(file: &File, metadata: &ParquetMetaData, read: &[(TypePtr, Role)]) -> Result<(), ParquetError> {
    let bytes = file.metadata()?.len();
    let rows = metadata.row_groups().iter().map(|group| u64::try_from(group.num_rows()).unwrap_or(u64::MAX));
    let rows = rows.fold(0, u64::saturating_add);
    if rows > FREE_ROWS + bytes {
        return Err(ParquetError::General(format!("it claims {rows} rows, in {bytes} bytes")));
    }
    let names: Vec<&str> = read.iter().map(|(field, _)| field.name()).collect();
    for group in metadata.row_groups() {
        let wanted = |place: usize| {
            let path = group.column(place).column_path().parts();
            path.first().is_some_and(|first| names.contains(&first.as_str()))
        };
        pages::check(file, group, wanted).map_err(ParquetError::General)?;
    }
    Ok(())
}

fn read_rows(
    mut rows: RowIter<'static>,
    roles: Arc<[Role]>,
    held: Held,
) -> impl Iterator<Item = std::io::Result<Raw>> + Send {
    let (mut line, mut ended) = (0, false);
    std::iter::from_fn(move || {
        if ended {
            return None;
        }
        line += 1;
        // A reader that panicked is not asked again.
        let row = caught(|| rows.next().transpose()).transpose()?;
        held.forget();
        let row = row.map_or_else(|error| Raw::File(vec![unreadable(line, &error)]), |row| cells(line, row, &roles));
        ended = matches!(row, Raw::File(_));
        Some(Ok(row))
    })
}

fn caught<T>(read: impl FnOnce() -> Result<T, ParquetError>) -> Result<T, ParquetError> {
    catch_unwind(AssertUnwindSafe(read))
        .unwrap_or_else(|_| Err(ParquetError::General("the file is damaged".to_owned())))
}

fn unreadable(line: u64, error: &ParquetError) -> ManifestIssue {
    let why = match error {
        ParquetError::General(why) => why.clone(),
        other => other.to_string(),
    };
    issue(line, "invalid_parquet", None, format!("is not readable as Parquet: {why}"))
}

fn cells(line: u64, row: Row, roles: &[Role]) -> Raw {
    let columns = row.into_columns();
    let bytes: usize = columns.iter().map(|(_, field)| bytes_of(field)).sum();
    if bytes > MAX_LINE_BYTES {
        // A page may hold one such cell for a million rows.
        let message =
            format!("has {bytes} bytes; at most {MAX_LINE_BYTES} are allowed; what follows it was not checked");
        return Raw::File(vec![issue(line, "line_too_long", None, message)]);
    }
    let mut row = Cells::default();
    for ((name, field), role) in columns.into_iter().zip(roles) {
        match role {
            Role::Key(key) => match cell::of_key(&field) {
                Ok(Value::Null) => {}
                Ok(value) => drop(row.known.insert((*key).to_owned(), value)),
                Err(problem) => row.issues.push(issue(line, "wrong_type", Some(&name), format!("{name}: {problem}"))),
            },
            _ => drop(row.extra.insert(name, cell::of_extra(&field))),
        }
    }
    Raw::Row(line, row)
}

/// The bytes of a cell's texts, and some for everything else.
fn bytes_of(field: &Field) -> usize {
    match field {
        Field::Str(text) => text.len(),
        Field::Bytes(bytes) => bytes.len(),
        Field::ListInternal(list) => list.elements().iter().map(bytes_of).sum(),
        Field::Group(row) => row.get_column_iter().map(|(_, field)| bytes_of(field)).sum(),
        Field::MapInternal(map) => map.entries().iter().map(|(key, value)| bytes_of(key) + bytes_of(value)).sum(),
        _ => 8,
    }
}
