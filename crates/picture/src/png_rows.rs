//! PNG, row by row, so that a picture of many pixels takes the memory of one of few. What comes behind the last row does
//! not matter: bytes of no meaning, a missing end, a chunk that is cut. Pillow reads such files too.

use std::io::Cursor;

use image::metadata::Orientation;
use png::{BitDepth, ColorType, DecodingError, InterlaceInfo, Reader, Transformations, expand_interlaced_row};

use crate::codec::{Decoded, on_white};
use crate::limits::{Deadline, PictureLimits, Room};
use crate::problem::Problem;
use crate::shrink::Shrink;

/// What every PNG begins with.
pub(crate) const SIGNATURE: &[u8] = b"\x89PNG\r\n\x1a\n";

type Rows<'a> = Reader<Cursor<&'a [u8]>>;

/// Decodes the first picture of a PNG. It is not upright yet.
pub(crate) fn decode(bytes: &[u8], limits: &PictureLimits) -> Result<(Decoded, Orientation), Problem> {
    let memory = PictureLimits::memory(bytes.len());
    let mut decoder = png::Decoder::new_with_limits(
        Cursor::new(bytes),
        png::Limits { bytes: usize::try_from(memory).unwrap_or(usize::MAX) },
    );
    // Palettes, transparency beside the pixels and fewer than 8 bits are spelled out. Texts and profiles are not read.
    decoder.set_transformations(Transformations::EXPAND);
    decoder.set_ignore_text_chunk(true);
    decoder.set_ignore_iccp_chunk(true);
    let header = decoder.read_header_info().map_err(problem)?;
    let (width, height) = (header.width, header.height);
    limits.check_pixels(width, height, bytes.len())?;
    let mut rows = decoder.read_info().map_err(problem)?;
    let orientation = rows.info().exif_metadata.as_deref().and_then(Orientation::from_exif_chunk);
    let line = rows.output_line_size(width).unwrap_or(usize::MAX) as u64;
    let unpacked = line.saturating_mul(u64::from(height));
    if unpacked > PictureLimits::unpacked(bytes.len()) {
        return Err(Problem::claims(width, height, bytes.len()));
    }
    let mut shrink = Shrink::new(width, height, PictureLimits::kept(bytes.len()));
    let whole = if rows.info().interlaced { unpacked } else { 0 };
    // A row as it is unpacked, filtered and turned into pixels counts where rows are long.
    let row = line.saturating_mul(5).saturating_add(u64::from(width) * 3 * 2);
    let needed = (whole + shrink.pixels() * 3).saturating_add(row);
    if needed > memory {
        return Err(Problem::claims(width, height, bytes.len()));
    }
    let _room = Room::take(needed);
    let deadline = Deadline::of(limits);
    if rows.info().interlaced {
        interlaced(&mut rows, (width, height), &mut shrink, deadline)?;
    } else {
        plain(&mut rows, height, &mut shrink, deadline)?;
    }
    let picture = shrink.finish().ok_or_else(|| Problem::CutOff("its last rows are missing".to_owned()))?;
    Ok((Decoded { picture, width, height }, orientation.unwrap_or(Orientation::NoTransforms)))
}

fn plain(rows: &mut Rows<'_>, height: u32, shrink: &mut Shrink, deadline: Deadline) -> Result<(), Problem> {
    let (colour, depth) = rows.output_color_type();
    let mut rgb = Vec::new();
    for number in 0..height {
        if deadline.is_past() {
            return Err(Problem::TooSlow);
        }
        let row = rows.next_row().map_err(|error| cut_at(error, number, height))?;
        let row = row.ok_or_else(|| Problem::CutOff(format!("it ends after row {number} of {height}")))?;
        to_rgb(row.data(), colour, depth, &mut rgb);
        shrink.add(&rgb);
    }
    Ok(())
}

/// The seven passes of Adam7: where each begins, and its steps, by columns and rows.
const PASSES: [(u32, u32, u32, u32); 7] =
    [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)];

fn interlaced(
    rows: &mut Rows<'_>,
    (width, height): (u32, u32),
    shrink: &mut Shrink,
    deadline: Deadline,
) -> Result<(), Problem> {
    let (colour, depth) = rows.output_color_type();
    let bits = colour.samples() as u8 * depth as u8;
    let stride = rows.output_line_size(width).unwrap_or_default();
    let mut whole = vec![0; stride * height as usize];
    // As many as there are, and no more: what comes behind them is not asked for.
    let passes = PASSES.iter().filter(|(x, ..)| width > *x);
    let count: u32 = passes.map(|(_, y, _, step)| height.saturating_sub(*y).div_ceil(*step)).sum();
    for number in 0..count {
        if deadline.is_past() {
            return Err(Problem::TooSlow);
        }
        let row = rows.next_interlaced_row().map_err(|error| cut_at(error, number, count))?;
        if let Some(row) = row
            && let InterlaceInfo::Adam7(place) = row.interlace()
        {
            expand_interlaced_row(&mut whole, stride, row.data(), place, bits);
        }
    }
    let mut rgb = Vec::new();
    for row in whole.chunks_exact(stride.max(1)) {
        to_rgb(row, colour, depth, &mut rgb);
        shrink.add(&rgb);
    }
    Ok(())
}

/// A row's pixels as 8-bit R, G, B, transparency laid on white.
fn to_rgb(row: &[u8], colour: ColorType, depth: BitDepth, rgb: &mut Vec<u8>) {
    rgb.clear();
    let narrow: Vec<u8>;
    let samples = match depth {
        // To the nearest of 256 values.
        BitDepth::Sixteen => {
            let wide = row.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
            narrow = wide.map(|value| ((value + 128) / 257) as u8).collect();
            &narrow[..]
        }
        _ => row,
    };
    match colour {
        ColorType::Rgb => rgb.extend_from_slice(samples),
        ColorType::Grayscale | ColorType::Indexed => rgb.extend(samples.iter().flat_map(|grey| [*grey; 3])),
        ColorType::GrayscaleAlpha => {
            rgb.extend(samples.chunks_exact(2).flat_map(|pixel| [on_white(pixel[0], pixel[1]); 3]));
        }
        ColorType::Rgba => rgb.extend(samples.chunks_exact(4).flat_map(|pixel| {
            let alpha = pixel[3];
            [on_white(pixel[0], alpha), on_white(pixel[1], alpha), on_white(pixel[2], alpha)]
        })),
    }
}

fn cut_at(error: DecodingError, row: u32, height: u32) -> Problem {
    match problem(error) {
        Problem::CutOff(_) => Problem::CutOff(format!("it ends after row {row} of {height}")),
        other => other,
    }
}

fn problem(error: DecodingError) -> Problem {
    match error {
        DecodingError::IoError(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            Problem::CutOff("it breaks off".to_owned())
        }
        DecodingError::LimitsExceeded => Problem::Limits("its rows take more memory than is allowed".to_owned()),
        other => Problem::Damaged(other.to_string()),
    }
}
