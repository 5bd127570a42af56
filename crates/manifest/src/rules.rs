//! What a row is read by, besides its own cells.

use std::collections::BTreeMap;

use diorama_core::id::Seed;
use diorama_core::manifest::ExtraColumns;
use diorama_core::settings::{Method, Settings};
use diorama_core::text::quoted;

use crate::keys::{known, known_keys};

/// What a row is read by, besides its own cells.
#[derive(Debug, Clone)]
pub struct Rules {
    /// The settings of every row that does not set its own.
    pub settings: Settings,
    /// From which rows without a seed derive theirs.
    pub seed: Seed,
    /// Methods made beside the row's own: a reference is needed where any of them needs one.
    pub compare: Vec<Method>,
    /// Which references can be read.
    pub references: References,
    /// Whether `http://` is fetched as `https://` is.
    pub plain_http: bool,
    /// Whether links may lead out of the manifest's folder.
    pub follow_links: bool,
    /// What happens to columns that are none of ours.
    pub extra_columns: ExtraColumns,
    /// Our keys that have another name in this manifest, with that name. A column that has our key's own name is left out.
    pub columns: BTreeMap<String, String>,
}

/// Which references whoever makes the pictures can read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum References {
    /// A run on this machine: files, and URLs.
    FilesAndUrls,
    /// A submission from this machine: files, which are uploaded, and what workers fetch.
    FilesAndRemote,
    /// A fleet: what workers fetch, and what was uploaded.
    Remote,
    /// A fleet whose workers share the coordinator's folder of references: all of them.
    All,
}

impl References {
    /// Whether a path means a file here.
    pub(crate) fn files(self) -> bool {
        self != Self::Remote
    }

    /// Whether objects of the fleet's store can be read.
    pub(crate) fn objects(self) -> bool {
        self != Self::FilesAndUrls
    }
}

/// Reads pairs of our keys and the names that they have in a manifest; the error says what is wrong with one.
pub fn columns<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<BTreeMap<String, String>, String> {
    let mut columns = BTreeMap::new();
    for (key, column) in pairs {
        if known(key).is_none() {
            let keys = known_keys().collect::<Vec<_>>().join(", ");
            return Err(format!("columns: {} is not a key of a row; the keys are {keys}", quoted(key)));
        }
        if column.is_empty() || columns.values().any(|other| other == column) {
            return Err(format!("columns: {key}={} names no column, or one that another key has", quoted(column)));
        }
        if columns.insert(key.to_owned(), column.to_owned()).is_some() {
            return Err(format!("columns: {key} is given twice"));
        }
    }
    Ok(columns)
}
