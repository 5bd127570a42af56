//! Folders as a run leaves them, with small drawn pictures.

use std::path::{Path, PathBuf};

use diorama_core::picture::{Gray8, Rgb8};
use diorama_evaluation::evaluator::Evaluator;
use diorama_evaluation::networks::Networks;
use diorama_evaluation::report::{self, Preset, Report};
use diorama_evaluation::row::Row;
use diorama_evaluation::run::{Evaluation, ROWS, Request, evaluate};
use diorama_evaluation::source::{Opening, labels};
use diorama_picture::{encode_gray, encode_rgb};
use serde_json::json;

pub(crate) const SIDE: u32 = 48;

/// A place, and a picture of it that differs by `by` in the left half and by `background` in the right one.
pub(crate) fn scene(by: u8, background: u8) -> Rgb8 {
    let value = |at: u32| {
        let (x, y) = (at % SIDE, at / SIDE);
        let base = (40 + 3 * x + y) as u8;
        base.saturating_add(if x < SIDE / 2 { by } else { background })
    };
    Rgb8 { width: SIDE, height: SIDE, data: (0..SIDE * SIDE).flat_map(|at| [value(at), value(at) / 2, 90]).collect() }
}

/// White in the left half.
pub(crate) fn left_half() -> Gray8 {
    let data = (0..SIDE * SIDE).map(|at| if at % SIDE < SIDE / 2 { 255 } else { 0 }).collect();
    Gray8 { width: SIDE, height: SIDE, data }
}

/// A run's folder under way.
pub(crate) struct Run {
    pub(crate) folder: tempfile::TempDir,
    results: String,
    tasks: u64,
}

impl Run {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("references/natural/forest")).unwrap();
        put(&folder.path().join("references/natural/forest/1.png"), &scene(0, 0));
        Self { folder, results: String::new(), tasks: 0 }
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// A task with its picture and, for comparison, others by method.
    pub(crate) fn task(&mut self, id: &str, picture: &Rgb8, compared: &[(&str, Rgb8)]) {
        let mut files = serde_json::Map::new();
        let mut add = |role: &str, path: String, bytes: &[u8]| {
            let to = self.folder.path().join(&path);
            std::fs::create_dir_all(to.parent().unwrap()).unwrap();
            std::fs::write(to, bytes).unwrap();
            let sha256 = diorama_core::id::Sha256Hex::of(bytes);
            files.insert(role.to_owned(), json!({ "path": path, "sha256": sha256, "bytes": bytes.len() }));
        };
        add("image", format!("images/{id}.png"), &encode_rgb(picture).unwrap());
        for (method, picture) in compared {
            add(&format!("compare.{method}"), format!("compare/{id}.{method}.png"), &encode_rgb(picture).unwrap());
        }
        let reference = "references/natural/forest/1.png";
        let bytes = std::fs::read(self.folder.path().join(reference)).unwrap();
        let record = json!({
            "version": 1, "custom_id": id, "prompt": format!("a <b>deer</b> & {id}"), "subjects": [], "seed": 7,
            "reference": { "source": reference, "sha256": diorama_core::id::Sha256Hex::of(&bytes), "width": SIDE, "height": SIDE },
            "settings": {}, "edits": [], "warnings": [],
            "generator": { "engine": "t", "library": "", "model": "m", "model_sha256": "", "device": "cpu", "dtype": "f32", "batch_size": 1 },
            "task": { "index": self.tasks, "custom_id": id, "reference": { "file": reference }, "prompt": "p", "seed": 7, "settings": {} },
        });
        add("record", format!("records/{id}.json"), record.to_string().as_bytes());
        let line = json!({ "task": self.tasks, "custom_id": id, "seed": 7, "status": "done", "files": files, "mask_coverage": 0.25 });
        self.results += &format!("{line}\n");
        self.tasks += 1;
        std::fs::write(self.folder.path().join("results.jsonl"), &self.results).unwrap();
    }

    pub(crate) fn failed(&self, id: &str) {
        let line = json!({
            "task": 99, "custom_id": id, "seed": 7, "status": "failed", "code": "no_subject", "message": "m", "retryable": false,
        });
        std::fs::write(
            self.path().join("errors.jsonl"),
            format!("{line}\n{{\"status\":\"invalid\",\"line\":3,\"code\":\"empty_prompt\",\"message\":\"m\"}}\n"),
        )
        .unwrap();
    }
}

pub(crate) fn put(path: &Path, picture: &Rgb8) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, encode_rgb(picture).unwrap()).unwrap();
}

pub(crate) fn put_mask(path: &Path, mask: &Gray8) {
    std::fs::write(path, encode_gray(mask).unwrap()).unwrap();
}

/// A request that takes references from the first folder.
pub(crate) fn request(folders: &[&Path], out: &Path) -> Request {
    let paths: Vec<PathBuf> = folders.iter().map(|path| (*path).to_owned()).collect();
    let references = Some(folders[0].to_owned()).filter(|folder| folder.join("references").is_dir());
    Request {
        sources: paths.iter().cloned().zip(labels(&paths)).collect(),
        opening: Opening { references, about: Default::default() },
        region: None,
        clean: false,
        out: out.to_owned(),
    }
}

pub(crate) struct Done {
    pub(crate) rows: Vec<Row>,
    pub(crate) evaluation: Evaluation,
    pub(crate) report: Report,
}

pub(crate) fn run(request: &Request) -> Done {
    let mut evaluator = Evaluator::new(Networks::none());
    let evaluation = evaluate(request, &mut evaluator, &|| false, &mut |_, _| ()).unwrap();
    let report = report::write(&request.out, &evaluation, Preset::All).unwrap();
    Done { rows: rows(&request.out), evaluation, report }
}

pub(crate) fn rows(out: &Path) -> Vec<Row> {
    let text = std::fs::read_to_string(out.join(ROWS)).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}
