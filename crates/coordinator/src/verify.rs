//! Proves that a run is whole: every task has exactly one outcome, every file and archive has its digest, the counters
//! agree with the markers, and nothing lies about that no marker names.
//!
//! Reads everything, a few shards at a time, and changes nothing unless it is told to repair.

use std::collections::{BTreeMap, HashSet};
use std::io::Read;
use std::pin::Pin;

use diorama_backends::Backends;
use diorama_backends::objects::{ObjectError, ObjectErrorKind, ObjectReader, list_all};
use diorama_backends::progress::Counts;
use diorama_backends::run_store::RunStore;
use diorama_core::id::{Sha256Hex, ShardId};
use diorama_core::key::ObjectKey;
use diorama_core::marker::{ArchiveRef, CommitMarker};
use diorama_core::message::ShardMessage;
use diorama_core::outcome::{FileRef, Outcome};
use diorama_core::round::RoundInfo;
use diorama_core::run::{RunSpec, RunSummary};
use futures::{StreamExt, stream};
use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};
use tokio_util::io::SyncIoBridge;

use crate::error::CoordinatorError;
use crate::finalise::{Tally, add_invalid, add_task, invalid_rows};
use crate::outcomes::Outcomes;
use crate::reconcile::rebuild;
use crate::reopen::ending;
use crate::rounds;

/// Shards that are read at a time.
const AT_ONCE: usize = 8;

/// Problems that are kept in words; all are counted.
const KEPT: usize = 1000;

/// What a verification found.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Verification {
    /// Whether the run has ended.
    pub ended: bool,
    /// Tasks that there should be.
    pub tasks: u64,
    /// Tasks with a picture.
    pub done: u64,
    /// Tasks without.
    pub failed: u64,
    /// Shards of all rounds.
    pub shards: u64,
    /// Shards without a marker: work that is not done yet, or a loss where the run has ended.
    pub uncommitted: u64,
    /// Files whose digest was checked, those inside archives included.
    pub files: u64,
    /// Bytes that were read for it.
    pub bytes: u64,
    /// Archives that no marker names, those of attempts in a run that has not ended among them; journals of a run that
    /// has.
    pub orphans: u64,
    /// Everything that is wrong, at most 1000.
    pub problems: Vec<String>,
    /// All of them.
    pub problem_count: u64,
    /// What was repaired.
    pub repaired: Vec<String>,
}

impl Verification {
    /// Whether nothing is wrong.
    pub fn is_clean(&self) -> bool {
        self.problem_count == 0
    }

    fn problem(&mut self, problem: String) {
        self.problem_count += 1;
        if self.problems.len() < KEPT {
            self.problems.push(problem);
        }
    }
}

/// What one shard came to.
struct Checked {
    shard: ShardId,
    marker: Option<CommitMarker>,
    /// That its input or its marker says nothing, which is a problem of its own.
    unreadable: bool,
    problems: Vec<String>,
    files: u64,
    bytes: u64,
}

impl Checked {
    fn unreadable(mut self, problem: String) -> Self {
        self.problems.push(problem);
        Self { unreadable: true, ..self }
    }
}

/// Verifies the run in `store`; with `repair`, publishes what is missing again, rebuilds the counters where they are
/// wrong, and removes what no marker names where nothing else is wrong: in a damaged run, that may be all that is left.
pub async fn verify(
    backends: &Backends,
    store: &RunStore,
    spec: &RunSpec,
    repair: bool,
) -> Result<Verification, CoordinatorError> {
    let mut found = Verification { tasks: spec.tasks, ..Verification::default() };
    let summary = ending(store).await?;
    found.ended = summary.is_some();
    let rounds = rounds::all(store).await?;
    if rounds.is_empty() {
        found.problem("the run is not completely submitted: submit it again".to_owned());
        return Ok(found);
    }
    let in_rounds: u64 = rounds[0].tasks;
    if in_rounds != spec.tasks {
        found.problem(format!("the spec speaks of {} tasks, round 0 of {in_rounds}", spec.tasks));
    }

    let (mut counts, mut named, mut missing, mut unreadable) = (Counts::default(), HashSet::new(), Vec::new(), false);
    for round in &rounds {
        let check = |shard| check_shard(store, spec, shard);
        let mut checked = stream::iter(round.shard_ids()).map(check).buffered(AT_ONCE);
        while let Some(checked) = checked.next().await {
            let checked = checked?;
            found.shards += 1;
            (found.files, found.bytes) = (found.files + checked.files, found.bytes + checked.bytes);
            checked.problems.into_iter().for_each(|problem| found.problem(problem));
            unreadable |= checked.unreadable;
            match checked.marker {
                Some(marker) => {
                    counts = counts.plus(Counts::of(&marker, round.last_round(&spec.retry)));
                    named.extend(marker.archive.map(|archive| store.relative(&archive.key)));
                }
                None if checked.unreadable => {}
                None => missing.push(checked.shard),
            }
        }
    }
    found.uncommitted = missing.len() as u64;
    match &summary {
        Some(summary) => {
            for shard in &missing {
                found.problem(format!("shard {shard}: the run has ended and its commit marker is gone"));
            }
            if missing.is_empty() && !unreadable {
                ended(store, spec, &rounds, summary, &mut found).await?;
            }
        }
        None => {
            found.done = counts.done;
            found.failed = rounds.last().map_or(0, |round| round.failed(counts.failed));
        }
    }
    // Without one of the markers there is nothing to rebuild them from.
    if !unreadable {
        counters(backends, store, spec, counts, repair, &mut found).await?;
    }
    if repair && summary.is_none() {
        for shard in &missing {
            let message = ShardMessage { run: spec.run.clone(), shard: *shard };
            backends.queue.publish(&spec.pool, &message).await?;
        }
        if !missing.is_empty() {
            found.repaired.push(format!("{} shards without a marker were published again", missing.len()));
        }
    }
    let remove = repair && summary.is_some() && found.is_clean();
    orphans(store, &named, remove, &mut found).await?;
    Ok(found)
}

/// An ended run all of whose markers are there: the final files say what the markers say.
async fn ended(
    store: &RunStore,
    spec: &RunSpec,
    rounds: &[RoundInfo],
    summary: &RunSummary,
    found: &mut Verification,
) -> Result<(), CoordinatorError> {
    let mut results = FinalFile::open(store, ObjectKey::Results).await?;
    let mut errors = FinalFile::open(store, ObjectKey::Errors).await?;
    let mut outcomes = Outcomes::new(store, spec, rounds);
    let (mut next, mut tally, mut line) = (0, Tally::default(), Vec::new());
    while let Some(last) = outcomes.next().await? {
        if last.outcome.task.0 != next {
            found.problem(format!(
                "task {next} is wanted, and task {} comes: a task is lost or doubled",
                last.outcome.task
            ));
        }
        next = last.outcome.task.0 + 1;
        tally.add(&last);
        line.clear();
        add_task(&mut line, &last);
        let file = if last.outcome.outcome.is_done() { &mut results } else { &mut errors };
        file.expect(&line).await?;
    }
    for issue in invalid_rows(store).await? {
        line.clear();
        add_invalid(&mut line, &issue);
        errors.expect(&line).await?;
    }
    (found.done, found.failed) = (tally.done, tally.failed);
    if found.done + found.failed != found.tasks {
        found.problem(format!("{} tasks have an outcome, {} were submitted", found.done + found.failed, found.tasks));
    }
    let last_round = rounds.last().map_or(0, |round| round.round.0);
    let wanted = as_read(tally.summary(spec, summary.state, last_round, &outcomes.totals));
    for (said, wanted) in fields(summary).into_iter().zip(fields(&wanted)).filter(|(said, wanted)| said != wanted) {
        found.problem(format!("summary.json says {} {}, the markers say {}", said.0, said.1, wanted.1));
    }
    for file in [results, errors] {
        if let Some(problem) = file.end().await? {
            found.problem(problem);
        }
    }
    Ok(())
}

/// The summary as it comes back from its file: a number that was written and read may differ in its last digit.
fn as_read(summary: RunSummary) -> RunSummary {
    let read = serde_json::to_vec(&summary).and_then(|written| serde_json::from_slice(&written));
    read.unwrap_or(summary)
}

/// A summary field by field.
fn fields(summary: &RunSummary) -> Vec<(String, Value)> {
    match serde_json::to_value(summary) {
        Ok(Value::Object(fields)) => fields.into_iter().collect(),
        _ => Vec::new(),
    }
}

/// One of the final files, read along with what it should say.
struct FinalFile {
    key: ObjectKey,
    /// `None` where it is gone.
    body: Option<BufReader<Pin<Box<dyn AsyncRead + Send>>>>,
    /// Lines that it should have had so far.
    lines: u64,
    /// Whether all of them were as they should be.
    fine: bool,
    read: Vec<u8>,
}

impl FinalFile {
    async fn open(store: &RunStore, key: ObjectKey) -> Result<Self, CoordinatorError> {
        let body = match store.objects().open(&store.path(&key)).await {
            Ok(reader) => Some(BufReader::new(reader.body)),
            Err(error) if error.kind == ObjectErrorKind::NotFound => None,
            Err(error) => return Err(error.into()),
        };
        Ok(Self { key, body, lines: 0, fine: true, read: Vec::new() })
    }

    /// Holds its next line against `line`; after the first one that is wrong, none is read.
    async fn expect(&mut self, line: &[u8]) -> Result<(), CoordinatorError> {
        let Some(body) = self.body.as_mut().filter(|_| self.fine) else { return Ok(()) };
        self.lines += 1;
        self.read.resize(line.len(), 0);
        self.fine = match body.read_exact(&mut self.read).await {
            Ok(_) => self.read == line,
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => false,
            Err(error) => return Err(ObjectError::broken_off(self.key.to_string(), &error).into()),
        };
        Ok(())
    }

    /// What is wrong with it.
    async fn end(self) -> Result<Option<String>, CoordinatorError> {
        let Self { key, body, lines, fine, .. } = self;
        let Some(mut body) = body else { return Ok(Some(format!("{key} is gone"))) };
        if !fine {
            return Ok(Some(format!("{key}: line {lines} is not what the markers say")));
        }
        let more = body.fill_buf().await.map_err(|error| ObjectError::broken_off(key.to_string(), &error))?;
        let more = !more.is_empty();
        Ok(more.then(|| format!("{key} goes on after line {lines}, its last by the markers")))
    }
}

/// The counters must be those of the markers. Workers of a run that has not ended may commit while we read, so more
/// counted than read is no fault then; an ended run is forgotten after some days.
async fn counters(
    backends: &Backends,
    store: &RunStore,
    spec: &RunSpec,
    counts: Counts,
    repair: bool,
    found: &mut Verification,
) -> Result<(), CoordinatorError> {
    let said = backends.progress.counts(&spec.run).await?;
    let excused = if found.ended { said == Counts::default() } else { said.shards > counts.shards };
    if said == counts || excused {
        return Ok(());
    }
    if repair {
        let now = rebuild(store, spec, &*backends.progress).await?;
        found.repaired.push(format!("the counters were rebuilt: {said:?} became {now:?}"));
    } else {
        found.problem(format!("the counters say {said:?}, the markers {counts:?}; --repair rebuilds them"));
    }
    Ok(())
}

async fn orphans(
    store: &RunStore,
    named: &HashSet<String>,
    remove: bool,
    found: &mut Verification,
) -> Result<(), CoordinatorError> {
    let mut orphans = list_all(store.objects(), &store.relative("shards/")).await?;
    orphans.retain(|object| !named.contains(&object.key));
    if found.ended {
        orphans.extend(list_all(store.objects(), &store.relative("journal/")).await?);
    }
    found.orphans = orphans.len() as u64;
    if remove && !orphans.is_empty() {
        let keys: Vec<String> = orphans.into_iter().map(|orphan| orphan.key).collect();
        store.objects().delete_all(&keys).await?;
        found.repaired.push(format!("{} objects that no marker names were removed", keys.len()));
        found.orphans = 0;
    }
    Ok(())
}

async fn check_shard(store: &RunStore, spec: &RunSpec, shard: ShardId) -> Result<Checked, CoordinatorError> {
    let mut checked = Checked { shard, marker: None, unreadable: false, problems: Vec::new(), files: 0, bytes: 0 };
    let read = async { Ok::<_, ObjectError>((store.input(shard).await?, store.marker(shard).await?)) };
    let (tasks, marker) = match read.await {
        Ok((Some(tasks), marker)) => (tasks, marker),
        Ok((None, _)) => return Ok(checked.unreadable(format!("shard {shard}: its input is gone"))),
        Err(ObjectError { kind: ObjectErrorKind::Damaged, what, problem, .. }) => {
            return Ok(checked.unreadable(format!("shard {shard}: {what} cannot be read: {problem}")));
        }
        Err(error) => return Err(error.into()),
    };
    let Some(marker) = marker else { return Ok(checked) };
    if marker.run != spec.run || marker.shard != shard {
        checked.problems.push(format!("shard {shard}: its marker speaks of {} of {}", marker.shard, marker.run));
    }
    let same = marker.outcomes.len() == tasks.len()
        && marker.outcomes.iter().zip(&tasks).all(|(outcome, task)| {
            (outcome.task, &outcome.custom_id, outcome.seed) == (task.index, &task.custom_id, task.seed)
        });
    if !same {
        checked.problems.push(format!("shard {shard}: its outcomes are not those of its tasks, one each, in order"));
    }
    let files = marker.outcomes.iter().filter_map(|outcome| match &outcome.outcome {
        Outcome::Done { files, .. } => Some(files.values().cloned()),
        Outcome::Failed(_) => None,
    });
    let files: Vec<FileRef> = files.flatten().collect();
    match &marker.archive {
        Some(archive) => check_archive(store, archive, files, &mut checked).await?,
        None => check_files(store, &files, &mut checked).await?,
    }
    checked.marker = Some(marker);
    Ok(checked)
}

async fn check_files(store: &RunStore, files: &[FileRef], checked: &mut Checked) -> Result<(), CoordinatorError> {
    for file in files {
        let problem = match store.objects().open(&store.relative(&file.path)).await {
            Ok(reader) => {
                let (bytes, digest) = digest(&file.path, reader).await?;
                (checked.files, checked.bytes) = (checked.files + 1, checked.bytes + bytes);
                (digest != file.sha256).then_some("its content is not what was committed")
            }
            Err(error) if error.kind == ObjectErrorKind::NotFound => Some("it is gone"),
            Err(error) => return Err(error.into()),
        };
        checked.problems.extend(problem.map(|problem| format!("shard {}: {}: {problem}", checked.shard, file.path)));
    }
    Ok(())
}

async fn check_archive(
    store: &RunStore,
    archive: &ArchiveRef,
    files: Vec<FileRef>,
    checked: &mut Checked,
) -> Result<(), CoordinatorError> {
    let place = format!("shard {}: {}", checked.shard, archive.key);
    let reader = match store.objects().open(&store.relative(&archive.key)).await {
        Ok(reader) => reader,
        Err(error) if error.kind == ObjectErrorKind::NotFound => {
            checked.problems.push(format!("{place} is gone"));
            return Ok(());
        }
        Err(error) => return Err(error.into()),
    };
    let body = SyncIoBridge::new(reader.body);
    let read = tokio::task::spawn_blocking(move || members(body)).await;
    let read = read.unwrap_or_else(|error| Err(std::io::Error::other(error)));
    let (mut members, bytes, digest) = match read {
        Ok(read) => read,
        Err(error) => {
            checked.problems.push(format!("{place} cannot be read to its end: {error}"));
            return Ok(());
        }
    };
    (checked.files, checked.bytes) = (checked.files + members.len() as u64, checked.bytes + bytes);
    if digest != archive.sha256 || bytes != archive.bytes {
        checked.problems.push(format!("{place} is not what was committed"));
    }
    for file in files {
        match members.remove(&file.path) {
            Some(digest) if digest == file.sha256 => {}
            Some(_) => checked.problems.push(format!("{place}: {} is not what was committed", file.path)),
            None => checked.problems.push(format!("{place}: {} is not in it", file.path)),
        }
    }
    checked.problems.extend(members.keys().map(|path| format!("{place}: {path} belongs to no outcome")));
    Ok(())
}

/// The members of a tar by path, its length and its digest. Blocking.
fn members(reader: impl Read) -> std::io::Result<(BTreeMap<String, Sha256Hex>, u64, Sha256Hex)> {
    let mut archive = tar::Archive::new(Hashing { inner: reader, digest: Sha256::new(), bytes: 0 });
    let mut members = BTreeMap::new();
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = entry.path()?.to_string_lossy().into_owned();
        let mut digest = Sha256::new();
        std::io::copy(&mut entry, &mut digest)?;
        if members.insert(path.clone(), Sha256Hex::from_digest(digest.finalize().into())).is_some() {
            return Err(std::io::Error::other(format!("{path} is in it twice")));
        }
    }
    let mut rest = archive.into_inner();
    std::io::copy(&mut rest, &mut std::io::sink())?;
    Ok((members, rest.bytes, Sha256Hex::from_digest(rest.digest.finalize().into())))
}

struct Hashing<R> {
    inner: R,
    digest: Sha256,
    bytes: u64,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.digest.update(&buffer[..read]);
        self.bytes += read as u64;
        Ok(read)
    }
}

async fn digest(what: &str, reader: ObjectReader) -> Result<(u64, Sha256Hex), CoordinatorError> {
    let mut hashing = Hashing { inner: SyncIoBridge::new(reader.body), digest: Sha256::new(), bytes: 0 };
    let read = tokio::task::spawn_blocking(move || {
        std::io::copy(&mut hashing, &mut std::io::sink())?;
        Ok((hashing.bytes, Sha256Hex::from_digest(hashing.digest.finalize().into())))
    });
    let read = read.await.unwrap_or_else(|error| Err(std::io::Error::other(error)));
    Ok(read.map_err(|error| ObjectError::broken_off(what, &error))?)
}
