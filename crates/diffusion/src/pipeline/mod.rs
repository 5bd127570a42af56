//! Pictures from references and prompts: loads a model folder, and makes batches of pictures with it.

mod batch_size;
mod denoise;
mod edit;
mod finish;
mod host;
mod predict;
mod prompt;
mod request;
mod sampling;
mod variance;
mod warnings;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Mutex;

use tch::Tensor;

pub use self::request::{Edit, Prompt, Request, Sample, Subject};
use crate::apart::Threads;
use crate::device::{Device, Dtype};
use crate::error::{Error, Result};
use crate::kernels::KernelChoice;
use crate::method::{Arithmetic, Method, Scorer, Settings};
use crate::model::folder::{self, MeasuredSettings};
use crate::model::unet::Unet;
use crate::model::vae::AutoencoderKl;
use crate::model::weights::detect_variant;
use crate::reproducible::reproducible_arithmetic;
use crate::scheduler::{Scheduler, SchedulerConfig};
use crate::text::{ClipTextModel, ClipTokenizer};

/// Texts whose hidden states are kept: a run has few negative prompts and often repeats its prompts.
const TEXTS_KEPT: usize = 256;

/// Groups of pictures are made apart where the network's weights times the latents' positions are at most this many: a
/// row's step is then a few billion operations in hundreds of kernels, too small to be shared among threads.
const APART_AT_MOST: usize = 1 << 33;

/// How to load a model.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// The weight files' variant, such as `fp16`; without it, the plain files, else the only variant that there is.
    pub variant: Option<String>,
    /// Where it runs.
    pub device: Device,
    /// In which precision.
    pub dtype: Dtype,
    /// Pictures in a batch, at least 1. Smaller batches are padded, so that every picture is made at the same size.
    pub batch_size: usize,
    /// Whether groups of pictures are made apart, each on one thread, which is for CPUs. Unset: where the network is
    /// small.
    pub apart: Option<bool>,
    /// Whose kernels the networks run on.
    pub kernels: KernelChoice,
}

/// A Stable Diffusion 1.x / 2.x model that is ready to make pictures.
pub struct StableDiffusion {
    tokenizer: ClipTokenizer,
    text_encoder: ClipTextModel,
    unet: Unet,
    vae: AutoencoderKl,
    scheduler_config: SchedulerConfig,
    measured: MeasuredSettings,
    scorer: Scorer,
    arithmetic: Arithmetic,
    options: LoadOptions,
    digest: [u8; 32],
    texts: Mutex<HashMap<String, Tensor>>,
    /// Where groups of pictures may be made apart.
    threads: Option<Threads>,
    /// Whose kernels run, for people, and whether they are our own.
    kernels: (String, bool),
}

// SAFETY: a tensor is not `Sync` because it can be written through a shared reference. Those of a loaded model never
// are: networks and scorer read theirs, what they compute goes into new ones, and what is kept of texts and timesteps,
// behind locks, is handed out under handles that count atomically and is only read.
#[allow(unsafe_code)]
unsafe impl Sync for StableDiffusion {}

impl StableDiffusion {
    /// Reads a model folder in diffusers layout.
    ///
    /// # Errors
    /// [`Error::Model`] names the file and what is wrong with it.
    pub fn load(path: &Path, options: &LoadOptions) -> Result<Self> {
        reproducible_arithmetic();
        if !options.device.multiplies(options.dtype) {
            tracing::warn!(
                "this processor has no instructions that multiply {}: f32 is faster on it, and more exact",
                options.dtype.as_str()
            );
        }
        let index = folder::read_index(path)?;
        for left_out in &index.left_out {
            tracing::warn!(model = %path.display(), "{left_out} is left out: pictures are made without it");
        }
        let (kind, device) = (options.dtype.kind(), options.device.torch());
        let part = |name: &str, stem: &str| {
            let folder = path.join(name);
            let variant = options.variant.clone().or_else(|| detect_variant(&folder, stem));
            (folder, variant)
        };
        tch::no_grad(|| {
            let chosen = options.kernels.settle(device, kind)?;
            let kernels = &chosen.kernels;
            let scheduler_config = SchedulerConfig::load(&path.join("scheduler/scheduler_config.json"))?;
            let scheduler_config = scheduler_config.named_by_index(index.scheduler);
            scheduler_config.check_noise()?;
            let measured = MeasuredSettings::read(path)?;
            let (folder, variant) = part("text_encoder", "model");
            let text_encoder = ClipTextModel::load(&folder, variant.as_deref(), kind, device)?;
            let tokenizer = ClipTokenizer::load(&path.join("tokenizer"), text_encoder.length())?;
            check_vocabulary(&folder, &tokenizer, &text_encoder)?;
            let (folder, variant) = part("unet", "diffusion_pytorch_model");
            let unet = Unet::load(&folder, variant.as_deref(), kind, device, kernels)?;
            if unet.text_width() != text_encoder.width() {
                return Err(Error::Model {
                    path: folder.join("config.json"),
                    problem: format!(
                        "\"cross_attention_dim\" is {}, but the text encoder's hidden states are {} wide",
                        unet.text_width(),
                        text_encoder.width()
                    ),
                });
            }
            let (folder, variant) = part("vae", "diffusion_pytorch_model");
            let vae = AutoencoderKl::load(&folder, variant.as_deref(), kind, device, kernels)?;
            let weights = [("text_encoder", text_encoder.digest()), ("unet", unet.digest()), ("vae", vae.digest())];
            let digest = folder::digest(path, &weights)?;
            let arithmetic = Arithmetic::on(device);
            let scorer = Scorer::new(&unet, arithmetic)?;
            let threads =
                if options.device.is_cuda() || options.apart == Some(false) { None } else { Some(Threads::start()?) };
            Ok(Self {
                tokenizer,
                text_encoder,
                unet,
                vae,
                scheduler_config,
                measured,
                scorer,
                arithmetic,
                options: options.clone(),
                digest,
                texts: Mutex::default(),
                threads,
                kernels: (chosen.why, kernels.are_own()),
            })
        })
    }

    /// SHA-256 over weights, configurations and tokenizer.
    pub fn digest(&self) -> [u8; 32] {
        self.digest
    }

    /// Whose kernels run and why, for people.
    pub fn kernels(&self) -> &str {
        &self.kernels.0
    }

    /// Whether our own kernels run, which round differently from libtorch's.
    pub fn has_own_kernels(&self) -> bool {
        self.kernels.1
    }

    /// Pictures in a batch.
    pub fn batch_size(&self) -> usize {
        self.options.batch_size
    }

    /// Pads to another size from now on, such as a smaller one after [`Error::OutOfMemory`].
    pub fn set_batch_size(&mut self, batch_size: usize) {
        self.options.batch_size = batch_size.max(1);
    }

    /// Computes from now on as on another device, which is for tests: a device has the arithmetic that suits it.
    pub fn set_arithmetic(&mut self, arithmetic: Arithmetic) -> Result<()> {
        self.scorer = tch::no_grad(|| Scorer::new(&self.unet, arithmetic))?;
        self.arithmetic = arithmetic;
        Ok(())
    }

    /// The settings that were measured best for this model, if someone measured.
    pub fn measured(&self) -> &MeasuredSettings {
        &self.measured
    }

    /// What the model's scheduler configuration says.
    pub fn scheduler_config(&self) -> &SchedulerConfig {
        &self.scheduler_config
    }

    /// The cross-attention layers by their diffusers paths, in the order in which they run.
    pub fn cross_attention_layers(&self) -> &[String] {
        self.unet.cross_attention_layers()
    }

    /// Width and height in pixels of the pictures that the model was trained on.
    pub fn native_size(&self) -> (u32, u32) {
        let pixels = |latents: i64| (latents * self.vae.factor()).clamp(8, 4096) as u32;
        let (width, height) = self.unet.sample_size();
        (pixels(width), pixels(height))
    }

    /// Pixels a latent element, along a side.
    pub fn factor(&self) -> u32 {
        self.vae.factor() as u32
    }

    /// Checks everything that can be known before the reference is read, and gives the prompt as the model sees it.
    ///
    /// # Errors
    /// [`Error::Setting`] and the errors of subjects.
    pub fn check(&self, prompt: &str, subjects: Option<&[String]>, settings: &Settings) -> Result<Prompt> {
        self.examine(prompt, subjects, settings).map(|(prompt, _)| prompt)
    }

    /// How many timesteps `settings` leave to run, and before which of them latents are replaced.
    ///
    /// # Errors
    /// [`Error::Setting`] where they leave none, or an edit step is not among them.
    pub fn edit_steps(&self, settings: &Settings) -> Result<(usize, Vec<usize>)> {
        let steps = self.scheduler(settings)?.timesteps().len();
        Ok((steps, settings.edits.indices(steps)?))
    }

    /// [`check`](Self::check), with the scheduler that it needed.
    fn examine(&self, prompt: &str, subjects: Option<&[String]>, settings: &Settings) -> Result<(Prompt, Scheduler)> {
        let factor = self.factor();
        for (side, pixels) in [("width", settings.width), ("height", settings.height)] {
            if pixels == 0 || !pixels.is_multiple_of(factor) {
                let message =
                    format!("a {side} of {pixels} is not a positive multiple of {factor}, as this model needs");
                return Err(Error::Setting { param: "size", message });
            }
        }
        self.check_latents(i64::from(settings.width / factor), i64::from(settings.height / factor), settings)?;
        let scheduler = self.scheduler(settings)?;
        let masked = settings.method == Method::AbsGradSam;
        if masked {
            settings.edits.indices(scheduler.timesteps().len())?;
            let elements = i64::from(settings.width / factor) * i64::from(settings.height / factor) * 4;
            self.scorer.plan(&self.unet, settings, elements)?;
        }
        let tokens = masked.then_some(settings.subject_tokens);
        Ok((prompt::read_prompt(&self.tokenizer, prompt, subjects, tokens)?, scheduler))
    }

    /// Refuses latents that the network cannot halve, or that have no deviation for a threshold.
    fn check_latents(&self, width: i64, height: i64, settings: &Settings) -> Result<()> {
        let smallest = self.unet.smallest();
        let masked = settings.method == Method::AbsGradSam;
        if width >= smallest && height >= smallest && (!masked || width * height > 1) {
            return Ok(());
        }
        let least = if masked { smallest.max(2) } else { smallest } * self.vae.factor();
        let message = format!(
            "{}x{} leaves {width}x{height} latents, which is too small for this network; sides of {least} and more are not",
            settings.width, settings.height
        );
        Err(Error::Setting { param: "size", message })
    }

    /// The timesteps that `settings` lay, truncated by strength.
    fn scheduler(&self, settings: &Settings) -> Result<Scheduler> {
        let config = self.scheduler_config.clone().read_as(settings.scheduler_config);
        let config =
            if settings.published_timesteps { config.with_leading_spacing().with_steps_offset(0) } else { config };
        let scheduler =
            Scheduler::truncated(&config, settings.scheduler, settings.steps, settings.effective_strength())?;
        if scheduler.timesteps().is_empty() {
            let message = format!(
                "{} of {} steps leaves no step to run; raise strength or steps",
                settings.strength, settings.steps
            );
            return Err(Error::Setting { param: "strength", message });
        }
        Ok(scheduler)
    }

    /// The hidden states `[1, T, C]` of a text, always computed by itself, so that they do not depend on a batch.
    fn encode_text(&self, text: &str, ids: &[i64]) -> Result<Tensor> {
        let mut texts = self.texts.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(hidden) = texts.get(text) {
            return Ok(hidden.shallow_clone());
        }
        let hidden = self.text_encoder.forward(ids)?;
        if texts.len() >= TEXTS_KEPT {
            texts.clear();
        }
        texts.insert(text.to_owned(), hidden.shallow_clone());
        Ok(hidden)
    }
}

/// A row of the text encoder for each token, and a token for each row: where a row is left over, the tokenizer lacks a
/// token that was learned, and would spell it out in pieces.
fn check_vocabulary(folder: &Path, tokenizer: &ClipTokenizer, text_encoder: &ClipTextModel) -> Result<()> {
    let (rows, tokens) = (text_encoder.vocabulary(), tokenizer.largest_id() + 1);
    let problem = if tokens > rows {
        format!("but the tokenizer has a token with the id {}; they belong to two models", tokens - 1)
    } else if rows > tokens && !is_padding(rows, tokens) {
        format!(
            "but the tokenizer has {tokens} tokens: what was learned in the other rows has no name; give the tokenizer its \
             added_tokens.json"
        )
    } else {
        return Ok(());
    };
    let problem = format!("\"vocab_size\" is {rows}, {problem}");
    Err(Error::Model { path: folder.join("config.json"), problem })
}

/// Whether the rows are the tokens, rounded up as transformers' `resize_token_embeddings(pad_to_multiple_of=…)` does.
fn is_padding(rows: i64, tokens: i64) -> bool {
    [8, 16, 32, 64, 128, 256].into_iter().any(|multiple| (tokens as u64).next_multiple_of(multiple) == rows as u64)
}
