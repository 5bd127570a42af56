//! A file that is written piece by piece and is nobody else's. What is small is kept in memory, and needs no file.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use diorama_backends::blocking;
use tempfile::TempPath;

/// What is kept in memory, in bytes; of a larger file, what is written at a time.
const IN_MEMORY: usize = 1 << 20;

/// A file that is being written. Gone when it is dropped.
pub(crate) struct Scratch {
    folder: PathBuf,
    file: Option<(File, TempPath)>,
    /// What is not written yet.
    waiting: Vec<u8>,
}

/// What was written.
pub(crate) enum Written {
    /// It was small.
    Bytes(Vec<u8>),
    /// It was not.
    File(TempPath),
}

impl Scratch {
    /// A file in `folder`, should it need to be one.
    pub(crate) fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), file: None, waiting: Vec::new() }
    }

    /// Where it lies, for errors.
    pub(crate) fn path(&self) -> &Path {
        self.file.as_ref().map_or(&self.folder, |(_, path)| path)
    }

    /// Adds `bytes`.
    pub(crate) async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.waiting.extend_from_slice(bytes);
        if self.waiting.len() > IN_MEMORY { self.spill().await } else { Ok(()) }
    }

    /// All of it.
    pub(crate) async fn finish(mut self) -> io::Result<Written> {
        if self.file.is_none() {
            return Ok(Written::Bytes(self.waiting));
        }
        self.spill().await?;
        match self.file {
            Some((_, path)) => Ok(Written::File(path)),
            None => Ok(Written::Bytes(self.waiting)),
        }
    }

    /// All of it as a file, for whoever reads files.
    pub(crate) async fn into_file(mut self) -> io::Result<TempPath> {
        self.spill().await?;
        self.file.map(|(_, path)| path).ok_or_else(|| io::Error::other("it was not written"))
    }

    async fn spill(&mut self) -> io::Result<()> {
        let (file, bytes, folder) = (self.file.take(), std::mem::take(&mut self.waiting), self.folder.clone());
        let spilled = blocking::run(move || {
            let (mut file, path) = match file {
                Some(file) => file,
                None => create(&folder)?,
            };
            file.write_all(&bytes)?;
            Ok::<_, io::Error>((file, path))
        });
        self.file = Some(spilled.await.map_err(io::Error::other)??);
        Ok(())
    }
}

fn create(folder: &Path) -> io::Result<(File, TempPath)> {
    // It may become an object of a folder: with the rights of any new file, where a temporary one is its owner's only.
    let rights = std::fs::Permissions::from_mode(0o666);
    Ok(tempfile::Builder::new().permissions(rights).tempfile_in(folder)?.into_parts())
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn written(pieces: usize) -> (Scratch, Vec<u8>, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let mut scratch = Scratch::new(folder.path());
        let piece: Vec<u8> = (0..=255).cycle().take(IN_MEMORY / 4).collect();
        for _ in 0..pieces {
            scratch.write(&piece).await.unwrap();
        }
        (scratch, piece.repeat(pieces), folder)
    }

    fn files(folder: &tempfile::TempDir) -> usize {
        std::fs::read_dir(folder.path()).unwrap().count()
    }

    #[tokio::test]
    async fn what_is_small_needs_no_file_and_what_is_not_leaves_none() {
        let (small, bytes, folder) = written(4).await;
        assert!(matches!(small.finish().await.unwrap(), Written::Bytes(there) if there == bytes));
        assert_eq!(files(&folder), 0);
        let (large, bytes, folder) = written(11).await;
        let Written::File(path) = large.finish().await.unwrap() else { panic!("it was kept in memory") };
        assert_eq!(std::fs::read(&path).unwrap(), bytes);
        drop(path);
        assert_eq!(files(&folder), 0);
    }

    #[tokio::test]
    async fn whoever_reads_files_gets_one_however_small() {
        let (small, bytes, _folder) = written(1).await;
        let path = small.into_file().await.unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), bytes);
    }
}
