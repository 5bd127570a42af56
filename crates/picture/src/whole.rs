//! Files that are written whole: beside their place, and then renamed into it. What is there is replaced, and never written
//! through: a name may be a link to anything in a folder that somebody sent.

use std::fs::Permissions;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use tempfile::{Builder, NamedTempFile};

/// A file beside `path` that nobody had before, with the rights that new files have here.
pub fn draft(path: &Path) -> io::Result<NamedTempFile> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    Builder::new().prefix(".diorama-").permissions(Permissions::from_mode(0o666)).tempfile_in(folder)
}

/// Writes a file as a whole.
pub fn put(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut draft = draft(path)?;
    draft.write_all(bytes)?;
    draft.persist(path).map(drop).map_err(|error| error.error)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_file_is_replaced_and_never_written_through_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("mine"), "mine").unwrap();
        symlink(at("mine"), at("page")).unwrap();
        put(&at("page"), b"ours").unwrap();
        assert_eq!(
            (fs::read(at("mine")).unwrap(), fs::read(at("page")).unwrap()),
            (b"mine".to_vec(), b"ours".to_vec())
        );
        let usual = fs::File::create(at("usual")).unwrap().metadata().unwrap().permissions();
        assert_eq!(at("page").metadata().unwrap().permissions(), usual, "others may read what they usually may");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3, "no draft stays");
    }
}
