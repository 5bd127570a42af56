//! What must hold on a GPU. Ignored where `cargo test` runs, which may have none; `scripts/bench/gpu.sh check` carries
//! these tests to one and runs them, one after the other and without TF32.

use diorama_diffusion::Error;
use diorama_diffusion::device::{Device, Dtype};
use diorama_diffusion::kernels::{KernelChoice, Norm};
use diorama_diffusion::method::{Estimator, Score};
use diorama_diffusion::pipeline::{LoadOptions, Request, Sample, StableDiffusion};
use tch::{Kind, Tensor};

use crate::golden::{Golden, assert_close, configurations, error};
use crate::{method, runs};

fn load(g: &Golden, dtype: Dtype, batch_size: usize) -> StableDiffusion {
    load_on(g, dtype, batch_size, KernelChoice::Auto)
}

fn load_on(g: &Golden, dtype: Dtype, batch_size: usize, kernels: KernelChoice) -> StableDiffusion {
    let device: Device = "cuda".parse().unwrap();
    StableDiffusion::load(&g.model, &LoadOptions { variant: None, device, dtype, batch_size, apart: None, kernels })
        .unwrap()
}

const DTYPES: [Dtype; 3] = [Dtype::F32, Dtype::Bf16, Dtype::F16];

fn make(model: &StableDiffusion, requests: &[Request]) -> Vec<Sample> {
    model.generate(requests, &|| false).unwrap().into_iter().map(Result::unwrap).collect()
}

fn one(model: &StableDiffusion, request: Request) -> Sample {
    make(model, &[request]).remove(0)
}

/// The distance of two tensors over the length of the second.
pub(crate) fn distance(actual: &Tensor, expected: &Tensor) -> f64 {
    let (actual, expected) = (actual.to_kind(Kind::Double), expected.to_kind(Kind::Double));
    (actual - &expected).norm().double_value(&[]) / expected.norm().double_value(&[])
}

#[test]
#[ignore = "needs a GPU: scripts/bench/gpu.sh check"]
fn float32_gives_the_latents_and_pictures_of_diffusers() {
    for g in configurations() {
        let model = load(&g, Dtype::F32, 1);
        for run in g.facts["runs"].as_array().unwrap() {
            let name = run["name"].as_str().unwrap();
            let what = format!("{}: {name}", g.name);
            let sample = one(&model, runs::request(run, &g));
            let expected = g.tensors.get(&format!("{name}.latents"));
            eprintln!("{what}: {:.1e} of the largest value", error(&sample.latents, expected));
            assert_close(&sample.latents, expected, 1e-3, &what);
            if run["picture"].as_bool().unwrap() {
                runs::assert_same_picture(&sample, g.tensors.get(&format!("{name}.picture")), &what);
            }
        }
    }
}

#[test]
#[ignore = "needs a GPU: scripts/bench/gpu.sh check"]
fn float32_gives_the_scores_and_masks_of_the_plain_reference() {
    for (g, run) in method::methods() {
        let name = format!("method.{}", run["name"].as_str().unwrap());
        let what = format!("{}: {name}", g.name);
        let sample = one(&load(&g, Dtype::F32, 1), method::request(&run, &g));
        for (key, tensor) in sample.tensors().unwrap() {
            let expected = g.tensors.get(&format!("{name}.{key}"));
            if key.starts_with("mask.") {
                assert!(tensor.equal(expected), "{what}: {key} differs");
            } else {
                assert_close(&tensor, expected, 1e-3, &format!("{what}: {key}"));
            }
        }
    }
}

#[test]
#[ignore = "needs a GPU: scripts/bench/gpu.sh check"]
fn every_estimator_gives_the_scores_of_the_cpu() {
    let g = Golden::read("demo");
    let run = &g.facts["methods"][0];
    let (ours, cpu) = (load(&g, Dtype::F32, 1), runs::load(&g, 1));
    let first = cpu.cross_attention_layers()[0].clone();
    // Finite differences magnify rounding.
    let ways: [(Score, Option<u32>, Estimator, f64); 5] = [
        (Score::ReluGrad, None, Estimator::ClosedForm, 1e-3),
        (Score::Attention, None, Estimator::Direct, 1e-3),
        (Score::GuidanceDifference, None, Estimator::Direct, 1e-3),
        (Score::AbsGrad, Some(8), Estimator::RandomSigns(8), 1e-2),
        (Score::AbsGrad, Some(4096), Estimator::ReverseMode, 1e-3),
    ];
    for (score, probes, estimator, allowed) in ways {
        let mut request = method::request(run, &g);
        request.settings.score = score;
        if let Some(probes) = probes {
            request.settings.layers = vec![first.clone()];
            request.settings.probes = probes;
        }
        let (actual, expected) = (one(&ours, request.clone()), one(&cpu, request));
        assert_eq!(actual.edits[0].estimator, estimator);
        // Before the first replacement nothing but rounding differs.
        let far = distance(&actual.edits[0].scores[0], &expected.edits[0].scores[0]);
        eprintln!("{score:?}, {estimator:?}: {far:.1e}");
        assert!(far < allowed, "{score:?}, {estimator:?}: {far:.1e}");
    }
}

#[test]
#[ignore = "needs a GPU: scripts/bench/gpu.sh check"]
fn half_precision_stays_near_float32() {
    for g in configurations() {
        let run = g.facts["runs"].as_array().unwrap().iter().find(|run| run["name"] == "img2img.ddim.0.9").unwrap();
        let exact = one(&runs::load(&g, 1), runs::request(run, &g));
        for (dtype, allowed) in [(Dtype::Bf16, 0.1), (Dtype::F16, 0.02)] {
            let sample = one(&load(&g, dtype, 1), runs::request(run, &g));
            let far = distance(&sample.latents, &exact.latents);
            eprintln!("{} {}: {far:.1e}", g.name, dtype.as_str());
            assert!(far < allowed, "{} {}: {far:.1e}", g.name, dtype.as_str());
        }
    }
}

#[test]
#[ignore = "needs a GPU: scripts/bench/gpu.sh check"]
fn scores_and_masks_in_half_precision_stay_near_those_in_float32() {
    for (g, run) in method::methods() {
        let exact = one(&runs::load(&g, 1), method::request(&run, &g)).edits.remove(0);
        for (dtype, allowed) in [(Dtype::Bf16, 0.1), (Dtype::F16, 0.02)] {
            let edit = one(&load(&g, dtype, 1), method::request(&run, &g)).edits.remove(0);
            let far = distance(&edit.scores[0], &exact.scores[0]);
            let differ =
                edit.mask.not_equal_tensor(&exact.mask).to_kind(Kind::Float).mean(Kind::Float).double_value(&[]);
            let what = format!("{} {} {}", g.name, run["name"], dtype.as_str());
            eprintln!("{what}: scores {far:.1e}, masks differ in {:.1}%", 100.0 * differ);
            assert!(far < allowed && differ < 0.1, "{what}: {far:.1e}, {differ}");
        }
    }
}

#[test]
#[ignore = "needs a GPU: scripts/bench/gpu.sh check"]
fn a_picture_depends_neither_on_its_batch_mates_nor_on_the_time_of_its_making() {
    for (g, run) in method::methods() {
        for dtype in [Dtype::F32, Dtype::Bf16] {
            let model = load(&g, dtype, 3);
            let wanted = method::request(&run, &g);
            let other = |seed| Request { seed, ..wanted.clone() };
            let alone = one(&model, wanted.clone()).image;
            let first = make(&model, &[wanted.clone(), other(71), other(72)]).remove(0).image;
            let last = make(&load(&g, dtype, 3), &[other(73), other(74), wanted.clone()]).remove(2).image;
            assert!(alone == first && alone == last, "{} {}", g.name, dtype.as_str());
        }
    }
}

/// Where this fails, every other test here ran on libtorch's path.
#[test]
#[ignore = "needs a GPU: scripts/bench/gpu.sh check"]
fn own_kernels_agree_with_libtorch_and_run() {
    for (g, dtype) in configurations().flat_map(|g| DTYPES.map(|dtype| (Golden::read(g.name), dtype))) {
        let model = load(&g, dtype, 1);
        eprintln!("{} {}: {}", g.name, dtype.as_str(), model.kernels());
        assert!(model.has_own_kernels(), "{} {}: {}", g.name, dtype.as_str(), model.kernels());
        assert!(!load_on(&g, dtype, 1, KernelChoice::Libtorch).has_own_kernels());
    }
}

/// Feature maps of Stable Diffusion v1.5, two rows: own kernels and libtorch's against float64.
#[test]
#[ignore = "needs a GPU: scripts/bench/gpu.sh check"]
fn own_kernels_are_as_near_to_float64_as_libtorchs_at_real_shapes() {
    let device = tch::Device::Cuda(0);
    for dtype in DTYPES {
        let kind = dtype.kind();
        let kernels = KernelChoice::Auto.settle(device, kind).unwrap().kernels;
        let double = |x: &Tensor| x.to_kind(Kind::Double);
        let random = |shape: &[i64]| (Tensor::randn(shape, (Kind::Float, device)) * 2.0 + 1.0).to_kind(kind);
        let compare = |what: &str, ours: Option<Tensor>, theirs: &Tensor, exact: &Tensor| {
            let ours = distance(&ours.unwrap_or_else(|| panic!("{what} is not taken")), exact);
            let theirs = distance(theirs, exact);
            eprintln!("{what} {}: own {ours:.1e}, libtorch {theirs:.1e}", dtype.as_str());
            assert!(ours <= 1.2 * theirs + 1e-6, "{what} {}: own {ours:.1e}, libtorch {theirs:.1e}", dtype.as_str());
        };
        for [c, side] in [[320, 64], [640, 32], [1280, 16], [1280, 8], [2560, 8], [1920, 16], [960, 64], [128, 512]] {
            let (x, bias) = (random(&[2, c, side, side]), random(&[c]));
            let norm = Norm { weight: &random(&[c]), bias: &random(&[c]), eps: 1e-5 };
            let column = |x: &Tensor| x.view([1, -1, 1, 1]);
            let normed = |x: &Tensor, by: &dyn Fn(&Tensor) -> Tensor| {
                x.group_norm(32, Some(&by(norm.weight)), Some(&by(norm.bias)), norm.eps, true).silu()
            };
            let what = format!("group norm {c} x {side}");
            let ours = kernels.group_norm(&x, (Some(&bias), None), 32, norm, true).unwrap();
            let theirs = normed(&(&x + column(&bias)), &Tensor::shallow_clone);
            compare(&what, ours, &theirs, &normed(&(double(&x) + column(&double(&bias))), &double));

            let more = random(&[2, c, side, side]);
            let exact = double(&x) + column(&double(&bias)) + double(&more);
            let theirs = &x + column(&bias) + &more;
            let by_pixels = x.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2]);
            compare("residual", kernels.bias_residual(&by_pixels, Some(&bias), &more, None).unwrap(), &theirs, &exact);
        }
        for [rows, c] in [[8192, 320], [2048, 640], [512, 1280], [128, 1280]] {
            let (x, more) = (random(&[rows, c]), random(&[rows, c]));
            let norm = Norm { weight: &random(&[c]), bias: &random(&[c]), eps: 1e-5 };
            let normed = |x: &Tensor, by: &dyn Fn(&Tensor) -> Tensor| {
                x.layer_norm([c], Some(&by(norm.weight)), Some(&by(norm.bias)), norm.eps, true)
            };
            let sum = &x + &more;
            let ours = kernels.add_layer_norm(&x, Some(&more), norm).unwrap();
            assert!(ours.as_ref().is_some_and(|(total, _)| total.equal(&sum)), "the sum of {rows} x {c}");
            let theirs = normed(&sum, &Tensor::shallow_clone);
            compare(
                &format!("layer norm {rows} x {c}"),
                ours.map(|(_, y)| y),
                &theirs,
                &normed(&double(&sum), &double),
            );

            let both = random(&[rows, 8 * c]);
            let gated = |x: &Tensor| {
                let halves = x.chunk(2, -1);
                &halves[0] * halves[1].gelu("none")
            };
            compare(
                &format!("GEGLU {rows} x {c}"),
                kernels.geglu(&both).unwrap(),
                &gated(&both),
                &gated(&double(&both)),
            );
        }
    }
}

#[test]
#[ignore = "needs a GPU: scripts/bench/gpu.sh check"]
fn own_kernels_give_the_latents_of_libtorchs_within_rounding() {
    for g in configurations() {
        let run = g.facts["runs"].as_array().unwrap().iter().find(|run| run["name"] == "img2img.ddim.0.9").unwrap();
        // In half precision either is as far from float32 (`half_precision_stays_near_float32`).
        for (dtype, allowed) in [(Dtype::F32, 1e-3), (Dtype::Bf16, 0.15), (Dtype::F16, 0.03)] {
            let [ours, theirs] = [KernelChoice::Auto, KernelChoice::Libtorch]
                .map(|kernels| one(&load_on(&g, dtype, 1, kernels), runs::request(run, &g)).latents);
            let far = distance(&ours, &theirs);
            eprintln!("{} {}: {far:.1e}", g.name, dtype.as_str());
            assert!(far < allowed, "{} {}: {far:.1e}", g.name, dtype.as_str());
        }
    }
}

#[test]
#[ignore = "needs a GPU: scripts/bench/gpu.sh check"]
fn too_large_a_batch_is_out_of_memory_and_spares_the_device() {
    let g = Golden::read("demo");
    let mut model = load(&g, Dtype::F32, 8192);
    let request = method::request(&g.facts["methods"][0], &g);
    // All of the device's memory but a gigabyte.
    let block = || Tensor::f_zeros([1 << 28], (Kind::Float, tch::Device::Cuda(0)));
    let mut ballast: Vec<Tensor> = std::iter::from_fn(|| block().ok()).collect();
    ballast.pop();
    let error = model.generate(std::slice::from_ref(&request), &|| false).unwrap_err();
    assert!(matches!(error, Error::OutOfMemory(_)), "{error}");
    model.set_batch_size(1);
    one(&model, request);
}

#[test]
#[ignore = "needs a GPU: scripts/bench/gpu.sh check"]
fn masks_and_pictures_are_the_same_however_many_rows_are_edited_and_decoded_together() {
    // Ten pictures of different subjects, words and settings, on a card that takes four rows and four pictures at a time.
    for (g, run) in method::methods().filter(|(g, _)| g.name == "demo") {
        for dtype in [Dtype::F32, Dtype::Bf16] {
            let model = load(&g, dtype, 10);
            let request = |seed: u64| {
                let mut request = Request { seed, ..method::request(&run, &g) };
                request.settings.threshold = 0.1 * (seed % 5) as f64;
                request.settings.dilation = (seed % 3) as u32;
                request
            };
            let all = make(&model, &(0..10).map(request).collect::<Vec<_>>());
            let few = make(&model, &[3, 7, 9].map(request));
            for (few, seed) in few.iter().zip([3usize, 7, 9]) {
                let what = format!("{} {} {seed}", run["name"], dtype.as_str());
                assert!(few.image == all[seed].image, "{what}: the picture");
                for (a, b) in few.edits.iter().zip(&all[seed].edits) {
                    assert!(a.mask.equal(&b.mask) && a.scores[0].equal(&b.scores[0]), "{what}: step {}", a.step);
                    assert_eq!((a.coverage, &a.subject_coverage), (b.coverage, &b.subject_coverage), "{what}");
                    assert!(a.before.equal(&b.before) && a.after.equal(&b.after), "{what}: step {}", a.step);
                }
            }
        }
    }
}

#[test]
#[ignore = "needs a GPU: scripts/bench/gpu.sh check"]
fn a_batch_size_that_nobody_named_follows_the_card_and_fits_it() {
    let g = Golden::read("demo");
    let device: Device = "cuda".parse().unwrap();
    let memory = device.memory().expect("the driver says how much memory the card has");
    assert!(memory > 1 << 30, "{memory} bytes");
    let mut model = load(&g, Dtype::Bf16, 1);
    let size = model.best_batch_size();
    assert!((1..=16).contains(&size) && size.is_power_of_two(), "{size}");
    model.set_batch_size(size);
    one(&model, method::request(&g.facts["methods"][0], &g));
}
