//! bfloat16 on a CPU, whether it multiplies such numbers by itself or widens them: pictures, scores and masks stay near
//! those of float32. `gpu.rs` says the same of GPUs.

use diorama_diffusion::device::{Device, Dtype};
use diorama_diffusion::kernels::KernelChoice;
use diorama_diffusion::pipeline::{LoadOptions, Request, Sample, StableDiffusion};
use tch::Kind;

use crate::golden::Golden;
use crate::gpu::distance;
use crate::{method, runs};

fn load(g: &Golden, batch_size: usize) -> StableDiffusion {
    let options = LoadOptions {
        variant: None,
        device: Device::CPU,
        dtype: Dtype::Bf16,
        batch_size,
        apart: None,
        kernels: KernelChoice::Auto,
    };
    StableDiffusion::load(&g.model, &options).unwrap()
}

fn make(model: &StableDiffusion, requests: &[Request]) -> Vec<Sample> {
    model.generate(requests, &|| false).unwrap().into_iter().map(Result::unwrap).collect()
}

#[test]
#[allow(clippy::print_stderr, reason = "docs/method.md shows the figures; --nocapture prints them")]
fn bfloat16_on_a_cpu_stays_near_float32() {
    for name in ["sd1", "demo"] {
        let g = Golden::read(name);
        let run = g.facts["runs"].as_array().unwrap().iter().find(|run| run["name"] == "img2img.ddim.0.9").unwrap();
        let request = [runs::request(run, &g)];
        let (exact, rounded) = (make(&runs::load(&g, 1), &request), make(&load(&g, 1), &request));
        let far = distance(&rounded[0].latents, &exact[0].latents);
        eprintln!("{name}: latents {far:.1e}");
        assert!(far > 0.0 && far < 0.1, "{name}: latents {far:.1e}");

        let request = [method::request(&g.facts["methods"][0], &g)];
        let (exact, rounded) = (make(&runs::load(&g, 1), &request), make(&load(&g, 1), &request));
        let (exact, rounded) = (&exact[0].edits[0], &rounded[0].edits[0]);
        let far = distance(&rounded.scores[0], &exact.scores[0]);
        let count = |mask: tch::Tensor| mask.sum(Kind::Double).double_value(&[]);
        let overlap =
            count(rounded.mask.logical_and(&exact.mask)) / count(rounded.mask.logical_or(&exact.mask)).max(1.0);
        eprintln!("{name}: scores {far:.1e}, IoU of the masks {overlap:.3}");
        assert!(far < 0.1 && overlap > 0.85, "{name}: scores {far:.1e}, IoU of the masks {overlap:.3}");
    }
}

#[test]
fn in_bfloat16_too_a_picture_does_not_depend_on_its_batch_mates() {
    let g = Golden::read("demo");
    let wanted = method::request(&g.facts["methods"][0], &g);
    let other = |seed| Request { seed, ..wanted.clone() };
    let model = load(&g, 3);
    let alone = make(&model, std::slice::from_ref(&wanted)).remove(0).image;
    let last = make(&model, &[other(71), other(72), wanted.clone()]).remove(2).image;
    assert!(alone == last);
}
