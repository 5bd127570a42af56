//! The subjects of a prompt: the words for what should appear, as byte spans.
//!
//! [`find_subjects`] reads them off the prompt by the rules below; [`locate`] finds words that were named. Neither
//! knows of tokens: whoever has the tokenizer maps spans to positions.
//!
//! The rules:
//! 1. A subject is the head of a noun phrase outside a place: in "a red circle on a beach" the circle should appear, and
//!    the beach is there already. A place runs from a preposition to the next comma; "of" and "with" join things rather
//!    than place them ("a vase of flowers").
//! 2. The head is the last of adjacent nouns ("mountain goat" is a goat). A word that the tagger does not know counts as
//!    a noun, and so does whatever ends a phrase that an article opened ("a red square"), unless it is an -ing, -ed or
//!    -ly form. An -ing form after a noun is what that noun does ("sky setting"), except the few that name things.
//! 3. What only names the picture is skipped ("a photo of a dog").
//! 4. After the first part with a subject, only parts that an article or "and" opens count: the rest is style ("a cat,
//!    oil painting, highly detailed").
//! 5. If nothing is left, nouns in places count, too ("on a beach").

use harper_brill::{Tagger, UPOS, brill_tagger};

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

/// Nouns for a picture, skipped before "of".
const PICTURES: [&str; 15] = [
    "close-up",
    "closeup",
    "drawing",
    "illustration",
    "image",
    "painting",
    "photo",
    "photograph",
    "picture",
    "portrait",
    "render",
    "rendering",
    "shot",
    "sketch",
    "view",
];

/// Words for things also after a noun ("a brick building").
const THINGS_IN_ING: [&str; 16] = [
    "building",
    "ceiling",
    "clothing",
    "duckling",
    "earring",
    "evening",
    "king",
    "lightning",
    "morning",
    "painting",
    "railing",
    "ring",
    "spring",
    "string",
    "wedding",
    "wing",
];

/// The subjects of a prompt, in its order; a word that is repeated is found as often. Empty if the prompt has none.
#[must_use]
pub fn find_subjects(prompt: &str) -> Vec<SubjectSpan> {
    let parts: Vec<Part> = parts(prompt).into_iter().map(|span| Part::read(prompt, span)).collect();
    let mut found = Vec::new();
    for part in &parts {
        if found.is_empty() || part.goes_on() {
            found.extend(part.heads(part.before_place()));
        }
    }
    if found.is_empty() {
        found.extend(parts.iter().flat_map(|part| part.heads(&part.words)));
    }
    found
}

/// Every occurrence of a subject in a prompt: whole words, in any case, with any white space between them.
#[must_use]
pub fn locate(prompt: &str, subject: &str) -> Vec<SubjectSpan> {
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

/// Stretches between punctuation.
fn parts(prompt: &str) -> Vec<(usize, &str)> {
    runs(prompt, |c| !matches!(c, ',' | '.' | ';' | ':' | '!' | '?' | '(' | ')' | '[' | ']' | '|' | '—' | '\n' | '"'))
}

/// What a word is to the rules.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Role {
    Noun,
    /// Not known to the tagger, or out of place by its tag.
    Likely,
    Adjective,
    Article,
    /// A preposition that starts a place.
    Place,
    /// "of".
    Of,
    And,
    Other,
}

#[derive(Clone, Debug)]
struct Word {
    start: usize,
    end: usize,
    lower: String,
    role: Role,
}

/// A stretch between punctuation, tagged.
struct Part<'a> {
    prompt: &'a str,
    words: Vec<Word>,
}

impl<'a> Part<'a> {
    fn read(prompt: &'a str, (offset, text): (usize, &str)) -> Self {
        let spans = runs(text, |c| c.is_alphanumeric() || matches!(c, '\'' | '’' | '-'));
        // The tagger's dictionary is in lower case: it takes a capital for a proper noun.
        let lower: Vec<String> = spans.iter().map(|(_, word)| word.to_lowercase()).collect();
        let tags = brill_tagger().tag_sentence(&lower);
        let mut words: Vec<Word> = Vec::with_capacity(spans.len());
        for (((at, word), lower), tag) in spans.into_iter().zip(lower).zip(tags) {
            let role = role(&lower, tag, words.last().map(|word| word.role));
            words.push(Word { start: offset + at, end: offset + at + word.len(), lower, role });
        }
        Self { prompt, words }
    }

    /// Whether this part goes on with the sentence before it, rather than adding a style.
    fn goes_on(&self) -> bool {
        self.words.first().is_some_and(|word| matches!(word.role, Role::Article | Role::And))
    }

    fn before_place(&self) -> &[Word] {
        let place = self.words.iter().position(|word| word.role == Role::Place);
        &self.words[..place.unwrap_or(self.words.len())]
    }

    /// The heads of the noun phrases in `words`, which are words of this part.
    fn heads(&self, words: &[Word]) -> Vec<SubjectSpan> {
        let phrases = words.split_inclusive(|word| ends_phrase(word.role)).map(|phrase| match phrase {
            [phrase @ .., last] if ends_phrase(last.role) => (phrase, Some(last)),
            phrase => (phrase, None),
        });
        let mut heads = Vec::new();
        let mut opened = false;
        for (phrase, ended_by) in phrases {
            let names_a_picture = |head: &Word| {
                PICTURES.contains(&head.lower.as_str()) && ended_by.is_some_and(|word| word.role == Role::Of)
            };
            heads.extend(phrase_heads(phrase, opened).into_iter().filter(|head| !names_a_picture(head)));
            opened = ended_by.is_some_and(|word| word.role == Role::Article);
        }
        heads.into_iter().map(|head| SubjectSpan::of(self.prompt, head.start, head.end)).collect()
    }
}

fn ends_phrase(role: Role) -> bool {
    match role {
        Role::Noun | Role::Likely | Role::Adjective => false,
        Role::Article | Role::Place | Role::Of | Role::And | Role::Other => true,
    }
}

/// The last of each run of nouns. In a phrase that an article opened and that has no known noun: its last word.
fn phrase_heads(phrase: &[Word], opened_by_article: bool) -> Vec<&Word> {
    if opened_by_article && phrase.iter().all(|word| word.role != Role::Noun) {
        return phrase.last().filter(|word| !is_verb_form(&word.lower)).into_iter().collect();
    }
    phrase.split(|word| word.role == Role::Adjective).filter_map(<[Word]>::last).collect()
}

fn role(word: &str, tag: Option<UPOS>, before: Option<Role>) -> Role {
    let after_noun = matches!(before, Some(Role::Noun | Role::Likely));
    let after_article = matches!(before, Some(Role::Article | Role::Adjective));
    match tag {
        Some(UPOS::NOUN | UPOS::PROPN) if word.ends_with("ing") && after_noun && !THINGS_IN_ING.contains(&word) => {
            Role::Other
        }
        Some(UPOS::NOUN | UPOS::PROPN) => Role::Noun,
        None if is_verb_form(word) || !starts_with_letter(word) => Role::Other,
        None => Role::Likely,
        // "a parked car", and "a rose": the commonest reading of the word, but no verb follows an article.
        Some(UPOS::VERB) if after_article => {
            if is_verb_form(word) {
                Role::Adjective
            } else {
                Role::Likely
            }
        }
        Some(UPOS::ADJ) if after_noun && is_verb_form(word) => Role::Other,
        Some(UPOS::ADJ) => Role::Adjective,
        Some(UPOS::DET) => Role::Article,
        Some(UPOS::ADP) => match word {
            "of" => Role::Of,
            "with" => Role::And,
            _ => Role::Place,
        },
        Some(UPOS::CCONJ) => Role::And,
        Some(_) => Role::Other,
    }
}

fn is_verb_form(word: &str) -> bool {
    ["ing", "ed", "ly"].iter().any(|ending| word.ends_with(ending))
}

fn starts_with_letter(word: &str) -> bool {
    word.chars().next().is_some_and(char::is_alphabetic)
}

#[cfg(test)]
mod tests;
