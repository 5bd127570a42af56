//! Reads `tests/golden` and compares tensors with it.

use std::collections::HashMap;
use std::path::PathBuf;

use diorama_diffusion::image_processor::Rgb;
use diorama_diffusion::method::{Edits, Method, Score, Settings, Smoothing, Start, SubjectTokens};
use diorama_diffusion::scheduler::{ConfigReading, SchedulerKind};
use serde_json::Value;
use tch::{Kind, Tensor};

/// Every configuration; `scripts/golden/tiny_models.py` says what each is about.
const CONFIGURATIONS: [&str; 7] = ["sd1", "sd2-v", "demo", "deep", "listed", "flat", "plain-end"];

/// The folder of the golden data: of the crate, which is elsewhere where these tests were carried.
pub(crate) fn root() -> PathBuf {
    let here = std::env::var_os("CARGO_MANIFEST_DIR");
    here.map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from).join("tests/golden")
}

/// Named tensors from a safetensors file.
pub(crate) struct Tensors(HashMap<String, Tensor>);

impl Tensors {
    pub(crate) fn read(path: &str) -> Self {
        let path = root().join(path);
        let tensors = Tensor::read_safetensors(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        Self(tensors.into_iter().collect())
    }

    pub(crate) fn get(&self, name: &str) -> &Tensor {
        self.0.get(name).unwrap_or_else(|| panic!("the golden data has no {name}"))
    }
}

/// A JSON file of the golden data.
pub(crate) fn json(path: &str) -> Value {
    let path = root().join(path);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The largest difference, relative to the largest expected value.
pub(crate) fn error(actual: &Tensor, expected: &Tensor) -> f64 {
    let (actual, expected) = (actual.to_kind(Kind::Double), expected.to_kind(Kind::Double));
    let scale = expected.abs().max().double_value(&[]);
    (actual - &expected).abs().max().double_value(&[]) / scale
}

/// Fails unless shapes agree and every element is within `relative` of the largest expected value.
#[track_caller]
pub(crate) fn assert_close(actual: &Tensor, expected: &Tensor, relative: f64, what: &str) {
    assert_eq!(actual.size(), expected.size(), "{what}: shape");
    let error = error(actual, expected);
    assert!(error <= relative, "{what}: differs by {error:.2e} of the largest value; {relative:.0e} is allowed");
}

/// One configuration: a model folder, and what diffusers makes of it.
pub(crate) struct Golden {
    pub(crate) name: &'static str,
    pub(crate) model: PathBuf,
    pub(crate) tensors: Tensors,
    pub(crate) facts: Value,
}

impl Golden {
    pub(crate) fn read(name: &'static str) -> Self {
        // Before any test multiplies a matrix.
        diorama_diffusion::reproducible_arithmetic();
        Self {
            name,
            model: root().join(name).join("model"),
            tensors: Tensors::read(&format!("{name}/golden.safetensors")),
            facts: json(&format!("{name}/golden.json")),
        }
    }

    /// The variant of the weight files that the folder holds.
    pub(crate) fn variant(&self) -> Option<&str> {
        self.facts["variant"].as_str()
    }
}

pub(crate) fn configurations() -> impl Iterator<Item = Golden> {
    CONFIGURATIONS.into_iter().map(Golden::read)
}

/// The reference picture of every run: of a size that no model has.
pub(crate) fn reference() -> Rgb {
    let picture = image::open(root().join("reference.png")).expect("the golden reference is a picture").into_rgb8();
    Rgb { width: picture.width(), height: picture.height(), data: picture.into_raw() }
}

/// Settings that only differ from the defaults in being small: what a test is about it sets itself.
pub(crate) fn settings(g: &Golden, scheduler: &str) -> Settings {
    Settings {
        method: Method::AbsGradSam,
        scheduler: match scheduler {
            "ddpm" => SchedulerKind::Ddpm,
            "ddim" => SchedulerKind::Ddim,
            "euler" => SchedulerKind::Euler,
            "dpmpp-2m" => SchedulerKind::DpmppTwoM,
            other => panic!("{other} is no scheduler"),
        },
        scheduler_config: ConfigReading::Pipeline,
        published_timesteps: false,
        steps: 10,
        strength: 0.9,
        guidance: 8.0,
        negative_prompt: String::new(),
        edits: Edits::Fractions(vec![0.5]),
        threshold: 0.5,
        dilation: 1,
        smoothing: Smoothing::Gaussian(6.0),
        subject_tokens: SubjectTokens::Pieces,
        layers: vec![g.facts["scores"]["last_layer"].as_str().expect("a layer").to_owned()],
        score: Score::AbsGrad,
        probes: 64,
        start: Start::Reference,
        width: g.facts["width"].as_u64().expect("a width") as u32,
        height: g.facts["height"].as_u64().expect("a height") as u32,
        paste_back: None,
    }
}
