//! What the timestep adds to each residual block. It depends on nothing else, so it is computed once a timestep and kept:
//! every step of every later batch on the same timesteps finds it.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use tch::{Device, Kind, Tensor};

use crate::error::{Error, Result};
use crate::model::nn::Linear;
use crate::model::weights::Weights;

/// Timesteps that are kept: a whole schedule of training. Of Stable Diffusion v1.5 each takes 40 KB in half precision and
/// 80 KB in float32.
const TIMESTEPS_KEPT: usize = 1024;

/// Sinusoidal features of a timestep through two linear layers.
pub(super) struct TimeEmbedding {
    channels: i64,
    flip_sin_to_cos: bool,
    freq_shift: f64,
    linear_1: Linear,
    linear_2: Linear,
    kind: Kind,
    device: Device,
}

impl TimeEmbedding {
    /// Takes the layers; `channels` features become `4·channels`.
    pub(super) fn load(w: &Weights, channels: i64, flip_sin_to_cos: bool, freq_shift: f64) -> Result<Self> {
        let linear_1 = Linear::load(w, "time_embedding.linear_1", channels, 4 * channels, true)?;
        let linear_2 = Linear::load(w, "time_embedding.linear_2", 4 * channels, 4 * channels, true)?;
        let (kind, device) = (linear_1.weight.kind(), linear_1.weight.device());
        Ok(Self { channels, flip_sin_to_cos, freq_shift, linear_1, linear_2, kind, device })
    }

    /// `[1, 4·C0]`.
    fn forward(&self, timestep: f64) -> Result<Tensor> {
        let half = self.channels / 2;
        let options = (Kind::Float, self.device);
        let exponent = Tensor::f_arange(half, options)?
            .f_mul_scalar(-(10_000f64.ln()))?
            .f_div_scalar(half as f64 - self.freq_shift)?;
        let angles = exponent.f_exp()?.f_mul_scalar(timestep)?;
        let (sin, cos) = (angles.f_sin()?, angles.f_cos()?);
        let parts = if self.flip_sin_to_cos { [cos, sin] } else { [sin, cos] };
        let features = Tensor::f_cat(&parts, 0)?.f_unsqueeze(0)?.f_to_kind(self.kind)?;
        self.linear_2.forward(&self.linear_1.forward(&features)?.f_silu()?)
    }

    /// What a timestep adds to each residual block, whose projections are given in the order in which the blocks run:
    /// `[1, C, 1, 1]` each.
    pub(super) fn additions(&self, timestep: f64, projections: &[&Linear]) -> Result<Vec<Tensor>> {
        tch::no_grad(|| {
            let activated = self.forward(timestep)?.f_silu()?;
            let addition = |layer: &&Linear| Ok(layer.forward(&activated)?.f_unsqueeze(-1)?.f_unsqueeze(-1)?);
            projections.iter().map(addition).collect()
        })
    }
}

/// The additions of the timesteps that were asked for. A thread that runs kernels alone may round otherwise than one that
/// shares them among threads, so each finds its own.
#[derive(Default)]
pub(super) struct Additions(Mutex<HashMap<(u64, i32), Vec<Tensor>>>);

impl Additions {
    /// Those of a timestep, computed unless they are known. Threads that ask for the same at once wait for the first.
    pub(super) fn at(&self, timestep: f64, compute: impl FnOnce() -> Result<Vec<Tensor>>) -> Result<Vec<Tensor>> {
        let handles = |additions: &Vec<Tensor>| additions.iter().map(Tensor::shallow_clone).collect();
        let key = (timestep.to_bits(), tch::get_num_threads());
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(additions) = known.get(&key) {
            return Ok(handles(additions));
        }
        let additions = compute()?;
        if known.len() >= TIMESTEPS_KEPT {
            known.clear();
        }
        let of_this = handles(&additions);
        known.insert(key, additions);
        Ok(of_this)
    }
}

/// Walks through the additions in the order in which the residual blocks run.
pub(super) struct TimeCursor<'a>(std::slice::Iter<'a, Tensor>);

impl<'a> TimeCursor<'a> {
    pub(super) fn new(additions: &'a [Tensor]) -> Self {
        Self(additions.iter())
    }

    /// What is added to the next block, `[1, C, 1, 1]`.
    pub(super) fn next(&mut self) -> Result<&'a Tensor> {
        self.0.next().ok_or_else(|| Error::Torch("the network has more blocks than time projections".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn a_timestep_is_computed_once_and_again_only_when_too_many_were_kept() {
        let additions = Additions::default();
        let computed = Cell::new(0);
        let at = |timestep: f64| {
            let compute = || {
                computed.set(computed.get() + 1);
                Ok(vec![Tensor::from_slice(&[timestep])])
            };
            let found = additions.at(timestep, compute).unwrap();
            assert_eq!(Vec::<f64>::try_from(&found[0]).unwrap(), [timestep]);
            computed.get()
        };
        assert_eq!([at(981.0), at(961.0), at(981.0), at(981.5), at(961.0)], [1, 2, 2, 3, 3]);
        for timestep in 0..TIMESTEPS_KEPT {
            at(timestep as f64);
        }
        assert!(additions.0.lock().unwrap().len() <= TIMESTEPS_KEPT);
        let before = computed.get();
        assert_eq!(at(981.5), before + 1, "it was forgotten with all others");
    }

    #[test]
    fn a_network_with_more_blocks_than_projections_is_an_error() {
        let additions = [Tensor::from_slice(&[1.0f32])];
        let mut cursor = TimeCursor::new(&additions);
        assert!(cursor.next().is_ok() && cursor.next().is_err());
    }
}
