//! One side of `make bench`: makes pictures as it is told, and says when each step began. The driver, `scripts/bench`,
//! has the same conversation with diffusers, turn by turn, so that both are measured under the same conditions.
//!
//! A line of JSON in, a line of JSON out, times in seconds:
//! - `{"op": "load", "model", "device", "dtype", "batch", "libtorch_kernels"}` → `{"seconds", "kernels"}`: whose kernels
//!   run, and why; drops the model before.
//! - `{"op": "make", "method", "scheduler", "steps", "strength", "guidance", "size", "prompts", "seeds", "reference",
//!   "subject", "edits", "decode", "latents"}` → `{"begins", "end", "latents"}`: `begins` has one entry a step, counted
//!   from the request's arrival; without `decode` nothing runs after the last step begins; `latents` gives the final
//!   ones of the first picture.

#![allow(clippy::print_stdout)]

use std::io::BufRead;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use diorama_diffusion::Error;
use diorama_diffusion::image_processor::Rgb;
use diorama_diffusion::kernels::KernelChoice;
use diorama_diffusion::method::{Edits, Method, Score, Settings, Smoothing, Start, SubjectTokens};
use diorama_diffusion::pipeline::{LoadOptions, Request, StableDiffusion};
use diorama_diffusion::scheduler::{ConfigReading, SchedulerKind};
use serde::{Deserialize, Serialize};

type Failure = Box<dyn std::error::Error>;

#[derive(Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
enum Order {
    Load {
        model: PathBuf,
        device: String,
        dtype: String,
        batch: usize,
        #[serde(default)]
        libtorch_kernels: bool,
    },
    Make(Make),
}

#[derive(Deserialize)]
struct Make {
    method: String,
    scheduler: String,
    steps: usize,
    strength: f64,
    guidance: f64,
    size: u32,
    prompts: Vec<String>,
    seeds: Vec<u64>,
    reference: Option<PathBuf>,
    subject: Option<String>,
    #[serde(default)]
    edits: Vec<usize>,
    decode: bool,
    latents: bool,
}

#[derive(Serialize)]
struct Loaded {
    seconds: f64,
    kernels: String,
}

#[derive(Serialize)]
struct Made {
    begins: Vec<f64>,
    end: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    latents: Option<Vec<f32>>,
}

fn main() -> Result<(), Failure> {
    // As the program does.
    diorama_diffusion::memory::keep_freed_memory();
    diorama_diffusion::reproducible_arithmetic();
    let mut model: Option<StableDiffusion> = None;
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let answer = match serde_json::from_str(&line)? {
            Order::Load { model: path, device, dtype, batch, libtorch_kernels } => {
                drop(model.take());
                let started = Instant::now();
                let options = LoadOptions {
                    variant: None,
                    device: device.parse()?,
                    dtype: dtype.parse()?,
                    batch_size: batch,
                    apart: None,
                    kernels: if libtorch_kernels { KernelChoice::Libtorch } else { KernelChoice::Auto },
                };
                let loaded = model.insert(StableDiffusion::load(&path, &options)?);
                let kernels = loaded.kernels().to_owned();
                serde_json::to_string(&Loaded { seconds: started.elapsed().as_secs_f64(), kernels })?
            }
            Order::Make(order) => {
                let model = model.as_ref().ok_or("nothing is loaded")?;
                serde_json::to_string(&make(model, &order)?)?
            }
        };
        println!("{answer}");
    }
    Ok(())
}

fn make(model: &StableDiffusion, order: &Make) -> Result<Made, Failure> {
    let started = Instant::now();
    let settings = settings(model, order)?;
    let timesteps = if order.method == "txt2img" { order.steps } else { truncated(order) };
    let reference = order.reference.as_deref().map(read).transpose()?;
    let requests: Vec<Request> = order
        .prompts
        .iter()
        .zip(&order.seeds)
        .map(|(prompt, &seed)| Request {
            prompt: prompt.clone(),
            subjects: order.subject.clone().map(|subject| vec![subject]),
            seed,
            reference: reference.clone(),
            settings: settings.clone(),
        })
        .collect();
    let begins = Mutex::new(Vec::new());
    let stop = || {
        let mut begins = begins.lock().unwrap_or_else(PoisonError::into_inner);
        begins.push(started.elapsed().as_secs_f64());
        !order.decode && begins.len() == timesteps
    };
    let latents = match model.generate(&requests, &stop) {
        Err(Error::Stopped) => None,
        samples => {
            let mut samples = samples?.into_iter().collect::<Result<Vec<_>, _>>()?;
            samples.drain(..).next().map(|sample| sample.latents)
        }
    };
    let end = started.elapsed().as_secs_f64();
    let latents = match latents.filter(|_| order.latents) {
        Some(latents) => Some(Vec::<f32>::try_from(latents.f_flatten(0, -1)?)?),
        None => None,
    };
    Ok(Made { begins: begins.into_inner().unwrap_or_else(PoisonError::into_inner), end, latents })
}

/// The steps that strength leaves, as diffusers counts them.
fn truncated(order: &Make) -> usize {
    ((order.steps as f64 * order.strength) as usize).min(order.steps)
}

fn settings(model: &StableDiffusion, order: &Make) -> Result<Settings, Failure> {
    Ok(Settings {
        method: match order.method.as_str() {
            "txt2img" => Method::Txt2img,
            "img2img" => Method::Img2img,
            "abs-grad-sam" => Method::AbsGradSam,
            other => return Err(format!("no method {other:?}").into()),
        },
        scheduler: match order.scheduler.as_str() {
            "ddpm" => SchedulerKind::Ddpm,
            "ddim" => SchedulerKind::Ddim,
            "euler" => SchedulerKind::Euler,
            "dpmpp-2m" => SchedulerKind::DpmppTwoM,
            other => return Err(format!("no scheduler {other:?}").into()),
        },
        scheduler_config: ConfigReading::Pipeline,
        published_timesteps: false,
        steps: order.steps,
        strength: order.strength,
        guidance: order.guidance,
        negative_prompt: String::new(),
        edits: Edits::Steps(order.edits.clone()),
        threshold: 0.5,
        dilation: 1,
        smoothing: Smoothing::Gaussian(6.0),
        subject_tokens: SubjectTokens::Pieces,
        layers: model.cross_attention_layers().last().cloned().into_iter().collect(),
        score: Score::AbsGrad,
        probes: 64,
        start: Start::Reference,
        width: order.size,
        height: order.size,
        paste_back: None,
    })
}

fn read(path: &Path) -> Result<Rgb, Failure> {
    let picture = image::open(path)?.to_rgb8();
    Ok(Rgb { width: picture.width(), height: picture.height(), data: picture.into_raw() })
}
