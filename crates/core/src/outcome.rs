//! How a task ends: exactly one [`Outcome`] each, with a stable [`ErrorCode`] where it failed.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use crate::id::{CustomId, Seed, Sha256Hex, TaskIndex};
use crate::manifest::Extra;
use crate::measure::Try;
use crate::text;

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal),* $(,)?) => {
        /// Why something failed, as a stable code that scripts may match on.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum ErrorCode { $($(#[$doc])* $name),* }

        impl ErrorCode {
            /// Every code.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The code as it is written in files.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text),* }
            }
        }
    };
}

codes! {
    /// The reference cannot be read: missing file, no permission, no such object.
    ReferenceUnreadable = "reference_unreadable",
    /// The reference leads to an address that references are not fetched from, such as a private one.
    ReferenceForbidden = "reference_forbidden",
    /// The reference is no picture that we decode, or is truncated.
    ReferenceUndecodable = "reference_undecodable",
    /// The reference is larger than the limits allow.
    ReferenceTooLarge = "reference_too_large",
    /// The region is no mask of the reference: it cannot be had, has another size, or is all white or all black.
    RegionUnusable = "region_unusable",
    /// The prompt names no subject that the method could edit.
    NoSubject = "no_subject",
    /// A given subject does not occur in the prompt.
    SubjectNotInPrompt = "subject_not_in_prompt",
    /// A setting does not fit the model or another setting.
    InvalidSettings = "invalid_settings",
    /// A latent became NaN or infinite.
    NonFiniteLatents = "non_finite_latents",
    /// The device has too little memory for even one task.
    OutOfMemory = "out_of_memory",
    /// The model failed in a way that is not the task's fault.
    ModelError = "model_error",
    /// The worker died too often while this task ran.
    Poison = "poison",
    /// Writing the outputs failed for this task.
    OutputUnwritable = "output_unwritable",
    /// The run was cancelled before the task ran.
    Cancelled = "cancelled",
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for ErrorCode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = || Self::ALL.iter().map(|code| code.as_str()).collect::<Vec<_>>().join(", ");
        let code = Self::ALL.iter().find(|code| code.as_str() == text);
        code.copied().ok_or_else(|| format!("{} is not an error code; the codes are {}", text::quoted(text), known()))
    }
}

/// A task that failed: what happened, and whether trying again can help.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct TaskError {
    /// The stable code.
    pub code: ErrorCode,
    /// What was being done, to what, what went wrong, how to fix it.
    pub message: String,
    /// Whether the same task may succeed later with nothing changed.
    pub retryable: bool,
}

impl TaskError {
    /// An error that trying again cannot mend.
    pub fn permanent(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), retryable: false }
    }

    /// An error that may go away.
    pub fn transient(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), retryable: true }
    }
}

/// One file that a task made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRef {
    /// Its path: relative to the run (files format) or inside the archive (webdataset format).
    pub path: String,
    /// The digest of its bytes.
    pub sha256: Sha256Hex,
    /// Its length.
    pub bytes: u64,
}

/// How one task ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "snake_case")]
pub enum Outcome {
    /// The picture was made.
    Done {
        /// The archive that holds the files, relative to the run, in webdataset format.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        archive: Option<String>,
        /// The files by role: `image`, `mask`, `overlay`, `heatmap.NOUN`, `record`, `compare.METHOD`.
        files: BTreeMap<String, FileRef>,
        /// The share of the picture that the last mask covers, 0 to 1, where there is a mask.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        mask_coverage: Option<f64>,
        /// What can be measured on the spot, where the task gives a region: `outside_psnr`, and `outside_psnr.METHOD` of
        /// a comparison: PSNR in dB against the reference outside that region, 0 to 100.
        #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
        scores: BTreeMap<String, f64>,
        /// What the run asked to be measured, by name (docs/evaluation.md). One that this picture cannot have is absent.
        #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
        measures: BTreeMap<String, f64>,
        /// Whether the picture fulfils the run's condition; where there is none, nothing.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        accepted: Option<bool>,
        /// Every picture that was made of the task until one was accepted, in the order of their seeds; the one that is kept
        /// has the outcome's seed. Where there is no condition, none.
        #[serde(skip_serializing_if = "Vec::is_empty", default)]
        tries: Vec<Try>,
        /// What the user should know, such as an empty mask or a truncated prompt.
        #[serde(skip_serializing_if = "Vec::is_empty", default)]
        warnings: Vec<String>,
    },
    /// No picture.
    Failed(TaskError),
}

impl Outcome {
    /// Whether there is a picture.
    pub fn is_done(&self) -> bool {
        matches!(self, Self::Done { .. })
    }
}

/// The outcome of one task, as it stands in commit markers and, one a line, in `results.jsonl` and `errors.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Flat")]
pub struct TaskOutcome {
    /// The task's place in the manifest.
    pub task: TaskIndex,
    /// The user's name of it.
    pub custom_id: CustomId,
    /// The seed that was used.
    pub seed: Seed,
    /// How it ended.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// The columns of its row that are the user's own.
    #[serde(skip_serializing_if = "Extra::is_empty")]
    pub extra: Extra,
}

/// A [`TaskOutcome`] as it is written: one object, `status` saying which fields there are. Read like this, field by field,
/// because serde reads what is flattened and tagged through a copy of all of it, and ten million are read at a run's end.
#[derive(Deserialize)]
struct Flat {
    task: TaskIndex,
    custom_id: CustomId,
    seed: Seed,
    status: Status,
    #[serde(default)]
    archive: Option<String>,
    files: Option<BTreeMap<String, FileRef>>,
    #[serde(default)]
    mask_coverage: Option<f64>,
    #[serde(default)]
    scores: BTreeMap<String, f64>,
    #[serde(default)]
    measures: BTreeMap<String, f64>,
    #[serde(default)]
    accepted: Option<bool>,
    #[serde(default)]
    tries: Vec<Try>,
    #[serde(default)]
    warnings: Vec<String>,
    code: Option<ErrorCode>,
    message: Option<String>,
    retryable: Option<bool>,
    #[serde(default)]
    extra: Extra,
}

/// How a task ended, as far as it counts; what was made is passed over.
#[allow(clippy::large_enum_variant, reason = "read, taken apart and gone")]
#[derive(Debug, Deserialize)]
#[serde(try_from = "FlatEnd")]
pub(crate) enum TaskEnd {
    Done { accepted: Option<bool>, tries: usize },
    Failed(TaskOutcome),
}

/// A [`TaskOutcome`] of which only a failure is read.
#[derive(Deserialize)]
struct FlatEnd {
    task: TaskIndex,
    custom_id: String,
    seed: Seed,
    status: Status,
    files: Option<IgnoredAny>,
    #[serde(default)]
    accepted: Option<bool>,
    #[serde(default)]
    tries: Vec<IgnoredAny>,
    code: Option<ErrorCode>,
    message: Option<String>,
    retryable: Option<bool>,
    #[serde(default)]
    extra: Extra,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Status {
    Done,
    Failed,
}

impl TryFrom<Flat> for TaskOutcome {
    type Error = String;

    fn try_from(flat: Flat) -> Result<Self, String> {
        let Flat { task, custom_id, seed, status, archive, files, mask_coverage, warnings, extra, .. } = flat;
        let Flat { scores, measures, accepted, tries, .. } = flat;
        let outcome = match status {
            Status::Done => {
                let files = files.ok_or_else(|| missing(custom_id.as_str(), "files"))?;
                Outcome::Done { archive, files, mask_coverage, scores, measures, accepted, tries, warnings }
            }
            Status::Failed => Outcome::Failed(failure(custom_id.as_str(), flat.code, flat.message, flat.retryable)?),
        };
        Ok(Self { task, custom_id, seed, outcome, extra })
    }
}

impl TryFrom<FlatEnd> for TaskEnd {
    type Error = String;

    fn try_from(flat: FlatEnd) -> Result<Self, String> {
        let FlatEnd { task, custom_id, seed, status, files, accepted, tries, code, message, retryable, extra } = flat;
        match status {
            Status::Done if files.is_none() => Err(missing(&custom_id, "files")),
            Status::Done => Ok(Self::Done { accepted, tries: tries.len() }),
            Status::Failed => {
                let error = failure(&custom_id, code, message, retryable)?;
                let custom_id = CustomId::new(custom_id).map_err(|error| error.to_string())?;
                Ok(Self::Failed(TaskOutcome { task, custom_id, seed, outcome: Outcome::Failed(error), extra }))
            }
        }
    }
}

fn failure(
    id: &str,
    code: Option<ErrorCode>,
    message: Option<String>,
    retryable: Option<bool>,
) -> Result<TaskError, String> {
    let (code, message) = (code.ok_or_else(|| missing(id, "code"))?, message.ok_or_else(|| missing(id, "message"))?);
    Ok(TaskError { code, message, retryable: retryable.ok_or_else(|| missing(id, "retryable"))? })
}

fn missing(id: &str, field: &str) -> String {
    format!("the outcome of {id} has no {field}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_written_code_is_the_serde_name() {
        for code in ErrorCode::ALL {
            assert_eq!(serde_json::to_value(code).unwrap(), code.as_str());
            assert_eq!(code.as_str().parse::<ErrorCode>(), Ok(*code));
        }
        assert!(
            "posion"
                .parse::<ErrorCode>()
                .unwrap_err()
                .starts_with("\"posion\" is not an error code; the codes are refer")
        );
    }

    #[test]
    fn an_outcome_survives_its_json() {
        let outcome = TaskOutcome {
            task: TaskIndex(3),
            custom_id: CustomId::new("a").unwrap(),
            seed: Seed::new(7).unwrap(),
            outcome: Outcome::Failed(TaskError::transient(ErrorCode::ModelError, "the device was busy")),
            extra: serde_json::from_str(r#"{"licence":"CC0"}"#).unwrap(),
        };
        let json = serde_json::to_string(&outcome).unwrap();
        assert_eq!(serde_json::from_str::<TaskOutcome>(&json).unwrap(), outcome);
        assert!(json.contains(r#""status":"failed""#) && json.contains(r#""code":"model_error""#), "{json}");
        let file = FileRef { path: "a.png".to_owned(), sha256: Sha256Hex::of(b"a"), bytes: 1 };
        let done = Outcome::Done {
            archive: Some("shards/x.tar".to_owned()),
            files: [("image".to_owned(), file)].into(),
            mask_coverage: Some(0.25),
            scores: [("outside_psnr".to_owned(), 31.5)].into(),
            measures: [("clip".to_owned(), 27.5)].into(),
            accepted: Some(false),
            tries: vec![Try {
                seed: Seed::new(7).unwrap(),
                measures: [("clip".to_owned(), 27.5)].into(),
                accepted: false,
                error: None,
            }],
            warnings: vec!["an empty mask".to_owned()],
        };
        let outcome = TaskOutcome { outcome: done, ..outcome };
        let json = serde_json::to_string(&outcome).unwrap();
        assert_eq!(serde_json::from_str::<TaskOutcome>(&json).unwrap(), outcome);
    }

    #[test]
    fn an_outcome_without_what_its_status_needs_is_refused_with_its_name() {
        let read = |rest: &str| {
            let json = format!("{{\"task\":3,\"custom_id\":\"a\",\"seed\":7,{rest}}}");
            serde_json::from_str::<TaskOutcome>(&json).map_err(|error| error.to_string())
        };
        for (rest, missing) in [
            (r#""status":"done""#, "a has no files"),
            (r#""status":"failed","message":"busy","retryable":true"#, "a has no code"),
            (r#""status":"failed","code":"model_error","message":"busy""#, "a has no retryable"),
        ] {
            assert!(read(rest).unwrap_err().contains(missing), "{rest}");
        }
        assert!(read(r#""status":"gone""#).is_err() && read(r#""files":{}"#).is_err());
        assert!(read(r#""status":"done","files":{},"later":1"#).is_ok(), "what a later version adds is passed over");
    }
}
