//! How a manifest is read, where its file does not say; and paths, as a command line has them.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use clap::builder::{PathBufValueParser, TypedValueParser};
use diorama_manifest::columns;
use diorama_runtime::home;

use crate::exit::Failure;

/// How a manifest is read.
#[derive(Debug, Clone, Args)]
pub(crate) struct Reading {
    /// Manifest columns for keys with another name, such as prompt=caption,reference=image_path
    #[arg(long, value_name = "KEY=COLUMN", value_delimiter = ',', value_parser = pair)]
    columns: Vec<(String, String)>,
    /// Accepts references that are links out of the manifest's folder, as in data-set caches
    #[arg(long)]
    pub(crate) follow_links: bool,
}

impl Reading {
    /// Our keys that have another name in the manifest, with that name.
    pub(crate) fn columns(&self) -> Result<BTreeMap<String, String>, Failure> {
        let pairs = self.columns.iter().map(|(key, column)| (key.as_str(), column.as_str()));
        columns(pairs).map_err(|message| Failure::usage(anyhow::anyhow!("--{message}")))
    }
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (key, column) = text.split_once('=').ok_or("write it as KEY=COLUMN, such as prompt=caption")?;
    Ok((key.to_owned(), column.to_owned()))
}

/// Reads a path, in which `~` is the home folder: no shell expands it behind `--out=`.
pub(super) fn path() -> impl TypedValueParser<Value = PathBuf> {
    PathBufValueParser::new().try_map(|path| {
        let home = std::env::var_os("HOME").filter(|home| !home.is_empty()).map(PathBuf::from);
        home::expand(&path, home.as_deref())
    })
}
