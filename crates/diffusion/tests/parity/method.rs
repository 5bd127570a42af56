//! Whole runs of Abs-Grad-SAM against `scripts/golden/reference_method.py`: METHOD.md written plainly on diffusers, with
//! one backward pass for each latent element.

use diorama_diffusion::Error;
use diorama_diffusion::image_processor::Rgb;
use diorama_diffusion::method::{Edits, Estimator, Score, Smoothing, Start, SubjectTokens};
use diorama_diffusion::pipeline::{Request, Sample, StableDiffusion};
use diorama_diffusion::scheduler::{ConfigReading, Scheduler};
use serde_json::Value;
use tch::Kind;

use crate::golden::{Golden, assert_close, configurations, reference, settings};
use crate::runs::{BOTH_WAYS, assert_same_picture, load, load_as};

pub(crate) fn request(run: &Value, g: &Golden) -> Request {
    let text = |key: &str| run[key].as_str().unwrap().to_owned();
    let number = |key: &str| run[key].as_f64().unwrap();
    let numbers = |key: &str| run[key].as_array().unwrap().iter().map(|n| n.as_u64().unwrap() as usize).collect();
    let words = run["subjects"].as_array().unwrap().iter().map(|word| word.as_str().unwrap().to_owned());
    let mut settings = settings(g, run["scheduler"].as_str().unwrap());
    settings.published_timesteps = run["name"] == "paper";
    settings.steps = number("steps") as usize;
    settings.strength = number("strength");
    settings.guidance = number("guidance");
    settings.negative_prompt = text("negative_prompt");
    settings.edits = Edits::Steps(numbers("edit_steps"));
    settings.score = match run["score"].as_str().unwrap() {
        "mixed-relu-grad" => Score::MixedReluGrad,
        "abs-grad" => Score::AbsGrad,
        other => panic!("no score {other}"),
    };
    settings.smoothing = match &run["blur"] {
        Value::String(rule) if rule == "box-sum" => Smoothing::BoxSum,
        sigma => Smoothing::Gaussian(sigma.as_f64().unwrap()),
    };
    if run["token_index"] == "word" {
        settings.subject_tokens = SubjectTokens::WordNumber;
    }
    settings.threshold = number("threshold");
    settings.dilation = number("dilation") as u32;
    settings.start = if text("start") == "noise" { Start::Noise } else { Start::Reference };
    settings.layers = vec![text("layer")];
    if run["name"] == "no-closed-form" {
        // Reverse mode through every element, and no estimate.
        settings.probes = 4096;
    }
    Request {
        prompt: text("prompt"),
        subjects: Some(words.collect()),
        seed: run["seed"].as_u64().unwrap(),
        reference: Some(reference()),
        settings,
    }
}

pub(crate) fn methods() -> impl Iterator<Item = (Golden, Value)> {
    configurations().flat_map(|g| {
        let name = g.name;
        g.facts["methods"].as_array().unwrap().clone().into_iter().map(move |run| (Golden::read(name), run))
    })
}

fn one(model: &StableDiffusion, request: Request) -> Sample {
    model.generate(&[request], &|| false).unwrap().remove(0).unwrap()
}

#[test]
fn every_run_agrees_with_the_plain_reference_step_by_step() {
    let mut runs = 0;
    for ((g, run), apart) in
        methods().flat_map(|(g, run)| BOTH_WAYS.map(|apart| ((Golden::read(g.name), run.clone()), apart)))
    {
        let name = format!("method.{}", run["name"].as_str().unwrap());
        let what = format!("{}: {name}, apart: {apart:?}", g.name);
        let sample = one(&load_as(&g, 1, apart), request(&run, &g));
        let golden = |key: &str| g.tensors.get(&format!("{name}.{key}"));
        let positions: Vec<&[i64]> = sample.prompt.subjects.iter().map(|s| s.positions.as_slice()).collect();
        assert_eq!(serde_json::json!(positions), run["positions"], "{what}");
        for (key, tensor) in sample.tensors().unwrap() {
            let expected = golden(&key);
            if key.starts_with("mask.") {
                assert!(tensor.equal(expected), "{what}: {key} differs");
            } else {
                // Rounding differs between the two; scores are sums over a whole layer.
                assert_close(&tensor, expected, 1e-4, &format!("{what}: {key}"));
            }
        }
        assert_eq!(sample.edits.len(), run["edit_steps"].as_array().unwrap().len(), "{what}");
        assert_same_picture(&sample, golden("picture"), &what);
        runs += 1;
    }
    assert!(runs >= 4, "only {runs} runs in the golden data");
}

#[test]
fn outside_the_mask_latents_are_the_noised_reference_and_inside_they_are_untouched() {
    for (g, run) in methods() {
        let sample = one(&load(&g, 1), request(&run, &g));
        let config = load(&g, 1).scheduler_config().clone();
        for edit in &sample.edits {
            let kept = edit.mask.shallow_clone();
            let zero = tch::Tensor::zeros([1], (Kind::Float, tch::Device::Cpu));
            assert!(edit.after.where_self(&kept, &zero).equal(&edit.before.where_self(&kept, &zero)), "{}", g.name);
            let settings = request(&run, &g).settings;
            let config = config.clone().read_as(ConfigReading::Pipeline);
            let config = if settings.published_timesteps { config.with_steps_offset(0) } else { config };
            let scheduler =
                Scheduler::truncated(&config, settings.scheduler, settings.steps, settings.strength).unwrap();
            let noised = scheduler
                .add_noise(sample.reference_latents.as_ref().unwrap(), &sample.reference_noise, edit.step)
                .unwrap();
            let outside = kept.logical_not();
            assert!(edit.after.where_self(&outside, &zero).equal(&noised.where_self(&outside, &zero)), "{}", g.name);
        }
    }
}

#[test]
fn a_batch_of_different_tasks_gives_what_each_gives_alone() {
    for (g, run) in methods() {
        let base = request(&run, &g);
        let mut other = base.clone();
        other.seed += 1;
        other.prompt = "a deer beside the tiger".to_owned();
        other.subjects = Some(vec!["deer".to_owned()]);
        other.settings.threshold = 0.1;
        other.settings.dilation = 2;
        let black = Rgb { width: 9, height: 7, data: vec![0; 9 * 7 * 3] };
        other.reference = Some(black);
        for (size, apart) in [(2, None), (2, Some(false)), (16, None)] {
            let model = load_as(&g, size, apart);
            let mut both = model.generate(&[other.clone(), base.clone()], &|| false).unwrap();
            assert_eq!(both.pop().unwrap().unwrap().image, one(&model, base.clone()).image, "{}", g.name);
            assert_eq!(both.pop().unwrap().unwrap().image, one(&model, other.clone()).image, "{}", g.name);
        }
    }
}

#[test]
fn every_score_and_any_layer_makes_a_masked_picture_or_says_why_not() {
    let g = Golden::read("demo");
    let run = &g.facts["methods"][0];
    let model = load(&g, 1);
    let first = model.cross_attention_layers()[0].clone();
    let with = |change: &dyn Fn(&mut Request)| {
        let mut request = request(run, &g);
        change(&mut request);
        model.generate(&[request], &|| false).unwrap().remove(0)
    };
    for score in [Score::AbsGrad, Score::ReluGrad, Score::MixedReluGrad, Score::Attention, Score::GuidanceDifference] {
        let sample = with(&|r| r.settings.score = score).unwrap();
        assert!(sample.edits.iter().all(|edit| edit.coverage > 0.0 && edit.coverage < 1.0), "{score:?}");
        assert_eq!(sample.heat_maps().unwrap().len(), 1);
    }
    let estimated = with(&|r| {
        r.settings.layers = vec![first.clone()];
        r.settings.probes = 8;
    });
    assert_eq!(estimated.unwrap().edits[0].estimator, Estimator::RandomSigns(8));
    let exact = with(&|r| {
        r.settings.layers = vec![first.clone()];
        r.settings.probes = 4096;
    });
    assert_eq!(exact.unwrap().edits[0].estimator, Estimator::ReverseMode);

    let refused = |change: &dyn Fn(&mut Request)| with(change).unwrap_err();
    let error = refused(&|r| {
        r.settings.layers = vec![first.clone()];
        r.settings.score = Score::ReluGrad;
    });
    assert!(error.to_string().contains("relu-grad"), "{error}");
    let error = refused(&|r| r.settings.layers = vec!["up_blocks.9.attn2".to_owned()]);
    assert!(error.to_string().contains("up_blocks.9.attn2") && error.to_string().contains(&first), "{error}");
    let error = refused(&|r| {
        r.settings.guidance = 1.0;
        r.settings.score = Score::GuidanceDifference;
    });
    assert!(error.to_string().contains("guidance"), "{error}");
    let error = refused(&|r| r.settings.edits = Edits::Steps(vec![9]));
    assert!(error.to_string().contains("1 to 8"), "{error}");
}

#[test]
fn a_mask_that_is_empty_or_covers_everything_is_a_warning() {
    let g = Golden::read("demo");
    let model = load(&g, 1);
    for (threshold, coverage, words) in [(50.0, 0.0, "is empty"), (-50.0, 1.0, "covers everything")] {
        let mut request = request(&g.facts["methods"][0], &g);
        request.settings.threshold = threshold;
        let edits = request.settings.edits.indices(request.settings.steps).unwrap();
        let sample = one(&model, request);
        assert!(sample.edits.iter().all(|edit| edit.coverage == coverage), "threshold {threshold}");
        assert_eq!(sample.warnings.len(), edits.len(), "{:?}", sample.warnings);
        for (warning, step) in sample.warnings.iter().zip(edits) {
            assert!(warning.contains(words) && warning.contains(&format!("edit step {step} ")), "{warning}");
        }
    }
}

#[test]
fn a_prompt_without_a_subject_or_with_the_wrong_one_says_what_to_do() {
    let g = Golden::read("demo");
    let model = load(&g, 1);
    let with = |prompt: &str, subjects: Option<&[&str]>| {
        let mut request = request(&g.facts["methods"][0], &g);
        request.prompt = prompt.to_owned();
        request.subjects = subjects.map(|words| words.iter().map(|word| (*word).to_owned()).collect());
        model.generate(&[request], &|| false).unwrap().remove(0)
    };
    let error = with("", None).unwrap_err();
    assert!(matches!(error, Error::NoSubject { .. }) && error.to_string().contains("--subjects"), "{error}");
    let error = with("a seagull", Some(&["tiger"])).unwrap_err();
    assert!(matches!(error, Error::SubjectNotInPrompt { .. }) && error.to_string().contains("tiger"), "{error}");
    let long = format!("a tiger walking under {} and a deer", "very ".repeat(200));
    let error = with(&long, Some(&["deer"])).unwrap_err();
    assert!(error.to_string().contains("sees it only up to"), "{error}");
    let sample = with(&long, None).unwrap();
    assert!(sample.prompt.truncated_to.is_some());
    assert!(sample.warnings.iter().any(|warning| warning.contains("longer than the text encoder reads")));
    // Tokens may be parts of a character: the cut must not be inside one.
    for lead in ["a fox ", "the fox  ", "a big fox "] {
        let sample = with(&format!("{lead}{}", "🦊".repeat(100)), Some(&["fox"])).unwrap();
        assert!(sample.prompt.truncated_to.unwrap().starts_with(lead));
    }
    assert_eq!(with("a 🦊 fox", Some(&["🦊"])).unwrap().prompt.subjects[0].text, "🦊");
}
