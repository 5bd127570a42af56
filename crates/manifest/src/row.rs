//! From the cells of one row to a [`Task`], or to everything that is wrong with it.

use diorama_core::id::{CustomId, Seed, TaskIndex};
use diorama_core::manifest::{Extra, MAX_EXTRA_BYTES, MAX_EXTRA_DEPTH, ManifestIssue};
use diorama_core::settings::{Method, Settings, by_value, shorten};
use diorama_core::task::{Reference, Task};
use diorama_core::text::{QUOTED, plain, quoted};
use serde_json::Value;

use crate::keys::{self, MAX_ISSUES_A_ROW};
use crate::raw::{Cells, issue};
use crate::reference;
use crate::rules::Rules;

/// The longest prompt, in bytes.
pub const MAX_PROMPT_BYTES: usize = 10_000;

/// The most subjects of a row.
const MAX_SUBJECTS: usize = 100;

/// The task of a row. Its index is for the caller to set.
pub(crate) fn task(line: u64, cells: Cells, rules: &Rules) -> Result<Task, Vec<ManifestIssue>> {
    let mut row = Reading { line, issues: cells.issues };
    let mut settings = Settings::default();
    let (mut custom_id, mut prompt, mut reference, mut subjects, mut seed) = (None, None, None, None, None);
    let (mut written_id, mut region) = (None, None);
    for (key, value) in cells.known.into_iter().filter(|(_, value)| !value.is_null()) {
        match key.as_str() {
            "custom_id" => {
                written_id = value.as_str().map(|id| plain(id, QUOTED));
                custom_id = Some(row.custom_id(value));
            }
            "prompt" => prompt = Some(row.prompt(value)),
            "reference" => reference = Some(row.reference("reference", value, rules)),
            "region" => region = Some(row.reference("region", value, rules)),
            "subjects" => subjects = row.subjects(value),
            "seed" => seed = row.seed(&value),
            _ => row.setting(&mut settings, &key, &value),
        }
    }
    let extra = row.extra(cells.extra);
    let settings = rules.settings.overlaid(&settings);
    let hint = |key: &str| match rules.columns.get(key) {
        Some(column) => format!(" (column {column:?})"),
        None => keys::hint(key, extra.keys().map(String::as_str)).unwrap_or_default(),
    };
    for (key, missing) in [("custom_id", custom_id.is_none()), ("prompt", prompt.is_none())] {
        if missing {
            row.refuse("missing_key", key, format!("{key} is missing{}", hint(key)));
        }
    }
    if reference.is_none() && needs_reference(&settings, &rules.compare) {
        let message = format!("reference is missing; only the method txt2img needs none{}", hint("reference"));
        row.refuse("missing_key", "reference", message);
    }
    if region.is_some() && reference.is_none() {
        row.refuse("missing_key", "reference", "reference is missing; a region is a mask of it".to_owned());
    }
    match (custom_id.flatten(), prompt.flatten()) {
        (Some(custom_id), Some(prompt)) if row.issues.is_empty() => {
            let seed = seed.unwrap_or_else(|| Seed::derive(rules.seed, &custom_id));
            let (reference, region) = (reference.flatten(), region.flatten());
            Ok(Task { index: TaskIndex(0), custom_id, reference, region, prompt, subjects, seed, settings, extra })
        }
        _ => {
            row.issues.truncate(MAX_ISSUES_A_ROW);
            for issue in &mut row.issues {
                issue.custom_id.clone_from(&written_id);
            }
            Err(row.issues)
        }
    }
}

fn needs_reference(settings: &Settings, compare: &[Method]) -> bool {
    let own = settings.method.unwrap_or(Method::AbsGradSam);
    std::iter::once(&own).chain(compare).any(|method| *method != Method::Txt2img)
}

/// One row while it is read: every reader gives a value or leaves an issue.
struct Reading {
    line: u64,
    issues: Vec<ManifestIssue>,
}

impl Reading {
    fn refuse(&mut self, code: &str, key: &str, message: String) {
        self.issues.push(issue(self.line, code, Some(key), message));
    }

    fn text(&mut self, key: &str, value: Value) -> Option<String> {
        match value {
            Value::String(text) => Some(text),
            other => {
                self.refuse("wrong_type", key, format!("{key}: {} is not a string", shorten(&other)));
                None
            }
        }
    }

    fn custom_id(&mut self, value: Value) -> Option<CustomId> {
        // Whole numbers are ids too, also where a tool made 7.0 of 7.
        let value = match by_value(&value) {
            Value::Number(number) if !number.is_f64() => Value::String(number.to_string()),
            other => other,
        };
        let text = self.text("custom_id", value)?;
        let id = CustomId::new(text).map_err(|error| self.refuse("unsafe_id", "custom_id", error.to_string())).ok()?;
        if id.is_special_on_windows() {
            let message = format!("custom_id \"{id}\" cannot name a file on Windows; choose another");
            self.refuse("unsafe_id", "custom_id", message);
            return None;
        }
        Some(id)
    }

    fn prompt(&mut self, value: Value) -> Option<String> {
        let text = self.text("prompt", value)?;
        if text.trim().is_empty() {
            self.refuse("empty_prompt", "prompt", "prompt is empty; say what should appear".to_owned());
            return None;
        }
        if text.len() > MAX_PROMPT_BYTES {
            let message = format!("prompt has {} bytes; at most {MAX_PROMPT_BYTES} are allowed", text.len());
            self.refuse("prompt_too_long", "prompt", message);
            return None;
        }
        Some(text)
    }

    /// The picture that `key` names: the reference or its region.
    fn reference(&mut self, key: &str, value: Value, rules: &Rules) -> Option<Reference> {
        let text = self.text(key, value)?;
        reference::parse(key, &text, rules).map_err(|(code, message)| self.refuse(code, key, message)).ok()
    }

    fn subjects(&mut self, value: Value) -> Option<Vec<String>> {
        if let Some(text) = value.as_str().filter(|text| text.trim_start().starts_with('[')) {
            let message = format!(
                "subjects: {} is a list as printed by a program; separate the words with semicolons, such as \
                 seagull;rock",
                shorten(&Value::from(text))
            );
            self.refuse("wrong_type", "subjects", message);
            return None;
        }
        let words = value.as_array().filter(|items| items.len() <= MAX_SUBJECTS).and_then(|items| {
            let words = items.iter().map(|item| Some(item.as_str()?.trim().to_owned())).collect::<Option<Vec<_>>>()?;
            (!words.is_empty() && words.iter().all(|word| !word.is_empty())).then_some(words)
        });
        if words.is_none() {
            let message = format!(
                "subjects: {} is not a list of 1 to {MAX_SUBJECTS} words of the prompt, such as [\"seagull\"]; leave \
                 it out to take the prompt's nouns",
                shorten(&value)
            );
            self.refuse("wrong_type", "subjects", message);
        }
        words
    }

    fn seed(&mut self, value: &Value) -> Option<Seed> {
        let Some(number) = by_value(value).as_u64() else {
            let message = format!("seed: {} is not a whole number from 0 to {}", shorten(value), Seed::MAX);
            self.refuse("wrong_type", "seed", message);
            return None;
        };
        Seed::new(number).map_err(|error| self.refuse("out_of_range", "seed", error.to_string())).ok()
    }

    fn setting(&mut self, settings: &mut Settings, key: &str, value: &Value) {
        if let Err(error) = settings.set(key, value) {
            self.refuse(error.code, key, error.to_string());
        }
    }

    /// The user's own columns, within their bound.
    fn extra(&mut self, extra: Extra) -> Extra {
        let extra: Extra = extra.into_iter().filter(|(_, value)| !value.is_null()).collect();
        if let Some((name, _)) = extra.iter().find(|(_, value)| is_deeper(value, MAX_EXTRA_DEPTH)) {
            let message = format!(
                "its column {} holds lists or objects more than {MAX_EXTRA_DEPTH} levels deep; write it as text, or say \
                 --extra-columns ignore",
                quoted(name)
            );
            self.refuse("extra_too_deep", name, message);
            return Extra::new();
        }
        let bytes =
            if extra.is_empty() { 0 } else { serde_json::to_string(&extra).map_or(usize::MAX, |text| text.len()) };
        if bytes > MAX_EXTRA_BYTES {
            let longest = extra.iter().max_by_key(|(_, value)| value.to_string().len()).map(|(name, _)| name.clone());
            let longest = longest.unwrap_or_default();
            let message = format!(
                "its own columns have {bytes} bytes, most of them {}; at most {MAX_EXTRA_BYTES} are carried per row; \
                 use --extra-columns ignore, or remove that column",
                quoted(&longest)
            );
            self.refuse("extra_too_large", &longest, message);
            return Extra::new();
        }
        extra
    }
}

/// Whether a value has more levels of lists and objects.
fn is_deeper(value: &Value, levels: usize) -> bool {
    let below = |value: &Value| is_deeper(value, levels - 1);
    match value {
        Value::Array(items) => levels == 0 || items.iter().any(below),
        Value::Object(fields) => levels == 0 || fields.values().any(below),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_counted_from_the_value_itself() {
        let nested = |levels: usize| (0..levels).fold(Value::from(1), |value, _| Value::from(vec![value]));
        assert!(!is_deeper(&nested(0), 0) && is_deeper(&nested(1), 0));
        assert!(!is_deeper(&nested(32), 32) && is_deeper(&nested(33), 32));
        assert!(is_deeper(&serde_json::json!({ "a": [{ "b": [] }] }), 3));
    }
}
