//! What files were when they were measured, told without reading them: a picture that was replaced, and a mask that was
//! mended, make another evaluation of it.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Calls `add` with a line for each file at `path` or below it, in order, but for what lies below `except`. What cannot be
/// looked at has a line too.
pub(super) fn files(path: &Path, except: &Path, add: &mut dyn FnMut(&str)) {
    if path.canonicalize().is_ok_and(|path| path == except) {
        return;
    }
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => entries(path).iter().for_each(|entry| files(entry, except, add)),
        found => add(&line(path, found.as_ref().ok())),
    }
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut entries: Vec<_> = fs::read_dir(folder).into_iter().flatten().flatten().collect();
    entries.sort_by_key(fs::DirEntry::file_name);
    // A link to a folder may lead around in a circle.
    let is_walked = |entry: &fs::DirEntry| !(entry.path().is_symlink() && entry.path().is_dir());
    entries.into_iter().filter(is_walked).map(|entry| entry.path()).collect()
}

fn line(path: &Path, found: Option<&Metadata>) -> String {
    let times = found.map(|is| (is.len(), (is.mtime(), is.mtime_nsec()), (is.ctime(), is.ctime_nsec())));
    format!("{} {times:?}", path.display())
}
