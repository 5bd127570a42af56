//! Whatever a file of weights or a prompt holds: it is read or refused.

use diorama_diffusion::model::weights::Weights;
use diorama_diffusion::subjects;
use diorama_diffusion::text::ClipTokenizer;
use diorama_fuzz::fuzz_among_others;
use tch::{Device, Kind};

use crate::golden::Golden;

#[test]
fn whatever_a_safetensors_file_holds_it_is_read_or_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.safetensors");
    fuzz_among_others("safetensors", |bytes| {
        std::fs::write(&path, bytes).unwrap();
        drop(Weights::open(folder.path(), "weights", None, Kind::Float, Device::Cpu));
    });
}

#[test]
fn whatever_a_prompt_holds_it_has_tokens_or_is_refused() {
    let tokenizer = ClipTokenizer::load(&Golden::read("flat").model.join("tokenizer"), 77).unwrap();
    fuzz_among_others("prompt", |bytes| {
        let prompt = String::from_utf8_lossy(bytes);
        // Longer ones are refused before.
        let end = prompt.floor_char_boundary(10_000);
        drop(tokenizer.encode(&prompt[..end]));
        drop(subjects::find_subjects(&prompt[..end]));
    });
}
