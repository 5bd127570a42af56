//! What every reader of a format yields: rows as JSON objects, or what is wrong with them.

use std::io;

use diorama_core::manifest::{Extra, ManifestIssue};
use diorama_core::text::{QUOTED, plain};
use serde_json::{Map, Value};

/// The longest line (JSONL), record (CSV) or row (Parquet): 1 MiB.
pub const MAX_LINE_BYTES: usize = 1 << 20;

/// The most characters of a message: enough for every list of keys.
const MAX_MESSAGE: usize = 1000;

/// What a reader yields; an [`io::Error`] ends it.
pub(crate) type Rows = Box<dyn Iterator<Item = io::Result<Raw>> + Send>;

/// One row as it was read.
#[derive(Debug)]
pub(crate) enum Raw {
    /// A row: its line and its cells.
    Row(u64, Cells),
    /// A row that cannot be read; the rows after it can.
    Bad(u64, Vec<ManifestIssue>),
    /// Something that spoils the whole file, such as a missing column. Rows may follow, so that all is reported.
    File(Vec<ManifestIssue>),
}

/// The cells of a row.
#[derive(Debug, Default)]
pub(crate) struct Cells {
    /// Those of our keys, by key.
    pub(crate) known: Map<String, Value>,
    /// Those of the user's own columns, by name.
    pub(crate) extra: Extra,
    /// What is wrong with its keys already; none of it hides what is wrong with the others.
    pub(crate) issues: Vec<ManifestIssue>,
}

/// An issue. Nothing of it can steer a terminal, and none of it is long, whatever it quotes.
pub(crate) fn issue(line: u64, code: &str, param: Option<&str>, message: impl AsRef<str>) -> ManifestIssue {
    ManifestIssue {
        line,
        code: code.to_owned(),
        message: plain(message.as_ref(), MAX_MESSAGE),
        param: param.map(|param| plain(param, QUOTED)),
        custom_id: None,
    }
}

/// An issue that somebody else found, with the same bounds.
pub fn cleaned(found: ManifestIssue) -> ManifestIssue {
    ManifestIssue {
        code: plain(&found.code, QUOTED),
        custom_id: found.custom_id.map(|id| plain(&id, QUOTED)),
        ..issue(found.line, "", found.param.as_deref(), found.message)
    }
}

/// An issue of a whole file, after which nothing of it is read.
pub(crate) fn unreadable(code: &str, message: impl AsRef<str>) -> Rows {
    Box::new(std::iter::once(Ok(Raw::File(vec![issue(0, code, None, message)]))))
}
