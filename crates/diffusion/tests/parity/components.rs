//! Each part of a model by itself against diffusers and transformers: tokenizer, text encoder, UNet, VAE.

use diorama_diffusion::kernels::Kernels;
use diorama_diffusion::model::unet::{Tap, Unet};
use diorama_diffusion::model::vae::AutoencoderKl;
use diorama_diffusion::text::{ClipTextModel, ClipTokenizer};
use serde_json::Value;
use tch::{Device, Kind, Tensor};

use crate::golden::{assert_close, configurations};

#[test]
fn every_prompt_becomes_the_tokens_of_transformers() {
    for g in configurations() {
        let tokenizer = ClipTokenizer::load(&g.model.join("tokenizer"), 77).unwrap();
        for (i, prompt) in g.facts["prompts"].as_array().unwrap().iter().enumerate() {
            let prompt = prompt.as_str().unwrap();
            let expected = Vec::<i64>::try_from(g.tensors.get("tokens").get(i as i64)).unwrap();
            assert_eq!(tokenizer.encode(prompt).unwrap().ids, expected, "{}: {prompt:?}", g.name);
        }
    }
}

#[test]
fn every_text_encoder_gives_the_hidden_states_of_transformers() {
    for g in configurations() {
        let folder = g.model.join("text_encoder");
        let model = ClipTextModel::load(&folder, g.variant(), Kind::Float, Device::Cpu).unwrap();
        let encoded = g.facts["encoded"].as_i64().unwrap();
        let hidden: Vec<Tensor> = (0..encoded)
            .map(|i| model.forward(&Vec::<i64>::try_from(g.tensors.get("tokens").get(i)).unwrap()).unwrap())
            .collect();
        assert_close(&Tensor::cat(&hidden, 0), g.tensors.get("hidden"), 1e-5, g.name);
    }
}

#[test]
fn every_vae_encodes_and_decodes_as_diffusers_does() {
    for g in configurations() {
        let vae =
            AutoencoderKl::load(&g.model.join("vae"), g.variant(), Kind::Float, Device::Cpu, &Kernels::none()).unwrap();
        assert_eq!(Value::from(vae.factor()), g.facts["vae_scale_factor"], "{}", g.name);
        assert_eq!(Value::from(vae.scaling_factor()), g.facts["scaling_factor"], "{}", g.name);
        let moments = vae.encode_moments(g.tensors.get("vae.pixels")).unwrap();
        assert_close(&moments, g.tensors.get("vae.moments"), 1e-5, g.name);
        // The golden latents are as diffusers' `decode` takes them: already divided by the scaling factor.
        let latents = g.tensors.get("vae.latents") * vae.scaling_factor();
        let decoded = vae.decode(&latents).unwrap();
        assert_close(&decoded.narrow(0, 0, 1), g.tensors.get("vae.decoded"), 1e-5, g.name);
        assert_close(&decoded.narrow(0, 1, 1), g.tensors.get("vae.decoded_batch"), 1e-5, g.name);
    }
}

#[test]
fn every_unet_predicts_what_diffusers_predicts() {
    for g in configurations() {
        let unet = Unet::load(&g.model.join("unet"), g.variant(), Kind::Float, Device::Cpu, &Kernels::none()).unwrap();
        let (sample, hidden) = (g.tensors.get("unet.sample"), g.tensors.get("hidden"));
        // The first row alone, the first three rows at once, and the second row with the fourth prompt.
        for (name, rows, prompts) in
            [("unet.one", (0, 1), (0, 1)), ("unet.batch", (0, 3), (0, 3)), ("unet.last", (1, 1), (3, 1))]
        {
            let timestep = g.facts["unet_timesteps"][name].as_f64().unwrap();
            let text = unet.prepare_text(&hidden.narrow(0, prompts.0, prompts.1)).unwrap();
            let sample = sample.narrow(0, rows.0, rows.1);
            let output = unet.forward(&sample, timestep, &text, &mut Tap::default()).unwrap();
            assert_close(&output, g.tensors.get(name), 1e-5, &format!("{}: {name}", g.name));
        }
    }
}

#[test]
fn capturing_attention_does_not_change_the_prediction() {
    for g in configurations() {
        let unet = Unet::load(&g.model.join("unet"), g.variant(), Kind::Float, Device::Cpu, &Kernels::none()).unwrap();
        let layers: Vec<usize> = (0..unet.cross_attention_layers().len()).collect();
        let text = unet.prepare_text(&g.tensors.get("hidden").narrow(0, 0, 3)).unwrap();
        let timestep = g.facts["unet_timesteps"]["unet.batch"].as_f64().unwrap();
        let mut tap = Tap::capture(&layers, true);
        let output = unet.forward(g.tensors.get("unet.sample"), timestep, &text, &mut tap).unwrap();
        assert_close(&output, g.tensors.get("unet.batch"), 1e-5, g.name);
        assert_eq!(tap.captured.len(), layers.len());
        // The last layer's probabilities of the scored tokens.
        let tokens = g.facts["scores"]["tokens"].as_array().unwrap();
        let tokens: Vec<i64> = tokens.iter().map(|token| token.as_i64().unwrap()).collect();
        let probabilities = tap.captured.last().unwrap().probabilities.index_select(-1, &Tensor::from_slice(&tokens));
        assert_close(&probabilities, g.tensors.get("score.last.probabilities"), 1e-5, g.name);
    }
}

#[test]
fn a_timestep_that_was_met_before_gives_the_bytes_that_it_gave_first() {
    for g in configurations() {
        let load =
            || Unet::load(&g.model.join("unet"), g.variant(), Kind::Float, Device::Cpu, &Kernels::none()).unwrap();
        let (sample, hidden) = (g.tensors.get("unet.sample").narrow(0, 0, 2), g.tensors.get("hidden").narrow(0, 0, 2));
        let predict = |unet: &Unet, timestep: f64| {
            let text = unet.prepare_text(&hidden).unwrap();
            unet.forward(&sample, timestep, &text, &mut Tap::default()).unwrap()
        };
        let unet = load();
        let first = [981.0, 500.5, 1.0].map(|timestep| (timestep, predict(&unet, timestep)));
        for (timestep, output) in &first {
            assert!(predict(&unet, *timestep).equal(output), "{}: {timestep} again", g.name);
            assert!(predict(&load(), *timestep).equal(output), "{}: {timestep} by another", g.name);
        }
        assert!(!first[0].1.equal(&first[1].1), "{}: the timestep changes nothing", g.name);
    }
}

#[test]
fn what_comes_before_the_first_text_is_computed_once_for_both_halves_of_a_batch() {
    for g in configurations() {
        let unet = Unet::load(&g.model.join("unet"), g.variant(), Kind::Float, Device::Cpu, &Kernels::none()).unwrap();
        let hidden = g.tensors.get("hidden").narrow(0, 0, 4);
        for rows in [1, 2] {
            let sample = g.tensors.get("unet.sample").narrow(0, 0, rows);
            let text = unet.prepare_text(&hidden.narrow(0, 0, 2 * rows)).unwrap();
            let predict = |sample: &Tensor| unet.forward(sample, 500.0, &text, &mut Tap::default()).unwrap();
            let (apart, shared) = (predict(&Tensor::cat(&[&sample, &sample], 0)), predict(&sample));
            assert_close(&shared, &apart, 1e-5, &format!("{}: {rows} rows", g.name));
            assert!(!shared.narrow(0, 0, rows).equal(&shared.narrow(0, rows, rows)), "{}: the texts differ", g.name);
        }
    }
}

#[test]
fn of_a_batch_whose_first_half_is_not_scored_only_the_second_is_captured() {
    for g in configurations() {
        let unet = Unet::load(&g.model.join("unet"), g.variant(), Kind::Float, Device::Cpu, &Kernels::none()).unwrap();
        let layers: Vec<usize> = (0..unet.cross_attention_layers().len()).collect();
        let sample = g.tensors.get("unet.sample").narrow(0, 0, 2);
        let text = unet.prepare_text(&g.tensors.get("hidden").narrow(0, 0, 4)).unwrap();
        let predict = |first: i64, spares: bool| {
            let mut tap = Tap { first, spares, ..Tap::capture(&layers, true) };
            let output = unet.forward(&Tensor::cat(&[&sample, &sample], 0), 500.0, &text, &mut tap).unwrap();
            (output, tap)
        };
        let (output, all) = predict(0, false);
        for spares in [false, true] {
            let what = format!("{}, spares: {spares}", g.name);
            let (half_output, half) = predict(2, spares);
            assert_close(&half_output, &output, 1e-5, &what);
            assert_eq!(half.captured.len(), all.captured.len(), "{what}");
            let pair = |of: &dyn Fn(&Tap) -> Tensor| (of(&half), of(&all).narrow(0, 2, 2));
            for layer in 0..layers.len() {
                let (actual, expected) = pair(&|tap| tap.captured[layer].probabilities.shallow_clone());
                assert_close(&actual, &expected, 1e-5, &what);
                let (actual, expected) = pair(&|tap| tap.captured[layer].values.shallow_clone());
                assert_close(&actual, &expected, 1e-5, &what);
            }
            let (actual, expected) = pair(&|tap| tap.tail_residual.as_ref().unwrap().shallow_clone());
            assert_close(&actual, &expected, 1e-5, &what);
            let (actual, expected) = pair(&|tap| tap.tail_input.as_ref().unwrap().shallow_clone());
            assert_close(&actual, &expected, 1e-5, &what);
        }
    }
}
