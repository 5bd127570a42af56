//! `diorama eval`: measures the pictures of folders, compares them, writes tables, plots and a page.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use diorama_core::measure::Expression;
use diorama_engine::device::Device;
use diorama_evaluation::evaluator::Evaluator;
use diorama_evaluation::networks::Networks;
use diorama_evaluation::report::{self, Preset, Report};
use diorama_evaluation::run::{Evaluation, Request, evaluate};
use diorama_evaluation::source::{About, Opening, labels};
use diorama_evaluation::{Error, selection};
use tokio_util::sync::CancellationToken;

use super::blocking;
use crate::cli::{Cli, Eval};
use crate::exit::{self, Failure};
use crate::{output, overwrite, progress};

pub(crate) async fn run(command: &Eval, cli: &Cli, drain: CancellationToken) -> Result<u8, Failure> {
    let wanted = command.keep.as_deref().map(str::parse::<Expression>).transpose();
    let wanted = wanted.map_err(|error| Failure::usage(anyhow::anyhow!("--keep:\n{error}")))?;
    let mut job = Job::new(command)?;
    job.check_places(command)?;
    if job.networks.is_empty() {
        job.networks = cli.configuration().map_err(Failure::usage)?.worker.networks;
    }
    let (json, keep) = (cli.json(), Keep { wanted, ids: command.ids.clone(), manifest: command.manifest.clone() });
    let done = blocking(move || job.work(&keep, &|| drain.is_cancelled())).await?;
    match done {
        Err(Error::Stopped) => Ok(exit::DRAINED),
        Err(error) => Err(Failure::judged(error, Error::is_retryable)),
        Ok(done) => Ok(tell(&done, json)),
    }
}

/// Everything that the work needs, checked.
struct Job {
    request: Request,
    networks: Vec<PathBuf>,
    device: Device,
    preset: Preset,
}

/// Which pictures to keep, and where to say so.
struct Keep {
    wanted: Option<Expression>,
    ids: Option<PathBuf>,
    manifest: Option<PathBuf>,
}

struct Done {
    evaluation: Evaluation,
    report: Report,
    kept: Option<(u64, u64)>,
}

impl Job {
    fn new(command: &Eval) -> Result<Self, Failure> {
        let device = command.device.parse::<Device>().map_err(Failure::usage)?;
        let about = command.about.as_deref().map(About::read).transpose().map_err(Failure::permanent)?;
        let opening = Opening { references: command.references.clone(), about: Arc::new(about.unwrap_or_default()) };
        let names = if command.labels.is_empty() { labels(&command.dirs) } else { command.labels.clone() };
        if names.len() != command.dirs.len() {
            let message = format!("--label was given {} times for {} folders", names.len(), command.dirs.len());
            return Err(Failure::usage(anyhow::anyhow!(message)));
        }
        let first = command.dirs.first().cloned().unwrap_or_default();
        let request = Request {
            sources: command.dirs.iter().cloned().zip(names).collect(),
            opening,
            region: command.region.clone(),
            clean: command.clean_fid,
            out: command.out.clone().unwrap_or_else(|| first.join("evaluation")),
        };
        if let Some(region) = request.region.as_deref().filter(|region| !region.exists()) {
            let message = format!("--region {}: there is no such file or folder", region.display());
            return Err(Failure::permanent(anyhow::anyhow!(message)));
        }
        let preset = if command.preset.as_deref() == Some("paper") { Preset::Paper } else { Preset::All };
        Ok(Self { request, networks: command.networks.clone(), device, preset })
    }

    /// Refuses to write over what is read, and over what somebody else put there.
    fn check_places(&self, command: &Eval) -> Result<(), Failure> {
        let out = &self.request.out;
        overwrite::check_evaluation_folder(out)?;
        if command.ids.is_some() && command.ids == command.manifest {
            return Err(Failure::usage(anyhow::anyhow!("--ids and --manifest name one file; name two")));
        }
        let mut selections = command.ids.iter().chain(&command.manifest);
        selections.try_for_each(|place| selection::check(out, place)).map_err(Failure::permanent)
    }

    fn work(&self, keep: &Keep, stop: &dyn Fn() -> bool) -> Result<Done, Error> {
        let mut evaluator = Evaluator::new(Networks::load(&self.networks, self.device)?);
        let bar = progress::count(0, "tasks");
        let evaluation = evaluate(&self.request, &mut evaluator, stop, &mut |done, all| {
            bar.set_length(all);
            bar.set_position(done);
        });
        bar.finish_and_clear();
        let (evaluation, out) = (evaluation?, &self.request.out);
        let report = report::write(out, &evaluation, self.preset)?;
        let kept = keep
            .wanted
            .as_ref()
            .map(|wanted| selection::write(out, wanted, keep.ids.as_deref(), keep.manifest.as_deref()));
        Ok(Done { evaluation, report, kept: kept.transpose()? })
    }
}

fn tell(done: &Done, json: bool) -> u8 {
    if json {
        let kept = done.kept.map(|(kept, all)| serde_json::json!({ "kept": kept, "of": all }));
        let json = serde_json::json!({
            "page": done.report.page, "evaluation": done.evaluation, "summaries": done.report.summaries, "selection": kept,
        });
        output::line(&json.to_string());
    } else {
        output::line(&done.report.table);
        if let Some((kept, all)) = done.kept {
            output::line(&format!("{kept} of {all} pictures kept"));
        }
        output::line(&absolute(&done.report.page).display().to_string());
    }
    if done.evaluation.problems > 0 { exit::FAILED_TASKS } else { exit::DONE }
}

fn absolute(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}
