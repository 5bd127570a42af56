//! References that were fetched, on disk, by content: `urls/{sha256 of the name}.json` says which content a name had
//! when, `blobs/{sha256}` is the content. What has not been used for longest goes first.
//!
//! Everything is written whole (a file of its own, then a rename) and checked when it is read, so that several workers
//! may share the folder and a power cut does no harm: what is damaged is thrown away and fetched again. Nothing here is
//! the truth; a cache that fails costs a download.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use diorama_core::clock;
use diorama_core::id::Sha256Hex;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

/// What the smallest file takes, and what sizes are rounded up to.
const BLOCK: u64 = 4096;

/// How often the folder is measured while files are added: other workers add to it too.
const MEASURE: Duration = Duration::from_secs(30);

/// After this long, an unfinished file is nobody's.
const UNFINISHED: Duration = Duration::from_secs(3600);

/// A cache of references.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheConfig {
    /// Its folder; several workers may share it.
    pub folder: PathBuf,
    /// What it may take on disk, in bytes. With several workers it may be a little more for half a minute.
    pub bytes: u64,
    /// After this long a URL is asked again.
    pub max_age: Duration,
}

/// What is known of a name.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Its content.
    Fresh(Bytes),
    /// What was its content some time ago, and the server's tag of it.
    Old(Bytes, Option<String>),
    Nothing,
}

/// What a name had when it was fetched.
#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    sha256: Sha256Hex,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    etag: Option<String>,
    /// Seconds since 1970.
    fetched_at: i64,
}

pub(super) struct Cache {
    config: CacheConfig,
    measured: Mutex<Measured>,
}

/// What the folder holds, as far as this process knows.
struct Measured {
    bytes: u64,
    at: Instant,
}

impl Cache {
    /// Opens or creates it; nobody else on this machine may look into a new one.
    pub(super) fn open(config: CacheConfig) -> io::Result<Self> {
        for folder in ["urls", "blobs", "unfinished"] {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(config.folder.join(folder))?;
        }
        let cache = Self { config, measured: Mutex::new(Measured { bytes: 0, at: Instant::now() }) };
        cache.make_room()?;
        Ok(cache)
    }

    /// What `name` had when it was last fetched. Whatever is damaged is gone afterwards.
    pub(super) fn find(&self, name: &str) -> Found {
        let path = self.entry(name);
        let Ok(text) = fs::read(&path) else { return Found::Nothing };
        let entry: Option<Entry> = serde_json::from_slice(&text).ok();
        let known = entry.and_then(|entry| self.blob(&entry.sha256).map(|content| (entry, content)));
        let Some((entry, content)) = known else {
            let _ = fs::remove_file(path);
            return Found::Nothing;
        };
        touch(&path);
        let age = clock::now().as_second().saturating_sub(entry.fetched_at);
        // A time in the future is a clock that was set.
        match u64::try_from(age) {
            Ok(age) if age < self.config.max_age.as_secs() => Found::Fresh(content),
            _ => Found::Old(content, entry.etag),
        }
    }

    /// The content with this digest.
    pub(super) fn blob(&self, sha256: &Sha256Hex) -> Option<Bytes> {
        let path = self.config.folder.join("blobs").join(sha256.as_str());
        let content = fs::read(&path).ok()?;
        if Sha256Hex::of(&content) != *sha256 {
            tracing::warn!(path = %path.display(), "a damaged reference was removed from the cache");
            let _ = fs::remove_file(path);
            return None;
        }
        touch(&path);
        Some(content.into())
    }

    /// Keeps what `name` has now.
    pub(super) fn keep(&self, name: &str, content: &[u8], etag: Option<String>) -> io::Result<()> {
        let sha256 = Sha256Hex::of(content);
        self.keep_blob(&sha256, content)?;
        let entry = Entry { sha256, etag, fetched_at: clock::now().as_second() };
        self.write(&self.entry(name), &serde_json::to_vec(&entry)?)
    }

    /// Keeps content by its digest.
    pub(super) fn keep_blob(&self, sha256: &Sha256Hex, content: &[u8]) -> io::Result<()> {
        let path = self.config.folder.join("blobs").join(sha256.as_str());
        if content.len() as u64 > self.config.bytes || path.is_file() {
            return Ok(());
        }
        self.write(&path, content)
    }

    /// Forgets what `name` had.
    pub(super) fn forget(&self, name: &str) {
        let _ = fs::remove_file(self.entry(name));
    }

    fn entry(&self, name: &str) -> PathBuf {
        self.config.folder.join("urls").join(format!("{}.json", Sha256Hex::of(name.as_bytes())))
    }

    fn write(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        let mut unfinished = tempfile::NamedTempFile::new_in(self.config.folder.join("unfinished"))?;
        unfinished.write_all(content)?;
        unfinished.persist(path).map_err(|error| error.error)?;
        let crowded = {
            let mut measured = self.measured.lock().unwrap_or_else(PoisonError::into_inner);
            measured.bytes += size(content.len() as u64);
            measured.bytes > self.config.bytes || measured.at.elapsed() > MEASURE
        };
        if crowded { self.make_room() } else { Ok(()) }
    }

    /// Measures the folder; where it holds too much, removes what was not used for longest until a tenth is free.
    fn make_room(&self) -> io::Result<()> {
        let mut files = Vec::new();
        for folder in ["urls", "blobs"] {
            files.extend(list(&self.config.folder.join(folder))?);
        }
        let mut bytes: u64 = files.iter().map(|(_, bytes, _)| bytes).sum();
        if bytes > self.config.bytes {
            files.sort();
            for (_, length, path) in files {
                if bytes <= self.config.bytes / 10 * 9 {
                    break;
                }
                // Another worker may have been quicker.
                let _ = fs::remove_file(path);
                bytes -= length;
            }
        }
        for (used, _, path) in list(&self.config.folder.join("unfinished"))? {
            if used.elapsed().is_ok_and(|age| age > UNFINISHED) {
                let _ = fs::remove_file(path);
            }
        }
        *self.measured.lock().unwrap_or_else(PoisonError::into_inner) = Measured { bytes, at: Instant::now() };
        Ok(())
    }
}

/// Whether a file is one of ours: somebody may have named a folder with other things in it, which are not ours to remove.
fn is_ours(name: &str) -> bool {
    let digest = |name: &str| name.len() == 64 && name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    digest(name.strip_suffix(".json").unwrap_or(name)) || name.starts_with(".tmp")
}

/// Our files of a folder: when each was last used, what it takes on disk, where it is. What vanishes meanwhile is left
/// out.
fn list(folder: &Path) -> io::Result<Vec<(SystemTime, u64, PathBuf)>> {
    let mut files = Vec::new();
    for file in fs::read_dir(folder)? {
        let file = file?;
        if !file.file_name().to_str().is_some_and(is_ours) {
            continue;
        }
        if let Ok(metadata) = file.metadata()
            && let Ok(used) = metadata.modified()
        {
            files.push((used, size(metadata.len()), file.path()));
        }
    }
    Ok(files)
}

fn size(bytes: u64) -> u64 {
    bytes.next_multiple_of(BLOCK).max(BLOCK)
}

/// Notes that a file was used. Where that fails, it goes earlier.
fn touch(path: &Path) {
    let _ = fs::File::options().append(true).open(path).and_then(|file| file.set_modified(SystemTime::now()));
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Case {
        folder: tempfile::TempDir,
        config: CacheConfig,
    }

    impl Case {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let config = CacheConfig {
                folder: folder.path().join("cache"),
                bytes: 100 * BLOCK,
                max_age: Duration::from_secs(3600),
            };
            Self { folder, config }
        }

        fn open(&self) -> Cache {
            Cache::open(self.config.clone()).unwrap()
        }

        fn files(&self, folder: &str) -> Vec<PathBuf> {
            list(&self.config.folder.join(folder)).unwrap().into_iter().map(|(_, _, path)| path).collect()
        }
    }

    #[test]
    fn what_was_kept_is_found_by_name_and_by_content_and_by_other_workers() {
        let case = Case::new();
        let (one, other) = (case.open(), case.open());
        one.keep("a", b"content", None).unwrap();
        one.keep("b", b"content", None).unwrap();
        assert_eq!(other.find("a"), Found::Fresh(Bytes::from_static(b"content")));
        assert_eq!(other.blob(&Sha256Hex::of(b"content")).unwrap(), "content");
        assert_eq!(other.find("c"), Found::Nothing);
        assert_eq!((case.files("urls").len(), case.files("blobs").len()), (2, 1));
        other.forget("a");
        assert_eq!(one.find("a"), Found::Nothing);
        assert_eq!(case.files("unfinished"), [] as [PathBuf; 0]);
        drop(case.folder);
    }

    #[test]
    fn what_is_old_is_told_apart_and_keeps_its_tag() {
        let mut case = Case::new();
        case.open().keep("a", b"content", Some("\"v1\"".to_owned())).unwrap();
        case.config.max_age = Duration::ZERO;
        let old = Found::Old(Bytes::from_static(b"content"), Some("\"v1\"".to_owned()));
        assert_eq!(case.open().find("a"), old);
    }

    #[test]
    fn what_is_damaged_is_thrown_away() {
        let case = Case::new();
        let cache = case.open();
        for damage in ["content of another", ""] {
            cache.keep("a", b"content", None).unwrap();
            fs::write(&case.files("blobs")[0], damage).unwrap();
            assert_eq!(cache.find("a"), Found::Nothing);
            assert_eq!((case.files("urls").len(), case.files("blobs").len()), (0, 0), "{damage:?}");
        }
        cache.keep("a", b"content", None).unwrap();
        fs::write(&case.files("urls")[0], "{\"sha256\":").unwrap();
        assert_eq!(cache.find("a"), Found::Nothing);
        assert_eq!(case.files("urls").len(), 0);
        // Its content is still good for the next one.
        assert!(cache.blob(&Sha256Hex::of(b"content")).is_some());
    }

    #[test]
    fn what_was_not_used_for_longest_goes_first_and_the_folder_stays_within_its_limit() {
        let mut case = Case::new();
        case.config.bytes = 20 * BLOCK;
        let cache = case.open();
        let mine = case.config.folder.join("blobs/holiday.jpg");
        fs::write(&mine, vec![0; 100 * BLOCK as usize]).unwrap();
        fs::File::options().append(true).open(&mine).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
        let name = |n: usize| format!("picture {n}");
        for n in 0..40 {
            cache.keep(&name(n), name(n).as_bytes(), None).unwrap();
            // Times as they are when pictures come a second apart.
            let at = SystemTime::now() - Duration::from_secs(1000 - n as u64);
            for folder in ["urls", "blobs"] {
                for (used, _, path) in list(&case.config.folder.join(folder)).unwrap() {
                    if used.elapsed().unwrap_or_default() < Duration::from_secs(500) {
                        fs::File::options().append(true).open(path).unwrap().set_modified(at).unwrap();
                    }
                }
            }
            if n == 5 {
                assert!(matches!(cache.find(&name(0)), Found::Fresh(_)));
            }
            let files = ["urls", "blobs"].map(|folder| list(&case.config.folder.join(folder)).unwrap()).concat();
            let taken: u64 = files.iter().map(|(_, bytes, _)| bytes).sum();
            assert!(taken <= case.config.bytes, "{taken}");
        }
        assert!(matches!(cache.find(&name(39)), Found::Fresh(_)), "the newest is there");
        assert_eq!(cache.find(&name(1)), Found::Nothing, "the oldest is gone");
        assert!(mine.is_file(), "what is somebody else's");
        cache.keep("huge", &vec![0; 21 * BLOCK as usize], None).unwrap();
        assert!(matches!(cache.find(&name(39)), Found::Fresh(_)), "what does not fit throws nothing out");
    }
}
