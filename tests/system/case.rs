//! A folder with references and a manifest, and the program to run on it.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use diorama_tests::children::{self, PATIENCE, Process};
use serde_json::{Value, json};
use tempfile::TempDir;

pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_diorama-under-test");

pub(crate) struct Case {
    folder: TempDir,
}

impl Case {
    /// Three small references, a region of them (the left half) and an empty place for manifests.
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for n in 0..3u8 {
            let shade = |x: u32, y: u32| image::Rgb([n * 80, (x * 4) as u8, (y * 4) as u8]);
            image::RgbImage::from_fn(48, 32, shade).save(folder.path().join(format!("place-{n}.png"))).unwrap();
        }
        let left = |x: u32, _: u32| image::Luma([if x < 24 { 255 } else { 0 }]);
        image::GrayImage::from_fn(48, 32, left).save(folder.path().join("left-half.png")).unwrap();
        Self { folder }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes `rows.jsonl` with `count` good rows.
    pub(crate) fn manifest(&self, count: usize) {
        let row = |n: usize| {
            json!({"custom_id": format!("row-{n:03}"), "reference": format!("place-{}.png", n % 3),
                   "prompt": format!("seagull number {n}")})
        };
        self.write_rows(&(0..count).map(row).collect::<Vec<_>>());
    }

    pub(crate) fn write_rows(&self, rows: &[Value]) {
        let lines: Vec<String> = rows.iter().map(Value::to_string).collect();
        fs::write(self.path("rows.jsonl"), lines.join("\n")).unwrap();
    }

    /// The program in this folder, with nothing of the caller's configuration.
    pub(crate) fn diorama(&self, arguments: &[&str]) -> Command {
        let mut command = children::command(PROGRAM);
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("DIORAMA_")) {
            command.env_remove(name);
        }
        // Tests run side by side: each program keeps to one core, and waits without spinning.
        command.env("OMP_NUM_THREADS", "1").env("OMP_WAIT_POLICY", "PASSIVE");
        command.env("XDG_CACHE_HOME", self.path("caches"));
        command.args(arguments).current_dir(self.folder.path());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// `run rows.jsonl --out OUT --engine synthetic` and more.
    pub(crate) fn run(&self, out: &str, more: &[&str]) -> Command {
        self.diorama(&[&["run", "rows.jsonl", "--out", out, "--engine", "synthetic"], more].concat())
    }
}

/// How a program ended.
#[derive(Debug)]
pub(crate) struct End {
    /// `None` where a signal killed it.
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl End {
    pub(crate) fn of(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    #[track_caller]
    pub(crate) fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{}\n{}", self.stdout, self.stderr);
        self
    }

    /// The last line of standard output, which `--json` makes.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(self.stdout.trim_end().lines().last().unwrap()).unwrap()
    }
}

/// Starts it.
pub(crate) fn start(command: &mut Command) -> Process {
    Process::spawn(command, "build it: cargo build -p diorama-tests")
}

/// Runs to the end.
#[track_caller]
pub(crate) fn end(command: &mut Command) -> End {
    wait(start(command))
}

/// Waits for the end; kills what hangs, and says so.
#[track_caller]
pub(crate) fn wait(process: Process) -> End {
    End::of(process.output(PATIENCE))
}

/// Waits until `condition` holds.
#[track_caller]
pub(crate) fn until(what: &str, condition: impl Fn() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < PATIENCE, "{what}: did not happen within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// What is in a file. Two that differ are told apart by a few digits, not by pages of bytes.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Contents(pub(crate) Vec<u8>);

impl fmt::Debug for Contents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut hasher = DefaultHasher::new();
        self.0.hash(&mut hasher);
        write!(f, "{} bytes #{:08x}", self.0.len(), hasher.finish() as u32)
    }
}

/// Every file below `folder`, by path; none where there is no such folder. What goes away meanwhile is left out: a
/// program may be at work in there.
pub(crate) fn tree(folder: &Path) -> BTreeMap<String, Contents> {
    let mut files = BTreeMap::new();
    for entry in there(fs::read_dir(folder)).into_iter().flatten() {
        let Some(entry) = there(entry) else { continue };
        let name = entry.file_name().to_str().unwrap().to_owned();
        if there(entry.file_type()).is_some_and(|kind| kind.is_dir()) {
            files.extend(tree(&entry.path()).into_iter().map(|(rest, bytes)| (format!("{name}/{rest}"), bytes)));
        } else if let Some(bytes) = there(fs::read(entry.path())) {
            files.insert(name, Contents(bytes));
        }
    }
    files
}

/// `None` where it is gone.
#[track_caller]
fn there<T>(result: io::Result<T>) -> Option<T> {
    match result {
        Ok(it) => Some(it),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => panic!("{error}"),
    }
}

/// The objects of a JSONL file.
pub(crate) fn lines(path: &Path) -> Vec<Value> {
    fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Every outcome of a finished run, by id, without the archive's name, which tells attempts apart; panics where a task
/// has two.
pub(crate) fn outcomes(out: &Path) -> BTreeMap<String, Value> {
    let mut outcomes = BTreeMap::new();
    for mut outcome in [lines(&out.join("results.jsonl")), lines(&out.join("errors.jsonl"))].concat() {
        outcome.as_object_mut().unwrap().remove("archive");
        let id = outcome["custom_id"].as_str().unwrap().to_owned();
        assert_eq!(outcomes.insert(id.clone(), outcome), None, "{id} has two outcomes");
    }
    outcomes
}

/// What a run made, without what may differ between two runs of the same manifest: times, ids and the page.
pub(crate) fn pictures(out: &Path) -> BTreeMap<String, Contents> {
    let folders = ["images/", "masks/", "overlays/", "heatmaps/", "records/", "compare/"];
    tree(out).into_iter().filter(|(path, _)| folders.iter().any(|folder| path.starts_with(folder))).collect()
}
