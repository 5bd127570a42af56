//! What a key of the configuration is. Its name, type, range, default and the sentence about it are declared once, in a
//! table of [`Key`]s; flags, environment variables, files, the API and manifests all read that.

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::range::Range;
use crate::text::{QUOTED, plain};

/// A value that was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{param}: {message}")]
pub struct SettingError {
    /// The key.
    pub param: String,
    /// `unknown_key`, `wrong_type`, `out_of_range` or `unreadable_file`.
    pub code: &'static str,
    /// What is wrong, with the range or the choices.
    pub message: String,
}

/// What a key's value may be.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// `true` or `false`.
    Switch,
    /// A whole number.
    Whole(Range),
    /// A number.
    Real(Range),
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// A list of these words.
    ManyOf(&'static [&'static str]),
    /// A list of whole numbers.
    Wholes,
    /// A list of names: what they are, after "is not".
    Names(&'static str),
    /// Text: what it is, after "is not".
    Text(&'static str),
    /// A path: what it is, after "is not". `~` is the home folder in it.
    Path(&'static str),
    /// Text that is never shown: what it is, and whether a flag may say it, which other users of the machine can read.
    Secret {
        /// What it is, after "is not".
        what: &'static str,
        /// Whether there is a flag for it.
        flag: bool,
    },
    /// The file that holds the secret of this name.
    SecretFile(&'static str),
}

/// A key of the configuration, as it is declared.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// As it is written in files: `batch_size`; the variable is `DIORAMA_BATCH_SIZE`, the flag `--batch-size`.
    pub name: &'static str,
    /// A sentence about it, without its range and its default.
    pub about: &'static str,
    /// What stands for its value in a command's help.
    pub placeholder: &'static str,
    /// What its value may be.
    pub kind: Kind,
    /// Its default, where it has one.
    pub default: Option<fn() -> Value>,
    /// Whether its type takes a value: [`reads`] of that type.
    pub reads: fn(&Value) -> bool,
}

/// Whether a `T` can be read from `value`.
pub fn reads<T: DeserializeOwned>(value: &Value) -> bool {
    T::deserialize(value).is_ok()
}

impl Key {
    /// Whether its value is never shown.
    pub fn is_secret(&self) -> bool {
        matches!(self.kind, Kind::Secret { .. })
    }

    /// Whether there is a flag for it.
    pub fn has_flag(&self) -> bool {
        !matches!(self.kind, Kind::Secret { flag: false, .. })
    }

    /// The sentence about it, its range or choices, and its default.
    pub fn help(&self) -> String {
        let about = self.about.trim().trim_end_matches('.');
        let values = match self.kind {
            Kind::Switch => ": true or false".to_owned(),
            Kind::Whole(range) | Kind::Real(range) => format!(": {range}"),
            Kind::OneOf(words) => format!(": {}", either(words)),
            Kind::ManyOf(_)
            | Kind::Wholes
            | Kind::Names(_)
            | Kind::Text(_)
            | Kind::Path(_)
            | Kind::Secret { .. }
            | Kind::SecretFile(_) => String::new(),
        };
        let default = match self.default.map(|default| default()) {
            Some(Value::String(text)) if !text.is_empty() => format!(" (default: {text})"),
            Some(Value::Bool(switch)) => format!(" (default: {switch})"),
            // A whole number of seconds is said without its fraction.
            Some(value) => value.as_f64().map_or_else(String::new, |number| format!(" (default: {number})")),
            None => String::new(),
        };
        format!("{about}{values}{default}")
    }

    /// The JSON that `text` means: how flags, environment variables and CSV cells are read. A list's entries are
    /// separated by `,` or `;`. Text where a number is wanted stays text, and [`Key::check`] refuses it.
    pub fn read_text(&self, text: &str) -> Value {
        let entries = || text.split([',', ';']);
        match self.kind {
            Kind::Switch => text.trim().parse().map_or_else(|_| Value::from(text), Value::Bool),
            Kind::Whole(_) | Kind::Real(_) => number(text),
            Kind::OneOf(_) => Value::from(text.trim()),
            Kind::ManyOf(_) => entries().map(|word| Value::from(word.trim())).collect(),
            Kind::Wholes => entries().map(number).collect(),
            Kind::Names(_) => entries().map(str::trim).filter(|name| !name.is_empty()).map(Value::from).collect(),
            Kind::Text(_) | Kind::Path(_) | Kind::Secret { .. } | Kind::SecretFile(_) => Value::from(text),
        }
    }

    /// Refuses what is not of the key's type or out of its range.
    pub fn check(&self, value: &Value) -> Result<(), SettingError> {
        let range = match self.kind {
            Kind::Whole(range) if value.is_u64() => Some(range),
            Kind::Real(range) => Some(range),
            _ => None,
        };
        if let (Some(range), Some(number)) = (range, value.as_f64())
            && !range.contains(number)
        {
            return Err(self.refusal("out_of_range", range.refusal(value)));
        }
        if let (Kind::ManyOf(_), Some(words)) = (self.kind, value.as_array())
            && let Some((_, again)) = words.iter().enumerate().find(|(index, word)| words[..*index].contains(word))
        {
            return Err(self.refusal("out_of_range", format!("{} is named twice; name each once", shorten(again))));
        }
        let empty = self.is_secret() && value.as_str().is_some_and(|text| text.trim().is_empty());
        if value.is_null() || empty || !(self.reads)(value) {
            let shown = if self.is_secret() { "its value (hidden)".to_owned() } else { shorten(value) };
            return Err(self.refusal("wrong_type", format!("{shown} is not {}", self.wanted())));
        }
        Ok(())
    }

    /// The value as this key reads it: of whole numbers, 7.0 is 7.
    pub fn normal(&self, value: &Value) -> Value {
        match self.kind {
            Kind::Whole(_) | Kind::Wholes => by_value(value),
            _ => value.clone(),
        }
    }

    /// The refusal of a value of this key.
    pub fn refusal(&self, code: &'static str, message: String) -> SettingError {
        SettingError { param: self.name.to_owned(), code, message }
    }

    fn wanted(&self) -> String {
        match self.kind {
            Kind::Switch => "true or false".to_owned(),
            Kind::Whole(range) => format!("a whole number from {range}"),
            Kind::Real(range) if range.is_open => format!("a number {range}"),
            Kind::Real(range) => format!("a number from {range}"),
            Kind::OneOf(words) => format!("one of {}", words.join(", ")),
            Kind::ManyOf(words) => format!("a list of {}", words.join(", ")),
            Kind::Wholes => "a list of whole numbers".to_owned(),
            Kind::Names(what) | Kind::Text(what) | Kind::Path(what) | Kind::Secret { what, .. } => what.to_owned(),
            Kind::SecretFile(_) => "a file".to_owned(),
        }
    }
}

/// The number that `text` is, else the text.
pub fn number(text: &str) -> Value {
    let text = text.trim();
    let whole = text.parse::<u64>().ok().map(Value::from);
    let fraction = || text.parse::<f64>().ok().and_then(serde_json::Number::from_f64).map(Value::Number);
    whole.or_else(fraction).unwrap_or_else(|| Value::from(text))
}

/// `a, b or c`.
fn either(words: &[&str]) -> String {
    match words {
        [rest @ .., last] if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        words => words.concat(),
    }
}

/// A value as messages show it.
pub fn shorten(value: &Value) -> String {
    plain(&value.to_string(), QUOTED)
}

/// The value as whole numbers where its numbers are whole, however they are written: data tools turn a column of whole
/// numbers into 7.0 where one cell is empty.
pub fn by_value(value: &Value) -> Value {
    match value {
        Value::Number(number) => match number.as_f64() {
            // Up to here each whole number is a float of its own.
            Some(float) if number.is_f64() && float.fract() == 0.0 && (0.0..=MAX_WHOLE).contains(&float) => {
                Value::from(float as u64)
            }
            _ => value.clone(),
        },
        Value::Array(items) => items.iter().map(by_value).collect(),
        other => other.clone(),
    }
}

/// 2^53.
const MAX_WHOLE: f64 = 9_007_199_254_740_992.0;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const SIZE: Key = Key {
        name: "size",
        about: " How large.",
        placeholder: "N",
        kind: Kind::Whole(Range::new(1.0, 9.0)),
        default: Some(|| json!(4)),
        reads: reads::<u8>,
    };

    #[test]
    fn a_key_says_its_range_and_its_default_and_takes_nothing_else() {
        assert_eq!(SIZE.help(), "How large: 1 to 9 (default: 4)");
        assert_eq!(SIZE.check(&SIZE.read_text(" 9 ")), Ok(()));
        for (value, code) in [(json!(10), "out_of_range"), (json!(300), "out_of_range"), (json!(0), "out_of_range")] {
            let refused = SIZE.check(&value).unwrap_err();
            assert_eq!(
                (refused.code, refused.to_string()),
                (code, format!("size: {value} is out of range; it must be 1 to 9"))
            );
        }
        for value in [json!(null), json!(-1), json!(1.5), json!("many"), json!([1])] {
            let refused = SIZE.check(&value).unwrap_err();
            assert_eq!(
                (refused.code, refused.message),
                ("wrong_type", format!("{value} is not a whole number from 1 to 9"))
            );
        }
    }

    #[test]
    fn numbers_are_read_by_their_value() {
        for (written, meant) in [("7.0", "7"), ("1e3", "1000"), ("-0.0", "0"), ("[5.0,18]", "[5,18]"), ("7.5", "7.5")] {
            let written: Value = serde_json::from_str(written).unwrap();
            assert_eq!(by_value(&written).to_string(), meant);
        }
        assert_eq!(SIZE.check(&SIZE.normal(&json!(4.0))), Ok(()));
        assert_eq!(SIZE.check(&SIZE.normal(&json!(4.5))).unwrap_err().code, "wrong_type");
        let long = SIZE.check(&json!("\u{9b}2J".repeat(9999))).unwrap_err().message;
        assert!(long.len() < 300 && !long.contains('\u{9b}'), "{long}");
    }

    #[test]
    fn a_secret_is_shown_in_no_refusal() {
        let token =
            Key { name: "token", kind: Kind::Secret { what: "a token", flag: false }, reads: reads::<String>, ..SIZE };
        assert!(!token.has_flag());
        for value in [json!(["hunter2"]), json!("  ")] {
            assert_eq!(token.check(&value).unwrap_err().message, "its value (hidden) is not a token");
        }
    }
}
