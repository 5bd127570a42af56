//! Reads a component's `config.json` so that no option is overlooked: what we do not support is an error that names
//! the file and the key, never a silent difference.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// Channels, widths, positions: more than any model has, and few enough that no product of some of them overflows.
pub const SIZES: RangeInclusive<i64> = 1..=1 << 16;

/// Layers in a row.
pub const COUNTS: RangeInclusive<i64> = 1..=256;

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

    /// Takes an object inside this one, as a configuration of its own; an empty one where it is absent.
    pub fn section(&mut self, key: &str) -> Result<Self> {
        Ok(Self { path: self.path.clone(), values: self.take(key, Map::new())? })
    }

    /// An error about this file.
    pub fn error(&self, problem: impl Into<String>) -> Error {
        Error::Model { path: self.path.clone(), problem: problem.into() }
    }

    /// Takes a key; `default` where it is absent or null.
    pub fn take<T: DeserializeOwned>(&mut self, key: &str, default: T) -> Result<T> {
        Ok(self.take_optional(key)?.unwrap_or(default))
    }

    /// Takes a whole number, which must lie in `range`; `default` where it is absent or null.
    pub fn number(&mut self, key: &str, default: i64, range: RangeInclusive<i64>) -> Result<i64> {
        let number = self.take(key, default)?;
        self.in_range(key, &[number], range)?;
        Ok(number)
    }

    /// Takes a list of whole numbers, each of which must lie in `range`.
    pub fn numbers(&mut self, key: &str, default: &[i64], range: RangeInclusive<i64>) -> Result<Vec<i64>> {
        let numbers = self.take(key, default.to_vec())?;
        if numbers.is_empty() {
            return Err(self.error(format!("\"{key}\" is empty")));
        }
        self.in_range(key, &numbers, range)?;
        Ok(numbers)
    }

    fn in_range(&self, key: &str, numbers: &[i64], range: RangeInclusive<i64>) -> Result<()> {
        match numbers.iter().find(|number| !range.contains(number)) {
            Some(number) => {
                Err(self.error(format!("\"{key}\": {number} is not in {} to {}", range.start(), range.end())))
            }
            None => Ok(()),
        }
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

    /// Takes a number that may be written once or as one a block, each of which must lie in `range`; gives one a block.
    pub fn number_per_block(
        &mut self,
        key: &str,
        default: i64,
        blocks: usize,
        range: RangeInclusive<i64>,
    ) -> Result<Vec<i64>> {
        let numbers = match self.values.remove(key) {
            None | Some(Value::Null) => vec![default; blocks],
            Some(Value::Number(number)) if number.is_i64() => vec![number.as_i64().unwrap_or(default); blocks],
            Some(Value::Array(items)) if items.len() == blocks && items.iter().all(Value::is_i64) => {
                items.iter().filter_map(Value::as_i64).collect()
            }
            Some(other) => {
                let problem = format!("\"{key}\": {other} is neither a whole number nor a list of {blocks} of them");
                return Err(self.error(problem));
            }
        };
        self.in_range(key, &numbers, range)?;
        Ok(numbers)
    }

    /// Takes a whole number that may be written once or as two, each of which must lie in `range`.
    pub fn one_or_two(&mut self, key: &str, default: i64, range: RangeInclusive<i64>) -> Result<[i64; 2]> {
        let numbers = self.number_per_block(key, default, 2, range)?;
        Ok([numbers[0], numbers[1]])
    }

    /// A text that a file says of itself.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.values.get(key).and_then(Value::as_str)
    }

    /// Takes a key of which only one value is supported, written once or as a list of it.
    pub fn expect_per_block(&mut self, key: &str, supported: &Value) -> Result<()> {
        let all_are = |value: &Value| value.as_array().is_some_and(|items| items.iter().all(|item| item == supported));
        if self.values.get(key).is_some_and(all_are) {
            self.values.remove(key);
        }
        self.expect(key, std::slice::from_ref(supported))
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

    /// What was not taken yet, but for what a file says of itself.
    pub fn rest(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.values.iter().map(|(key, value)| (key.as_str(), value)).filter(|(key, _)| !key.starts_with('_'))
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
