//! The files of one task: their roles, their names in either format, their encoded bytes.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use diorama_core::generator::Generated;
use diorama_core::id::{AttemptId, CustomId, Sha256Hex, ShardId};
use diorama_core::key::{Folder, ObjectKey, RunRoot};
use diorama_core::outcome::{ErrorCode, FileRef, TaskError};
use diorama_core::run::OutputFormat;
use diorama_core::settings::Method;
use diorama_picture::{ImageError, encode_gray, encode_rgb};

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
                    Folder::Images | Folder::Records => String::new(),
                    folder => format!(".{}", folder.as_str().trim_end_matches('s')),
                };
                format!("{}{role}{suffix}", member_key(id))
            }
        }
    }
}

/// Encodes everything that was made of a task: its picture, mask, overlay, heat maps and record, and the pictures of
/// the methods that it is compared with. Blocking.
pub(crate) fn encode(
    place: &Place,
    id: &CustomId,
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
        let (role, part) = names.next_name(&heatmap.subject);
        let bytes = encode_rgb(&heatmap.picture).map_err(unwritable)?;
        files.push(OutputFile::new(
            format!("heatmap.{role}"),
            name(Folder::Heatmaps, &format!(".{part}"), ".png"),
            bytes,
        ));
    }
    for (method, other) in compared {
        let bytes = encode_rgb(&other.image).map_err(unwritable)?;
        files.push(OutputFile::new(
            format!("compare.{method}"),
            name(Folder::Compare, &format!(".{method}"), ".png"),
            bytes,
        ));
    }
    let mut record = serde_json::to_vec_pretty(&made.record).map_err(|error| {
        TaskError::permanent(ErrorCode::OutputUnwritable, format!("the record cannot be encoded: {error}"))
    })?;
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
