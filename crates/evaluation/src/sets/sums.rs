//! Everything that is kept of a set while its pictures pass by.

use std::collections::BTreeMap;

use diorama_core::picture::Rgb8;
use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::{KernelDistance, Moments, Sample, cmmd, frechet, kid};
use crate::error::Result;
use crate::measures::tensor;
use crate::networks::{Kind as Network, Networks, Resize};

/// Features that are kept for kernel distances: KID draws 1000 of them at a time.
const KEPT: usize = 10_000;
/// Inception's features.
const FEATURES: i64 = 2048;

/// The sums of one set. Those of its parts can be merged.
#[derive(Debug, Default)]
pub struct SetSums {
    fid: Option<Moments>,
    clean: Option<Moments>,
    kid: Option<Sample>,
    cmmd: Option<Sample>,
}

/// Distances of two sets; what could not be computed is absent.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SetDistances {
    /// Pictures in the first set.
    pub pictures: u64,
    /// Pictures in the second one.
    pub references: u64,
    /// Fréchet distance of Inception's 2048 features.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub fid: Option<f64>,
    /// The same with clean-fid's resizing.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub clean_fid: Option<f64>,
    /// Kernel distance of the same features.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub kid: Option<KernelDistance>,
    /// Kernel distance of CLIP's directions.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub cmmd: Option<f64>,
}

impl SetSums {
    /// Adds pictures by name; one name stands for one picture.
    pub fn add(&mut self, networks: &Networks, named: &[(String, Rgb8)], clean: bool) -> Result<()> {
        // Pictures of one size go through a network together.
        let mut by_size: BTreeMap<(u32, u32), Vec<&(String, Rgb8)>> = BTreeMap::new();
        for one in named {
            by_size.entry((one.1.width, one.1.height)).or_default().push(one);
        }
        for group in by_size.into_values() {
            let pictures = group.iter().map(|(_, picture)| tensor(picture)).collect::<Result<Vec<_>>>()?;
            let names = || group.iter().map(|(name, _)| name.as_str());
            self.add_inception(networks, &pictures, names(), clean)?;
            self.add_clip(networks, &pictures, names())?;
        }
        Ok(())
    }

    fn add_inception<'a>(
        &mut self,
        networks: &Networks,
        pictures: &[Tensor],
        names: impl Iterator<Item = &'a str>,
        clean: bool,
    ) -> Result<()> {
        let Some(inception) = &networks.inception else { return Ok(()) };
        let stacked = Tensor::f_stack(pictures, 0)?;
        let features = |resize| inception.features(&stacked, resize).map_err(|error| Network::Inception.error(error));
        let seen = features(Resize::Tf1)?.last;
        moments(&mut self.fid)?.add(&seen)?;
        self.kid.get_or_insert_with(|| Sample::new(KEPT, FEATURES)).add(names, &seen)?;
        if clean {
            moments(&mut self.clean)?.add(&features(Resize::Clean)?.last)?;
        }
        Ok(())
    }

    fn add_clip<'a>(
        &mut self,
        networks: &Networks,
        pictures: &[Tensor],
        names: impl Iterator<Item = &'a str>,
    ) -> Result<()> {
        let Some(clip) = &networks.clip_336 else { return Ok(()) };
        let error = |error| Network::Clip336.error(error);
        let prepared = pictures.iter().map(|picture| clip.prepare_squeezed(picture).map_err(error));
        let directions = clip.pictures(&Tensor::f_stack(&prepared.collect::<Result<Vec<_>>>()?, 0)?).map_err(error)?;
        let dimension = directions.size()[1];
        self.cmmd.get_or_insert_with(|| Sample::new(KEPT, dimension)).add(names, &directions)
    }

    /// Adds the sums of another part of the same set.
    pub fn merge(&mut self, other: Self) -> Result<()> {
        for (mine, theirs) in [(&mut self.fid, other.fid), (&mut self.clean, other.clean)] {
            match (mine, theirs) {
                (Some(mine), Some(theirs)) => mine.merge(&theirs)?,
                (mine, theirs) => *mine = mine.take().or(theirs),
            }
        }
        for (mine, theirs) in [(&mut self.kid, other.kid), (&mut self.cmmd, other.cmmd)] {
            match (mine, theirs) {
                (Some(mine), Some(theirs)) => mine.merge(theirs),
                (mine, theirs) => *mine = mine.take().or(theirs),
            }
        }
        Ok(())
    }

    /// How far the set is from another one.
    pub fn distances(&self, references: &Self) -> Result<SetDistances> {
        let between = |a: &Option<Moments>, b: &Option<Moments>| match (a, b) {
            (Some(a), Some(b)) => frechet(a, b),
            _ => Ok(None),
        };
        let count = |sums: &Self| {
            let sampled = sums.cmmd.as_ref().map_or(0, Sample::seen);
            sums.fid.as_ref().map_or(sampled, |moments| moments.count)
        };
        Ok(SetDistances {
            pictures: count(self),
            references: count(references),
            fid: between(&self.fid, &references.fid)?,
            clean_fid: between(&self.clean, &references.clean)?,
            kid: match (&self.kid, &references.kid) {
                (Some(a), Some(b)) => kid(&a.features()?, &b.features()?)?,
                _ => None,
            },
            cmmd: match (&self.cmmd, &references.cmmd) {
                (Some(a), Some(b)) => cmmd(&a.features()?, &b.features()?)?,
                _ => None,
            },
        })
    }

    /// The sums as named tensors, for a file; names begin with `prefix`.
    pub fn tensors(&self, prefix: &str) -> Result<Vec<(String, Tensor)>> {
        let mut all = Vec::new();
        for (name, moments) in [("fid", &self.fid), ("clean", &self.clean)] {
            let Some(moments) = moments else { continue };
            let (sum, products) = moments.tensors();
            all.push((format!("{prefix}.{name}.count"), Tensor::f_from_slice(&[moments.count as i64])?));
            all.push((format!("{prefix}.{name}.sum"), sum.shallow_clone()));
            all.push((format!("{prefix}.{name}.products"), products.shallow_clone()));
        }
        for (name, sample) in [("kid", &self.kid), ("cmmd", &self.cmmd)] {
            let Some(sample) = sample else { continue };
            all.push((format!("{prefix}.{name}.seen"), Tensor::f_from_slice(&[sample.seen() as i64])?));
            all.push((format!("{prefix}.{name}.keys"), sample.keys()?));
            all.push((format!("{prefix}.{name}.features"), sample.features()?));
        }
        Ok(all)
    }

    /// From what [`SetSums::tensors`] gave.
    pub fn from_tensors(all: &BTreeMap<String, Tensor>, prefix: &str) -> Result<Self> {
        let get = |name: &str| all.get(&format!("{prefix}.{name}")).map(Tensor::shallow_clone);
        let moments = |name: &str| -> Result<Option<Moments>> {
            let part = |what: &str| get(&format!("{name}.{what}"));
            let (Some(count), Some(sum), Some(products)) = (part("count"), part("sum"), part("products")) else {
                return Ok(None);
            };
            Ok(Some(Moments::from_tensors(count.f_int64_value(&[0])? as u64, sum, products)))
        };
        let sample = |name: &str| -> Result<Option<Sample>> {
            let part = |what: &str| get(&format!("{name}.{what}"));
            let (Some(seen), Some(keys), Some(features)) = (part("seen"), part("keys"), part("features")) else {
                return Ok(None);
            };
            let mut sample = Sample::new(KEPT, features.size()[1]);
            sample.restore(&keys, &features, seen.f_int64_value(&[0])? as u64)?;
            Ok(Some(sample))
        };
        Ok(Self { fid: moments("fid")?, clean: moments("clean")?, kid: sample("kid")?, cmmd: sample("cmmd")? })
    }
}

fn moments(of: &mut Option<Moments>) -> Result<&mut Moments> {
    let known = match of.take() {
        Some(known) => known,
        None => Moments::new(FEATURES)?,
    };
    Ok(of.insert(known))
}
