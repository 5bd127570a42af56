//! Pictures in, measures out: what a batch of decoded pictures is worth, and what sets need of it. Knows no folder and
//! writes nothing, so that whoever has pictures (a run over folders, a shard's worker) can measure them.

use std::collections::{BTreeMap, HashMap};

pub use diorama_core::measure::Subject;
use diorama_core::measure::{MEASURES, Measure};
use diorama_core::picture::{Gray8, Rgb8};
use tch::{Kind, Tensor};

use crate::error::Result;
use crate::measures::{Region, background, light, phash, tensor, zero_filled};
use crate::networks::{Kind as Network, Lpips, Networks, SMALLEST_SIDE, Trunk, Verdict, bilinear};
use crate::row::RegionKind;

/// What was measured.
#[derive(Debug, Clone, Default)]
pub struct Measured {
    /// By name.
    pub measures: BTreeMap<String, f64>,
    /// The perceptual hash.
    pub phash: u64,
    /// Where the background measures looked.
    pub region: RegionKind,
    /// Why measures are absent or doubtful.
    pub notes: Vec<String>,
}

impl Measured {
    fn set(&mut self, name: &str, value: f64) {
        if value.is_finite() {
            self.measures.insert(name.to_owned(), value);
        }
    }
}

/// The paper's comparison is made at this size (docs/evaluation.md).
const PAIR_SIDE: i64 = 256;
/// Prompts whose directions are kept.
const KNOWN_PROMPTS: usize = 4096;

/// Measures pictures with the networks that there are.
pub struct Evaluator {
    networks: Networks,
    prompts: HashMap<String, Tensor>,
    /// What is to be measured, by name; nothing is everything.
    wanted: Vec<String>,
}

impl Evaluator {
    /// An evaluator.
    pub fn new(networks: Networks) -> Self {
        Self { networks, prompts: HashMap::new(), wanted: Vec::new() }
    }

    /// The networks.
    pub fn networks(&self) -> &Networks {
        &self.networks
    }

    /// Measures pictures that belong to one task, made by different methods or runs: they share a region. The order is
    /// kept.
    ///
    /// # Errors
    /// [`crate::Error::Torch`] where libtorch fails or has no memory.
    pub fn measure(&mut self, subjects: &[Subject]) -> Result<Vec<Measured>> {
        let verdicts = self.judge(subjects)?;
        let common = common_region(subjects, &verdicts);
        let each = |(subject, verdict): (&Subject, &Option<Verdict>)| {
            let mut measured = Measured { phash: phash(&subject.picture), ..Measured::default() };
            self.complete(subject, verdict.as_ref(), common.as_ref(), &mut measured)?;
            Ok(measured)
        };
        subjects.iter().zip(&verdicts).map(each).collect()
    }

    /// What is `wanted`, by name, of a picture that is compared with no other. Where no region is given its background is
    /// the whole picture, never what the judge sees outside its object: with another seed that is another place.
    ///
    /// # Errors
    /// As [`Evaluator::measure`].
    pub fn measure_alone(&mut self, subject: &Subject, wanted: &[String]) -> Result<BTreeMap<String, f64>> {
        self.wanted = wanted.to_vec();
        let mut measured = Measured::default();
        let verdict = match self.wants(&Network::Judge) {
            true => self.judge(std::slice::from_ref(subject))?.pop().flatten(),
            false => None,
        };
        let completed = self.complete(subject, verdict.as_ref(), None, &mut measured);
        self.wanted.clear();
        completed?;
        measured.measures.retain(|name, _| wanted.contains(name));
        Ok(measured.measures)
    }

    fn complete(
        &mut self,
        subject: &Subject,
        verdict: Option<&Verdict>,
        common: Option<&Gray8>,
        measured: &mut Measured,
    ) -> Result<()> {
        self.alone(subject, measured)?;
        self.by_prompt(subject, verdict, common, measured)?;
        self.against_reference(subject, common, measured)
    }

    /// Whether anything is to be measured that needs this network.
    fn wants(&self, network: &Network) -> bool {
        let needs = |measure: &Measure| measure.needs.network == Some(network.folder());
        self.wants_any(needs)
    }

    fn wants_any(&self, is_meant: impl Fn(&Measure) -> bool) -> bool {
        let wanted = |measure: &Measure| self.wanted.is_empty() || self.wanted.iter().any(|name| name == measure.name);
        MEASURES.iter().any(|measure| wanted(measure) && is_meant(measure))
    }

    /// What the judge sees in each picture; nothing where there is no judge or it does not know such pictures.
    fn judge(&self, subjects: &[Subject]) -> Result<Vec<Option<Verdict>>> {
        let looks = |subject: &Subject| {
            let judge = self.networks.judge.as_ref()?;
            let knows = judge.knows(subject.picture.width, subject.picture.height);
            (knows && judge.expected(subject.prompt.as_deref()?).is_some()).then_some(judge)
        };
        let look = |subject: &Subject| -> Result<Option<Verdict>> {
            let Some(judge) = looks(subject) else { return Ok(None) };
            let picture = tensor(&subject.picture)?.f_unsqueeze(0)?;
            Ok(judge.look(&picture).map_err(|error| Network::Judge.error(error))?.pop())
        };
        subjects.iter().map(look).collect()
    }

    fn alone(&self, subject: &Subject, measured: &mut Measured) -> Result<()> {
        let light = light(&tensor(&subject.picture)?)?;
        measured.set("luma_mean", light.mean);
        measured.set("luma_deviation", light.deviation);
        measured.notes.extend(light.note().map(str::to_owned));
        if let Some(coverage) = subject.coverage {
            measured.set("coverage", coverage);
        }
        Ok(())
    }

    fn by_prompt(
        &mut self,
        subject: &Subject,
        verdict: Option<&Verdict>,
        common: Option<&Gray8>,
        measured: &mut Measured,
    ) -> Result<()> {
        let Some(prompt) = &subject.prompt else { return Ok(()) };
        if let (Some(judge), Some(verdict)) = (&self.networks.judge, verdict)
            && let Some(expected) = judge.expected(prompt)
        {
            let truth = |is: bool| if is { 1.0 } else { 0.0 };
            let right = verdict.shape == expected.shape && verdict.colour == expected.colour;
            measured.set("judge_object", truth(verdict.is_present));
            measured.set("judge_right", truth(verdict.is_present && right));
            if let Some(scene) = expected.scene {
                measured.set("judge_scene", truth(verdict.scene == scene));
            }
        }
        if !self.wants(&Network::Clip) {
            return Ok(());
        }
        let Some(direction) = self.direction(prompt)? else { return Ok(()) };
        let Some(clip) = &self.networks.clip else { return Ok(()) };
        let score = |picture: &Rgb8| -> Result<f64> {
            let error = |error| Network::Clip.error(error);
            let prepared = clip.prepare(picture).map_err(error)?.f_unsqueeze(0)?;
            let cosine = clip.pictures(&prepared).map_err(error)?.f_mul(&direction)?.f_sum(Kind::Double)?;
            Ok(100.0 * cosine.f_double_value(&[])?.max(0.0))
        };
        measured.set("clip", score(&subject.picture)?);
        if let Some(inside) =
            subject.region.as_ref().or(common).and_then(|region| only_inside(&subject.picture, region))
        {
            measured.set("clip_inside", score(&inside)?);
        }
        Ok(())
    }

    fn direction(&mut self, prompt: &str) -> Result<Option<Tensor>> {
        let Some(clip) = &self.networks.clip else { return Ok(None) };
        if let Some(known) = self.prompts.get(prompt) {
            return Ok(Some(known.shallow_clone()));
        }
        let Some(direction) = clip.prompt(prompt).map_err(|error| Network::Clip.error(error))? else { return Ok(None) };
        if self.prompts.len() >= KNOWN_PROMPTS {
            self.prompts.clear();
        }
        self.prompts.insert(prompt.to_owned(), direction.shallow_clone());
        Ok(Some(direction))
    }

    fn against_reference(&self, subject: &Subject, common: Option<&Gray8>, measured: &mut Measured) -> Result<()> {
        let Some(reference) = &subject.reference else { return Ok(()) };
        if !self.wants_any(|measure| measure.needs.reference) {
            return Ok(());
        }
        let (picture, reference) = (tensor(&subject.picture)?, tensor(reference)?);
        let size = (subject.picture.width, subject.picture.height);
        if !self.wants_any(|measure| measure.needs.reference && measure.needs.network.is_none())
            && !self.wants_any(|measure| measure.name == "pie_lpips")
        {
            return self.whole(&picture, &reference, measured);
        }
        let (region, kind) = match subject.region.as_ref().map(|mask| (mask, RegionKind::Given)) {
            Some((mask, kind)) => (Region::outside_of(mask, size)?, kind),
            None => match common {
                Some(mask) => (Region::outside_of(mask, size)?, RegionKind::Common),
                None => (Ok(Region::whole(size.0, size.1)?), RegionKind::Whole),
            },
        };
        measured.region = kind;
        match region {
            Err(error) => measured.notes.push(error.to_string()),
            Ok(region) => self.background(&picture, &reference, &region, measured)?,
        }
        self.whole(&picture, &reference, measured)
    }

    fn background(&self, picture: &Tensor, reference: &Tensor, region: &Region, measured: &mut Measured) -> Result<()> {
        let ours = background(picture, reference, region)?;
        measured.set("mse", ours.mse);
        measured.set("psnr", ours.psnr);
        measured.set("outside", region.share);
        if let Some(ssim) = ours.ssim {
            measured.set("ssim", ssim);
        }
        if !region.has_inside() {
            return Ok(());
        }
        let theirs = zero_filled(picture, reference, region)?;
        measured.set("pie_mse", theirs.mse);
        measured.set("pie_psnr", theirs.psnr);
        if let Some(ssim) = theirs.ssim {
            measured.set("pie_ssim", ssim);
        }
        let squeeze = self.networks.lpips.iter().find(|lpips| lpips.trunk() == Trunk::Squeeze);
        let squeeze = squeeze.filter(|_| self.wants_any(|measure| measure.name == "pie_lpips"));
        if let Some(lpips) = squeeze.filter(|_| large_enough(picture)) {
            let (a, b) =
                (region.without_inside(picture)?.f_unsqueeze(0)?, region.without_inside(reference)?.f_unsqueeze(0)?);
            let distance = lpips.distance(&a, &b).map_err(|error| Network::Lpips(Trunk::Squeeze).error(error))?;
            measured.set("pie_lpips", distance[0]);
        }
        Ok(())
    }

    /// Comparisons of the whole pictures.
    fn whole(&self, picture: &Tensor, reference: &Tensor, measured: &mut Measured) -> Result<()> {
        let (a, b) = (picture.f_unsqueeze(0)?, reference.f_unsqueeze(0)?);
        let wanted = |lpips: &&Lpips| self.wants_any(|measure| measure.name == lpips.trunk().measure());
        for lpips in self.networks.lpips.iter().filter(|_| large_enough(picture)).filter(wanted) {
            let distance = lpips.distance(&a, &b).map_err(|error| Network::Lpips(lpips.trunk()).error(error))?;
            measured.set(lpips.trunk().measure(), distance[0]);
        }
        if let Some(inception) = self.networks.inception.as_ref().filter(|_| self.wants(&Network::Inception)) {
            measured.set("pair_feature_distance_64", pair_distance(inception, &a, &b)?);
        }
        if let Some(dino) = self.networks.dino.as_ref().filter(|_| self.wants(&Network::Dino)) {
            let error = |error| Network::Dino.error(error);
            let (a, b) =
                (dino.self_similarity(picture).map_err(error)?, dino.self_similarity(reference).map_err(error)?);
            measured.set("structure_distance", dino.distance(&a, &b).map_err(error)?);
        }
        Ok(())
    }
}

/// The paper's "FID" of one pair (docs/evaluation.md): both at 256 × 256 in 8 bits, blue first as OpenCV reads them, the
/// squared distance of the 64 features.
pub fn pair_distance(inception: &crate::networks::Inception, a: &Tensor, b: &Tensor) -> Result<f64> {
    let error = |error| Network::Inception.error(error);
    let prepared = |x: &Tensor| -> Result<Tensor> {
        let small = bilinear(&x.f_to_kind(Kind::Float)?, (PAIR_SIDE, PAIR_SIDE), false).map_err(error)?;
        Ok(small.f_round()?.f_clamp(0.0, 255.0)?.f_flip([1])?)
    };
    let features = inception.first(&Tensor::f_cat(&[prepared(a)?, prepared(b)?], 0)?).map_err(error)?;
    let difference = features.f_get(0)?.f_sub(&features.f_get(1)?)?;
    Ok(difference.f_square()?.f_sum(Kind::Double)?.f_double_value(&[])?)
}

fn large_enough(picture: &Tensor) -> bool {
    picture.size().iter().skip(1).all(|side| *side >= i64::from(SMALLEST_SIDE))
}

/// Black outside; `None` where the region is of another size or has no inside.
fn only_inside(picture: &Rgb8, region: &Gray8) -> Option<Rgb8> {
    let same = (region.width, region.height) == (picture.width, picture.height);
    if !same || region.data.iter().all(|value| *value < 128) {
        return None;
    }
    let keep = |(pixel, value): (&[u8], &u8)| if *value < 128 { [0; 3] } else { [pixel[0], pixel[1], pixel[2]] };
    let data = picture.data.chunks_exact(3).zip(&region.data).flat_map(keep).collect();
    Some(Rgb8 { data, ..picture.clone() })
}

/// Every object that the judge sees in any of the pictures, two pixels wider: outside lies what all of them should have
/// kept, whatever their own masks were. `None` unless it knows all of them.
fn common_region(subjects: &[Subject], verdicts: &[Option<Verdict>]) -> Option<Gray8> {
    const MARGIN: usize = 2;
    let first = subjects.first()?;
    let (width, height) = (first.picture.width as usize, first.picture.height as usize);
    let mut union = vec![0_u8; width * height];
    for verdict in verdicts {
        let mask = &verdict.as_ref()?.mask;
        for (at, _) in mask.data.iter().enumerate().filter(|(_, value)| **value > 0) {
            let (x, y) = (at % width, at / width);
            for row in y.saturating_sub(MARGIN)..(y + MARGIN + 1).min(height) {
                union[row * width + x.saturating_sub(MARGIN)..row * width + (x + MARGIN + 1).min(width)].fill(255);
            }
        }
    }
    Some(Gray8 { width: first.picture.width, height: first.picture.height, data: union })
}
