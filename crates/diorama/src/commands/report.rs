//! `diorama report`: the gallery of a run's folder, written again.

use crate::cli::Report;
use crate::exit::{self, Failure};
use crate::{gallery, output};

pub(crate) async fn run(command: &Report) -> Result<u8, Failure> {
    let page = gallery::write(&command.dir).await.map_err(Failure::permanent)?;
    output::line(&page.display().to_string());
    Ok(exit::DONE)
}
