//! Every setting of a task decided, in the model's words.

use diorama_core::fit::size_like;
use diorama_core::settings::{self as core, Fit, Layers, Preset, Size};
use diorama_diffusion::Error;
use diorama_diffusion::method::settings::PAPER_EDIT_FRACTIONS;
use diorama_diffusion::method::{Edits, Method, Score, Settings, Smoothing, Start, SubjectTokens};
use diorama_diffusion::pipeline::StableDiffusion;
use diorama_diffusion::scheduler::{ConfigReading, SchedulerKind};

/// The method's own defaults, where neither user nor preset nor the model's measured settings say otherwise.
mod default {
    pub(super) const STEPS: u32 = 50;
    pub(super) const STRENGTH: f64 = 0.9;
    /// The strength of `img2img-reduced`, as in the paper.
    pub(super) const REDUCED_STRENGTH: f64 = 0.6;
    pub(super) const GUIDANCE: f64 = 8.0;
    pub(super) const THRESHOLD: f64 = 0.5;
    pub(super) const DILATION: u32 = 1;
    pub(super) const BLUR: f64 = 6.0;
    pub(super) const PROBES: u32 = 64;
}

/// How many times the pixels of the model's own size a picture may have that takes its size from its reference: 768x512 for
/// a model of 512x512.
const ROOM: f64 = 1.5;

/// How a task's reference becomes the picture's shape; the paper's author squashed it.
pub(crate) fn fit(wanted: &core::Settings) -> Fit {
    wanted.fit.unwrap_or(if is_papers(wanted) { Fit::Stretch } else { Fit::Crop })
}

/// Whether the settings are the paper's, of its text or as its author ran it.
fn is_papers(wanted: &core::Settings) -> bool {
    matches!(wanted.preset, Some(Preset::Paper | Preset::PaperText))
}

/// Every setting decided: what the task says, else the preset, else what was measured for the model, else the
/// model's configuration and the method's defaults. `reference` is the reference's size; before it is known, a size that
/// follows it is the model's own.
///
/// # Errors
/// [`Error::Model`] where nobody chooses a scheduler and the model's own is none that we have.
pub(crate) fn resolve(
    model: &StableDiffusion,
    wanted: &core::Settings,
    reference: Option<(u32, u32)>,
) -> Result<Settings, Error> {
    // The schedule is the same in the paper's text and in what its author ran; the masks are not.
    let published = wanted.preset == Some(Preset::Paper);
    let paper = is_papers(wanted);
    let measured = model.measured();
    let method = wanted.method.unwrap_or(core::Method::AbsGradSam);
    // `wanted`, then the paper's value, then the measured one, then the default.
    fn pick<T>(wanted: Option<T>, paper: Option<T>, measured: Option<T>, default: T) -> T {
        wanted.or(paper).or(measured).unwrap_or(default)
    }
    let paper_is = |value: f64| paper.then_some(value);
    let last = || model.cross_attention_layers().last().cloned().into_iter().collect::<Vec<_>>();
    let native = model.native_size();
    let (width, height) = match (wanted.size, reference) {
        (Some(Size::Pixels { width, height }), _) => (width, height),
        (Some(Size::Reference), Some(reference)) => {
            let budget = f64::from(native.0) * f64::from(native.1) * ROOM;
            size_like(reference, model.factor().max(8), budget as u64)
        }
        (Some(Size::Reference), None) | (None, _) => native,
    };
    let scheduler =
        wanted.scheduler.map(scheduler_kind).or(paper.then_some(SchedulerKind::Ddpm)).or(measured.scheduler);
    Ok(Settings {
        method: match method {
            core::Method::AbsGradSam => Method::AbsGradSam,
            core::Method::Img2img | core::Method::Img2imgReduced => Method::Img2img,
            core::Method::Txt2img => Method::Txt2img,
        },
        scheduler: match scheduler {
            Some(scheduler) => scheduler,
            None => model.scheduler_config().kind()?,
        },
        scheduler_config: match wanted.scheduler_config {
            Some(core::SchedulerConfig::AsIs) => ConfigReading::AsIs,
            Some(core::SchedulerConfig::Pipeline) | None => ConfigReading::Pipeline,
        },
        published_timesteps: paper,
        steps: pick(wanted.steps, paper.then_some(50), measured.steps, default::STEPS) as usize,
        strength: if method == core::Method::Img2imgReduced {
            default::REDUCED_STRENGTH
        } else {
            pick(wanted.strength, paper_is(0.9), measured.strength, default::STRENGTH)
        },
        guidance: pick(wanted.guidance, paper_is(8.0), measured.guidance, default::GUIDANCE),
        negative_prompt: wanted.negative_prompt.clone().unwrap_or_default(),
        edits: match &wanted.edit_steps {
            Some(steps) => Edits::Steps(steps.iter().map(|step| *step as usize).collect()),
            None if paper => Edits::Fractions(PAPER_EDIT_FRACTIONS.to_vec()),
            None => Edits::Fractions(measured.edit_fractions.clone().unwrap_or_else(|| PAPER_EDIT_FRACTIONS.to_vec())),
        },
        threshold: pick(wanted.threshold, paper_is(0.5), measured.threshold, default::THRESHOLD),
        dilation: pick(
            wanted.dilation,
            paper.then_some(if published { 0 } else { default::DILATION }),
            measured.dilation,
            default::DILATION,
        ),
        smoothing: match wanted.blur {
            None if published => Smoothing::BoxSum,
            blur => Smoothing::Gaussian(pick(blur, paper_is(default::BLUR), measured.blur, default::BLUR)),
        },
        subject_tokens: if published { SubjectTokens::WordNumber } else { SubjectTokens::Pieces },
        layers: match &wanted.layers {
            Some(Layers::Paths(paths)) => paths.clone(),
            Some(Layers::Last) => last(),
            None if paper => last(),
            Some(Layers::Auto) | None => measured.layers.clone().unwrap_or_else(last),
        },
        score: match wanted.score {
            Some(core::Score::AbsGrad) => Score::AbsGrad,
            Some(core::Score::ReluGrad) => Score::ReluGrad,
            Some(core::Score::MixedReluGrad) => Score::MixedReluGrad,
            Some(core::Score::Attention) => Score::Attention,
            Some(core::Score::GuidanceDifference) => Score::GuidanceDifference,
            None if published => Score::MixedReluGrad,
            None if paper => Score::AbsGrad,
            None => measured.score.unwrap_or(Score::AbsGrad),
        },
        probes: wanted.probes.unwrap_or(default::PROBES),
        start: match wanted.start {
            // The baselines start from the reference, as image-to-image does.
            _ if method != core::Method::AbsGradSam => Start::Reference,
            Some(core::Start::Reference) => Start::Reference,
            Some(core::Start::Noise) => Start::Noise,
            None if published => Start::Noise,
            None => Start::Reference,
        },
        width,
        height,
        paste_back: wanted.paste_back.map(|feather| feather.round() as u32),
    })
}

/// A score as a user writes it.
pub(crate) fn score_name(score: Score) -> core::Score {
    match score {
        Score::AbsGrad => core::Score::AbsGrad,
        Score::ReluGrad => core::Score::ReluGrad,
        Score::MixedReluGrad => core::Score::MixedReluGrad,
        Score::Attention => core::Score::Attention,
        Score::GuidanceDifference => core::Score::GuidanceDifference,
    }
}

fn scheduler_kind(scheduler: core::Scheduler) -> SchedulerKind {
    match scheduler {
        core::Scheduler::Ddpm => SchedulerKind::Ddpm,
        core::Scheduler::Ddim => SchedulerKind::Ddim,
        core::Scheduler::Euler => SchedulerKind::Euler,
        core::Scheduler::DpmppTwoM => SchedulerKind::DpmppTwoM,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use diorama_diffusion::device::Device;
    use diorama_diffusion::kernels::KernelChoice;
    use diorama_diffusion::pipeline::LoadOptions;

    use super::*;

    fn model(folder: &str) -> StableDiffusion {
        let device: Device = "cpu".parse().unwrap();
        let options = LoadOptions {
            variant: None,
            device,
            dtype: device.best_dtype(),
            batch_size: 1,
            apart: None,
            kernels: KernelChoice::Auto,
        };
        StableDiffusion::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join(folder), &options).unwrap()
    }

    const TINY: &str = "../diffusion/tests/golden/sd1/model";

    #[test]
    fn the_paper_preset_is_what_its_author_published_whatever_was_measured() {
        for folder in [TINY, "../../models/demo"] {
            let model = model(folder);
            let wanted = core::Settings { preset: Some(Preset::Paper), ..core::Settings::default() };
            let paper = resolve(&model, &wanted, None).unwrap();
            assert_eq!((paper.scheduler, paper.published_timesteps, paper.steps), (SchedulerKind::Ddpm, true, 50));
            assert_eq!((paper.strength, paper.guidance, paper.threshold), (0.9, 8.0, 0.5));
            assert_eq!((paper.score, paper.start), (Score::MixedReluGrad, Start::Noise));
            assert_eq!((paper.smoothing, paper.dilation), (Smoothing::BoxSum, 0));
            assert_eq!(paper.subject_tokens, SubjectTokens::WordNumber);
            assert_eq!(paper.edits.indices(45).unwrap(), [5, 18, 28]);
            assert_eq!(paper.layers.first(), model.cross_attention_layers().last());
            // What the user says goes before the preset.
            let changed = resolve(&model, &core::Settings { guidance: Some(2.0), ..wanted }, None).unwrap();
            assert_eq!((changed.guidance, changed.steps), (2.0, 50));
        }
    }

    #[test]
    fn the_papers_text_shares_the_published_schedule_and_not_its_slips() {
        let model = model("../../models/demo");
        let preset = |preset| {
            resolve(&model, &core::Settings { preset: Some(preset), ..core::Settings::default() }, None).unwrap()
        };
        let (text, published) = (preset(Preset::PaperText), preset(Preset::Paper));
        let schedule =
            |s: &Settings| (s.scheduler, s.published_timesteps, s.steps, s.strength, s.guidance, s.threshold);
        assert_eq!(schedule(&text), schedule(&published));
        assert_eq!((&text.layers, &text.edits), (&published.layers, &published.edits));
        assert_eq!((text.score, text.start), (Score::AbsGrad, Start::Reference));
        assert_eq!((text.smoothing, text.dilation), (Smoothing::Gaussian(6.0), 1));
        assert_eq!(text.subject_tokens, SubjectTokens::Pieces);
    }

    #[test]
    fn measured_settings_of_a_model_go_before_the_defaults_and_behind_the_user() {
        let measured = model("../../models/demo");
        let file = measured.measured().clone();
        let settings = resolve(&measured, &core::Settings::default(), None).unwrap();
        assert_eq!(Some(settings.steps as u32), file.steps);
        assert_eq!(Some(settings.layers), file.layers);
        let user = core::Settings { steps: Some(7), layers: Some(Layers::Last), ..core::Settings::default() };
        let settings = resolve(&measured, &user, None).unwrap();
        assert_eq!(settings.steps, 7);
        assert_eq!(settings.layers.first(), measured.cross_attention_layers().last());
        // A score that was measured is the default, but not of the paper's text, which has one.
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("diorama.json");
        copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join(TINY), folder.path());
        std::fs::write(&file, r#"{"score": "attention", "calibration": {"budget": 200}}"#).unwrap();
        let attentive = model(folder.path().to_str().unwrap());
        assert_eq!(resolve(&attentive, &core::Settings::default(), None).unwrap().score, Score::Attention);
        let text = core::Settings { preset: Some(Preset::PaperText), ..core::Settings::default() };
        assert_eq!(resolve(&attentive, &text, None).unwrap().score, Score::AbsGrad);
        // Without such a file: the method's own.
        let settings = resolve(&model(TINY), &core::Settings::default(), None).unwrap();
        assert_eq!((settings.steps, settings.guidance, settings.strength), (50, 8.0, 0.9));
    }

    fn copy(from: &Path, to: &Path) {
        for entry in std::fs::read_dir(from).unwrap() {
            let (entry, target) = (entry.as_ref().unwrap().path(), to.join(entry.unwrap().file_name()));
            if entry.is_dir() {
                std::fs::create_dir(&target).unwrap();
                copy(&entry, &target);
            } else {
                std::fs::copy(&entry, &target).unwrap();
            }
        }
    }

    #[test]
    fn the_baselines_start_from_the_reference_and_reduced_means_0_6() {
        let model = model(TINY);
        let with = |method| core::Settings {
            method: Some(method),
            preset: Some(Preset::Paper),
            strength: Some(0.8),
            ..core::Settings::default()
        };
        let img2img = resolve(&model, &with(core::Method::Img2img), None).unwrap();
        assert_eq!((img2img.start, img2img.strength), (Start::Reference, 0.8));
        assert_eq!(resolve(&model, &with(core::Method::Img2imgReduced), None).unwrap().strength, 0.6);
    }

    #[test]
    fn a_picture_like_its_reference_has_its_shape_and_no_more_pixels_than_the_model_has_room_for() {
        let model = model("../../models/demo");
        let like = core::Settings { size: Some(Size::Reference), ..core::Settings::default() };
        let size = |reference| {
            let settings = resolve(&model, &like, reference).unwrap();
            (settings.width, settings.height)
        };
        assert_eq!(size(None), (64, 64));
        assert_eq!(size(Some((48, 32))), (48, 32));
        assert_eq!(size(Some((1200, 800))), (96, 64));
        assert_eq!(size(Some((5, 3))), (8, 8));
    }

    #[test]
    fn a_reference_is_cropped_where_nobody_says_otherwise_and_squashed_as_in_the_paper() {
        let wanted = |preset, wish| core::Settings { preset, fit: wish, ..core::Settings::default() };
        assert_eq!(fit(&wanted(None, None)), Fit::Crop);
        assert_eq!(fit(&wanted(Some(Preset::Paper), None)), Fit::Stretch);
        assert_eq!(fit(&wanted(Some(Preset::Paper), Some(Fit::Pad))), Fit::Pad);
    }
}
