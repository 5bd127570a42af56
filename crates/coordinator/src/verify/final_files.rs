//! The final files of an ended run against its markers.

use std::pin::Pin;

use diorama_backends::objects::{ObjectError, ObjectErrorKind};
use diorama_core::outcome::FileRef;
use diorama_core::run::{RunSpec, RunSummary};
use diorama_protocol::RunStore;
use diorama_protocol::decision::Ended;
use diorama_protocol::history::History;
use diorama_protocol::outcomes::Outcomes;
use diorama_protocol::results::{add_invalid, add_task, invalid_rows};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};

use super::Verification;
use crate::ending::Tally;
use crate::error::CoordinatorError;

/// An ended run all of whose markers are there: the final files say what the markers say.
pub(super) async fn check_final_files(
    store: &RunStore,
    spec: &RunSpec,
    history: &History,
    ended: &Ended,
    found: &mut Verification,
) -> Result<(), CoordinatorError> {
    let mut results = FinalFile::open(store, &ended.results).await?;
    let mut errors = FinalFile::open(store, &ended.errors).await?;
    let mut outcomes = Outcomes::new(store, spec, history).await?;
    let (mut next, mut tally, mut line) = (0, Tally::default(), Vec::new());
    while let Some(last) = outcomes.next().await? {
        let last = last.outcome;
        if last.task.0 != next {
            found.problem(format!(
                "task {next} was expected, but task {} follows: a task is lost or duplicated",
                last.task
            ));
        }
        next = last.task.0 + 1;
        tally.add(&last);
        line.clear();
        add_task(&mut line, &last);
        let file = if last.outcome.is_done() { &mut results } else { &mut errors };
        file.expect(&line).await?;
    }
    for issue in invalid_rows(store, history).await? {
        line.clear();
        add_invalid(&mut line, &issue);
        errors.expect(&line).await?;
    }
    (found.done, found.failed) = (tally.done, tally.failed);
    if found.done + found.failed != found.tasks {
        found.problem(format!("{} tasks have an outcome, {} were submitted", found.done + found.failed, found.tasks));
    }
    let (summary, last_round) = (&ended.summary, history.last_round().map_or(0, |round| round.round.0));
    let wanted = tally.summary(spec, summary.state, last_round, &outcomes.totals);
    for (said, wanted) in fields(summary).into_iter().zip(fields(&wanted)).filter(|(said, wanted)| said != wanted) {
        found.problem(format!("the summary says {} {}, the markers say {}", said.0, said.1, wanted.1));
    }
    for file in [results, errors] {
        if let Some(problem) = file.end().await? {
            found.problem(problem);
        }
    }
    Ok(())
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
    key: String,
    /// `None` where it is gone.
    body: Option<BufReader<Pin<Box<dyn AsyncRead + Send>>>>,
    /// Lines that it should have had so far.
    lines: u64,
    /// Whether all of them were as they should be.
    fine: bool,
    read: Vec<u8>,
}

impl FinalFile {
    async fn open(store: &RunStore, file: &FileRef) -> Result<Self, CoordinatorError> {
        let key = file.path.clone();
        let body = match store.objects().open(&store.relative(&key)).await {
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
            Err(error) => return Err(ObjectError::broken_off(self.key.as_str(), &error).into()),
        };
        Ok(())
    }

    /// What is wrong with it.
    async fn end(self) -> Result<Option<String>, CoordinatorError> {
        let Self { key, body, lines, fine, .. } = self;
        let Some(mut body) = body else { return Ok(Some(format!("{key} is gone"))) };
        if !fine {
            return Ok(Some(format!("{key}: line {lines} does not match the markers")));
        }
        let more = body.fill_buf().await.map_err(|error| ObjectError::broken_off(key.as_str(), &error))?;
        let more = !more.is_empty();
        Ok(more.then(|| format!("{key} continues after line {lines}, the last one according to the markers")))
    }
}
