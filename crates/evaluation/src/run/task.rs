//! One picture of a task, from its files to what the evaluator takes, or to why there is nothing to measure.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use diorama_core::id::Sha256Hex;
use diorama_core::picture::{Gray8, Rgb8};
use diorama_diffusion::image_processor::resample::{Filter, resize};
use diorama_picture::{PictureLimits, decode};

use super::Request;
use crate::evaluator::Subject;
use crate::row::Row;
use crate::source::{Entry, Place, Reader, ReferenceFile};

/// Reads files, and remembers the reference that was read last: neighbours often share it.
pub(super) struct Reading<'a> {
    request: &'a Request,
    reader: Reader,
    last: Option<(PathBuf, Result<Read, String>)>,
    /// References that are in the set of references.
    known: BTreeSet<String>,
}

/// A decoded picture, and the digest of its file.
type Read = (Rgb8, Sha256Hex);

impl<'a> Reading<'a> {
    pub(super) fn new(request: &'a Request, known: BTreeSet<String>) -> Self {
        Self { request, reader: Reader::default(), last: None, known }
    }

    /// The row without measures, and what is to be measured, where the picture is there.
    pub(super) fn read(&mut self, entry: &Entry) -> (Row, Option<Subject>) {
        let mut row = Row {
            series: entry.series.clone(),
            custom_id: entry.custom_id.clone(),
            prompt: entry.prompt.clone(),
            scene: entry.scene.clone(),
            category: entry.category.clone(),
            picture: entry.picture.to_string(),
            reference: entry.reference.as_ref().ok().map(|reference| reference.path.display().to_string()),
            seed: entry.seed,
            ..Row::default()
        };
        let picture = match self.picture(&entry.picture) {
            Ok(picture) => picture,
            Err(problem) => {
                row.problem = Some(problem);
                return (row, None);
            }
        };
        let reference = match self.reference(&entry.reference, (picture.width, picture.height)) {
            Ok(reference) => Some(reference),
            Err(note) => {
                row.notes.push(note);
                None
            }
        };
        let region = match self.region(entry) {
            Ok(region) => region,
            Err(note) => {
                row.notes.push(note);
                None
            }
        };
        // A region that was named and cannot be read leaves no background to measure: the whole is not it.
        let reference = reference.filter(|_| region.is_some() || !self.names_region(entry));
        (row, Some(Subject { picture, reference, region, prompt: entry.prompt.clone(), coverage: entry.coverage }))
    }

    fn picture(&mut self, place: &Place) -> Result<Rgb8, String> {
        let bytes = self.reader.read(place)?;
        decode(&bytes, &PictureLimits::default()).map_err(|error| format!("{place} {}", error.message))
    }

    /// The reference as the model saw it: Pillow's Lanczos to the picture's size.
    fn reference(&mut self, file: &Result<ReferenceFile, String>, size: (u32, u32)) -> Result<Rgb8, String> {
        let file = file.as_ref().map_err(Clone::clone)?;
        if self.last.as_ref().is_none_or(|(path, _)| *path != file.path) {
            self.last = Some((file.path.clone(), self.read_reference(&file.path)));
        }
        let Some((_, read)) = &self.last else { return Err(String::new()) };
        let (picture, sha256) = read.as_ref().map_err(Clone::clone)?;
        if file.sha256.as_ref().is_some_and(|wanted| wanted != sha256) {
            return Err(format!(
                "the reference {} is no longer the one that the picture was made from",
                file.path.display()
            ));
        }
        Ok(resized(picture, size))
    }

    fn read_reference(&mut self, path: &Path) -> Result<Read, String> {
        let bytes =
            self.reader.read(&Place::File(path.to_owned())).map_err(|problem| format!("the reference {problem}"))?;
        let picture = decode(&bytes, &PictureLimits::default())
            .map_err(|error| format!("the reference {} {}", path.display(), error.message))?;
        Ok((picture, Sha256Hex::of(&bytes)))
    }

    fn names_region(&self, entry: &Entry) -> bool {
        self.request.region.is_some() || entry.region.is_some()
    }

    fn region(&mut self, entry: &Entry) -> Result<Option<Gray8>, String> {
        let path = match (&self.request.region, &entry.region) {
            (Some(folder), _) if folder.is_dir() => folder.join(format!("{}.png", entry.custom_id)),
            (Some(file), _) => file.clone(),
            (None, Some(path)) => path.clone(),
            (None, None) => return Ok(None),
        };
        let picture = self.picture(&Place::File(path)).map_err(|problem| format!("the region {problem}"))?;
        // A grey picture has three equal channels.
        let data = picture.data.chunks_exact(3).map(|pixel| pixel[0].max(pixel[1]).max(pixel[2])).collect();
        Ok(Some(Gray8 { width: picture.width, height: picture.height, data }))
    }

    /// The reference that was read last, in its own size, where it is not in the set of references yet.
    pub(super) fn new_reference(&mut self, named: &Option<String>) -> Option<Rgb8> {
        let named = named.as_ref()?;
        let (path, Ok((picture, _))) = self.last.as_ref()? else { return None };
        let is_new = path.display().to_string() == *named && self.known.insert(named.clone());
        is_new.then(|| picture.clone())
    }

    pub(super) fn known_references(&self) -> BTreeSet<String> {
        self.known.clone()
    }
}

fn resized(picture: &Rgb8, (width, height): (u32, u32)) -> Rgb8 {
    if (picture.width, picture.height) == (width, height) {
        return picture.clone();
    }
    let from = (picture.width as usize, picture.height as usize);
    let data = resize(&picture.data, 3, from, (width as usize, height as usize), Filter::Lanczos);
    Rgb8 { width, height, data }
}
