//! What a row is read by, besides its own cells.

use diorama_core::id::Seed;
use diorama_core::settings::{Method, Settings};

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
