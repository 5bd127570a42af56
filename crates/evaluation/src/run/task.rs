//! One picture of a task, from its files to what the evaluator takes, or to why there is nothing to measure.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::path::{Path, PathBuf};

use diorama_core::fit::Placement;
use diorama_core::generator::ReferencePicture;
use diorama_core::picture::{Gray8, Rgb8};
use diorama_core::settings::Fit;
use diorama_diffusion::image_processor::resample::{Filter, resize};
use diorama_picture::{PictureLimits, decode, reference_from_bytes};

use super::Request;
use crate::evaluator::Subject;
use crate::row::Row;
use crate::source::{Entry, Place, Reader, ReferenceFile};

/// Reads files, and remembers the reference that was read last: neighbours often share it.
pub(super) struct Reading<'a> {
    request: &'a Request,
    reader: Reader,
    last: Option<(PathBuf, Result<ReferencePicture, String>)>,
    /// References that are in the set of references.
    known: BTreeSet<String>,
}

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
        let size = (picture.width, picture.height);
        let reference = match self.reference(&entry.reference) {
            Ok((reference, used)) => {
                let used = placement(reference, used, size);
                Some((as_used(reference, &used), used, (reference.width, reference.height)))
            }
            Err(note) => {
                row.notes.push(note);
                None
            }
        };
        let of = reference.as_ref().map(|(_, used, of)| (*used, *of));
        let reference = reference.map(|(picture, ..)| picture);
        let region = match self.region(entry, size, of) {
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

    /// The reference, and which part of it was used.
    fn reference(
        &mut self,
        file: &Result<ReferenceFile, String>,
    ) -> Result<(&ReferencePicture, Option<Placement>), String> {
        let file = file.as_ref().map_err(Clone::clone)?;
        if self.last.as_ref().is_none_or(|(path, _)| *path != file.path) {
            self.last = Some((file.path.clone(), self.read_reference(&file.path)));
        }
        let Some((_, read)) = &self.last else { return Err(String::new()) };
        let reference = read.as_ref().map_err(Clone::clone)?;
        if file.sha256.as_ref().is_some_and(|wanted| *wanted != reference.sha256) {
            return Err(format!("the reference {} has changed since the picture was made", file.path.display()));
        }
        Ok((reference, file.used))
    }

    fn read_reference(&mut self, path: &Path) -> Result<ReferencePicture, String> {
        let bytes =
            self.reader.read(&Place::File(path.to_owned())).map_err(|problem| format!("the reference {problem}"))?;
        let source = path.display().to_string();
        reference_from_bytes(&bytes, &source, &PictureLimits::default()).map_err(|error| error.message)
    }

    fn names_region(&self, entry: &Entry) -> bool {
        self.request.region.is_some() || entry.region.is_some()
    }

    /// Where the subject may be in a picture of `size`. A mask of the picture is taken as it is; one of the reference is
    /// placed as its reference was.
    fn region(
        &mut self,
        entry: &Entry,
        size: (u32, u32),
        reference: Option<(Placement, (u32, u32))>,
    ) -> Result<Option<Gray8>, String> {
        let path = match (&self.request.region, &entry.region) {
            (Some(folder), _) if folder.is_dir() => folder.join(format!("{}.png", entry.custom_id)),
            (Some(file), _) => file.clone(),
            (None, Some(path)) => path.clone(),
            (None, None) => return Ok(None),
        };
        let place = Place::File(path);
        let bytes = self.reader.read(&place).map_err(|problem| format!("the region {problem}"))?;
        let mask = reference_from_bytes(&bytes, &place.to_string(), &PictureLimits::default())
            .map_err(|error| error.message.replacen("the reference", "the region", 1))?;
        let whole = Fit::Stretch.place((mask.width, mask.height), size);
        let used = match reference {
            Some((used, of)) if of == (mask.width, mask.height) => used,
            _ if size == (mask.width, mask.height) => whole,
            // Whoever measures says what is wrong with its size.
            _ => return Ok(Some(grey(&mask.picture))),
        };
        Ok(Some(placed(&mask, &used)))
    }

    /// The reference that was read last, in its own size, where it is not in the set of references yet.
    pub(super) fn new_reference(&mut self, named: &Option<String>) -> Option<Rgb8> {
        let named = named.as_ref()?;
        let (path, Ok(ReferencePicture { picture, .. })) = self.last.as_ref()? else { return None };
        let is_new = path.display().to_string() == *named && self.known.insert(named.clone());
        is_new.then(|| picture.clone())
    }

    pub(super) fn known_references(&self) -> BTreeSet<String> {
        self.known.clone()
    }
}

/// Which part of the reference became which part of a picture of `size`: what the record says, else all of all.
fn placement(reference: &ReferencePicture, used: Option<Placement>, size: (u32, u32)) -> Placement {
    let fits = |used: &Placement| (used.width, used.height) == size;
    used.filter(fits).unwrap_or_else(|| Fit::Stretch.place((reference.width, reference.height), size))
}

/// The reference as the model saw it: Pillow's Lanczos to the picture's size.
fn as_used(reference: &ReferencePicture, used: &Placement) -> Rgb8 {
    let resize = |part: Rgb8, width, height| Ok::<_, Infallible>(resized(part, (width, height)));
    let Ok(used) = reference.as_used(used, resize);
    used
}

/// A mask of a reference in the picture's pixels: of each, the value that its centre falls on. What shows nothing of the
/// reference is white: it tells nothing of the place.
fn placed(mask: &ReferencePicture, used: &Placement) -> Gray8 {
    let (width, height, grey) = (used.width, used.height, grey(&mask.picture));
    let (of, here) = ((mask.width, mask.height), (grey.width, grey.height));
    let value = |x: u32, y: u32| used.pixel((x, y), of, here).map_or(255, |at| grey.data[at]);
    let data = (0..height).flat_map(|y| (0..width).map(|x| value(x, y)).collect::<Vec<_>>()).collect();
    Gray8 { width, height, data }
}

/// A grey picture has three equal channels.
fn grey(picture: &Rgb8) -> Gray8 {
    let data = picture.data.chunks_exact(3).map(|pixel| pixel[0].max(pixel[1]).max(pixel[2])).collect();
    Gray8 { width: picture.width, height: picture.height, data }
}

fn resized(picture: Rgb8, (width, height): (u32, u32)) -> Rgb8 {
    if (picture.width, picture.height) == (width, height) {
        return picture;
    }
    let from = (picture.width as usize, picture.height as usize);
    let data = resize(&picture.data, 3, from, (width as usize, height as usize), Filter::Lanczos);
    Rgb8 { width, height, data }
}
