//! Which objects a `results.jsonl` names, read as they are wanted, so that its length does not matter to our memory.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::{Component, Path, PathBuf};

use diorama_core::key::as_users_name_it;
use diorama_core::outcome::{FileRef, Outcome, TaskOutcome};

/// Archives that are gathered at a time. Lines come in the manifest's order, so that those of one archive are
/// neighbours, but for lines of the other rounds in between: there are never more archives at a time than rounds.
const GATHERED: usize = 32;

/// An object to download, with what is to come out of it.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Wanted {
    pub(super) object: String,
    /// An archive, whose members are extracted; otherwise a file.
    pub(super) is_archive: bool,
    pub(super) files: Vec<FileRef>,
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
}

impl WantedObjects {
    pub(super) fn open(results: &Path) -> io::Result<Self> {
        let lines = BufReader::new(File::open(results)?).lines();
        Ok(Self { path: results.to_owned(), lines, gathered: VecDeque::new(), files: VecDeque::new() })
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
        let files: Vec<FileRef> = files.into_values().collect();
        // A coordinator is believed about many things, but not about where to write here.
        let leaves = |file: &&FileRef| !Path::new(&file.path).components().all(|it| matches!(it, Component::Normal(_)));
        if let Some(file) = files.iter().find(leaves) {
            anyhow::bail!("the result {:?} would leave the folder", file.path);
        }
        let Some(archive) = archive else {
            self.files.extend(files.into_iter().map(|file| Wanted {
                object: file.path.clone(),
                files: vec![file],
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
            is_archive: true,
            ..Wanted::default()
        });
        wanted.files.extend(files);
        wanted.lines += 1;
        self.gathered.push_back(wanted);
        Ok(())
    }
}

/// Writes the lines of `from` as the file `to`, with the files named as they are named beside it.
pub(super) fn name_as_users_do(from: &Path, to: &Path) -> io::Result<()> {
    let mut written = BufWriter::new(tempfile::NamedTempFile::new_in(to.parent().unwrap_or(Path::new(".")))?);
    for line in BufReader::new(File::open(from)?).lines() {
        writeln!(written, "{}", as_users_name_them(line?))?;
    }
    written.into_inner().map_err(io::IntoInnerError::into_error)?.persist(to)?;
    Ok(())
}

/// The line with other names and nothing else changed: numbers that are read and written again may differ.
fn as_users_name_them(line: String) -> String {
    let Ok(TaskOutcome { outcome: Outcome::Done { files, archive: None, .. }, .. }) = serde_json::from_str(&line)
    else {
        return line;
    };
    files.values().fold(line, |line, file| {
        let named = |path: &str| format!("\"path\":{}", serde_json::json!(path));
        line.replace(&named(&file.path), &named(as_users_name_it(&file.path)))
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
        let file = tempfile::NamedTempFile::new()?;
        std::fs::write(file.path(), lines)?;
        assert_eq!(WantedObjects::count(file.path())?, lines.lines().count() as u64);
        let mut objects = WantedObjects::open(file.path())?;
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
        assert!(all.iter().all(|wanted| wanted.is_archive && wanted.lines == wanted.files.len() as u64));
        assert!(most <= GATHERED);
    }

    #[test]
    fn whatever_the_order_every_file_is_wanted() {
        let archive = |task: u64| format!("shards/{}.tar", task * 7919 % 500);
        let lines: String =
            (0..2000).map(|task| line(task, &format!("t{task}.png"), Some(&archive(task))) + "\n").collect();
        let (all, _) = read(&lines).unwrap();
        let files: std::collections::BTreeSet<_> =
            all.iter().flat_map(|wanted| &wanted.files).map(|file| &file.path).collect();
        assert_eq!(files.len(), 2000);
    }

    #[test]
    fn files_come_one_by_one_and_none_that_leaves_the_folder() {
        let (all, _) = read(&(line(0, "images/a.png", None) + "\n" + &line(1, "images/b.png", None))).unwrap();
        let found: Vec<_> =
            all.iter().map(|wanted| (wanted.object.as_str(), wanted.is_archive, wanted.lines)).collect();
        assert_eq!(found, [("images/a.png", false, 1), ("images/b.png", false, 1)]);
        for path in ["../a.png", "/etc/a.png", "a/../../b.png", "files/r0-000000.0a/../../b.png"] {
            assert!(read(&line(0, path, None)).unwrap_err().to_string().contains("would leave the folder"), "{path}");
        }
        assert!(read("{\"status\"").is_err());
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
        name_as_users_do(&from, &to).unwrap();
        assert_eq!(std::fs::read_to_string(to).unwrap(), format!("{named}\n{other}\n"));
    }
}
