//! Pictures from outside, and pictures to files. Nothing that a picture claims can take a worker down: what its header
//! says is held against what a file of its length may take before its pixels are decoded, and pictures that would take
//! too much together are decoded one after the other.
//!
//! A decoded picture is upright (EXIF orientation applied), 8-bit RGB, alpha laid on white, the first frame where there
//! are several. Colour profiles are not applied, as in PIL's `convert("RGB")`. Encoding gives the same bytes for the
//! same pixels.

use std::fs;
use std::io::{self, BufRead, Cursor, Read, Seek};
use std::path::Path;

use diorama_core::generator::ReferencePicture;
use diorama_core::id::Sha256Hex;
use diorama_core::outcome::{ErrorCode, TaskError};
use diorama_core::picture::{Gray8, Rgb8};
use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::metadata::Orientation;
use image::{
    ColorType, DynamicImage, ExtendedColorType, ImageDecoder, ImageEncoder, ImageError, ImageFormat, ImageReader,
    Limits, RgbImage,
};

use crate::limits::{Deadline, PictureLimits, Room};
use crate::problem::Problem;
use crate::shrink::shrunk;
use crate::{jpeg, kind, png_rows, tiff};

/// Formats that are read, besides PNG.
const READ: [ImageFormat; 5] =
    [ImageFormat::Jpeg, ImageFormat::WebP, ImageFormat::Bmp, ImageFormat::Gif, ImageFormat::Tiff];

/// A decoded picture.
pub(crate) struct Decoded {
    /// Its pixels; of a picture of many, fewer.
    pub(crate) picture: Rgb8,
    /// Its own width in pixels.
    pub(crate) width: u32,
    /// Its own height in pixels.
    pub(crate) height: u32,
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
    let Decoded { picture, width, height } = upright(bytes, limits).map_err(|problem| {
        let mut error = problem.into_error(limits);
        error.message = format!("the reference {source} {}", error.message);
        error
    })?;
    Ok(ReferencePicture { picture, width, height, sha256: Sha256Hex::of(bytes) })
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

/// Decodes a picture; of one of many pixels, fewer are left. Errors: [`ErrorCode::ReferenceTooLarge`],
/// [`ErrorCode::ReferenceUndecodable`]; their messages continue a sentence that begins with the picture's name.
pub fn decode(bytes: &[u8], limits: &PictureLimits) -> Result<Rgb8, TaskError> {
    upright(bytes, limits).map(|decoded| decoded.picture).map_err(|problem| problem.into_error(limits))
}

/// Decodes a picture and turns it as its EXIF says.
fn upright(bytes: &[u8], limits: &PictureLimits) -> Result<Decoded, Problem> {
    if bytes.len() as u64 > limits.max_file_bytes {
        let allowed = limits.max_file_bytes;
        return Err(Problem::Limits(format!("has {} bytes; at most {allowed} are allowed", bytes.len())));
    }
    let (decoded, orientation) = match bytes.starts_with(png_rows::SIGNATURE) {
        true => png_rows::decode(bytes, limits)?,
        false => whole(bytes, limits)?,
    };
    if orientation == Orientation::NoTransforms {
        return Ok(decoded);
    }
    let Decoded { picture: Rgb8 { width, height, data }, .. } = decoded;
    let mut image = DynamicImage::from(RgbImage::from_raw(width, height, data).unwrap_or_default());
    image.apply_orientation(orientation);
    let picture = Rgb8 { width: image.width(), height: image.height(), data: image.into_rgb8().into_raw() };
    let lies = matches!(
        orientation,
        Orientation::Rotate90 | Orientation::Rotate270 | Orientation::Rotate90FlipH | Orientation::Rotate270FlipH
    );
    let (width, height) = (decoded.width, decoded.height);
    let (width, height) = if lies { (height, width) } else { (width, height) };
    Ok(Decoded { picture, width, height })
}

/// Decodes a picture whose decoder gives all of it at once.
fn whole(bytes: &[u8], limits: &PictureLimits) -> Result<(Decoded, Orientation), Problem> {
    let guessed = image::guess_format(bytes).ok().or_else(|| tiff::is_large(bytes).then_some(ImageFormat::Tiff));
    let format = guessed.filter(|format| READ.contains(format));
    let Some(format) = format else { return Err(Problem::NotRead(kind::describe(bytes))) };
    if format == ImageFormat::Tiff && !tiff::is_whole(bytes) {
        return Err(Problem::CutOff("its tags have values that it does not".to_owned()));
    }
    let jpeg = (format == ImageFormat::Jpeg).then(|| jpeg::facts(bytes));
    let memory = PictureLimits::memory(bytes.len());
    let deadline = Deadline::of(limits);
    let mut reader = ImageReader::with_format(Timely { bytes: Cursor::new(bytes), deadline }, format);
    let mut allowed = Limits::default();
    // TIFF's decoder takes that much twice: for what is unpacked, and for what it is made of.
    allowed.max_alloc = Some(if format == ImageFormat::Tiff { memory / 2 } else { memory });
    reader.limits(allowed);
    let mut decoder = reader.into_decoder().map_err(|error| from_library(error, deadline))?;
    let (width, height) = decoder.dimensions();
    limits.check_pixels(width, height, bytes.len())?;
    if jpeg.is_some_and(|jpeg| !jpeg.is_complete) {
        return Err(Problem::CutOff("it has no end".to_owned()));
    }
    let samples = f64::from(decoder.color_type().bytes_per_pixel());
    let a_pixel = match format {
        ImageFormat::Jpeg => samples + jpeg.map_or(0.0, |jpeg| jpeg.coefficients),
        // A lossy picture's planes; the pixels of a frame beside those of the screen; a strip that holds everything.
        ImageFormat::WebP => samples + 4.0,
        ImageFormat::Gif => samples * 2.0,
        ImageFormat::Tiff => samples * 2.0,
        _ => samples,
    };
    // What is no 8-bit RGB becomes it in a buffer of its own, and what is kept has one too.
    let is_rgb = decoder.color_type() == ColorType::Rgb8;
    let a_pixel = a_pixel + if is_rgb { 0.0 } else { 3.0 };
    let pixels = u64::from(width) * u64::from(height);
    let most = PictureLimits::kept(bytes.len());
    let needed = (pixels as f64 * a_pixel) as u64 + if pixels > most { most * 3 } else { 0 };
    if needed > memory {
        return Err(Problem::claims(width, height, bytes.len()));
    }
    let _room = Room::take(needed);
    let orientation = decoder.orientation().map_err(|error| from_library(error, deadline))?;
    let image = DynamicImage::from_decoder(decoder).map_err(|error| from_library(error, deadline))?;
    Ok((Decoded { picture: shrunk(to_rgb(image), most), width, height }, orientation))
}

/// The bytes of a picture, until its time is over.
struct Timely<'a> {
    bytes: Cursor<&'a [u8]>,
    deadline: Deadline,
}

impl Read for Timely<'_> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        if self.deadline.is_past() { Err(io::ErrorKind::TimedOut.into()) } else { self.bytes.read(to) }
    }
}

impl BufRead for Timely<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.deadline.is_past() { Err(io::ErrorKind::TimedOut.into()) } else { self.bytes.fill_buf() }
    }

    fn consume(&mut self, bytes: usize) {
        self.bytes.consume(bytes);
    }
}

impl Seek for Timely<'_> {
    fn seek(&mut self, to: io::SeekFrom) -> io::Result<u64> {
        self.bytes.seek(to)
    }
}

fn from_library(error: ImageError, deadline: Deadline) -> Problem {
    match error {
        _ if deadline.is_past() => Problem::TooSlow,
        ImageError::Limits(error) => Problem::Limits(format!("is larger than the limits allow: {error}")),
        ImageError::IoError(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            Problem::CutOff("it breaks off".to_owned())
        }
        ImageError::Unsupported(error) => Problem::Unsupported(error.to_string()),
        error => Problem::Damaged(error.to_string()),
    }
}

fn to_rgb(image: DynamicImage) -> Rgb8 {
    let (width, height) = (image.width(), image.height());
    if !image.color().has_alpha() {
        return Rgb8 { width, height, data: image.into_rgb8().into_raw() };
    }
    let rgba = image.into_rgba8().into_raw();
    let data = rgba.chunks_exact(4).flat_map(|p| [on_white(p[0], p[3]), on_white(p[1], p[3]), on_white(p[2], p[3])]);
    Rgb8 { width, height, data: data.collect() }
}

/// A colour of this opacity on white.
pub(crate) fn on_white(colour: u8, alpha: u8) -> u8 {
    let (colour, alpha) = (u32::from(colour), u32::from(alpha));
    ((colour * alpha + 255 * (255 - alpha) + 127) / 255) as u8
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
