//! A sample of bounded size: the members whose names have the smallest digests. The same set gives the same sample, in
//! any order and however it was cut.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};
use tch::{Device, Kind, Tensor};

use crate::error::Result;

/// Some members of a set, with their features.
#[derive(Debug)]
pub struct Sample {
    capacity: usize,
    dimension: i64,
    seen: u64,
    members: BTreeMap<[u8; 16], Vec<f32>>,
}

impl Sample {
    /// Of nothing, for features of `dimension` numbers; `capacity` members at most.
    pub fn new(capacity: usize, dimension: i64) -> Self {
        Self { capacity, dimension, seen: 0, members: BTreeMap::new() }
    }

    /// Adds the features `[b, d]` of members by name.
    pub fn add<'a>(&mut self, names: impl IntoIterator<Item = &'a str>, features: &Tensor) -> Result<()> {
        let features = features.f_to_device(Device::Cpu)?.f_to_kind(Kind::Float)?.f_contiguous()?;
        for (at, name) in names.into_iter().enumerate() {
            self.seen += 1;
            let digest = Sha256::digest(name.as_bytes());
            let key: [u8; 16] = std::array::from_fn(|byte| digest[byte]);
            if self.members.len() >= self.capacity && self.members.last_key_value().is_some_and(|(last, _)| *last < key)
            {
                continue;
            }
            self.members.insert(key, Vec::try_from(features.f_get(at as i64)?)?);
            self.shrink();
        }
        Ok(())
    }

    /// Adds another sample of the same capacity.
    pub fn merge(&mut self, other: Self) {
        self.seen += other.seen;
        self.members.extend(other.members);
        self.shrink();
    }

    /// How many members the whole set has.
    pub fn seen(&self) -> u64 {
        self.seen
    }

    fn shrink(&mut self) {
        while self.members.len() > self.capacity {
            self.members.pop_last();
        }
    }

    /// `[n, d]`, float32.
    pub fn features(&self) -> Result<Tensor> {
        let all: Vec<f32> = self.members.values().flatten().copied().collect();
        Ok(Tensor::f_from_slice(&all)?.f_view([self.members.len() as i64, self.dimension])?)
    }

    /// Keys `[n, 16]` of bytes, for [`Sample::restore`].
    pub fn keys(&self) -> Result<Tensor> {
        let all: Vec<u8> = self.members.keys().flatten().copied().collect();
        Ok(Tensor::f_from_slice(&all)?.f_view([self.members.len() as i64, 16])?)
    }

    /// Takes up what [`Sample::keys`] and [`Sample::features`] gave.
    pub fn restore(&mut self, keys: &Tensor, features: &Tensor, seen: u64) -> Result<()> {
        self.seen += seen;
        let keys = Vec::<u8>::try_from(keys.f_view([-1])?)?;
        for (at, key) in keys.chunks_exact(16).enumerate() {
            let key: [u8; 16] = std::array::from_fn(|byte| key[byte]);
            self.members.insert(key, Vec::try_from(features.f_get(at as i64)?)?);
        }
        self.shrink();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_does_not_depend_on_order_or_on_how_the_set_was_cut() {
        let names: Vec<String> = (0..100).map(|at| format!("picture-{at}")).collect();
        let features = Tensor::arange(100, (Kind::Float, Device::Cpu)).view([100, 1]);
        let mut whole = Sample::new(10, 1);
        whole.add(names.iter().map(String::as_str), &features).unwrap();
        let (mut front, mut back) = (Sample::new(10, 1), Sample::new(10, 1));
        back.add(names[37..].iter().map(String::as_str), &features.narrow(0, 37, 63)).unwrap();
        front.add(names[..37].iter().map(String::as_str), &features.narrow(0, 0, 37)).unwrap();
        back.merge(front);
        assert_eq!(whole.members, back.members);
        assert_eq!(whole.members.len(), 10);
        let mut restored = Sample::new(10, 1);
        restored.restore(&whole.keys().unwrap(), &whole.features().unwrap(), 100).unwrap();
        assert_eq!((restored.members, restored.seen), (whole.members, back.seen));
    }
}
