//! An evaluation of whole folders: tasks pass by in the first folder's order, each with the pictures that every folder
//! has of it; rows are appended to `evaluation.jsonl`, sums kept beside it, so that a stopped evaluation goes on where it
//! was. Memory does not grow with the pictures, only with their names.

mod stamp;
mod state;
mod task;

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use diorama_core::picture::Rgb8;
use serde::{Deserialize, Serialize};

pub use self::state::FILE as STATE;
use self::state::State;
use self::task::Reading;
use crate::error::{Error, Result};
use crate::evaluator::Evaluator;
use crate::near::NearDuplicates;
use crate::report::rows;
use crate::row::Row;
use crate::sets::{SetDistances, SetSums};
use crate::source::{Opening, Source};

/// Pictures whose set features are computed together.
const BATCH: usize = 16;
/// Tasks that are measured together; their pictures are in memory at a time.
const TOGETHER: usize = 4;
/// Tasks after which what was done is kept.
const KEPT_AFTER: usize = 256;
/// The file of the rows, below the output folder.
pub const ROWS: &str = "evaluation.jsonl";

/// What to evaluate.
pub struct Request {
    /// Folders with their labels; the first one's order leads, and others are compared with it.
    pub sources: Vec<(PathBuf, String)>,
    /// What the user says about them.
    pub opening: Opening,
    /// A mask for every picture (a file), or one each (`DIR/{custom_id}.png`): white where the subject may be.
    pub region: Option<PathBuf>,
    /// Whether to compute clean-fid too.
    pub clean: bool,
    /// Where to write.
    pub out: PathBuf,
}

/// What came of it, besides the rows.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Evaluation {
    /// The labels of the folders.
    pub sources: Vec<String>,
    /// Every series, the folders' own first.
    pub series: Vec<String>,
    /// Rows with measures.
    pub measured: u64,
    /// Rows without: pictures that are gone or cannot be read.
    pub problems: u64,
    /// Rows whose picture nearly repeats an earlier one of its series.
    #[serde(default)]
    pub near_duplicates: u64,
    /// Tasks of each folder that have no picture: custom_id and code.
    pub failed: BTreeMap<String, Vec<(String, String)>>,
    /// custom_ids that not every folder has, by the folder that lacks them.
    pub unpaired: BTreeMap<String, Vec<String>>,
    /// How far each series is from the references, where Inception or CLIP at 336 pixels is there.
    pub sets: BTreeMap<String, SetDistances>,
    /// The networks' digests.
    pub networks: BTreeMap<String, String>,
}

/// Evaluates; `progress` is told tasks done and tasks in all, `stop` is asked between tasks.
///
/// # Errors
/// [`Error::Stopped`]; [`Error::Input`] where a folder cannot be evaluated at all; [`Error::Disk`].
pub fn evaluate(
    request: &Request,
    evaluator: &mut Evaluator,
    stop: &dyn Fn() -> bool,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Evaluation> {
    let mut sources = Vec::new();
    for (path, label) in &request.sources {
        sources.push(Source::open(path, label, &request.opening)?);
    }
    refuse_one_name(&request.sources)?;
    let ids = all_ids(&sources);
    std::fs::create_dir_all(&request.out).map_err(|error| Error::disk(&request.out, error))?;
    let mut work = Work::begin(request, evaluator, &ids)?;
    while work.state.done < ids.len() {
        if stop() {
            work.keep(evaluator)?;
            return Err(Error::Stopped);
        }
        let end = (work.state.done + TOGETHER).min(ids.len());
        work.tasks(&mut sources, &ids[work.state.done..end], evaluator)?;
        progress(work.state.done as u64, ids.len() as u64);
    }
    work.keep(evaluator)?;
    let mut evaluation = outcome(&sources, &ids, evaluator);
    work.close(&mut evaluation)?;
    Ok(evaluation)
}

/// Refuses folders whose series would have one name, and would be one.
fn refuse_one_name(sources: &[(PathBuf, String)]) -> Result<()> {
    for (at, (path, label)) in sources.iter().enumerate() {
        let is_same = |(_, other): &&(PathBuf, String)| {
            // A run's own comparisons are called after it: `out:img2img`.
            let of = |one: &str, other: &str| one.strip_prefix(other).is_some_and(|rest| rest.starts_with(':'));
            label == other || of(label, other) || of(other, label)
        };
        if let Some((other, name)) = sources[..at].iter().find(is_same) {
            let problem = format!(
                "would be called {label:?}, and {} {name:?}: give each folder a --label of its own",
                other.display()
            );
            return Err(Error::input(path, problem));
        }
    }
    Ok(())
}

/// The first folder's in order, then those that only others have.
fn all_ids(sources: &[Source]) -> Vec<String> {
    let mut known = HashSet::new();
    let mut ids = Vec::new();
    for id in sources.iter().flat_map(|source| &source.ids) {
        if known.insert(id.as_str()) {
            ids.push(id.clone());
        }
    }
    ids
}

/// An evaluation under way.
struct Work<'a> {
    request: &'a Request,
    reading: Reading<'a>,
    state: State,
    rows: BufWriter<File>,
    /// Pictures whose set features are not computed yet, by set.
    waiting: BTreeMap<String, Vec<(String, Rgb8)>>,
    since_kept: usize,
    /// By series.
    near: BTreeMap<String, NearDuplicates>,
}

/// The set of the references.
const REFERENCES: &str = "references";

impl<'a> Work<'a> {
    fn begin(request: &'a Request, evaluator: &Evaluator, ids: &[String]) -> Result<Self> {
        let mut state = State::load_or_new(request, evaluator, ids)?;
        // First of all: it shows whose folder this is.
        state.write(&request.out)?;
        let path = request.out.join(ROWS);
        let disk = |error| Error::disk(&path, error);
        if path.is_symlink() {
            std::fs::remove_file(&path).map_err(disk)?;
        }
        let mut rows = File::options().create(true).truncate(false).write(true).open(&path).map_err(disk)?;
        // What was written after the last point that was kept is measured again.
        rows.set_len(state.bytes).and_then(|()| rows.seek(SeekFrom::End(0))).map_err(disk)?;
        let reading = Reading::new(request, state.references.clone());
        let (near, rows) = (near_so_far(&path)?, BufWriter::new(rows));
        Ok(Self { request, reading, state, rows, waiting: BTreeMap::new(), since_kept: 0, near })
    }

    fn tasks(&mut self, sources: &mut [Source], ids: &[String], evaluator: &mut Evaluator) -> Result<()> {
        let wants_sets = evaluator.networks().inception.is_some() || evaluator.networks().clip_336.is_some();
        let (mut rows, mut tasks) = (Vec::new(), Vec::new());
        for id in ids {
            let mut subjects = Vec::new();
            for source in &mut *sources {
                for entry in source.entries(id)? {
                    let (row, subject) = self.reading.read(&entry);
                    let is_there = subject.is_some();
                    if let Some(subject) = subject {
                        if wants_sets {
                            self.add_to_sets(&row, &subject.picture);
                        }
                        subjects.push(subject);
                    }
                    rows.push((row, is_there));
                }
            }
            tasks.push(subjects);
        }
        let mut measured =
            evaluator.measure_tasks(&tasks.iter().map(Vec::as_slice).collect::<Vec<_>>())?.into_iter().flatten();
        for (mut row, is_there) in rows {
            if let Some(measured) = is_there.then(|| measured.next()).flatten() {
                row.measures = measured.measures;
                row.region = measured.region;
                row.phash = Some(format!("{:016x}", measured.phash));
                let series = self.near.entry(row.series.clone()).or_default();
                row.near_duplicate_of = series.add(&row.custom_id, measured.phash).map(str::to_owned);
                row.notes.extend(measured.notes);
            }
            self.write(&row)?;
        }
        self.state.done += ids.len();
        self.since_kept += ids.len();
        self.add_waiting(evaluator, BATCH)?;
        if self.since_kept >= KEPT_AFTER { self.keep(evaluator) } else { Ok(()) }
    }

    /// The picture waits to be counted in its series, its reference, where that is not counted yet, among the references.
    fn add_to_sets(&mut self, row: &Row, picture: &Rgb8) {
        self.wait(row.series.clone(), row.custom_id.clone(), picture);
        if let (Some(path), Some(picture)) = (&row.reference, self.reading.new_reference(&row.reference)) {
            self.wait(REFERENCES.to_owned(), path.clone(), &picture);
        }
    }

    fn wait(&mut self, set: String, name: String, picture: &Rgb8) {
        self.waiting.entry(set).or_default().push((name, picture.clone()));
    }

    /// Computes the features of sets of which at least `least` pictures wait.
    fn add_waiting(&mut self, evaluator: &Evaluator, least: usize) -> Result<()> {
        for (set, pictures) in &mut self.waiting {
            if pictures.len() >= least {
                let sums = self.state.sets.entry(set.clone()).or_default();
                sums.add(evaluator.networks(), pictures, self.request.clean)?;
                pictures.clear();
            }
        }
        Ok(())
    }

    fn write(&mut self, row: &Row) -> Result<()> {
        if row.problem.is_some() {
            self.state.problems += 1
        } else {
            self.state.measured += 1
        }
        self.state.near_duplicates += u64::from(row.near_duplicate_of.is_some());
        if !self.state.series.contains(&row.series) {
            self.state.series.push(row.series.clone());
        }
        let mut line = serde_json::to_vec(row).unwrap_or_default();
        line.push(b'\n');
        let path = self.request.out.join(ROWS);
        self.rows.write_all(&line).map_err(|error| Error::disk(&path, error))?;
        self.state.bytes += line.len() as u64;
        Ok(())
    }

    /// Makes what was done outlive this process: rows and the sums that hold the same pictures.
    fn keep(&mut self, evaluator: &Evaluator) -> Result<()> {
        self.add_waiting(evaluator, 1)?;
        let path = self.request.out.join(ROWS);
        self.rows.flush().map_err(|error| Error::disk(&path, error))?;
        self.state.references = self.reading.known_references();
        self.state.write(&self.request.out)?;
        self.since_kept = 0;
        Ok(())
    }

    fn close(self, evaluation: &mut Evaluation) -> Result<()> {
        evaluation.series.clone_from(&self.state.series);
        evaluation.measured = self.state.measured;
        evaluation.problems = self.state.problems;
        evaluation.near_duplicates = self.state.near_duplicates;
        let empty = SetSums::default();
        let references = self.state.sets.get(REFERENCES).unwrap_or(&empty);
        for (series, sums) in self.state.sets.iter().filter(|(series, _)| *series != REFERENCES) {
            evaluation.sets.insert(series.clone(), sums.distances(references)?);
        }
        Ok(())
    }
}

/// What the rows that were kept say of near-duplicates.
fn near_so_far(path: &Path) -> Result<BTreeMap<String, NearDuplicates>> {
    let mut near: BTreeMap<String, NearDuplicates> = BTreeMap::new();
    for row in rows(path)? {
        let row = row?;
        if let Some(hash) = row.phash.as_deref().and_then(|hash| u64::from_str_radix(hash, 16).ok()) {
            near.entry(row.series).or_default().add(&row.custom_id, hash);
        }
    }
    Ok(near)
}

fn outcome(sources: &[Source], ids: &[String], evaluator: &Evaluator) -> Evaluation {
    let lacks = |source: &Source| ids.iter().filter(|id| !source.has(id)).cloned().collect::<Vec<_>>();
    let hex = |digest: &[u8; 32]| digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    Evaluation {
        sources: sources.iter().map(|source| source.label.clone()).collect(),
        failed: sources
            .iter()
            .filter(|source| !source.failed.is_empty())
            .map(|source| (source.label.clone(), source.failed.clone()))
            .collect(),
        unpaired: sources
            .iter()
            .map(|source| (source.label.clone(), lacks(source)))
            .filter(|(_, lacking)| !lacking.is_empty())
            .collect(),
        networks: evaluator
            .networks()
            .loaded
            .iter()
            .map(|(kind, digest)| (kind.folder().to_owned(), hex(digest)))
            .collect(),
        ..Evaluation::default()
    }
}
