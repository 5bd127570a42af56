//! Pictures that the page needs and that do not lie in the folder as files: thumbnails of the references, and of what
//! is inside archives.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use diorama_core::fit::{Placement, Region};
use diorama_core::id::Sha256Hex;
use diorama_core::outcome::{Outcome, TaskOutcome};
use diorama_core::picture::Rgb8;
use diorama_core::record::ReferenceRecord;
use diorama_core::task::Reference;
use diorama_picture::{PictureLimits, as_used, decode, encode_rgb, read_reference, whole};

use super::roles::{Picture, is_shown};

/// Pixels of a thumbnail's longer side.
const SIDE: u32 = 512;

/// Thumbnails of references, one a picture however many rows use it: `references/{sha256}.png`; and where it was fitted to
/// another shape, one of what was used: `references/{sha256}.{placement}.png`.
pub(super) struct References {
    folder: PathBuf,
    root: PathBuf,
    made: HashMap<(String, String), Option<Thumbnails>>,
}

/// A reference as the page shows it.
#[derive(Clone)]
struct Thumbnails {
    whole: String,
    /// Where that is something else.
    used: Option<String>,
}

impl References {
    pub(super) fn new(folder: &Path, root: &Path) -> Self {
        Self { folder: folder.to_owned(), root: root.to_owned(), made: HashMap::new() }
    }

    /// The reference as it was used, and, where that is something else, all of it. Nothing where it can no longer be read,
    /// which is no reason for no page.
    pub(super) fn thumbnails(&mut self, reference: &Reference, record: Option<&ReferenceRecord>) -> Vec<Picture> {
        let Reference::File(path) = reference else { return Vec::new() };
        let used = record.and_then(|record| record.used);
        let key = (path.clone(), used.as_ref().map(placed).unwrap_or_default());
        if !self.made.contains_key(&key) {
            let made = self.make(path, record, used);
            self.made.insert(key.clone(), made);
        }
        let Some(Some(made)) = self.made.get(&key) else { return Vec::new() };
        let picture = |role: &str, name: &str, src: &str| Picture {
            role: role.to_owned(),
            name: name.to_owned(),
            src: src.to_owned(),
            outside: None,
        };
        match &made.used {
            Some(used) => {
                vec![picture("reference", "reference", used), picture("whole", "whole reference", &made.whole)]
            }
            None => vec![picture("reference", "reference", &made.whole)],
        }
    }

    fn make(&self, path: &str, record: Option<&ReferenceRecord>, used: Option<Placement>) -> Option<Thumbnails> {
        let names = |sha256: &Sha256Hex, used: Option<Placement>| Thumbnails {
            whole: format!("references/{sha256}.png"),
            used: used.map(|used| format!("references/{sha256}.{}.png", placed(&used))),
        };
        let used = used.zip(record).filter(|(used, of)| !used.keeps_shape((of.width, of.height))).map(|(used, _)| used);
        let is_there = |name: &String| self.folder.join(name).is_file();
        let known = record.map(|record| names(&record.sha256, used));
        if let Some(done) = known.filter(|names| is_there(&names.whole) && names.used.iter().all(is_there)) {
            return Some(done);
        }
        let reference = read_reference(&self.root.join(path), &PictureLimits::default()).ok()?;
        // What was used can only be shown of the picture that was.
        let used = used.filter(|_| record.is_some_and(|record| record.sha256 == reference.sha256));
        let shown = used.and_then(|used| Some((used, as_used(&reference, &used, SIDE)?)));
        let names = names(&reference.sha256, shown.as_ref().map(|(used, _)| *used));
        write_thumbnail(&self.folder.join(&names.whole), &reference.picture).ok()?;
        if let (Some(name), Some((_, picture))) = (&names.used, &shown) {
            write_thumbnail(&self.folder.join(name), picture).ok()?;
        }
        Some(names)
    }
}

/// A placement as part of a file's name.
fn placed(used: &Placement) -> String {
    let region = |region: Region| format!("{}-{}-{}x{}", region.x, region.y, region.width, region.height);
    format!("{}.{}.{}x{}", region(used.crop), region(used.at), used.width, used.height)
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
    whole::put(path, &bytes).with_context(|| format!("writing {}", path.display()))
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
