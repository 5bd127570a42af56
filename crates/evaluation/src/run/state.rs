//! How far an evaluation has come: beside its rows, so that the same command goes on, and another begins anew.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use diorama_picture::whole;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tch::Tensor;

use super::{Request, stamp};
use crate::error::{Error, Result};
use crate::evaluator::Evaluator;
use crate::sets::SetSums;

/// It also shows whose folder this is.
pub const FILE: &str = ".evaluation.json";
const SUMS: &str = ".evaluation.safetensors";

/// What is kept.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct State {
    /// What the evaluation is of, as a digest.
    identity: String,
    /// Tasks that are done.
    pub(super) done: usize,
    /// The length of the rows' file after them.
    pub(super) bytes: u64,
    pub(super) measured: u64,
    pub(super) problems: u64,
    #[serde(default)]
    pub(super) near_duplicates: u64,
    pub(super) series: Vec<String>,
    /// References that are in the sums.
    pub(super) references: BTreeSet<String>,
    /// The digest of the sums that belong to it.
    sums: Option<String>,
    #[serde(skip)]
    pub(super) sets: BTreeMap<String, SetSums>,
}

impl State {
    /// The state of the same evaluation, else one that has not begun.
    pub(super) fn load_or_new(request: &Request, evaluator: &Evaluator, ids: &[String]) -> Result<Self> {
        let identity = identity(request, evaluator, ids);
        let fresh = Self { identity: identity.clone(), ..Self::default() };
        let Ok(bytes) = std::fs::read(request.out.join(FILE)) else { return Ok(fresh) };
        let Ok(mut state) = serde_json::from_slice::<Self>(&bytes) else { return Ok(fresh) };
        let length = std::fs::metadata(request.out.join(super::ROWS)).map_or(0, |metadata| metadata.len());
        if state.identity != identity || length < state.bytes {
            return Ok(fresh);
        }
        if let Some(wanted) = &state.sums {
            let path = request.out.join(SUMS);
            let Ok(bytes) = std::fs::read(&path) else { return Ok(fresh) };
            if hex(&Sha256::digest(&bytes)) != *wanted {
                return Ok(fresh);
            }
            let tensors: BTreeMap<String, Tensor> = Tensor::read_safetensors(&path)?.into_iter().collect();
            let names: BTreeSet<&str> =
                tensors.keys().filter_map(|name| Some(name.rsplit_once('.')?.0.rsplit_once('.')?.0)).collect();
            for name in names {
                state.sets.insert(name.to_owned(), SetSums::from_tensors(&tensors, name)?);
            }
        }
        Ok(state)
    }

    /// Writes it, the sums first.
    pub(super) fn write(&mut self, out: &Path) -> Result<()> {
        let mut tensors = Vec::new();
        for (name, sums) in &self.sets {
            tensors.extend(sums.tensors(name)?);
        }
        if !tensors.is_empty() {
            let path = out.join(SUMS);
            let disk = |error| Error::disk(&path, error);
            let draft = whole::draft(&path).map_err(disk)?;
            Tensor::write_safetensors(&tensors, draft.path())?;
            let bytes = std::fs::read(draft.path()).map_err(disk)?;
            self.sums = Some(hex(&Sha256::digest(&bytes)));
            draft.persist(&path).map_err(|error| disk(error.error))?;
        }
        let path = out.join(FILE);
        let bytes = serde_json::to_vec(self).unwrap_or_default();
        whole::put(&path, &bytes).map_err(|error| Error::disk(&path, error))
    }
}

/// The folders of a run that its rows are made from.
const OF_A_RUN: [&str; 4] = ["images", "compare", "records", "shards"];

/// Everything that rows depend on; of files, when they were written last.
fn identity(request: &Request, evaluator: &Evaluator, ids: &[String]) -> String {
    let mut digest = Sha256::new();
    let mut add = |text: &str| {
        digest.update((text.len() as u64).to_le_bytes());
        digest.update(text.as_bytes());
    };
    let out = request.out.canonicalize().unwrap_or_else(|_| request.out.clone());
    add(env!("CARGO_PKG_VERSION"));
    for (path, label) in &request.sources {
        let whole = path.canonicalize().unwrap_or_else(|_| path.clone());
        add(&whole.display().to_string());
        add(label);
        // A run that went on has other results.
        for name in ["results.jsonl", "errors.jsonl"] {
            add(&std::fs::read(path.join(name)).map_or_else(|_| String::new(), |bytes| hex(&Sha256::digest(bytes))));
        }
        match path.join("results.jsonl").is_file() {
            true => OF_A_RUN.iter().for_each(|folder| stamp::files(&path.join(folder), &out, &mut add)),
            false => stamp::files(path, &out, &mut add),
        }
    }
    for named in request.region.iter().chain(&request.opening.references) {
        stamp::files(named, &out, &mut add);
    }
    add(&format!("{:?} {:?} {}", request.region, request.opening.references, request.clean));
    add(request.opening.about.digest());
    for (kind, weights) in &evaluator.networks().loaded {
        add(kind.folder());
        add(&hex(weights));
    }
    ids.iter().for_each(|id| add(id));
    hex(&digest.finalize())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
