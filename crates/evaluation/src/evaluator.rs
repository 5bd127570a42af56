//! Pictures in, measures out: what a batch of decoded pictures is worth, and what sets need of it. Knows no folder and
//! writes nothing, so that whoever has pictures (a run over folders, a shard's worker) can measure them.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

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
/// Pictures that a network sees at a time.
pub const BATCH: usize = 8;
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

    /// Measures pictures that belong to one task, made by different methods or runs: they share a region. The order is kept.
    ///
    /// # Errors
    /// [`crate::Error::Torch`] where libtorch fails or has no memory.
    pub fn measure(&mut self, subjects: &[Subject]) -> Result<Vec<Measured>> {
        Ok(self.measure_tasks(&[subjects])?.pop().unwrap_or_default())
    }

    /// [`Evaluator::measure`] of several tasks. Networks see pictures of all tasks together, [`BATCH`] at a time; what is
    /// said of one depends on its batch
    /// mates by no more than their arithmetic rounds (docs/evaluation.md).
    ///
    /// # Errors
    /// [`crate::Error::Torch`] where libtorch fails or has no memory.
    pub fn measure_tasks(&mut self, tasks: &[&[Subject]]) -> Result<Vec<Vec<Measured>>> {
        let subjects: Vec<&Subject> = tasks.iter().copied().flatten().collect();
        let verdicts = self.judge(&subjects)?;
        let mut pictures = Vec::with_capacity(subjects.len());
        let mut rest = verdicts.as_slice();
        for task in tasks {
            let (own, others) = rest.split_at(task.len());
            let common = common_region(task, own).map(Rc::new);
            for (subject, verdict) in task.iter().zip(own) {
                pictures.push(self.without_networks(subject, verdict.as_ref(), common.clone())?);
            }
            rest = others;
        }
        self.by_networks(&mut pictures)?;
        let mut measured = pictures.into_iter().map(|picture| picture.measured);
        Ok(tasks.iter().map(|task| measured.by_ref().take(task.len()).collect()).collect())
    }

    /// What is `wanted`, by name, of a picture that is compared with no other. Where no region is given its background is
    /// the whole picture, never what the judge sees outside its object: with another seed that is another place.
    ///
    /// # Errors
    /// As [`Evaluator::measure`].
    pub fn measure_alone(&mut self, subject: &Subject, wanted: &[String]) -> Result<BTreeMap<String, f64>> {
        self.wanted = wanted.to_vec();
        let measured = self.alone_by_wanted(subject);
        self.wanted.clear();
        let mut measures = measured?;
        measures.retain(|name, _| wanted.contains(name));
        Ok(measures)
    }

    fn alone_by_wanted(&mut self, subject: &Subject) -> Result<BTreeMap<String, f64>> {
        let verdict = self.judge(&[subject])?.pop().flatten();
        let mut pictures = [self.without_networks(subject, verdict.as_ref(), None)?];
        self.by_networks(&mut pictures)?;
        let [picture] = pictures;
        Ok(picture.measured.measures)
    }

    fn by_networks(&mut self, pictures: &mut [Picture<'_>]) -> Result<()> {
        self.clip(pictures)?;
        self.lpips(pictures)?;
        self.dino(pictures)?;
        self.pairs(pictures)
    }

    /// Whether anything is to be measured that needs this network.
    fn wants(&self, network: &Network) -> bool {
        self.wants_any(|measure| measure.needs.network == Some(network.folder()))
    }

    fn wants_any(&self, is_meant: impl Fn(&Measure) -> bool) -> bool {
        let wanted = |measure: &Measure| self.wanted.is_empty() || self.wanted.iter().any(|name| name == measure.name);
        MEASURES.iter().any(|measure| wanted(measure) && is_meant(measure))
    }

    /// What the judge sees in each picture; nothing where there is no judge or it does not know such pictures.
    fn judge(&self, subjects: &[&Subject]) -> Result<Vec<Option<Verdict>>> {
        let mut verdicts: Vec<Option<Verdict>> = vec![None; subjects.len()];
        let Some(judge) = self.networks.judge.as_ref().filter(|_| self.wants(&Network::Judge)) else {
            return Ok(verdicts);
        };
        let knows = |subject: &Subject| {
            let expected = subject.prompt.as_deref().and_then(|prompt| judge.expected(prompt));
            judge.knows(subject.picture.width, subject.picture.height) && expected.is_some()
        };
        let known: Vec<usize> = (0..subjects.len()).filter(|at| knows(subjects[*at])).collect();
        for batch in known.chunks(BATCH) {
            let looked = batch.iter().map(|at| tensor(&subjects[*at].picture)).collect::<Result<Vec<_>>>()?;
            let seen = judge.look(&Tensor::f_stack(&looked, 0)?).map_err(|error| Network::Judge.error(error))?;
            for (at, verdict) in batch.iter().zip(seen) {
                verdicts[*at] = Some(verdict);
            }
        }
        Ok(verdicts)
    }

    fn without_networks<'a>(
        &self,
        subject: &'a Subject,
        verdict: Option<&Verdict>,
        common: Option<Rc<Gray8>>,
    ) -> Result<Picture<'a>> {
        let mut measured = Measured::default();
        if self.wanted.is_empty() {
            measured.phash = phash(&subject.picture);
        }
        self.alone(subject, &mut measured)?;
        self.judged(subject, verdict, &mut measured);
        let (pair, region) = match self.wants_any(|measure| measure.needs.reference) {
            true => against_reference(subject, common.as_deref(), self.wants_background(), &mut measured)?,
            false => (None, None),
        };
        Ok(Picture { subject, common, pair, region, measured })
    }

    /// Whether anything is to be measured that depends on where the background is.
    fn wants_background(&self) -> bool {
        self.wants_any(|measure| {
            measure.needs.reference && measure.needs.network.is_none() || measure.name == "pie_lpips"
        })
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

    fn judged(&self, subject: &Subject, verdict: Option<&Verdict>, measured: &mut Measured) {
        let expected = self.networks.judge.as_ref().and_then(|judge| judge.expected(subject.prompt.as_deref()?));
        let (Some(verdict), Some(expected)) = (verdict, expected) else { return };
        let truth = |is: bool| if is { 1.0 } else { 0.0 };
        let right = verdict.shape == expected.shape && verdict.colour == expected.colour;
        measured.set("judge_object", truth(verdict.is_present));
        measured.set("judge_right", truth(verdict.is_present && right));
        if let Some(scene) = expected.scene {
            measured.set("judge_scene", truth(verdict.scene == scene));
        }
    }

    /// CLIPScore of the pictures, and of their regions alone.
    fn clip(&mut self, pictures: &mut [Picture<'_>]) -> Result<()> {
        if !self.wants(&Network::Clip) {
            return Ok(());
        }
        let mut asked: Vec<(usize, &'static str, Cow<'_, Rgb8>, Tensor)> = Vec::new();
        for (at, picture) in pictures.iter().enumerate() {
            let Some(prompt) = &picture.subject.prompt else { continue };
            let Some(direction) = self.direction(prompt)? else { continue };
            let region = picture.subject.region.as_ref().or(picture.common.as_deref());
            let whole = &picture.subject.picture;
            if let Some(inside) = region.and_then(|region| only_inside(whole, region)) {
                asked.push((at, "clip_inside", Cow::Owned(inside), direction.shallow_clone()));
            }
            asked.push((at, "clip", Cow::Borrowed(whole), direction));
        }
        let Some(clip) = &self.networks.clip else { return Ok(()) };
        let error = |error| Network::Clip.error(error);
        let mut scores = Vec::with_capacity(asked.len());
        for batch in asked.chunks(BATCH) {
            let prepared = batch.iter().map(|(_, _, picture, _)| clip.prepare(picture)).collect::<Result<Vec<_>, _>>();
            let directions: Vec<&Tensor> = batch.iter().map(|(.., direction)| direction).collect();
            let seen = clip.pictures(&Tensor::f_stack(&prepared.map_err(error)?, 0)?).map_err(error)?;
            let cosines = seen.f_mul(&Tensor::f_cat(&directions, 0)?)?;
            let cosines = cosines.f_sum_dim_intlist([1_i64].as_slice(), false, Kind::Double)?;
            let cosines = Vec::<f64>::try_from(cosines.f_to_device(tch::Device::Cpu)?)?;
            scores.extend(batch.iter().zip(cosines).map(|((at, name, ..), cosine)| (*at, *name, cosine)));
        }
        drop(asked);
        for (at, name, cosine) in scores {
            pictures[at].measured.set(name, 100.0 * cosine.max(0.0));
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

    /// LPIPS of the whole pictures on every trunk, and without their regions as PIE-Bench has it.
    fn lpips(&self, pictures: &mut [Picture<'_>]) -> Result<()> {
        for lpips in &self.networks.lpips {
            let name = lpips.trunk().measure();
            if self.wants_any(|measure| measure.name == name) {
                for (at, distance) in distances(lpips, pictures, |picture| Ok(picture.pair.as_ref().map(copied)))? {
                    pictures[at].measured.set(name, distance);
                }
            }
            if lpips.trunk() == Trunk::Squeeze && self.wants_any(|measure| measure.name == "pie_lpips") {
                for (at, distance) in distances(lpips, pictures, Picture::without_region)? {
                    pictures[at].measured.set("pie_lpips", distance);
                }
            }
        }
        Ok(())
    }

    fn dino(&self, pictures: &mut [Picture<'_>]) -> Result<()> {
        let Some(dino) = self.networks.dino.as_ref().filter(|_| self.wants(&Network::Dino)) else { return Ok(()) };
        let error = |error| Network::Dino.error(error);
        let compared: Vec<usize> = (0..pictures.len()).filter(|at| pictures[*at].pair.is_some()).collect();
        for batch in compared.chunks(BATCH / 2) {
            let both = batch.iter().filter_map(|at| pictures[*at].pair.as_ref()).flat_map(|(a, b)| [a, b]);
            let similarities = dino.self_similarities(&both.collect::<Vec<_>>()).map_err(error)?;
            for (at, pair) in batch.iter().zip(similarities.as_chunks::<2>().0) {
                let [picture, reference] = pair;
                let distance = dino.distance(picture, reference).map_err(error)?;
                pictures[*at].measured.set("structure_distance", distance);
            }
        }
        Ok(())
    }

    fn pairs(&self, pictures: &mut [Picture<'_>]) -> Result<()> {
        let Some(inception) = self.networks.inception.as_ref().filter(|_| self.wants(&Network::Inception)) else {
            return Ok(());
        };
        for picture in pictures {
            let Some((a, b)) = &picture.pair else { continue };
            let distance = pair_distance(inception, &a.f_unsqueeze(0)?, &b.f_unsqueeze(0)?)?;
            picture.measured.set("pair_feature_distance_64", distance);
        }
        Ok(())
    }
}

/// A picture under way.
struct Picture<'a> {
    subject: &'a Subject,
    /// The region that the pictures of its task share.
    common: Option<Rc<Gray8>>,
    /// The picture and its reference, `[3, h, w]`, float64, in [0, 255].
    pair: Option<(Tensor, Tensor)>,
    /// Where its background is.
    region: Option<Region>,
    measured: Measured,
}

impl Picture<'_> {
    /// Picture and reference with a black region; `None` without a region that has an inside.
    fn without_region(&self) -> Result<Option<(Tensor, Tensor)>> {
        let region = self.region.as_ref().filter(|region| region.has_inside());
        let (Some(region), Some((a, b))) = (region, &self.pair) else { return Ok(None) };
        Ok(Some((region.without_inside(a)?, region.without_inside(b)?)))
    }
}

fn copied((a, b): &(Tensor, Tensor)) -> (Tensor, Tensor) {
    (a.shallow_clone(), b.shallow_clone())
}

/// LPIPS of what `pair` gives of each picture, those of one size together.
fn distances<'a>(
    lpips: &Lpips,
    pictures: &[Picture<'a>],
    pair: impl Fn(&Picture<'a>) -> Result<Option<(Tensor, Tensor)>>,
) -> Result<Vec<(usize, f64)>> {
    let mut by_size: BTreeMap<Vec<i64>, Vec<usize>> = BTreeMap::new();
    for (at, picture) in pictures.iter().enumerate() {
        if let Some((a, _)) = picture.pair.as_ref().filter(|(a, _)| large_enough(a)) {
            by_size.entry(a.size()).or_default().push(at);
        }
    }
    let mut distances = Vec::new();
    for batch in by_size.values().flat_map(|alike| alike.chunks(BATCH)) {
        let (mut places, mut firsts, mut seconds) = (Vec::new(), Vec::new(), Vec::new());
        for at in batch {
            let Some((a, b)) = pair(&pictures[*at])? else { continue };
            places.push(*at);
            firsts.push(a);
            seconds.push(b);
        }
        if places.is_empty() {
            continue;
        }
        let found = lpips.distance(&Tensor::f_stack(&firsts, 0)?, &Tensor::f_stack(&seconds, 0)?);
        distances.extend(places.into_iter().zip(found.map_err(|error| Network::Lpips(lpips.trunk()).error(error))?));
    }
    Ok(distances)
}

/// A picture and its reference, `[3, h, w]`, with where its background is, where there is one.
type Compared = (Option<(Tensor, Tensor)>, Option<Region>);

/// Measures the background where that is wanted, and gives what networks compare.
fn against_reference(
    subject: &Subject,
    common: Option<&Gray8>,
    wants_background: bool,
    measured: &mut Measured,
) -> Result<Compared> {
    let Some(reference) = &subject.reference else { return Ok((None, None)) };
    let pair = (tensor(&subject.picture)?, tensor(reference)?);
    if !wants_background {
        return Ok((Some(pair), None));
    }
    let size = (subject.picture.width, subject.picture.height);
    let (region, kind) = match (subject.region.as_ref(), common) {
        (Some(mask), _) => (Region::outside_of(mask, size)?, RegionKind::Given),
        (None, Some(mask)) => (Region::outside_of(mask, size)?, RegionKind::Common),
        (None, None) => (Ok(Region::whole(size.0, size.1)?), RegionKind::Whole),
    };
    measured.region = kind;
    let region = match region {
        Err(error) => {
            measured.notes.push(error.to_string());
            None
        }
        Ok(region) => {
            measure_background(&pair, &region, measured)?;
            Some(region)
        }
    };
    Ok((Some(pair), region))
}

fn measure_background((picture, reference): &(Tensor, Tensor), region: &Region, measured: &mut Measured) -> Result<()> {
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
    Ok(())
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
