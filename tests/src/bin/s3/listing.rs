//! Listings in the order of the keys that read no folder but those that the prefix and the page need. (s3s-fs walks the
//! whole bucket for every page.)

use std::fs;
use std::io;
use std::path::Path;
use std::time::SystemTime;

/// An object of a listing.
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) bytes: u64,
    pub(crate) modified: SystemTime,
}

/// Up to `limit` objects below `bucket` whose keys begin with `prefix` and come after `after`.
pub(crate) fn list(bucket: &Path, prefix: &str, after: &str, limit: usize) -> io::Result<Vec<Entry>> {
    let folder = prefix.rfind('/').map_or("", |end| &prefix[..=end]);
    let mut page = Page { prefix, after, limit, entries: Vec::new() };
    page.walk(&bucket.join(folder), folder)?;
    Ok(page.entries)
}

struct Page<'a> {
    prefix: &'a str,
    after: &'a str,
    limit: usize,
    entries: Vec<Entry>,
}

impl Page<'_> {
    /// Adds what is in `folder`, all of whose keys begin with `base`.
    fn walk(&mut self, folder: &Path, base: &str) -> io::Result<()> {
        let inside = match fs::read_dir(folder) {
            Ok(inside) => inside,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let mut keys = Vec::new();
        for entry in inside {
            let entry = entry?;
            let name = entry.file_name();
            let slash = if entry.file_type()?.is_dir() { "/" } else { "" };
            let key = format!("{base}{}{slash}", name.to_string_lossy());
            if self.wants(&key) {
                keys.push((key, entry.path()));
            }
        }
        keys.sort_unstable();
        for (key, path) in keys {
            if self.entries.len() == self.limit {
                break;
            }
            if key.ends_with('/') {
                self.walk(&path, &key)?;
            } else if let Ok(meta) = fs::metadata(&path) {
                // One that is gone meanwhile is not listed.
                let modified = meta.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                self.entries.push(Entry { key, bytes: meta.len(), modified });
            }
        }
        Ok(())
    }

    /// Whether the object, or some object of the folder, may belong to the page.
    fn wants(&self, key: &str) -> bool {
        if key.ends_with('/') {
            let fits = key.starts_with(self.prefix) || self.prefix.starts_with(key);
            fits && (key > self.after || self.after.starts_with(key))
        } else {
            key.starts_with(self.prefix) && key > self.after
        }
    }
}
