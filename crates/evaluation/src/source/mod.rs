//! Where pictures come from: the folder of `diorama run`, what `diorama results --to` wrote, or a plain folder of
//! pictures. A source knows its pictures by custom_id and reads one task at a time.

mod about;
mod place;
mod plain;
mod run;
mod text;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use about::About;
use diorama_core::fit::Placement;
use diorama_core::id::Sha256Hex;
pub use place::{Place, Reader};

use crate::error::{Error, Result};

/// One picture and what belongs to it, not read yet.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Whose picture it is.
    pub series: String,
    /// The user's name of the task.
    pub custom_id: String,
    /// The prompt, where it is known.
    pub prompt: Option<String>,
    /// What it is filed under.
    pub scene: Option<String>,
    /// What its scene is filed under.
    pub category: Option<String>,
    /// The picture.
    pub picture: Place,
    /// The reference, or why there is none.
    pub reference: Result<ReferenceFile, String>,
    /// Where the subject may be, as the manifest has it.
    pub region: Option<PathBuf>,
    /// The seed of its noise.
    pub seed: Option<u64>,
    /// The share of the picture that its mask covers.
    pub coverage: Option<f64>,
}

/// A reference on this machine.
#[derive(Debug, Clone)]
pub struct ReferenceFile {
    /// Where it lies.
    pub path: PathBuf,
    /// What its bytes were when the picture was made.
    pub sha256: Option<Sha256Hex>,
    /// Which part of it the picture was made from; where that is not known, all of it.
    pub used: Option<Placement>,
}

/// What is to be opened, and what the user says about it.
#[derive(Debug, Clone, Default)]
pub struct Opening {
    /// Where references lie, where the source does not say.
    pub references: Option<PathBuf>,
    /// What is known of pictures by custom_id.
    pub about: Arc<About>,
}

/// A source of pictures.
pub struct Source {
    /// What its series is called.
    pub label: String,
    /// The custom_ids that have pictures, in the manifest's order.
    pub ids: Vec<String>,
    /// Tasks without pictures: custom_id and why.
    pub failed: Vec<(String, String)>,
    kind: Kind,
    places: HashMap<String, usize>,
}

enum Kind {
    Run(run::Run),
    Plain(plain::Plain),
}

impl Source {
    /// Opens a folder.
    ///
    /// # Errors
    /// [`Error::Input`] where there is nothing to evaluate, and why.
    pub fn open(path: &Path, label: &str, opening: &Opening) -> Result<Self> {
        if !path.is_dir() {
            return Err(Error::input(path, "is not a folder; name the folder of a run or one that holds pictures"));
        }
        let (ids, failed, kind) = if path.join("results.jsonl").is_file() {
            let (run, ids, failed) = run::Run::open(path, label, opening)?;
            (ids, failed, Kind::Run(run))
        } else if path.join("run.json").is_file() {
            let problem = "has no results.jsonl: the run has not ended; run the same command to resume it";
            return Err(Error::input(path, problem));
        } else {
            let (plain, ids) = plain::Plain::open(path, label, opening)?;
            (ids, Vec::new(), Kind::Plain(plain))
        };
        let mut places = HashMap::with_capacity(ids.len());
        for (at, id) in ids.iter().enumerate() {
            if places.insert(id.clone(), at).is_some() {
                return Err(Error::input(path, format!("has two pictures of {id:?}")));
            }
        }
        Ok(Self { label: label.to_owned(), ids, failed, kind, places })
    }

    /// Whether it has pictures of this task.
    pub fn has(&self, custom_id: &str) -> bool {
        self.places.contains_key(custom_id)
    }

    /// The pictures of a task: its own first, then those that it was compared with. None of a task that it has not.
    ///
    /// # Errors
    /// [`Error::Input`] where what it says of the task cannot be read.
    pub fn entries(&mut self, custom_id: &str) -> Result<Vec<Entry>> {
        let Some(at) = self.places.get(custom_id) else { return Ok(Vec::new()) };
        match &mut self.kind {
            Kind::Run(run) => run.entries(*at),
            Kind::Plain(plain) => Ok(vec![plain.entry(*at)]),
        }
    }
}

/// Labels for folders: their last components, made different by numbers.
pub fn labels(paths: &[PathBuf]) -> Vec<String> {
    let name = |path: &PathBuf| {
        let whole = path.canonicalize().unwrap_or_else(|_| path.clone());
        whole.file_name().map_or_else(|| "run".to_owned(), |name| name.to_string_lossy().into_owned())
    };
    let names: Vec<String> = paths.iter().map(name).collect();
    let mut labels: Vec<String> = Vec::new();
    for name in &names {
        // Not the name of any folder either, which may end in a number itself.
        let numbered = (2..).map(|count| format!("{name}-{count}"));
        let free = |label: &String| !labels.contains(label) && (label == name || !names.contains(label));
        let next = std::iter::once(name.clone()).chain(numbered).find(free);
        labels.extend(next);
    }
    labels
}
