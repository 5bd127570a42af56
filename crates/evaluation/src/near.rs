//! Pictures of a series that are nearly the same: by the distance of their perceptual hashes, the earlier one is the one
//! that the later ones repeat.
//!
//! Two hashes that differ in at most [`NEAR`] of 64 bits agree in at least one of [`BANDS`] parts of them, so only those that
//! share a part are compared: 10⁶ pictures take seconds, and some 100 bytes each.

use std::collections::HashMap;

/// Bits in which the hashes of near-duplicates differ at most.
pub const NEAR: u32 = 4;
/// One more than [`NEAR`].
const BANDS: u32 = NEAR + 1;
/// Bits of a part; the last one has fewer.
const BAND_BITS: u32 = 64_u32.div_ceil(BANDS);

/// The pictures of one series so far that repeat no other.
#[derive(Debug, Default)]
pub(crate) struct NearDuplicates {
    hashes: Vec<u64>,
    names: Vec<String>,
    /// Which of them have this part, by its number and bits.
    by_band: HashMap<(u32, u64), Vec<u32>>,
}

impl NearDuplicates {
    /// Adds the next picture; gives the earliest one that it nearly repeats.
    pub(crate) fn add(&mut self, name: &str, hash: u64) -> Option<&str> {
        let near = bands(hash).filter_map(|band| {
            let alike = self.by_band.get(&band)?.iter().copied();
            alike.filter(|other| (self.hashes[*other as usize] ^ hash).count_ones() <= NEAR).min()
        });
        if let Some(first) = near.min() {
            return Some(&self.names[first as usize]);
        }
        let this = self.hashes.len() as u32;
        bands(hash).for_each(|band| self.by_band.entry(band).or_default().push(this));
        self.hashes.push(hash);
        self.names.push(name.to_owned());
        None
    }
}

/// The parts of a hash, each with its number.
fn bands(hash: u64) -> impl Iterator<Item = (u32, u64)> {
    (0..BANDS).map(move |band| (band, (hash >> (band * BAND_BITS)) & ((1 << BAND_BITS) - 1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers without a pattern: SplitMix64.
    fn noise(seed: u64) -> impl FnMut() -> u64 {
        let mut state = seed;
        move || {
            state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            z ^ (z >> 31)
        }
    }

    #[test]
    fn hashes_up_to_four_bits_apart_are_near_whichever_bits_they_are_and_the_earliest_is_named() {
        let mut next = noise(1);
        for _ in 0..300 {
            let hash = next();
            let mut series = NearDuplicates::default();
            assert_eq!(series.add("first", hash), None);
            let mut flipped = hash;
            for bits in 1..=5 {
                while (flipped ^ hash).count_ones() < bits {
                    flipped ^= 1 << (next() % 64);
                }
                if (flipped ^ hash).count_ones() == bits {
                    let expected = (bits <= NEAR).then_some("first");
                    assert_eq!(series.add("later", flipped), expected, "{bits} bits of {hash:x}");
                }
            }
        }
    }

    #[test]
    fn what_repeats_another_is_never_itself_named() {
        let mut series = NearDuplicates::default();
        assert_eq!(series.add("a", 0), None);
        assert_eq!(series.add("b", 0b111), Some("a"));
        // Near b, which stands for nothing, and six bits from a.
        assert_eq!(series.add("c", 0b11_1111), None);
        assert_eq!(series.add("d", 0b11_1110), Some("c"));
    }

    #[test]
    fn the_same_as_comparing_each_with_each() {
        let mut next = noise(7);
        let mut hashes: Vec<u64> = (0..400).map(|_| next()).collect();
        for at in 0..400 {
            let mut near = hashes[at];
            (0..next() % 7).for_each(|_| near ^= 1 << (next() % 64));
            hashes.push(near);
        }
        let (mut series, mut kept): (_, Vec<(String, u64)>) = (NearDuplicates::default(), Vec::new());
        for (at, hash) in hashes.iter().enumerate() {
            let first = kept.iter().find(|(_, other)| (other ^ hash).count_ones() <= NEAR);
            let expected = first.map(|(name, _)| name.clone());
            assert_eq!(series.add(&at.to_string(), *hash).map(str::to_owned), expected, "{at}");
            if expected.is_none() {
                kept.push((at.to_string(), *hash));
            }
        }
    }
}
