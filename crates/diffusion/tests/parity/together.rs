//! What a GPU does for many rows at once, computed on the CPU: it needs no GPU to be wrong.

use diorama_diffusion::method::{Arithmetic, Score};
use diorama_diffusion::pipeline::{Request, Sample, StableDiffusion};
use serde_json::Value;

use crate::golden::{Golden, assert_close};
use crate::{method, runs};

fn load(g: &Golden, batch_size: usize, arithmetic: Arithmetic) -> StableDiffusion {
    let mut model = runs::load_as(g, batch_size, Some(false));
    model.set_arithmetic(arithmetic).unwrap();
    model
}

fn make(model: &StableDiffusion, requests: &[Request]) -> Vec<Sample> {
    model.generate(requests, &|| false).unwrap().into_iter().map(Result::unwrap).collect()
}

/// Different settings, prompts and subjects: what one batch may hold.
fn mixed(g: &Golden, run: &Value, seed: u64) -> Request {
    let mut request = Request { seed, ..method::request(run, g) };
    request.settings.threshold = 0.2 + 0.2 * (seed % 3) as f64;
    request.settings.dilation = (seed % 3) as u32;
    if seed % 2 == 1 {
        request.prompt = "a deer beside the tiger".to_owned();
        request.subjects = Some(vec!["deer".to_owned(), "tiger".to_owned()]);
    }
    request
}

#[test]
fn every_row_is_scored_masked_and_decoded_as_by_itself() {
    for (g, run) in method::methods().filter(|(_, run)| run["name"] == "paper" || run["name"] == "default") {
        let (cpu, gpu) = (load(&g, 5, Arithmetic::Cpu), load(&g, 5, Arithmetic::Gpu));
        let requests: Vec<Request> = (0..5).map(|seed| mixed(&g, &run, seed)).collect();
        let (expected, made) = (make(&cpu, &requests), make(&gpu, &requests));
        for (made, expected) in made.iter().zip(&expected) {
            let what = format!("{} {}, {} subjects", g.name, run["name"], expected.prompt.subjects.len());
            assert_eq!(made.edits.len(), expected.edits.len(), "{what}");
            // Before the first replacement nothing but rounding differs.
            let (edit, exact) = (&made.edits[0], &expected.edits[0]);
            assert_eq!((edit.step, edit.timestep), (exact.step, exact.timestep), "{what}");
            assert_eq!(
                (edit.scores.len(), edit.subject_coverage.len()),
                (exact.scores.len(), exact.scores.len()),
                "{what}"
            );
            for (score, exact) in edit.scores.iter().zip(&exact.scores) {
                assert_close(score, exact, 1e-4, &what);
            }
            assert!(edit.mask.equal(&exact.mask), "{what}: the mask");
            assert_eq!((edit.coverage, &edit.subject_coverage), (exact.coverage, &exact.subject_coverage), "{what}");
            assert_close(&edit.before, &exact.before, 1e-4, &what);
            assert_close(&made.latents, &expected.latents, 1e-3, &what);
            assert!(made.image.data.iter().zip(&expected.image.data).all(|(a, b)| a.abs_diff(*b) <= 1), "{what}");
        }
    }
}

#[test]
fn a_picture_depends_neither_on_its_batch_mates_nor_on_its_place_among_them() {
    let g = Golden::read("demo");
    for score in [Score::AbsGrad, Score::MixedReluGrad] {
        let request = |seed| {
            let mut request = mixed(&g, &g.facts["methods"][0], seed);
            request.settings.score = score;
            request
        };
        let model = load(&g, 5, Arithmetic::Gpu);
        let all = make(&model, &(0..5).map(request).collect::<Vec<_>>());
        for seeds in [vec![3], vec![4, 2], vec![2, 0, 1, 3]] {
            let few = make(&model, &seeds.iter().map(|&seed| request(seed)).collect::<Vec<_>>());
            for (few, &seed) in few.iter().zip(&seeds) {
                let same = &all[seed as usize];
                assert!(few.image == same.image, "{score:?}: {seed} of {seeds:?}");
                assert!(few.edits.iter().zip(&same.edits).all(|(a, b)| a.mask.equal(&b.mask)), "{seed} of {seeds:?}");
            }
        }
    }
}
