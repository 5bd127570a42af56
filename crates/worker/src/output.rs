//! The files of one task: their roles, their names in either format, their encoded bytes.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use diorama_core::generator::{Generated, Heatmap};
use diorama_core::id::{AttemptId, CustomId, Seed, Sha256Hex, ShardId};
use diorama_core::key::{Folder, ObjectKey, RunRoot};
use diorama_core::outcome::{ErrorCode, FileRef, TaskError};
use diorama_core::picture::{Gray8, Rgb8};
use diorama_core::record::Record;
use diorama_core::run::{OutputFormat, RunSpec};
use diorama_core::settings::Method;
use diorama_picture::{ImageError, encode_gray, encode_rgb};
use serde::Serialize;

/// One file, encoded.
#[derive(Debug, Clone)]
pub(crate) struct OutputFile {
    /// `image`, `mask` …
    pub(crate) role: String,
    /// Its path: relative to the run, or inside the archive.
    pub(crate) path: String,
    pub(crate) bytes: Bytes,
    sha256: Sha256Hex,
}

impl OutputFile {
    fn new(role: impl Into<String>, path: String, bytes: Vec<u8>) -> Self {
        Self { role: role.into(), path, sha256: Sha256Hex::of(&bytes), bytes: bytes.into() }
    }

    fn file_ref(&self) -> FileRef {
        FileRef { path: self.path.clone(), sha256: self.sha256.clone(), bytes: self.bytes.len() as u64 }
    }
}

/// The files by role, as an outcome lists them.
pub(crate) fn by_role(files: &[OutputFile]) -> BTreeMap<String, FileRef> {
    files.iter().map(|file| (file.role.clone(), file.file_ref())).collect()
}

/// Where an attempt's files go.
#[derive(Debug, Clone)]
pub(crate) enum Place {
    /// One object each, below the attempt.
    Files { root: RunRoot, shard: ShardId, attempt: AttemptId },
    /// The attempt's archive, under this key relative to the run.
    Archive(String),
}

impl Place {
    /// The place of an attempt on a shard of a run that lies at `root`.
    pub(crate) fn new(format: OutputFormat, root: &RunRoot, shard: ShardId, attempt: &AttemptId) -> Self {
        match format {
            OutputFormat::Files => Self::Files { root: root.clone(), shard, attempt: attempt.clone() },
            OutputFormat::Webdataset => Self::Archive(ObjectKey::Archive(shard, attempt.clone()).relative(root)),
        }
    }

    /// The archive, as outcomes name it.
    pub(crate) fn archive(&self) -> Option<&String> {
        match self {
            Self::Files { .. } => None,
            Self::Archive(key) => Some(key),
        }
    }

    /// The path of a file, as outcomes name it: relative to the run, or in the archive.
    fn path(&self, folder: Folder, id: &CustomId, suffix: String) -> String {
        match self {
            Self::Files { root, shard, attempt } => {
                ObjectKey::File(*shard, attempt.clone(), folder, id.clone(), suffix).relative(root)
            }
            Self::Archive(_) => {
                let role = match folder {
                    // Readers take what ends in json apart, and want the same types in every sample.
                    Folder::Records => return format!("{}.record", member_key(id)),
                    Folder::Images => "",
                    Folder::Masks => ".mask",
                    Folder::Overlays => ".overlay",
                    Folder::Heatmaps => ".heatmap",
                    Folder::Compare => ".compare",
                    Folder::UsedReferences => ".reference",
                };
                format!("{}{role}{suffix}", member_key(id))
            }
        }
    }
}

/// What a run wants of each of its pictures.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    /// The reference as it was used.
    reference: bool,
    /// A mask: its method is one that masks.
    masked: bool,
}

impl Wanted {
    /// As the run's spec has it.
    pub(crate) fn by(spec: &RunSpec) -> Self {
        let method = spec.settings.method.unwrap_or(Method::AbsGradSam);
        Self { reference: spec.keep_references, masked: method == Method::AbsGradSam }
    }
}

/// Encodes everything that was made of a task: its picture, mask, overlay, heat maps and record, and the pictures of
/// the methods that it is compared with. Blocking.
///
/// In an archive every sample has the same members, whatever its subjects and its own method, because readers take the
/// first ones for all: the heat maps lie side by side in one picture, and where nothing was masked the mask is empty.
pub(crate) fn encode(
    place: &Place,
    id: &CustomId,
    wanted: Wanted,
    made: &Generated,
    compared: &[(Method, Generated)],
) -> Result<Vec<OutputFile>, TaskError> {
    if let Place::Archive(_) = place {
        let sample = as_sample(wanted, made);
        let mut files = encode_files(place, id, wanted, &sample, compared)?;
        let record = &made.record;
        let metadata = serde_json::to_vec(&Metadata::of(record, &made.image)).map_err(unencodable)?;
        files.push(OutputFile::new("metadata", format!("{}.json", member_key(id)), metadata));
        files.push(OutputFile::new("prompt", format!("{}.txt", member_key(id)), record.prompt.clone().into_bytes()));
        return Ok(files);
    }
    encode_files(place, id, wanted, made, compared)
}

fn unencodable(error: serde_json::Error) -> TaskError {
    TaskError::permanent(ErrorCode::OutputUnwritable, format!("the record cannot be encoded: {error}"))
}

/// What an archive says of a sample as `ID.json`: of every sample the same keys, each with the same type and never
/// without a value, because readers that make tables take the types of the first samples for all. The record has the rest.
#[derive(Debug, Serialize)]
struct Metadata<'a> {
    custom_id: &'a CustomId,
    prompt: &'a str,
    /// Joined by `, `.
    subjects: String,
    method: &'static str,
    seed: Seed,
    width: u32,
    height: u32,
    /// 0 where nothing was masked.
    mask_coverage: f64,
    /// As the manifest has it; empty where there is none.
    reference: &'a str,
    model: &'a str,
    model_sha256: &'a str,
    /// One a line.
    warnings: String,
}

impl<'a> Metadata<'a> {
    fn of(record: &'a Record, picture: &Rgb8) -> Self {
        let subjects: Vec<&str> = record.subjects.iter().map(|subject| subject.text.as_str()).collect();
        Self {
            custom_id: &record.custom_id,
            prompt: &record.prompt,
            subjects: subjects.join(", "),
            method: record.task.settings.method.unwrap_or(Method::AbsGradSam).as_str(),
            seed: record.seed,
            width: picture.width,
            height: picture.height,
            mask_coverage: record.mask_coverage.unwrap_or(0.0),
            reference: record.reference.as_ref().map_or("", |reference| &reference.source),
            model: &record.generator.model,
            model_sha256: &record.generator.model_sha256,
            warnings: record.warnings.join("\n"),
        }
    }
}

/// What was made, with the members of any other sample of its run.
fn as_sample(wanted: Wanted, made: &Generated) -> Generated {
    let (width, height) = (made.image.width, made.image.height);
    let pixels = width as usize * height as usize;
    let blank = || Rgb8 { width, height, data: vec![0; pixels * 3] };
    let nothing = || Gray8 { width, height, data: vec![0; pixels] };
    let heatmap = match made.heatmaps.is_empty() {
        true => wanted.masked.then(blank),
        false => Some(side_by_side(&made.heatmaps)),
    };
    Generated {
        mask: made.mask.clone().or_else(|| wanted.masked.then(nothing)),
        overlay: made.overlay.clone().or_else(|| wanted.masked.then(|| made.image.clone())),
        heatmaps: heatmap.into_iter().map(|picture| Heatmap { subject: String::new(), picture }).collect(),
        ..made.clone()
    }
}

/// Heat maps of one size in one picture, in their order.
fn side_by_side(heatmaps: &[Heatmap]) -> Rgb8 {
    let height = heatmaps.iter().map(|map| map.picture.height).min().unwrap_or(0);
    let width = heatmaps.iter().map(|map| map.picture.width).sum();
    let row = |map: &Heatmap, y: usize| {
        let stride = map.picture.width as usize * 3;
        map.picture.data[y * stride..(y + 1) * stride].to_vec()
    };
    let data = (0..height as usize).flat_map(|y| heatmaps.iter().flat_map(move |map| row(map, y))).collect();
    Rgb8 { width, height, data }
}

fn encode_files(
    place: &Place,
    id: &CustomId,
    wanted: Wanted,
    made: &Generated,
    compared: &[(Method, Generated)],
) -> Result<Vec<OutputFile>, TaskError> {
    let name = |folder: Folder, part: &str, end: &str| place.path(folder, id, format!("{part}{end}"));
    let unwritable = |error: ImageError| {
        TaskError::permanent(ErrorCode::OutputUnwritable, format!("the picture cannot be encoded: {error}"))
    };
    let mut files =
        vec![OutputFile::new("image", name(Folder::Images, "", ".png"), encode_rgb(&made.image).map_err(unwritable)?)];
    if let Some(mask) = &made.mask {
        let bytes = encode_gray(mask).map_err(unwritable)?;
        files.push(OutputFile::new("mask", name(Folder::Masks, "", ".png"), bytes));
    }
    if let Some(overlay) = &made.overlay {
        let bytes = encode_rgb(overlay).map_err(unwritable)?;
        files.push(OutputFile::new("overlay", name(Folder::Overlays, "", ".png"), bytes));
    }
    let mut names = SafeNames::default();
    for heatmap in &made.heatmaps {
        let bytes = encode_rgb(&heatmap.picture).map_err(unwritable)?;
        let (role, part) = match heatmap.subject.as_str() {
            "" => ("heatmap".to_owned(), String::new()),
            subject => {
                let (role, part) = names.next_name(subject);
                (format!("heatmap.{role}"), format!(".{part}"))
            }
        };
        files.push(OutputFile::new(role, name(Folder::Heatmaps, &part, ".png"), bytes));
    }
    if let Some(reference) = made.reference.as_ref().filter(|_| wanted.reference) {
        let bytes = encode_rgb(reference).map_err(unwritable)?;
        files.push(OutputFile::new("reference", name(Folder::UsedReferences, "", ".png"), bytes));
    }
    for (method, other) in compared {
        let bytes = encode_rgb(&other.image).map_err(unwritable)?;
        files.push(OutputFile::new(
            format!("compare.{method}"),
            name(Folder::Compare, &format!(".{method}"), ".png"),
            bytes,
        ));
    }
    let mut record = serde_json::to_vec_pretty(&made.record).map_err(unencodable)?;
    record.push(b'\n');
    files.push(OutputFile::new("record", name(Folder::Records, "", ".json"), record));
    Ok(files)
}

/// A task's key in an archive. Readers of WebDataset cut a member's name at its first dot, so a dot of the id is
/// written `%2E`; no id contains `%`.
fn member_key(id: &CustomId) -> String {
    id.as_str().replace('.', "%2E")
}

/// Subjects as parts of file names, each once.
#[derive(Default)]
pub struct SafeNames {
    used: BTreeSet<String>,
}

impl SafeNames {
    /// The subject for the role, and for the file's name: letters, digits and `-`, at most 40; a number behind
    /// one that was there before.
    pub fn next_name(&mut self, subject: &str) -> (String, String) {
        let kept: String = subject
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' })
            .take(40)
            .collect();
        let safe = match kept.trim_matches('-') {
            "" => "subject".to_owned(),
            safe => safe.to_owned(),
        };
        if self.used.insert(safe.clone()) {
            return (subject.to_owned(), safe);
        }
        let mut number = 2;
        while !self.used.insert(format!("{safe}-{number}")) {
            number += 1;
        }
        (format!("{subject} {number}"), format!("{safe}-{number}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heat_maps_lie_side_by_side_in_one_picture() {
        let map = |grey: u8| Heatmap {
            subject: "x".to_owned(),
            picture: Rgb8 { width: 1, height: 2, data: vec![grey, grey, grey, grey + 1, grey + 1, grey + 1] },
        };
        let both = side_by_side(&[map(10), map(20)]);
        assert_eq!((both.width, both.height), (2, 2));
        assert_eq!(both.data.iter().step_by(3).copied().collect::<Vec<_>>(), [10, 20, 11, 21]);
    }

    #[test]
    fn a_subject_never_leaves_its_folder_and_two_never_share_a_file() {
        let mut names = SafeNames::default();
        let mut next = |subject: &str| names.next_name(subject).1;
        assert_eq!(next("polar bear"), "polar-bear");
        assert_eq!(next("../../etc/passwd"), "etc-passwd");
        assert_eq!(next("Polar Bear"), "polar-bear-2");
        assert_eq!(next("polar bear 2"), "polar-bear-2-2");
        assert_eq!(next("鳥"), "subject");
        assert_eq!(next("魚"), "subject-2");
        assert!(next(&"x".repeat(500)).len() <= 40);
    }
}
