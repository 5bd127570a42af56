//! What `make fleet` runs once everything is built: it shows the whole way, stays up where that is asked for, and leaves
//! nothing behind, whenever it is stopped.

use std::fs;
use std::io::Read;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use diorama_tests::children::{self, Process};
use diorama_tests::services::free_port;
use rustix::process::Signal;
use serde_json::json;

use super::turns::{self, Turn};
use crate::case::{Case, PROGRAM, lines, until};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// A script at work, as if started in a terminal of its own.
struct Script {
    case: Case,
    process: Process,
    _turn: Turn,
}

impl Script {
    fn start(variables: &[(&str, &str)]) -> Self {
        Self::start_by("exec \"$0\"", variables)
    }

    /// Starts it by a line of shell, in which `$0` is the script.
    fn start_by(line: &str, variables: &[(&str, &str)]) -> Self {
        let turn = turns::share();
        let case = Case::new();
        for folder in ["bin", "temporary"] {
            fs::create_dir(case.path(folder)).unwrap();
        }
        symlink(PROGRAM, case.path("bin/diorama")).unwrap();
        symlink(env!("CARGO_BIN_EXE_diorama-services"), case.path("bin/diorama-services")).unwrap();
        let row = |n: usize| {
            json!({"custom_id": format!("row-{n}"), "reference": format!("place-{n}.png"),
                   "prompt": "a red circle on a beach", "steps": 5, "edit_steps": [2]})
        };
        case.write_rows(&(0..3).map(row).collect::<Vec<_>>());
        let mut command = children::command("sh");
        command
            .args(["-c", line])
            .arg(Path::new(ROOT).join("scripts/fleet"))
            .env("BIN", case.path("bin"))
            .env("MANIFEST", case.path("rows.jsonl"))
            .env("OUT", case.path("out"))
            .env("PORT", free_port().to_string())
            .env("TMPDIR", case.path("temporary"))
            .env("OMP_NUM_THREADS", "1")
            .env("OMP_WAIT_POLICY", "PASSIVE")
            .envs(variables.iter().copied())
            .stdout(fs::File::create(case.path("stdout")).unwrap())
            .stderr(fs::File::create(case.path("stderr")).unwrap());
        let process = Process::spawn(&mut command, "install a shell");
        Self { case, process, _turn: turn }
    }

    fn said(&self) -> String {
        ["stdout", "stderr"].map(|name| fs::read_to_string(self.case.path(name)).unwrap()).concat()
    }

    /// What is in a file of its working folder, as soon as there is one.
    fn file(&self, name: &str) -> String {
        let folders = fs::read_dir(self.case.path("temporary")).unwrap().map(|folder| folder.unwrap().path());
        folders.filter_map(|folder| fs::read_to_string(folder.join(name)).ok()).collect()
    }

    /// Ctrl-C: a signal to everything in the foreground of its terminal. Then nothing of it is left.
    #[track_caller]
    fn stop(mut self) {
        self.stop_by(Signal::INT);
    }

    #[track_caller]
    fn stop_by(&mut self, signal: Signal) {
        self.process.signal(signal);
        let logs = [self.said(), self.file("coordinator.log"), self.file("worker-1.log")].concat();
        let end = self.process.until_ended(|| logs);
        assert_eq!(end.code(), Some(130), "{}", self.said());
        let temporary = self.case.path("temporary");
        let left: Vec<_> = fs::read_dir(&temporary).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(left.is_empty(), "{left:?} is left");
        until("every process has ended", || processes_with(&temporary).is_empty());
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // In good order if it can: what it started is in groups of its own, and ends with it.
            self.process.signal(Signal::TERM);
            let _ = self.process.end_within(Duration::from_secs(30));
        }
    }
}

/// The processes that were started with this folder for temporary files.
fn processes_with(temporary: &Path) -> Vec<String> {
    let wanted = format!("TMPDIR={}", temporary.display());
    let processes = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok());
    let is_ours = |path: &Path| {
        let mut environment = Vec::new();
        let read = fs::File::open(path.join("environ")).and_then(|mut file| file.read_to_end(&mut environment));
        read.is_ok() && environment.split(|byte| *byte == 0).any(|variable| variable == wanted.as_bytes())
    };
    processes.map(|entry| entry.path()).filter(|path| is_ours(path)).map(|path| path.display().to_string()).collect()
}

#[test]
fn the_fleet_of_one_command_makes_and_verifies_the_pictures_stays_up_and_leaves_nothing() {
    let script = Script::start(&[("KEEP", "1")]);
    until("it stays up", || script.said().contains("logs:"));
    let said = script.said();
    assert!(
        said.contains("the fleet stays up until Ctrl-C")
            && said.contains("/openapi.json")
            && said.contains("DIORAMA_AMQP_URL"),
        "{said}"
    );
    let results = lines(&script.case.path("out/results.jsonl"));
    assert_eq!(results.len(), 3, "{said}");
    for result in results {
        let image = result["files"]["image"]["path"].as_str().unwrap().to_owned();
        assert_eq!(image::open(script.case.path("out").join(image)).unwrap().width(), 64);
    }
    assert!(!processes_with(&script.case.path("temporary")).is_empty(), "this would not see what is left");
    script.stop();
}

#[test]
fn a_fleet_of_one_command_that_is_stopped_while_its_workers_start_leaves_nothing() {
    let script = Script::start(&[]);
    until("a worker starts", || !script.file("worker-2.log").is_empty());
    script.stop();
}

#[test]
fn a_fleet_of_one_command_that_is_started_with_signals_ignored_is_stopped_by_each_of_them() {
    for signal in [Signal::INT, Signal::TERM] {
        // As `make fleet &` in a script does.
        let mut script = Script::start_by("trap '' INT QUIT; exec \"$0\"", &[]);
        until("a worker starts", || !script.file("worker-2.log").is_empty());
        script.stop_by(signal);
    }
}
