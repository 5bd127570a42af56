//! From the cells of one row to a [`Task`], or to everything that is wrong with it.

use diorama_core::id::{CustomId, Seed, TaskIndex};
use diorama_core::manifest::ManifestIssue;
use diorama_core::settings::{Method, Settings};
use diorama_core::task::{Reference, Task};
use serde_json::{Map, Value};

use crate::raw::{issue, unknown_key};
use crate::reference;
use crate::rules::Rules;

/// The longest prompt, in bytes.
pub const MAX_PROMPT_BYTES: usize = 10_000;

/// The task of a row. Its index is for the caller to set.
pub(crate) fn task(line: u64, cells: Map<String, Value>, rules: &Rules) -> Result<Task, Vec<ManifestIssue>> {
    let mut row = Reading { line, issues: Vec::new() };
    let mut settings = Settings::default();
    let (mut custom_id, mut prompt, mut reference, mut subjects, mut seed) = (None, None, None, None, None);
    let (mut written_id, mut region) = (None, None);
    for (key, value) in cells.into_iter().filter(|(_, value)| !value.is_null()) {
        match key.as_str() {
            "custom_id" => {
                written_id = value.as_str().map(|id| id.chars().take(80).collect::<String>());
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
    let settings = rules.settings.overlaid(&settings);
    for (key, missing) in [("custom_id", custom_id.is_none()), ("prompt", prompt.is_none())] {
        if missing {
            row.refuse("missing_key", key, format!("{key} is missing"));
        }
    }
    if reference.is_none() && needs_reference(&settings, &rules.compare) {
        row.refuse("missing_key", "reference", "reference is missing; only the method txt2img does without".to_owned());
    }
    if region.is_some() && reference.is_none() {
        row.refuse("missing_key", "reference", "reference is missing; a region is a mask of it".to_owned());
    }
    match (custom_id.flatten(), prompt.flatten()) {
        (Some(custom_id), Some(prompt)) if row.issues.is_empty() => {
            let seed = seed.unwrap_or_else(|| Seed::derive(rules.seed, &custom_id));
            let (reference, region) = (reference.flatten(), region.flatten());
            Ok(Task { index: TaskIndex(0), custom_id, reference, region, prompt, subjects, seed, settings })
        }
        _ => {
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
        let text = self.text("custom_id", value)?;
        CustomId::new(text).map_err(|error| self.refuse("unsafe_id", "custom_id", error.to_string())).ok()
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
        let words = value.as_array().and_then(|items| {
            let words = items.iter().map(|item| Some(item.as_str()?.trim().to_owned())).collect::<Option<Vec<_>>>()?;
            (!words.is_empty() && words.iter().all(|word| !word.is_empty())).then_some(words)
        });
        if words.is_none() {
            let message = format!(
                "subjects: {} is not a list of words of the prompt, such as [\"seagull\"]; leave it out to take the \
                 prompt's nouns",
                shorten(&value)
            );
            self.refuse("wrong_type", "subjects", message);
        }
        words
    }

    fn seed(&mut self, value: &Value) -> Option<Seed> {
        let Some(number) = value.as_u64() else {
            let message = format!("seed: {} is not a whole number from 0 to {}", shorten(value), Seed::MAX);
            self.refuse("wrong_type", "seed", message);
            return None;
        };
        Seed::new(number).map_err(|error| self.refuse("out_of_range", "seed", error.to_string())).ok()
    }

    fn setting(&mut self, settings: &mut Settings, key: &str, value: &Value) {
        if !Settings::KEYS.contains(&key) {
            self.issues.push(unknown_key(self.line, key));
        } else if let Err(error) = settings.set(key, value) {
            self.refuse(error.code, key, error.to_string());
        }
    }
}

fn shorten(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() <= 60 { text } else { text.chars().take(57).chain("...".chars()).collect() }
}
