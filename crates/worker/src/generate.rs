//! The pictures of a shard: its groups go through the device, and what comes of them is stored. In the usual way, the next
//! group is being decoded and the last one stored while the device runs one; a suspected shard goes task by task.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use diorama_core::generator::Job;
use diorama_core::run::RunSpec;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument;

use crate::context::Context;
use crate::ending::{Ending, Interrupt};
use crate::error::{WorkerError, flatten};
use crate::group::{Finished, Later, Loaded, Place, Submitted, finish, load};
use crate::journal::{Journal, Note};
use crate::made::Made;
use crate::plan::{Keys, batches};
use crate::work::Work;

/// Groups whose pictures may wait to be encoded and stored while the device goes on; then the device waits.
const STORING: usize = 3;

/// Batches in a group of a run that makes pictures again: those that are not accepted share batches then.
const TRIED_TOGETHER: usize = 4;

/// Tasks in a group, whose pictures are in memory together.
pub(crate) fn group_size(spec: &RunSpec, batch_size: usize) -> usize {
    if spec.tries() > 0 { batch_size * TRIED_TOGETHER } else { batch_size }
}

/// Groups that the device has had or will have, in order.
type Storing = VecDeque<AbortOnDropHandle<Result<Finished, WorkerError>>>;

/// Makes the pictures of one shard.
pub(crate) struct Generation<'a> {
    pub(crate) context: &'a Arc<Context>,
    pub(crate) work: &'a Arc<Work>,
    pub(crate) keys: &'a Keys,
    /// What comes of it, also where it is interrupted.
    pub(crate) made: &'a mut Made,
}

impl Generation<'_> {
    /// The usual way. Interrupted in good order, it waits for what the device has: that counts.
    pub(crate) async fn overlapped(mut self, groups: Vec<Vec<usize>>) -> Result<(), Interrupt> {
        let mut storing = Storing::new();
        let mut result = self.feed(groups, &mut storing).await;
        if matches!(result, Err(Interrupt::Broken(_) | Interrupt::Ended(Ending::Decided | Ending::DeadLettered))) {
            return result;
        }
        for finished in storing {
            match flatten(finished.await) {
                Ok(finished) => result = result.and(self.add(finished)),
                Err(error) => result = result.and(Err(error.into())),
            }
        }
        result
    }

    async fn feed(&mut self, groups: Vec<Vec<usize>>, storing: &mut Storing) -> Result<(), Interrupt> {
        let (sender, mut loaded) = mpsc::channel(1);
        let wanted = groups.len();
        let work = self.work.clone();
        let loader = async move {
            for group in groups {
                if sender.send(load(&work, group).await).await.is_err() {
                    return;
                }
            }
        };
        let _loader = AbortOnDropHandle::new(tokio::spawn(loader.in_current_span()));
        let _turn = tokio::select! {
            biased;
            () = self.context.stopping.cancelled() => return Err(Interrupt::Ended(Ending::HandedBack)),
            turn = self.context.turn.acquire() => turn,
        };
        // Groups that are made again are larger.
        let waiting = if self.work.spec.tries() > 0 { 1 } else { STORING };
        // Counted, so that a drain that comes when all of them are under way does not wait for another one.
        for _ in 0..wanted {
            let Some(group) = self.context.unless_stopping(loaded.recv()).await? else { break };
            // Asked when the device can take it: what was wanted before the wait may not be wanted now.
            self.context.unless_stopping(self.context.device.room()).await??;
            self.may_go_on().await?;
            let submitted = self.submit(group?).await?;
            let finish = finish(self.context.clone(), self.work.clone(), submitted);
            storing.push_back(AbortOnDropHandle::new(tokio::spawn(finish.in_current_span())));
            while storing.len() > waiting
                && let Some(first) = storing.pop_front()
            {
                self.add(flatten(first.await)?)?;
            }
        }
        Ok(())
    }

    /// The careful way: nothing else runs on this worker, and the journal says which task does.
    pub(crate) async fn one_by_one(mut self, order: Vec<usize>, journal: &mut Journal) -> Result<(), Interrupt> {
        for position in order {
            self.may_go_on().await?;
            journal.note(&self.work.store, Note::Running(self.work.tasks[position].index)).await?;
            let loaded = self.context.unless_stopping(load(self.work, vec![position])).await??;
            let submitted = self.submit(loaded).await?;
            self.add(finish(self.context.clone(), self.work.clone(), submitted).await?)?;
        }
        journal.note(&self.work.store, Note::Idle).await?;
        Ok(())
    }

    async fn may_go_on(&self) -> Result<(), Interrupt> {
        let Work { store, spec, id, .. } = &**self.work;
        self.context.may_go_on(store, &spec.run, *id, self.made.begun).await.map(drop)
    }

    /// Adds what came of a group; where that was interrupted, of some of its tasks.
    fn add(&mut self, mut finished: Finished) -> Result<(), Interrupt> {
        self.context.pulse.worked(finished.device_seconds);
        self.context.measure(|metrics| metrics.device(finished.device_seconds));
        let interrupt = finished.interrupt.take();
        self.made.add(finished);
        interrupt.map_or(Ok(()), Err)
    }

    /// Gives a group to the device: its tasks, then their comparisons, which wait where tasks may be made again. Waits while the device has enough. A group that has
    /// begun is submitted as a whole: half of it would be lost.
    async fn submit(&mut self, loaded: Loaded) -> Result<Submitted, Interrupt> {
        let (work, device) = (self.work, &self.context.device);
        let mut submitted = Submitted {
            positions: loaded.iter().map(|(position, _)| *position).collect(),
            regions: BTreeMap::new(),
            refused: Vec::new(),
            batches: Vec::new(),
            later: Later::default(),
        };
        // Given to the device, which lets go of them: a picture brings along what was used of its reference.
        let mut references = BTreeMap::new();
        for (position, place) in loaded {
            match place {
                Ok(Place { reference, region }) => {
                    references.insert(position, reference);
                    submitted.regions.extend(region.map(|region| (position, region)));
                }
                Err(error) => submitted.refused.push((position, error)),
            }
        }
        let positions: Vec<usize> = references.keys().copied().collect();
        for variant in 0..=work.spec.compare.len() {
            for batch in batches(self.keys, &positions, variant) {
                let job = |position: &usize| Job {
                    task: work.variants[*position][variant].clone(),
                    reference: references[position].clone(),
                };
                if variant > 0 && work.spec.accept.is_some() {
                    submitted.later.comparisons.push((variant, batch));
                    continue;
                }
                let jobs = batch.iter().map(job).collect();
                let has_begun = !submitted.batches.is_empty();
                let pending = tokio::select! {
                    biased;
                    () = self.context.stopping.cancelled(), if !has_begun => {
                        return Err(Interrupt::Ended(Ending::HandedBack));
                    }
                    pending = device.submit(jobs) => pending?,
                };
                self.made.begun = true;
                submitted.batches.push((variant, batch, pending));
            }
        }
        if work.spec.accept.is_some() {
            submitted.later.references = references;
        }
        Ok(submitted)
    }
}
