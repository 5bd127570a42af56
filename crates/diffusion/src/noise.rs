//! A task's noise: drawn on the CPU from a generator seeded by the task, all of it before the task's loop.
//!
//! The order is diffusers': VAE posterior sample, `ε_r`, where denoising starts from noise of its own that noise, then one
//! variance noise a scheduler step that takes one. So a
//! task's noise depends on its seed alone, and `img2img` gives what diffusers gives with
//! `torch.Generator("cpu").manual_seed(seed)`.

use std::sync::Mutex;

use tch::{Device, Kind, Tensor};

use crate::error::Result;

/// libtorch's CPU generator belongs to the process: one task draws at a time.
static GENERATOR: Mutex<()> = Mutex::new(());

/// What a task draws, beside `ε_r`.
#[derive(Debug, Clone, Copy)]
pub struct Draws {
    /// Whether there is a reference, and so a posterior.
    pub with_reference: bool,
    /// Whether denoising starts from noise of its own.
    pub own_start: bool,
    /// Scheduler steps that take noise.
    pub variance: usize,
}

/// Everything a task draws.
#[derive(Debug)]
pub struct TaskNoise {
    /// For the VAE's posterior, `[1, 4, h, w]`; drawn only where there is a reference.
    pub posterior: Option<Tensor>,
    /// `ε_r`, `[1, 4, h, w]`: the reference's own noise at the start and at each edit; without a reference, the start.
    pub reference: Tensor,
    /// What denoising starts from instead of the noised reference, `[1, 4, h, w]`.
    pub start: Option<Tensor>,
    /// One for each step that takes one, `[1, 4, h, w]`, in the order of the steps.
    pub variance: Vec<Tensor>,
}

impl TaskNoise {
    /// Draws from `seed`, each float32 of `shape` (batch 1 included).
    pub fn draw(seed: u64, shape: [i64; 4], draws: Draws) -> Result<Self> {
        let _one_at_a_time = GENERATOR.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        tch::manual_seed(seed as i64);
        let randn = || Tensor::f_randn(shape, (Kind::Float, Device::Cpu));
        Ok(Self {
            posterior: if draws.with_reference { Some(randn()?) } else { None },
            reference: randn()?,
            start: if draws.own_start { Some(randn()?) } else { None },
            variance: (0..draws.variance).map(|_| randn()).collect::<Result<_, _>>()?,
        })
    }
}

/// The Gaussian matrices `[⌈elements / 8⌉, 8, 8]` float32 with which strips of eight latent elements are mixed, the same
/// for the same seed.
pub(crate) fn mixtures(seed: u64, elements: i64) -> Result<Tensor> {
    let _one_at_a_time = GENERATOR.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    tch::manual_seed(seed as i64);
    Ok(Tensor::f_randn([(elements + 7) / 8, 8, 8], (Kind::Float, Device::Cpu))?)
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
        let draws = Draws { with_reference: false, own_start: false, variance: 0 };
        let noise = TaskNoise::draw(42, [1, 1, 1, 2], draws).unwrap();
        let values = Vec::<f32>::try_from(noise.reference.flatten(0, -1)).unwrap();
        assert_eq!(values, [0.336_690_37, 0.128_809_4]);
    }

    #[test]
    fn threads_that_draw_at_once_do_not_mix_their_noise() {
        let draws = Draws { with_reference: true, own_start: true, variance: 3 };
        let alone = TaskNoise::draw(7, [1, 4, 64, 64], draws).unwrap();
        let threads: Vec<_> =
            (0..4).map(|_| std::thread::spawn(move || TaskNoise::draw(7, [1, 4, 64, 64], draws).unwrap())).collect();
        for thread in threads {
            let noise = thread.join().unwrap();
            assert!(noise.reference.equal(&alone.reference));
            assert!(noise.variance[2].equal(&alone.variance[2]));
        }
    }
}
