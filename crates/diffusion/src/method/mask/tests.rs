use super::*;

fn masking(rows: &[(Smoothing, f64, u32)]) -> Masking {
    let rows: Vec<Settings> = rows
        .iter()
        .map(|&(smoothing, threshold, dilation)| Settings { smoothing, threshold, dilation, ..Settings::example() })
        .collect();
    Masking::new(&rows.iter().collect::<Vec<_>>(), Device::Cpu).unwrap()
}

const NONE: Smoothing = Smoothing::Gaussian(0.0);

#[test]
fn the_threshold_counts_standard_deviations_of_each_channel() {
    let score = Tensor::from_slice(&[0f32, 0.0, 0.0, 4.0, 10.0, 10.0, 10.0, 10.0]).view([1, 2, 2, 2]);
    // Channel 0: mean 1, deviation 2. Channel 1 is flat: nothing is above its mean.
    let bits = |k: f64| Vec::<bool>::try_from(masking(&[(NONE, k, 0)]).masks(&score).unwrap().flatten(0, -1)).unwrap();
    assert_eq!(bits(1.4), [false, false, false, true, false, false, false, false]);
    assert_eq!(bits(1.6), [false; 8]);
}

#[test]
fn dilation_grows_by_one_element_in_each_direction_and_blur_keeps_a_flat_score() {
    let mask = Tensor::zeros([1, 1, 5, 5], (Kind::Bool, Device::Cpu));
    let _ = mask.get(0).get(0).get(0).get(0).fill_(1);
    let share = |times: u32| {
        let grown = masking(&[(NONE, 0.0, times)]).dilate(&mask).unwrap();
        Vec::<f64>::try_from(coverage(&grown).unwrap()).unwrap()
    };
    assert_eq!([share(0), share(1), share(2)], [[1.0 / 25.0], [4.0 / 25.0], [9.0 / 25.0]]);
    let flat = Tensor::full([1, 4, 3, 1], 2.0, (Kind::Float, Device::Cpu));
    let smooth = masking(&[(Smoothing::Gaussian(6.0), 0.0, 0)]).smooth(&flat).unwrap();
    assert!((smooth - flat).abs().max().double_value(&[]) < 1e-6);
}

#[test]
fn a_box_sum_is_less_at_the_edge_because_nothing_is_beyond_it() {
    let flat = Tensor::full([1, 1, 3, 4], 2.0, (Kind::Float, Device::Cpu));
    let sums = masking(&[(Smoothing::BoxSum, 0.0, 0)]).smooth(&flat).unwrap();
    let sums = Vec::<f32>::try_from(sums.flatten(0, -1)).unwrap();
    assert_eq!(sums, [8.0, 12.0, 12.0, 8.0, 12.0, 18.0, 18.0, 12.0, 8.0, 12.0, 12.0, 8.0]);
}

#[test]
fn each_row_of_a_batch_gets_the_mask_of_its_own_settings() {
    let rows = [
        (Smoothing::Gaussian(6.0), 0.5, 1),
        (Smoothing::BoxSum, 0.1, 0),
        (NONE, 1.0, 3),
        (Smoothing::Gaussian(0.6), -0.2, 2),
        (Smoothing::BoxSum, 0.5, 1),
    ];
    for (height, width) in [(8, 8), (5, 7), (1, 6)] {
        tch::manual_seed(3);
        let scores = Tensor::rand([5, 4, height, width], (Kind::Float, Device::Cpu));
        let together = masking(&rows).masks(&scores).unwrap();
        for (i, row) in (0..).zip(rows) {
            let alone = masking(&[row]).masks(&scores.narrow(0, i, 1)).unwrap();
            assert!(alone.equal(&together.narrow(0, i, 1)), "row {i} of {height}x{width}");
            let part = masking(&rows).rows(i, 1).unwrap().masks(&scores.narrow(0, i, 1)).unwrap();
            assert!(part.equal(&alone), "row {i} of {height}x{width}, cut out");
        }
        let shares = Vec::<f64>::try_from(coverage(&together).unwrap()).unwrap();
        assert!(shares.iter().all(|share| *share > 0.0), "{shares:?}");
    }
    let score = Tensor::rand([1, 4, 6, 6], (Kind::Float, Device::Cpu));
    assert!(masking(&[(NONE, 0.0, 0)]).smooth(&score).unwrap().equal(&score), "sigma 0 is none");
}
