//! Pictures from outside, and pictures to files. Nothing that a picture claims can take a worker down: its header is
//! checked against the limits before its pixels are decoded.
//!
//! A decoded picture is upright (EXIF orientation applied), 8-bit RGB, alpha laid on white, the first frame where there
//! are several. Colour profiles are not applied, as in PIL's `convert("RGB")`. Encoding gives the same bytes for the
//! same pixels.

use std::fs;
use std::io::{self, Cursor, Read};
use std::path::Path;

use diorama_core::generator::ReferencePicture;
use diorama_core::id::Sha256Hex;
use diorama_core::outcome::{ErrorCode, TaskError};
use diorama_core::picture::{Gray8, Rgb8};
use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::{
    DynamicImage, ExtendedColorType, ImageDecoder, ImageEncoder, ImageError, ImageFormat, ImageReader, Limits,
};

/// What a reference may be at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PictureLimits {
    /// Decoded pixels: 100 million.
    pub max_pixels: u64,
    /// Encoded bytes: 256 MiB.
    pub max_file_bytes: u64,
}

impl Default for PictureLimits {
    fn default() -> Self {
        Self { max_pixels: 100_000_000, max_file_bytes: 256 << 20 }
    }
}

/// Reads and decodes a reference from a file. Reads nothing but regular files, and never more than the limit.
pub fn read_reference(path: &Path, limits: &PictureLimits) -> Result<ReferencePicture, TaskError> {
    let bytes = read_file(path, limits).map_err(|error| match error {
        ReadError::Io(error) => {
            let message = format!("the reference {} cannot be read: {error}", path.display());
            let transient = matches!(
                error.kind(),
                io::ErrorKind::Interrupted
                    | io::ErrorKind::TimedOut
                    | io::ErrorKind::WouldBlock
                    | io::ErrorKind::ResourceBusy
                    | io::ErrorKind::StaleNetworkFileHandle
            );
            TaskError { code: ErrorCode::ReferenceUnreadable, message, retryable: transient }
        }
        ReadError::NotAFile => TaskError::permanent(
            ErrorCode::ReferenceUnreadable,
            format!("the reference {} is not a file", path.display()),
        ),
        ReadError::TooLarge(bytes) => too_many_bytes(&path.display().to_string(), bytes, limits),
    })?;
    reference_from_bytes(&bytes, &path.display().to_string(), limits)
}

/// Decodes a reference that was already fetched from `source`.
pub fn reference_from_bytes(bytes: &[u8], source: &str, limits: &PictureLimits) -> Result<ReferencePicture, TaskError> {
    let picture = decode(bytes, limits).map_err(|mut error| {
        error.message = format!("the reference {source} {}", error.message);
        error
    })?;
    Ok(ReferencePicture { picture, sha256: Sha256Hex::of(bytes) })
}

enum ReadError {
    Io(io::Error),
    NotAFile,
    TooLarge(u64),
}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

fn read_file(path: &Path, limits: &PictureLimits) -> Result<Vec<u8>, ReadError> {
    // Looked at before it is opened: opening a pipe would wait for its writer.
    let metadata = fs::metadata(path)?;
    if !metadata.is_file() {
        return Err(ReadError::NotAFile);
    }
    if metadata.len() > limits.max_file_bytes {
        return Err(ReadError::TooLarge(metadata.len()));
    }
    let mut bytes = Vec::with_capacity(metadata.len() as usize);
    fs::File::open(path)?.take(limits.max_file_bytes + 1).read_to_end(&mut bytes)?;
    match bytes.len() as u64 {
        length if length > limits.max_file_bytes => Err(ReadError::TooLarge(length)),
        _ => Ok(bytes),
    }
}

fn too_many_bytes(source: &str, bytes: u64, limits: &PictureLimits) -> TaskError {
    let message = format!("the reference {source} has {bytes} bytes; at most {} are allowed", limits.max_file_bytes);
    TaskError::permanent(ErrorCode::ReferenceTooLarge, message)
}

/// Decodes a picture. Errors: [`ErrorCode::ReferenceTooLarge`], [`ErrorCode::ReferenceUndecodable`]; their messages
/// continue a sentence that begins with the picture's name.
pub fn decode(bytes: &[u8], limits: &PictureLimits) -> Result<Rgb8, TaskError> {
    let undecodable = |message: String| TaskError::permanent(ErrorCode::ReferenceUndecodable, message);
    let too_large = |message: String| TaskError::permanent(ErrorCode::ReferenceTooLarge, message);
    let from_library = |error: ImageError| match error {
        ImageError::Limits(error) => too_large(format!("is larger than the limits allow: {error}")),
        error => undecodable(format!("cannot be decoded; it is damaged or truncated: {error}")),
    };
    if bytes.len() as u64 > limits.max_file_bytes {
        let message = format!("has {} bytes; at most {} are allowed", bytes.len(), limits.max_file_bytes);
        return Err(too_large(message));
    }
    let mut reader = ImageReader::new(Cursor::new(bytes))
        .with_guessed_format()
        .map_err(|error| undecodable(format!("cannot be read: {error}")))?;
    let Some(format) = reader.format() else {
        return Err(undecodable("is not a picture; PNG, JPEG, WebP, BMP, GIF and TIFF are read".to_owned()));
    };
    let mut allowed = Limits::default();
    // 16-bit RGBA is the widest that a decoder makes; its own buffers come on top.
    allowed.max_alloc = Some(limits.max_pixels.saturating_mul(8).saturating_add(64 << 20));
    reader.limits(allowed);

    let mut decoder = reader.into_decoder().map_err(from_library)?;
    let (width, height) = decoder.dimensions();
    if u64::from(width) * u64::from(height) > limits.max_pixels {
        let message = format!("claims {width}x{height} pixels; at most {} are allowed", limits.max_pixels);
        return Err(too_large(message));
    }
    if format == ImageFormat::Jpeg && !jpeg_is_complete(bytes) {
        return Err(undecodable("cannot be decoded; it is a truncated JPEG".to_owned()));
    }
    let orientation = decoder.orientation().map_err(from_library)?;
    let mut image = DynamicImage::from_decoder(decoder).map_err(from_library)?;
    image.apply_orientation(orientation);
    Ok(to_rgb(image))
}

fn to_rgb(image: DynamicImage) -> Rgb8 {
    let (width, height) = (image.width(), image.height());
    if !image.color().has_alpha() {
        return Rgb8 { width, height, data: image.into_rgb8().into_raw() };
    }
    let on_white = |colour: u8, alpha: u8| {
        let (colour, alpha) = (u32::from(colour), u32::from(alpha));
        ((colour * alpha + 255 * (255 - alpha) + 127) / 255) as u8
    };
    let rgba = image.into_rgba8().into_raw();
    let data = rgba.chunks_exact(4).flat_map(|p| [on_white(p[0], p[3]), on_white(p[1], p[3]), on_white(p[2], p[3])]);
    Rgb8 { width, height, data: data.collect() }
}

/// Whether a JPEG goes on to its end-of-image marker. The decoder fills what is missing with grey and says nothing,
/// and a grey half would spoil a picture unnoticed.
fn jpeg_is_complete(bytes: &[u8]) -> bool {
    let mut at = 2;
    while at + 1 < bytes.len() {
        if bytes[at] != 0xFF {
            // Inside a scan, or between segments of a sloppy writer.
            at += 1;
            continue;
        }
        match bytes[at + 1] {
            0xD9 => return true,
            0xFF => at += 1,
            // A stuffed byte, a restart marker, TEM: no length follows.
            0x00 | 0x01 | 0xD0..=0xD8 => at += 2,
            _ => match bytes.get(at + 2..at + 4) {
                Some(length) => at += 2 + usize::from(u16::from_be_bytes([length[0], length[1]])).max(2),
                None => return false,
            },
        }
    }
    false
}

/// PNG, 8-bit RGB.
pub fn encode_rgb(picture: &Rgb8) -> Result<Vec<u8>, ImageError> {
    encode(&picture.data, picture.width, picture.height, ExtendedColorType::Rgb8)
}

/// PNG, 8-bit grey.
pub fn encode_gray(picture: &Gray8) -> Result<Vec<u8>, ImageError> {
    encode(&picture.data, picture.width, picture.height, ExtendedColorType::L8)
}

fn encode(data: &[u8], width: u32, height: u32, colour: ExtendedColorType) -> Result<Vec<u8>, ImageError> {
    let mut bytes = Vec::new();
    // Fast and adaptive: a tenth larger than the best, many times quicker, and the device is never kept waiting.
    PngEncoder::new_with_quality(&mut bytes, CompressionType::Fast, FilterType::Adaptive)
        .write_image(data, width, height, colour)?;
    Ok(bytes)
}
