//! `diorama open`: the page of a run, or of the fleet, in the user's browser.

use std::process::{Command, Stdio};

use super::runs::client;
use crate::cli::{Cli, Open};
use crate::exit::{self, Failure};
use crate::output;

/// What opens an address in the browser that the user prefers.
const OPENER: &str = if cfg!(target_os = "macos") { "open" } else { "xdg-open" };

pub(crate) async fn run(command: &Open, cli: &Cli) -> Result<u8, Failure> {
    let client = client(cli)?;
    let page = match &command.run {
        Some(run) => format!("#/runs/{}", client.run(run).await?.run),
        None => String::new(),
    };
    let address = format!("{}/{page}", client.address());
    output::line(&address);
    if command.print {
        return Ok(exit::DONE);
    }
    let mut opener = Command::new(OPENER);
    opener.arg(&address).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    match opener.spawn() {
        Ok(_) => Ok(exit::DONE),
        Err(error) => Err(Failure::permanent(anyhow::anyhow!(
            "no browser can be opened here ({OPENER}: {error}); open the address yourself, or use --print"
        ))),
    }
}
