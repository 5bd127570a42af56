//! What a process of a fleet may be told: where RabbitMQ, Redis, the object store and the coordinator are, and how it
//! serves or works.
//!
//! Secrets come from the environment, from a file that a `…_file` key names, or from the configuration file; they are
//! never shown.

use std::fmt;
use std::path::PathBuf;

use diorama_core::id::{Pool, WorkerId};
use diorama_core::settings::{SettingError, number};
use serde::Deserialize;
use serde_json::Value;

use crate::options::{read, real, refusal, whole};

/// Text that is never shown.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// The text itself, for whoever needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

/// Everything about the fleet.
#[derive(Debug, Clone, PartialEq)]
pub struct Fleet {
    /// `amqp://user:password@host:5672/vhost`, or `amqps://`.
    pub amqp_url: Option<Secret>,
    /// Whole seconds between two signs of life of a connection to RabbitMQ; after two without one it is gone.
    pub amqp_heartbeat: u16,
    /// `redis://:password@host:6379/0`, or `rediss://`.
    pub redis_url: Option<Secret>,
    /// Whether Redis is a cluster.
    pub redis_cluster: bool,
    /// The bucket.
    pub s3_bucket: Option<String>,
    /// What every key begins with.
    pub s3_prefix: String,
    /// The store's address, where it is not Amazon's.
    pub s3_endpoint: Option<String>,
    /// The region.
    pub s3_region: String,
    /// The key's id.
    pub s3_access_key: Option<String>,
    /// The key.
    pub s3_secret_key: Option<Secret>,
    /// `endpoint/bucket/key` rather than `bucket.endpoint/key`.
    pub s3_path_style: bool,
    /// Certificates (PEM) trusted beside the system's, for all three.
    pub ca_file: Option<PathBuf>,
    /// The coordinator's address, for clients.
    pub coordinator: String,
    /// The token for it.
    pub token: Option<Secret>,
    /// The pool that a worker serves and a run is submitted to.
    pub pool: Pool,
    /// A worker's name; its host's name and process id where it is not given.
    pub worker: Option<WorkerId>,
    /// Where files are prepared; the system's temporary folder where it is not given.
    pub scratch: Option<PathBuf>,
    /// A worker ends after this many seconds without work; 0: never.
    pub max_idle: f64,
    /// Seconds between two signs of life of a worker.
    pub heartbeat: f64,
    /// Where a worker answers Prometheus; nowhere where it is not given.
    pub metrics_listen: Option<String>,
    /// Where the API listens.
    pub listen: String,
    /// The file of the API's tokens.
    pub tokens_file: Option<PathBuf>,
    /// The folder of references that the coordinator and all workers share.
    pub reference_root: Option<PathBuf>,
    /// Shards of a pool that are in the queue or in work at a time.
    pub window: u32,
    /// Seconds after which another coordinator takes over from one that is silent.
    pub lease: f64,
    /// Seconds after which a shard that was published and that nobody holds is published again.
    pub publish_again: f64,
}

fn named(pool: &str) -> Pool {
    match Pool::new(pool) {
        Ok(pool) => pool,
        Err(_) => unreachable!("a constant that is checked by a test"),
    }
}

impl Default for Fleet {
    fn default() -> Self {
        Self {
            amqp_url: None,
            amqp_heartbeat: 20,
            redis_url: None,
            redis_cluster: false,
            s3_bucket: None,
            s3_prefix: String::new(),
            s3_endpoint: None,
            s3_region: "us-east-1".to_owned(),
            s3_access_key: None,
            s3_secret_key: None,
            s3_path_style: false,
            ca_file: None,
            coordinator: "http://127.0.0.1:8700".to_owned(),
            token: None,
            pool: named("default"),
            worker: None,
            scratch: None,
            max_idle: 0.0,
            heartbeat: 5.0,
            metrics_listen: None,
            listen: "127.0.0.1:8700".to_owned(),
            tokens_file: None,
            reference_root: None,
            window: 256,
            lease: 10.0,
            publish_again: 60.0,
        }
    }
}

impl Fleet {
    /// Every key, as it is written in configuration files.
    pub const KEYS: [&'static str; 30] = [
        "amqp_url",
        "amqp_url_file",
        "amqp_heartbeat",
        "redis_url",
        "redis_url_file",
        "redis_cluster",
        "s3_bucket",
        "s3_prefix",
        "s3_endpoint",
        "s3_region",
        "s3_access_key",
        "s3_secret_key",
        "s3_secret_key_file",
        "s3_path_style",
        "ca_file",
        "coordinator",
        "token",
        "token_file",
        "pool",
        "worker",
        "scratch",
        "max_idle",
        "heartbeat",
        "metrics_listen",
        "listen",
        "tokens_file",
        "reference_root",
        "window",
        "lease",
        "publish_again",
    ];

    /// Whether the value of `key` is never shown.
    pub(crate) fn is_secret(key: &str) -> bool {
        ["amqp_url", "redis_url", "s3_secret_key", "token"].contains(&key)
    }

    /// The defaults that are shown.
    pub(crate) fn defaults() -> Value {
        let fleet = Self::default();
        serde_json::json!({
            "amqp_heartbeat": fleet.amqp_heartbeat,
            "redis_cluster": fleet.redis_cluster,
            "s3_prefix": fleet.s3_prefix,
            "s3_region": fleet.s3_region,
            "s3_path_style": fleet.s3_path_style,
            "coordinator": fleet.coordinator,
            "pool": fleet.pool,
            "max_idle": fleet.max_idle,
            "heartbeat": fleet.heartbeat,
            "listen": fleet.listen,
            "window": fleet.window,
            "lease": fleet.lease,
            "publish_again": fleet.publish_again,
        })
    }

    /// The JSON that `text` means for `key`.
    pub(crate) fn read_text(key: &str, text: &str) -> Value {
        match key {
            "redis_cluster" | "s3_path_style" => text.parse().map_or_else(|_| Value::from(text), Value::Bool),
            "amqp_heartbeat" | "max_idle" | "heartbeat" | "window" | "lease" | "publish_again" => number(text),
            _ => Value::from(text),
        }
    }

    /// Sets one key from JSON and checks it.
    pub(crate) fn set(&mut self, key: &str, value: &Value) -> Result<(), SettingError> {
        match key {
            "amqp_url" => self.amqp_url = Some(secret(key, value, "an amqp:// or amqps:// address")?),
            "amqp_url_file" => self.amqp_url = Some(secret_file(key, value)?),
            "amqp_heartbeat" => self.amqp_heartbeat = whole(key, value, 1, 600)? as u16,
            "redis_url" => self.redis_url = Some(secret(key, value, "a redis:// or rediss:// address")?),
            "redis_url_file" => self.redis_url = Some(secret_file(key, value)?),
            "redis_cluster" => self.redis_cluster = read(key, value, "true or false")?,
            "s3_bucket" => self.s3_bucket = Some(read(key, value, "a bucket")?),
            "s3_prefix" => self.s3_prefix = read(key, value, "a prefix")?,
            "s3_endpoint" => self.s3_endpoint = Some(read(key, value, "an http:// or https:// address")?),
            "s3_region" => self.s3_region = read(key, value, "a region")?,
            "s3_access_key" => self.s3_access_key = Some(read(key, value, "a key's id")?),
            "s3_secret_key" => self.s3_secret_key = Some(secret(key, value, "a key")?),
            "s3_secret_key_file" => self.s3_secret_key = Some(secret_file(key, value)?),
            "s3_path_style" => self.s3_path_style = read(key, value, "true or false")?,
            "ca_file" => self.ca_file = Some(read(key, value, "a file")?),
            "coordinator" => self.coordinator = read(key, value, "an http:// or https:// address")?,
            "token" => self.token = Some(secret(key, value, "a token")?),
            "token_file" => self.token = Some(secret_file(key, value)?),
            "pool" => self.pool = read(key, value, "a pool's name: letters, digits, '.', '_' and '-'")?,
            "worker" => self.worker = Some(read(key, value, "a worker's name: letters, digits, '.', '_' and '-'")?),
            "scratch" => self.scratch = Some(read(key, value, "a folder")?),
            "max_idle" => self.max_idle = real(key, value, 0.0, 1e9)?,
            "heartbeat" => self.heartbeat = real(key, value, 0.1, 60.0)?,
            "metrics_listen" => self.metrics_listen = Some(read(key, value, "an address such as 0.0.0.0:9464")?),
            "listen" => self.listen = read(key, value, "an address such as 127.0.0.1:8700")?,
            "tokens_file" => self.tokens_file = Some(read(key, value, "a file")?),
            "reference_root" => self.reference_root = Some(read(key, value, "a folder")?),
            "window" => self.window = whole(key, value, 1, 1_000_000)? as u32,
            "lease" => self.lease = real(key, value, 1.0, 300.0)?,
            "publish_again" => self.publish_again = real(key, value, 1.0, 86_400.0)?,
            _ => return Err(refusal(key, "unknown_key", "is not an option".to_owned())),
        }
        Ok(())
    }
}

/// Reads a secret without showing it where it is refused.
fn secret(key: &str, value: &Value, want: &str) -> Result<Secret, SettingError> {
    let text = value.as_str().map(str::trim).filter(|text| !text.is_empty());
    let refused = || refusal(key, "wrong_type", format!("its value (hidden) is not {want}"));
    text.map(|text| Secret(text.to_owned())).ok_or_else(refused)
}

fn secret_file(key: &str, value: &Value) -> Result<Secret, SettingError> {
    let path: PathBuf = read(key, value, "a file")?;
    let text = std::fs::read_to_string(&path)
        .map_err(|error| refusal(key, "unreadable_file", format!("{} cannot be read: {error}", path.display())))?;
    secret(key, &Value::from(text), "in the file: it is empty")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_well_formed() {
        assert_eq!(Fleet::default().pool.as_str(), "default");
    }

    #[test]
    fn a_secret_is_read_from_its_file_and_shown_nowhere() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "hunter2\n").unwrap();
        let mut fleet = Fleet::default();
        fleet.set("token_file", &Value::from(file.path().to_str().unwrap())).unwrap();
        fleet.set("amqp_url", &Value::from("amqp://me:hunter2@host")).unwrap();
        assert_eq!(fleet.token.as_ref().unwrap().expose(), "hunter2");
        assert!(!format!("{fleet:?}").contains("hunter2"));
        let error = fleet.set("token", &serde_json::json!(["hunter2"])).unwrap_err().to_string();
        assert!(!error.contains("hunter2"), "{error}");
    }
}
