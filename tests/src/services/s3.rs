//! A private S3 server: the program `diorama-s3` over a folder, with faults that a test switches.

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use super::{Process, free_port, wait_until};

/// The one bucket that is there from the start.
pub const BUCKET: &str = "diorama";

/// The key's id.
pub const ACCESS_KEY: &str = "AKDIORAMATEST";

/// The secret key.
pub const SECRET_KEY: &str = "not-so-secret-key-of-the-tests";

/// What goes wrong at the server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Faults {
    /// The share of requests that are answered with 503.
    pub refuse: f64,
    /// Milliseconds that every request waits.
    pub delay_ms: u64,
    /// `If-None-Match` is ignored, as some stores do.
    pub ignore_conditions: bool,
}

/// A server.
pub struct S3Server {
    folder: TempDir,
    program: PathBuf,
    port: u16,
    process: Option<Process>,
}

impl S3Server {
    /// Starts `program`, the built `diorama-s3`.
    pub fn start(program: &Path) -> Self {
        let folder = tempfile::Builder::new().prefix("diorama-s3-").tempdir().unwrap();
        fs::create_dir_all(folder.path().join("objects").join(BUCKET)).unwrap();
        let mut server = Self { folder, program: program.to_owned(), port: free_port(), process: None };
        server.set(Faults::default());
        server.start_again();
        server
    }

    fn faults(&self) -> PathBuf {
        self.folder.path().join("faults.json")
    }

    /// Sets what goes wrong from now on.
    pub fn set(&self, faults: Faults) {
        // As a whole: the server reads it at any time.
        let part = self.faults().with_extension("part");
        fs::write(&part, serde_json::to_vec(&faults).unwrap()).unwrap();
        fs::rename(part, self.faults()).unwrap();
    }

    /// Starts the killed server on the same objects and port.
    pub fn start_again(&mut self) {
        let mut command = Command::new(&self.program);
        command.args(["--port", &self.port.to_string(), "--access-key", ACCESS_KEY, "--secret-key", SECRET_KEY]);
        command.arg("--folder").arg(self.folder.path().join("objects")).arg("--faults").arg(self.faults());
        let mut process = Process::spawn(&mut command, "build it: cargo build -p diorama-tests --bin diorama-s3");
        let port = self.port;
        wait_until("the S3 server takes connections", || {
            assert!(!process.has_ended(), "the S3 server ended at once");
            TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        self.process = Some(process);
    }

    /// Kills the server, as a power cut would.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Its address.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The bucket's folder.
    pub fn folder(&self) -> PathBuf {
        self.folder.path().join("objects").join(BUCKET)
    }
}
