//! `diorama doctor`: what would stop a run, found before one is started, each with what to do about it.

use std::path::Path;

use diorama_runtime::options::{EngineKind, Options};
use serde::Serialize;

use crate::cli::{Cli, Doctor};
use crate::exit::{self, Failure};
use crate::{maker, output};

/// Free space below which a check warns: 10,000 pictures of 512×512 with all that explains them.
const ENOUGH_BYTES: u64 = 10 << 30;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Ok,
    Warning,
    Problem,
}

#[derive(Debug, Serialize)]
struct Check {
    name: &'static str,
    verdict: Verdict,
    found: String,
    /// What to do, where something is to be done.
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<String>,
}

impl Check {
    fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Ok, found: found.into(), advice: None }
    }

    fn bad(name: &'static str, verdict: Verdict, found: impl Into<String>, advice: &str) -> Self {
        Self { name, verdict, found: found.into(), advice: Some(advice.to_owned()) }
    }
}

pub(crate) fn run(command: &Doctor, cli: &Cli) -> Result<u8, Failure> {
    let options = cli.configuration().map_err(Failure::usage)?.options;
    let mut checks = engine(&options);
    if let Some(out) = &command.out {
        checks.push(writable(out));
        checks.push(space(out));
    }
    if command.json {
        output::line(&serde_json::to_string_pretty(&checks).map_err(Failure::permanent)?);
    } else {
        for check in &checks {
            let mark = match check.verdict {
                Verdict::Ok => "ok     ",
                Verdict::Warning => "warning",
                Verdict::Problem => "PROBLEM",
            };
            output::line(&format!("{mark}  {}: {}", check.name, check.found));
            if let Some(advice) = &check.advice {
                output::line(&format!("         → {advice}"));
            }
        }
    }
    let healthy = checks.iter().all(|check| check.verdict != Verdict::Problem);
    Ok(if healthy { exit::DONE } else { exit::PERMANENT })
}

fn engine(options: &Options) -> Vec<Check> {
    if options.engine == EngineKind::Synthetic {
        return vec![Check::ok("engine", "synthetic: no model is needed")];
    }
    let mut checks = library(options);
    if checks.iter().any(|check| check.verdict == Verdict::Problem) {
        return checks;
    }
    checks.push(match &options.model {
        None => Check::bad(
            "model",
            Verdict::Problem,
            "none is named",
            "name its folder with --model, DIORAMA_MODEL or model in diorama.toml; models/demo is a small one",
        ),
        Some(folder) => match maker::make(options) {
            Ok(maker) => {
                let info = maker.as_generator().info().clone();
                let found = format!("{}, {} on {} ({})", folder.display(), info.dtype, info.device, info.model_sha256);
                Check::ok("model", found)
            }
            Err(error) => Check::bad(
                "model",
                Verdict::Problem,
                format!("{}: {error:#}", folder.display()),
                "a folder of Stable Diffusion 1.x or 2.x in the layout of diffusers is wanted, with safetensors",
            ),
        },
    });
    checks
}

#[cfg(feature = "engine")]
fn library(options: &Options) -> Vec<Check> {
    use diorama_diffusion::device::{CudaLibrary, Device, TORCH_LIB_VARIABLE, load_cuda};

    let wants_gpu = options.device.starts_with("cuda");
    let verdict = if wants_gpu { Verdict::Problem } else { Verdict::Ok };
    let advice = format!("install torch 2.11 with CUDA and name its lib folder in {TORCH_LIB_VARIABLE}");
    let cuda = match load_cuda() {
        CudaLibrary::Loaded(path) => Check::ok("CUDA library", path.display().to_string()),
        CudaLibrary::Broken(path, why) => {
            Check::bad("CUDA library", verdict, format!("{} does not load: {why}", path.display()), &advice)
        }
        CudaLibrary::Absent if wants_gpu => Check::bad("CUDA library", verdict, "not found", &advice),
        CudaLibrary::Absent => Check::ok("CUDA library", "not found, and not needed on a CPU"),
    };
    let device = match options.device.parse::<Device>() {
        Ok(device) => Check::ok("device", device.to_string()),
        Err(error) => Check::bad("device", Verdict::Problem, error.to_string(), "choose one that exists, or cpu"),
    };
    vec![Check::ok("libtorch", "linked and loaded"), cuda, device, threads()]
}

/// libgomp reads how its threads wait when it is loaded, before any code of ours runs.
#[cfg(feature = "engine")]
fn threads() -> Check {
    match std::env::var("OMP_WAIT_POLICY") {
        Ok(policy) => Check::ok("threads", format!("OMP_WAIT_POLICY is {policy}")),
        Err(_) => Check::bad(
            "threads",
            Verdict::Warning,
            "OMP_WAIT_POLICY is not set: libtorch's threads wait by spinning",
            "where other programs share the cores, set OMP_WAIT_POLICY=PASSIVE; there it is several times as fast",
        ),
    }
}

#[cfg(not(feature = "engine"))]
fn library(_options: &Options) -> Vec<Check> {
    vec![Check::bad(
        "libtorch",
        Verdict::Problem,
        "this build has no engine",
        "use a build with the feature `engine` to make pictures here; this one is a client and coordinator",
    )]
}

fn writable(out: &Path) -> Check {
    let advice = "choose a folder that you may write to";
    let tried = std::fs::create_dir_all(out).and_then(|()| tempfile::NamedTempFile::new_in(out).map(drop));
    match tried {
        Ok(()) => Check::ok("output folder", format!("{} can be written to", out.display())),
        Err(error) => Check::bad("output folder", Verdict::Problem, format!("{}: {error}", out.display()), advice),
    }
}

fn space(out: &Path) -> Check {
    match rustix::fs::statvfs(out) {
        Ok(disk) => {
            let free = disk.f_bavail.saturating_mul(disk.f_frsize);
            let found = format!("{:.1} GiB free", free as f64 / f64::from(1 << 30));
            if free >= ENOUGH_BYTES {
                return Check::ok("disk", found);
            }
            Check::bad("disk", Verdict::Warning, found, "a picture of 512x512 with its explanation takes about 1 MiB")
        }
        Err(error) => {
            Check::bad("disk", Verdict::Warning, format!("cannot be asked: {error}"), "see whether the folder exists")
        }
    }
}
