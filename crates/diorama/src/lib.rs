//! The command line of Diorama: reads configuration, calls the library crates, prints, chooses the exit code.
//!
//! Nothing here decides about shards; about pictures, only which generator makes them.

mod cli;
mod commands;
pub mod embedded;
mod exit;
mod fleet;
mod gallery;
mod identity;
mod issues;
mod listen;
mod maker;
#[cfg(feature = "engine")]
mod measurer;
mod output;
mod overwrite;
mod progress;
mod table;

use std::process::ExitCode;

use clap::Parser;
use diorama_runtime::logging;
use diorama_runtime::shutdown::Shutdown;

use crate::cli::{Cli, Command, Model};
use crate::exit::Failure;

/// Runs the command line and gives the exit code of `docs/cli.md`.
pub fn main() -> ExitCode {
    #[cfg(feature = "engine")]
    diorama_engine::prepare_process();
    // One TLS for everything; it is there already where somebody calls this twice.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let cli = Cli::parse();
    let json = cli.json();
    match start(cli) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            failure.report(json);
            ExitCode::from(failure.code)
        }
    }
}

fn start(cli: Cli) -> Result<u8, Failure> {
    let filter = std::env::var("DIORAMA_LOG").ok();
    logging::init(cli.log_format, filter.as_deref(), progress::LogWriter)
        .map_err(|message| Failure::usage(anyhow::anyhow!(message)))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(Failure::try_again)?;
    let code = runtime.block_on(async {
        let shutdown = Shutdown::listen().map_err(Failure::try_again)?;
        let drain = shutdown.drain();
        match cli.command {
            Command::Generate(ref command) => commands::generate::run(command, &cli, drain).await,
            Command::Run(ref command) => commands::run::run(command, &cli, drain).await,
            Command::Report(ref command) => commands::report::run(command).await,
            #[cfg(feature = "engine")]
            Command::Eval(ref command) => commands::eval::run(command, &cli, drain).await,
            #[cfg(not(feature = "engine"))]
            Command::Eval(_) => Err(Failure::usage(anyhow::anyhow!(
                "this build has no engine; use a build with the feature `engine` to measure pictures"
            ))),
            #[cfg(feature = "engine")]
            Command::Calibrate(ref command) => commands::calibrate::run(command, &cli, drain).await,
            #[cfg(not(feature = "engine"))]
            Command::Calibrate(_) => Err(Failure::usage(anyhow::anyhow!(
                "this build has no engine; use a build with the feature `engine` to calibrate a model"
            ))),
            Command::Doctor(ref command) => commands::doctor::run(command, &cli).await,
            Command::Config(ref command) => commands::config::run(command, &cli),
            Command::Serve(_) => commands::serve::run(&cli, drain).await,
            Command::Worker(_) => commands::worker::run(&cli, drain).await,
            Command::Submit(ref command) => commands::submit::run(command, &cli, drain).await,
            Command::Status(ref command) => commands::runs::status(command, &cli).await,
            Command::Open(ref command) => commands::open::run(command, &cli).await,
            Command::Watch(ref command) => commands::runs::watch_command(command, &cli).await,
            Command::Pause(ref command) => commands::runs::change("pause", command, &cli).await,
            Command::Resume(ref command) => commands::runs::change("resume", command, &cli).await,
            Command::Cancel(ref command) => commands::runs::change("cancel", command, &cli).await,
            Command::Retry(ref command) => commands::retry::run(command, &cli).await,
            Command::Delete(ref command) => commands::runs::delete(command, &cli).await,
            Command::Replay(ref command) => commands::replay::run(command, &cli, drain).await,
            Command::Results(ref command) => commands::results::run(command, &cli, drain).await,
            Command::Verify(ref command) => commands::verify::run(command, &cli).await,
            Command::Reconcile(ref command) => commands::verify::reconcile_command(command, &cli).await,
            Command::Gc(ref command) => commands::gc::run(command, &cli).await,
            Command::Token(ref command) => commands::token::run(command, &cli),
            Command::Model(Model::Fetch(ref command)) => tokio::select! {
                fetched = commands::model::fetch(command, &cli) => fetched,
                () = drain.cancelled() => Ok(exit::DRAINED),
            },
        }
    });
    // A picture that is still being made after Ctrl-C is nobody's any more.
    runtime.shutdown_background();
    code
}
