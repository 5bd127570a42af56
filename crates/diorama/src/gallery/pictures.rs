//! Pictures that the page needs and that do not lie in the folder as files: thumbnails of the references, and of what
//! is inside archives.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use diorama_core::id::Sha256Hex;
use diorama_core::outcome::{Outcome, TaskOutcome};
use diorama_core::picture::Rgb8;
use diorama_core::task::Reference;
use diorama_picture::{PictureLimits, decode, encode_rgb, read_reference};

use super::roles::{Picture, is_shown};

/// Pixels of a thumbnail's longer side.
const SIDE: u32 = 512;

/// Thumbnails of references, one a picture however many rows use it: `references/{sha256}.png`.
pub(super) struct References {
    folder: PathBuf,
    root: PathBuf,
    made: HashMap<String, Option<String>>,
}

impl References {
    pub(super) fn new(folder: &Path, root: &Path) -> Self {
        Self { folder: folder.to_owned(), root: root.to_owned(), made: HashMap::new() }
    }

    /// The reference as the page shows it; `None` where it can no longer be read, which is no reason for no page.
    pub(super) fn thumbnail(&mut self, reference: &Reference, sha256: Option<&Sha256Hex>) -> Option<Picture> {
        let Reference::File(path) = reference else { return None };
        if !self.made.contains_key(path) {
            let made = self.make(path, sha256);
            self.made.insert(path.clone(), made);
        }
        let src = self.made.get(path)?.clone()?;
        Some(Picture { role: "reference".to_owned(), name: "reference".to_owned(), src, outside: None })
    }

    fn make(&self, path: &str, sha256: Option<&Sha256Hex>) -> Option<String> {
        let name = |sha256: &Sha256Hex| format!("references/{sha256}.png");
        if let Some(done) = sha256.map(name).filter(|name| self.folder.join(name).is_file()) {
            return Some(done);
        }
        let reference = read_reference(&self.root.join(path), &PictureLimits::default()).ok()?;
        let name = name(&reference.sha256);
        write_thumbnail(&self.folder.join(&name), &reference.picture).ok()?;
        Some(name)
    }
}

/// What one archive holds of the rows that are shown.
pub(super) struct Archive {
    records: HashMap<String, Vec<u8>>,
    thumbnails: HashMap<String, String>,
}

impl Archive {
    /// Reads the archive once: pictures become files below `thumbnails/`, records stay in memory.
    pub(super) fn read(folder: &Path, key: &str, outcomes: &[TaskOutcome]) -> Result<Self> {
        let mut wanted = HashMap::new();
        for outcome in outcomes {
            let Outcome::Done { files, .. } = &outcome.outcome else { continue };
            for (position, (role, file)) in files.iter().enumerate() {
                // A role may hold a subject, which may hold anything: it names no file.
                let name = is_shown(role).then(|| format!("thumbnails/{}.{position}.png", outcome.custom_id));
                if name.is_some() || role == "record" {
                    wanted.insert(file.path.clone(), name);
                }
            }
        }
        let path = folder.join(key);
        let reading = || format!("reading {}", path.display());
        let mut archive = Self { records: HashMap::new(), thumbnails: HashMap::new() };
        let mut tar = tar::Archive::new(File::open(&path).with_context(reading)?);
        for entry in tar.entries().with_context(reading)? {
            let mut entry = entry.with_context(reading)?;
            let member = entry.path().with_context(reading)?.display().to_string();
            let Some(name) = wanted.remove(&member) else { continue };
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).with_context(reading)?;
            match name {
                Some(name) => {
                    let picture = decode(&bytes, &PictureLimits::default())?;
                    write_thumbnail(&folder.join(&name), &picture)?;
                    archive.thumbnails.insert(member, name);
                }
                None => {
                    archive.records.insert(member, bytes);
                }
            }
        }
        Ok(archive)
    }

    pub(super) fn thumbnail(&self, member: &str) -> Option<String> {
        self.thumbnails.get(member).cloned()
    }

    pub(super) fn take(&mut self, member: &str) -> Option<Vec<u8>> {
        self.records.remove(member)
    }
}

fn write_thumbnail(path: &Path, picture: &Rgb8) -> Result<()> {
    let bytes = encode_rgb(&shrink(picture)?)?;
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    }
    fs::write(path, bytes).with_context(|| format!("writing {}", path.display()))
}

fn shrink(picture: &Rgb8) -> Result<Rgb8> {
    if picture.width.max(picture.height) <= SIDE {
        return Ok(picture.clone());
    }
    let image = image::RgbImage::from_raw(picture.width, picture.height, picture.data.clone())
        .context("a picture whose size does not fit its pixels")?;
    let small = image::DynamicImage::ImageRgb8(image).thumbnail(SIDE, SIDE).into_rgb8();
    Ok(Rgb8 { width: small.width(), height: small.height(), data: small.into_raw() })
}
