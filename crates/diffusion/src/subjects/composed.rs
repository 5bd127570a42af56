//! Text in NFC, with the way back: what is typed, tagged or copied from elsewhere may spell one letter in two ways.

use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::is_combining_mark;

use super::SubjectSpan;

/// A text in NFC.
pub(super) struct Composed {
    text: String,
    /// Where each letter with its marks begins: in the composed text, and in the text as it was. Both ends come last.
    starts: Vec<(usize, usize)>,
}

impl Composed {
    pub(super) fn of(original: &str) -> Self {
        let (mut text, mut starts) = (String::with_capacity(original.len()), Vec::new());
        let mut from = 0;
        while from < original.len() {
            let letter = letter(&original[from..]);
            starts.push((text.len(), from));
            text.extend(letter.nfc());
            from += letter.len();
        }
        starts.push((text.len(), from));
        Self { text, starts }
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// The same spans in the text as it was; they keep their words.
    pub(super) fn spans_before(&self, spans: Vec<SubjectSpan>) -> Vec<SubjectSpan> {
        let before = |span: SubjectSpan| {
            let start = self.starts.partition_point(|(here, _)| *here <= span.start).saturating_sub(1);
            let end = self.starts.partition_point(|(here, _)| *here < span.end).min(self.starts.len() - 1);
            SubjectSpan { start: self.starts[start].1, end: self.starts[end].1, ..span }
        };
        spans.into_iter().map(before).collect()
    }
}

/// The first letter of a text, with the marks and the parts of a syllable that belong to it.
fn letter(text: &str) -> &str {
    let joins = |c: char| is_combining_mark(c) || ('\u{1161}'..='\u{11ff}').contains(&c);
    let end = text.char_indices().skip(1).find(|(_, c)| !joins(*c)).map_or(text.len(), |(end, _)| end);
    &text[..end]
}
