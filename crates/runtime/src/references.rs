//! How references are fetched over `https://` and `s3://`, and where they are kept.

use std::path::PathBuf;

use diorama_core::settings::{SettingError, number};
use serde_json::Value;

use crate::options::{read, real, refusal, whole};

/// The keys about references.
#[derive(Debug, Clone, PartialEq)]
pub struct ReferenceOptions {
    /// Whether references may come from private addresses and over plain `http://`.
    pub allow_private: bool,
    /// Seconds that fetching one may take, tries and waits included.
    pub timeout: f64,
    /// The folder of the cache; the program's choice where it is not given.
    pub cache: Option<PathBuf>,
    /// Bytes that the cache may take; 0: there is none.
    pub cache_bytes: u64,
    /// Seconds after which a URL is asked again.
    pub cache_seconds: f64,
}

impl Default for ReferenceOptions {
    fn default() -> Self {
        Self { allow_private: false, timeout: 60.0, cache: None, cache_bytes: 4 << 30, cache_seconds: 86_400.0 }
    }
}

impl ReferenceOptions {
    /// Every key, as it is written in configuration files.
    pub const KEYS: [&'static str; 5] = [
        "allow_private_references",
        "reference_timeout",
        "reference_cache",
        "reference_cache_bytes",
        "reference_cache_seconds",
    ];

    /// The defaults that are shown.
    pub(crate) fn defaults() -> Value {
        let options = Self::default();
        serde_json::json!({
            "allow_private_references": options.allow_private,
            "reference_timeout": options.timeout,
            "reference_cache_bytes": options.cache_bytes,
            "reference_cache_seconds": options.cache_seconds,
        })
    }

    /// The JSON that `text` means for `key`.
    pub(crate) fn read_text(key: &str, text: &str) -> Value {
        match key {
            "allow_private_references" => text.parse().map_or_else(|_| Value::from(text), Value::Bool),
            "reference_cache" => Value::from(text),
            _ => number(text),
        }
    }

    /// Sets one key from JSON and checks it.
    pub(crate) fn set(&mut self, key: &str, value: &Value) -> Result<(), SettingError> {
        match key {
            "allow_private_references" => self.allow_private = read(key, value, "true or false")?,
            "reference_timeout" => self.timeout = real(key, value, 0.1, 3600.0)?,
            "reference_cache" => self.cache = Some(read(key, value, "a folder")?),
            "reference_cache_bytes" => self.cache_bytes = whole(key, value, 0, 1 << 50)?,
            "reference_cache_seconds" => self.cache_seconds = real(key, value, 0.0, 1e9)?,
            _ => return Err(refusal(key, "unknown_key", "is not an option".to_owned())),
        }
        Ok(())
    }
}
