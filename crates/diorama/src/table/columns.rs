//! A table in Parquet, column by column: text, numbers and lists of text, each of which may be missing.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use parquet::basic::{Compression, LogicalType, Repetition, Type as Physical, ZstdLevel};
use parquet::data_type::{BoolType, ByteArray, ByteArrayType, DoubleType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedColumnWriter, SerializedFileWriter};
use parquet::schema::types::{Type, TypePtr};
use serde_json::Value;

/// What a column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Column {
    Text,
    Whole,
    Real,
    /// True or false.
    Truth,
    /// A list of texts.
    Texts,
}

impl Column {
    fn schema(self, name: &str) -> Result<TypePtr, ParquetError> {
        let optional = |physical| Type::primitive_type_builder(name, physical).with_repetition(Repetition::OPTIONAL);
        let text = |name: &str, repetition| {
            let text = Type::primitive_type_builder(name, Physical::BYTE_ARRAY).with_repetition(repetition);
            text.with_logical_type(Some(LogicalType::String)).build()
        };
        Ok(Arc::new(match self {
            Self::Text => text(name, Repetition::OPTIONAL)?,
            Self::Whole => optional(Physical::INT64).build()?,
            Self::Real => optional(Physical::DOUBLE).build()?,
            Self::Truth => optional(Physical::BOOLEAN).build()?,
            Self::Texts => {
                let element = Arc::new(text("element", Repetition::REQUIRED)?);
                let list = Type::group_type_builder("list").with_repetition(Repetition::REPEATED);
                let list = Arc::new(list.with_fields(vec![element]).build()?);
                let whole = Type::group_type_builder(name).with_repetition(Repetition::OPTIONAL);
                whole.with_logical_type(Some(LogicalType::List)).with_fields(vec![list]).build()?
            }
        }))
    }
}

/// A table that is being written.
pub(super) struct Table {
    columns: Vec<(String, Column)>,
    writer: SerializedFileWriter<File>,
}

impl Table {
    pub(super) fn create(path: &Path, columns: Vec<(String, Column)>) -> Result<Self> {
        let fields = columns.iter().map(|(name, column)| column.schema(name)).collect::<Result<Vec<_>, _>>()?;
        let schema = Type::group_type_builder("results").with_fields(fields).build()?;
        let packed = WriterProperties::builder().set_compression(Compression::ZSTD(ZstdLevel::default())).build();
        // What is there may be a link, which is replaced and not written through.
        if path.symlink_metadata().is_ok() {
            std::fs::remove_file(path)?;
        }
        let writer = SerializedFileWriter::new(File::create_new(path)?, Arc::new(schema), Arc::new(packed))?;
        Ok(Self { columns, writer })
    }

    /// Adds rows, each with a value a column.
    pub(super) fn add(&mut self, rows: Vec<Vec<Value>>) -> Result<()> {
        if rows.is_empty() {
            return Ok(());
        }
        let mut group = self.writer.next_row_group()?;
        for (place, (_, column)) in self.columns.iter().enumerate() {
            let cells = rows.iter().map(|row| row.get(place).unwrap_or(&Value::Null));
            let Some(mut writer) = group.next_column()? else { break };
            put(*column, cells, &mut writer)?;
            writer.close()?;
        }
        group.close()?;
        Ok(())
    }

    pub(super) fn finish(self) -> Result<()> {
        self.writer.close()?;
        Ok(())
    }
}

/// Writes a column's cells. A level says how much of a cell is there: 0 nothing, then, of a list, 1 none in it.
fn put<'a>(
    column: Column,
    cells: impl Iterator<Item = &'a Value>,
    writer: &mut SerializedColumnWriter<'_>,
) -> Result<(), ParquetError> {
    let text = |value: &Value| value.as_str().map(|text| ByteArray::from(text.as_bytes().to_vec()));
    match column {
        Column::Text => {
            let (values, levels) = scalars(cells, text);
            writer.typed::<ByteArrayType>().write_batch(&values, Some(&levels), None)?;
        }
        Column::Whole => {
            let (values, levels) = scalars(cells, Value::as_i64);
            writer.typed::<Int64Type>().write_batch(&values, Some(&levels), None)?;
        }
        Column::Real => {
            let (values, levels) = scalars(cells, Value::as_f64);
            writer.typed::<DoubleType>().write_batch(&values, Some(&levels), None)?;
        }
        Column::Truth => {
            let (values, levels) = scalars(cells, Value::as_bool);
            writer.typed::<BoolType>().write_batch(&values, Some(&levels), None)?;
        }
        Column::Texts => {
            let (mut values, mut levels, mut repeated) = (Vec::new(), Vec::new(), Vec::new());
            for cell in cells {
                let Some(list) = cell.as_array().filter(|list| !list.is_empty()) else {
                    levels.push(i16::from(cell.is_array()));
                    repeated.push(0);
                    continue;
                };
                for (place, entry) in list.iter().enumerate() {
                    values.push(text(entry).unwrap_or_default());
                    levels.push(2);
                    repeated.push(i16::from(place > 0));
                }
            }
            writer.typed::<ByteArrayType>().write_batch(&values, Some(&levels), Some(&repeated))?;
        }
    }
    Ok(())
}

fn scalars<'a, T>(cells: impl Iterator<Item = &'a Value>, read: impl Fn(&Value) -> Option<T>) -> (Vec<T>, Vec<i16>) {
    let cells: Vec<Option<T>> = cells.map(read).collect();
    let levels = cells.iter().map(|cell| i16::from(cell.is_some())).collect();
    (cells.into_iter().flatten().collect(), levels)
}
