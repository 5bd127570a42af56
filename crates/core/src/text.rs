//! Text that people chose and that others will see: on a terminal, in a log, on a page.

use std::borrow::Cow;

/// Whether a terminal would do something else with the character than show it: C0 and C1 controls, the separators of
/// lines and paragraphs, and what changes the direction of what follows.
pub fn is_control(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The first such character of `text`.
pub fn control(text: &str) -> Option<char> {
    text.chars().find(|c| is_control(*c))
}

/// `text` as it may be shown: such characters as `\u001b`, which JSON reads as what it was.
pub fn shown(text: &str) -> Cow<'_, str> {
    escaped(text, is_control)
}

/// The same for text of several lines, which it stays.
pub fn shown_lines(text: &str) -> Cow<'_, str> {
    escaped(text, |c| is_control(c) && c != '\n' && c != '\t')
}

/// The beginning of `text` as a message quotes it: at most 80 characters, escaped, in quotation marks.
pub fn quoted(text: &str) -> String {
    let begin: String = text.chars().take(QUOTED).collect();
    let rest = if begin.len() < text.len() { "…" } else { "" };
    shown(&format!("{begin:?}{rest}")).into_owned()
}

/// Characters of a text that a message quotes.
pub const QUOTED: usize = 80;

/// The text without quotation marks, cut at `most` characters, every character that a terminal would obey escaped but the
/// ends of lines.
pub fn plain(text: &str, most: usize) -> String {
    let mut plain = String::new();
    for (count, c) in text.chars().enumerate() {
        if count == most {
            plain.push('…');
            break;
        }
        if is_control(c) && c != '\n' { plain.extend(c.escape_unicode()) } else { plain.push(c) }
    }
    plain
}

/// So many of a thing, in the singular where it is one: `1 shard`, `2 shards`.
pub fn counted(count: u64, thing: &str) -> String {
    format!("{count} {thing}{}", if count == 1 { "" } else { "s" })
}

fn escaped(text: &str, is_escaped: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(&is_escaped) {
        return text.into();
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_escaped(c) { shown += &format!("\\u{:04x}", u32::from(c)) } else { shown.push(c) }
    }
    shown.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_a_thing_is_no_plural() {
        assert_eq!([0, 1, 2].map(|count| counted(count, "shard")), ["0 shards", "1 shard", "2 shards"]);
    }

    #[test]
    fn what_is_quoted_is_cut_and_escaped() {
        assert_eq!(quoted("s3://a\x1b\u{202e}"), r#""s3://a\u{1b}\u{202e}""#);
        assert_eq!(quoted(&"ü".repeat(81)), format!("\"{}\"…", "ü".repeat(80)));
    }

    #[test]
    fn plain_text_keeps_its_lines_and_loses_what_a_terminal_obeys() {
        assert_eq!(plain("a\nb\u{1b}]0;x\u{7}\u{202e}\r", 100), "a\nb\\u{1b}]0;x\\u{7}\\u{202e}\\u{d}");
        assert_eq!(plain("abc", 2), "ab…");
    }

    #[test]
    fn what_a_terminal_would_obey_is_shown_and_what_people_write_stays() {
        for plain in ["ducks", "Möwe – 海鷗", "👩‍🚀 \\ \"", ""] {
            assert_eq!((shown(plain).as_ref(), control(plain)), (plain, None));
        }
        assert_eq!(shown("a\x1b]0;owned\x07\nb"), "a\\u001b]0;owned\\u0007\\u000ab");
        assert_eq!(shown_lines("a\n\tb\r\x1b[2J"), "a\n\tb\\u000d\\u001b[2J");
        for c in ['\0', '\x7f', '\u{9b}', '\u{202e}', '\u{2028}', '\u{2066}'] {
            assert_eq!(control(&format!("a{c}b")), Some(c));
            assert_eq!(
                serde_json::from_str::<String>(&format!("\"{}\"", shown(&c.to_string()))).unwrap(),
                c.to_string()
            );
        }
    }
}
