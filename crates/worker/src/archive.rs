//! The archive of one attempt: a tar, its members grouped by task, its bytes decided by the tasks alone: no time, no
//! owner, always the shard's order. A small one stays in memory, a larger one grows in a local file.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use diorama_core::id::Sha256Hex;
use sha2::{Digest, Sha256};
use tempfile::TempPath;

use crate::output::OutputFile;

/// What an archive may have in memory, in bytes; from there on it is a file.
const IN_MEMORY: usize = 4 << 20;

/// A tar being written. Blocking.
pub(crate) struct Archive {
    tar: tar::Builder<Hashing<Spool>>,
    /// The position whose files come next.
    next: usize,
    /// Files of later positions.
    waiting: BTreeMap<usize, Vec<OutputFile>>,
    members: u64,
}

/// A finished tar.
pub(crate) struct FinishedArchive {
    pub(crate) content: Content,
    pub(crate) sha256: Sha256Hex,
    pub(crate) bytes: u64,
}

/// Where a finished tar is.
pub(crate) enum Content {
    Memory(Bytes),
    /// Removed with this value, unless the object store took it.
    File(TempPath),
}

impl Archive {
    /// Begins an archive; its file, if it ever needs one, lies in `scratch`.
    pub(crate) fn new(scratch: &Path) -> Self {
        let spool = Spool { memory: Vec::new(), file: None, scratch: scratch.to_owned() };
        let writer = Hashing { inner: spool, digest: Sha256::new(), bytes: 0 };
        Self { tar: tar::Builder::new(writer), next: 0, waiting: BTreeMap::new(), members: 0 }
    }

    /// Adds the files of the task at `position` of the shard: each position once, in any order, with no files where
    /// the task failed.
    pub(crate) fn add(&mut self, position: usize, files: Vec<OutputFile>) -> io::Result<()> {
        self.waiting.insert(position, files);
        while let Some(files) = self.waiting.remove(&self.next) {
            self.next += 1;
            self.append(files)?;
        }
        Ok(())
    }

    fn append(&mut self, files: Vec<OutputFile>) -> io::Result<()> {
        for file in files {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(tar::EntryType::Regular);
            header.set_mode(0o644);
            header.set_uid(0);
            header.set_gid(0);
            header.set_mtime(0);
            header.set_size(file.bytes.len() as u64);
            self.tar.append_data(&mut header, &file.path, &*file.bytes)?;
            self.members += 1;
        }
        Ok(())
    }

    /// Ends the archive; `None` where it has no member. Positions may be missing: those of a shard that is handed back.
    pub(crate) fn finish(mut self) -> io::Result<Option<FinishedArchive>> {
        for files in std::mem::take(&mut self.waiting).into_values() {
            self.append(files)?;
        }
        if self.members == 0 {
            return Ok(None);
        }
        let writer = self.tar.into_inner()?;
        let sha256 = Sha256Hex::from_digest(writer.digest.finalize().into());
        Ok(Some(FinishedArchive { content: writer.inner.finish()?, sha256, bytes: writer.bytes }))
    }
}

/// Bytes in memory, and from [`IN_MEMORY`] on in a file. (The one of the crate tempfile has no name, and so could not be
/// given to a folder without a copy.)
struct Spool {
    memory: Vec<u8>,
    file: Option<(BufWriter<File>, TempPath)>,
    scratch: PathBuf,
}

impl Spool {
    fn finish(self) -> io::Result<Content> {
        let Some((mut file, path)) = self.file else { return Ok(Content::Memory(self.memory.into())) };
        file.flush()?;
        Ok(Content::File(path))
    }

    fn spill(&mut self) -> io::Result<()> {
        // Readable as any new file; a temporary one would be its owner's only.
        let mode = std::fs::Permissions::from_mode(0o666);
        let named = tempfile::Builder::new().prefix("archive-").permissions(mode).tempfile_in(&self.scratch)?;
        let (file, path) = named.into_parts();
        let mut file = BufWriter::new(file);
        file.write_all(&std::mem::take(&mut self.memory))?;
        self.file = Some((file, path));
        Ok(())
    }
}

impl Write for Spool {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        if self.file.is_none() && self.memory.len() + data.len() > IN_MEMORY {
            self.spill()?;
        }
        match &mut self.file {
            Some((file, _)) => file.write(data),
            None => self.memory.write(data),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.as_mut().map_or(Ok(()), |(file, _)| file.flush())
    }
}

struct Hashing<W> {
    inner: W,
    digest: Sha256,
    bytes: u64,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(data)?;
        self.digest.update(&data[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
