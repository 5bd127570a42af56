//! What a shard's tasks came to so far: made by this attempt, or kept by earlier ones that handed the shard back.

use std::collections::{BTreeMap, BTreeSet};

use diorama_core::marker::{ArchiveRef, Part};
use diorama_core::outcome::{ErrorCode, Outcome, TaskError, TaskOutcome};
use diorama_core::task::Task;

use crate::group::{Finished, Kept, TaskEnd};
use crate::work::Work;

/// The ends of a shard's tasks.
#[derive(Default)]
pub(crate) struct Made {
    /// A batch was given to the device.
    pub(crate) begun: bool,
    /// By position.
    ends: BTreeMap<usize, TaskEnd>,
    /// Positions whose pictures earlier attempts made.
    inherited: BTreeSet<usize>,
    /// Archives of earlier attempts.
    archives: Vec<ArchiveRef>,
    /// Seconds that the model ran in earlier attempts, for what they kept.
    inherited_seconds: f64,
    /// Seconds that it ran in this one.
    device_seconds: f64,
}

impl Made {
    /// Takes over what an earlier attempt kept, where it was made as this one would make it. Whether anything was.
    ///
    /// An archive is taken as a whole or not at all: two attempts that went on side by side may both have made a picture,
    /// and what an archive of a marker holds belongs to outcomes.
    pub(crate) fn inherit(&mut self, part: Part, work: &Work) -> bool {
        let fits = part.version == 1
            && part.shard == work.id
            && part.run == work.spec.run
            && part.model == work.model
            && part.settings == work.settings;
        if !fits {
            return false;
        }
        let position_of = |outcome: &TaskOutcome| {
            let is_it = |task: &Task| {
                (task.index, &task.custom_id) == (outcome.task, &outcome.custom_id)
                    && work.spec.may_use(task, outcome.seed)
            };
            work.tasks.iter().position(is_it)
        };
        let kept: Vec<TaskOutcome> = part.outcomes.into_iter().filter(|outcome| outcome.outcome.is_done()).collect();
        let new = |outcome: &TaskOutcome| position_of(outcome).filter(|position| !self.has(*position));
        let positions: Vec<Option<usize>> = kept.iter().map(new).collect();
        if part.archive.is_some() && positions.contains(&None) {
            return false;
        }
        let mut taken = false;
        for (outcome, position) in kept.into_iter().zip(positions) {
            let Some(position) = position else { continue };
            self.ends.insert(position, Ok(Kept { seed: outcome.seed, outcome: outcome.outcome }));
            self.inherited.insert(position);
            taken = true;
        }
        if taken {
            self.archives.extend(part.archive);
            self.inherited_seconds += part.device_seconds;
        }
        taken
    }

    /// Adds a task that fails without being tried.
    pub(crate) fn refuse(&mut self, position: usize, error: TaskError) {
        self.ends.insert(position, Err(error));
    }

    /// Adds a group that is done.
    pub(crate) fn add(&mut self, finished: Finished) {
        self.ends.extend(finished.ends);
        self.device_seconds += finished.device_seconds;
    }

    /// Whether the task at this position has its end.
    pub(crate) fn has(&self, position: usize) -> bool {
        self.ends.contains_key(&position)
    }

    /// The positions that have their end.
    pub(crate) fn positions(&self) -> impl Iterator<Item = usize> + '_ {
        self.ends.keys().copied()
    }

    /// Tasks with a picture, and tasks that failed.
    pub(crate) fn counts(&self) -> (u64, u64) {
        let done = self.ends.values().filter(|end| end.is_ok()).count();
        (done as u64, (self.ends.len() - done) as u64)
    }

    /// Whether this attempt made any picture itself.
    pub(crate) fn has_own(&self) -> bool {
        self.own().next().is_some()
    }

    /// The positions and outcomes of this attempt's own pictures.
    fn own(&self) -> impl Iterator<Item = (usize, &Kept)> + '_ {
        let own = self.ends.iter().filter(|(position, _)| !self.inherited.contains(position));
        own.filter_map(|(position, end)| Some((*position, end.as_ref().ok()?)))
    }

    /// What this attempt keeps of its own for whoever goes on.
    pub(crate) fn part(&self, work: &Work, archive: Option<ArchiveRef>) -> Part {
        let outcome = |(position, kept): (usize, &Kept)| of_task(&work.tasks[position], Ok(kept.clone()));
        Part {
            version: 1,
            run: work.spec.run.clone(),
            shard: work.id,
            attempt: work.attempt.clone(),
            model: work.model.clone(),
            settings: work.settings.clone(),
            archive,
            outcomes: self.own().map(outcome).collect(),
            device_seconds: self.device_seconds,
        }
    }

    /// The paths of this attempt's own files.
    pub(crate) fn own_files(&self) -> Vec<&str> {
        let files = self.own().filter_map(|(_, kept)| match &kept.outcome {
            Outcome::Done { files, .. } => Some(files.values().map(|file| file.path.as_str())),
            Outcome::Failed(_) => None,
        });
        files.flatten().collect()
    }

    /// One outcome a task, in the shard's order.
    pub(crate) fn outcomes(&self, work: &Work) -> Vec<TaskOutcome> {
        let lost = || TaskError::transient(ErrorCode::ModelError, "the worker lost track of this task");
        let outcome = |(position, task): (usize, &Task)| {
            let end = self.ends.get(&position).cloned().unwrap_or_else(|| Err(lost()));
            of_task(task, end)
        };
        work.tasks.iter().enumerate().map(outcome).collect()
    }

    /// Every archive that holds pictures of the shard; `own` is this attempt's.
    pub(crate) fn archives(&self, own: Option<ArchiveRef>) -> Vec<ArchiveRef> {
        self.archives.iter().cloned().chain(own).collect()
    }

    /// Seconds that the model ran for the shard.
    pub(crate) fn device_seconds(&self) -> f64 {
        self.inherited_seconds + self.device_seconds
    }
}

fn of_task(task: &Task, end: TaskEnd) -> TaskOutcome {
    let Kept { seed, outcome } = end.unwrap_or_else(|error| Kept { seed: task.seed, outcome: Outcome::Failed(error) });
    TaskOutcome { task: task.index, custom_id: task.custom_id.clone(), seed, outcome, extra: task.extra.clone() }
}
