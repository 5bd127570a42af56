//! The settings of the method as a user may give them: each optional, each with its range.
//!
//! What is left unset is decided later, in this order: the preset, the file of measured settings beside the model
//! (`diorama.json`), the model's own configuration. Flags, environment, configuration files and manifest rows all end in
//! this one type, so a key has one name, one type and one range everywhere.

mod choice;
mod key;
mod value;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use strum::VariantNames;

pub use self::choice::{Fit, Method, Preset, Scheduler, SchedulerConfig, Score, Start};
pub use self::key::{Key, Kind, SettingError, by_value, number, reads, shorten};
pub use self::value::{Layers, Size};
use crate::range::Range;

/// The largest negative prompt, in bytes.
const MAX_NEGATIVE_PROMPT_BYTES: usize = 10_000;

/// The most steps that a schedule has, and that an edit names.
const MAX_STEPS: usize = 1000;

/// Declares the settings: of each the sentence about it, name, type, what stands for its value in a command's help, what
/// it may be, and, where that is not all, a check of the value.
macro_rules! settings {
    ($($(#[doc = $about:literal])+ $key:ident: $type:ty, $placeholder:literal, $kind:expr $(, checked by $check:path)?;)+) => {
        /// Everything a user may set about the method. `None` means: the preset's, the model's or the method's own value.
        #[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct Settings {
            $($(#[doc = $about])+ #[serde(skip_serializing_if = "Option::is_none")] pub $key: Option<$type>,)+
        }

        impl Settings {
            /// Every setting, as it is declared.
            pub const DECLARED: &'static [Key] = &[$(Key {
                name: stringify!($key),
                about: concat!($($about),+),
                placeholder: $placeholder,
                kind: $kind,
                default: None,
                reads: reads::<$type>,
            }),+];

            /// Sets one key from JSON and checks its range.
            pub fn set(&mut self, key: &str, value: &Value) -> Result<(), SettingError> {
                let declared = Self::declared(key)?;
                let value = declared.normal(value);
                declared.check(&value)?;
                match key {
                    $(stringify!($key) => {
                        let value = <$type>::deserialize(&value)
                            .map_err(|error| declared.refusal("wrong_type", error.to_string()))?;
                        $($check(&value).map_err(|message| declared.refusal("out_of_range", message))?;)?
                        self.$key = Some(value);
                    })+
                    _ => {}
                }
                Ok(())
            }

            /// These settings, with everything that `over` sets taken from `over`.
            pub fn overlaid(&self, over: &Settings) -> Settings {
                Settings { $($key: over.$key.clone().or_else(|| self.$key.clone())),+ }
            }
        }
    };
}

settings! {
    /// A named set of defaults.
    preset: Preset, "NAME", Kind::OneOf(Preset::VARIANTS);
    /// How the picture is made.
    method: Method, "NAME", Kind::OneOf(Method::VARIANTS);
    /// The sampler (unset: the model's).
    scheduler: Scheduler, "NAME", Kind::OneOf(Scheduler::VARIANTS);
    /// How to read the model's scheduler configuration: as diffusers' pipelines do (the default), or as written.
    scheduler_config: SchedulerConfig, "HOW", Kind::OneOf(SchedulerConfig::VARIANTS);
    /// Steps of the full schedule, before `strength` truncates it.
    steps: u32, "N", Kind::Whole(Range::new(1.0, MAX_STEPS as f64));
    /// The share of the schedule that runs.
    strength: f64, "F", Kind::Real(Range::above(0.0, 1.0));
    /// Classifier-free guidance scale; at most 1 means no guidance.
    guidance: f64, "F", Kind::Real(Range::new(0.0, 100.0));
    /// What should not appear, at most 10000 bytes.
    negative_prompt: String, "TEXT", Kind::Text("a string"), checked by negative_prompt;
    /// Steps before which the reference's latents are put back outside the mask, counted in the truncated schedule,
    /// rising from at least 1, such as 5,18,28.
    edit_steps: Vec<u32>, "N,N", Kind::Wholes, checked by edit_steps;
    /// k in `score > mean + k·std`.
    threshold: f64, "F", Kind::Real(Range::new(-10.0, 10.0));
    /// How many times the mask is dilated by a 3×3 square.
    dilation: u32, "N", Kind::Whole(Range::new(0.0, 64.0));
    /// σ of the 3×3 Gaussian blur over the score, in latent elements; 0 is none.
    blur: f64, "F", Kind::Real(Range::new(0.0, 50.0));
    /// Layers that the score is taken from: last, auto or diffusers paths separated by commas.
    layers: Layers, "LAYERS", Kind::Text("'auto', 'last' or layer paths joined by commas"), checked by Layers::check;
    /// The score that decides what belongs to the subject.
    score: Score, "NAME", Kind::OneOf(Score::VARIANTS);
    /// Random-sign probes of the estimator, for layers without a closed form.
    probes: u32, "N", Kind::Whole(Range::new(1.0, 4096.0));
    /// Where denoising starts.
    start: Start, "NAME", Kind::OneOf(Start::VARIANTS);
    /// The picture's size, each side 8 to 4096 and a multiple of 8, such as 512x512; or reference, for that of the
    /// reference, scaled down if it is too large for the model.
    size: Size, "WxH", Kind::Text("a size such as \"512x512\", or \"reference\""), checked by Size::check;
    /// How a reference of another shape is fitted to the picture's (unset: crop, around its centre).
    fit: Fit, "NAME", Kind::OneOf(Fit::VARIANTS);
    /// Pastes the reference's own pixels back outside the mask, with a soft edge of this many pixels.
    paste_back: f64, "F", Kind::Real(Range::new(0.0, 256.0));
}

impl Settings {
    /// The most steps that a schedule has.
    pub const MOST_STEPS: u32 = MAX_STEPS as u32;

    /// The name of every setting, as it is written in manifests and configuration files.
    pub const KEYS: [&'static str; Self::DECLARED.len()] = {
        let mut names = [""; Self::DECLARED.len()];
        let mut index = 0;
        while index < names.len() {
            names[index] = Self::DECLARED[index].name;
            index += 1;
        }
        names
    };

    /// The JSON that `text` means for `key`: [`Key::read_text`].
    pub fn read_text(key: &str, text: &str) -> Value {
        Self::declared(key).map_or_else(|_| Value::from(text), |declared| declared.read_text(text))
    }

    fn declared(key: &str) -> Result<&'static Key, SettingError> {
        Self::DECLARED.iter().find(|declared| declared.name == key).ok_or_else(|| SettingError {
            param: key.to_owned(),
            code: "unknown_key",
            message: format!("is not a setting; the settings are {}", Self::KEYS.join(", ")),
        })
    }
}

fn negative_prompt(text: &str) -> Result<(), String> {
    match text.len() {
        0..=MAX_NEGATIVE_PROMPT_BYTES => Ok(()),
        bytes => Err(format!("has {bytes} bytes; at most {MAX_NEGATIVE_PROMPT_BYTES} are allowed")),
    }
}

fn edit_steps(steps: &[u32]) -> Result<(), String> {
    if steps.is_empty() || steps.len() > MAX_STEPS {
        Err(format!("has {} entries; 1 to {MAX_STEPS} are allowed", steps.len()))
    } else if steps[0] == 0 || steps.windows(2).any(|pair| pair[0] >= pair[1]) {
        Err(format!("{steps:?} must rise, from at least 1"))
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_key_can_be_set_and_every_refusal_names_its_range() {
        let good = json!({
            "preset": "paper", "method": "img2img", "scheduler": "dpmpp-2m", "scheduler_config": "as-is", "steps": 25, "strength": 0.6,
            "guidance": 7.5, "negative_prompt": "blurry", "edit_steps": [5, 18], "threshold": 0.5, "dilation": 1,
            "blur": 6, "layers": "last", "score": "relu-grad", "probes": 16, "start": "noise", "size": "512x768",
            "fit": "pad", "paste_back": 4,
        });
        let mut settings = Settings::default();
        for key in Settings::KEYS {
            settings.set(key, &good[key]).unwrap();
        }
        let json = serde_json::to_value(&settings).unwrap();
        assert_eq!(json.as_object().unwrap().len(), Settings::KEYS.len());
        assert_eq!(serde_json::from_value::<Settings>(json).unwrap(), settings);

        for (key, value, range) in [
            ("steps", json!(0), "1 to 1000"),
            ("steps", json!(1001), "1 to 1000"),
            ("strength", json!(0), "above 0 and at most 1"),
            ("strength", json!(1.5), "above 0 and at most 1"),
            ("guidance", json!(-1), "0 to 100"),
            ("negative_prompt", json!("x".repeat(10_001)), "at most 10000"),
            ("threshold", json!(11), "-10 to 10"),
            ("dilation", json!(65), "0 to 64"),
            ("blur", json!(51), "0 to 50"),
            ("size", json!("512x513"), "8 to 4096 and a multiple of 8"),
            ("size", json!("0x0"), "8 to 4096 and a multiple of 8"),
            ("edit_steps", json!([5, 5]), "must rise, from at least 1"),
            ("edit_steps", json!([]), "1 to 1000"),
            ("probes", json!(0), "1 to 4096"),
            ("layers", json!(" , "), "names no layer"),
            ("layers", json!("a,".repeat(65)), "at most 64"),
            ("paste_back", json!(1000), "0 to 256"),
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
        assert_eq!(read("size", "reference").unwrap().size, Some(Size::Reference));
        assert_eq!(read("fit", "stretch").unwrap().fit, Some(Fit::Stretch));
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
