//! Pictures and prompts on their way in: resizing against Pillow through diffusers' `VaeImageProcessor`, and the token
//! positions of a prompt's subjects.

use diorama_diffusion::image_processor::{Rgb, preprocess, resize};
use diorama_diffusion::subjects::{locate, word_number};
use diorama_diffusion::text::ClipTokenizer;
use tch::{Kind, Tensor};

use crate::golden::{assert_close, configurations, reference};

/// `[height, width, 3]` bytes.
fn pixels(picture: &Rgb) -> Tensor {
    Tensor::from_slice(&picture.data).view([i64::from(picture.height), i64::from(picture.width), 3])
}

#[test]
fn a_reference_is_resized_to_the_very_pixels_of_diffusers() {
    for g in configurations() {
        let expected = g.tensors.get("reference.resized");
        let (height, width, _) = expected.size3().unwrap();
        let resized = resize(&reference(), width as u32, height as u32).unwrap();
        assert!(pixels(&resized).equal(expected), "{}", g.name);
        let prepared = preprocess(&reference(), width as u32, height as u32).unwrap();
        let expected = expected.permute([2, 0, 1]).unsqueeze(0).to_kind(Kind::Float) / 127.5 - 1.0;
        assert_close(&prepared, &expected, 1e-6, g.name);
    }
}

#[test]
fn a_subject_is_found_at_all_its_pieces_and_all_its_places() {
    let mut several_pieces = 0;
    for g in configurations() {
        let tokenizer = ClipTokenizer::load(&g.model.join("tokenizer"), 77).unwrap();
        for run in g.facts["methods"].as_array().unwrap() {
            let prompt = run["prompt"].as_str().unwrap();
            let tokens = tokenizer.encode(prompt).unwrap();
            for (subject, positions) in
                run["subjects"].as_array().unwrap().iter().zip(run["positions"].as_array().unwrap())
            {
                let spans = locate(prompt, subject.as_str().unwrap());
                let found: Vec<i64> = if run["token_index"] == "word" {
                    // The author's number of the word; of one that is repeated, the last.
                    spans.last().map(|span| word_number(prompt, span.start) as i64).into_iter().collect()
                } else {
                    spans.iter().flat_map(|span| tokens.positions(&(span.start..span.end))).collect()
                };
                assert_eq!(serde_json::json!(found), *positions, "{subject} in {prompt:?}");
                several_pieces += usize::from(found.len() > spans.len());
            }
        }
    }
    assert!(several_pieces > 0, "the golden data must hold a subject of several pieces");
}
