//! The number of a word in its prompt, as the paper's author counted: in the words of spaCy's English tokenizer.

/// How many words end at or before the byte `offset` of `prompt`: the number, from 0, of the word that starts there. A
/// word is a run of letters and digits, what an apostrophe adds to one ("dog's" is two), any other character, a run of
/// full stops, or white space beyond the one space that follows a word.
#[must_use]
pub fn word_number(prompt: &str, offset: usize) -> usize {
    let mut words = 0;
    let mut before: Option<char> = None;
    let mut space_follows_word = false;
    for (_, c) in prompt.char_indices().take_while(|(at, _)| *at < offset) {
        let goes_on = match before {
            Some(last) if c.is_alphanumeric() => last.is_alphanumeric() || is_apostrophe(last),
            Some(last) if c.is_whitespace() => last.is_whitespace() && !space_follows_word,
            Some(last) => c == '.' && last == '.',
            None => false,
        };
        space_follows_word = c == ' ' && before.is_some_and(|last| !last.is_whitespace());
        if !goes_on && !space_follows_word {
            words += 1;
        }
        before = Some(c);
    }
    words
}

fn is_apostrophe(c: char) -> bool {
    matches!(c, '\'' | '’')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_counted_as_spacy_cuts_them() {
        for (prompt, word, number) in [
            ("Tiger walking", "Tiger", 0),
            ("Palm standing tall", "standing", 1),
            ("a red circle on a beach", "beach", 5),
            ("the dog's ball", "ball", 3),
            ("a well-known cat", "cat", 4),
            ("a cat, a dog", "dog", 4),
            // What spaCy makes of a second space is a word.
            ("a  dog", "dog", 2),
            (" dog", "dog", 1),
            ("wait... a dog", "dog", 3),
            ("ein ÄPFEL dog", "dog", 2),
        ] {
            assert_eq!(word_number(prompt, prompt.find(word).unwrap()), number, "{prompt}");
        }
    }
}
