//! Which rows a sample is made of.

use std::collections::BTreeSet;

use diorama_core::id::Seed;

/// Shards that a sample is cut into, where it has rows enough: the spread between them is the estimate's uncertainty.
const SHARDS: u64 = 8;

/// The places of the sampled rows in the manifest, ascending, from 0.
#[derive(Debug, Clone, PartialEq)]
pub(in super::super) struct Sample(BTreeSet<u64>);

impl Sample {
    /// Draws `count` of `tasks` rows, each set of rows as likely as any other (Floyd's algorithm); all of them where there
    /// are no more. The same seed draws the same rows.
    pub(in super::super) fn draw(tasks: u64, count: u64, seed: Seed) -> Self {
        let mut random = fastrand::Rng::with_seed(seed.get());
        let mut drawn = BTreeSet::new();
        for last in tasks.saturating_sub(count)..tasks {
            let at = random.u64(..=last);
            drawn.insert(if drawn.contains(&at) { last } else { at });
        }
        Self(drawn)
    }

    /// Whether the row is one of them.
    pub(in super::super) fn has(&self, at: u64) -> bool {
        self.0.contains(&at)
    }

    /// How many they are.
    pub(in super::super) fn len(&self) -> u64 {
        self.0.len() as u64
    }
}

/// Tasks a shard of a sample of `count` rows, of a run whose shards have `of_the_run`.
pub(in super::super) fn shard_size(count: u64, of_the_run: u32) -> u32 {
    u32::try_from(count.div_ceil(SHARDS)).unwrap_or(of_the_run).clamp(1, of_the_run.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seed(number: i64) -> Seed {
        Seed::new(number.unsigned_abs()).unwrap()
    }

    #[test]
    fn a_sample_has_as_many_rows_as_were_asked_for_and_follows_from_the_seed() {
        for (tasks, count, wanted) in [(1000, 40, 40), (40, 40, 40), (7, 40, 7), (1, 1, 1)] {
            let sample = Sample::draw(tasks, count, seed(3));
            assert_eq!(sample.len(), wanted);
            assert!(sample.0.iter().all(|at| *at < tasks), "{sample:?}");
            assert_eq!(sample, Sample::draw(tasks, count, seed(3)));
        }
        assert_ne!(Sample::draw(1000, 40, seed(3)), Sample::draw(1000, 40, seed(4)));
    }

    #[test]
    fn every_row_is_as_likely_as_any_other() {
        let mut drawn = [0u32; 10];
        for number in 0..4000 {
            let sample = Sample::draw(10, 3, seed(number));
            (0..10).filter(|at| sample.has(*at)).for_each(|at| drawn[at as usize] += 1);
        }
        // 1,200 each are expected, give or take 29 (one standard deviation).
        assert!(drawn.iter().all(|count| (1080..1320).contains(count)), "{drawn:?}");
    }

    #[test]
    fn a_sample_is_cut_into_about_eight_shards_none_larger_than_the_runs() {
        let cut = |count, of_the_run| shard_size(count, of_the_run);
        assert_eq!((cut(40, 64), cut(3, 64), cut(10_000, 64), cut(40, 2)), (5, 1, 64, 2));
    }
}
