//! How many pictures a batch has where nobody says.

use super::StableDiffusion;

/// On a CPU: more hardly take less time each, and each takes memory.
const ON_CPU: usize = 4;
/// On a GPU whose memory nobody knows.
const UNKNOWN: usize = 4;
/// More than so many keep no GPU busier.
const MOST: u64 = 16;
/// What a picture of a batch takes while it is denoised, in feature maps of the network's full resolution: of Stable
/// Diffusion v1.5 at 512×512 in float32 a second picture was measured to take 2.1 GiB, which is 430 of them.
const MAPS: u64 = 430;
/// What the decoder and the closed form of the masks take beside, for as many pictures as they take at once: each about
/// 2 GB.
const AROUND: u64 = 4 << 30;

impl StableDiffusion {
    /// Pictures in a batch of the model's own size: on a GPU by its whole memory, so that all cards of one kind take the
    /// same and make the same pictures, whatever else is on them.
    pub fn best_batch_size(&self) -> usize {
        if !self.options.device.is_cuda() {
            return ON_CPU;
        }
        let Some(memory) = self.options.device.memory() else { return UNKNOWN };
        let number = if self.options.dtype == crate::device::Dtype::F32 { 4 } else { 2 };
        let (width, height) = self.unet.sample_size();
        let map = (width * height * self.unet.channels()).unsigned_abs() * number;
        // Text encoder and autoencoder are a fifth of the network.
        let weights = self.unet.parameters() as u64 * number * 6 / 5;
        fitting(memory, weights, map * MAPS)
    }
}

/// The power of two of pictures that fit into nine tenths of the memory beside the weights.
fn fitting(memory: u64, weights: u64, picture: u64) -> usize {
    let free = (memory / 10 * 9).saturating_sub(weights + AROUND);
    let fit = (free / picture.max(1)).clamp(1, MOST);
    1 << fit.ilog2()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cards_of_8_to_141_gb_take_1_to_16_pictures_of_stable_diffusion() {
        let picture = |number: u64| 64 * 64 * 320 * number * MAPS;
        let gib = |n: u64| n << 30;
        let half = [8, 12, 16, 24, 40, 80, 141].map(|n| fitting(gib(n), 2_100_000_000, picture(2)));
        assert_eq!(half, [1, 4, 8, 8, 16, 16, 16]);
        let full = [8, 12, 16, 24, 40, 80, 141].map(|n| fitting(gib(n), 4_200_000_000, picture(4)));
        assert_eq!(full, [1, 1, 2, 4, 8, 16, 16]);
        assert_eq!(fitting(0, 1, picture(4)), 1, "one picture is always tried");
    }
}
