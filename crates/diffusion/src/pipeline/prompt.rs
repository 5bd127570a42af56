//! From a prompt and the words that name its subject to token positions.

use super::request::{Prompt, Subject};
use crate::error::{Error, Result};
use crate::method::SubjectTokens;
use crate::subjects::{SubjectSpan, find_subjects, locate, word_number};
use crate::text::{ClipTokenizer, TokenizedPrompt};

/// Tokenizes `prompt`, and finds its subjects if `masked`, by those tokens of theirs.
///
/// # Errors
/// [`Error::NoSubject`] if none is given and the prompt has no noun; [`Error::SubjectNotInPrompt`] if one that is given
/// does not occur in what the text encoder sees; [`Error::Setting`] if the prompt is empty although a subject is wanted.
pub(super) fn read_prompt(
    tokenizer: &ClipTokenizer,
    prompt: &str,
    subjects: Option<&[String]>,
    masked: Option<SubjectTokens>,
) -> Result<Prompt> {
    let tokens = tokenizer.encode(prompt)?;
    let truncated_to = tokens.truncated_at.map(|end| seen(prompt, end).to_owned());
    let subjects = match (masked, subjects) {
        (None, _) => Vec::new(),
        (Some(which), Some(given)) => given_subjects(prompt, &tokens, given, which)?,
        (Some(which), None) => found_subjects(prompt, &tokens, which)?,
    };
    Ok(Prompt { ids: tokens.ids, truncated_to, subjects })
}

/// The prompt's own nouns, one subject for each different word.
fn found_subjects(prompt: &str, tokens: &TokenizedPrompt, which: SubjectTokens) -> Result<Vec<Subject>> {
    let mut spans: Vec<(String, Vec<SubjectSpan>)> = Vec::new();
    for span in find_subjects(prompt) {
        match spans.iter_mut().find(|(text, _)| *text == span.text) {
            Some((_, same)) => same.push(span),
            None => spans.push((span.text.clone(), vec![span])),
        }
    }
    let subject = |(text, spans): (String, Vec<SubjectSpan>)| {
        let positions = positions(prompt, tokens, &spans, which);
        Subject { text, positions }
    };
    let mut subjects: Vec<Subject> = spans.into_iter().map(subject).collect();
    // A noun behind the encoder's limit has no tokens, and no say.
    subjects.retain(|subject| !subject.positions.is_empty());
    if subjects.is_empty() { Err(Error::NoSubject { prompt: shorten(prompt) }) } else { Ok(subjects) }
}

fn given_subjects(
    prompt: &str,
    tokens: &TokenizedPrompt,
    given: &[String],
    which: SubjectTokens,
) -> Result<Vec<Subject>> {
    let mut subjects: Vec<Subject> = Vec::new();
    for text in given {
        let spans: Vec<SubjectSpan> = locate(prompt, text);
        let positions = positions(prompt, tokens, &spans, which);
        if positions.is_empty() {
            let hint = match tokens.truncated_at {
                Some(end) if !spans.is_empty() => {
                    format!(": the text encoder sees it only up to {:?}", shorten_left(seen(prompt, end)))
                }
                _ => "; write words as they appear in the prompt".to_owned(),
            };
            return Err(Error::SubjectNotInPrompt { subject: text.clone(), prompt: shorten(prompt), hint });
        }
        if !subjects.iter().any(|subject| subject.positions == positions) {
            subjects.push(Subject { text: text.clone(), positions });
        }
    }
    if subjects.is_empty() { Err(Error::NoSubject { prompt: shorten(prompt) }) } else { Ok(subjects) }
}

/// The positions of a subject that stands at `spans`.
fn positions(prompt: &str, tokens: &TokenizedPrompt, spans: &[SubjectSpan], which: SubjectTokens) -> Vec<i64> {
    match (which, spans.last()) {
        (SubjectTokens::Pieces, _) => spans.iter().flat_map(|span| tokens.positions(&(span.start..span.end))).collect(),
        // Of a word that is repeated the last counts: the author's list of subjects has one number a word.
        (SubjectTokens::WordNumber, Some(last)) => (word_number(prompt, last.start)..word_number(prompt, last.end))
            .filter(|number| *number < tokens.ids.len())
            .map(|number| number as i64)
            .collect(),
        (SubjectTokens::WordNumber, None) => Vec::new(),
    }
}

/// The prompt up to `end`, or to the character that `end` cuts: a token may be a part of one.
fn seen(prompt: &str, end: usize) -> &str {
    &prompt[..prompt.floor_char_boundary(end)]
}

fn shorten(text: &str) -> String {
    if text.chars().count() <= 120 { text.to_owned() } else { text.chars().take(117).chain("...".chars()).collect() }
}

fn shorten_left(text: &str) -> String {
    let count = text.chars().count();
    if count <= 60 { text.to_owned() } else { "...".chars().chain(text.chars().skip(count - 57)).collect() }
}
