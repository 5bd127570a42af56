//! Small objects, each a plain file written and read in one go. (s3s-fs has another thread do each of several steps, and
//! keeps a second file beside each object.)

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

/// Bodies up to this are small, in bytes.
pub(crate) const SMALL: u64 = 1 << 20;

/// The objects below a folder that has a folder a bucket.
pub(crate) struct SmallObjects {
    folder: PathBuf,
    written: AtomicU64,
}

impl SmallObjects {
    pub(crate) fn new(folder: PathBuf) -> Self {
        Self { folder, written: AtomicU64::new(0) }
    }

    /// Where an object lies; nothing for a key that leads out of its bucket.
    fn path(&self, bucket: &str, key: &str) -> io::Result<PathBuf> {
        if key.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        Ok(self.folder.join(bucket).join(key))
    }

    /// Puts an object as a whole; `false` where one is there and should not be.
    pub(crate) fn put(&self, bucket: &str, key: &str, body: &[u8], if_absent: bool) -> io::Result<bool> {
        let path = self.path(bucket, key)?;
        // Outside of all buckets, so that no listing has it.
        let part = self.folder.join(format!(".part-{}", self.written.fetch_add(1, Ordering::Relaxed)));
        fs::write(&part, body)?;
        let put = || if if_absent { fs::hard_link(&part, &path) } else { fs::rename(&part, &path) };
        let mut done = put();
        if let (Err(error), Some(parent)) = (&done, path.parent())
            && error.kind() == io::ErrorKind::NotFound
        {
            fs::create_dir_all(parent)?;
            done = put();
        }
        if if_absent || done.is_err() {
            let _ = fs::remove_file(&part);
        }
        match done {
            Err(error) if if_absent && error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            done => done.map(|()| true),
        }
    }

    /// A small object and when it was written; nothing where there is none, or it is large.
    pub(crate) fn get(&self, bucket: &str, key: &str) -> io::Result<Option<(Vec<u8>, SystemTime)>> {
        let Ok(mut file) = File::open(self.path(bucket, key)?) else { return Ok(None) };
        let meta = file.metadata()?;
        if !meta.is_file() || meta.len() > SMALL {
            return Ok(None);
        }
        let mut body = Vec::with_capacity(meta.len() as usize);
        file.read_to_end(&mut body)?;
        Ok(Some((body, meta.modified()?)))
    }
}
