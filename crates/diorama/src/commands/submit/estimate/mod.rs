//! `diorama submit --estimate N`: makes N of the rows as a run of their own, and says from its shards what the whole will
//! take. The same command again finds the sample that it made.

mod outlook;
mod sample;

use std::io::IsTerminal;

use diorama_backends::progress::Heartbeat;
use diorama_coordinator::RunStatus;
use diorama_core::id::{Round, ShardId};
use diorama_core::run::RunState;
use jiff::Timestamp;
use serde::Deserialize;
use serde::de::IgnoredAny;

use self::outlook::{Outlook, Sampled};
pub(super) use self::sample::{Sample, shard_size};
use crate::cli::Cli;
use crate::commands::runs::{LINE, LOOK, describe, in_one_line, show};
use crate::exit::Failure;
use crate::fleet::client::Client;
use crate::{output, progress};

/// What the sample is a sample of.
pub(super) struct Whole {
    /// Rows of the manifest.
    pub(super) tasks: u64,
    /// What a worker costs an hour, in the user's currency.
    pub(super) price: Option<f64>,
}

/// Waits for the sample to end, and prints what the whole will take.
///
/// # Errors
/// Where the sample was cancelled or made no picture: nothing can be said of the whole then.
pub(super) async fn estimate(cli: &Cli, client: &Client, sample: &RunStatus, whole: &Whole) -> Result<(), Failure> {
    let ended = ended(client, sample).await?;
    let run = &ended.run;
    if ended.state != RunState::Finished || ended.done == 0 {
        let state = if ended.done == 0 { "made no picture" } else { "was cancelled" };
        return Err(Failure::permanent(anyhow::anyhow!(
            "the sample {run} {state}, so the whole run cannot be estimated, and nothing more was submitted; diorama \
             results {run} --to DIR says why, and --again makes another sample"
        )));
    }
    let mut shards = Vec::new();
    for index in 0..sample.shards {
        let shard = ShardId { round: Round(0), index: u32::try_from(index).map_err(Failure::permanent)? };
        shards.push(client.get::<Shard>(&format!("/v1/runs/{run}/shards/{shard}")).await?);
    }
    let workers: Vec<Heartbeat> = client.get("/v1/workers").await?;
    let workers = workers.iter().filter(|worker| worker.pool == ended.pool).count() as u64;
    let sampled: Vec<Sampled> = shards.iter().filter_map(Shard::sampled).collect();
    let outlook = Outlook::of(&sampled, whole.tasks, workers, whole.price).ok_or_else(|| {
        Failure::try_again(anyhow::anyhow!("the sample {run} cannot be read yet; run the same command again"))
    })?;
    if cli.json() {
        let told = serde_json::json!({ "sample": ended, "estimate": outlook });
        output::line(&told.to_string());
    } else {
        output::line(&format!("sample {}", describe(&ended)));
        output::line(&outlook.in_words(ended.pool.as_str()));
    }
    Ok(())
}

/// The sample, once it has ended.
async fn ended(client: &Client, sample: &RunStatus) -> Result<RunStatus, Failure> {
    let bar = std::io::stderr().is_terminal().then(progress::live);
    let mut said = None::<tokio::time::Instant>;
    loop {
        let status = client.run(sample.run.as_str()).await?;
        if status.summary.is_some() {
            if let Some(bar) = bar {
                bar.finish_and_clear();
            }
            return Ok(status);
        }
        let words = format!("sample {}", in_one_line(&status));
        if let Some(bar) = &bar {
            show(bar, &status, &words);
        } else if said.is_none_or(|at| at.elapsed() >= LINE) {
            said = Some(tokio::time::Instant::now());
            tracing::info!("{words}");
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// What the coordinator says of a shard, as far as it is of use here.
#[derive(Deserialize)]
struct Shard {
    started_at: Option<Timestamp>,
    committed_at: Option<Timestamp>,
    tasks: Vec<IgnoredAny>,
}

impl Shard {
    /// What it took its worker; `None` where it is not committed.
    fn sampled(&self) -> Option<Sampled> {
        let seconds = self.committed_at?.duration_since(self.started_at?).as_secs_f64();
        Some(Sampled { tasks: self.tasks.len() as u64, seconds })
    }
}
