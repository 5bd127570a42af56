//! Measures without networks, against torchmetrics and imagehash.

use diorama_evaluation::measures::{Region, background, phash, tensor, zero_filled};

use crate::golden::{Golden, assert_near};

#[test]
fn psnr_and_ssim_are_torchmetrics_and_pie_benchs_those_of_blackened_pictures() {
    let golden = Golden::read();
    let [a, b] = [0, 1].map(|n| tensor(&golden.picture(n)).unwrap());
    let whole = background(&a, &b, &Region::whole(64, 64).unwrap()).unwrap();
    assert_near(whole.psnr, golden.number("/background/psnr_whole"), 1e-6, "psnr");
    assert_near(whole.ssim.unwrap(), golden.number("/background/ssim_whole"), 1e-6, "ssim");
    let region = Region::outside_of(&golden.mask("region"), (64, 64)).unwrap().unwrap();
    let pie = zero_filled(&a, &b, &region).unwrap();
    assert_near(pie.psnr, golden.number("/background/pie_psnr"), 1e-6, "pie_psnr");
    assert_near(pie.ssim.unwrap(), golden.number("/background/pie_ssim"), 1e-6, "pie_ssim");
    assert_near(pie.mse, golden.number("/background/pie_mse"), 1e-6, "pie_mse");
}

#[test]
fn the_perceptual_hash_is_imagehashs() {
    let golden = Golden::read();
    for (n, expected) in golden.facts["phash"].as_array().unwrap().iter().enumerate() {
        assert_eq!(format!("{:016x}", phash(&golden.picture(n))), expected.as_str().unwrap(), "picture {n}");
    }
}
