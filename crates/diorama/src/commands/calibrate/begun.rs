//! What a folder of work belongs to, so that the same command goes on and another is refused.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::rows::unwritable;
use super::search::Candidate;
use crate::exit::Failure;

const FILE: &str = "calibration.json";

/// A calibration that has begun.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Begun {
    /// Everything that its pictures and figures depend on.
    identity: Value,
    /// The settings that were in force when it began: at its end the model's file may hold others.
    pub(super) in_force: Candidate,
}

impl Begun {
    /// The one that began in this folder, else a new one.
    ///
    /// # Errors
    /// Where another one began there.
    pub(super) fn or_new(work: &Path, identity: Value, in_force: Candidate) -> Result<Self, Failure> {
        let path = work.join(FILE);
        let known = fs::read(&path).ok().and_then(|bytes| serde_json::from_slice::<Self>(&bytes).ok());
        match known {
            Some(known) if known.identity == identity => Ok(known),
            Some(known) => Err(Failure::permanent(anyhow::anyhow!(
                "{} holds another calibration (of another {}); name another folder with --work, or remove this one",
                work.display(),
                differing(&known.identity, &identity)
            ))),
            None => {
                let new = Self { identity, in_force };
                let bytes = serde_json::to_vec_pretty(&new).map_err(Failure::permanent)?;
                fs::write(&path, bytes).map_err(|error| unwritable(&path, error))?;
                Ok(new)
            }
        }
    }
}

/// What two calibrations do not have in common.
fn differing(known: &Value, asked: &Value) -> String {
    let parts = |value: &Value| -> Vec<(String, Value)> {
        let conditions = value["conditions"].as_object().into_iter().flatten();
        let own = value.as_object().into_iter().flatten().filter(|(key, _)| *key != "conditions");
        conditions.chain(own).map(|(key, value)| (key.clone(), value.clone())).collect()
    };
    let known = parts(known);
    let is_new = |part: &(String, Value)| !known.contains(part);
    parts(asked).into_iter().filter(is_new).map(|(key, _)| key).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use diorama_core::settings::Score;
    use serde_json::json;

    use super::*;

    #[test]
    fn the_same_calibration_goes_on_from_the_settings_it_began_with_and_another_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let candidate =
            |threshold| Candidate { score: Score::AbsGrad, layers: Vec::new(), threshold, edit_steps: vec![1] };
        let identity = |budget: u32| json!({ "budget": budget, "conditions": { "model_sha256": "ab" } });
        Begun::or_new(folder.path(), identity(200), candidate(0.5)).unwrap();
        let again = Begun::or_new(folder.path(), identity(200), candidate(1.5)).unwrap();
        assert_eq!(again.in_force, candidate(0.5));
        let other = Begun::or_new(folder.path(), identity(100), candidate(0.5)).unwrap_err().to_string();
        assert!(other.contains("another budget") && other.contains("--work"), "{other}");
    }
}
