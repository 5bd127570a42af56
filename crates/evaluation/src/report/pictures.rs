//! Pictures as a page shows them: the files themselves where they lie beside it, small copies of what is in archives.

use std::path::{Component, Path, PathBuf};

use diorama_picture::{PictureLimits, thumbnail};

use crate::source::{Place, Reader};

/// A smaller picture as JPEG; `None` where it cannot be read, which is no reason for no page.
pub(super) fn thumbnail_of(reader: &mut Reader, place: &Place, side: u32) -> Option<Vec<u8>> {
    let bytes = reader.read(place).ok()?;
    thumbnail(&bytes, side, &PictureLimits::default()).ok()
}

/// A path from a folder to a file, for links; `None` where one of them does not exist.
pub(super) fn relative(from: &Path, to: &Path) -> Option<String> {
    let (from, to) = (from.canonicalize().ok()?, to.canonicalize().ok()?);
    let shared = from.components().zip(to.components()).take_while(|(a, b)| a == b).count();
    let up = from.components().skip(shared).map(|_| Component::ParentDir);
    let path: PathBuf = up.chain(to.components().skip(shared)).collect();
    let encoded =
        path.components().map(|part| percent_encoded(&part.as_os_str().to_string_lossy())).collect::<Vec<_>>();
    Some(encoded.join("/"))
}

/// A part of a path as a link has it.
fn percent_encoded(part: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    part.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_leads_from_folder_to_file_whatever_their_names() {
        let root = tempfile::tempdir().unwrap();
        let (from, to) = (root.path().join("a/b"), root.path().join("a/c d/é#1.png"));
        std::fs::create_dir_all(&from).unwrap();
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::write(&to, b"").unwrap();
        assert_eq!(relative(&from, &to).unwrap(), "../c%20d/%C3%A9%231.png");
        assert_eq!(relative(&from, &root.path().join("gone")), None);
    }
}
