//! A manifest that can be read once only, such as a pipe: it is copied to the temporary folder, because it is read
//! several times.

use std::fs::File;
use std::io::{self, Seek};
use std::path::Path;
use std::sync::Arc;

use tempfile::{NamedTempFile, TempPath};

use crate::format::Format;
use crate::sniff;

/// What a path says that means standard input.
const STDIN: &str = "-";

/// The copy.
#[derive(Debug, Clone)]
pub(crate) struct Spool {
    pub(crate) file: Arc<TempPath>,
    /// The format that its first bytes say.
    pub(crate) format: Format,
}

/// Copies what `path` gives where it is no file: a pipe, a terminal, or `-` for standard input.
pub(crate) fn spool(path: &Path) -> io::Result<Option<Spool>> {
    let mut input: Box<dyn io::Read> = if path.as_os_str() == STDIN {
        Box::new(io::stdin().lock())
    } else {
        let kind = path.metadata()?;
        if kind.is_file() {
            return Ok(None);
        }
        if kind.is_dir() {
            return Err(io::Error::other("it is a folder; name the manifest in it"));
        }
        Box::new(File::open(path)?)
    };
    let mut file = NamedTempFile::new()?;
    io::copy(&mut input, file.as_file_mut())?;
    file.as_file_mut().rewind()?;
    let format = sniff::format(&sniff::first(file.as_file_mut())?);
    Ok(Some(Spool { file: Arc::new(file.into_temp_path()), format }))
}
