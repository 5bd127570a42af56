//! `diorama verify` and `diorama reconcile`: on the services themselves, because a proof asks nobody else.

use diorama_coordinator::{CoordinatorError, Grace, Verification, reconcile, verify};
use diorama_core::id::RunId;
use diorama_core::run::RunSpec;
use diorama_core::text::counted;
use diorama_protocol::history::History;
use diorama_protocol::{Backends, RunStore};

use crate::cli::{Cli, OneRunOnServices, Verify};
use crate::exit::{self, Failure};
use crate::fleet::connect::{connect, seconds};
use crate::output;

pub(crate) async fn run(command: &Verify, cli: &Cli) -> Result<u8, Failure> {
    let config = cli.configuration().map_err(Failure::usage)?;
    let repair = command.repair.then(|| Grace(seconds(config.coordinator.gc_grace)));
    let backends = connect(&config.services, "diorama verify").await?;
    let Opened { store, spec, history } = open(&backends, &command.run.run).await?;
    let found = verify(&backends, &store, &spec, &history, repair).await.map_err(failed)?;
    if cli.json() {
        output::line(&serde_json::to_string(&found).map_err(Failure::permanent)?);
    } else {
        tell(&found);
    }
    Ok(if found.is_clean() { exit::DONE } else { exit::PERMANENT })
}

pub(crate) async fn reconcile_command(command: &OneRunOnServices, cli: &Cli) -> Result<u8, Failure> {
    let services = cli.configuration().map_err(Failure::usage)?.services;
    let backends = connect(&services, "diorama reconcile").await?;
    let Opened { store, spec, history } = open(&backends, &command.run).await?;
    let counts = reconcile(&backends, &store, &spec, &history).await.map_err(failed)?;
    if cli.json() {
        output::line(&serde_json::to_string(&counts).map_err(Failure::permanent)?);
    } else {
        let (shards, done, failed, retrying) = (counts.shards, counts.done, counts.failed, counts.retrying);
        output::line(&format!("{shards} shards: {done} done, {failed} failed, {retrying} retrying"));
    }
    Ok(exit::DONE)
}

/// A run of the store.
struct Opened {
    store: RunStore,
    spec: RunSpec,
    history: History,
}

async fn open(backends: &Backends, run: &str) -> Result<Opened, Failure> {
    let run = RunId::new(run).map_err(Failure::usage)?;
    let store = RunStore::shared(backends.objects.clone(), &run);
    let spec = store.spec().await.map_err(|error| failed(error.into()))?;
    let history = store.history().await.map_err(|error| failed(error.into()))?;
    match spec {
        Some(spec) if !history.is_deleted() => Ok(Opened { store, spec, history }),
        _ => Err(Failure::permanent(anyhow::anyhow!("there is no run {run} in this store"))),
    }
}

pub(super) fn failed(error: CoordinatorError) -> Failure {
    Failure::judged(error, CoordinatorError::is_retryable)
}

fn tell(found: &Verification) {
    let state = if found.ended { "has ended" } else { "has not ended" };
    let megabytes = found.bytes as f64 / 1e6;
    output::line(&format!(
        "the run {state}: {}, {} done, {} failed; {}, {} without a marker; {} ({megabytes:.1} MB) read; {}",
        counted(found.tasks, "task"),
        found.done,
        found.failed,
        counted(found.shards, "shard"),
        found.uncommitted,
        counted(found.files, "file"),
        counted(found.orphans, "orphan"),
    ));
    found.problems.iter().for_each(|problem| output::line(&format!("PROBLEM  {problem}")));
    found.repaired.iter().for_each(|repaired| output::line(&format!("repaired  {repaired}")));
    found.skipped.iter().for_each(|skipped| output::line(&format!("skipped  {skipped}")));
    match (found.problem_count, found.ended) {
        (0, true) => output::line("clean: every task has exactly one outcome, and every digest is right"),
        (0, false) => output::line("clean so far: what is committed is complete, and the counters agree"),
        (count, _) => output::line(&counted(count, "problem")),
    }
}
