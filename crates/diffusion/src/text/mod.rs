//! From a prompt to the text encoder's hidden states: CLIP's BPE tokenizer and CLIP's text transformer.

mod clip;
mod tokenizer;
mod tokenizer_files;

pub use clip::ClipTextModel;
pub use tokenizer::{ClipTokenizer, TokenizedPrompt};
