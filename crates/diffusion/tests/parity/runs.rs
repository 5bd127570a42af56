//! Whole runs of `txt2img` and `img2img` against diffusers' pipelines, with every scheduler; and what must not change a
//! picture.

use std::sync::atomic::{AtomicUsize, Ordering};

use diorama_diffusion::Error;
use diorama_diffusion::device::{Device, Dtype};
use diorama_diffusion::kernels::KernelChoice;
use diorama_diffusion::method::Method;
use diorama_diffusion::pipeline::{LoadOptions, Request, Sample, StableDiffusion};
use diorama_diffusion::scheduler::ConfigReading;
use serde_json::Value;
use tch::{Kind, Tensor};

use crate::golden::{Golden, assert_close, configurations, reference, settings};

pub(crate) fn load(g: &Golden, batch_size: usize) -> StableDiffusion {
    load_as(g, batch_size, None)
}

/// Made apart, as networks of this size are, and made together as larger ones are.
pub(crate) const BOTH_WAYS: [Option<bool>; 2] = [None, Some(false)];

pub(crate) fn load_as(g: &Golden, batch_size: usize, apart: Option<bool>) -> StableDiffusion {
    load_on(g, batch_size, apart, KernelChoice::Auto)
}

pub(crate) fn load_on(g: &Golden, batch_size: usize, apart: Option<bool>, kernels: KernelChoice) -> StableDiffusion {
    let options = LoadOptions { variant: None, device: Device::CPU, dtype: Dtype::F32, batch_size, apart, kernels };
    StableDiffusion::load(&g.model, &options).unwrap()
}

pub(crate) fn request(run: &Value, g: &Golden) -> Request {
    let text = |key: &str| run[key].as_str().unwrap().to_owned();
    let mut settings = settings(g, run["scheduler"].as_str().unwrap());
    settings.method = if text("method") == "txt2img" { Method::Txt2img } else { Method::Img2img };
    settings.steps = run["steps"].as_u64().unwrap() as usize;
    settings.strength = run["strength"].as_f64().unwrap();
    if run["scheduler_config"] == "as-is" {
        settings.scheduler_config = ConfigReading::AsIs;
    }
    settings.guidance = run["guidance"].as_f64().unwrap();
    settings.negative_prompt = text("negative_prompt");
    Request {
        prompt: text("prompt"),
        subjects: None,
        seed: run["seed"].as_u64().unwrap(),
        reference: (settings.method != Method::Txt2img).then(reference),
        settings,
    }
}

pub(crate) fn one(model: &StableDiffusion, request: Request) -> Sample {
    model.generate(&[request], &|| false).unwrap().remove(0).unwrap()
}

#[track_caller]
pub(crate) fn assert_same_picture(sample: &Sample, expected: &Tensor, what: &str) {
    let (height, width, _) = expected.size3().unwrap();
    let actual = Tensor::from_slice(&sample.image.data).view([height, width, 3]).to_kind(Kind::Int);
    let difference = (actual - expected.to_kind(Kind::Int)).abs().max().int64_value(&[]);
    assert!(difference <= 1, "{what}: a pixel differs by {difference}");
}

#[test]
fn every_run_gives_the_latents_and_pictures_of_diffusers() {
    for (g, apart) in configurations().flat_map(|g| BOTH_WAYS.map(|apart| (Golden::read(g.name), apart))) {
        let model = load_as(&g, 1, apart);
        for run in g.facts["runs"].as_array().unwrap() {
            let name = run["name"].as_str().unwrap();
            let what = format!("{}: {name}, apart: {apart:?}", g.name);
            let sample = one(&model, request(run, &g));
            assert_close(&sample.latents, g.tensors.get(&format!("{name}.latents")), 1e-4, &what);
            if run["picture"].as_bool().unwrap() {
                assert_same_picture(&sample, g.tensors.get(&format!("{name}.picture")), &what);
            }
        }
    }
}

#[test]
fn a_picture_depends_neither_on_its_batch_mates_nor_on_its_place_among_them() {
    // The last: groups of two.
    let ways = [(3, None), (3, Some(false)), (16, None)];
    for (g, (size, apart)) in configurations().flat_map(|g| ways.map(|way| (Golden::read(g.name), way))) {
        let model = load_as(&g, size, apart);
        let runs = g.facts["runs"].as_array().unwrap();
        let run = runs.iter().find(|run| run["name"] == "img2img.ddpm.0.9").unwrap();
        let make = |seed: u64, prompt: &str, guidance: f64| {
            let mut request = request(run, &g);
            request.seed = seed;
            request.prompt = prompt.to_owned();
            request.settings.guidance = guidance;
            request
        };
        let wanted = || make(5, "a deer in the forest", 7.0);
        let others = [make(6, "tiger", 3.0), make(7, "clouds drifting over the beach", 9.0)];
        let images = |requests: &[Request]| -> Vec<Vec<u8>> {
            model.generate(requests, &|| false).unwrap().into_iter().map(|sample| sample.unwrap().image.data).collect()
        };
        let alone = images(&[wanted()]).remove(0);
        let first = images(&[wanted(), others[0].clone(), others[1].clone()]).remove(0);
        let last = images(&[others[1].clone(), others[0].clone(), wanted()]).remove(2);
        assert!(alone == first && alone == last, "{}: {size}, apart: {apart:?}", g.name);
    }
}

#[test]
fn latents_do_not_depend_on_the_batch_size_beyond_rounding() {
    for g in configurations() {
        let runs = g.facts["runs"].as_array().unwrap();
        let run = runs.iter().find(|run| run["name"] == "img2img.ddim.0.9").unwrap();
        let small = one(&load(&g, 1), request(run, &g));
        for (size, apart) in [(4, None), (4, Some(false)), (32, None)] {
            let large = one(&load_as(&g, size, apart), request(run, &g));
            assert_close(&large.latents, &small.latents, 1e-4, g.name);
            assert!(small.image.data.iter().zip(&large.image.data).all(|(a, b)| a.abs_diff(*b) <= 1), "{}", g.name);
        }
    }
}

#[test]
fn a_batch_can_be_stopped_between_steps() {
    let g = Golden::read("flat");
    let model = load(&g, 1);
    let request = request(&g.facts["runs"][1], &g);
    let asked = AtomicUsize::new(0);
    let stop = || asked.fetch_add(1, Ordering::Relaxed) >= 3;
    let error = model.generate(&[request], &stop).unwrap_err();
    assert!(matches!(error, Error::Stopped));
    assert_eq!(asked.into_inner(), 4);
}

#[test]
fn latents_that_are_not_finite_name_the_step_and_spare_the_batch_mates() {
    let g = Golden::read("flat");
    let model = load(&g, 2);
    let good = request(&g.facts["runs"][1], &g);
    let mut bad = good.clone();
    // Large enough for float32 to overflow within a few steps, whatever the network says.
    bad.settings.guidance = 1e30;
    let mut results = model.generate(&[bad, good.clone()], &|| false).unwrap();
    assert_eq!(results.pop().unwrap().unwrap().image, one(&model, good).image);
    let error = results.pop().unwrap().unwrap_err();
    assert!(matches!(error, Error::NonFinite { .. }), "{error}");
    assert!(error.to_string().contains("at step"), "{error}");
}

#[test]
fn a_missing_reference_and_a_size_that_does_not_fit_are_refused_by_name() {
    let g = Golden::read("flat");
    let model = load(&g, 1);
    let good = request(&g.facts["runs"][1], &g);
    let refusal = |change: &dyn Fn(&mut Request)| {
        let mut request = good.clone();
        change(&mut request);
        model.generate(&[request], &|| false).unwrap().remove(0).unwrap_err().to_string()
    };
    assert!(refusal(&|r| r.reference = None).contains("reference"));
    assert!(refusal(&|r| r.settings.width = 17).contains("multiple of"));
    assert!(refusal(&|r| r.settings.strength = 0.01).contains("raise strength"));
    assert!(refusal(&|r| r.settings.steps = 0).contains("steps"));
}
