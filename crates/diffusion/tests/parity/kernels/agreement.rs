//! Each operation against float64, over shapes that are multiples of nothing and those of real models.

use std::sync::Arc;

use diorama_diffusion::kernels::{Kernels, Norm};
use tch::{Device, Kind, Tensor};

use super::host::Host;

const KINDS: [Kind; 3] = [Kind::Float, Kind::BFloat16, Kind::Half];

/// What rounding a result to its storage once costs at most, over its size; float32 has its sums' rounding, too.
fn allowed(kind: Kind) -> f64 {
    match kind {
        Kind::BFloat16 => 2f64.powi(-8),
        Kind::Half => 2f64.powi(-11),
        _ => 2e-6,
    }
}

/// Normal numbers of a seed, as they are stored.
fn numbers(shape: &[i64], kind: Kind, mean: f64) -> Tensor {
    let count: i64 = shape.iter().product();
    let uniform = |a: f64| (Tensor::arange(count, (Kind::Double, Device::Cpu)) * a).sin() * 43_758.545_312_3;
    let part = |x: Tensor| &x - x.floor();
    let (a, b) = (part(uniform(12.9898)) + 1e-9, part(uniform(78.233 + mean)));
    let normal = (a.clamp(1e-9, 1.0).log() * -2.0).sqrt() * (b * std::f64::consts::TAU).cos();
    (normal * 1.5 + mean).view(shape).to_kind(kind)
}

fn double(x: &Tensor) -> Tensor {
    x.to_kind(Kind::Double)
}

/// Each number within the rounding of its storage, plus float32's of the largest number that was added up.
#[track_caller]
fn assert_rounded(actual: &Tensor, exact: &Tensor, kind: Kind, what: &str) {
    assert_rounded_after(actual, exact, 0.0, kind, what);
}

/// The same where numbers up to `added` were added before they cancelled: float32 rounds each of them a few times, and
/// squares around an outlier more than that.
#[track_caller]
fn assert_rounded_after(actual: &Tensor, exact: &Tensor, added: f64, kind: Kind, what: &str) {
    assert_eq!(actual.size(), exact.size(), "{what}");
    assert_eq!(actual.kind(), kind, "{what}");
    let largest = exact.abs().max().double_value(&[]);
    let bound = exact.abs() * allowed(kind) + largest * 2e-6 + added * 1e-5;
    let beyond = ((double(actual) - exact).abs() / bound).max().double_value(&[]);
    assert!(beyond <= 1.0, "{what}: {beyond} times what is allowed");
}

/// `[B, C, h, w]` and groups.
const MAPS: [([i64; 4], i64); 14] = [
    ([1, 1, 1, 1], 1),
    ([1, 2, 1, 1], 1),
    ([2, 8, 1, 3], 2),
    ([3, 33, 5, 7], 11),
    ([2, 30, 3, 11], 3),
    ([1, 257, 3, 2], 1),
    ([2, 64, 17, 31], 32),
    ([2, 320, 13, 15], 32),
    ([1, 320, 64, 64], 32),
    ([2, 1280, 8, 8], 32),
    ([1, 1920, 16, 16], 32),
    ([2, 2560, 8, 8], 32),
    ([1, 128, 40, 72], 32),
    ([1, 4096, 2, 2], 32),
];

#[test]
fn group_norm_is_exact_but_for_rounding() {
    let kernels = Host::shared().kernels();
    for kind in KINDS {
        for (shape, groups) in MAPS {
            let [b, c, ..] = shape;
            let x = numbers(&shape, kind, 3.0);
            let vector = |mean| numbers(&[c], kind, mean);
            let (weight, shift, bias) = (vector(1.0), vector(-0.5), vector(0.25));
            let norm = Norm { weight: &weight, bias: &shift, eps: 1e-5 };
            let ways = [(None, 0, true), (Some(&bias), 0, false), (Some(&bias), 1, true), (None, b, false)];
            for (bias, time_rows, silu) in ways {
                let time = (time_rows > 0).then(|| numbers(&[time_rows, c, 1, 1], kind, 0.75));
                let y = kernels.group_norm(&x, (bias, time.as_ref()), groups, norm, silu).unwrap();
                let what = format!("{shape:?} in {groups} groups, {kind:?}, {time_rows} times, SiLU: {silu}");
                let y = y.unwrap_or_else(|| panic!("{what} is not taken"));
                let left = bias.map_or(Tensor::from(0.0), |bias| double(bias).view([1, c, 1, 1]))
                    + time.as_ref().map_or(Tensor::from(0.0), double);
                let mut exact = double(&x) + &left;
                // x · factor and the addend are rounded before they cancel.
                let least = exact.view([b, groups, -1]).var_dim(-1, false, false).min().double_value(&[]);
                let added = (double(&x).abs().max() + left.abs().max()) * double(&weight).abs().max();
                let added = added.double_value(&[]) / (least + norm.eps).sqrt();
                exact = exact.group_norm(groups, Some(&double(&weight)), Some(&double(&shift)), norm.eps, true);
                if silu {
                    exact = exact.silu();
                }
                assert_rounded_after(&y, &exact, added, kind, &what);
                assert!(y.permute([0, 2, 3, 1]).is_contiguous(), "{what}: channels last");
            }
        }
    }
}

#[test]
fn a_large_mean_costs_group_norm_no_digits() {
    let kernels = Host::shared().kernels();
    let x = numbers(&[2, 64, 20, 20], Kind::Float, 1000.0);
    let ones = Tensor::ones([64], (Kind::Float, Device::Cpu));
    let zeros = ones.zeros_like();
    let norm = Norm { weight: &ones, bias: &zeros, eps: 1e-6 };
    let y = kernels.group_norm(&x, (None, None), 32, norm, false).unwrap().unwrap();
    let exact = double(&x).group_norm(32, Some(&double(&ones)), Some(&double(&zeros)), norm.eps, true);
    // The factor is rounded once and multiplied with 1000: sums of squares as they are would be off by 1e-2.
    assert!((double(&y) - exact).abs().max().double_value(&[]) < 3e-4);
}

/// `[…, C]`.
const TOKENS: [&[i64]; 9] =
    [&[1, 1], &[3, 1], &[1, 8], &[7, 33], &[9, 257], &[2, 77, 320], &[1, 64, 1280], &[5, 40], &[1, 4096, 320]];

#[test]
fn layer_norm_of_a_sum_is_exact_but_for_rounding() {
    let kernels = Host::shared().kernels();
    for kind in KINDS {
        for shape in TOKENS {
            let c = &shape[shape.len() - 1..];
            let (x, more) = (numbers(shape, kind, 2.0), numbers(shape, kind, -1.0));
            let (weight, shift) = (numbers(c, kind, 1.0), numbers(c, kind, 0.5));
            let norm = Norm { weight: &weight, bias: &shift, eps: 1e-5 };
            let exact = |x: &Tensor| double(x).layer_norm(c, Some(&double(&weight)), Some(&double(&shift)), 1e-5, true);
            let what = format!("{shape:?} {kind:?}");
            let (same, y) = kernels.add_layer_norm(&x, None, norm).unwrap().unwrap();
            assert!(same.data_ptr() == x.data_ptr() && same.equal(&numbers(shape, kind, 2.0)), "{what}");
            assert_rounded(&y, &exact(&x), kind, &what);
            let sum = &x + &more;
            let (total, y) = kernels.add_layer_norm(&x, Some(&more), norm).unwrap().unwrap();
            assert!(total.data_ptr() == x.data_ptr() && total.equal(&sum), "{what}: the sum, in the memory of x");
            assert_rounded(&y, &exact(&sum), kind, &what);
        }
    }
}

#[test]
fn geglu_is_exact_but_for_rounding() {
    let kernels = Host::shared().kernels();
    for kind in KINDS {
        for shape in TOKENS {
            let mut doubled = shape.to_vec();
            *doubled.last_mut().unwrap() *= 2;
            let x = numbers(&doubled, kind, 0.1);
            let halves = double(&x).chunk(2, -1);
            let exact = &halves[0] * halves[1].gelu("none");
            let y = kernels.geglu(&x).unwrap().unwrap();
            assert_rounded(&y, &exact, kind, &format!("{shape:?} {kind:?}"));
        }
    }
}

#[test]
fn biases_and_a_residual_are_added_in_place() {
    let kernels = Host::shared().kernels();
    for kind in KINDS {
        for (shape, _) in MAPS {
            let c = &shape[1..2];
            let (bias, other) = (numbers(c, kind, 1.0), numbers(c, kind, -2.0));
            for (bias, other) in [(None, None), (Some(&bias), None), (Some(&bias), Some(&other)), (None, Some(&other))]
            {
                let [b, c, h, w] = shape;
                let x = numbers(&[b, h, w, c], kind, 0.5).permute([0, 3, 1, 2]);
                let more = numbers(&shape, kind, 1.5);
                let column = |x: Option<&Tensor>| x.map_or(Tensor::from(0.0), |x| double(x).view([-1, 1, 1]));
                let exact = double(&x) + double(&more) + column(bias) + column(other);
                let y = kernels.bias_residual(&x, bias, &more, other).unwrap().unwrap();
                assert_rounded(&y, &exact, kind, &format!("{shape:?} {kind:?}"));
                assert_eq!(y.data_ptr(), x.data_ptr());
            }
        }
    }
}

#[test]
fn row_sums_are_exact_but_for_the_rounding_of_sums() {
    let kernels = Host::shared().kernels();
    let shapes = [[128, 256, 64], [37, 4100, 64], [5, 3, 16], [1, 1, 1], [130, 70, 33], [17, 2049, 24], [300, 65, 62]];
    for [n, m, inner] in shapes {
        let (x, y) = (numbers(&[n, inner], Kind::BFloat16, 0.1), numbers(&[m, inner], Kind::BFloat16, -0.2));
        let exact = double(&x).matmul(&double(&y).transpose(0, 1)).abs().sum_dim_intlist(-1, false, Kind::Double);
        let sums = kernels.absolute_row_sums(&x, &y).unwrap().unwrap();
        assert_rounded(&sums, &exact, Kind::Float, &format!("{n} x {m} over {inner}"));
    }
    let (wide, float) = (numbers(&[2, 65], Kind::BFloat16, 0.0), numbers(&[2, 64], Kind::Float, 0.0));
    assert!(kernels.absolute_row_sums(&wide, &wide).unwrap().is_none(), "more in common than fits");
    assert!(kernels.absolute_row_sums(&float, &float).unwrap().is_none(), "float32 is libtorch's");
}

#[test]
fn an_address_between_two_packs_is_read_number_by_number() {
    let kernels = Host::shared().kernels();
    for kind in KINDS {
        let x = numbers(&[1 + 6 * 64], kind, 0.0).narrow(0, 1, 6 * 64).view([6, 64]);
        let halves = double(&x).chunk(2, -1);
        let y = kernels.geglu(&x).unwrap().unwrap();
        assert_rounded(&y, &(&halves[0] * halves[1].gelu("none")), kind, &format!("{kind:?}"));
    }
}

#[test]
fn infinities_and_nan_stay_what_they_are() {
    let kernels = Host::shared().kernels();
    for kind in KINDS {
        let x = Tensor::from_slice(&[f32::INFINITY, 1.0, f32::NAN, -70_000.0, 1.0, 1.0, 1.0, 1.0]);
        let x = x.view([1, 8]).to_kind(kind);
        let y = double(&kernels.geglu(&x).unwrap().unwrap()).view([4]);
        assert!(y.double_value(&[0]).is_infinite() && y.double_value(&[2]).is_nan(), "{kind:?}: {y}");
        assert!(y.double_value(&[1]).is_finite());
        assert_eq!(y.double_value(&[3]).is_infinite(), kind == Kind::Half, "{kind:?}");
    }
}

#[test]
fn the_order_in_which_threads_run_changes_no_byte() {
    // Of its own: others use the shared one meanwhile.
    let host = Arc::new(super::host::Source::copy().host(true));
    let kernels = host.clone().kernels();
    for kind in KINDS {
        let (x, vector, rows) =
            (numbers(&[2, 320, 9, 7], kind, 1.0), numbers(&[320], kind, 1.0), numbers(&[19, 320], kind, 0.0));
        let norm = Norm { weight: &vector, bias: &vector, eps: 1e-5 };
        let made = |backwards| {
            host.go_backwards(backwards);
            let map = kernels.group_norm(&x, (Some(&vector), None), 32, norm, true).unwrap().unwrap();
            let (_, normed) =
                kernels.add_layer_norm(&numbers(&[19, 320], kind, 0.0), Some(&rows), norm).unwrap().unwrap();
            (map, normed)
        };
        let (forwards, backwards) = (made(false), made(true));
        assert!(forwards.0.equal(&backwards.0) && forwards.1.equal(&backwards.1), "{kind:?}");
    }
}

#[test]
fn a_rows_bytes_depend_on_no_other_row() {
    let kernels = Host::shared().kernels();
    for kind in KINDS {
        let x = numbers(&[3, 320, 11, 13], kind, 1.0);
        let vector = numbers(&[320], kind, 1.0);
        let norm = Norm { weight: &vector, bias: &vector, eps: 1e-5 };
        let of = |x: &Tensor| kernels.group_norm(x, (Some(&vector), None), 32, norm, true).unwrap().unwrap();
        let all = of(&x);
        for row in 0..3 {
            assert!(of(&x.narrow(0, row, 1)).equal(&all.narrow(0, row, 1)), "{kind:?}, row {row}");
        }
    }
}

#[test]
fn operands_that_the_kernels_do_not_take_are_left_to_libtorch() {
    let kernels = Host::shared().kernels();
    let (map, vector, rows) =
        (numbers(&[1, 8, 2, 2], Kind::Float, 0.0), numbers(&[8], Kind::Float, 1.0), numbers(&[3, 8], Kind::Float, 0.0));
    let norm = Norm { weight: &vector, bias: &vector, eps: 1e-5 };
    let group_norm = |kernels: &Kernels, x: &Tensor, time: Option<&Tensor>, groups| {
        kernels.group_norm(x, (None, time), groups, norm, false).unwrap().is_some()
    };
    assert!(group_norm(&kernels, &map, None, 2), "the one that is taken");
    assert!(!group_norm(&Kernels::none(), &map, None, 2), "there are no kernels");
    assert!(!group_norm(&kernels, &map, None, 3), "groups do not divide the channels");
    assert!(!group_norm(&kernels, &map.to_kind(Kind::Double), None, 2), "another storage");
    assert!(!group_norm(&kernels, &map, Some(&numbers(&[2, 8, 1, 1], Kind::Float, 0.0)), 2), "times of other rows");
    assert!(!group_norm(&kernels, &map, Some(&numbers(&[1, 4, 1, 1], Kind::Float, 0.0)), 2), "times of other channels");
    assert!(!group_norm(&kernels, &map.set_requires_grad(true), None, 2), "a graph is recorded");
    let wide = numbers(&[1, 8192, 1, 1], Kind::Float, 0.0);
    let wide_vector = numbers(&[8192], Kind::Float, 0.0);
    let wide_norm = Norm { weight: &wide_vector, bias: &wide_vector, eps: 1e-5 };
    assert!(kernels.group_norm(&wide, (None, None), 2, wide_norm, false).unwrap().is_none(), "no memory for the sums");
    assert!(kernels.add_layer_norm(&rows.transpose(0, 1), None, norm).unwrap().is_none(), "rows that are columns");
    assert!(kernels.add_layer_norm(&rows, Some(&rows.narrow(0, 0, 2)), norm).unwrap().is_none(), "another shape");
    assert!(kernels.geglu(&rows.narrow(1, 0, 7)).unwrap().is_none(), "half a channel");
    let half = rows.to_kind(Kind::Half);
    assert!(kernels.add_layer_norm(&half, None, norm).unwrap().is_none(), "two storages");
}
