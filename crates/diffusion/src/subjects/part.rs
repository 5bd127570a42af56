//! One stretch of a prompt between punctuation: what each of its words is, and the heads of its noun phrases.

use super::dictionary::{Class, class_of};
use super::{SubjectSpan, runs};

/// What a word is to the rules.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Role {
    Noun,
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
    class: Option<Class>,
    role: Role,
}

/// A head of a noun phrase.
pub(super) struct Head {
    pub(super) span: SubjectSpan,
    /// Whether it names the picture rather than something in it.
    pub(super) is_picture: bool,
}

/// A stretch between punctuation, with the role of each word.
pub(super) struct Part<'a> {
    prompt: &'a str,
    words: Vec<Word>,
}

impl<'a> Part<'a> {
    /// Reads the stretch of `prompt` that begins at a byte offset.
    pub(super) fn read(prompt: &'a str, (offset, text): (usize, &str)) -> Self {
        let mut words: Vec<Word> = Vec::new();
        let mut has_verb = false;
        let mut spans =
            runs(text, |c| c.is_alphanumeric() || matches!(c, '\'' | '’' | '-' | '&')).into_iter().peekable();
        while let Some((at, word)) = spans.next() {
            let lower = word.to_lowercase();
            let class = class_of(&lower);
            let around = Around {
                before: words.last().map(|word| word.role),
                next: spans.peek().and_then(|(_, next)| class_of(&next.to_lowercase())),
                has_verb,
                is_singular: is_singular(&words),
            };
            let role = role(&lower, class, &around);
            has_verb |= class == Some(Class::Verb) && role == Role::Other;
            words.push(Word { start: offset + at, end: offset + at + word.len(), lower, class, role });
        }
        Self { prompt, words }
    }

    /// Whether this part goes on with the sentence before it, rather than adding a style.
    pub(super) fn goes_on(&self) -> bool {
        self.words.first().is_some_and(|word| matches!(word.role, Role::Article | Role::And))
    }

    /// The heads of the noun phrases outside places.
    pub(super) fn heads(&self) -> Vec<Head> {
        let words = self.after_leading_place();
        let place = words.iter().position(|word| word.role == Role::Place);
        self.heads_in(&words[..place.unwrap_or(words.len())])
    }

    /// The heads of all noun phrases.
    pub(super) fn all_heads(&self) -> Vec<Head> {
        self.heads_in(&self.words)
    }

    /// A place in front ("in a cave a dragon is sleeping") ends where an article follows its noun.
    fn after_leading_place(&self) -> &[Word] {
        if self.words.first().is_none_or(|word| word.role != Role::Place) {
            return &self.words;
        }
        let noun = self.words.iter().position(|word| word.role == Role::Noun).unwrap_or(self.words.len());
        let article = self.words[noun..].iter().position(|word| word.role == Role::Article);
        article.map_or(&self.words, |article| &self.words[noun + article..])
    }

    fn heads_in(&self, words: &[Word]) -> Vec<Head> {
        let phrases = words.split_inclusive(|word| ends_phrase(word.role)).map(|phrase| match phrase {
            [phrase @ .., last] if ends_phrase(last.role) => (phrase, Some(last)),
            phrase => (phrase, None),
        });
        let mut heads = Vec::new();
        let mut opened = false;
        for (phrase, ended_by) in phrases {
            let of_follows = ended_by.is_some_and(|word| word.role == Role::Of);
            let counts = |head: &&Word| !(of_follows && matches!(head.class, Some(Class::Picture | Class::Count)));
            heads.extend(phrase_head(phrase, opened).filter(counts).map(|head| Head {
                span: SubjectSpan::of(self.prompt, head.start, head.end),
                is_picture: head.class == Some(Class::Picture),
            }));
            opened = ended_by.is_some_and(|word| word.role == Role::Article);
        }
        heads
    }
}

fn ends_phrase(role: Role) -> bool {
    match role {
        Role::Noun | Role::Adjective => false,
        Role::Article | Role::Place | Role::Of | Role::And | Role::Other => true,
    }
}

/// The last noun of a phrase. In a phrase that an article opened and that has no noun: its last word.
fn phrase_head(phrase: &[Word], opened_by_article: bool) -> Option<&Word> {
    let noun = phrase.iter().rev().find(|word| word.role == Role::Noun);
    noun.or_else(|| phrase.last().filter(|word| opened_by_article && !is_verb_form(&word.lower)))
}

/// What stands around a word.
struct Around {
    before: Option<Role>,
    next: Option<Class>,
    /// Whether a verb of the dictionary came before.
    has_verb: bool,
    /// Whether the word before is a noun that "a" or "an" opened: what has the ending of a plural is then a verb.
    is_singular: bool,
}

fn is_singular(words: &[Word]) -> bool {
    let phrase = words.iter().rev().take_while(|word| !ends_phrase(word.role)).count();
    let opened_by = words.len().checked_sub(phrase + 1).and_then(|at| words.get(at));
    words.last().is_some_and(|word| word.role == Role::Noun)
        && opened_by.is_some_and(|word| matches!(word.lower.as_str(), "a" | "an" | "one" | "each" | "every"))
}

fn role(word: &str, class: Option<Class>, around: &Around) -> Role {
    let after_noun = around.before == Some(Role::Noun);
    match class {
        Some(Class::Article) => Role::Article,
        Some(Class::Place) => Role::Place,
        // "floating down the river"; but "upside down".
        Some(Class::Direction) if around.next == Some(Class::Article) => Role::Place,
        Some(Class::Direction | Class::Other) => Role::Other,
        Some(Class::And) => Role::And,
        Some(Class::Adjective) => Role::Adjective,
        // "children building a castle"; but "a brick building".
        Some(Class::Noun) if after_noun && is_verb_form(word) && around.next == Some(Class::Article) => Role::Other,
        Some(Class::Noun | Class::Picture | Class::Count) => Role::Noun,
        // "made of glass", "out of the water": what something is made of, or where it comes from.
        Some(Class::Of) if after_noun => Role::Of,
        Some(Class::Of) => Role::Place,
        // "a dog jumps", "a man who jumps", "a dog runs and jumps"; but "a jump".
        Some(Class::Verb) if after_noun || around.before == Some(Role::Other) => Role::Other,
        Some(Class::Verb) if around.has_verb && around.before == Some(Role::And) => Role::Other,
        Some(Class::Verb) => Role::Noun,
        None => by_ending(word, around),
    }
}

/// The role of a word that the dictionary does not have.
fn by_ending(word: &str, around: &Around) -> Role {
    let last = word.rsplit('-').next().unwrap_or(word);
    if word.chars().all(char::is_numeric) {
        Role::Article
    } else if !word.starts_with(char::is_alphabetic) || last.ends_with("ly") {
        Role::Other
    } else if is_verb_form(last) && class_of(last) != Some(Class::Noun) {
        // "a sailing boat", "a parked car"; but "boats sailing", "cars parked".
        if around.before == Some(Role::Noun) && last == word { Role::Other } else { Role::Adjective }
    } else if describes(word, last) {
        Role::Adjective
    } else if around.is_singular && is_plural(word) {
        Role::Other
    } else {
        Role::Noun
    }
}

/// Whether a word ends as plurals do, and as verbs do after one thing.
fn is_plural(word: &str) -> bool {
    word.ends_with('s')
        && !["ss", "us", "is", "as", "lens", "species", "series"].iter().any(|ending| word.ends_with(ending))
}

/// Whether a word's ending, or the last of its parts, is that of what describes a noun: "the dog's ball", "a half-open
/// door".
fn describes(word: &str, last: &str) -> bool {
    ["'s", "’s", "s'", "s’", "ful", "ous", "less"].iter().any(|ending| word.ends_with(ending))
        || (last != word && class_of(last) == Some(Class::Adjective))
}

fn is_verb_form(word: &str) -> bool {
    ["ing", "ed", "ly"].iter().any(|ending| word.ends_with(ending))
}
