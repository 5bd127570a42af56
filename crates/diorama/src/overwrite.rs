//! Outputs held against inputs. Before a command starts, nothing that it would write may be a file that it reads, or one
//! that somebody else put there. Only looks; never writes.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use diorama_core::key::{ObjectKey, RunRoot, names_in_own_folder};
use diorama_core::record::Record;
use diorama_core::run::{OutputFormat, RunSpec};

use crate::exit::Failure;
use crate::gallery;

/// What the folder's lock and its unfinished writes are called.
const WORKING: [&str; 2] = [".lock", ".tmp"];

/// What `diorama generate` writes, besides a heat map a subject.
const OF_ONE_PICTURE: [&str; 5] = ["record.json", "image.png", "mask.png", "overlay.png", "tensors.safetensors"];

/// Refuses a folder for a run that is not a run's and holds names that the run would write. Gives the spec of the run
/// that is there.
pub(crate) fn check_run_folder(folder: &Path, formats: &[OutputFormat]) -> Result<Option<RunSpec>, Failure> {
    if let Some(spec) = read::<RunSpec>(&folder.join(ObjectKey::Spec.path(&RunRoot::Own))) {
        return Ok(Some(spec));
    }
    let names = formats.iter().flat_map(|format| names_in_own_folder(*format)).chain(gallery::FOLDERS);
    // A run that died before it wrote anything left these; the lock, which comes first, shows whose they are.
    let begun = fs::read_to_string(folder.join(".lock")).is_ok_and(|holder| is_process(&holder));
    let working = WORKING.into_iter().filter(|_| !begun);
    refuse_names(folder, names.chain(working).map(str::to_owned), "not a Diorama run")?;
    Ok(None)
}

/// Refuses a folder for one picture that holds names that would be written, unless an earlier picture is there, or that
/// holds `reference` under one of these names.
pub(crate) fn check_picture_folder(folder: &Path, reference: Option<&Path>) -> Result<(), Failure> {
    let is_heat_map = |name: &str| name.starts_with("heatmap-") && name.ends_with(".png");
    let heat_maps = entries(folder).into_iter().filter(|name| is_heat_map(name));
    let names: Vec<String> = OF_ONE_PICTURE.into_iter().map(str::to_owned).chain(heat_maps).collect();
    for name in &names {
        refuse_same(&folder.join(name), reference, "the reference")?;
    }
    if let Some(link) = names.iter().find(|name| folder.join(name).is_symlink()) {
        let message = format!("{} is a link, and would be written through; remove it", folder.join(link).display());
        return Err(refusal(message));
    }
    match read::<Record>(&folder.join("record.json")) {
        Some(_) => Ok(()),
        None => refuse_names(folder, names.into_iter(), "not the output of `diorama generate`"),
    }
}

/// Refuses a folder for an evaluation that is none's and holds names that would be written, or that is a run's.
#[cfg(feature = "engine")]
pub(crate) fn check_evaluation_folder(folder: &Path) -> Result<(), Failure> {
    let spec = ObjectKey::Spec.path(&RunRoot::Own);
    if folder.join(&spec).exists() {
        let message = format!("{} is a run's folder; choose one below it, or a new one", folder.display());
        return Err(refusal(message));
    }
    if folder.join(diorama_evaluation::run::STATE).is_file() {
        return Ok(());
    }
    let names = diorama_evaluation::report::NAMES.into_iter().map(str::to_owned);
    refuse_names(folder, names, "no folder of `diorama eval`")
}

/// Refuses a place for a file where something is already.
pub(crate) fn refuse_taken(output: &Path, flag: &str) -> Result<(), Failure> {
    match output.symlink_metadata() {
        Err(_) => Ok(()),
        Ok(_) => Err(refusal(format!(
            "{flag} {} is there already and would be overwritten; choose another name, or remove it",
            output.display()
        ))),
    }
}

/// Refuses to write the file `output` where it is the file `input`, by whatever name or link.
pub(crate) fn refuse_same(output: &Path, input: Option<&Path>, what: &str) -> Result<(), Failure> {
    let identity = |path: &Path| fs::metadata(path).ok().map(|is| (is.dev(), is.ino()));
    match input.filter(|input| identity(output).is_some_and(|one| identity(input) == Some(one))) {
        None => Ok(()),
        Some(input) => Err(refusal(format!(
            "{} is {what} {}, which would be overwritten; choose another place to write to",
            output.display(),
            input.display()
        ))),
    }
}

/// Refuses to write to `output` where that is, or lies in, a folder that is read.
pub(crate) fn refuse_within(output: &Path, folder: Option<&Path>, what: &str) -> Result<(), Failure> {
    let Some(folder) = folder else { return Ok(()) };
    let (Ok(inner), Ok(outer)) = (resolved(output), folder.canonicalize()) else { return Ok(()) };
    match inner.starts_with(outer) {
        false => Ok(()),
        true => Err(refusal(format!(
            "{} is inside {what} {}, where nothing is ever written; choose another place to write to",
            output.display(),
            folder.display()
        ))),
    }
}

fn refuse_names(folder: &Path, names: impl Iterator<Item = String>, is: &str) -> Result<(), Failure> {
    let taken: Vec<String> = names.filter(|name| is_taken(&folder.join(name))).collect();
    if taken.is_empty() {
        return Ok(());
    }
    Err(refusal(format!(
        "{} is {is} and holds {}, which would be overwritten; choose another folder, such as a new one",
        folder.display(),
        taken.join(", ")
    )))
}

/// Whether something is there that could be lost: anything but a folder with nothing in it.
fn is_taken(path: &Path) -> bool {
    let empty = || path.is_dir() && fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none());
    path.symlink_metadata().is_ok() && !empty()
}

fn is_process(holder: &str) -> bool {
    holder.trim().chars().all(|c| c.is_ascii_digit())
}

fn entries(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

fn read<T: serde::de::DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// The canonical path of what may not exist yet.
fn resolved(path: &Path) -> io::Result<PathBuf> {
    let whole = std::path::absolute(path)?;
    for known in whole.ancestors() {
        if let Ok(canonical) = known.canonicalize() {
            return Ok(canonical.join(whole.strip_prefix(known).unwrap_or(Path::new(""))));
        }
    }
    Ok(whole)
}

fn refusal(message: String) -> Failure {
    Failure::permanent(anyhow::anyhow!(message))
}

#[cfg(test)]
mod tests {
    use tempfile::tempdir;

    use super::*;
    use crate::exit;

    const BOTH: [OutputFormat; 2] = [OutputFormat::Files, OutputFormat::Webdataset];

    #[test]
    fn a_folder_of_somebody_elses_is_refused_by_each_name_that_would_be_written() {
        let names = BOTH.iter().flat_map(|format| names_in_own_folder(*format)).chain(gallery::FOLDERS).chain(WORKING);
        for name in names {
            let folder = tempdir().unwrap();
            fs::write(folder.path().join("rows.jsonl"), "").unwrap();
            assert!(check_run_folder(folder.path(), &BOTH).unwrap().is_none(), "nothing is in the way");
            let path = folder.path().join(name);
            let inside = if name.contains('.') { path.clone() } else { path.join("0001.png") };
            fs::create_dir_all(inside.parent().unwrap()).unwrap();
            fs::write(&inside, "mine").unwrap();
            let refused = check_run_folder(folder.path(), &BOTH).unwrap_err();
            assert!(refused.code == exit::PERMANENT && refused.to_string().contains(name), "{name}: {refused}");
        }
    }

    #[test]
    fn pictures_are_in_the_way_of_pictures_and_not_of_archives() {
        let folder = tempdir().unwrap();
        fs::create_dir(folder.path().join("images")).unwrap();
        assert!(check_run_folder(folder.path(), &BOTH).is_ok(), "an empty folder loses nothing");
        fs::write(folder.path().join("images/0001.png"), "mine").unwrap();
        assert!(check_run_folder(folder.path(), &[OutputFormat::Files]).is_err());
        assert!(check_run_folder(folder.path(), &[OutputFormat::Webdataset]).is_ok());
        std::os::unix::fs::symlink("nowhere", folder.path().join("shards")).unwrap();
        assert!(
            check_run_folder(folder.path(), &[OutputFormat::Webdataset]).is_err(),
            "a link that leads nowhere is one"
        );
    }

    #[test]
    fn what_a_run_left_when_it_died_early_is_its_own() {
        let folder = tempdir().unwrap();
        fs::create_dir(folder.path().join(".tmp")).unwrap();
        fs::write(folder.path().join(".tmp/put-1-0"), "half").unwrap();
        assert!(check_run_folder(folder.path(), &BOTH).is_err());
        fs::write(folder.path().join(".lock"), "4711\n").unwrap();
        assert!(check_run_folder(folder.path(), &BOTH).unwrap().is_none());
    }

    #[test]
    fn a_reference_is_known_by_whatever_name_and_link() {
        let folder = tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("out")).unwrap();
        fs::write(at("place.png"), "mine").unwrap();
        let check = || check_picture_folder(&at("out"), Some(&at("place.png")));
        check().unwrap();
        for link in [false, true] {
            match link {
                true => std::os::unix::fs::symlink(at("place.png"), at("out/image.png")).unwrap(),
                false => fs::hard_link(at("place.png"), at("out/image.png")).unwrap(),
            }
            assert!(check().unwrap_err().to_string().contains("is the reference"));
            fs::remove_file(at("out/image.png")).unwrap();
        }
        std::os::unix::fs::symlink(at("elsewhere"), at("out/tensors.safetensors")).unwrap();
        assert!(check().unwrap_err().to_string().contains("would be written through"));
        fs::remove_file(at("out/tensors.safetensors")).unwrap();
        for name in ["heatmap-duck.png", "mask.png", "record.json"] {
            fs::write(at("out").join(name), "mine").unwrap();
            assert!(check().unwrap_err().to_string().contains(name));
            fs::remove_file(at("out").join(name)).unwrap();
        }
    }

    #[test]
    fn nothing_is_written_into_a_folder_that_is_read() {
        let folder = tempdir().unwrap();
        let model = folder.path().join("model");
        fs::create_dir(&model).unwrap();
        std::os::unix::fs::symlink(&model, folder.path().join("link")).unwrap();
        for inside in ["model", "model/out", "link/a/b", "model/../model"] {
            assert!(refuse_within(&folder.path().join(inside), Some(&model), "the model").is_err(), "{inside}");
        }
        for beside in ["model-2", "out", "model/../out"] {
            assert!(refuse_within(&folder.path().join(beside), Some(&model), "the model").is_ok(), "{beside}");
        }
    }

    #[cfg(feature = "engine")]
    #[test]
    fn an_evaluation_replaces_its_own_files_and_nobody_elses() {
        for name in diorama_evaluation::report::NAMES {
            let folder = tempdir().unwrap();
            check_evaluation_folder(folder.path()).unwrap();
            let path = folder.path().join(name);
            let inside = if name.contains('.') { path.clone() } else { path.join("mine.svg") };
            fs::create_dir_all(inside.parent().unwrap()).unwrap();
            fs::write(&inside, "mine").unwrap();
            let refused = check_evaluation_folder(folder.path()).unwrap_err();
            assert!(refused.code == exit::PERMANENT && refused.to_string().contains(name), "{name}: {refused}");
            fs::write(folder.path().join(diorama_evaluation::run::STATE), "{}").unwrap();
            check_evaluation_folder(folder.path()).expect("an evaluation was here before");
        }
        let run = tempdir().unwrap();
        for name in ["run.json", diorama_evaluation::run::STATE] {
            fs::write(run.path().join(name), "{}").unwrap();
            assert!(check_evaluation_folder(run.path()).unwrap_err().to_string().contains("a run's folder"));
        }
    }

    #[test]
    fn a_new_file_takes_no_place_that_is_taken() {
        let folder = tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        refuse_taken(&at("new.png"), "--to").unwrap();
        fs::write(at("rows.jsonl"), "mine").unwrap();
        std::os::unix::fs::symlink("nowhere", at("link.png")).unwrap();
        for taken in ["rows.jsonl", "link.png"] {
            let refused = refuse_taken(&at(taken), "--to").unwrap_err().to_string();
            assert!(refused.contains(taken) && refused.contains("--to"), "{refused}");
        }
    }
}
