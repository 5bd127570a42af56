//! Flag over environment variable over file over default, and where each value came from.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use diorama_core::settings::Settings;
use figment::providers::{Format, Toml};
use figment::value::{Dict, Map};
use figment::{Figment, Metadata, Profile, Provider};
use serde_json::Value;

use crate::fleet::Fleet;
use crate::options::Options;
use crate::references::ReferenceOptions;

/// What environment variables begin with.
pub const ENV_PREFIX: &str = "DIORAMA_";

/// The file that is read where none is named and it exists.
pub const DEFAULT_FILE: &str = "diorama.toml";

/// Variables with the prefix that are not configuration: the file's name, the log filter, where torch's CUDA half is, a
/// test's fault.
const OTHER_VARIABLES: [&str; 4] = ["DIORAMA_CONFIG", "DIORAMA_LOG", "DIORAMA_TORCH_LIB", "DIORAMA_FAULT"];

/// Where values come from. Flags and variables are text.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// The file that a flag or `DIORAMA_CONFIG` names.
    pub file: Option<PathBuf>,
    /// The folder in which [`DEFAULT_FILE`] is looked for where none is named.
    pub folder: PathBuf,
    /// Environment variables, those without the prefix included.
    pub env: Vec<(String, String)>,
    /// Keys and the text that a flag gave them.
    pub flags: Vec<(&'static str, String)>,
}

/// The values in force.
#[derive(Debug, Clone)]
pub struct Config {
    /// Everything that is neither a setting of the method nor about the fleet.
    pub options: Options,
    /// Where the fleet is, and how it works.
    pub fleet: Fleet,
    /// How references are fetched.
    pub references: ReferenceOptions,
    /// The settings of the method.
    pub settings: Settings,
    /// Every key in a fixed order, with its value and where that came from.
    pub entries: Vec<Entry>,
    /// Variables with the prefix that mean nothing: misspelt, perhaps.
    pub unknown_variables: Vec<String>,
}

/// One key of the configuration.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// Its value; `None` where the preset, the model or the method decides.
    pub value: Option<Value>,
    /// Where the value came from.
    pub source: String,
}

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file that was named does not exist or is not TOML.
    #[error("the configuration file {path}: {message}")]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// Values that were refused: all of them, a line each.
    #[error("{}", .0.join("\n"))]
    Values(Vec<String>),
}

/// Reads all sources.
pub fn load(sources: &Sources) -> Result<Config, ConfigError> {
    let mut figment = Figment::new().merge(Layer::defaults());
    if let Some(path) = file(sources)? {
        figment = figment.merge(Toml::file_exact(path));
    }
    let (variables, unknown_variables) = Layer::environment(&sources.env);
    let figment = figment.merge(variables).merge(Layer::flags(&sources.flags));
    let values: BTreeMap<String, Value> = figment.extract().map_err(|error| ConfigError::File {
        path: file(sources).ok().flatten().unwrap_or_default(),
        message: error.to_string(),
    })?;

    let (mut options, mut fleet, mut settings) = (Options::default(), Fleet::default(), Settings::default());
    let mut references = ReferenceOptions::default();
    let mut refused = Vec::new();
    for (key, value) in &values {
        let result = match () {
            () if Settings::KEYS.contains(&key.as_str()) => settings.set(key, value).map_err(|e| e.to_string()),
            () if Options::KEYS.contains(&key.as_str()) => options.set(key, value).map_err(|e| e.to_string()),
            () if Fleet::KEYS.contains(&key.as_str()) => fleet.set(key, value).map_err(|e| e.to_string()),
            () if ReferenceOptions::KEYS.contains(&key.as_str()) => {
                references.set(key, value).map_err(|e| e.to_string())
            }
            () => Err(unknown(key)),
        };
        if let Err(message) = result {
            refused.push(format!("{message} (from {})", source(&figment, key)));
        }
    }
    if !refused.is_empty() {
        return Err(ConfigError::Values(refused));
    }
    let entries = keys()
        .map(|key| match values.get(key) {
            Some(_) if Fleet::is_secret(key) => {
                Entry { key: key.to_owned(), value: Some(Value::from("(hidden)")), source: source(&figment, key) }
            }
            Some(value) => Entry { key: key.to_owned(), value: Some(value.clone()), source: source(&figment, key) },
            None => Entry { key: key.to_owned(), value: None, source: "unset".to_owned() },
        })
        .collect();
    Ok(Config { options, fleet, references, settings, entries, unknown_variables })
}

fn keys() -> impl Iterator<Item = &'static str> {
    Options::KEYS.into_iter().chain(Fleet::KEYS).chain(ReferenceOptions::KEYS).chain(Settings::KEYS)
}

fn file(sources: &Sources) -> Result<Option<PathBuf>, ConfigError> {
    let named = sources.file.clone().or_else(|| {
        let variable = sources.env.iter().find(|(name, _)| name == "DIORAMA_CONFIG");
        variable.map(|(_, path)| PathBuf::from(path))
    });
    match named {
        Some(path) if path.is_file() => Ok(Some(path)),
        Some(path) => Err(ConfigError::File { path, message: "there is no such file".to_owned() }),
        None => Ok(Some(sources.folder.join(DEFAULT_FILE)).filter(|path| path.is_file())),
    }
}

fn unknown(key: &str) -> String {
    let nearest = keys().min_by_key(|known| strsim::damerau_levenshtein(key, known));
    match nearest.filter(|known| strsim::damerau_levenshtein(key, known) <= 1 + known.len() / 4) {
        Some(known) => format!("{key}: is not a key; did you mean {known}?"),
        None => format!("{key}: is not a key; the keys are {}", keys().collect::<Vec<_>>().join(", ")),
    }
}

fn source(figment: &Figment, key: &str) -> String {
    match figment.find_metadata(key) {
        Some(metadata) => match (metadata.name.as_ref(), metadata.source.as_ref().and_then(figment::Source::file_path))
        {
            (_, Some(path)) => format!("file {}", shown(path)),
            ("flag", None) => format!("flag --{}", key.replace('_', "-")),
            ("environment", None) => format!("environment variable {ENV_PREFIX}{}", key.to_ascii_uppercase()),
            (name, None) => name.to_owned(),
        },
        None => "unset".to_owned(),
    }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

/// Values from one place other than a file.
struct Layer {
    name: &'static str,
    values: serde_json::Map<String, Value>,
}

impl Layer {
    fn defaults() -> Self {
        let options = Options::default();
        let values = serde_json::json!({
            "engine": options.engine,
            "device": options.device,
            "batch_size": options.batch_size,
            "seed": options.seed,
            "format": options.format,
            "shard_size": options.shard_size,
            "max_rounds": options.max_rounds,
            "retry_delay": options.retry_delay,
            "on_invalid": options.on_invalid,
            "compare": options.compare,
            "synthetic_latency": options.synthetic_latency,
            "synthetic_fail_rate": options.synthetic_fail_rate,
        });
        let mut values = values.as_object().cloned().unwrap_or_default();
        for more in [Fleet::defaults(), ReferenceOptions::defaults()] {
            values.extend(more.as_object().cloned().unwrap_or_default());
        }
        Self { name: "default", values }
    }

    /// The variables that name keys, and those with the prefix that do not. Kubernetes sets variables of its own for
    /// a service that is called diorama; they are neither.
    fn environment(variables: &[(String, String)]) -> (Self, Vec<String>) {
        let (mut values, mut unknown) = (serde_json::Map::new(), Vec::new());
        for (name, text) in variables {
            let Some(key) = name.strip_prefix(ENV_PREFIX).map(str::to_ascii_lowercase) else { continue };
            if keys().any(|known| known == key) {
                let value = read_text(&key, text);
                values.insert(key, value);
            } else if !OTHER_VARIABLES.contains(&name.as_str())
                && !name.contains("_SERVICE_")
                && !name.contains("_PORT")
            {
                unknown.push(name.clone());
            }
        }
        (Self { name: "environment", values }, unknown)
    }

    fn flags(flags: &[(&'static str, String)]) -> Self {
        let values = flags.iter().map(|(key, text)| ((*key).to_owned(), read_text(key, text))).collect();
        Self { name: "flag", values }
    }
}

fn read_text(key: &str, text: &str) -> Value {
    match () {
        () if Settings::KEYS.contains(&key) => Settings::read_text(key, text),
        () if Fleet::KEYS.contains(&key) => Fleet::read_text(key, text),
        () if ReferenceOptions::KEYS.contains(&key) => ReferenceOptions::read_text(key, text),
        () => Options::read_text(key, text),
    }
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.name)
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        let value = figment::value::Value::serialize(&self.values)?;
        Ok(Profile::Default.collect(value.into_dict().unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn sources(file: &str, env: &[(&str, &str)], flags: &[(&'static str, &str)]) -> (tempfile::TempDir, Sources) {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(DEFAULT_FILE), file).unwrap();
        let sources = Sources {
            file: None,
            folder: folder.path().to_owned(),
            env: env.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect(),
            flags: flags.iter().map(|(key, text)| (*key, (*text).to_owned())).collect(),
        };
        (folder, sources)
    }

    fn source_of(config: &Config, key: &str) -> String {
        config.entries.iter().find(|entry| entry.key == key).unwrap().source.clone()
    }

    #[test]
    fn a_flag_wins_over_the_environment_over_the_file_over_the_default_and_each_says_so() {
        let file = "steps = 10\nguidance = 1.5\nthreshold = 0.25\nedit_steps = [1, 2]\nbatch_size = 2\n";
        let env =
            [("DIORAMA_STEPS", "20"), ("DIORAMA_GUIDANCE", "2.5"), ("HOME", "/"), ("DIORAMA_NEGATIVE_PROMPT", "7")];
        let (folder, sources) = sources(file, &env, &[("steps", "30"), ("edit_steps", "5,18")]);
        let config = load(&sources).unwrap();
        let settings = &config.settings;
        assert_eq!((settings.steps, settings.guidance, settings.threshold), (Some(30), Some(2.5), Some(0.25)));
        assert_eq!(settings.edit_steps, Some(vec![5, 18]));
        assert_eq!(settings.negative_prompt.as_deref(), Some("7"));
        assert_eq!((config.options.batch_size, config.options.shard_size), (2, 64));
        assert_eq!(source_of(&config, "steps"), "flag --steps");
        assert_eq!(source_of(&config, "guidance"), "environment variable DIORAMA_GUIDANCE");
        assert_eq!(source_of(&config, "threshold"), format!("file {}", folder.path().join(DEFAULT_FILE).display()));
        assert_eq!(source_of(&config, "shard_size"), "default");
        assert_eq!(source_of(&config, "scheduler"), "unset");
    }

    #[test]
    fn the_defaults_that_are_shown_are_the_defaults_in_force() {
        let config = load(&Sources::default()).unwrap();
        assert_eq!(config.options, Options::default());
        assert_eq!(config.fleet, Fleet::default());
        assert_eq!(config.references, ReferenceOptions::default());
        let keys = Options::KEYS.len() + Fleet::KEYS.len() + ReferenceOptions::KEYS.len() + Settings::KEYS.len();
        assert_eq!(config.entries.len(), keys);
    }

    #[test]
    fn every_refused_value_is_named_with_its_range_and_its_source() {
        let env = [("DIORAMA_STRENGTH", "7"), ("DIORAMA_STEPPS", "1"), ("DIORAMA_SERVICE_HOST", "10.0.0.1")];
        let (_folder, mut sources) = sources("stepps = 3\ndevice = \"tpu\"\n", &env, &[("batch_size", "0")]);
        let message = load(&sources).unwrap_err().to_string();
        for part in [
            "stepps: is not a key; did you mean steps? (from file ",
            "device: \"tpu\" is not auto, cpu, cuda or cuda:N (from file ",
            "strength: 7 is out of range; it must be above 0 and at most 1 (from environment variable DIORAMA_STRENGTH)",
            "batch_size: 0 is out of range; it must be 1 to 256 (from flag --batch-size)",
        ] {
            assert!(message.contains(part), "{part:?} is not in\n{message}");
        }
        sources.env.remove(0);
        sources.flags.clear();
        fs::write(sources.folder.join(DEFAULT_FILE), "").unwrap();
        assert_eq!(load(&sources).unwrap().unknown_variables, ["DIORAMA_STEPPS"]);
    }

    #[test]
    fn a_file_that_is_named_must_be_there_and_be_toml() {
        let (folder, mut sources) = sources("steps = \n", &[], &[]);
        assert!(matches!(load(&sources), Err(ConfigError::File { .. })));
        sources.file = Some(folder.path().join("other.toml"));
        let message = load(&sources).unwrap_err().to_string();
        assert!(message.contains("other.toml: there is no such file"), "{message}");
    }
}
