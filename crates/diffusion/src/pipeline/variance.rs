//! The noise that a scheduler adds at each of its steps, brought to the device before the steps that take it.

use tch::Tensor;

use crate::error::{Error, Result};

/// Bytes that lie on a GPU at once: of 256 steps at batch 16 and 512×512 pixels. Longer runs upload again on their way.
const AT_ONCE: usize = 256 << 20;

/// The variance noise of a batch.
pub(super) struct VarianceNoise<'a> {
    /// The draws of each row, padding included: one `[1, 4, h, w]` a step that takes one, on the CPU.
    rows: Vec<&'a [Tensor]>,
    /// The steps that take one.
    steps: Vec<usize>,
    device: tch::Device,
    /// Draws that are uploaded together.
    at_once: usize,
    /// `[draws, B, 4, h, w]` on the device, and the first of the draws.
    uploaded: Option<(usize, Tensor)>,
}

impl<'a> VarianceNoise<'a> {
    /// Uploads what the first steps take. `rows` have a draw for each of `steps`.
    pub(super) fn new(rows: Vec<&'a [Tensor]>, steps: Vec<usize>, device: tch::Device) -> Result<Self> {
        let numbers: usize = rows.iter().filter_map(|draws| draws.first()).map(Tensor::numel).sum();
        // Where nothing is uploaded, nothing is gained by a copy of it all.
        let at_once = if device == tch::Device::Cpu { 1 } else { (AT_ONCE / (4 * numbers).max(1)).max(1) };
        let mut noise = Self { rows, steps, device, at_once, uploaded: None };
        if !noise.steps.is_empty() {
            noise.upload(0)?;
        }
        Ok(noise)
    }

    /// That of `step`, `[B, 4, h, w]`, if it takes one.
    pub(super) fn at(&mut self, step: usize) -> Result<Option<Tensor>> {
        let Ok(draw) = self.steps.binary_search(&step) else { return Ok(None) };
        let within = |(first, draws): &(usize, Tensor)| (*first..first + draws.size()[0] as usize).contains(&draw);
        if !self.uploaded.as_ref().is_some_and(within) {
            self.upload(draw)?;
        }
        let of_draw = |(first, draws): &(usize, Tensor)| draws.f_get((draw - first) as i64);
        Ok(self.uploaded.as_ref().map(of_draw).transpose()?)
    }

    fn upload(&mut self, first: usize) -> Result<()> {
        // What was used makes room first.
        self.uploaded = None;
        let draws = first..(first + self.at_once).min(self.steps.len());
        let missing = || Error::Torch("a step without noise".to_owned());
        let parts = draws.clone().flat_map(|draw| self.rows.iter().map(move |row| row.get(draw).ok_or_else(missing)));
        let together = Tensor::f_cat(&parts.collect::<Result<Vec<_>>>()?, 0)?;
        let mut shape = vec![draws.len() as i64, self.rows.len() as i64];
        shape.extend(&together.size()[1..]);
        self.uploaded = Some((first, together.f_view(shape.as_slice())?.f_to_device(self.device)?));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};

    use super::*;

    #[test]
    fn each_step_gets_its_draw_of_each_row_however_many_are_uploaded_together() {
        let rows: Vec<Vec<Tensor>> = (0..3)
            .map(|row| {
                let of_draw = |draw| Tensor::full([1, 4, 2, 2], 10 * row + draw, (Kind::Float, Device::Cpu));
                (0..5i64).map(of_draw).collect()
            })
            .collect();
        for at_once in [1, 2, 3, 5, 8] {
            let padded: Vec<&[Tensor]> = [0, 1, 2, 0].iter().map(|&row| rows[row].as_slice()).collect();
            let mut noise = VarianceNoise::new(padded, vec![0, 1, 3, 4, 7], Device::Cpu).unwrap();
            noise.at_once = at_once;
            let mut seen = Vec::new();
            for step in 0..9 {
                if let Some(noise) = noise.at(step).unwrap() {
                    assert_eq!(noise.size(), [4, 4, 2, 2]);
                    seen.push(Vec::<f32>::try_from(noise.select(1, 0).select(1, 0).select(1, 0)).unwrap());
                }
            }
            let expected: Vec<Vec<f32>> =
                (0..5u8).map(|i| [0, 10, 20, 0].map(|row| f32::from(row + i)).to_vec()).collect();
            assert_eq!(seen, expected, "{at_once} at once");
        }
    }

    #[test]
    fn steps_without_noise_and_rows_with_too_few_draws_are_told_apart() {
        let draws = [Tensor::zeros([1, 4, 2, 2], (Kind::Float, Device::Cpu))];
        assert!(VarianceNoise::new(vec![&[]], Vec::new(), Device::Cpu).unwrap().at(0).unwrap().is_none());
        assert!(VarianceNoise::new(vec![&draws], vec![0, 1], Device::Cpu).unwrap().at(1).is_err());
    }
}
