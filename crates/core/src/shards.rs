//! A set of a round's shards, as one bit each.

use serde::{Deserialize, Serialize};

/// Shards of one round, by their index. In JSON a list of ranges, first and last included: `[[0,11],[14,14]]`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(from = "Vec<(u32, u32)>", into = "Vec<(u32, u32)>")]
pub struct ShardSet {
    /// In the order of Redis' `SETBIT`: the first shard is the highest bit of the first byte.
    bits: Vec<u8>,
}

impl ShardSet {
    /// The set whose bits these are, in the order of Redis' `SETBIT`.
    pub fn from_bits(bits: Vec<u8>) -> Self {
        Self { bits }
    }

    /// Whether the shard with this index is in the set.
    pub fn contains(&self, index: u32) -> bool {
        self.bits.get(index as usize / 8).is_some_and(|byte| byte & (0x80 >> (index % 8)) != 0)
    }

    /// Puts a shard in; whether it was not there before.
    pub fn insert(&mut self, index: u32) -> bool {
        let byte = index as usize / 8;
        if self.bits.len() <= byte {
            self.bits.resize(byte + 1, 0);
        }
        let bit = 0x80 >> (index % 8);
        let new = self.bits[byte] & bit == 0;
        self.bits[byte] |= bit;
        new
    }

    /// Puts in every shard of `other`.
    pub fn extend(&mut self, other: &Self) {
        if self.bits.len() < other.bits.len() {
            self.bits.resize(other.bits.len(), 0);
        }
        self.bits.iter_mut().zip(&other.bits).for_each(|(own, other)| *own |= other);
    }

    /// How many shards are in the set.
    pub fn len(&self) -> u64 {
        self.bits.iter().map(|byte| u64::from(byte.count_ones())).sum()
    }

    /// Whether no shard is in the set.
    pub fn is_empty(&self) -> bool {
        self.bits.iter().all(|byte| *byte == 0)
    }

    /// The shards in the set, in order.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        (0..self.bits.len() as u32 * 8).filter(|index| self.contains(*index))
    }

    /// The shards below `shards` that are not in the set.
    pub fn missing(&self, shards: u32) -> Self {
        (0..shards).filter(|index| !self.contains(*index)).collect()
    }
}

impl FromIterator<u32> for ShardSet {
    fn from_iter<I: IntoIterator<Item = u32>>(indices: I) -> Self {
        let mut set = Self::default();
        for index in indices {
            set.insert(index);
        }
        set
    }
}

/// Of an honest round; what comes from outside must not make us take gigabytes.
const MOST: u32 = 1 << 27;

impl From<Vec<(u32, u32)>> for ShardSet {
    fn from(ranges: Vec<(u32, u32)>) -> Self {
        ranges.into_iter().flat_map(|(first, last)| first.min(MOST)..=last.min(MOST)).collect()
    }
}

impl From<ShardSet> for Vec<(u32, u32)> {
    fn from(set: ShardSet) -> Self {
        let mut ranges: Self = Vec::new();
        for index in set.iter() {
            match ranges.last_mut() {
                Some((_, last)) if *last + 1 == index => *last = index,
                _ => ranges.push((index, index)),
            }
        }
        ranges
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_set_holds_what_was_put_in_and_survives_its_json(indices in proptest::collection::btree_set(0u32..300, 0..80)) {
            let set: ShardSet = indices.iter().copied().collect();
            prop_assert_eq!(set.iter().collect::<Vec<_>>(), indices.iter().copied().collect::<Vec<_>>());
            prop_assert_eq!(set.len(), indices.len() as u64);
            let read: ShardSet = serde_json::from_str(&serde_json::to_string(&set).unwrap()).unwrap();
            prop_assert_eq!(read.iter().collect::<Vec<_>>(), set.iter().collect::<Vec<_>>());
            prop_assert_eq!(set.missing(300).len(), 300 - set.len());
        }
    }
}
