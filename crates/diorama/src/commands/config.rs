//! `diorama config`: every key with its value and where that came from.

use diorama_core::settings::Settings;

use crate::cli::{Cli, ShowConfig};
use crate::exit::{self, Failure};
use crate::output;

pub(crate) fn run(command: &ShowConfig, cli: &Cli) -> Result<u8, Failure> {
    let config = cli.configuration().map_err(Failure::usage)?;
    if command.json {
        output::line(&serde_json::to_string_pretty(&config.entries).map_err(Failure::permanent)?);
        return Ok(exit::DONE);
    }
    for entry in &config.entries {
        let (value, source) = match &entry.value {
            Some(value) => (value.to_string(), entry.source.to_string()),
            None => ("-".to_owned(), unset(entry.key).to_owned()),
        };
        output::line(&format!("{:<20} {:<28} {}", entry.key, value, source));
    }
    Ok(exit::DONE)
}

/// Who decides where nothing is set.
fn unset(key: &str) -> &'static str {
    if Settings::KEYS.contains(&key) { "unset: the preset, the model or the method decides" } else { "unset" }
}
