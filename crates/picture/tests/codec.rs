//! Pictures as people have them: each becomes upright 8-bit RGB, or an error that says why not.

#![allow(clippy::unwrap_used, reason = "a test panics where a guarantee is broken")]

use std::fs;
use std::io::Cursor;
use std::path::Path;

use diorama_core::outcome::{ErrorCode, TaskError};
use diorama_core::picture::{Gray8, Rgb8};
use diorama_picture::{PictureLimits, decode, encode_gray, encode_rgb, read_reference};
use image::codecs::jpeg::JpegEncoder;
use image::{DynamicImage, ImageBuffer, ImageFormat, Luma, Rgb, Rgba};

fn bytes(image: impl Into<DynamicImage>, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image.into().write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

fn png(image: impl Into<DynamicImage>) -> Vec<u8> {
    bytes(image, ImageFormat::Png)
}

fn read(bytes: &[u8]) -> Result<Rgb8, TaskError> {
    decode(bytes, &PictureLimits::default())
}

#[track_caller]
fn refused(bytes: &[u8], code: ErrorCode, why: &str) {
    let error = read(bytes).unwrap_err();
    assert_eq!(error.code, code, "{error}");
    assert!(error.message.contains(why) && !error.retryable, "{error}");
}

/// Width 32, height 16, red on the left and blue on the right: a picture that shows which way up it is.
fn two_colours() -> image::RgbImage {
    image::RgbImage::from_fn(32, 16, |x, _| if x < 16 { Rgb([250, 10, 10]) } else { Rgb([10, 10, 250]) })
}

fn pixel(picture: &Rgb8, x: u32, y: u32) -> [u8; 3] {
    let at = ((y * picture.width + x) * 3) as usize;
    [picture.data[at], picture.data[at + 1], picture.data[at + 2]]
}

#[test]
fn what_is_no_picture_or_only_half_of_one_is_refused() {
    refused(b"", ErrorCode::ReferenceUndecodable, "is empty");
    refused(b"a poem about a picture", ErrorCode::ReferenceUndecodable, "is not a picture");
    refused(b"<svg xmlns='http://www.w3.org/2000/svg'/>", ErrorCode::ReferenceUndecodable, "is an SVG drawing");
    let noise = image::RgbImage::from_fn(64, 64, |x, y| Rgb([(x * y) as u8, (x ^ y) as u8, (x * 7 + y * 13) as u8]));
    for format in
        [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::Bmp, ImageFormat::Gif, ImageFormat::Tiff, ImageFormat::WebP]
    {
        let whole = bytes(noise.clone(), format);
        assert_eq!((read(&whole).unwrap().width, read(&whole).unwrap().height), (64, 64), "{format:?}");
        for part in [whole.len() / 2, whole.len() * 9 / 10, 20] {
            let error = read(&whole[..part]).unwrap_err();
            assert_eq!(error.code, ErrorCode::ReferenceUndecodable, "{format:?} cut to {part} bytes: {error}");
            let is_said = error.message.contains("is truncated") || error.message.contains("is damaged");
            assert!(is_said, "{format:?} cut to {part} bytes: {error}");
        }
    }
}

#[test]
fn a_picture_that_claims_to_be_huge_is_refused_before_its_pixels_are_made() {
    refused(&png_header(30_000, 30_000), ErrorCode::ReferenceTooLarge, "30000x30000");
    let mut gif = b"GIF89a".to_vec();
    gif.extend([0x30, 0x75, 0x30, 0x75, 0x80, 0, 0, 0, 0, 0, 255, 255, 255]);
    gif.extend([0x2C, 0, 0, 0, 0, 0x30, 0x75, 0x30, 0x75, 0, 2, 2, 0x4C, 1, 0, 0x3B]);
    let mut bmp = b"BM".to_vec();
    bmp.extend([0; 8]);
    bmp.extend([54, 0, 0, 0, 40, 0, 0, 0]);
    bmp.extend(30_000_i32.to_le_bytes());
    bmp.extend(30_000_i32.to_le_bytes());
    bmp.extend([1, 0, 24, 0]);
    bmp.extend([0; 24]);
    for bytes in [gif, bmp] {
        refused(&bytes, ErrorCode::ReferenceTooLarge, "30000x30000");
    }
    let limits = PictureLimits { max_pixels: 511, ..PictureLimits::default() };
    assert_eq!(decode(&png(two_colours()), &limits).unwrap_err().code, ErrorCode::ReferenceTooLarge);
    let limits = PictureLimits { max_file_bytes: 20, ..PictureLimits::default() };
    assert_eq!(decode(&png(two_colours()), &limits).unwrap_err().code, ErrorCode::ReferenceTooLarge);
}

/// The beginning of a PNG of 8-bit RGB, with the right checksum, and no pixels.
fn png_header(width: u32, height: u32) -> Vec<u8> {
    let mut chunk = b"IHDR".to_vec();
    chunk.extend(width.to_be_bytes());
    chunk.extend(height.to_be_bytes());
    chunk.extend([8, 2, 0, 0, 0]);
    let crc = !chunk.iter().fold(!0_u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { (crc >> 1) ^ 0xEDB8_8320 } else { crc >> 1 })
    });
    let mut bytes = b"\x89PNG\r\n\x1a\n\0\0\0\x0d".to_vec();
    bytes.extend(chunk);
    bytes.extend(crc.to_be_bytes());
    bytes.extend(b"\0\0\0\x01IDAT\0\0\0\0\0");
    bytes
}

#[test]
fn a_png_is_read_whatever_comes_behind_its_last_row() {
    let chunk = |kind: &[u8], data: &[u8]| [&(data.len() as u32).to_be_bytes()[..], kind, data, &[0; 4]].concat();
    for interlaced in [false, true] {
        let whole = if interlaced { include_bytes!("interlaced.png").to_vec() } else { png(two_colours()) };
        let picture = read(&whole).unwrap();
        let without_end = &whole[..whole.len() - 12];
        let torn = [without_end, b"\0\0\0\0IE"].concat();
        let text = [without_end, &chunk(b"tEXt", b"Comment\0its checksum is wrong")].concat();
        let behind = [&whole, &[7; 100][..]].concat();
        for (what, bytes) in
            [("no end", without_end), ("half an end", &torn), ("no checksum", &text), ("more", &behind)]
        {
            assert_eq!(read(bytes).map(|read| read == picture), Ok(true), "{what}, interlaced: {interlaced}");
        }
        // The last checksum alone says nothing about the pixels.
        assert_eq!(read(&without_end[..without_end.len() - 4]).map(|read| read == picture), Ok(true));
        let cut = read(&whole[..whole.len() / 2]).unwrap_err();
        assert!(cut.message.contains("is truncated"), "{cut}");
    }
}

#[test]
fn a_picture_of_many_pixels_costs_what_its_bytes_may_cost() {
    // A GIF of 35 bytes with a screen of 9999×9999.
    let mut gif = b"GIF89a".to_vec();
    gif.extend([0x0F, 0x27, 0x0F, 0x27, 0xF0, 0, 0, 0, 0, 0, 0, 0, 0]);
    gif.extend([0x2C, 0, 0, 0, 0, 1, 0, 1, 0, 0, 2, 2, 0x44, 1, 0, 0x3B]);
    refused(&gif, ErrorCode::ReferenceTooLarge, "9999x9999 pixels in 35 bytes");
    // Two rows, longer than any that fit into the memory.
    refused(&png_header(9_000_000, 11), ErrorCode::ReferenceTooLarge, "9000000x11");
    // A blank JPEG that a camera's sensor could have made, in too few bytes.
    let blank = bytes(image::RgbImage::new(6000, 4000), ImageFormat::Jpeg);
    refused(&blank, ErrorCode::ReferenceTooLarge, "6000x4000");
}

#[test]
fn a_picture_of_many_pixels_is_read_smaller_and_says_how_large_it_was() {
    // Stripes of 100 columns, 24 million pixels, in few bytes.
    let stripes =
        image::RgbImage::from_fn(6000, 4000, |x, _| if x / 100 % 2 == 0 { Rgb([250, 0, 0]) } else { Rgb([0; 3]) });
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("stripes.png");
    fs::write(&path, png(stripes)).unwrap();
    let read = read_reference(&path, &PictureLimits::default()).unwrap();
    assert_eq!((read.width, read.height), (6000, 4000));
    assert_eq!((read.picture.width, read.picture.height), (2000, 1334));
    let at = |x: u32| pixel(&read.picture, x, 700)[0];
    assert_eq!([at(10), at(40), at(1999), at(1950)], [250, 0, 0, 250]);
    // What is used of it is the same part as of the whole.
    let used = read.used(&diorama_core::settings::Fit::Crop.place((6000, 4000), (64, 64)));
    assert_eq!((used.width, used.height), (1334, 1334));
}

#[test]
fn a_picture_lies_as_its_exif_says_whatever_else_is_wrong_with_that() {
    let turned = jpeg(6);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("turned.jpg");
    fs::write(&path, &turned).unwrap();
    let read = read_reference(&path, &PictureLimits::default()).unwrap();
    assert_eq!((read.width, read.height), (16, 32));
}

#[test]
fn a_single_pixel_is_a_picture() {
    let picture = read(&png(image::RgbImage::from_pixel(1, 1, Rgb([1, 2, 3])))).unwrap();
    assert_eq!((picture.width, picture.height, picture.data), (1, 1, vec![1, 2, 3]));
}

#[test]
fn sixteen_bits_grey_and_palettes_become_eight_bit_rgb() {
    let wide: ImageBuffer<Rgb<u16>, Vec<u16>> = ImageBuffer::from_pixel(2, 2, Rgb([0xFFFF, 0x8000, 0]));
    assert_eq!(pixel(&read(&png(wide)).unwrap(), 1, 1), [255, 128, 0]);
    let grey: ImageBuffer<Luma<u16>, Vec<u16>> = ImageBuffer::from_pixel(2, 2, Luma([0x4000]));
    assert_eq!(pixel(&read(&png(grey)).unwrap(), 0, 0), [64, 64, 64]);
    // A GIF is a picture with a palette.
    let [red, _, blue] = pixel(&read(&bytes(two_colours(), ImageFormat::Gif)).unwrap(), 0, 0);
    assert!(red > 230 && blue < 30, "{red} {blue}");
}

#[test]
fn of_an_animation_the_first_frame_is_the_picture() {
    let frames = [Rgb([250, 10, 10]), Rgb([10, 10, 250])].map(|colour| image::RgbImage::from_pixel(6, 4, colour));
    for (name, animation) in [("GIF", gif(&frames)), ("PNG", apng(&frames)), ("WebP", webp(&frames))] {
        let picture = read(&animation).unwrap();
        let [red, _, blue] = pixel(&picture, 3, 2);
        assert!((picture.width, picture.height) == (6, 4) && red > 230 && blue < 30, "{name}: {red} {blue}");
    }
}

fn gif(frames: &[image::RgbImage; 2]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let frame = |frame: &image::RgbImage| image::Frame::new(DynamicImage::from(frame.clone()).into_rgba8());
    image::codecs::gif::GifEncoder::new(&mut bytes).encode_frames(frames.iter().map(frame)).unwrap();
    bytes
}

fn apng(frames: &[image::RgbImage; 2]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, frames[0].width(), frames[0].height());
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_animated(2, 0).unwrap();
    let mut writer = encoder.write_header().unwrap();
    for frame in frames {
        writer.write_image_data(frame).unwrap();
    }
    writer.finish().unwrap();
    bytes
}

fn webp(frames: &[image::RgbImage; 2]) -> Vec<u8> {
    let chunk = |name: &[u8; 4], content: &[u8]| {
        let padding = vec![0; content.len() % 2];
        [&name[..], &(content.len() as u32).to_le_bytes(), content, &padding].concat()
    };
    let three = |number: u32| number.to_le_bytes()[..3].to_vec();
    let size = [three(frames[0].width() - 1), three(frames[0].height() - 1)].concat();
    let mut chunks = b"WEBP".to_vec();
    // Flags: animated. No background, for ever.
    chunks.extend(chunk(b"VP8X", &[&[2, 0, 0, 0], &size[..]].concat()));
    chunks.extend(chunk(b"ANIM", &[0; 6]));
    for frame in frames {
        // Behind the header of the file: the one chunk of a still picture.
        let still = &bytes(frame.clone(), ImageFormat::WebP)[12..];
        chunks.extend(chunk(b"ANMF", &[&[0; 6], &size[..], &three(100), &[0], still].concat()));
    }
    chunk(b"RIFF", &chunks)
}

#[test]
fn alpha_is_laid_on_white() {
    let mut image = image::RgbaImage::from_pixel(3, 1, Rgba([200, 0, 0, 255]));
    image.put_pixel(1, 0, Rgba([200, 0, 0, 0]));
    image.put_pixel(2, 0, Rgba([0, 0, 0, 128]));
    let picture = read(&png(image)).unwrap();
    assert_eq!((0..3).map(|x| pixel(&picture, x, 0)).collect::<Vec<_>>(), [[200, 0, 0], [255; 3], [127; 3]]);
}

#[test]
fn four_inks_become_the_colour_that_they_print() {
    // 16×16, no cyan, all magenta, all yellow, no black; made with PIL, as Adobe's programs store it.
    let [red, green, blue] = pixel(&read(include_bytes!("cmyk.jpg")).unwrap(), 8, 8);
    assert!(red > 240 && green < 15 && blue < 15, "{red} {green} {blue}");
}

/// A JPEG of [`two_colours`] with this EXIF orientation.
fn jpeg(orientation: u8) -> Vec<u8> {
    let mut plain = Vec::new();
    JpegEncoder::new_with_quality(&mut plain, 95).encode_image(&two_colours()).unwrap();
    // Little-endian TIFF with one entry: tag 0x0112, a short.
    let mut exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0".to_vec();
    exif.extend([orientation, 0, 0, 0, 0, 0, 0, 0]);
    let mut bytes = plain[..2].to_vec();
    bytes.extend([0xFF, 0xE1]);
    bytes.extend((exif.len() as u16 + 2).to_be_bytes());
    bytes.extend(exif);
    bytes.extend(&plain[2..]);
    bytes
}

#[test]
fn a_picture_is_upright_whichever_way_the_camera_was_held() {
    // Where red ends up, of left, right, top, bottom.
    let sides =
        [(1, "left"), (2, "right"), (3, "right"), (4, "left"), (5, "top"), (6, "top"), (7, "bottom"), (8, "bottom")];
    for (orientation, side) in sides {
        let picture = read(&jpeg(orientation)).unwrap();
        let (width, height) = if orientation < 5 { (32, 16) } else { (16, 32) };
        assert_eq!((picture.width, picture.height), (width, height), "orientation {orientation}");
        let (x, y) = match side {
            "left" => (2, height / 2),
            "right" => (width - 3, height / 2),
            "top" => (width / 2, 2),
            _ => (width / 2, height - 3),
        };
        let [red, _, blue] = pixel(&picture, x, y);
        assert!(red > 200 && blue < 60, "orientation {orientation}: {red} {blue} at {x},{y}");
    }
}

#[test]
fn only_files_are_read_and_an_error_names_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let limits = PictureLimits::default();
    let path = |name: &str| folder.path().join(name);
    fs::write(path("text.png"), "no picture").unwrap();
    for (name, code) in [
        ("gone.png", ErrorCode::ReferenceUnreadable),
        (".", ErrorCode::ReferenceUnreadable),
        ("text.png", ErrorCode::ReferenceUndecodable),
    ] {
        let error = read_reference(&path(name), &limits).unwrap_err();
        assert_eq!(error.code, code);
        assert!(error.message.contains(&path(name).display().to_string()), "{error}");
    }
    assert_eq!(read_reference(Path::new("/dev/zero"), &limits).unwrap_err().code, ErrorCode::ReferenceUnreadable);
}

#[test]
fn the_same_pixels_give_the_same_bytes_and_the_bytes_the_pixels() {
    let picture = Rgb8 { width: 32, height: 16, data: two_colours().into_raw() };
    let encoded = encode_rgb(&picture).unwrap();
    assert_eq!(encoded, encode_rgb(&picture).unwrap());
    assert_eq!(read(&encoded).unwrap().data, picture.data);
    let mask = Gray8 { width: 2, height: 1, data: vec![0, 255] };
    assert_eq!(read(&encode_gray(&mask).unwrap()).unwrap().data, [0, 0, 0, 255, 255, 255]);
}

/// A TIFF of one row with these tags (number, type, count, value), its pixels behind them.
fn tiff(large: bool, tags: &[(u16, u16, u64, u64)], pixels: &[u8]) -> Vec<u8> {
    let word = |value: u64| if large { value.to_le_bytes().to_vec() } else { (value as u32).to_le_bytes().to_vec() };
    let head = if large { b"II\x2b\0\x08\0\0\0".to_vec() } else { b"II\x2a\0".to_vec() };
    let start = (head.len() + word(0).len()) as u64;
    let mut list =
        if large { (tags.len() as u64).to_le_bytes().to_vec() } else { (tags.len() as u16).to_le_bytes().to_vec() };
    let (tag, next) = if large { (20, 8) } else { (12, 4) };
    let data = start + list.len() as u64 + tags.len() as u64 * tag + next;
    for (number, kind, count, value) in tags {
        // The place of the pixels is known only now.
        let value = if *number == 273 { data } else { *value };
        list.extend([&number.to_le_bytes()[..], &kind.to_le_bytes(), &word(*count), &word(value)].concat());
    }
    [head, word(start), list, vec![0; next as usize], pixels.to_vec()].concat()
}

#[test]
fn a_tiff_is_read_with_places_of_eight_bytes_too_and_one_of_another_kind_is_not_called_damaged() {
    let grey = |kind| {
        [
            (256, 3, 1, 4),
            (257, 3, 1, 1),
            (258, 3, 1, 8),
            (259, 3, 1, 1),
            (262, 3, 1, kind),
            (273, 4, 1, 0),
            (277, 3, 1, 1),
            (279, 4, 1, 4),
        ]
    };
    for large in [false, true] {
        let picture = read(&tiff(large, &grey(1), &[0, 80, 160, 255])).unwrap();
        assert_eq!((picture.width, picture.height, pixel(&picture, 1, 0)), (4, 1, [80; 3]), "{large}");
        // A palette, which the decoder does not know.
        refused(&tiff(large, &grey(3), &[0; 4]), ErrorCode::ReferenceUndecodable, "though complete");
    }
}
