//! CLIP's byte-level BPE, from `tokenizer.json` or from `vocab.json` and `merges.txt`, with the byte span of each
//! token, so that a subject's words are found at the right positions, all their pieces.

use std::collections::HashSet;
use std::ops::Range;
use std::path::{Path, PathBuf};

use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizers::replace::{Replace, ReplacePattern};
use tokenizers::normalizers::{Lowercase, NFC, Sequence as NormalizerSequence};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence as PreTokenizerSequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, NormalizerWrapper, PreTokenizerWrapper, SplitDelimiterBehavior, Tokenizer};

use super::tokenizer_files::{Added, TokenizerFiles};
use crate::error::{Error, Result};

/// CLIP's rule for words (Radford et al. 2021, `simple_tokenizer.py`).
const WORDS: &str = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";

/// The tokenizer of one model.
pub struct ClipTokenizer {
    tokenizer: Tokenizer,
    start: i64,
    end: i64,
    pad: i64,
    length: usize,
}

/// A prompt as the text encoder sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenizedPrompt {
    /// Token ids with start, end and padding: as many as the encoder takes (77).
    pub ids: Vec<i64>,
    /// For each position, the bytes of the prompt it stands for; empty at start, end and padding.
    pub spans: Vec<Range<usize>>,
    /// Where the prompt was too long: the part that the encoder sees ends at this byte.
    pub truncated_at: Option<usize>,
}

impl TokenizedPrompt {
    /// The positions of all tokens that stand for some of `bytes`, the start token counted as 0.
    pub fn positions(&self, bytes: &Range<usize>) -> Vec<i64> {
        (0i64..)
            .zip(&self.spans)
            .filter(|(_, span)| !span.is_empty() && span.start < bytes.end && bytes.start < span.end)
            .map(|(position, _)| position)
            .collect()
    }
}

impl ClipTokenizer {
    /// Reads a model's `tokenizer` folder; `positions` is how many its text encoder has. Prompts are as long as the
    /// tokenizer's `model_max_length`, where that is less, as in diffusers' pipelines.
    pub fn load(folder: &Path, positions: usize) -> Result<Self> {
        let broken = |path: PathBuf, problem: String| Error::Model { path, problem };
        let (json, vocab, merges) =
            (folder.join("tokenizer.json"), folder.join("vocab.json"), folder.join("merges.txt"));
        let files = TokenizerFiles::read(folder)?;
        let mut tokenizer = if vocab.is_file() && merges.is_file() {
            from_vocab(&vocab, &merges, &files.added)
                .map_err(|e| broken(folder.to_owned(), format!("vocab.json or merges.txt: {e}")))?
        } else if json.is_file() {
            Tokenizer::from_file(&json).map_err(|e| broken(json.clone(), format!("is not a tokenizer: {e}")))?
        } else {
            return Err(broken(
                folder.to_owned(),
                "has neither tokenizer.json nor vocab.json and merges.txt".to_owned(),
            ));
        };
        // The encoder's length decides; a file keeps what its last user asked for.
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(|e| broken(folder.to_owned(), e.to_string()))?;
        let special = &files.special;
        // transformers finds special tokens inside a prompt too, before it splits words: with Stable Diffusion 2.x's "!"
        // as padding, a prompt's own "!" is that token.
        tokenizer.add_special_tokens(
            &[&special.start, &special.end, &special.pad].map(|token| AddedToken::from(token.as_str(), true)),
        );
        for Added { token, id } in &files.added {
            if tokenizer.token_to_id(&token.content).map(i64::from) != Some(*id) {
                return Err(broken(
                    folder.to_owned(),
                    format!("the added token {:?} has the id {id}, which is not free in the vocabulary", token.content),
                ));
            }
        }
        let id = |token: &str| match tokenizer.token_to_id(token) {
            Some(id) => Ok(i64::from(id)),
            None => Err(broken(folder.to_owned(), format!("the special token {token:?} is not in the vocabulary"))),
        };
        let (start, end, pad) = (id(&special.start)?, id(&special.end)?, id(&special.pad)?);
        Ok(Self { tokenizer, start, end, pad, length: files.length.map_or(positions, |length| length.min(positions)) })
    }

    /// The token that ends a prompt.
    pub fn end(&self) -> i64 {
        self.end
    }

    /// The largest id that a token may have.
    pub fn largest_id(&self) -> i64 {
        self.tokenizer.get_vocab(true).into_values().max().map_or(0, i64::from)
    }

    /// Tokenizes as `CLIPTokenizer(prompt, padding="max_length", truncation=True)` does.
    pub fn encode(&self, prompt: &str) -> Result<TokenizedPrompt> {
        let encoding = self
            .tokenizer
            .encode(prompt, false)
            .map_err(|e| Error::Setting { param: "prompt", message: format!("cannot be tokenized: {e}") })?;
        let room = self.length - 2;
        let mut ids = vec![self.start];
        let mut spans = Vec::with_capacity(self.length);
        spans.push(0..0);
        for (id, (start, end)) in encoding.get_ids().iter().zip(encoding.get_offsets()).take(room) {
            ids.push(i64::from(*id));
            spans.push(*start..*end);
        }
        let truncated_at = (encoding.len() > room).then(|| spans.last().map_or(0, |span| span.end));
        ids.push(self.end);
        ids.resize(self.length, self.pad);
        spans.resize(self.length, 0..0);
        Ok(TokenizedPrompt { ids, spans, truncated_at })
    }
}

/// What ends a word.
const END_OF_WORD: &str = "</w>";

/// Tokens of several letters that no merge makes and that are let pass: those that somebody added by hand.
const MOST_UNMERGED: usize = 100;

/// Refuses a list of merges that was cut off between two lines: words would be spelled out in pieces that the encoder never
/// saw together, and pictures be others without a word.
fn check_merges(vocab: &Vocab, merges: &[(String, String)]) -> tokenizers::Result<()> {
    let made: HashSet<String> = merges.iter().map(|(left, right)| format!("{left}{right}")).collect();
    let symbols = |token: &str| token.strip_suffix(END_OF_WORD).unwrap_or(token).chars().count();
    // Special tokens are not merged.
    let is_merged = |token: &&String| {
        symbols(token) > 1 && !(token.starts_with('<') && token.ends_with('>') && !token.ends_with(END_OF_WORD))
    };
    let merged = || vocab.keys().filter(is_merged);
    let (all, missing) = (merged().count(), merged().filter(|token| !made.contains(*token)).count());
    if missing * 100 > all && missing > MOST_UNMERGED {
        let message = format!(
            "merges.txt makes {} of the {all} tokens that vocab.json has of several letters: it is cut off, or another \
             tokenizer's; fetch it again",
            all - missing
        );
        return Err(message.into());
    }
    Ok(())
}

/// The pipeline of `CLIPTokenizerFast`, with tokens that were added to the vocabulary.
fn from_vocab(vocab: &Path, merges: &Path, added: &[Added]) -> tokenizers::Result<Tokenizer> {
    let (mut vocab, merges) = BPE::read_file(&vocab.to_string_lossy(), &merges.to_string_lossy())?;
    check_merges(&vocab, &merges)?;
    for Added { token, id } in added {
        // Ids that the library would hand out itself follow the vocabulary; those of a file need not.
        let is_free = !vocab.values().any(|known| i64::from(*known) == *id);
        if is_free && let Ok(id) = u32::try_from(*id) {
            vocab.entry(token.content.clone()).or_insert(id);
        }
    }
    let bpe = BPE::builder()
        .vocab_and_merges(vocab, merges)
        .unk_token("<|endoftext|>".to_owned())
        .end_of_word_suffix(END_OF_WORD.to_owned())
        .build()?;
    let mut tokenizer = Tokenizer::new(bpe);
    let space = Replace::new(ReplacePattern::Regex(r"\s+".to_owned()), " ")?;
    tokenizer.with_normalizer(Some(NormalizerSequence::new(vec![
        NormalizerWrapper::NFC(NFC),
        NormalizerWrapper::Replace(space),
        NormalizerWrapper::Lowercase(Lowercase),
    ])));
    let words = Split::new(SplitPattern::Regex(WORDS.to_owned()), SplitDelimiterBehavior::Removed, true)?;
    tokenizer.with_pre_tokenizer(Some(PreTokenizerSequence::new(vec![
        PreTokenizerWrapper::Split(words),
        PreTokenizerWrapper::ByteLevel(ByteLevel::new(false, true, true)),
    ])));
    let tokens: Vec<AddedToken> = added.iter().map(|added| added.token.clone()).collect();
    tokenizer.add_tokens(&tokens);
    Ok(tokenizer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merges_that_were_cut_off_are_refused_and_tokens_added_by_hand_are_not() {
        let merges: Vec<(String, String)> =
            (0..2000).map(|n| (format!("a{n}"), format!("b{n}{END_OF_WORD}"))).collect();
        let mut vocab: Vocab =
            merges.iter().enumerate().map(|(id, (left, right))| (format!("{left}{right}"), id as u32)).collect();
        for (id, token) in ["a", "b</w>", "<|startoftext|>", "<|endoftext|>", "learned"].into_iter().enumerate() {
            vocab.insert(token.to_owned(), 3000 + id as u32);
        }
        check_merges(&vocab, &merges).unwrap();
        for cut in [0, 1000, 1850] {
            let refused = check_merges(&vocab, &merges[..cut]).unwrap_err().to_string();
            assert!(refused.contains(&format!("makes {cut} of the 2001 tokens")), "{refused}");
        }
    }
}
