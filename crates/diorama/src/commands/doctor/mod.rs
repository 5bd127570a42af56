//! `diorama doctor`: what would stop a run, found before one is started, each with what to do about it.

use std::path::Path;

use diorama_backends::diagnosis::{Finding, Verdict};
use diorama_runtime::options::{EngineKind, EngineOptions};

use crate::cli::{Cli, Doctor};
use crate::exit::Failure;
use crate::{maker, output};

mod services;

/// Free space below which a check warns: 10,000 pictures of 512×512 with all that explains them.
const ENOUGH_BYTES: u64 = 10 << 30;

pub(crate) async fn run(command: &Doctor, cli: &Cli) -> Result<u8, Failure> {
    let config = cli.configuration().map_err(Failure::usage)?;
    // Where services are named, a coordinator or a client may be meant, and to measure pictures takes no model either.
    let makes_pictures = config.engine.model.is_some() || config.engine.engine == EngineKind::Synthetic;
    let mut checks = Vec::new();
    if makes_pictures || !(services::are_named(&config) || command.eval) {
        let options = config.engine.clone();
        // Loading a model takes long, and its own threads.
        checks.extend(tokio::task::spawn_blocking(move || engine(&options)).await.map_err(Failure::permanent)?);
    }
    checks.extend(services::check(&config).await);
    if command.eval {
        let named = if command.networks.is_empty() { &config.worker.networks } else { &command.networks };
        checks.extend(networks(named));
    }
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
    Ok(services::exit_code(&checks))
}

fn engine(options: &EngineOptions) -> Vec<Finding> {
    if options.engine == EngineKind::Synthetic {
        return vec![Finding::ok("engine", "synthetic: no model is needed")];
    }
    let mut checks = library(options);
    if checks.iter().any(|check| check.verdict == Verdict::Problem) {
        return checks;
    }
    match &options.model {
        None => checks.push(Finding::problem(
            "model",
            "none is named",
            "name its folder with --model, DIORAMA_MODEL or model in diorama.toml; models/demo is a small one",
        )),
        Some(folder) => match maker::make(options) {
            Ok(maker) => {
                let info = maker.as_generator().info().clone();
                let (dtype, device, batch) = (&info.dtype, &info.device, info.batch_size);
                let found =
                    format!("{}, {dtype} on {device}, {batch} in a batch ({})", folder.display(), info.model_sha256);
                checks.push(Finding::ok("model", found));
                checks.extend(maker.kernels().map(|kernels| Finding::ok("kernels", kernels)));
            }
            Err(error) => checks.push(Finding::problem(
                "model",
                format!("{}: {error:#}", folder.display()),
                "use a Stable Diffusion 1.x or 2.x folder in diffusers layout, with safetensors",
            )),
        },
    }
    checks
}

#[cfg(feature = "engine")]
fn library(options: &EngineOptions) -> Vec<Finding> {
    use diorama_engine::device::{CudaLibrary, Device, TORCH_LIB_VARIABLE, load_cuda};

    let wants_gpu = options.device.as_str().starts_with("cuda");
    let bad = |name, found, advice: &str| match wants_gpu {
        true => Finding::problem(name, found, advice),
        false => Finding { advice: Some(advice.to_owned()), ..Finding::ok(name, found) },
    };
    let advice = format!("install torch 2.11 with CUDA and name its lib folder in {TORCH_LIB_VARIABLE}");
    let cuda = match load_cuda() {
        CudaLibrary::Loaded(path) => Finding::ok("CUDA library", path.display().to_string()),
        CudaLibrary::Broken(path, why) => {
            bad("CUDA library", format!("{} does not load: {why}", path.display()), &advice)
        }
        CudaLibrary::Absent if wants_gpu => bad("CUDA library", "not found".to_owned(), &advice),
        CudaLibrary::Absent => Finding::ok("CUDA library", "not found, and not needed on a CPU"),
    };
    let device = match options.device.as_str().parse::<Device>() {
        Ok(device) => Finding::ok("device", device.to_string()),
        Err(error) => Finding::problem("device", error.to_string(), "choose one that exists, or cpu"),
    };
    vec![Finding::ok("libtorch", "linked and loaded"), cuda, device, threads()]
}

/// libgomp reads how its threads wait when it is loaded, before any code of ours runs.
#[cfg(feature = "engine")]
fn threads() -> Finding {
    match std::env::var("OMP_WAIT_POLICY") {
        Ok(policy) => Finding::ok("threads", format!("OMP_WAIT_POLICY is {policy}")),
        Err(_) => Finding::warning(
            "threads",
            "OMP_WAIT_POLICY is not set: libtorch's threads wait by spinning",
            "if other programs share the cores, set OMP_WAIT_POLICY=PASSIVE, which is then several times as fast",
        ),
    }
}

#[cfg(not(feature = "engine"))]
fn library(_options: &EngineOptions) -> Vec<Finding> {
    vec![Finding::problem(
        "libtorch",
        "this build has no engine",
        "use a build with the feature `engine` to make pictures here; this one is a client and coordinator",
    )]
}

/// What `diorama eval` can compute: a network that is missing is no problem, one that does not load is.
#[cfg(feature = "engine")]
fn networks(roots: &[std::path::PathBuf]) -> Vec<Finding> {
    use diorama_evaluation::networks::{Kind, Networks};

    let always = Finding::ok("eval", "without networks: psnr, ssim, mse, PIE-Bench's, coverage, brightness, phash");
    let one = |kind: Kind| {
        let Some(folder) = kind.find(roots) else {
            let missing = Finding::ok("eval", format!("{} is absent: no {}", kind.folder(), kind.gives()));
            return Finding {
                advice: Some(format!(
                    "put into FOLDER/{} and give --networks FOLDER: {}",
                    kind.folder(),
                    kind.origin()
                )),
                ..missing
            };
        };
        match Networks::load_one(kind, &folder) {
            Ok(()) => Finding::ok("eval", format!("{}: {} ({})", kind.folder(), kind.gives(), folder.display())),
            Err(error) => Finding::problem("eval", error.to_string(), format!("needed: {}", kind.origin())),
        }
    };
    let gone = roots.iter().filter(|root| !root.is_dir()).map(|root| {
        Finding::problem(
            "eval",
            format!("{} is not a folder", root.display()),
            "give an existing folder with --networks",
        )
    });
    std::iter::once(always).chain(gone).chain(Kind::ALL.into_iter().map(one)).collect()
}

#[cfg(not(feature = "engine"))]
fn networks(_roots: &[std::path::PathBuf]) -> Vec<Finding> {
    vec![Finding::problem(
        "eval",
        "this build has no engine",
        "use a build with the feature `engine` to measure pictures",
    )]
}

fn writable(out: &Path) -> Finding {
    let advice = "choose a folder that you can write to";
    let tried = std::fs::create_dir_all(out).and_then(|()| tempfile::NamedTempFile::new_in(out).map(drop));
    match tried {
        Ok(()) => Finding::ok("output folder", format!("{} can be written to", out.display())),
        Err(error) => Finding::problem("output folder", format!("{}: {error}", out.display()), advice),
    }
}

fn space(out: &Path) -> Finding {
    match rustix::fs::statvfs(out) {
        Ok(disk) => {
            let free = disk.f_bavail.saturating_mul(disk.f_frsize);
            let found = format!("{:.1} GiB free", free as f64 / f64::from(1 << 30));
            if free >= ENOUGH_BYTES {
                return Finding::ok("disk", found);
            }
            Finding::warning("disk", found, "a picture of 512x512 with its explanation takes about 1 MiB")
        }
        Err(error) => {
            Finding::warning("disk", format!("cannot be determined: {error}"), "check that the folder exists")
        }
    }
}
