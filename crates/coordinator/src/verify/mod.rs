//! Proves that a run is whole: every task has exactly one outcome, every file and archive has its digest, the counters
//! agree with the markers, and nothing lies about that no marker names.
//!
//! Reads everything, a few shards at a time, and changes nothing unless it is told to repair.

mod final_files;
mod orphans;
mod shards;

use diorama_backends::progress::Counts;
use diorama_core::message::ShardMessage;
use diorama_core::run::RunSpec;
use diorama_protocol::count::{counts_of, counts_of_void};
use diorama_protocol::history::History;
use diorama_protocol::{Backends, RunStore};
use futures::{StreamExt, stream};
use serde::Serialize;

use self::final_files::check_final_files;
use self::orphans::orphans;
use self::shards::{Wanted, check_shard};
use crate::ending::Named;
use crate::error::CoordinatorError;
use crate::gc::Grace;
use crate::reconcile::rebuild;

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
    /// Archives and files that no marker names, those of attempts in a run that has not ended among them; journals of a
    /// run that has.
    pub orphans: u64,
    /// Everything that is wrong, at most 1000.
    pub problems: Vec<String>,
    /// All of them.
    pub problem_count: u64,
    pub repaired: Vec<String>,
    /// What could not be checked, and why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub skipped: Vec<String>,
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

/// Verifies the run in `store`, as its log says that it is; with `repair`, publishes what is missing again, rebuilds the
/// counters where they are wrong, and removes what attempts left behind in rounds that are decided and is older than that
/// grace time, where nothing else is wrong: in a damaged run, that may be all that is left. Whatever happens to the run
/// meanwhile, nothing that counts is removed: a retry makes a round of its own.
pub async fn verify(
    backends: &Backends,
    store: &RunStore,
    spec: &RunSpec,
    history: &History,
    repair: Option<Grace>,
) -> Result<Verification, CoordinatorError> {
    let ended = history.ended();
    let mut found = Verification { tasks: spec.tasks, ended: ended.is_some(), ..Verification::default() };
    let rounds = history.rounds();
    if rounds.is_empty() {
        found.problem("the run is not fully submitted: submit it again".to_owned());
        return Ok(found);
    }
    let in_rounds: u64 = rounds[0].tasks;
    if in_rounds != spec.tasks {
        found.problem(format!("the spec has {} tasks, round 0 has {in_rounds}", spec.tasks));
    }

    let voids = store.voids(history).await?;
    let (mut counts, mut named, mut missing, mut unreadable) = (Counts::default(), Named::default(), Vec::new(), false);
    for round in rounds {
        let void = voids.iter().find(|void| void.round == round.round).map(|void| &void.shards);
        let wanted = Wanted { spec, inputs: &round.inputs, model: history.model() };
        let is_void = |index| void.is_some_and(|void| void.contains(index));
        let shards = round.shard_ids().filter(|shard| !is_void(shard.index));
        for index in round.shard_ids().map(|shard| shard.index).filter(|index| is_void(*index)) {
            counts = counts.plus(counts_of_void(round, index, spec.shard_size));
            found.shards += 1;
        }
        let check = |shard| check_shard(store, wanted, shard);
        let mut checked = stream::iter(shards).map(check).buffered(AT_ONCE);
        while let Some(checked) = checked.next().await {
            let checked = checked?;
            found.shards += 1;
            (found.files, found.bytes) = (found.files + checked.files, found.bytes + checked.bytes);
            checked.problems.into_iter().for_each(|problem| found.problem(problem));
            unreadable |= checked.unreadable;
            match checked.marker {
                Some(marker) => {
                    counts = counts.plus(counts_of(&marker, round.last_round(&spec.retry)));
                    marker.outcomes.iter().for_each(|outcome| named.add(outcome));
                }
                None if checked.unreadable => {}
                None => missing.push(checked.shard),
            }
        }
    }
    found.uncommitted = missing.len() as u64;
    match ended {
        Some(ended) => {
            for shard in &missing {
                found.problem(format!("shard {shard}: the run has ended and its commit marker is gone"));
            }
            if missing.is_empty() && !unreadable {
                check_final_files(store, spec, history, ended, &mut found).await?;
            }
        }
        None => {
            found.done = counts.done;
            found.failed = rounds.last().map_or(0, |round| round.failed(counts.failed));
        }
    }
    // Without one of the markers there is nothing to rebuild them from.
    if !unreadable {
        counters(backends, store, spec, history, counts, repair.is_some(), &mut found).await?;
    }
    if repair.is_some() && history.wants_work() {
        let under_way = missing.iter().filter(|shard| history.is_under_way(**shard));
        let mut published = 0;
        for shard in under_way {
            let message = ShardMessage { run: spec.run.clone(), shard: *shard };
            backends.queue.publish(&spec.pool, &message).await?;
            published += 1;
        }
        if published > 0 {
            found.repaired.push(match published {
                1 => "1 shard without a marker was published again".to_owned(),
                _ => format!("{published} shards without a marker were published again"),
            });
        }
    }
    let remove = repair.filter(|_| ended.is_some() && found.is_clean());
    orphans(store, history, &named, remove, &mut found).await?;
    Ok(found)
}

/// The counters must be those of the markers. Workers of a run that has not ended may commit while we read, so more
/// counted than read is no fault then; an ended run is forgotten after some days.
async fn counters(
    backends: &Backends,
    store: &RunStore,
    spec: &RunSpec,
    history: &History,
    counts: Counts,
    repair: bool,
    found: &mut Verification,
) -> Result<(), CoordinatorError> {
    let counted = match backends.progress.counted(&spec.run).await {
        Ok(counted) => counted,
        // Nothing of it is the truth; what there is to check is in the store.
        Err(error) => {
            found.skipped.push(format!("the counters were not checked: {error}"));
            return Ok(());
        }
    };
    let said = counted.counts;
    // What was lost and is not rebuilt claims nothing. Of a run that goes on, more may be counted than was read.
    let excused = !counted.complete || (!found.ended && said.shards > counts.shards);
    let forgotten = found.ended && said == Counts::default();
    if said == counts || forgotten || (excused && !repair) {
        return Ok(());
    }
    if repair {
        match rebuild(backends, store, spec, history).await {
            Ok(now) => found.repaired.push(format!("the counters were rebuilt: {said:?} became {now:?}")),
            Err(error) => found.skipped.push(format!("the counters were not rebuilt: {error}")),
        }
    } else {
        found.problem(format!("the counters say {said:?}, the markers {counts:?}; --repair rebuilds them"));
    }
    Ok(())
}
