//! References as people have them, through a whole run; their pixels are tested in `crates/worker`.

use std::fs;
use std::path::Path;

use image::codecs::jpeg::JpegEncoder;
use image::{DynamicImage, ImageBuffer, Rgb, RgbImage, Rgba};
use serde_json::{Value, json};

use crate::case::{Case, end, lines};

const CMYK: &[u8] = include_bytes!("../../crates/picture/tests/cmyk.jpg");

fn plain() -> RgbImage {
    RgbImage::from_fn(32, 16, |x, y| Rgb([(x * 8) as u8, (y * 16) as u8, 90]))
}

fn save(path: &Path, image: impl Into<DynamicImage>) {
    image.into().save(path).unwrap();
}

/// A JPEG of 32×16 pixels that the camera held upright: 16×32 when it is turned.
fn turned() -> Vec<u8> {
    let mut jpeg = Vec::new();
    JpegEncoder::new(&mut jpeg).encode_image(&plain()).unwrap();
    let exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0";
    let head = [&jpeg[..2], &[0xFF, 0xE1], &(exif.len() as u16 + 2).to_be_bytes()].concat();
    [&head[..], exif, &jpeg[2..]].concat()
}

fn animated() -> Vec<u8> {
    let mut gif = Vec::new();
    let frame = || image::Frame::new(DynamicImage::from(plain()).into_rgba8());
    image::codecs::gif::GifEncoder::new(&mut gif).encode_frames([frame(), frame()]).unwrap();
    gif
}

#[test]
fn each_bad_reference_fails_its_own_row_with_the_reason_and_odd_ones_are_read() {
    let case = Case::new();
    save(&case.path("one-pixel.png"), RgbImage::from_pixel(1, 1, Rgb([1, 2, 3])));
    let wide: ImageBuffer<Rgb<u16>, Vec<u16>> = ImageBuffer::from_pixel(5, 4, Rgb([1, 2, 40_000]));
    save(&case.path("sixteen-bits.png"), wide);
    save(&case.path("alpha.png"), image::RgbaImage::from_pixel(7, 6, Rgba([9, 9, 9, 100])));
    fs::write(case.path("cmyk.jpg"), CMYK).unwrap();
    fs::write(case.path("turned.jpg"), turned()).unwrap();
    fs::write(case.path("animated.gif"), animated()).unwrap();
    fs::write(case.path("text.png"), "a poem").unwrap();
    let whole = fs::read(case.path("place-0.png")).unwrap();
    fs::write(case.path("half.png"), &whole[..whole.len() / 2]).unwrap();
    // 30,000 × 30,000 in a small BMP.
    let side = 30_000_i32.to_le_bytes();
    let huge =
        [b"BM".as_slice(), &[0; 8], &[54, 0, 0, 0, 40, 0, 0, 0], &side, &side, &[1, 0, 24, 0], &[0; 24]].concat();
    fs::write(case.path("huge.bmp"), huge).unwrap();

    let good = [
        ("one-pixel.png", (1, 1)),
        ("sixteen-bits.png", (5, 4)),
        ("alpha.png", (7, 6)),
        ("cmyk.jpg", (16, 16)),
        ("turned.jpg", (16, 32)),
        ("animated.gif", (32, 16)),
    ];
    let bad = [
        ("text.png", "reference_undecodable"),
        ("half.png", "reference_undecodable"),
        ("huge.bmp", "reference_too_large"),
    ];
    let files = good.iter().map(|(file, _)| *file).chain(bad.iter().map(|(file, _)| *file));
    let rows: Vec<Value> =
        files.map(|file| json!({"custom_id": file, "reference": file, "prompt": "a seagull"})).collect();
    case.write_rows(&rows);
    let over = end(&mut case.run("out", &["--json"])).expect(3);
    assert_eq!((&over.json()["done"], &over.json()["rounds"]), (&good.len().into(), &0.into()), "none is tried again");
    for (file, (width, height)) in good {
        let record = fs::read(case.path(&format!("out/records/{file}.json"))).unwrap();
        let record: Value = serde_json::from_slice(&record).unwrap();
        let size = (&record["reference"]["width"], &record["reference"]["height"]);
        assert_eq!(size, (&width.into(), &height.into()), "{file}");
    }
    let errors = lines(&case.path("out/errors.jsonl"));
    let codes: Vec<_> = errors.iter().map(|error| error["code"].as_str().unwrap()).collect();
    assert_eq!(codes, bad.map(|(_, code)| code));
    for (error, (file, _)) in errors.iter().zip(bad) {
        assert!(error["message"].as_str().unwrap().contains(file), "{error}");
    }
}

#[test]
fn what_was_kept_of_the_place_is_measured_outside_a_given_region_or_not_at_all() {
    let case = Case::new();
    let flat = |name: &str, width: u32, value: u8| {
        image::GrayImage::from_pixel(width, 32, image::Luma([value])).save(case.path(name)).unwrap();
    };
    flat("small.png", 24, 255);
    flat("white.png", 48, 255);
    flat("ones.png", 48, 1);
    fs::write(case.path("text.png"), "a poem").unwrap();
    let row = |id: &str| json!({"custom_id": id, "reference": "place-0.png", "prompt": "a seagull"});
    let with = |id: &str, region: &str| {
        let mut row = row(id);
        row["region"] = region.into();
        row
    };
    let bad = [
        ("small", "small.png", "the region has 24x32 pixels, its reference 48x32"),
        ("white", "white.png", "all white"),
        ("ones", "ones.png", "all black"),
        ("text", "text.png", "text.png is not a picture"),
    ];
    let mut rows = vec![row("without"), with("left", "left-half.png")];
    rows.extend(bad.map(|(id, region, _)| with(id, region)));
    case.write_rows(&rows);
    end(&mut case.run("out", &["--compare", "img2img"])).expect(3);
    let results = lines(&case.path("out/results.jsonl"));
    let scores = |id: &str| results.iter().find(|line| line["custom_id"] == id).unwrap()["scores"].clone();
    assert_eq!(scores("without"), Value::Null);
    let measured: Vec<String> = scores("left").as_object().unwrap().keys().cloned().collect();
    assert_eq!(measured, ["outside_psnr", "outside_psnr.img2img"]);
    let record: Value = serde_json::from_slice(&fs::read(case.path("out/records/left.json")).unwrap()).unwrap();
    assert_eq!((&record["region"]["source"], &record["region"]["outside"]), (&"left-half.png".into(), &0.5.into()));
    let errors = lines(&case.path("out/errors.jsonl"));
    assert_eq!(errors.len(), bad.len());
    for (error, (id, _, message)) in errors.iter().zip(bad) {
        assert_eq!((&error["custom_id"], &error["code"]), (&id.into(), &"region_unusable".into()));
        assert!(error["message"].as_str().unwrap().contains(message), "{error}");
    }
}
