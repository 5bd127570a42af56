//! Manifests: validated as a whole before anything starts, then streamed as tasks.
//!
//! Two passes over the file. The first, [`Manifest::validate`], finds everything that is wrong with every row; the
//! second, [`Manifest::tasks`], yields the tasks. Both hold one row at a time, and the first what finds ids that occur
//! twice, in bounded memory. Never fetches anything.

mod budget;
mod csv;
mod duplicates;
mod error;
mod format;
mod jsonl;
mod keys;
mod lines;
mod manifest;
mod parquet;
mod quotes;
mod raw;
mod reference;
mod row;
mod rules;
mod sniff;
mod spool;

pub use budget::{Budget, StopOnDrop};
pub use error::ManifestError;
pub use format::Format;
pub use manifest::{LISTED_SKIPPED, Manifest, ManifestReport, Tasks};
pub use raw::{MAX_LINE_BYTES, cleaned};
pub use row::MAX_PROMPT_BYTES;
pub use rules::{References, Rules, columns};
