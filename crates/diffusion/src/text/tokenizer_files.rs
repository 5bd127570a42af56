//! What lies beside a tokenizer's vocabulary: which tokens start, end and pad, tokens that were added, and how long a
//! prompt may be.

use std::path::Path;

use serde_json::{Map, Value};
use tokenizers::AddedToken;

use crate::error::{Error, Result};

/// A token that was added to the vocabulary, such as one that textual inversion learned.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Added {
    pub(super) token: AddedToken,
    pub(super) id: i64,
}

/// Which tokens start, end and pad.
pub(super) struct SpecialTokens {
    pub(super) start: String,
    pub(super) end: String,
    pub(super) pad: String,
}

/// The files of a `tokenizer` folder beside the vocabulary.
pub(super) struct TokenizerFiles {
    pub(super) special: SpecialTokens,
    /// By id.
    pub(super) added: Vec<Added>,
    /// `model_max_length`, where it is a length.
    pub(super) length: Option<usize>,
}

impl TokenizerFiles {
    /// Reads `special_tokens_map.json`, `tokenizer_config.json` and `added_tokens.json`, as far as they are there.
    pub(super) fn read(folder: &Path) -> Result<Self> {
        let [special, config, added] =
            ["special_tokens_map.json", "tokenizer_config.json", "added_tokens.json"].map(|name| object(folder, name));
        let (special, config, added) = (special?, config?, added?);
        let broken = |name: &str, problem: String| Error::Model { path: folder.join(name), problem };
        if let Some(class) = config.get("tokenizer_class").and_then(Value::as_str)
            && !["CLIPTokenizer", "CLIPTokenizerFast"].contains(&class)
        {
            return Err(broken(
                "tokenizer_config.json",
                format!("\"tokenizer_class\": \"{class}\" is not supported (supported: CLIPTokenizer)"),
            ));
        }
        // Of transformers 4.34 and later, with how each is looked for; then of all versions, by name alone.
        let of_config = entries(&config, "added_tokens_decoder").map(|(id, token)| {
            let flag = |key: &str, default| token.get(key).and_then(Value::as_bool).unwrap_or(default);
            let content = token.get("content").and_then(Value::as_str)?;
            let special = flag("special", false);
            let token = AddedToken::from(content, special)
                .single_word(flag("single_word", false))
                .lstrip(flag("lstrip", false))
                .rstrip(flag("rstrip", false))
                .normalized(flag("normalized", !special));
            Some(Added { token, id: id.parse().ok()? })
        });
        let of_list = added
            .iter()
            .map(|(content, id)| Some(Added { token: AddedToken::from(content.as_str(), false), id: id.as_i64()? }));
        let mut all: Vec<Added> = Vec::new();
        for (name, added) in of_config
            .map(|added| ("tokenizer_config.json", added))
            .chain(of_list.map(|added| ("added_tokens.json", added)))
        {
            let added = added
                .ok_or_else(|| broken(name, "holds an added token without a whole number as its id".to_owned()))?;
            if !all.iter().any(|known| known.token.content == added.token.content && known.id == added.id) {
                all.push(added);
            }
        }
        all.sort_by_key(|added| added.id);
        let length = match config.get("model_max_length").and_then(Value::as_f64) {
            // transformers writes 10³⁰ where there is no limit.
            Some(length) if length < 1e9 => {
                if length < 3.0 || length.fract() != 0.0 {
                    let problem =
                        format!("\"model_max_length\": {length} leaves no room for a token; it must be 3 or more");
                    return Err(broken("tokenizer_config.json", problem));
                }
                Some(length as usize)
            }
            _ => None,
        };
        let find = |key: &str| {
            [&special, &config].into_iter().find_map(|source| match source.get(key)? {
                Value::String(text) => Some(text.clone()),
                Value::Object(token) => Some(token.get("content")?.as_str()?.to_owned()),
                _ => None,
            })
        };
        Ok(Self {
            special: SpecialTokens {
                start: find("bos_token").unwrap_or_else(|| "<|startoftext|>".to_owned()),
                end: find("eos_token").unwrap_or_else(|| "<|endoftext|>".to_owned()),
                pad: find("pad_token").unwrap_or_else(|| "<|endoftext|>".to_owned()),
            },
            added: all,
            length,
        })
    }
}

fn entries<'a>(file: &'a Map<String, Value>, key: &str) -> impl Iterator<Item = (&'a String, &'a Value)> {
    file.get(key).and_then(Value::as_object).into_iter().flatten()
}

/// A JSON object, empty where there is no such file.
fn object(folder: &Path, name: &str) -> Result<Map<String, Value>> {
    let path = folder.join(name);
    let broken = |problem: String| Error::Model { path: path.clone(), problem };
    match std::fs::read_to_string(&path) {
        Ok(text) => serde_json::from_str(&text).map_err(|error| broken(format!("is not a JSON object: {error}"))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Map::new()),
        Err(error) => Err(broken(format!("cannot be read: {error}"))),
    }
}
