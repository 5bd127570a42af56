//! A plain folder of pictures: a picture's custom_id is its path without the extension; its reference has the same path in
//! another folder, with any extension.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{About, Entry, Opening, Place, ReferenceFile};
use crate::error::{Error, Result};

const EXTENSIONS: [&str; 8] = ["png", "jpg", "jpeg", "webp", "bmp", "gif", "tif", "tiff"];

/// Pictures by name.
pub(super) struct Plain {
    label: String,
    pictures: Vec<(String, PathBuf)>,
    references: Option<HashMap<String, PathBuf>>,
    about: Arc<About>,
}

impl Plain {
    pub(super) fn open(path: &Path, label: &str, opening: &Opening) -> Result<(Self, Vec<String>)> {
        let pictures = pictures(path)?;
        if pictures.is_empty() {
            let problem = "holds no run (no results.jsonl) and no pictures (PNG, JPEG, WebP, BMP, GIF, TIFF)";
            return Err(Error::input(path, problem));
        }
        let references = opening.references.as_deref().map(pictures_by_name).transpose()?;
        let ids = pictures.iter().map(|(id, _)| id.clone()).collect();
        Ok((Self { label: label.to_owned(), pictures, references, about: opening.about.clone() }, ids))
    }

    pub(super) fn entry(&self, at: usize) -> Entry {
        let (id, path) = &self.pictures[at];
        let line = self.about.of(id);
        let named = line.reference.as_ref().map(|reference| self.about.path(reference));
        let reference = match (named, &self.references) {
            (Some(path), _) => Ok(ReferenceFile { path, sha256: None, used: None }),
            (None, Some(references)) => match references.get(id) {
                Some(path) => Ok(ReferenceFile { path: path.clone(), sha256: None, used: None }),
                None => Err(format!("no picture called {id} is among the references")),
            },
            (None, None) => Err("no reference is known: name their folder with --references".to_owned()),
        };
        Entry {
            series: self.label.clone(),
            custom_id: id.clone(),
            prompt: line.prompt,
            scene: line.scene.or_else(|| Some(Path::new(id).parent()?.file_name()?.to_string_lossy().into_owned())),
            category: line.category,
            picture: Place::File(path.clone()),
            reference,
            region: line.region.map(|region| self.about.path(&region)),
            seed: None,
            coverage: None,
        }
    }
}

fn pictures_by_name(path: &Path) -> Result<HashMap<String, PathBuf>> {
    if !path.is_dir() {
        return Err(Error::input(path, "is not a folder; --references names the folder of the references"));
    }
    Ok(pictures(path)?.into_iter().collect())
}

/// Names and paths below a folder, sorted; links to folders are not followed.
fn pictures(root: &Path) -> Result<Vec<(String, PathBuf)>> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        let fail = |error: std::io::Error| Error::input(&folder, format!("cannot be read: {error}"));
        for entry in std::fs::read_dir(&folder).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            let (path, kind) = (entry.path(), entry.file_type().map_err(fail)?);
            if kind.is_dir() {
                folders.push(path);
            } else if is_picture(&path)
                && let Ok(relative) = path.strip_prefix(root)
            {
                found.push((relative.with_extension("").to_string_lossy().into_owned(), path));
            }
        }
    }
    found.sort();
    Ok(found)
}

fn is_picture(path: &Path) -> bool {
    let extension = path.extension().map(|extension| extension.to_string_lossy().to_lowercase());
    extension.is_some_and(|extension| EXTENSIONS.contains(&extension.as_str()))
}
