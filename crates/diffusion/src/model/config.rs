//! Reads a component's `config.json` so that no option is overlooked: what we do not support is an error that names
//! the file and the key, never a silent difference.

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// A `config.json` whose keys are taken one by one.
pub struct Config {
    path: PathBuf,
    values: Map<String, Value>,
}

impl Config {
    /// Reads the file.
    pub fn read(path: &Path) -> Result<Self> {
        let fail = |problem: String| Error::Model { path: path.to_owned(), problem };
        let text = std::fs::read_to_string(path).map_err(|e| {
            fail(match e.kind() {
                std::io::ErrorKind::NotFound => "is missing; a model folder in diffusers layout has it".to_owned(),
                _ => format!("cannot be read: {e}"),
            })
        })?;
        let values: Map<String, Value> =
            serde_json::from_str(&text).map_err(|e| fail(format!("is not a JSON object: {e}")))?;
        Ok(Self { path: path.to_owned(), values })
    }

    /// An error about this file.
    pub fn error(&self, problem: impl Into<String>) -> Error {
        Error::Model { path: self.path.clone(), problem: problem.into() }
    }

    /// Takes a key; `default` where it is absent or null.
    pub fn take<T: DeserializeOwned>(&mut self, key: &str, default: T) -> Result<T> {
        Ok(self.take_optional(key)?.unwrap_or(default))
    }

    /// Takes a key that has no default.
    pub fn require<T: DeserializeOwned>(&mut self, key: &str) -> Result<T> {
        self.take_optional(key)?.ok_or_else(|| self.error(format!("has no \"{key}\"")))
    }

    /// Takes a key that may be absent or null.
    pub fn take_optional<T: DeserializeOwned>(&mut self, key: &str) -> Result<Option<T>> {
        match self.values.remove(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match serde_json::from_value(value.clone()) {
                Ok(value) => Ok(Some(value)),
                Err(error) => Err(self.error(format!("\"{key}\": {value} cannot be used: {error}"))),
            },
        }
    }

    /// Takes a number that may be written once or as one a block; gives one a block.
    pub fn take_per_block(&mut self, key: &str, default: i64, blocks: usize) -> Result<Vec<i64>> {
        match self.values.remove(key) {
            None | Some(Value::Null) => Ok(vec![default; blocks]),
            Some(Value::Number(number)) if number.is_i64() => Ok(vec![number.as_i64().unwrap_or(default); blocks]),
            Some(Value::Array(items)) if items.len() == blocks && items.iter().all(Value::is_i64) => {
                Ok(items.iter().filter_map(Value::as_i64).collect())
            }
            Some(other) => {
                Err(self.error(format!("\"{key}\": {other} is neither a whole number nor a list of {blocks} of them")))
            }
        }
    }

    /// Takes a key of which only some values are supported.
    pub fn expect(&mut self, key: &str, supported: &[Value]) -> Result<()> {
        match self.values.remove(key) {
            None => Ok(()),
            Some(value) if supported.contains(&value) => Ok(()),
            Some(value) => {
                let list: Vec<String> = supported.iter().map(Value::to_string).collect();
                Err(self.error(format!("\"{key}\": {value} is not supported (supported: {})", list.join(", "))))
            }
        }
    }

    /// Drops keys that do not change what the network computes.
    pub fn ignore(&mut self, keys: &[&str]) {
        for key in keys {
            self.values.remove(*key);
        }
    }

    /// Ends the reading: a key that is left and set is one we do not know.
    pub fn finish(self) -> Result<()> {
        let unknown = self.values.iter().find(|(key, value)| !key.starts_with('_') && !value.is_null());
        match unknown {
            Some((key, value)) => Err(self.error(format!("\"{key}\": {value} is an option that is not supported"))),
            None => Ok(()),
        }
    }
}
