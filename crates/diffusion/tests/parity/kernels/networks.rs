//! Whole networks and runs on the kernels, against the golden data: what each layer leaves to the next one to add, the
//! channels of a pixel side by side, and one product for queries, keys and values.

use std::sync::Arc;

use diorama_diffusion::kernels::{KernelChoice, Kernels};
use diorama_diffusion::model::unet::{Tap, Unet};
use diorama_diffusion::model::vae::AutoencoderKl;
use tch::{Device, Kind};

use super::host::{Host, Source};
use crate::golden::{Golden, assert_close, configurations};
use crate::{method, runs};

#[test]
fn every_unet_predicts_what_diffusers_predicts() {
    let kernels = Host::shared().kernels();
    for g in configurations() {
        let unet = Unet::load(&g.model.join("unet"), g.variant(), Kind::Float, Device::Cpu, &kernels).unwrap();
        let text = unet.prepare_text(&g.tensors.get("hidden").narrow(0, 0, 3)).unwrap();
        let timestep = g.facts["unet_timesteps"]["unet.batch"].as_f64().unwrap();
        let output = unet.forward(g.tensors.get("unet.sample"), timestep, &text, &mut Tap::default()).unwrap();
        assert_close(&output, g.tensors.get("unet.batch"), 1e-5, g.name);
    }
}

#[test]
fn every_vae_encodes_and_decodes_as_diffusers_does() {
    let kernels = Host::shared().kernels();
    for g in configurations() {
        let vae = AutoencoderKl::load(&g.model.join("vae"), g.variant(), Kind::Float, Device::Cpu, &kernels).unwrap();
        assert_close(
            &vae.encode_moments(g.tensors.get("vae.pixels")).unwrap(),
            g.tensors.get("vae.moments"),
            1e-5,
            g.name,
        );
        let decoded = vae.decode(&(g.tensors.get("vae.latents") * vae.scaling_factor())).unwrap();
        assert_close(&decoded.narrow(0, 0, 1), g.tensors.get("vae.decoded"), 1e-5, g.name);
    }
}

/// Runs with masks: captured attention, the closed form's tail, and reverse mode, where a graph is recorded and libtorch
/// takes over.
#[test]
fn runs_and_masks_are_those_of_libtorch() {
    let mut tried = 0;
    for (g, run) in method::methods().filter(|(g, _)| ["demo", "plain-end"].contains(&g.name)) {
        let what = format!("{}: {}", g.name, run["name"]);
        let given = KernelChoice::Given(Host::shared().kernels());
        let (ours, theirs) = (runs::load_on(&g, 1, Some(false), given), runs::load(&g, 1));
        assert!(ours.has_own_kernels() && !theirs.has_own_kernels());
        let request = method::request(&run, &g);
        let (sample, expected) = (runs::one(&ours, request.clone()), runs::one(&theirs, request));
        assert_close(&sample.latents, &expected.latents, 1e-4, &what);
        for (edit, expected) in sample.edits.iter().zip(&expected.edits) {
            assert!(edit.mask.equal(&expected.mask), "{what}: step {}", edit.step);
            assert_close(&edit.scores[0], &expected.scores[0], 1e-3, &what);
        }
        tried += sample.edits.len();
    }
    assert!(tried >= 2, "{tried} edits");
}

/// One network evaluation of the model that all are shaped after.
#[test]
fn no_layer_falls_back_to_libtorch() {
    let host = Arc::new(Source::copy().host(true));
    let kernels: Kernels = host.clone().kernels();
    let g = Golden::read("sd1");
    let unet = Unet::load(&g.model.join("unet"), g.variant(), Kind::Float, Device::Cpu, &kernels).unwrap();
    let text = unet.prepare_text(&g.tensors.get("hidden").narrow(0, 0, 3)).unwrap();
    let _ = unet.forward(g.tensors.get("unet.sample"), 500.0, &text, &mut Tap::default()).unwrap();
    let launches = host.launches();
    let count = |kernel: &str| launches.get(kernel).copied().unwrap_or_default();
    let blocks = unet.cross_attention_layers().len();
    assert_eq!((count("geglu"), count("add_layer_norm")), (blocks, 3 * blocks));
    assert_eq!(count("group_norm_moments"), 2 * count("bias_residual") + blocks + 1);
    assert!(count("bias_residual") > 0 && count("group_norm_apply") == count("group_norm_moments"));
}
