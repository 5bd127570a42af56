//! A manifest's file: the check of all its rows, and the tasks that they are.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use diorama_core::id::{Sha256Hex, TaskIndex};
use diorama_core::manifest::ManifestIssue;
use diorama_core::outcome::{ErrorCode, TaskError};
use diorama_core::task::{Reference, Task};
use sha2::{Digest, Sha256};

use crate::budget::{Budget, Meter, Overdrawn};
use crate::duplicates::{Duplicate, Ids};
use crate::error::ManifestError;
use crate::format::Format;
use crate::lines::Lines;
use crate::raw::{Raw, Rows, issue};
use crate::reference::Files;
use crate::row;
use crate::rules::Rules;
use crate::sniff;
use crate::spool::{Spool, spool};

/// The most issues that are kept of rows that are skipped, where thousands of rows have some; all are counted.
pub const LISTED_SKIPPED: usize = 10_000;

/// A manifest's file and the rules that its rows are read by.
#[derive(Debug, Clone)]
pub struct Manifest {
    path: PathBuf,
    root: PathBuf,
    format: Format,
    rules: Rules,
    /// The copy that is read in its place, where it can be read once only.
    spool: Option<Spool>,
    budget: Budget,
}

/// What validation found.
#[derive(Debug)]
pub struct ManifestReport {
    /// Valid rows; 0 where the file as a whole cannot be used.
    pub tasks: u64,
    /// Rows with at least one issue.
    pub invalid_rows: u64,
    /// Issues in all.
    pub issue_count: u64,
    /// The issues in the file's order, as many as were asked for.
    pub issues: Vec<ManifestIssue>,
    /// The digest of the file.
    pub sha256: Sha256Hex,
    /// The folder that relative references start from: the manifest's own, canonical.
    pub root: PathBuf,
    /// The lines of the rows that have issues.
    refused: Lines,
}

impl Manifest {
    /// Names a manifest. `format` overrides the file's extension. A pipe, or `-` for standard input, is read at once, into
    /// the temporary folder; its references start from the current folder, and where nothing says its format, its first
    /// bytes do.
    pub fn open(path: &Path, format: Option<Format>, rules: Rules) -> Result<Self, ManifestError> {
        let read = |source| ManifestError::Read { path: path.to_owned(), source };
        let format = format.or_else(|| Format::of(path));
        let spool = match spool(path) {
            Err(_) if format.is_none() => return Err(ManifestError::UnknownFormat(path.to_owned())),
            spool => spool.map_err(read)?,
        };
        let format = format.or(spool.as_ref().map(|spool| spool.format));
        let format = match format {
            Some(format) => format,
            None => return Err(Self::of_no_format(path)),
        };
        let root = match &spool {
            Some(_) => std::env::current_dir(),
            None => std::path::absolute(path).map(|path| path.parent().unwrap_or(Path::new("/")).to_owned()),
        };
        let root = root.and_then(|root| root.canonicalize()).map_err(read)?;
        Ok(Self { path: path.to_owned(), root, format, rules, spool, budget: Budget::default() })
    }

    /// Why a file whose name says no format is none.
    fn of_no_format(path: &Path) -> ManifestError {
        let first = File::open(path).and_then(|mut file| sniff::first(&mut file)).unwrap_or_default();
        match sniff::foreign(&first) {
            Some((_, what)) => ManifestError::Foreign { path: path.to_owned(), what },
            None => ManifestError::UnknownFormat(path.to_owned()),
        }
    }

    /// The same manifest, whose check takes no more than `budget`.
    pub fn within(self, budget: Budget) -> Self {
        Self { budget, ..self }
    }

    /// The same manifest, whose relative references start from `root`.
    pub fn with_root(self, root: &Path) -> Result<Self, ManifestError> {
        let read = |source| ManifestError::Read { path: root.to_owned(), source };
        Ok(Self { root: root.canonicalize().map_err(read)?, ..self })
    }

    /// The folder that relative references start from: the manifest's own where none was given, canonical.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Checks every row; what `check` refuses (the model's own conditions) counts like every other issue. Of the
    /// issues, `max_issues` are kept and all are counted.
    pub fn validate(
        &self,
        check: &dyn Fn(&Task) -> Result<(), TaskError>,
        max_issues: usize,
    ) -> Result<ManifestReport, ManifestError> {
        let mut meter = self.meter()?;
        let mut report = ManifestReport {
            tasks: 0,
            invalid_rows: 0,
            issue_count: 0,
            issues: Vec::new(),
            sha256: self.digest_within(&mut meter)?,
            root: self.root.clone(),
            refused: Lines::default(),
        };
        let scratch = |source| ManifestError::Scratch { path: self.path.clone(), source };
        let mut checks = Checks { ids: Ids::new(), files: self.files(), model: check };
        let mut usable = true;
        for raw in self.rows()? {
            meter.step().map_err(|why| self.overdrawn(why))?;
            let (line, issues) = match raw.map_err(|error| self.read_error(error))? {
                Raw::File(issues) => {
                    usable = false;
                    report.keep(issues, max_issues);
                    continue;
                }
                Raw::Bad(line, issues) => (line, issues),
                Raw::Row(line, cells) => match row::task(line, cells, &self.rules) {
                    Ok(task) => (line, checks.issues(line, &task).map_err(scratch)?),
                    Err(issues) => (line, issues),
                },
            };
            if issues.is_empty() {
                report.tasks += 1;
            } else {
                report.invalid_rows += 1;
                report.refused.push(line);
                report.keep(issues, max_issues);
            }
        }
        self.refuse_duplicates(&mut report, &checks.ids.duplicates().map_err(scratch)?, max_issues, &mut meter)?;
        if usable && report.tasks == 0 && report.invalid_rows == 0 {
            report.keep(vec![issue(0, "empty_manifest", None, "the manifest has no rows")], max_issues);
        }
        if !usable {
            report.tasks = 0;
        }
        Ok(report)
    }

    /// Adds the lines whose id was used before. Reads the manifest once more, for the ids themselves.
    fn refuse_duplicates(
        &self,
        report: &mut ManifestReport,
        duplicates: &[Duplicate],
        max_issues: usize,
        meter: &mut Meter,
    ) -> Result<(), ManifestError> {
        let new: Vec<u64> =
            duplicates.iter().map(|duplicate| duplicate.line).filter(|line| !report.refuses(*line)).collect();
        report.tasks -= new.len() as u64;
        report.invalid_rows += new.len() as u64;
        report.refused.extend(new);
        report.issue_count += duplicates.len() as u64;

        let first = &duplicates[..duplicates.len().min(max_issues)];
        let Some(last) = first.last() else { return Ok(()) };
        let mut wanted = first.iter().peekable();
        for raw in self.rows()? {
            meter.step().map_err(|why| self.overdrawn(why))?;
            let Raw::Row(line, cells) = raw.map_err(|error| self.read_error(error))? else { continue };
            if line > last.line {
                break;
            }
            let Some(duplicate) = wanted.next_if(|duplicate| duplicate.line == line) else { continue };
            let task = row::task(line, cells, &self.rules).map_err(|_| ManifestError::Changed(self.path.clone()))?;
            let message = format!("custom_id {} is already used on line {}", task.custom_id, duplicate.first);
            report.issues.push(ManifestIssue {
                custom_id: Some(task.custom_id.to_string()),
                ..issue(line, "duplicate_id", Some("custom_id"), message)
            });
        }
        // Stable: what else is wrong with a line stays behind it.
        report.issues.sort_by_key(|issue| (issue.line, issue.code != "duplicate_id"));
        report.issues.truncate(max_issues);
        Ok(())
    }

    /// The valid rows of the manifest that `report` is about, in order, their indices counted from 0. Ends with
    /// [`ManifestError::Changed`] where the file is no longer the one that was validated.
    pub fn tasks(&self, report: &ManifestReport) -> Result<Tasks, ManifestError> {
        Ok(Tasks {
            manifest: self.clone(),
            rows: self.rows()?,
            sha256: report.sha256.clone(),
            expected: report.tasks,
            refused: report.refused.clone(),
            given: 0,
            ended: false,
        })
    }

    fn rows(&self) -> Result<Rows, ManifestError> {
        let file = File::open(self.file()).map_err(|error| self.read_error(error))?;
        self.format.rows(file, self.file(), &self.rules).map_err(|error| self.read_error(error))
    }

    /// What is read.
    fn file(&self) -> &Path {
        self.spool.as_ref().map_or(&self.path, |spool| &spool.file)
    }

    /// What checks its references that are files.
    fn files(&self) -> Files {
        Files::new(self.root.clone(), self.rules.follow_links)
    }

    /// How long the file is.
    pub fn bytes(&self) -> Result<u64, ManifestError> {
        Ok(self.file().metadata().map_err(|error| self.read_error(error))?.len())
    }

    fn meter(&self) -> Result<Meter, ManifestError> {
        Ok(self.budget.start(self.bytes()?))
    }

    /// The digest of the file, and of the names that its columns have here, where they have others than ours: with other
    /// names it is another manifest.
    pub fn digest(&self) -> Result<Sha256Hex, ManifestError> {
        self.digest_within(&mut self.meter()?)
    }

    fn digest_within(&self, meter: &mut Meter) -> Result<Sha256Hex, ManifestError> {
        let mut file = File::open(self.file()).map_err(|error| self.read_error(error))?;
        let mut hasher = Sha256::new();
        let mut buffer = vec![0; 1 << 16];
        loop {
            meter.step().map_err(|why| self.overdrawn(why))?;
            match file.read(&mut buffer).map_err(|error| self.read_error(error))? {
                0 => break,
                read => hasher.update(&buffer[..read]),
            }
        }
        for (key, column) in &self.rules.columns {
            hasher.update(format!("\n{key}={column}"));
        }
        Ok(Sha256Hex::from_digest(hasher.finalize().into()))
    }

    fn overdrawn(&self, why: Overdrawn) -> ManifestError {
        match why {
            Overdrawn::Seconds(seconds) => ManifestError::TooCostly { path: self.path.clone(), seconds },
            Overdrawn::Stopped => ManifestError::Stopped(self.path.clone()),
        }
    }

    fn read_error(&self, source: io::Error) -> ManifestError {
        ManifestError::Read { path: self.path.clone(), source }
    }
}

impl ManifestReport {
    /// What is told of rows that are skipped: the issues that were kept, and how many more there are.
    pub fn skipped(&self) -> Vec<ManifestIssue> {
        let mut skipped = self.issues.clone();
        let more = self.issue_count.saturating_sub(skipped.len() as u64);
        if more > 0 {
            let message = format!("{more} more issues of skipped rows are not listed");
            skipped.push(issue(0, "more_issues", None, message));
        }
        skipped
    }

    /// Counts the issues and keeps what there is room for.
    fn keep(&mut self, issues: Vec<ManifestIssue>, max_issues: usize) {
        self.issue_count += issues.len() as u64;
        self.issues.extend(issues.into_iter().take(max_issues.saturating_sub(self.issues.len())));
    }

    /// Whether the row on this line has issues.
    fn refuses(&self, line: u64) -> bool {
        self.refused.contains(line)
    }
}

/// What a row's own cells cannot tell.
struct Checks<'a> {
    ids: Ids,
    files: Files,
    model: &'a dyn Fn(&Task) -> Result<(), TaskError>,
}

impl Checks<'_> {
    fn issues(&mut self, line: u64, task: &Task) -> io::Result<Vec<ManifestIssue>> {
        self.ids.add(&task.custom_id, line)?;
        let mut missing = |key: &'static str, reference: &Option<Reference>| match reference {
            Some(Reference::File(path)) => self.files.check(path).err().map(|refusal| (key, refusal)),
            Some(Reference::S3(_) | Reference::Https(_) | Reference::Blob(_)) | None => None,
        };
        let files = [missing("reference", &task.reference), missing("region", &task.region)];
        let model = (self.model)(task).err();
        let named = |code: &str, param: Option<&str>, message: String| ManifestIssue {
            custom_id: Some(task.custom_id.to_string()),
            ..issue(line, code, param, message)
        };
        let file = |(key, (code, message)): (&'static str, _)| named(code, Some(key), format!("{key} {message}"));
        let files = files.into_iter().flatten().map(file);
        let model = model.map(|error| named(error.code.as_str(), key_of(error.code), error.message));
        Ok(files.chain(model).collect())
    }
}

/// The key that an error of the model's check is about.
fn key_of(code: ErrorCode) -> Option<&'static str> {
    match code {
        ErrorCode::NoSubject => Some("prompt"),
        ErrorCode::SubjectNotInPrompt => Some("subjects"),
        _ => None,
    }
}

/// The tasks of a validated manifest.
pub struct Tasks {
    manifest: Manifest,
    rows: Rows,
    sha256: Sha256Hex,
    expected: u64,
    refused: Lines,
    given: u64,
    ended: bool,
}

impl Tasks {
    fn step(&mut self) -> Result<Option<Task>, ManifestError> {
        let changed = || ManifestError::Changed(self.manifest.path.clone());
        loop {
            let Some(raw) = self.rows.next() else {
                let same = self.given == self.expected && self.manifest.digest()? == self.sha256;
                return if same { Ok(None) } else { Err(changed()) };
            };
            match raw.map_err(|error| self.manifest.read_error(error))? {
                Raw::Row(line, cells) if !self.refused.contains(line) => {
                    let mut task = row::task(line, cells, &self.manifest.rules).map_err(|_| changed())?;
                    task.index = TaskIndex(self.given);
                    self.given += 1;
                    return Ok(Some(task));
                }
                Raw::Row(..) | Raw::Bad(..) => {}
                Raw::File(_) => return Err(changed()),
            }
        }
    }
}

impl Iterator for Tasks {
    type Item = Result<Task, ManifestError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let step = self.step().transpose();
        self.ended = !matches!(step, Some(Ok(_)));
        step
    }
}
