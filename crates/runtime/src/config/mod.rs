//! Flag over environment variable over file over default, and where each value came from.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use diorama_core::settings::{Key, Kind, SettingError, Settings};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::options::{
    CapOptions, ClientOptions, CoordinatorOptions, EngineOptions, ReferenceOptions, RunOptions, ServiceOptions,
    WorkerOptions,
};
use crate::{Source, home};

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
    /// What makes the pictures.
    pub engine: EngineOptions,
    /// How a run is cut, stored and tried again.
    pub run: RunOptions,
    /// What a run may ask of the workers.
    pub caps: CapOptions,
    /// How references are fetched.
    pub references: ReferenceOptions,
    /// Where RabbitMQ, Redis and the object store are.
    pub services: ServiceOptions,
    /// Which coordinator a client asks.
    pub client: ClientOptions,
    /// How a worker works.
    pub worker: WorkerOptions,
    /// How a coordinator serves.
    pub coordinator: CoordinatorOptions,
    /// The settings of the method.
    pub settings: Settings,
    /// Every key in a fixed order, with its value and where that came from.
    pub entries: Vec<Entry>,
    /// Variables with the prefix that mean nothing: misspelt, perhaps.
    pub unknown_variables: Vec<String>,
}

impl Config {
    /// Where the value of `key` came from.
    pub fn source(&self, key: &str) -> &Source {
        self.entries.iter().find(|entry| entry.key == key).map_or(&Source::Unset, |entry| &entry.source)
    }
}

/// One key of the configuration.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Entry {
    pub key: &'static str,
    /// Its value; `None` where the preset, the model or the method decides.
    pub value: Option<Value>,
    /// Where the value came from.
    pub source: Source,
}

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file that was named does not exist or is not TOML.
    #[error("the configuration file {path}: {message}")]
    File { path: PathBuf, message: String },
    /// Values that were refused: all of them, a line each.
    #[error("{}", .0.join("\n"))]
    Values(Vec<String>),
}

/// Every key there is, as it is declared, those of the method last.
pub fn keys() -> impl Iterator<Item = &'static Key> {
    [
        EngineOptions::KEYS,
        RunOptions::KEYS,
        ServiceOptions::KEYS,
        ClientOptions::KEYS,
        WorkerOptions::KEYS,
        CoordinatorOptions::KEYS,
        CapOptions::KEYS,
        ReferenceOptions::KEYS,
        Settings::DECLARED,
    ]
    .into_iter()
    .flatten()
}

/// The declaration of the key of this name.
pub fn key(name: &str) -> Option<&'static Key> {
    keys().find(|key| key.name == name)
}

/// Reads all sources. What is refused is refused at once, each with where it came from.
pub fn load(sources: &Sources) -> Result<Config, ConfigError> {
    let mut given = Given::default();
    given.defaults();
    let mut refused = Vec::new();
    if let Some(file) = file(sources)? {
        given.file(&file, &mut refused)?;
    }
    let unknown_variables = given.environment(&sources.env);
    given.flags(&sources.flags, &mut refused);

    let mut settings = Settings::default();
    given.expand_home(&sources.env, &mut refused);
    for (name, (value, source)) in &given.0 {
        let result = match key(name) {
            Some(_) if Settings::KEYS.contains(&name.as_str()) => settings.set(name, value),
            Some(key) => key.check(value),
            None => Err(unknown(name)),
        };
        if let Err(error) = result {
            refused.push(format!("{error} (from {source})"));
        }
    }
    let values = given.values(&mut refused);
    if !refused.is_empty() {
        return Err(ConfigError::Values(refused));
    }
    Ok(Config {
        engine: options(&values)?,
        run: options(&values)?,
        caps: options(&values)?,
        references: options(&values)?,
        services: options(&values)?,
        client: options(&values)?,
        worker: options(&values)?,
        coordinator: options(&values)?,
        settings,
        entries: keys().map(|key| given.entry(key)).collect(),
        unknown_variables,
    })
}

/// What a program may be told, out of all values. Each was checked, so that only a key that is declared with a type other
/// than its field's could be refused.
fn options<T: DeserializeOwned>(values: &Value) -> Result<T, ConfigError> {
    T::deserialize(values).map_err(|error| ConfigError::Values(vec![error.to_string()]))
}

/// A configuration file.
enum ConfigFile {
    /// Somebody named it.
    Named(PathBuf),
    /// It was there: whoever made the folder wrote it, which may be somebody else.
    Found(PathBuf),
}

/// Whether a file that nobody named may set the key: not where secrets, requests and pictures go, what is trusted and who
/// is let in. A folder of data that somebody sent is no reason to send them a token.
fn may_be_found(key: &Key) -> bool {
    let elsewhere = [ServiceOptions::KEYS, ClientOptions::KEYS].concat();
    let others = [
        "listen",
        "insecure",
        "tokens_file",
        "metrics_listen",
        "allow_private_references",
        "reference_root",
        "scratch",
        "reference_cache",
    ];
    !(key.is_secret() || others.contains(&key.name) || elsewhere.iter().any(|other| other.name == key.name))
}

fn file(sources: &Sources) -> Result<Option<ConfigFile>, ConfigError> {
    let named = sources.file.clone().or_else(|| {
        let variable = sources.env.iter().find(|(name, _)| name == "DIORAMA_CONFIG");
        variable.map(|(_, path)| PathBuf::from(path))
    });
    let Some(named) = named else {
        return Ok(Some(sources.folder.join(DEFAULT_FILE)).filter(|path| path.is_file()).map(ConfigFile::Found));
    };
    let path = home::expand(&named, home::folder(&sources.env).as_deref())
        .map_err(|message| ConfigError::File { path: named, message })?;
    match path.is_file() {
        true => Ok(Some(ConfigFile::Named(path))),
        false => Err(ConfigError::File { path, message: "there is no such file".to_owned() }),
    }
}

/// The longest configuration file: many times what all keys take.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// The text of a configuration file.
fn read(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    std::fs::File::open(path)?.take(MAX_FILE_BYTES + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(std::io::Error::other(format!("has more than {MAX_FILE_BYTES} bytes; is it a configuration?")));
    }
    Ok(text)
}

/// Why a file is not TOML, without quoting it.
fn plainly(text: &str, error: &toml::de::Error) -> String {
    let line = error
        .span()
        .map_or(0, |span| text.as_bytes()[..span.start.min(text.len())].iter().filter(|byte| **byte == b'\n').count());
    format!("is not TOML: line {}: {}", line + 1, error.message())
}

fn unknown(name: &str) -> SettingError {
    let distance = |key: &&Key| strsim::damerau_levenshtein(name, key.name);
    let nearest = keys().min_by_key(distance).filter(|key| distance(key) <= 1 + key.name.len() / 4);
    let message = match nearest {
        Some(key) => format!("is not a key; did you mean {}?", key.name),
        None => format!("is not a key; the keys are {}", keys().map(|key| key.name).collect::<Vec<_>>().join(", ")),
    };
    SettingError { param: name.to_owned(), code: "unknown_key", message }
}

/// The secret that a file holds.
fn secret(key: &Key, path: &Path) -> Result<Value, SettingError> {
    let refusal = |message: String| key.refusal("unreadable_file", message);
    let text = std::fs::read_to_string(path)
        .map_err(|error| refusal(format!("{} cannot be read: {error}", path.display())))?;
    match text.trim() {
        "" => Err(refusal(format!("{} is empty", path.display()))),
        text => Ok(Value::from(text)),
    }
}

/// Whether an address says a password. What is no address may be anything.
fn has_password(address: &str) -> bool {
    match address.split_once("://") {
        Some((_, rest)) => rest.rsplit_once('@').is_some_and(|(user, _)| user.contains(':')),
        None => true,
    }
}

/// The values that were given, those of unknown keys too, each with its source. Of two, the later one stays.
#[derive(Default)]
struct Given(BTreeMap<String, (Value, Source)>);

impl Given {
    fn put(&mut self, name: &str, value: Value, source: Source) {
        self.0.insert(name.to_owned(), (value, source));
    }

    fn defaults(&mut self) {
        for key in keys() {
            if let Some(default) = key.default {
                self.put(key.name, default(), Source::Default);
            }
        }
    }

    fn file(&mut self, file: &ConfigFile, refused: &mut Vec<String>) -> Result<(), ConfigError> {
        let (path, is_found) = match file {
            ConfigFile::Named(path) => (path, false),
            ConfigFile::Found(path) => (path, true),
        };
        let failed = |message: String| ConfigError::File { path: path.to_owned(), message };
        let text = read(path).map_err(|error| failed(error.to_string()))?;
        // One that was found may be a link to anything, and no line of that is shown.
        let shown = |error: toml::de::Error| if is_found { plainly(&text, &error) } else { error.to_string() };
        let values: BTreeMap<String, Value> = toml::from_str(&text).map_err(|error| failed(shown(error)))?;
        for (name, value) in values {
            let source = Source::File(path.to_owned());
            // The default, as in a copy of the examples, says nothing.
            let says = |key: &Key| !may_be_found(key) && key.default.is_none_or(|default| default() != value);
            if is_found && key(&name).is_some_and(says) {
                refused.push(format!(
                    "{name}: a {DEFAULT_FILE} merely found in the working folder may not set this (from {source}); if \
                     the file is yours, name it: --config {DEFAULT_FILE}, or DIORAMA_CONFIG; or set {ENV_PREFIX}{}",
                    name.to_ascii_uppercase()
                ));
                continue;
            }
            self.put(&name, value, source);
        }
        Ok(())
    }

    /// Takes the variables that name keys, and gives those with the prefix that do not. Kubernetes sets variables of its
    /// own for a service that is called diorama; they are neither.
    fn environment(&mut self, variables: &[(String, String)]) -> Vec<String> {
        let mut unknown = Vec::new();
        for (variable, text) in variables {
            let Some(name) = variable.strip_prefix(ENV_PREFIX) else { continue };
            if let Some(key) = key(&name.to_ascii_lowercase()) {
                self.put(key.name, key.read_text(text), Source::Environment(variable.clone()));
            } else if !OTHER_VARIABLES.contains(&variable.as_str())
                && !variable.contains("_SERVICE_")
                && !variable.contains("_PORT")
            {
                unknown.push(variable.clone());
            }
        }
        unknown
    }

    fn flags(&mut self, flags: &[(&'static str, String)], refused: &mut Vec<String>) {
        for (name, text) in flags {
            let flag = format!("--{}", name.replace('_', "-"));
            if key(name).is_some_and(|key| key.is_secret()) && has_password(text) {
                refused.push(format!(
                    "{name}: every user of this machine can read a password in {flag} from the process list; set \
                     {ENV_PREFIX}{}, or name the file that holds it: {flag}-file",
                    name.to_ascii_uppercase()
                ));
                continue;
            }
            let value = key(name).map_or_else(|| Value::from(text.as_str()), |key| key.read_text(text));
            self.put(name, value, Source::Flag(flag));
        }
    }

    /// Puts the home folder in the place of `~`, which no shell does in a file or in a variable.
    fn expand_home(&mut self, env: &[(String, String)], refused: &mut Vec<String>) {
        let home = home::folder(env);
        for (name, (value, source)) in &mut self.0 {
            let is_path = key(name).is_some_and(|key| matches!(key.kind, Kind::Path(_) | Kind::SecretFile(_)));
            let Some(path) = value.as_str().filter(|_| is_path) else { continue };
            match home::expand(Path::new(path), home.as_deref()) {
                Ok(path) => *value = Value::from(path.display().to_string()),
                Err(message) => refused.push(format!("{name}: {message} (from {source})")),
            }
        }
    }

    /// The values in force: a secret's file is read, unless the secret itself was given at a place that wins.
    fn values(&self, refused: &mut Vec<String>) -> Value {
        let mut values: Map<String, Value> = Map::new();
        for key in keys() {
            let Some((value, source)) = self.0.get(key.name) else { continue };
            match (key.kind, value.as_str()) {
                (Kind::SecretFile(of), Some(path)) => {
                    if self.0.get(of).is_none_or(|(_, direct)| direct.rank() <= source.rank()) {
                        match secret(key, Path::new(path)) {
                            Ok(secret) => drop(values.insert(of.to_owned(), secret)),
                            Err(error) => refused.push(format!("{error} (from {source})")),
                        }
                    }
                }
                (Kind::Secret { .. }, Some(text)) => drop(values.insert(key.name.to_owned(), text.trim().into())),
                _ => drop(values.insert(key.name.to_owned(), value.clone())),
            }
        }
        Value::Object(values)
    }

    fn entry(&self, key: &'static Key) -> Entry {
        match self.0.get(key.name) {
            Some((value, source)) => {
                let shown = if key.is_secret() { Value::from("(hidden)") } else { value.clone() };
                Entry { key: key.name, value: Some(shown), source: source.clone() }
            }
            None => Entry { key: key.name, value: None, source: Source::Unset },
        }
    }
}

#[cfg(test)]
mod tests;
