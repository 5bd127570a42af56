//! Which pictures fulfil a condition: their names, or a manifest of them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use diorama_core::id::Sha256Hex;
use diorama_core::measure::Expression;
use diorama_picture::whole;
use serde_json::json;

use crate::error::{Error, Result};
use crate::report::rows;
use crate::row::Row;
use crate::run::ROWS;

/// In the output folder: which files selections were written to, and what they were then.
const WRITTEN: &str = ".selections.json";

/// Refuses a place for a selection where something is that no selection of this evaluation wrote, or that was changed since.
///
/// # Errors
/// [`Error::Input`] names it.
pub fn check(out: &Path, to: &Path) -> Result<()> {
    let Ok(bytes) = std::fs::read(to) else {
        return match to.symlink_metadata() {
            Ok(_) => Err(Error::input(to, "is there and no file that can be read; choose another name")),
            Err(_) => Ok(()),
        };
    };
    match written(out).get(&known_as(to)) {
        Some(sha256) if *sha256 == Sha256Hex::of(&bytes) => Ok(()),
        _ => Err(Error::input(
            to,
            "is there already, and no selection of this evaluation wrote it as it is; choose another name, or remove it",
        )),
    }
}

/// What was written, by canonical path.
fn written(out: &Path) -> BTreeMap<PathBuf, Sha256Hex> {
    let bytes = std::fs::read(out.join(WRITTEN)).unwrap_or_default();
    serde_json::from_slice(&bytes).unwrap_or_default()
}

fn known_as(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}

/// Writes the custom_ids of the first series' rows that fulfil `wanted`, one a line, and a manifest that makes the same
/// pictures again; either may be left out. Gives how many there are, and of how many.
///
/// # Errors
/// [`Error::Input`] where the rows in `out` cannot be read, or as [`check`] says; [`Error::Disk`].
pub fn write(out: &Path, wanted: &Expression, ids: Option<&Path>, manifest: Option<&Path>) -> Result<(u64, u64)> {
    let mut ids = ids.map(|path| Lines::create(out, path)).transpose()?;
    let mut manifest = manifest.map(|path| Lines::create(out, path)).transpose()?;
    let (mut kept, mut all, mut series) = (0, 0, None);
    for row in rows(&out.join(ROWS))? {
        let row = row?;
        if *series.get_or_insert_with(|| row.series.clone()) != row.series || row.problem.is_some() {
            continue;
        }
        all += 1;
        if wanted.holds(&row.measures) {
            kept += 1;
            ids.iter_mut().for_each(|lines| lines.add(&row.custom_id));
            manifest.iter_mut().for_each(|lines| lines.add(&line(&row)));
        }
    }
    for lines in ids.into_iter().chain(manifest) {
        lines.finish(out)?;
    }
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

/// Lines that replace a file as a whole.
struct Lines<'a> {
    path: &'a Path,
    text: String,
}

impl<'a> Lines<'a> {
    /// Refuses what [`check`] refuses.
    fn create(out: &Path, path: &'a Path) -> Result<Self> {
        check(out, path)?;
        Ok(Self { path, text: String::new() })
    }

    fn add(&mut self, line: &str) {
        self.text += line;
        self.text.push('\n');
    }

    fn finish(self, out: &Path) -> Result<()> {
        let put = |path: &Path, bytes: &[u8]| whole::put(path, bytes).map_err(|error| Error::disk(path, error));
        put(self.path, self.text.as_bytes())?;
        let mut known = written(out);
        known.insert(known_as(self.path), Sha256Hex::of(self.text.as_bytes()));
        put(&out.join(WRITTEN), &serde_json::to_vec(&known).unwrap_or_default())
    }
}
