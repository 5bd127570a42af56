//! What must hold of a history: of everything that was written, in the order in which it was; of the answers that clients
//! got; of the counts, whenever asked; of the time that goes by while there is work; and of the end.
//!
//! Folds the log of writes, so that nothing is looked at twice and nothing that was there in between is missed.

mod answers;
mod blame;
mod liveness;
mod record;
mod rest;

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use diorama_core::id::{RunId, Sha256Hex};
use diorama_core::key::{BLOB_LISTS, RUNS, SharedKey, blob_of, run_of};
use diorama_core::outcome::FileRef;
use diorama_protocol::history::History;

pub(crate) use self::answers::Asked;
use self::liveness::Calm;
use self::record::Record;
use crate::world::{World, Write};

/// Everything that was seen so far.
#[derive(Default)]
pub(crate) struct Checker {
    /// The objects, as far as the writes were seen.
    objects: BTreeMap<String, Bytes>,
    runs: BTreeMap<RunId, Record>,
    /// When each run was put on the list of those that the leading coordinator takes up, and whether it was calm then.
    handed_over: BTreeMap<RunId, (Duration, bool)>,
    calm: Calm,
}

/// What is broken, in words.
pub(crate) type Broken = String;

impl Checker {
    /// Looks at what happened since the last time.
    pub(crate) fn look(&mut self, world: &World) -> Result<(), Broken> {
        for write in world.writes() {
            let key = write.key.clone();
            self.fold(world, write).map_err(|broken| format!("{key}: {broken}"))?;
        }
        for (run, record) in &self.runs {
            record.counts_follow_from_bits(world).map_err(|broken| format!("{run}: {broken}"))?;
        }
        self.time_goes_by(world)
    }

    /// The runs that were submitted and are not deleted.
    pub(crate) fn living(&self) -> impl Iterator<Item = (&RunId, &History)> {
        let living = |record: &Record| record.history.is_submitted();
        self.runs.iter().filter(move |(_, record)| living(record)).map(|(run, record)| (run, &record.history))
    }

    /// Somebody asks for the run's deletion.
    pub(crate) fn asks_for_deletion(&mut self, run: &RunId) {
        self.runs.entry(run.clone()).or_default().may_be_deleted = true;
    }

    fn fold(&mut self, world: &World, write: Write) -> Result<(), Broken> {
        let Write { at, key, bytes } = write;
        let before = self.objects.get(&key).cloned();
        match &bytes {
            Some(bytes) => {
                if is_written_once(&key) && before.as_ref().is_some_and(|before| before != bytes) {
                    return Err("it was rewritten".to_owned());
                }
                self.objects.insert(key.clone(), bytes.clone());
            }
            None => drop(self.objects.remove(&key)),
        }
        if let Some(run) = key.strip_prefix(SharedKey::SUBMITTED).and_then(|run| RunId::new(run).ok()) {
            let is_live = self.runs.get(&run).is_some_and(|record| record.history.is_submitted());
            return if bytes.is_none() && is_live { Err("a run vanished from the index".to_owned()) } else { Ok(()) };
        }
        if let Some(run) = key.strip_prefix(SharedKey::ACTIVE).and_then(|run| RunId::new(run).ok()) {
            match bytes {
                Some(_) => self.handed_over.insert(run, (at, self.calm_since() <= at)),
                None => self.handed_over.remove(&run),
            };
            return Ok(());
        }
        if let Some(blob) = blob_of(&key).filter(|_| bytes.is_none()) {
            return self.nobody_names(&blob);
        }
        let Some(run) = run_of(&key) else { return Ok(()) };
        let relative = key.strip_prefix(&format!("runs/{run}/")).unwrap_or_default();
        let record = self.runs.entry(run.clone()).or_default();
        let seen = Seen { at, run: &run, objects: &self.objects, world };
        match bytes {
            Some(_) if before.is_some() => Ok(()),
            Some(bytes) => record.written(relative, &bytes, &seen),
            None => record.removed(relative),
        }
    }
}

impl Checker {
    /// No run that is there names the reference.
    fn nobody_names(&self, blob: &Sha256Hex) -> Result<(), Broken> {
        for (run, _) in self.living() {
            let prefix = format!("runs/{run}/{BLOB_LISTS}");
            let mut lists = self.objects.range(prefix.clone()..).take_while(|(key, _)| key.starts_with(&prefix));
            if lists.any(|(_, list)| list.split(|byte| *byte == b'\n').any(|line| line == blob.as_str().as_bytes())) {
                return Err(format!("{run} names it, and it was removed"));
            }
        }
        Ok(())
    }
}

/// What a record may look at besides itself.
struct Seen<'a> {
    world: &'a World,
    at: Duration,
    run: &'a RunId,
    objects: &'a BTreeMap<String, Bytes>,
}

impl Seen<'_> {
    fn object(&self, relative: &str) -> Option<&Bytes> {
        self.objects.get(&format!("runs/{}/{relative}", self.run))
    }

    fn is_there(&self, file: &FileRef) -> bool {
        self.object(&file.path)
            .is_some_and(|bytes| bytes.len() as u64 == file.bytes && Sha256Hex::of(bytes) == file.sha256)
    }
}

/// Everything below a run, and the entries of idempotency keys.
fn is_written_once(key: &str) -> bool {
    key.starts_with(RUNS) || key.starts_with(SharedKey::IDEMPOTENCY)
}
