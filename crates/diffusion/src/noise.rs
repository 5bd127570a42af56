//! A task's noise: drawn on the CPU from a generator seeded by the task, all of it before the task's loop.
//!
//! The order is diffusers': VAE posterior sample, `ε_r`, then one variance noise a scheduler step that takes one. So a
//! task's noise depends on its seed alone, and `img2img` gives what diffusers gives with
//! `torch.Generator("cpu").manual_seed(seed)`.

use std::sync::Mutex;

use tch::{Device, Kind, Tensor};

use crate::error::Result;

/// libtorch's CPU generator belongs to the process: one task draws at a time.
static GENERATOR: Mutex<()> = Mutex::new(());

/// Everything a task draws.
#[derive(Debug)]
pub struct TaskNoise {
    /// For the VAE's posterior, `[1, 4, h, w]`; drawn only where there is a reference.
    pub posterior: Option<Tensor>,
    /// `ε_r`, `[1, 4, h, w]`: the start, and the reference's own noise at each edit.
    pub reference: Tensor,
    /// One for each step that takes one, `[1, 4, h, w]`, in the order of the steps.
    pub variance: Vec<Tensor>,
}

impl TaskNoise {
    /// Draws from `seed`: the posterior's if `with_reference`, `ε_r`, then `variance_draws` more, each float32 of
    /// `shape` (batch 1 included).
    pub fn draw(seed: u64, shape: [i64; 4], with_reference: bool, variance_draws: usize) -> Result<Self> {
        let _one_at_a_time = GENERATOR.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        tch::manual_seed(seed as i64);
        let randn = || Tensor::f_randn(shape, (Kind::Float, Device::Cpu));
        Ok(Self {
            posterior: if with_reference { Some(randn()?) } else { None },
            reference: randn()?,
            variance: (0..variance_draws).map(|_| randn()).collect::<Result<_, _>>()?,
        })
    }
}

/// `count` vectors of random signs, `[count, dims…]` float32 of −1 and 1, the same for the same seed.
pub(crate) fn random_signs(seed: u64, shape: &[i64]) -> Result<Tensor> {
    let _one_at_a_time = GENERATOR.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    tch::manual_seed(seed as i64);
    Ok(Tensor::f_randint(2, shape, (Kind::Float, Device::Cpu))?.f_mul_scalar(2.0)?.f_sub_scalar(1.0)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_numbers_of_pytorch() {
        // torch.randn(1, 1, 1, 2, generator=torch.Generator("cpu").manual_seed(42))
        let noise = TaskNoise::draw(42, [1, 1, 1, 2], false, 0).unwrap();
        let values = Vec::<f32>::try_from(noise.reference.flatten(0, -1)).unwrap();
        assert_eq!(values, [0.336_690_37, 0.128_809_4]);
    }

    #[test]
    fn threads_that_draw_at_once_do_not_mix_their_noise() {
        let alone = TaskNoise::draw(7, [1, 4, 64, 64], true, 3).unwrap();
        let threads: Vec<_> =
            (0..4).map(|_| std::thread::spawn(|| TaskNoise::draw(7, [1, 4, 64, 64], true, 3).unwrap())).collect();
        for thread in threads {
            let noise = thread.join().unwrap();
            assert!(noise.reference.equal(&alone.reference));
            assert!(noise.variance[2].equal(&alone.variance[2]));
        }
    }
}
