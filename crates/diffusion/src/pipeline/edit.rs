//! The edits of a batch: scores and masks of its rows, and what the masks leave out put back to the noised reference.
//! On a GPU rows are edited a few at a time, and what explains their edits stays there until the loop is done.

use tch::{Device, Tensor};

use super::host::copies;
use super::predict::{Predicted, Texts};
use super::sampling::Row;
use super::{Edit, StableDiffusion};
use crate::error::{Error, Result};
use crate::method::Arithmetic;
use crate::method::extent::{Extent, most_alike};
use crate::method::mask::{Masking, coverage};
use crate::method::score::{Plan, ScoredRows};

/// Spreads the seeds of one task's edits over all seeds.
const EDIT_SEED_STRIDE: u64 = 0x9e37_79b9_7f4a_7c15;
/// Latent positions that are scored at once on a GPU: four rows of 64×64, for which the closed form of Stable Diffusion
/// v1.5 holds about 2 GB.
const POSITIONS_AT_ONCE: i64 = 4 * 64 * 64;
/// Bytes of scores, masks and latents that stay on a GPU until they are brought to the CPU.
const KEPT: usize = 256 << 20;

/// A batch in the middle of its denoising: what the network was given and what it said.
pub(super) struct Scene<'a> {
    pub(super) model: &'a StableDiffusion,
    /// Padding included.
    pub(super) rows: &'a [&'a Row<'a>],
    pub(super) predicted: &'a Predicted,
    pub(super) texts: &'a Texts<'a>,
    pub(super) input: &'a Tensor,
    pub(super) timestep: f64,
    pub(super) step: usize,
}

/// The edits of a run.
pub(super) struct Edits {
    /// After which step each comes, less one.
    steps: Vec<usize>,
    plan: Plan,
    masking: Masking,
    /// Rows without the padding.
    rows: usize,
    device: Device,
    /// Those that were made and lie on the device.
    made: Vec<Made>,
    /// Those of each row that are on the CPU.
    done: Vec<Vec<Edit>>,
}

/// One edit of the batch.
struct Made {
    step: usize,
    timestep: f64,
    rows: Vec<MadeRow>,
    /// `[rows, 4, h, w]`.
    before: Tensor,
    after: Tensor,
}

/// What an edit did to one row; coverages are float64 without dimensions.
struct MadeRow {
    scores: Vec<Tensor>,
    mask: Tensor,
    /// Of each subject by itself, where there are several.
    subject_masks: Vec<Tensor>,
    subject_coverage: Vec<Tensor>,
    coverage: Tensor,
}

impl Edits {
    /// Edits at `steps` of the list of timesteps, of the first `rows` of a batch.
    pub(super) fn new(steps: Vec<usize>, plan: Plan, masking: Masking, rows: usize, device: Device) -> Self {
        let done = std::iter::repeat_with(Vec::new).take(rows).collect();
        Self { steps, plan, masking, rows, device, made: Vec::new(), done }
    }

    /// Whether an edit follows step i.
    pub(super) fn follow(&self, i: usize) -> bool {
        self.steps.contains(&(i + 1))
    }

    pub(super) fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Gives the latents `[B, 4, h, w]` as they are after the edit, at `timestep`; `noised` is the reference there.
    pub(super) fn make(
        &mut self,
        scene: &Scene<'_>,
        timestep: f64,
        latents: Tensor,
        noised: &Tensor,
    ) -> Result<Tensor> {
        let size = scene.rows.len() as i64;
        let count = at_once(&latents, size, scene.model.arithmetic)?;
        let mut rows = Vec::with_capacity(self.rows);
        for (first, done) in groups(self.rows as i64, size, count) {
            let group = self.group(scene, first, count)?;
            rows.extend(group.into_iter().skip(done).take(self.rows - rows.len()));
        }
        let real = |x: &Tensor| x.f_narrow(0, 0, self.rows as i64);
        let masks: Vec<&Tensor> = rows.iter().map(|row| &row.mask).collect();
        let before = real(&latents)?.f_detach_copy()?;
        let after = before.f_where_self(&Tensor::f_stack(&masks, 0)?, &real(noised)?)?;
        real(&latents)?.f_copy_(&after)?;
        self.made.push(Made { step: scene.step + 1, timestep, rows, before, after });
        if self.device == Device::Cpu || self.kept() > KEPT {
            self.bring_to_cpu()?;
        }
        Ok(latents)
    }

    /// Scores and masks of the rows from `first` on.
    fn group(&self, scene: &Scene<'_>, first: i64, count: i64) -> Result<Vec<MadeRow>> {
        let part = |x: &Tensor| x.f_narrow(0, first, count);
        let rows = &scene.rows[first as usize..(first + count) as usize];
        let of_edit = EDIT_SEED_STRIDE.wrapping_mul(scene.step as u64 + 1);
        let seeds: Vec<u64> = rows.iter().map(|row| row.request.seed.wrapping_add(of_edit)).collect();
        let unconditional = scene.predicted.unconditional.as_ref().map(part).transpose()?;
        let scored = ScoredRows {
            unet: &scene.model.unet,
            tap: &scene.predicted.tap,
            first,
            input: &part(scene.input)?,
            timestep: scene.timestep,
            text: &|row| scene.texts.conditional(first + row),
            conditional: &part(&scene.predicted.conditional)?,
            unconditional: unconditional.as_ref(),
            seeds: &seeds,
        };
        let positions = rows.iter().map(|row| row.prompt.subjects.iter().map(|subject| subject.positions.as_slice()));
        let positions: Vec<Vec<&[i64]>> = positions.map(Iterator::collect).collect();
        let scores = scene.model.scorer.scores(&self.plan, &scored, &positions)?;
        masked(scores, &self.masking.rows(first, count)?)
    }

    /// Bytes that lie on the device.
    fn kept(&self) -> usize {
        let row = |row: &MadeRow| row.mask.numel() * (1 + row.subject_masks.len() + 4 * (row.scores.len() + 2));
        self.made.iter().flat_map(|made| made.rows.iter().map(row)).sum()
    }

    /// Each row's edits, in order.
    pub(super) fn on_cpu(mut self) -> Result<Vec<Vec<Edit>>> {
        self.bring_to_cpu()?;
        Ok(self.done)
    }

    /// Tensors of one kind go together, so that the device is waited for three times and no more.
    fn bring_to_cpu(&mut self) -> Result<()> {
        let all = || self.made.iter().flat_map(|made| made.rows.iter());
        let masks = copies(&all().flat_map(|row| row.subject_masks.iter().chain([&row.mask])).collect::<Vec<_>>())?;
        let shares: Vec<&Tensor> = all().flat_map(|row| row.subject_coverage.iter().chain([&row.coverage])).collect();
        let shares = if shares.is_empty() { Vec::new() } else { Vec::<f64>::try_from(Tensor::f_stack(&shares, 0)?)? };
        let mut floats = Vec::new();
        for made in &self.made {
            for (i, row) in (0..).zip(&made.rows) {
                floats.extend(row.scores.iter().map(Tensor::shallow_clone));
                floats.extend([made.before.f_get(i)?, made.after.f_get(i)?]);
            }
        }
        let floats = copies(&floats.iter().collect::<Vec<_>>())?;
        let (mut masks, mut shares, mut floats) = (masks.into_iter(), shares.into_iter(), floats.into_iter());
        let lost = || Error::Torch("an edit was lost on its way from the device".to_owned());
        for made in self.made.drain(..) {
            for (row, done) in made.rows.iter().zip(&mut self.done) {
                let subject_masks: Vec<Tensor> = masks.by_ref().take(row.subject_masks.len()).collect();
                let mask = masks.next().ok_or_else(lost)?;
                done.push(Edit {
                    step: made.step,
                    timestep: made.timestep,
                    estimator: self.plan.estimator,
                    scores: floats.by_ref().take(row.scores.len()).collect(),
                    subject_coverage: shares.by_ref().take(row.subject_coverage.len()).collect(),
                    extent: Extent::of(&mask)?,
                    most_alike: most_alike(&subject_masks)?,
                    mask,
                    coverage: shares.next().ok_or_else(lost)?,
                    before: floats.next().ok_or_else(lost)?,
                    after: floats.next().ok_or_else(lost)?,
                });
            }
        }
        Ok(())
    }
}

/// Rows that are scored together. On a CPU each by itself, which keeps what it needs in the cache.
fn at_once(latents: &Tensor, size: i64, arithmetic: Arithmetic) -> Result<i64> {
    let (_, _, height, width) = latents.size4()?;
    let at_once = if arithmetic == Arithmetic::Cpu { 1 } else { POSITIONS_AT_ONCE / (height * width) };
    Ok(at_once.clamp(1, size))
}

/// Where groups of `count` rows begin in a batch of `size`, until the first `rows` are done, and how many of each group
/// were done before it: the last one begins early enough to be as large as all others.
fn groups(rows: i64, size: i64, count: i64) -> impl Iterator<Item = (i64, usize)> {
    (0..rows).step_by(count as usize).map(move |next| {
        let first = next.min(size - count);
        (first, (next - first) as usize)
    })
}

/// The masks of rows by the scores of their subjects: first of the first subject of each, then of the second, and so on.
/// A row that has fewer repeats its first, which adds nothing to its own mask and depends on nobody else.
fn masked(scores: Vec<Vec<Tensor>>, masking: &Masking) -> Result<Vec<MadeRow>> {
    let without = || Error::Torch("an edit without subjects".to_owned());
    let mut union: Option<Tensor> = None;
    let mut shares: Vec<Vec<Tensor>> = scores.iter().map(|_| Vec::new()).collect();
    let mut apart: Vec<Vec<Tensor>> = scores.iter().map(|_| Vec::new()).collect();
    for place in 0..scores.iter().map(Vec::len).max().unwrap_or(0) {
        let taken = scores.iter().map(|of_row| of_row.get(place).or(of_row.first()).ok_or_else(without));
        let masks = masking.masks(&Tensor::f_stack(&taken.collect::<Result<Vec<_>>>()?, 0)?)?;
        for ((shares, of_row), share) in shares.iter_mut().zip(&scores).zip(coverage(&masks)?.f_unbind(0)?) {
            if place < of_row.len() {
                shares.push(share);
            }
        }
        for ((apart, of_row), mask) in apart.iter_mut().zip(&scores).zip(masks.f_unbind(0)?) {
            if of_row.len() > 1 && place < of_row.len() {
                apart.push(mask);
            }
        }
        union = Some(match union {
            None => masks,
            Some(union) => union.f_logical_or(&masks)?,
        });
    }
    let union = union.ok_or_else(without)?;
    let coverages = coverage(&union)?.f_unbind(0)?;
    let rows = scores.into_iter().zip(apart).zip(shares).zip(union.f_unbind(0)?).zip(coverages);
    let row = |((((scores, subject_masks), subject_coverage), mask), coverage)| MadeRow {
        scores,
        mask,
        subject_masks,
        subject_coverage,
        coverage,
    };
    Ok(rows.map(row).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_in_one_group_and_all_groups_have_the_same_size() {
        for size in 1..=9i64 {
            for (rows, count) in (1..=size).flat_map(|rows| (1..=size).map(move |count| (rows, count))) {
                let mut done = Vec::new();
                for (first, before) in groups(rows, size, count) {
                    assert!(first >= 0 && first + count <= size, "{rows} of {size} by {count}");
                    done.extend((first..first + count).skip(before).take((rows as usize) - done.len()));
                }
                assert_eq!(done, (0..rows).collect::<Vec<_>>(), "{rows} of {size} by {count}");
            }
        }
    }
}
