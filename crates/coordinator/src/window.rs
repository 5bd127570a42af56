//! What of a round is out: published and not committed. A hint, and pure: it reads and writes nothing.
//!
//! A shard that is out waits in the queue, or a worker holds it. One that does neither any more is to be published
//! again; publishing twice is harmless.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::time::Duration;

use diorama_core::id::AttemptId;
use diorama_core::shards::ShardSet;
use tokio::time::Instant;

/// After a worker let go of a shard without committing it, the shard is back in the queue, or its worker has seen a
/// pause: after this long it is published again.
const LET_GO: Duration = Duration::from_secs(5);

/// A shard that is out.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Out {
    /// Published then, which is its place in the queue; taken up by nobody since.
    Waiting(Instant),
    /// This attempt is at it.
    Held(AttemptId),
    /// It was held, and is not any more, since then.
    LetGo(Instant),
}

/// How far the queue of a pool is, as all of its runs see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Queued {
    /// Fewer messages wait than shards that were published and not taken up: some are lost.
    pub(crate) misses_some: bool,
    /// Everything that was published before this was taken up or is lost.
    pub(crate) taken_up: Option<Instant>,
}

/// What was published of a round.
#[derive(Debug, Clone)]
pub(crate) struct Window {
    /// The next shard to look at.
    cursor: u32,
    out: BTreeMap<u32, Out>,
}

impl Window {
    /// Nothing is out.
    pub(crate) fn new() -> Self {
        Self { cursor: 0, out: BTreeMap::new() }
    }

    /// Shards that are out.
    pub(crate) fn len(&self) -> usize {
        self.out.len()
    }

    /// From the first shard that is out to behind the last; `None` where nothing is out.
    pub(crate) fn range(&self) -> Option<Range<u32>> {
        let (first, last) = (self.out.first_key_value()?.0, self.out.last_key_value()?.0);
        Some(*first..*last + 1)
    }

    /// Shards that were published and that nobody has taken up.
    pub(crate) fn waiting(&self) -> usize {
        self.out.values().filter(|out| matches!(out, Out::Waiting(_))).count()
    }

    /// Whether anything may be left to publish.
    pub(crate) fn has_more(&self, shards: u32) -> bool {
        self.cursor < shards
    }

    /// Messages may have been taken out of the queue by workers that saw a pause: everything that nobody holds is looked
    /// at again. Where nobody knows who holds what (`holders_known` is false), workers that held one may have let it go.
    pub(crate) fn reset(&mut self, holders_known: bool, now: Instant) {
        self.cursor = 0;
        self.out.retain(|_, out| matches!(out, Out::Held(_)));
        if !holders_known {
            self.out.values_mut().for_each(|out| *out = Out::LetGo(now));
        }
    }

    /// Takes out what is committed by now, and notes who holds what. When the latest of the shards that were taken up
    /// since the last look had been published.
    pub(crate) fn look(
        &mut self,
        committed: &ShardSet,
        holders: Option<&HashMap<u32, AttemptId>>,
        now: Instant,
    ) -> Option<Instant> {
        let mut taken_up = None;
        self.out.retain(|index, out| {
            let done = committed.contains(*index);
            if let (true, Out::Waiting(at)) = (done, &out) {
                taken_up = taken_up.max(Some(*at));
            }
            !done
        });
        let Some(holders) = holders else { return taken_up };
        for (index, attempt) in holders.iter().filter(|(index, _)| !committed.contains(**index)) {
            // Whoever led before us published it.
            let before = self.out.insert(*index, Out::Held(attempt.clone()));
            if let Some(Out::Waiting(at)) = before {
                taken_up = taken_up.max(Some(at));
            }
        }
        for (index, out) in &mut self.out {
            if matches!(out, Out::Held(_)) && !holders.contains_key(index) {
                *out = Out::LetGo(now);
            }
        }
        taken_up
    }

    /// Up to `room` shards that are neither committed nor out; they count as published from now on.
    pub(crate) fn take(&mut self, room: usize, shards: u32, committed: &ShardSet, now: Instant) -> Vec<u32> {
        let mut taken = Vec::new();
        while taken.len() < room && self.cursor < shards {
            let index = self.cursor;
            self.cursor += 1;
            if !committed.contains(index) && !self.out.contains_key(&index) {
                self.out.insert(index, Out::Waiting(now));
                taken.push(index);
            }
        }
        taken
    }

    /// The shards that are to be published again; they count as published now. One that waits is lost where it is older
    /// than `patience` and the queue passed it over, or does not have it.
    pub(crate) fn take_lost(&mut self, queued: Queued, patience: Duration, now: Instant) -> Vec<u32> {
        let mut lost = Vec::new();
        for (index, out) in &mut self.out {
            let is_lost = match out {
                Out::Held(_) => false,
                Out::LetGo(since) => now.duration_since(*since) >= LET_GO.min(patience),
                Out::Waiting(at) => {
                    let passed = queued.misses_some || queued.taken_up.is_some_and(|later| later > *at);
                    passed && now.duration_since(*at) >= patience
                }
            };
            if is_lost {
                *out = Out::Waiting(now);
                lost.push(*index);
            }
        }
        lost
    }
}

/// For the model, which goes several ways from where it is.
#[cfg(test)]
impl Window {
    /// Whether the shard is out.
    pub(crate) fn has(&self, index: u32) -> bool {
        self.out.contains_key(&index)
    }

    /// When the first of the shards that wait was published.
    pub(crate) fn oldest(&self) -> Option<Instant> {
        let waiting = |out: &Out| if let Out::Waiting(at) = out { Some(*at) } else { None };
        self.out.values().filter_map(waiting).min()
    }

    /// All that tells this window from another one, whatever the time.
    pub(crate) fn hash(&self, now: Instant, hasher: &mut impl std::hash::Hasher) {
        use std::hash::Hash;
        self.cursor.hash(hasher);
        self.out.len().hash(hasher);
        for (index, out) in &self.out {
            index.hash(hasher);
            std::mem::discriminant(out).hash(hasher);
            match out {
                Out::Waiting(at) | Out::LetGo(at) => now.duration_since(*at).hash(hasher),
                Out::Held(attempt) => attempt.hash(hasher),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn held(indices: &[u32]) -> HashMap<u32, AttemptId> {
        indices.iter().map(|index| (*index, AttemptId::new("a").unwrap())).collect()
    }

    fn queued(misses_some: bool, taken_up: Option<Instant>) -> Queued {
        Queued { misses_some, taken_up }
    }

    #[tokio::test]
    async fn a_shard_is_published_once_until_it_is_lost() {
        let (mut window, now) = (Window::new(), Instant::now());
        let none = ShardSet::default();
        assert_eq!(window.take(2, 5, &none, now), [0, 1]);
        assert_eq!(window.take(1, 5, &none, now), [2]);
        let later = now + 60 * SECOND;
        assert_eq!(window.take_lost(queued(false, None), 8 * SECOND, later), [0; 0], "they wait for their turn");
        assert_eq!(window.take_lost(queued(true, None), 8 * SECOND, now + SECOND), [0; 0], "too early to say");
        assert_eq!(window.take_lost(queued(true, None), 8 * SECOND, later), [0, 1, 2]);
        assert_eq!(window.take_lost(queued(true, None), 8 * SECOND, later + SECOND), [0; 0]);
    }

    #[tokio::test]
    async fn what_was_published_later_and_is_taken_up_shows_that_the_earlier_is_lost() {
        let (mut window, now) = (Window::new(), Instant::now());
        let none = ShardSet::default();
        window.take(2, 9, &none, now);
        window.take(2, 9, &none, now + SECOND);
        let taken_up = window.look(&none, Some(&held(&[3])), now + 2 * SECOND);
        assert_eq!(taken_up, Some(now + SECOND));
        assert_eq!(window.take_lost(queued(false, taken_up), 8 * SECOND, now + 60 * SECOND), [0, 1]);
    }

    #[tokio::test]
    async fn what_was_let_go_is_published_again_soon_however_long_the_patience() {
        let (mut window, now) = (Window::new(), Instant::now());
        let none = ShardSet::default();
        window.take(2, 2, &none, now);
        window.look(&none, Some(&held(&[0, 1])), now + SECOND);
        window.look(&none, Some(&held(&[1])), now + 2 * SECOND);
        assert_eq!(window.take_lost(queued(false, None), 120 * SECOND, now + 3 * SECOND), [0; 0]);
        assert_eq!(window.take_lost(queued(false, None), 120 * SECOND, now + 8 * SECOND), [0]);
    }

    #[tokio::test]
    async fn a_reset_keeps_what_is_held_and_a_new_leader_adopts_it() {
        let (mut window, now) = (Window::new(), Instant::now());
        let committed: ShardSet = [1].into_iter().collect();
        window.look(&committed, Some(&held(&[0, 1])), now);
        assert_eq!(window.len(), 1, "held by somebody, and committed is committed");
        window.take(1, 4, &committed, now);
        window.reset(true, now);
        assert_eq!(window.take(9, 4, &committed, now), [2, 3]);
    }

    #[tokio::test]
    async fn what_was_held_when_nobody_could_say_so_any_more_is_published_again_after_a_pause() {
        let (mut window, now) = (Window::new(), Instant::now());
        let none = ShardSet::default();
        window.look(&none, Some(&held(&[0])), now);
        window.look(&none, None, now);
        window.reset(false, now);
        assert_eq!(window.take(9, 1, &none, now), [0; 0], "its worker may be at it still");
        assert_eq!(window.take_lost(queued(false, None), 120 * SECOND, now + 4 * SECOND), [0; 0]);
        assert_eq!(window.take_lost(queued(false, None), 120 * SECOND, now + 5 * SECOND), [0]);
    }
}
