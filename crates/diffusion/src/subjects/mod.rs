//! The subjects of a prompt: the words for what should appear, as byte spans.
//!
//! [`find_subjects`] reads them off the prompt by the rules below; [`locate`] finds words that were named. Neither
//! knows of tokens: whoever has the tokenizer maps spans to positions.
//!
//! The rules:
//! 1. A subject is the head of a noun phrase outside a place: in "a red circle on a beach" the circle should appear, and
//!    the beach is there already. A place runs from a preposition to the next comma, or, in front, to the article behind
//!    its noun; "of" and "with" join things rather than place them ("a vase of flowers").
//! 2. The head is the last noun of a phrase ("mountain goat" is a goat), and whatever ends a phrase that an article opened
//!    ("a red"). A noun is what a small dictionary of other words does not have and what does not end like a verb or an
//!    adverb. A verb after a noun is what that noun does ("sky setting", "a dog runs"), except the few that name things.
//! 3. What only names the picture is skipped ("a photo of a dog"), and so is what counts ("a flock of birds").
//! 4. After the first part with a subject, only parts that an article or "and" opens count: the rest is style ("a cat,
//!    oil painting, highly detailed"). What stands in double quotes is text in the picture.
//! 5. If nothing is left, nouns in places count, too ("on a beach"), and then what is quoted.

mod composed;
mod dictionary;
mod part;
mod word_number;

use self::composed::Composed;
use self::part::{Head, Part};
pub use self::word_number::word_number;

/// A subject and where it stands in the prompt.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SubjectSpan {
    /// The words, in lower case.
    pub text: String,
    /// Byte offset of the first byte in the prompt.
    pub start: usize,
    /// Byte offset after the last byte in the prompt.
    pub end: usize,
}

impl SubjectSpan {
    fn of(prompt: &str, start: usize, end: usize) -> Self {
        Self { text: prompt[start..end].to_lowercase(), start, end }
    }
}

/// The subjects of a prompt, in its order; a word that is repeated is found as often. Empty if the prompt has none.
#[must_use]
pub fn find_subjects(prompt: &str) -> Vec<SubjectSpan> {
    let prompt = Composed::of(prompt);
    prompt.spans_before(find(prompt.text()))
}

fn find(prompt: &str) -> Vec<SubjectSpan> {
    let stretches = parts(prompt);
    let read = |quoted: bool| -> Vec<Part> {
        let wanted = stretches.iter().filter(|stretch| stretch.is_quoted == quoted);
        wanted.map(|stretch| Part::read(prompt, (stretch.start, stretch.text))).collect()
    };
    let unquoted = subjects_of(&read(false));
    if unquoted.is_empty() { subjects_of(&read(true)) } else { unquoted }
}

fn subjects_of(parts: &[Part]) -> Vec<SubjectSpan> {
    let mut found = Vec::new();
    let mut pictures = Vec::new();
    for part in parts {
        if found.is_empty() || part.goes_on() {
            let (named, others): (Vec<Head>, Vec<Head>) = part.heads().into_iter().partition(|head| head.is_picture);
            pictures.extend(named);
            found.extend(others);
        }
    }
    if found.is_empty() {
        found = pictures;
    }
    if found.is_empty() {
        found = parts.iter().flat_map(Part::all_heads).collect();
    }
    found.into_iter().map(|head| head.span).collect()
}

/// Every occurrence of a subject in a prompt: whole words, in any case and any Unicode form, with any white space between
/// them.
#[must_use]
pub fn locate(prompt: &str, subject: &str) -> Vec<SubjectSpan> {
    let prompt = Composed::of(prompt);
    prompt.spans_before(occurrences(prompt.text(), Composed::of(subject).text()))
}

fn occurrences(prompt: &str, subject: &str) -> Vec<SubjectSpan> {
    // A subject without letters, such as an emoji, is matched by what stands between white space.
    let in_words = subject.contains(char::is_alphanumeric);
    let pieces = |text| if in_words { runs(text, char::is_alphanumeric) } else { runs(text, |c| !c.is_whitespace()) };
    let (wanted, there) = (pieces(subject), pieces(prompt));
    if wanted.is_empty() {
        return Vec::new();
    }
    let same = |a: &(usize, &str), b: &(usize, &str)| a.1.to_lowercase() == b.1.to_lowercase();
    let gap = |text: &str, pair: &[(usize, &str)]| {
        text[pair[0].0 + pair[0].1.len()..pair[1].0].split_whitespace().collect::<String>()
    };
    let gaps: Vec<String> = wanted.windows(2).map(|pair| gap(subject, pair)).collect();
    there
        .windows(wanted.len())
        .filter(|window| window.iter().zip(&wanted).all(|(a, b)| same(a, b)))
        .filter(|window| window.windows(2).map(|pair| gap(prompt, pair)).eq(gaps.iter().cloned()))
        .filter_map(|window| {
            let (first, last) = (window.first()?, window.last()?);
            Some(SubjectSpan::of(prompt, first.0, last.0 + last.1.len()))
        })
        .collect()
}

/// The longest stretches of characters that are `inside`, with byte offsets.
fn runs(text: &str, inside: impl Fn(char) -> bool) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    let mut start = None;
    for (at, c) in text.char_indices().chain([(text.len(), ' ')]) {
        match (at < text.len() && inside(c), start) {
            (true, None) => start = Some(at),
            (false, Some(from)) => {
                found.push((from, &text[from..at]));
                start = None;
            }
            _ => {}
        }
    }
    found
}

/// A stretch between punctuation.
struct Stretch<'a> {
    start: usize,
    text: &'a str,
    is_quoted: bool,
}

/// Stretches between punctuation, and whether each stands between double quotes. A quote that is not closed is none.
fn parts(prompt: &str) -> Vec<Stretch<'_>> {
    let is_quote = |c: char| matches!(c, '"' | '“' | '”');
    let quotes: Vec<usize> = prompt.match_indices(is_quote).map(|(at, _)| at).collect();
    let closed = quotes.len() / 2 * 2;
    let is_quoted = |at: usize| quotes[..closed].iter().filter(|quote| **quote < at).count() % 2 == 1;
    let ends = |c: char| {
        is_quote(c) || matches!(c, ',' | '.' | ';' | ':' | '!' | '?' | '(' | ')' | '[' | ']' | '|' | '—' | '\n')
    };
    let stretch = |(start, text)| Stretch { start, text, is_quoted: is_quoted(start) };
    runs(prompt, |c| !ends(c)).into_iter().map(stretch).collect()
}

#[cfg(test)]
mod tests;
