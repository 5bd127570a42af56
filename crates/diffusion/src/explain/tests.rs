use super::*;

fn flat(width: u32, height: u32, colour: [u8; 3]) -> Rgb {
    Rgb { width, height, data: colour.repeat((width * height) as usize) }
}

fn at(picture: &Rgb, x: u32, y: u32) -> [u8; 3] {
    let at = ((y * picture.width + x) * 3) as usize;
    [picture.data[at], picture.data[at + 1], picture.data[at + 2]]
}

/// `[4, 8, 8]`, true in a square in channel 2 only.
fn latent_mask() -> Tensor {
    let mask = Tensor::zeros([4, 8, 8], (Kind::Bool, Device::Cpu));
    let _ = mask.get(2).narrow(0, 2, 3).narrow(1, 3, 2).fill_(1);
    mask
}

fn lit(colour: [u8; 3]) -> u32 {
    colour.into_iter().map(u32::from).sum()
}

#[test]
fn a_channel_counts_by_its_shape_not_by_its_scale() {
    let one = Tensor::rand([1, 5, 6], (Kind::Float, Device::Cpu));
    let nothing = Tensor::zeros([1, 5, 6], (Kind::Float, Device::Cpu));
    let scores = Tensor::cat(&[&one, &(&one * 1e6), &(&one * 1e-6), &nothing], 0);
    let expected = one.squeeze_dim(0) / one.mean(Kind::Float) * 3.0;
    let combined = combine_scores(&scores).unwrap();
    assert!(combined.allclose(&expected.to_kind(Kind::Double), 1e-5, 1e-6, false));
    assert!(combine_scores(&one.squeeze_dim(0)).is_err(), "a map without channels");
}

#[test]
fn a_heat_map_is_brightest_where_the_score_is_highest() {
    let scores =
        Tensor::zeros([4, 8, 8], (Kind::Float, Device::Cpu)) + latent_mask().any_dim(0, false).to_kind(Kind::Float);
    let heat = heat_map(&flat(64, 64, [200, 120, 40]), &scores).unwrap();
    assert_eq!((heat.width, heat.height), (64, 64));
    let (centre, edge, far) = (lit(at(&heat, 32, 28)), lit(at(&heat, 24, 28)), lit(at(&heat, 4, 60)));
    assert!(centre > edge && edge > far, "{centre} {edge} {far}");
    assert_eq!(at(&heat, 4, 60), at(&heat, 60, 4), "the same score on the same picture looks the same");
}

#[test]
fn an_even_score_shows_no_heat_and_the_picture_through() {
    let scores = Tensor::ones([4, 4, 4], (Kind::Float, Device::Cpu));
    let heat = heat_map(&flat(8, 8, [255, 255, 255]), &scores).unwrap();
    assert!(heat.data.chunks(3).all(|pixel| pixel == &heat.data[..3]));
    assert!(lit(at(&heat, 0, 0)) > 150, "{:?}", at(&heat, 0, 0));
}

#[test]
fn a_mask_picture_is_255_where_any_channel_keeps_the_subject() {
    let mask = mask_picture(&latent_mask(), 64, 32).unwrap();
    for (x, y, value) in [(23, 10, 0), (24, 8, 255), (39, 19, 255), (40, 19, 0), (30, 7, 0), (30, 20, 0)] {
        assert_eq!(mask.data[y * 64 + x], value, "{x},{y}");
    }
    assert_eq!(mask.data.iter().filter(|&&value| value == 255).count(), 16 * 12);
    assert!(mask_picture(&latent_mask(), 0, 8).is_err());
    assert!(mask_picture(&latent_mask().get(0), 8, 8).is_err());
}

#[test]
fn an_overlay_tints_inside_outlines_the_edge_and_leaves_the_rest() {
    let picture = flat(64, 64, [10, 200, 30]);
    let shown = overlay(&picture, &mask_picture(&latent_mask(), 64, 64).unwrap()).unwrap();
    assert_eq!(at(&shown, 32, 28), mixed([10, 200, 30], TINT.0, TINT.1));
    assert_eq!(at(&shown, 24, 28), OUTLINE.0);
    assert_eq!(at(&shown, 23, 28), OUTLINE.1);
    assert_eq!(at(&shown, 21, 28), [10, 200, 30]);
    let empty = Gray { width: 64, height: 64, data: vec![0; 64 * 64] };
    assert_eq!(overlay(&picture, &empty).unwrap(), picture);
}

#[test]
fn paste_back_keeps_the_subject_and_gives_the_references_bytes_back() {
    let (picture, reference) = (flat(64, 64, [240, 0, 7]), flat(64, 64, [0, 101, 200]));
    let mask = mask_picture(&latent_mask(), 64, 64).unwrap();
    let pasted = paste_back(&picture, &reference, &mask, 6).unwrap();
    for y in 0..64 {
        for x in 0..64 {
            // The mask is x in 24..40, y in 16..40.
            let out = |at: u32, from: u32, to: u32| from.saturating_sub(at).max((at + 1).saturating_sub(to));
            let distance = f64::from(out(x, 24, 40).pow(2) + out(y, 16, 40).pow(2)).sqrt();
            let pixel = at(&pasted, x, y);
            if distance == 0.0 {
                assert_eq!(pixel, [240, 0, 7], "{x},{y}");
            } else if distance >= 6.0 {
                assert_eq!(pixel, [0, 101, 200], "{x},{y}");
            } else {
                assert!((1..240).contains(&pixel[0]), "{x},{y}: {pixel:?}");
            }
        }
    }
    let row: Vec<u8> = (39..47).map(|x| at(&pasted, x, 28)[0]).collect();
    assert!(row.is_sorted_by(|a, b| a >= b), "{row:?}");
    let hard = paste_back(&picture, &reference, &mask, 0).unwrap();
    assert!(hard.data.chunks(3).all(|pixel| pixel == [240, 0, 7] || pixel == [0, 101, 200]));
}

#[test]
fn pictures_of_different_sizes_are_refused() {
    let (small, large) = (flat(8, 8, [0; 3]), flat(16, 8, [0; 3]));
    let mask = Gray { width: 8, height: 8, data: vec![0; 64] };
    assert!(overlay(&large, &mask).is_err());
    assert!(paste_back(&small, &large, &mask, 1).is_err());
    assert!(paste_back(&large, &large, &mask, 1).is_err());
    assert!(
        heat_map(&Rgb { data: Vec::new(), ..small }, &Tensor::ones([4, 4, 4], (Kind::Float, Device::Cpu))).is_err()
    );
}
