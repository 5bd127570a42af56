//! Which pictures fulfil a condition: their names, or a manifest of them.

use std::io::{BufWriter, Write};
use std::path::Path;

use diorama_core::measure::Expression;
use serde_json::json;

use crate::error::{Error, Result};
use crate::report::rows;
use crate::row::Row;
use crate::run::ROWS;

/// Writes the custom_ids of the first series' rows that fulfil `wanted`, one a line, and a manifest that makes the same
/// pictures again; either may be left out. Gives how many there are, and of how many.
///
/// # Errors
/// [`Error::Input`] where the rows in `out` cannot be read; [`Error::Disk`].
pub fn write(out: &Path, wanted: &Expression, ids: Option<&Path>, manifest: Option<&Path>) -> Result<(u64, u64)> {
    let mut ids = ids.map(Lines::create).transpose()?;
    let mut manifest = manifest.map(Lines::create).transpose()?;
    let (mut kept, mut all, mut series) = (0, 0, None);
    for row in rows(&out.join(ROWS))? {
        let row = row?;
        if *series.get_or_insert_with(|| row.series.clone()) != row.series || row.problem.is_some() {
            continue;
        }
        all += 1;
        if wanted.holds(&row.measures) {
            kept += 1;
            ids.as_mut().map(|lines| lines.add(&row.custom_id)).transpose()?;
            manifest.as_mut().map(|lines| lines.add(&line(&row))).transpose()?;
        }
    }
    ids.map(Lines::finish).transpose()?;
    manifest.map(Lines::finish).transpose()?;
    Ok((kept, all))
}

fn line(row: &Row) -> String {
    let mut line =
        json!({ "custom_id": row.custom_id, "reference": row.reference, "prompt": row.prompt, "seed": row.seed });
    if let Some(keys) = line.as_object_mut() {
        keys.retain(|_, value| !value.is_null());
    }
    line.to_string()
}

struct Lines<'a> {
    path: &'a Path,
    file: BufWriter<std::fs::File>,
}

impl<'a> Lines<'a> {
    fn create(path: &'a Path) -> Result<Self> {
        let file = std::fs::File::create(path).map_err(|error| Error::disk(path, error))?;
        Ok(Self { path, file: BufWriter::new(file) })
    }

    fn add(&mut self, line: &str) -> Result<()> {
        writeln!(self.file, "{line}").map_err(|error| Error::disk(self.path, error))
    }

    fn finish(mut self) -> Result<()> {
        self.file.flush().map_err(|error| Error::disk(self.path, error))
    }
}
