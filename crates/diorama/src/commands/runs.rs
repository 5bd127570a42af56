//! Runs of a coordinator: how they stand, live; pausing, resuming, cancelling them.

use std::io::IsTerminal;
use std::time::Duration;

use diorama_backends::progress::{Heartbeat, WorkerState};
use diorama_coordinator::{RunStatus, Waiting};
use diorama_core::price::Cost;
use diorama_core::run::{AcceptanceCounts, RunState};
use diorama_core::text::{counted, shown};
use indicatif::ProgressBar;
use jiff::Timestamp;
use reqwest::Method;
use serde::{Deserialize, Serialize};

use crate::cli::{Cli, OneRun, Status};
use crate::exit::{self, Failure};
use crate::fleet::client::{Client, ClientError};
use crate::{output, progress};

/// Between two looks of `watch`.
pub(crate) const LOOK: Duration = Duration::from_secs(1);

/// Between two lines of `watch` where it does not write to a terminal.
pub(crate) const LINE: Duration = Duration::from_secs(10);

#[derive(Deserialize)]
struct RunPage {
    runs: Vec<RunStatus>,
    next: Option<String>,
    #[serde(default)]
    damaged: Vec<DamagedRun>,
}

/// A run that cannot be read.
#[derive(Serialize, Deserialize)]
struct DamagedRun {
    run: String,
    problem: String,
}

pub(crate) fn client(cli: &Cli) -> Result<Client, Failure> {
    Client::new(&cli.configuration().map_err(Failure::usage)?.client)
}

/// `diorama status [RUN]`: one run, or all of them and the workers.
pub(crate) async fn status(command: &Status, cli: &Cli) -> Result<u8, Failure> {
    let client = client(cli)?;
    if let Some(run) = &command.run {
        let status = client.run(run).await?;
        if cli.json() {
            output::line(&serde_json::to_string(&status).map_err(Failure::permanent)?);
        } else {
            output::line(&describe(&status));
        }
        return Ok(exit::DONE);
    }
    let (mut runs, mut damaged) = (Vec::new(), Vec::new());
    let mut after = String::new();
    loop {
        let filter = if command.all { "" } else { "&active=true" };
        let page: RunPage = client.get(&format!("/v1/runs?limit=100{filter}{after}")).await?;
        runs.extend(page.runs);
        damaged.extend(page.damaged);
        match page.next {
            Some(next) => after = format!("&after={next}"),
            None => break,
        }
    }
    let workers = workers(&client).await;
    if cli.json() {
        let known = workers.as_ref().ok();
        output::line(&serde_json::json!({ "runs": runs, "damaged": damaged, "workers": known }).to_string());
        return Ok(exit::DONE);
    }
    if runs.is_empty() && damaged.is_empty() {
        output::line(if command.all {
            "no run was ever submitted"
        } else {
            "no run is active (--all shows ended ones)"
        });
    }
    runs.iter().for_each(|run| output::line(&describe(run)));
    for DamagedRun { run, problem } in damaged {
        output::line(&format!("{run}  DAMAGED: {problem}"));
    }
    tell_workers(workers);
    Ok(exit::DONE)
}

/// The connected workers. Asked once: runs are shown without them, too.
async fn workers(client: &Client) -> Result<Vec<Heartbeat>, ClientError> {
    let answer = client.send(client.request(Method::GET, "/v1/workers")).await?;
    client.read(answer).await
}

fn tell_workers(workers: Result<Vec<Heartbeat>, ClientError>) {
    match workers {
        Ok(workers) if workers.is_empty() => output::line("no workers are connected"),
        Ok(workers) => workers.iter().for_each(|worker| output::line(&describe_worker(worker))),
        Err(error) => output::line(&format!("the workers are unknown: {error}")),
    }
}

fn describe_worker(worker: &Heartbeat) -> String {
    let Heartbeat { worker, pool, state, model, device, done, .. } = worker;
    let state = match state {
        WorkerState::Idle => "idle",
        WorkerState::Working => "working",
        WorkerState::Draining => "draining",
    };
    format!("worker {worker}  pool {pool}  {state}  {model} on {device}  {done} pictures")
}

/// A run in one line.
pub(crate) fn describe(run: &RunStatus) -> String {
    let name = run.name.as_ref().map(|name| format!(" ({})", shown(name))).unwrap_or_default();
    let mut text = format!("{}{name}  {}  {} of {} done", run.run, run.state, run.done + run.in_work, run.tasks);
    let mut add = |part: String| text.push_str(&format!(", {part}"));
    if run.failed > 0 {
        add(format!("{} failed", run.failed));
    }
    if run.retrying > 0 {
        add(format!("{} retrying in round {}", run.retrying, run.round));
    }
    if let Some(counts) = &run.acceptance {
        add(acceptance(counts));
    }
    if run.summary.is_none() {
        if let Some(rate) = run.pictures_per_second {
            add(format!("{rate:.1} pictures/s"));
        }
        if let Some(eta) = run.eta_seconds {
            add(format!("{} left", progress::duration(Duration::from_secs_f64(eta.min(1e9)))));
        }
        add(match &run.waiting {
            Some(waiting) => waits(run, waiting),
            None => format!("{} in work", counted(run.shards_running, "shard")),
        });
    } else if let Some(summary) = &run.summary {
        let took = progress::duration(Duration::from_secs_f64(summary.wall_seconds));
        add(format!("in {took} ({:.1} pictures/s)", summary.pictures_per_second));
    }
    if let Some(Cost { so_far, to_come }) = run.cost {
        let to_come = to_come.filter(|_| run.summary.is_none()).map(|cost| format!(", about {cost:.2} to come"));
        text.push_str(&format!("\n  cost {so_far:.2}{}", to_come.unwrap_or_default()));
    }
    if !run.labels.is_empty() {
        let labels: Vec<String> =
            run.labels.iter().map(|(name, value)| format!("{}={}", shown(name), shown(value))).collect();
        text.push_str(&format!("\n  labels {}", labels.join(", ")));
    }
    if let Some(owner) = &run.owner {
        let group = owner.group.as_ref().map(|group| format!(" ({})", shown(group))).unwrap_or_default();
        text.push_str(&format!("\n  of {}{group}", shown(&owner.token)));
    }
    if let Some(reason) = &run.reason {
        text.push_str(&format!("\n  paused because {}", shown(reason)));
    }
    if let Some(degraded) = &run.degraded {
        text.push_str(&format!("\n  degraded: {}", shown(degraded)));
    }
    text
}

/// What became of the pictures of a run that accepts only some, in words.
pub(crate) fn acceptance(AcceptanceCounts { accepted, kept, tries }: &AcceptanceCounts) -> String {
    format!("{accepted} accepted, {kept} kept although no try passed, {tries} further tries")
}

/// Shows on a bar how far the run is, with `words` below.
pub(crate) fn show(bar: &ProgressBar, run: &RunStatus, words: &str) {
    bar.set_length(run.tasks);
    bar.set_position(run.done + run.in_work + run.failed);
    bar.set_message(words.to_owned());
}

/// [`describe`] in one line.
pub(crate) fn in_one_line(run: &RunStatus) -> String {
    describe(run).replace("\n  ", "; ")
}

/// What the run waits for, in words.
fn waits(run: &RunStatus, waiting: &Waiting) -> String {
    match waiting {
        Waiting::Coordinator => "waiting for the leading coordinator".to_owned(),
        Waiting::Round { round, begins_at } => {
            let left = begins_at.duration_since(Timestamp::now());
            let left = Duration::try_from(left).unwrap_or_default();
            format!("round {round} begins in {}", progress::duration(left))
        }
        Waiting::Worker => format!("no workers are connected to pool {}", run.pool),
        Waiting::Run { run, priority } => format!("waiting behind {run} (priority {priority})"),
        Waiting::Turn => "waiting for its turn".to_owned(),
    }
}

/// `diorama watch RUN`: until it has ended; then the exit code says how.
pub(crate) async fn watch_command(command: &OneRun, cli: &Cli) -> Result<u8, Failure> {
    let client = client(cli)?;
    watch(cli, &client, &command.run).await
}

/// Follows a run to its end: on a terminal in place, otherwise a line now and then; with `--json` a line a change.
pub(crate) async fn watch(cli: &Cli, client: &Client, run: &str) -> Result<u8, Failure> {
    let bar = (!cli.json() && std::io::stderr().is_terminal()).then(progress::live);
    let mut last: Option<RunStatus> = None;
    let mut said = None::<tokio::time::Instant>;
    loop {
        let status = client.run(run).await?;
        let changed = last.as_ref() != Some(&status);
        match &bar {
            _ if cli.json() && changed => output::line(&serde_json::to_string(&status).map_err(Failure::permanent)?),
            _ if cli.json() => {}
            Some(bar) => {
                let workers = workers(client).await.map_or_else(
                    |_| "workers unknown".to_owned(),
                    |workers| {
                        let working = workers.iter().filter(|worker| worker.state == WorkerState::Working).count();
                        format!("{working} of {} workers", workers.len())
                    },
                );
                show(bar, &status, &format!("{}, {workers}", in_one_line(&status)));
            }
            // The last word comes below.
            None if status.summary.is_none() && said.is_none_or(|at| at.elapsed() >= LINE) && changed => {
                said = Some(tokio::time::Instant::now());
                output::line(&describe(&status));
            }
            None => {}
        }
        if let Some(summary) = &status.summary {
            if let Some(bar) = &bar {
                bar.finish_and_clear();
            }
            if !cli.json() {
                output::line(&describe(&status));
                for (code, count) in &summary.failures {
                    output::line(&format!("{count} failed: {code} (errors.jsonl)"));
                }
            }
            let clean = summary.failed == 0 && summary.invalid_rows == 0 && summary.state == RunState::Finished;
            return Ok(if clean { exit::DONE } else { exit::FAILED_TASKS });
        }
        last = Some(status);
        tokio::time::sleep(LOOK).await;
    }
}

/// `diorama pause | resume | cancel RUN`.
pub(crate) async fn change(action: &str, command: &OneRun, cli: &Cli) -> Result<u8, Failure> {
    let client = client(cli)?;
    let path = format!("/v1/runs/{}/{action}", command.run);
    let response = client.send_again(|| client.request(Method::POST, &path)).await?;
    let status: RunStatus = client.read(response).await?;
    if cli.json() {
        output::line(&serde_json::to_string(&status).map_err(Failure::permanent)?);
    } else {
        output::line(&describe(&status));
    }
    Ok(exit::DONE)
}

/// `diorama delete RUN`.
pub(crate) async fn delete(command: &OneRun, cli: &Cli) -> Result<u8, Failure> {
    let client = client(cli)?;
    let path = format!("/v1/runs/{}", command.run);
    client.send_change(|| client.request(Method::DELETE, &path), |problem| problem.status == 404).await?;
    if cli.json() {
        output::line(&serde_json::json!({ "run": command.run, "state": "deleted" }).to_string());
    } else {
        output::line(&format!("{} is deleted; its objects are being removed", command.run));
    }
    Ok(exit::DONE)
}
