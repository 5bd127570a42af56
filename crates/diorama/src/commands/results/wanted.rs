//! Which objects a `results.jsonl` names, read as they are wanted, so that its length does not matter to our memory.

use std::collections::{HashSet, VecDeque};
use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::{Component, Path, PathBuf};

use diorama_core::key::{as_users_name_it, member_as_users_name_it};
use diorama_core::outcome::{FileRef, Outcome, TaskOutcome};

/// Archives that are gathered at a time. Lines come in the manifest's order, so that those of one archive are
/// neighbours, but for lines of the other rounds in between: there are never more archives at a time than rounds.
const GATHERED: usize = 32;

/// What becomes of an object.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Kind {
    /// It is a file.
    #[default]
    File,
    /// It is an archive, whose members become files.
    Extracted,
    /// It is an archive, which stays one.
    Kept,
}

/// A file that comes out of an object.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Target {
    /// As the store has it.
    pub(super) file: FileRef,
    /// Where it goes, below the folder.
    pub(super) to: String,
}

/// An object to download, with what is to come out of it.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Wanted {
    pub(super) object: String,
    pub(super) kind: Kind,
    pub(super) files: Vec<Target>,
    /// Lines that are done with it.
    pub(super) lines: u64,
}

/// The objects, one after the other. An archive whose lines are far apart comes more than once, each time for others of
/// its files.
pub(super) struct WantedObjects {
    path: PathBuf,
    lines: io::Lines<BufReader<File>>,
    /// Archives that further lines may name, the one that was named last at the end.
    gathered: VecDeque<Wanted>,
    /// Files of the last line.
    files: VecDeque<Wanted>,
    /// Archives stay archives.
    keep_archives: bool,
    /// Where the folder tells no small letters from capital ones: what is to lie in it, without that difference.
    folded: Option<HashSet<u64>>,
}

impl WantedObjects {
    /// Those of the file `results`, for a folder that tells small letters from capital ones, or does not.
    pub(super) fn open(results: &Path, keep_archives: bool, folds_case: bool) -> io::Result<Self> {
        let lines = BufReader::new(File::open(results)?).lines();
        let folded = folds_case.then(HashSet::new);
        let (gathered, files) = (VecDeque::new(), VecDeque::new());
        Ok(Self { path: results.to_owned(), lines, gathered, files, keep_archives, folded })
    }

    /// The number of its lines.
    pub(super) fn count(results: &Path) -> io::Result<u64> {
        let mut reader = BufReader::new(File::open(results)?);
        let mut lines = 0;
        while reader.skip_until(b'\n')? > 0 {
            lines += 1;
        }
        Ok(lines)
    }

    /// The next one; `None` at the end.
    pub(super) fn next(&mut self) -> anyhow::Result<Option<Wanted>> {
        loop {
            if let Some(file) = self.files.pop_front() {
                return Ok(Some(file));
            }
            if self.gathered.len() > GATHERED {
                return Ok(self.gathered.pop_front());
            }
            let Some(line) = self.lines.next() else { return Ok(self.gathered.pop_front()) };
            let damaged = |error: &dyn std::fmt::Display| anyhow::anyhow!("{}: {error}", self.path.display());
            let line = line.map_err(|error| damaged(&error))?;
            let outcome: TaskOutcome = serde_json::from_str(&line).map_err(|error| damaged(&error))?;
            self.gather(outcome)?;
        }
    }

    fn gather(&mut self, outcome: TaskOutcome) -> anyhow::Result<()> {
        let Outcome::Done { archive, files, .. } = outcome.outcome else { return Ok(()) };
        // A coordinator is believed about many things, but not about where to write here.
        let leaves = |path: &str| !Path::new(path).components().all(|it| matches!(it, Component::Normal(_)));
        let named = files.values().map(|file| file.path.as_str()).chain(archive.as_deref());
        if let Some(path) = named.into_iter().find(|path| leaves(path)) {
            anyhow::bail!("the result {path:?} would leave the folder");
        }
        let files = files.into_values().map(|file| Target {
            to: match &archive {
                Some(_) => member_as_users_name_it(&outcome.custom_id, &file.path),
                None => as_users_name_it(&file.path).to_owned(),
            },
            file,
        });
        let files: Vec<Target> = files.collect();
        if let Some(folded) = &mut self.folded
            && let Some(target) = files.iter().find(|target| !folded.insert(fold(&target.to)))
        {
            anyhow::bail!(
                "{} and another result differ only by case, which the folder does not tell apart: \
                 choose one on another disk",
                target.to
            );
        }
        let Some(archive) = archive else {
            self.files.extend(files.into_iter().map(|target| Wanted {
                object: target.file.path.clone(),
                files: vec![target],
                ..Wanted::default()
            }));
            if let Some(last) = self.files.back_mut() {
                last.lines = 1;
            }
            return Ok(());
        };
        let known = self.gathered.iter().position(|wanted| wanted.object == archive);
        let mut wanted = known.and_then(|place| self.gathered.remove(place)).unwrap_or_else(|| Wanted {
            object: archive,
            kind: if self.keep_archives { Kind::Kept } else { Kind::Extracted },
            ..Wanted::default()
        });
        wanted.files.extend(files);
        wanted.lines += 1;
        self.gathered.push_back(wanted);
        Ok(())
    }
}

/// Stands for a path as a disk sees it that folds case.
fn fold(path: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    path.to_lowercase().hash(&mut hasher);
    hasher.finish()
}

/// Whether `folder` takes a name in capital letters for the same in small ones.
pub(super) fn folds_case(folder: &Path) -> io::Result<bool> {
    let probe = tempfile::Builder::new().prefix(".part-case-").suffix(".X").tempfile_in(folder)?;
    let name = probe.path().file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    Ok(folder.join(name).exists())
}

/// Writes the lines of `from` as the file `to`, with the files named as they lie beside it.
pub(super) fn name_as_users_do(from: &Path, to: &Path, keep_archives: bool) -> io::Result<()> {
    let mut written = BufWriter::new(tempfile::NamedTempFile::new_in(to.parent().unwrap_or(Path::new(".")))?);
    for line in BufReader::new(File::open(from)?).lines() {
        writeln!(written, "{}", as_users_name_them(line?, keep_archives))?;
    }
    written.into_inner().map_err(io::IntoInnerError::into_error)?.persist(to)?;
    Ok(())
}

/// The line with other names and nothing else changed: numbers that are read and written again may differ.
fn as_users_name_them(line: String, keep_archives: bool) -> String {
    let Ok(TaskOutcome { custom_id, outcome: Outcome::Done { files, archive, .. }, .. }) = serde_json::from_str(&line)
    else {
        return line;
    };
    if archive.is_some() && keep_archives {
        return line;
    }
    let line = match &archive {
        Some(archive) => line.replacen(&format!("\"archive\":{},", serde_json::json!(archive)), "", 1),
        None => line,
    };
    files.values().fold(line, |line, file| {
        let named = |path: &str| format!("\"path\":{}", serde_json::json!(path));
        let to = match &archive {
            Some(_) => member_as_users_name_it(&custom_id, &file.path),
            None => as_users_name_it(&file.path).to_owned(),
        };
        line.replace(&named(&file.path), &named(&to))
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fmt::Write as _;

    use diorama_core::id::Sha256Hex;

    use super::*;

    fn line(task: u64, path: &str, archive: Option<&str>) -> String {
        let file = FileRef { path: path.to_owned(), sha256: Sha256Hex::of(b""), bytes: 0 };
        let outcome = Outcome::Done {
            archive: archive.map(str::to_owned),
            files: BTreeMap::from([("image".to_owned(), file)]),
            mask_coverage: None,
            scores: BTreeMap::new(),
            measures: Default::default(),
            accepted: None,
            tries: Vec::new(),
            warnings: Vec::new(),
        };
        let mut line = serde_json::to_value(outcome).unwrap();
        line["task"] = task.into();
        line["custom_id"] = format!("t{task}").into();
        line["seed"] = 1.into();
        line.to_string()
    }

    /// What comes of these lines, and the most archives that were held at a time.
    fn read(lines: &str) -> anyhow::Result<(Vec<Wanted>, usize)> {
        read_into(lines, false)
    }

    fn read_into(lines: &str, folds_case: bool) -> anyhow::Result<(Vec<Wanted>, usize)> {
        let file = tempfile::NamedTempFile::new()?;
        std::fs::write(file.path(), lines)?;
        assert_eq!(WantedObjects::count(file.path())?, lines.lines().count() as u64);
        let mut objects = WantedObjects::open(file.path(), false, folds_case)?;
        let (mut all, mut most) = (Vec::new(), 0);
        while let Some(wanted) = objects.next()? {
            most = most.max(objects.gathered.len());
            all.push(wanted);
        }
        Ok((all, most))
    }

    #[test]
    fn archives_of_several_rounds_come_once_each_and_few_are_held() {
        // Every tenth task was done in the second round.
        let mut lines = String::new();
        for task in 0..20_000 {
            let archive = if task % 10 == 3 {
                format!("shards/r1-{:06}.b.tar", task / 640)
            } else {
                format!("shards/r0-{:06}.a.tar", task / 64)
            };
            writeln!(lines, "{}", line(task, &format!("t{task}.png"), Some(&archive))).unwrap();
        }
        let (all, most) = read(&lines).unwrap();
        let names: std::collections::BTreeSet<_> = all.iter().map(|wanted| &wanted.object).collect();
        assert_eq!((names.len(), all.len()), (20_000usize.div_ceil(64) + 20_000usize.div_ceil(640), names.len()));
        assert_eq!(all.iter().map(|wanted| wanted.files.len() as u64).sum::<u64>(), 20_000);
        assert!(all.iter().all(|wanted| wanted.kind == Kind::Extracted && wanted.lines == wanted.files.len() as u64));
        assert!(most <= GATHERED);
    }

    #[test]
    fn whatever_the_order_every_file_is_wanted() {
        let archive = |task: u64| format!("shards/{}.tar", task * 7919 % 500);
        let lines: String =
            (0..2000).map(|task| line(task, &format!("t{task}.png"), Some(&archive(task))) + "\n").collect();
        let (all, _) = read(&lines).unwrap();
        let files: std::collections::BTreeSet<_> =
            all.iter().flat_map(|wanted| &wanted.files).map(|target| &target.to).collect();
        assert_eq!(files.len(), 2000);
    }

    #[test]
    fn files_come_one_by_one_and_none_that_leaves_the_folder() {
        let (all, _) = read(&(line(0, "images/a.png", None) + "\n" + &line(1, "images/b.png", None))).unwrap();
        let found: Vec<_> = all.iter().map(|wanted| (wanted.object.as_str(), wanted.kind, wanted.lines)).collect();
        assert_eq!(found, [("images/a.png", Kind::File, 1), ("images/b.png", Kind::File, 1)]);
        for path in ["../a.png", "/etc/a.png", "a/../../b.png", "files/r0-000000.0a/../../b.png"] {
            assert!(read(&line(0, path, None)).unwrap_err().to_string().contains("would leave the folder"), "{path}");
        }
        let archive = line(0, "a.png", Some("../../shards/x.tar"));
        assert!(read(&archive).unwrap_err().to_string().contains("would leave the folder"));
        assert!(read("{\"status\"").is_err());
    }

    #[test]
    fn names_that_differ_only_by_case_are_refused_where_the_disk_cannot_tell_them_apart() {
        let folder = tempfile::tempdir().unwrap();
        assert!(!folds_case(folder.path()).unwrap(), "the tests run on a disk that tells them apart");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        let archive = Some("shards/r0-000000.a.tar");
        for (first, second, archive) in [
            ("Duck.image.png", "duck.image.png", archive),
            ("files/r0-000000.a/images/A.png", "files/r0-000001.b/images/a.png", None),
        ] {
            let lines = line(0, first, archive) + "\n" + &line(1, second, archive);
            let refused = read_into(&lines, true).unwrap_err().to_string();
            assert!(refused.contains("differ only by case"), "{refused}");
            read_into(&lines, false).unwrap();
            read_into(&(line(0, first, archive) + "\n" + &line(1, "goose.png", archive)), true).unwrap();
        }
    }

    #[test]
    fn files_are_named_as_they_lie_beside_the_results_and_nothing_else_of_a_line_changes() {
        let stored = line(0, "files/r0-000012.0a/images/a.png", None)
            .replace("\"seed\":1", "\"seed\":1,\"x\":0.10000000000000001");
        let named = stored.replace("files/r0-000012.0a/images/a.png", "images/a.png");
        let other = line(1, "b.png", Some("shards/r0-000000.0a.tar"));
        let folder = tempfile::tempdir().unwrap();
        let [from, to] = ["from", "to"].map(|name| folder.path().join(name));
        std::fs::write(&from, format!("{stored}\n{other}\n")).unwrap();
        name_as_users_do(&from, &to, true).unwrap();
        assert_eq!(std::fs::read_to_string(&to).unwrap(), format!("{named}\n{other}\n"));
        // Taken out of its archive, it lies where any picture does.
        name_as_users_do(&from, &to, false).unwrap();
        let taken_out =
            other.replace("\"archive\":\"shards/r0-000000.0a.tar\",", "").replace("\"b.png\"", "\"images/t1.png\"");
        assert_eq!(std::fs::read_to_string(to).unwrap(), format!("{named}\n{taken_out}\n"));
        let outcome: TaskOutcome = serde_json::from_str(&taken_out).unwrap();
        assert!(matches!(outcome.outcome, Outcome::Done { archive: None, .. }));
    }
}
