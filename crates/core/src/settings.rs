//! The settings of the method as a user may give them: each optional, each with its range.
//!
//! What is left unset is decided later, in this order: the preset, the file that `diorama calibrate` left beside the
//! model (`diorama.json`), the model's own configuration. Flags, environment, configuration files and manifest rows
//! all end in this one type, so a key has one name, one type and one range everywhere.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A setting that was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{param}: {message}")]
pub struct SettingError {
    /// The key.
    pub param: String,
    /// `unknown_key`, `wrong_type` or `out_of_range`.
    pub code: &'static str,
    /// What is wrong, with the range or the choices.
    pub message: String,
}

macro_rules! choices {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum $name { $($(#[$vdoc])* #[serde(rename = $text)] $variant),* }

        impl $name {
            /// Every choice as it is written.
            pub const CHOICES: &'static [&'static str] = &[$($text),*];

            /// The choice as it is written.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),* }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl FromStr for $name {
            type Err = String;
            fn from_str(text: &str) -> Result<Self, String> {
                match text {
                    $($text => Ok(Self::$variant),)*
                    _ => Err(format!("{text:?} is not one of {}", Self::CHOICES.join(", "))),
                }
            }
        }
    };
}

choices! {
    /// How the picture is made.
    Method {
        /// Abs-Grad-SAM masked latent replacement (METHOD: arXiv 2408.16232).
        AbsGradSam = "abs-grad-sam",
        /// Stable Diffusion image-to-image at the strength given (default 0.9).
        Img2img = "img2img",
        /// The same at strength 0.6: keeps more of the place and less of the prompt.
        Img2imgReduced = "img2img-reduced",
        /// Text only; the reference is not used.
        Txt2img = "txt2img",
    }
}

choices! {
    /// A named set of defaults.
    Preset {
        /// What we recommend.
        Default = "default",
        /// As the paper's author published it.
        Paper = "paper",
    }
}

choices! {
    /// What says which latent elements belong to the subject.
    Score {
        /// `Σ A·|∂ẑ/∂A|`.
        AbsGrad = "abs-grad",
        /// `Σ A·ReLU(∂ẑ/∂A)`, as the published code has it.
        ReluGrad = "relu-grad",
        /// `Σ A`, without a gradient.
        Attention = "attention",
        /// `|ε_c − ε_u|`, as in DiffEdit.
        GuidanceDifference = "guidance-difference",
    }
}

choices! {
    /// The sampler.
    Scheduler {
        /// Ancestral sampling of the training process (Ho et al. 2020), fixed-small variance.
        Ddpm = "ddpm",
        /// Deterministic implicit sampling (Song et al. 2021), eta 0.
        Ddim = "ddim",
        /// Euler on the probability-flow ODE (Karras et al. 2022).
        Euler = "euler",
        /// DPM-Solver++(2M) (Lu et al. 2022).
        DpmppTwoM = "dpmpp-2m",
    }
}

choices! {
    /// Where denoising starts.
    Start {
        /// The noised reference `q(z_{t0} | z0)`.
        Reference = "reference",
        /// Pure noise, as published: the reference enters only through the replacements.
        Noise = "noise",
    }
}

/// Which cross-attention layers the score is taken from. Written `auto`, `last`, or diffusers paths joined by commas.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum Layers {
    /// The layers measured best for this model (`diorama.json` beside it), else the last.
    Auto,
    /// The last cross-attention layer, as the paper has it.
    Last,
    /// By diffusers path, such as `up_blocks.3.attentions.2.transformer_blocks.0.attn2`.
    Paths(Vec<String>),
}

impl From<String> for Layers {
    fn from(text: String) -> Self {
        match text.as_str() {
            "auto" => Self::Auto,
            "last" => Self::Last,
            paths => Self::Paths(paths.split(',').map(|p| p.trim().to_owned()).filter(|p| !p.is_empty()).collect()),
        }
    }
}

impl From<Layers> for String {
    fn from(layers: Layers) -> String {
        match layers {
            Layers::Auto => "auto".to_owned(),
            Layers::Last => "last".to_owned(),
            Layers::Paths(paths) => paths.join(","),
        }
    }
}

impl FromStr for Layers {
    type Err = std::convert::Infallible;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self::from(text.to_owned()))
    }
}

/// The size of a picture in pixels. Written `WxH`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Size {
    /// Pixels a row.
    pub width: u32,
    /// Rows.
    pub height: u32,
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.width, self.height)
    }
}

impl FromStr for Size {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let parse = || {
            let (width, height) = text.split_once(['x', 'X'])?;
            Some(Self { width: width.trim().parse().ok()?, height: height.trim().parse().ok()? })
        };
        parse().ok_or_else(|| format!("{text:?} is not a size; write it as WIDTHxHEIGHT, such as 512x512"))
    }
}

impl TryFrom<String> for Size {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Size> for String {
    fn from(size: Size) -> String {
        size.to_string()
    }
}

/// Everything a user may set about the method. `None` means: the preset's, the model's or the method's own value.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// A named set of defaults.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preset: Option<Preset>,
    /// How the picture is made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<Method>,
    /// The sampler; unset: the model's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheduler: Option<Scheduler>,
    /// Steps of the whole schedule, before `strength` cuts it: 1 to 1000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steps: Option<u32>,
    /// How much of the schedule runs: above 0, at most 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub strength: Option<f64>,
    /// Classifier-free guidance scale: 0 to 100; at most 1 means no guidance.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guidance: Option<f64>,
    /// What should not appear: at most 10,000 bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub negative_prompt: Option<String>,
    /// Indices of the truncated list of timesteps before which latents are replaced: 1 to steps − 1, rising.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub edit_steps: Option<Vec<u32>>,
    /// k in `score > mean + k·std`: −10 to 10.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threshold: Option<f64>,
    /// How often the mask is dilated by a 3×3 square: 0 to 64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dilation: Option<u32>,
    /// σ of the 3×3 Gaussian over the score, in latent elements: 0 (none) to 50.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blur: Option<f64>,
    /// Which layers the score is taken from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layers: Option<Layers>,
    /// Which score.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub score: Option<Score>,
    /// Random-sign probes of the estimator, for layers without a closed form: 1 to 4096.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub probes: Option<u32>,
    /// Where denoising starts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start: Option<Start>,
    /// The picture's size: each side 8 to 4096 and a multiple of 8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<Size>,
    /// Puts the reference's own pixels back outside the mask, with an edge this many pixels soft: 0 to 256.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub paste_back: Option<f64>,
}

impl Settings {
    /// Every key, as it is written in manifests and configuration files.
    pub const KEYS: [&'static str; 17] = [
        "preset",
        "method",
        "scheduler",
        "steps",
        "strength",
        "guidance",
        "negative_prompt",
        "edit_steps",
        "threshold",
        "dilation",
        "blur",
        "layers",
        "score",
        "probes",
        "start",
        "size",
        "paste_back",
    ];

    /// The JSON that `text` means for `key`: how flags, environment variables and CSV cells are read. A list's entries
    /// are separated by `,` or `;`. Text where a number is wanted stays text, and [`Settings::set`] refuses it.
    pub fn read_text(key: &str, text: &str) -> Value {
        match key {
            "negative_prompt" => Value::from(text),
            "preset" | "method" | "scheduler" | "layers" | "score" | "start" | "size" => Value::from(text.trim()),
            "edit_steps" => text.split([',', ';']).map(number).collect(),
            _ => number(text),
        }
    }

    /// Sets one key from JSON and checks its range.
    pub fn set(&mut self, key: &str, value: &Value) -> Result<(), SettingError> {
        fn read<T: serde::de::DeserializeOwned>(
            key: &str,
            value: &Value,
            want: &str,
        ) -> Result<Option<T>, SettingError> {
            match serde_json::from_value(value.clone()) {
                Ok(value) => Ok(Some(value)),
                Err(_) => Err(SettingError {
                    param: key.to_owned(),
                    code: "wrong_type",
                    message: format!("{} is not {want}", shorten(value)),
                }),
            }
        }
        let one_of = |choices: &[&str]| format!("one of {}", choices.join(", "));
        match key {
            "preset" => self.preset = read(key, value, &one_of(Preset::CHOICES))?,
            "method" => self.method = read(key, value, &one_of(Method::CHOICES))?,
            "scheduler" => self.scheduler = read(key, value, &one_of(Scheduler::CHOICES))?,
            "steps" => self.steps = read(key, value, "a whole number from 1 to 1000")?,
            "strength" => self.strength = read(key, value, "a number above 0 and at most 1")?,
            "guidance" => self.guidance = read(key, value, "a number from 0 to 100")?,
            "negative_prompt" => self.negative_prompt = read(key, value, "a string")?,
            "edit_steps" => self.edit_steps = read(key, value, "a list of whole numbers")?,
            "threshold" => self.threshold = read(key, value, "a number from -10 to 10")?,
            "dilation" => self.dilation = read(key, value, "a whole number from 0 to 64")?,
            "blur" => self.blur = read(key, value, "a number from 0 to 50")?,
            "layers" => self.layers = read(key, value, "'auto', 'last' or layer paths joined by commas")?,
            "score" => self.score = read(key, value, &one_of(Score::CHOICES))?,
            "probes" => self.probes = read(key, value, "a whole number from 1 to 4096")?,
            "start" => self.start = read(key, value, &one_of(Start::CHOICES))?,
            "size" => self.size = read(key, value, "a size such as \"512x512\"")?,
            "paste_back" => self.paste_back = read(key, value, "a number from 0 to 256")?,
            _ => {
                return Err(SettingError {
                    param: key.to_owned(),
                    code: "unknown_key",
                    message: format!("is not a setting; the settings are {}", Self::KEYS.join(", ")),
                });
            }
        }
        match self.problems().into_iter().find(|problem| problem.param == key) {
            Some(problem) => Err(problem),
            None => Ok(()),
        }
    }

    /// Checks every range; gives all the problems.
    pub fn problems(&self) -> Vec<SettingError> {
        let mut problems = Vec::new();
        let mut refuse = |param: &str, message: String| {
            problems.push(SettingError { param: param.to_owned(), code: "out_of_range", message });
        };
        let mut number = |param: &str, value: Option<f64>, low: f64, high: f64, low_open: bool| {
            if let Some(value) = value {
                let inside = value <= high && if low_open { value > low } else { value >= low };
                if !inside {
                    let from = if low_open { format!("above {low}") } else { format!("at least {low}") };
                    refuse(param, format!("{value} is out of range; it must be {from} and at most {high}"));
                }
            }
        };
        number("steps", self.steps.map(f64::from), 1.0, 1000.0, false);
        number("strength", self.strength, 0.0, 1.0, true);
        number("guidance", self.guidance, 0.0, 100.0, false);
        number("threshold", self.threshold, -10.0, 10.0, false);
        number("dilation", self.dilation.map(f64::from), 0.0, 64.0, false);
        number("blur", self.blur, 0.0, 50.0, false);
        number("probes", self.probes.map(f64::from), 1.0, 4096.0, false);
        number("paste_back", self.paste_back, 0.0, 256.0, false);
        if let Some(size) = self.size {
            let wrong = |side: u32| !(8..=4096).contains(&side) || !side.is_multiple_of(8);
            if wrong(size.width) || wrong(size.height) {
                refuse("size", format!("{size} is out of range; each side must be 8 to 4096 and a multiple of 8"));
            }
        }
        if let Some(steps) = &self.edit_steps {
            if steps.is_empty() || steps.len() > 1000 {
                refuse("edit_steps", format!("has {} entries; 1 to 1000 are allowed", steps.len()));
            } else if steps[0] == 0 || steps.windows(2).any(|pair| pair[0] >= pair[1]) {
                refuse("edit_steps", format!("{steps:?} must rise, from at least 1"));
            }
        }
        if let Some(prompt) = &self.negative_prompt
            && prompt.len() > 10_000
        {
            refuse("negative_prompt", format!("has {} bytes; at most 10000 are allowed", prompt.len()));
        }
        if let Some(Layers::Paths(paths)) = &self.layers
            && paths.is_empty()
        {
            refuse("layers", "names no layer; write 'auto', 'last' or layer paths joined by commas".to_owned());
        }
        problems
    }

    /// These settings, with everything that `over` sets taken from `over`.
    pub fn overlaid(&self, over: &Settings) -> Settings {
        macro_rules! pick {
            ($($field:ident),*) => { Settings { $($field: over.$field.clone().or_else(|| self.$field.clone())),* } };
        }
        pick!(
            preset,
            method,
            scheduler,
            steps,
            strength,
            guidance,
            negative_prompt,
            edit_steps,
            threshold,
            dilation,
            blur,
            layers,
            score,
            probes,
            start,
            size,
            paste_back
        )
    }
}

/// The number that `text` is, else the text.
pub fn number(text: &str) -> Value {
    let text = text.trim();
    let whole = text.parse::<u64>().ok().map(Value::from);
    let fraction = || text.parse::<f64>().ok().and_then(serde_json::Number::from_f64).map(Value::Number);
    whole.or_else(fraction).unwrap_or_else(|| Value::from(text))
}

fn shorten(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() <= 60 { text } else { text.chars().take(57).chain("...".chars()).collect() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_key_can_be_set_and_every_refusal_names_its_range() {
        let good = json!({
            "preset": "paper", "method": "img2img", "scheduler": "dpmpp-2m", "steps": 25, "strength": 0.6,
            "guidance": 7.5, "negative_prompt": "blurry", "edit_steps": [5, 18], "threshold": 0.5, "dilation": 1,
            "blur": 6, "layers": "last", "score": "relu-grad", "probes": 16, "start": "noise", "size": "512x768",
            "paste_back": 4,
        });
        let mut settings = Settings::default();
        for key in Settings::KEYS {
            settings.set(key, &good[key]).unwrap();
        }
        assert_eq!(settings.problems(), []);
        let json = serde_json::to_value(&settings).unwrap();
        assert_eq!(json.as_object().unwrap().len(), Settings::KEYS.len());
        assert_eq!(serde_json::from_value::<Settings>(json).unwrap(), settings);

        for (key, value, range) in [
            ("steps", json!(0), "at least 1 and at most 1000"),
            ("steps", json!(1001), "at least 1 and at most 1000"),
            ("strength", json!(0), "above 0 and at most 1"),
            ("strength", json!(1.5), "above 0 and at most 1"),
            ("guidance", json!(-1), "at least 0 and at most 100"),
            ("negative_prompt", json!("x".repeat(10_001)), "at most 10000"),
            ("threshold", json!(11), "at least -10 and at most 10"),
            ("dilation", json!(65), "at least 0 and at most 64"),
            ("blur", json!(51), "at least 0 and at most 50"),
            ("size", json!("512x513"), "8 to 4096 and a multiple of 8"),
            ("size", json!("0x0"), "8 to 4096 and a multiple of 8"),
            ("edit_steps", json!([5, 5]), "must rise, from at least 1"),
            ("edit_steps", json!([]), "1 to 1000"),
            ("probes", json!(0), "at least 1 and at most 4096"),
            ("paste_back", json!(1000), "at least 0 and at most 256"),
        ] {
            let error = Settings::default().set(key, &value).unwrap_err();
            assert_eq!((error.param.as_str(), error.code), (key, "out_of_range"), "{error}");
            assert!(error.message.contains(range), "{error}");
        }
        assert_eq!(Settings::default().set("steps", &json!("many")).unwrap_err().code, "wrong_type");
        assert_eq!(Settings::default().set("stepps", &json!(1)).unwrap_err().code, "unknown_key");
    }

    #[test]
    fn text_means_what_json_means() {
        let read = |key: &str, text: &str| {
            let mut settings = Settings::default();
            settings.set(key, &Settings::read_text(key, text)).map(|()| settings)
        };
        assert_eq!(read("edit_steps", "5, 18;28").unwrap().edit_steps, Some(vec![5, 18, 28]));
        assert_eq!(read("strength", " 0.6 ").unwrap().strength, Some(0.6));
        assert_eq!(read("steps", "20").unwrap().steps, Some(20));
        assert_eq!(read("negative_prompt", "007").unwrap().negative_prompt.as_deref(), Some("007"));
        assert_eq!(read("layers", "a.attn2,b.attn2").unwrap().layers.map(String::from), Some("a.attn2,b.attn2".into()));
        for (key, text) in [("steps", "many"), ("guidance", "NaN"), ("guidance", "inf"), ("edit_steps", "5,x")] {
            assert_eq!(read(key, text).unwrap_err().code, "wrong_type", "{key} {text}");
        }
    }

    #[test]
    fn a_row_overrides_its_run_and_leaves_the_rest() {
        let run = Settings { steps: Some(50), guidance: Some(8.0), ..Settings::default() };
        let row = Settings { guidance: Some(3.0), ..Settings::default() };
        let both = run.overlaid(&row);
        assert_eq!((both.steps, both.guidance), (Some(50), Some(3.0)));
    }
}
