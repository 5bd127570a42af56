//! What fetches references, as the configuration says.

use std::path::PathBuf;
use std::sync::Arc;

use diorama_backends::objects::RemoteObjects;
use diorama_backends::objects::s3::S3Objects;
use diorama_core::id::Sha256Hex;
use diorama_runtime::config::Config;
use diorama_worker::{CacheConfig, Remote, RemoteConfig};

use super::connect::{readable, s3_config_of_references, seconds};
use crate::exit::Failure;

/// For a worker of a fleet: `https://`, and `s3://` in the fleet's own store, with the key for references.
pub(crate) fn of_fleet(config: &Config) -> Result<Arc<Remote>, Failure> {
    let s3 = s3_config_of_references(&config.services)?;
    let realm = Sha256Hex::of(format!("{:?} {}", s3.endpoint, s3.credentials.realm()).as_bytes()).to_string();
    let objects = S3Objects::connect(s3).map_err(Failure::permanent)?;
    let remote = remote(config, Some(Arc::new(objects)), realm);
    remote.prepare().map_err(Failure::permanent)?;
    Ok(remote)
}

/// For a run on this machine: `https://`.
pub(crate) fn of_this_machine(config: &Config) -> Arc<Remote> {
    remote(config, None, String::new())
}

fn remote(config: &Config, objects: Option<Arc<dyn RemoteObjects>>, realm: String) -> Arc<Remote> {
    let options = &config.references;
    let folder =
        options.reference_cache.clone().or_else(|| usual_cache(config)).filter(|_| options.reference_cache_bytes > 0);
    let remote = RemoteConfig {
        allow_private: options.allow_private_references,
        timeout: seconds(options.reference_timeout),
        ca_file: config.services.ca_file.clone(),
        cache: folder.map(|folder| CacheConfig {
            folder,
            bytes: options.reference_cache_bytes,
            max_age: seconds(options.reference_cache_seconds),
        }),
        realm,
        readable: readable(&config.services),
        ..RemoteConfig::default()
    };
    Arc::new(Remote::new(remote, objects))
}

/// Below the scratch folder where there is one, else among this user's caches. Never in a folder that everybody writes
/// to: whoever fills a cache chooses the pictures.
fn usual_cache(config: &Config) -> Option<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let scratch = config.worker.scratch.as_ref().map(|folder| folder.join("references"));
    let caches = || variable("XDG_CACHE_HOME").or_else(|| variable("HOME").map(|home| home.join(".cache")));
    scratch.or_else(|| caches().map(|folder| folder.join("diorama/references")))
}
