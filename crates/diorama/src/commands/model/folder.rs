//! A model's folder on disk: its files, and one digest for all of them.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use diorama_core::id::Sha256Hex;
use sha2::{Digest, Sha256};

/// The digests of a folder's files by their paths in it, `/` between the parts.
pub(super) type Files = BTreeMap<String, Sha256Hex>;

/// The digest of a folder: that of what `sha256sum` prints for its files in the order of their paths' bytes.
///
/// `cd FOLDER && find . -type f -printf '%P\n' | LC_ALL=C sort | xargs -d '\n' sha256sum | sha256sum` says the same.
pub(super) fn digest_of(files: &Files) -> Sha256Hex {
    let lines: String = files.iter().map(|(path, sha256)| format!("{sha256}  {path}\n")).collect();
    Sha256Hex::of(lines.as_bytes())
}

/// The digests of the files below `folder`, and their bytes in all.
pub(super) fn read(folder: &Path) -> io::Result<(Files, u64)> {
    let (mut files, mut bytes) = (Files::new(), 0);
    for (name, path) in below(folder, "")? {
        bytes += path.metadata()?.len();
        files.insert(name, of_file(&path)?);
    }
    Ok((files, bytes))
}

/// Removes the files below `folder` that are not among `wanted`: what another try left.
pub(super) fn keep_only(folder: &Path, wanted: &Files) -> io::Result<()> {
    let mut others = below(folder, "")?.into_iter().filter(|(name, _)| !wanted.contains_key(name));
    others.try_for_each(|(_, path)| std::fs::remove_file(path))
}

/// The paths of the files below `folder`, in it.
pub(super) fn names(folder: &Path) -> io::Result<Vec<String>> {
    Ok(below(folder, "")?.into_iter().map(|(name, _)| name).collect())
}

/// The files below `folder`, with their paths in it, which begin with `before`.
fn below(folder: &Path, before: &str) -> io::Result<Vec<(String, PathBuf)>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let name = format!("{before}{}", entry.file_name().to_string_lossy());
        match entry.path() {
            path if path.is_dir() => files.extend(below(&path, &format!("{name}/"))?),
            path => files.push((name, path)),
        }
    }
    Ok(files)
}

/// The digest of a file, read piece by piece.
pub(super) fn of_file(path: &Path) -> io::Result<Sha256Hex> {
    let (mut file, mut hasher, mut piece) = (File::open(path)?, Sha256::new(), vec![0; 1 << 20]);
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(Sha256Hex::from_digest(hasher.finalize().into())),
            read => hasher.update(&piece[..read]),
        }
    }
}
