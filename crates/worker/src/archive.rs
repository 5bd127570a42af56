//! The archive of one attempt: a tar that grows in a local file, its members grouped by task, its bytes decided by the
//! tasks alone: no time, no owner, always the shard's order.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use diorama_core::id::Sha256Hex;
use sha2::{Digest, Sha256};
use tempfile::TempPath;

use crate::output::OutputFile;

/// A tar being written. Blocking.
pub(crate) struct Archive {
    tar: tar::Builder<Hashing<BufWriter<File>>>,
    path: TempPath,
    /// The position whose files come next.
    next: usize,
    /// Files of later positions.
    waiting: BTreeMap<usize, Vec<OutputFile>>,
    members: u64,
}

/// A finished tar. Removed with this value, unless the object store took it.
pub(crate) struct FinishedArchive {
    pub(crate) path: TempPath,
    pub(crate) sha256: Sha256Hex,
    pub(crate) bytes: u64,
}

impl Archive {
    /// Begins an archive in a file below `scratch`.
    pub(crate) fn create(scratch: &Path) -> io::Result<Self> {
        // Readable as any new file; a temporary one would be its owner's only.
        let mode = std::fs::Permissions::from_mode(0o666);
        let (file, path) =
            tempfile::Builder::new().prefix("archive-").permissions(mode).tempfile_in(scratch)?.into_parts();
        let writer = Hashing { inner: BufWriter::new(file), digest: Sha256::new(), bytes: 0 };
        Ok(Self { tar: tar::Builder::new(writer), path, next: 0, waiting: BTreeMap::new(), members: 0 })
    }

    /// Adds the files of the task at `position` of the shard: each position once, in any order, with no files where
    /// the task failed.
    pub(crate) fn add(&mut self, position: usize, files: Vec<OutputFile>) -> io::Result<()> {
        self.waiting.insert(position, files);
        while let Some(files) = self.waiting.remove(&self.next) {
            self.next += 1;
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
        }
        Ok(())
    }

    /// Ends the archive; `None` where it has no member.
    pub(crate) fn finish(self) -> io::Result<Option<FinishedArchive>> {
        debug_assert!(self.waiting.is_empty(), "a position was never added");
        if self.members == 0 {
            return Ok(None);
        }
        let mut writer = self.tar.into_inner()?;
        writer.inner.flush()?;
        let sha256 = Sha256Hex::from_digest(writer.digest.finalize().into());
        Ok(Some(FinishedArchive { path: self.path, sha256, bytes: writer.bytes }))
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
