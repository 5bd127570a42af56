//! Which task of a shard is to blame for the deaths of workers. Pure.
//!
//! Nobody can tell from outside a process that died from one that stands still, and a machine that is taken away kills
//! whatever happens to run on it. So a task is blamed only for what happened while it ran alone, in the careful way of
//! suspected shards: for [`DEATHS`] deaths of processes that are proven dead while their machine lived on, or, where
//! nothing is proven, for [`SILENCES`] attempts that began it and were never heard of again. A task that an attempt
//! survived alone is innocent for good.
//!
//! # How often an innocent task is blamed
//! Let a machine be taken away without warning once an hour (λ = 1/3600 s⁻¹), a shard have 64 tasks, a task take t
//! seconds; nothing of it is ever proven, because the scratch folder goes with the machine, or comes back after another
//! boot. Then
//! - an attempt dies with p = 1 − exp(−64 λ t), and the shard is suspected after two of them: p²;
//! - a careful attempt dies in one given task with q = 1 − exp(−λ t), and commits with 1 − p. That the first of these
//!   happens before the other: q / (q + 1 − p);
//! - from then on that task runs first of all ([`order`]), so that each further attempt either dies in its own t seconds,
//!   with q, or survives it, which ends the matter. Three more in a row: q³.
//!
//! | t | p | q | p² · q / (q + 1 − p) · q³ |
//! |---|---|---|---|
//! | 10 s | 0.163 | 0.00277 | 1.9 · 10⁻¹² |
//! | 60 s | 0.656 | 0.0165 | 8.9 · 10⁻⁸ |
//!
//! Below 1 in 10⁷ for a task. A guilty task costs four, or seven, workers.

use std::collections::{BTreeMap, BTreeSet};

use diorama_core::id::TaskIndex;

/// Proven deaths after which the task that ran alone is to blame.
pub(crate) const DEATHS: u32 = 2;

/// Attempts that fell silent, proven dead or not, after which the task that ran alone is to blame; or the shard, where
/// a suspected one's never came as far as a task.
pub(crate) const SILENCES: u32 = 4;

/// What the journal says of one earlier attempt.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Trace {
    /// The tasks that it ran alone and survived.
    pub(crate) survived: Vec<TaskIndex>,
    /// The task that it ran alone when it was last heard of.
    pub(crate) last: Option<TaskIndex>,
    /// Its process is proven dead.
    pub(crate) is_dead: bool,
}

/// What speaks against a task.
#[derive(Debug, Clone, Copy, Default)]
struct Suspicion {
    deaths: u32,
    silences: u32,
}

fn suspicions(traces: &[Trace]) -> BTreeMap<TaskIndex, Suspicion> {
    let mut suspicions: BTreeMap<TaskIndex, Suspicion> = BTreeMap::new();
    for trace in traces {
        let Some(task) = trace.last else { continue };
        let suspicion = suspicions.entry(task).or_default();
        suspicion.silences += 1;
        suspicion.deaths += u32::from(trace.is_dead);
    }
    for survived in traces.iter().flat_map(|trace| &trace.survived) {
        suspicions.remove(survived);
    }
    suspicions
}

/// The tasks that are to blame.
pub(crate) fn poisoned(traces: &[Trace]) -> BTreeSet<TaskIndex> {
    let to_blame = |suspicion: &Suspicion| suspicion.deaths >= DEATHS || suspicion.silences >= SILENCES;
    suspicions(traces).into_iter().filter(|(_, suspicion)| to_blame(suspicion)).map(|(task, _)| task).collect()
}

/// The order in which a suspected shard runs: the most suspected tasks first, so that an innocent one is soon cleared.
pub(crate) fn order<T>(positions: &mut [T], traces: &[Trace], task: impl Fn(&T) -> TaskIndex) {
    let suspicions = suspicions(traces);
    positions.sort_by_key(|position| {
        let task = task(position);
        (std::cmp::Reverse(suspicions.get(&task).map_or(0, |suspicion| suspicion.silences)), task)
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trace(last: u64, is_dead: bool) -> Trace {
        Trace { survived: Vec::new(), last: Some(TaskIndex(last)), is_dead }
    }

    fn blamed(traces: &[Trace]) -> Vec<u64> {
        poisoned(traces).into_iter().map(|task| task.0).collect()
    }

    #[test]
    fn two_proven_deaths_of_the_same_task_alone_blame_it_and_one_does_not() {
        assert!(blamed(&[trace(1, true), trace(2, true)]).is_empty());
        assert_eq!(blamed(&[trace(1, true), trace(2, true), trace(1, true)]), [1]);
    }

    #[test]
    fn three_silences_blame_nobody_and_the_fourth_does() {
        // Frozen three times: as likely an innocent task.
        let mut traces = vec![trace(1, false), trace(1, true), trace(1, false)];
        assert!(blamed(&traces).is_empty());
        traces.push(trace(1, false));
        assert_eq!(blamed(&traces), [1]);
    }

    #[test]
    fn deaths_without_a_task_that_ran_alone_blame_nobody() {
        let started = Trace { is_dead: true, ..Trace::default() };
        assert!(blamed(&vec![started; 10]).is_empty());
    }

    #[test]
    fn a_task_that_an_attempt_survived_alone_is_innocent() {
        let mut traces = vec![trace(1, true); 5];
        traces[3].survived = vec![TaskIndex(1)];
        traces[3].last = Some(TaskIndex(2));
        assert!(blamed(&traces).is_empty());
    }

    #[test]
    fn the_most_suspected_task_runs_first() {
        let mut positions = [0_u64, 1, 2, 3];
        order(&mut positions, &[trace(3, false), trace(1, false), trace(3, false)], |position| TaskIndex(*position));
        assert_eq!(positions, [3, 1, 0, 2]);
    }

    #[test]
    fn an_innocent_task_is_blamed_less_than_once_in_ten_million_at_a_hard_preemption_an_hour() {
        let blamed = |seconds: f64| {
            let dies_within = |seconds: f64| 1.0 - (-seconds / 3600.0).exp();
            let (p, q) = (dies_within(64.0 * seconds), dies_within(seconds));
            p.powi(2) * q / (q + 1.0 - p) * q.powi(SILENCES as i32 - 1)
        };
        for seconds in [10.0, 60.0] {
            assert!(blamed(seconds) < 1e-7, "{seconds} s a task: {:e}", blamed(seconds));
        }
    }
}
