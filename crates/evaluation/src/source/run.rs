//! The folder of a run, as `diorama run` or `diorama results --to` left it: `results.jsonl` says which pictures there
//! are, the record beside each what it was made from.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use diorama_core::outcome::{FileRef, Outcome, TaskOutcome};
use diorama_core::record::Record;
use diorama_core::run::RunSpec;
use diorama_core::task::Reference;
use serde::Deserialize;
use serde_json::Value;

use super::{About, Entry, Opening, Place, Reader, ReferenceFile, text};
use crate::error::{Error, Result};

/// A run in a folder.
pub(super) struct Run {
    folder: PathBuf,
    label: String,
    results: BufReader<File>,
    /// Where each task's line begins.
    offsets: Vec<u64>,
    /// Where relative references start.
    root: Option<PathBuf>,
    about: Arc<About>,
    reader: Reader,
}

/// A line of `errors.jsonl`: a task that failed, or a row that was refused.
#[derive(Deserialize)]
struct Failed {
    #[serde(default)]
    custom_id: Option<String>,
    #[serde(default)]
    line: Option<u64>,
    code: String,
}

/// What a run without pictures left: ids in order, and what has none.
type Opened = (Run, Vec<String>, Vec<(String, String)>);

impl Run {
    pub(super) fn open(folder: &Path, label: &str, opening: &Opening) -> Result<Opened> {
        let path = folder.join("results.jsonl");
        let io = |error: std::io::Error| Error::input(&path, format!("cannot be read: {error}"));
        let mut results = BufReader::new(File::open(&path).map_err(io)?);
        let (mut ids, mut offsets, mut line, mut offset) = (Vec::new(), Vec::new(), String::new(), 0);
        loop {
            line.clear();
            let length = results.read_line(&mut line).map_err(io)? as u64;
            if length == 0 {
                break;
            }
            let outcome: TaskOutcome = text::json(&path, ids.len() + 1, &line)?;
            ids.push(outcome.custom_id.to_string());
            offsets.push(offset);
            offset += length;
        }
        let failed = failed(folder)?;
        if ids.is_empty() {
            return Err(Error::input(folder, format!("has no picture: all {} tasks failed", failed.len())));
        }
        let run = Self {
            folder: folder.to_owned(),
            label: label.to_owned(),
            results,
            offsets,
            root: opening.references.clone().or_else(|| reference_root(folder)),
            about: opening.about.clone(),
            reader: Reader::default(),
        };
        Ok((run, ids, failed))
    }

    pub(super) fn entries(&mut self, at: usize) -> Result<Vec<Entry>> {
        let path = self.folder.join("results.jsonl");
        let io = |error: std::io::Error| Error::input(&path, format!("cannot be read: {error}"));
        let mut line = String::new();
        self.results.seek(SeekFrom::Start(self.offsets[at])).map_err(io)?;
        self.results.read_line(&mut line).map_err(io)?;
        let whole: Value = text::json(&path, at + 1, &line)?;
        let outcome: TaskOutcome = text::json(&path, at + 1, &line)?;
        let Outcome::Done { archive, files, mask_coverage, .. } = &outcome.outcome else { return Ok(Vec::new()) };
        let place = |file: &FileRef| self.place(archive.as_deref(), file);
        let record = files.get("record").map(place).and_then(|place| self.reader.read(&place).ok());
        let record: Option<(Record, Value)> =
            record.and_then(|bytes| Some((serde_json::from_slice(&bytes).ok()?, serde_json::from_slice(&bytes).ok()?)));
        let about = self.about.of(outcome.custom_id.as_str());
        let (reference, filed) = self.reference(record.as_ref().map(|(record, _)| record), about.reference.as_deref());
        let region = about.region.map(|region| self.about.path(&region)).or_else(|| {
            let named = record.as_ref().and_then(|(_, record)| file_of(&record["task"]["region"]));
            Some(self.root.as_ref()?.join(named.or_else(|| file_of(&whole["region"]))?))
        });
        let entry = |series: String, file: &FileRef, coverage: Option<f64>| Entry {
            series,
            custom_id: outcome.custom_id.to_string(),
            prompt: about.prompt.clone().or_else(|| Some(record.as_ref()?.0.prompt.clone())),
            scene: about.scene.clone().or_else(|| filed.0.clone()),
            category: about.category.clone().or_else(|| filed.1.clone()),
            picture: self.place(archive.as_deref(), file),
            reference: reference.clone(),
            region: region.clone(),
            seed: Some(outcome.seed.get()),
            coverage,
        };
        let own = files.get("image").map(|file| entry(self.label.clone(), file, *mask_coverage));
        let compared = compared(files).map(|(method, file)| entry(format!("{}:{method}", self.label), file, None));
        Ok(own.into_iter().chain(compared).collect())
    }

    fn place(&self, archive: Option<&str>, file: &FileRef) -> Place {
        // `diorama results --to` unpacks archives; the folder of a run keeps them.
        let unpacked = self.folder.join(&file.path);
        match archive.map(|archive| self.folder.join(archive)) {
            Some(archive) if archive.is_file() => Place::Member { archive, member: file.path.clone() },
            _ => Place::File(unpacked),
        }
    }

    /// The reference of a task, with scene and category after its folders.
    fn reference(&self, record: Option<&Record>, named: Option<&str>) -> (Result<ReferenceFile, String>, Filed) {
        if let Some(named) = named {
            return (Ok(ReferenceFile { path: self.about.path(named), sha256: None, used: None }), filed(named));
        }
        let Some(record) = record else {
            return (Err("the record is gone, and the reference unknown".into()), (None, None));
        };
        let Some(reference) = &record.task.reference else {
            return (Err("it was made without a reference".into()), (None, None));
        };
        let sha256 = record.reference.as_ref().map(|reference| reference.sha256.clone());
        let used = record.reference.as_ref().and_then(|reference| reference.used);
        let source = record.reference.as_ref().map_or_else(|| reference.to_string(), |known| known.source.clone());
        let elsewhere = || format!("the reference {source} is not on this machine: name its folder with --references");
        let found = match reference {
            Reference::File(path) => self.root.as_ref().map(|root| root.join(path)),
            // By name in the folder that the user names.
            other => {
                let other = other.to_string();
                let name = other.rsplit('/').next().unwrap_or_default().to_owned();
                self.root.as_ref().map(|root| root.join(name)).filter(|path| path.is_file())
            }
        };
        let found = found.map(|path| ReferenceFile { path, sha256, used }).ok_or_else(elsewhere);
        (found, filed(&source))
    }
}

/// Scene and category.
type Filed = (Option<String>, Option<String>);

/// After the folders of a relative path: `natural/forest/1.jpg` shows a forest, which is natural.
fn filed(path: &str) -> Filed {
    let mut folders: Vec<&str> = path.split('/').filter(|part| !part.is_empty() && *part != "references").collect();
    folders.pop();
    if path.contains("://") || path.starts_with('/') || path.starts_with("blobs/") {
        return (None, None);
    }
    let mut folders = folders.into_iter().rev().map(str::to_owned);
    (folders.next(), folders.next())
}

/// `"a.png"` or `{"file": "a.png"}`.
fn file_of(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value["file"].as_str())
}

/// Pictures of other methods, by name.
fn compared(files: &BTreeMap<String, FileRef>) -> impl Iterator<Item = (&str, &FileRef)> {
    files.iter().filter_map(|(role, file)| Some((role.strip_prefix("compare.")?, file)))
}

fn reference_root(folder: &Path) -> Option<PathBuf> {
    let spec: RunSpec = serde_json::from_slice(&std::fs::read(folder.join("run.json")).ok()?).ok()?;
    Some(PathBuf::from(spec.reference_root))
}

fn failed(folder: &Path) -> Result<Vec<(String, String)>> {
    let path = folder.join("errors.jsonl");
    if !path.is_file() {
        return Ok(Vec::new());
    }
    let lines: Vec<Failed> = text::json_lines(&path)?;
    let name = |failed: &Failed| match (&failed.custom_id, failed.line) {
        (Some(id), _) => id.clone(),
        (None, line) => format!("line {} of the manifest", line.unwrap_or_default()),
    };
    Ok(lines.into_iter().map(|failed| (name(&failed), failed.code)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scene_and_category_are_the_folders_of_a_reference() {
        let both = |path: &str| {
            let (scene, category) = filed(path);
            (scene.unwrap_or_default(), category.unwrap_or_default())
        };
        assert_eq!(both("references/natural/forest/1.jpg"), ("forest".to_owned(), "natural".to_owned()));
        assert_eq!(both("forest/1.jpg"), ("forest".to_owned(), String::new()));
        for flat in ["references/1.jpg", "1.jpg", "https://a.org/b/c/1.jpg", "/data/b/1.jpg", "blobs/ab"] {
            assert_eq!(both(flat), (String::new(), String::new()), "{flat}");
        }
    }
}
