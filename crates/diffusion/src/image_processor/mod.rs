//! Between 8-bit pictures and what the autoencoder takes and gives, as diffusers' `VaeImageProcessor` does it: Lanczos
//! resizing with Pillow's arithmetic, and [-1, 1]. Tensors are float32 `[n, 3, h, w]`, on the CPU going in.

pub mod resample;

use tch::{Device, Kind, Tensor};

use crate::error::{Error, Result};

/// A longer side than any model here could take; keeps sizes in range of the arithmetic.
const MAX_SIDE: u32 = 65_535;

/// 8-bit RGB, row by row from the top.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rgb {
    /// Pixels a row.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// R, G, B of each pixel: `width * height * 3` bytes.
    pub data: Vec<u8>,
}

/// 8-bit grey, row by row from the top.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Gray {
    /// Pixels a row.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// One byte a pixel: `width * height`.
    pub data: Vec<u8>,
}

impl Rgb {
    /// Whether size and data belong together.
    ///
    /// # Errors
    /// [`Error::Picture`] if a side is 0 or longer than 65,535, or there is more or less data than pixels.
    pub fn check(&self) -> Result<()> {
        check(self.width, self.height, self.data.len(), 3)
    }
}

impl Gray {
    /// Whether size and data belong together.
    ///
    /// # Errors
    /// [`Error::Picture`] if a side is 0 or longer than 65,535, or there is more or less data than pixels.
    pub fn check(&self) -> Result<()> {
        check(self.width, self.height, self.data.len(), 1)
    }
}

fn check(width: u32, height: u32, bytes: usize, channels: usize) -> Result<()> {
    if !(1..=MAX_SIDE).contains(&width) || !(1..=MAX_SIDE).contains(&height) {
        return Err(Error::Picture(format!("{width}x{height} pixels are not between 1 and {MAX_SIDE} a side")));
    }
    let pixels = width as usize * height as usize;
    if bytes != pixels * channels {
        return Err(Error::Picture(format!("{bytes} bytes are not {width}x{height} pixels of {channels}")));
    }
    Ok(())
}

/// A picture, resized to `width` × `height`: `[1, 3, height, width]` float32 in [-1, 1] on the CPU.
///
/// # Errors
/// [`Error::Picture`] if the picture, or the size, is not one; [`Error::Torch`].
pub fn preprocess(picture: &Rgb, width: u32, height: u32) -> Result<Tensor> {
    let resized = resize(picture, width, height)?;
    let (width, height) = (i64::from(width), i64::from(height));
    let pixels = Tensor::f_from_slice(&resized.data)?.f_view([1, height, width, 3])?.f_permute([0, 3, 1, 2])?;
    let unit = pixels.f_contiguous()?.f_to_kind(Kind::Float)?.f_div_scalar(255.0)?;
    Ok(unit.f_mul_scalar(2.0)?.f_sub_scalar(1.0)?)
}

/// A picture in another size, as Pillow's `resize(…, LANCZOS)`.
///
/// # Errors
/// [`Error::Picture`] if the picture, or the size, is not one.
pub fn resize(picture: &Rgb, width: u32, height: u32) -> Result<Rgb> {
    picture.check()?;
    check(width, height, width as usize * height as usize * 3, 3)?;
    let from = (picture.width as usize, picture.height as usize);
    let data = resample::resize(&picture.data, 3, from, (width as usize, height as usize), resample::Filter::Lanczos);
    Ok(Rgb { width, height, data })
}

/// Decoded pictures `[n, 3, h, w]` of any kind, nominally in [-1, 1], to bytes, where they lie: halves go to the even
/// neighbour. A picture that holds NaN or infinity is none. Bytes and findings leave the device together, in one copy.
///
/// # Errors
/// [`Error::Torch`] if the tensor has another shape.
pub fn postprocess(decoded: &Tensor) -> Result<Vec<Option<Rgb>>> {
    let (count, channels, height, width) = decoded.size4()?;
    if channels != 3 {
        return Err(Error::Torch(format!("a decoded picture has 3 channels, not {channels}")));
    }
    let decoded = decoded.f_to_kind(Kind::Float)?;
    let finite = decoded.f_isfinite()?.f_flatten(1, -1)?.f_all_dim(1, true)?.f_to_kind(Kind::Uint8)?;
    let unit = decoded.f_mul_scalar(0.5)?.f_add_scalar(0.5)?.f_clamp(0.0, 1.0)?;
    let bytes = unit.f_mul_scalar(255.0)?.f_round()?.f_to_kind(Kind::Uint8)?.f_permute([0, 2, 3, 1])?;
    let rows = on_host(&Tensor::f_cat(&[bytes.f_reshape([count, -1])?, finite], 1)?)?;
    let side = |side: i64| u32::try_from(side).map_err(|_| Error::Torch(format!("{side} is no picture's side")));
    let (width, height) = (side(width)?, side(height)?);
    let picture = |row: &Tensor| -> Result<Option<Rgb>> {
        let mut data = Vec::<u8>::try_from(row)?;
        let finite = data.pop() == Some(1);
        Ok(finite.then_some(Rgb { width, height, data }))
    };
    rows.f_unbind(0)?.iter().map(picture).collect()
}

/// A copy on the CPU; from a GPU into pinned memory, which it fills by itself.
fn on_host(x: &Tensor) -> Result<Tensor> {
    if x.device() == Device::Cpu {
        return Ok(x.shallow_clone());
    }
    let mut pinned = Tensor::f_empty(x.size(), (x.kind(), Device::Cpu))?.f_pin_memory(x.device())?;
    pinned.f_copy_(x)?;
    Ok(pinned)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The picture that the numbers below were made from: `(x·a + y·b + x·y·(c+1)) mod 256` in channel c.
    fn pattern(width: u32, height: u32) -> Rgb {
        let value = |x: u32, y: u32, c: u32| ((x * 37 + y * 91 + x * y * (c + 1)) % 256) as u8;
        let pixel = |y: u32, x: u32| (0..3).map(move |c| value(x, y, c));
        let data = (0..height).flat_map(|y| (0..width).flat_map(move |x| pixel(y, x))).collect();
        Rgb { width, height, data }
    }

    /// FNV-1a, so that a whole picture fits on a line.
    fn fingerprint(data: &[u8]) -> u32 {
        data.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
    }

    #[test]
    fn resizing_gives_pillows_bytes() {
        // Pillow 13.0: Image.resize((width, height), Image.LANCZOS).
        let cases = [
            ((16, 16), (64, 64), [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], 0x0a49d408),
            ((64, 64), (16, 16), [116, 117, 121, 121, 133, 138, 127, 123, 118, 136, 126, 120], 0x35bc56cc),
            ((50, 30), (24, 40), [16, 16, 15, 80, 80, 79, 199, 199, 199, 90, 90, 88], 0x05ac5def),
            ((7, 3), (32, 48), [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], 0x3b5341b3),
            ((300, 201), (64, 64), [114, 116, 120, 121, 132, 127, 136, 122, 121, 126, 130, 119], 0x71860f72),
            ((33, 48), (33, 24), [67, 67, 67, 105, 105, 106, 101, 102, 104, 139, 141, 142], 0x9b7fb617),
            ((48, 33), (24, 33), [19, 19, 19, 87, 87, 87, 188, 188, 188, 112, 112, 112], 0x73e75996),
            ((1, 1), (8, 8), [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], 0x75a104c5),
            ((40, 40), (40, 40), [0, 0, 0, 37, 37, 37, 74, 74, 74, 111, 111, 111], 0xf8777525),
        ];
        for (from, to, first_row, hash) in cases {
            let resized = resize(&pattern(from.0, from.1), to.0, to.1).unwrap();
            assert_eq!(resized.data[..12], first_row, "{from:?} to {to:?}");
            assert_eq!(fingerprint(&resized.data), hash, "{from:?} to {to:?}");
        }
    }

    #[test]
    fn preprocessing_scales_to_minus_one_to_one_channel_by_channel() {
        let picture = Rgb { width: 2, height: 1, data: vec![0, 51, 255, 255, 102, 128] };
        let tensor = preprocess(&picture, 2, 1).unwrap();
        assert_eq!(tensor.size(), [1, 3, 1, 2]);
        assert_eq!(tensor.kind(), Kind::Float);
        // numpy: 2 * (x.astype(float32) / 255) - 1
        let expected = [-1.0_f32, 1.0, -0.6, -0.199_999_99, 1.0, 0.003_921_628];
        assert_eq!(Vec::<f32>::try_from(tensor.flatten(0, -1)).unwrap(), expected);
    }

    #[test]
    fn postprocessing_clamps_and_rounds_halves_to_even() {
        // The middle ones come out at exactly 64.5, 65.5 and 127.5 grey levels.
        let row = [-7.0_f32, -1.0, -0.494_117_65, -0.486_274_5, 0.0, 9.0];
        let decoded = Tensor::from_slice(&row).view([1, 3, 1, 2]);
        let nan = Tensor::full([1, 3, 1, 2], f64::NAN, (Kind::Float, Device::Cpu));
        let pictures = postprocess(&Tensor::cat(&[&decoded, &nan, &-&decoded], 0)).unwrap();
        assert_eq!(pictures.len(), 3);
        assert!(pictures[1].is_none(), "what is not finite is no picture, and spares the others");
        let pictures: Vec<Rgb> = pictures.into_iter().flatten().collect();
        assert_eq!((pictures[0].width, pictures[0].height), (2, 1));
        // Interleaved: the row has both reds, both greens, both blues.
        assert_eq!(pictures[0].data, [0, 64, 128, 0, 66, 255]);
        assert_eq!((pictures[1].data[0], pictures[1].data[5]), (255, 0));
    }

    #[test]
    fn bytes_survive_a_round_trip() {
        let picture = pattern(17, 9);
        assert_eq!(postprocess(&preprocess(&picture, 17, 9).unwrap()).unwrap(), [Some(picture)]);
    }

    #[test]
    fn what_is_no_picture_is_refused() {
        let short = Rgb { width: 2, height: 2, data: vec![0; 11] };
        assert!(matches!(preprocess(&short, 2, 2), Err(Error::Picture(_))));
        let empty = Rgb { width: 0, height: 2, data: Vec::new() };
        assert!(matches!(preprocess(&empty, 2, 2), Err(Error::Picture(_))));
        assert!(matches!(preprocess(&pattern(2, 2), 0, 8), Err(Error::Picture(_))));
        assert!(postprocess(&Tensor::from_slice(&[0.0_f32; 4]).view([1, 4, 1, 1])).is_err());
        assert!(postprocess(&Tensor::from_slice(&[0.0_f32; 3])).is_err());
    }
}
