//! Lines of a manifest, in order: few ranges, however many lines.

/// Lines, as ranges that do not touch each other.
#[derive(Debug, Clone, Default)]
pub(crate) struct Lines(Vec<(u64, u64)>);

impl Lines {
    /// Adds a line that comes after all others.
    pub(crate) fn push(&mut self, line: u64) {
        match self.0.last_mut() {
            Some((_, last)) if line <= *last => {}
            Some((_, last)) if line == *last + 1 => *last = line,
            _ => self.0.push((line, line)),
        }
    }

    /// Adds lines in any order.
    pub(crate) fn extend(&mut self, lines: impl IntoIterator<Item = u64>) {
        let mut all = std::mem::take(&mut self.0);
        all.extend(lines.into_iter().map(|line| (line, line)));
        all.sort_unstable();
        for (first, last) in all {
            match self.0.last_mut() {
                Some((_, end)) if first <= *end + 1 => *end = last.max(*end),
                _ => self.0.push((first, last)),
            }
        }
    }

    pub(crate) fn contains(&self, line: u64) -> bool {
        let after = self.0.partition_point(|(first, _)| *first <= line);
        after.checked_sub(1).is_some_and(|at| line <= self.0[at].1)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn ranges_hold_the_lines_that_were_added_and_no_others(
            first in prop::collection::btree_set(0u64..60, 0..40),
            more in prop::collection::vec(0u64..60, 0..20),
        ) {
            let mut lines = Lines::default();
            first.iter().for_each(|line| lines.push(*line));
            lines.extend(more.iter().copied());
            let wanted: BTreeSet<u64> = first.into_iter().chain(more).collect();
            let held: BTreeSet<u64> = (0..70).filter(|line| lines.contains(*line)).collect();
            prop_assert_eq!(held, wanted);
            prop_assert!(lines.0.windows(2).all(|pair| pair[0].1 + 1 < pair[1].0));
        }
    }
}
