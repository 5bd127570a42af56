//! A private S3 server: the program `diorama-s3` over a folder, with faults that a test switches.

mod faults;

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};

use rustix::process::Signal;
use tempfile::TempDir;

use super::certificates::Certificates;
use super::{free_port, wait_until};
use crate::children::{self, Process};

pub use self::faults::{Faults, Lie, Rule};

/// The one bucket that is there from the start.
pub const BUCKET: &str = "diorama";

/// The key's id.
pub const ACCESS_KEY: &str = "AKDIORAMATEST";

pub const SECRET_KEY: &str = "not-so-secret-key-of-the-tests";

/// A server.
pub struct S3Server {
    folder: TempDir,
    program: PathBuf,
    port: u16,
    tls: Option<Certificates>,
    process: Option<Process>,
}

impl S3Server {
    /// Starts `program`, the built `diorama-s3`.
    pub fn start(program: &Path) -> Self {
        Self::start_as(program, None)
    }

    /// Starts one that speaks TLS only, with a certificate that an authority of its own signed.
    pub fn start_with_tls(program: &Path) -> Self {
        Self::start_as(program, Some(Certificates::new()))
    }

    fn start_as(program: &Path, tls: Option<Certificates>) -> Self {
        let folder = tempfile::Builder::new().prefix("diorama-s3-").tempdir().unwrap();
        fs::create_dir_all(folder.path().join("objects").join(BUCKET)).unwrap();
        let mut server = Self { folder, program: program.to_owned(), port: free_port(), tls, process: None };
        server.set(Faults::default());
        server.start_again();
        server
    }

    /// The certificate of the authority that signed the server's.
    pub fn ca_file(&self) -> PathBuf {
        self.tls.as_ref().expect("the S3 server was started with TLS").authority()
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
        let mut command = children::command(&self.program);
        command.args(["--port", &self.port.to_string(), "--access-key", ACCESS_KEY, "--secret-key", SECRET_KEY]);
        command.arg("--folder").arg(self.folder.path().join("objects")).arg("--faults").arg(self.faults());
        command.arg("--requests").arg(self.requests_file());
        command.arg("--policies").arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/policies"));
        if let Some(certificates) = &self.tls {
            command.arg("--tls").arg(certificates.folder());
        }
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

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        self.process.as_ref().expect("the S3 server runs").signal(signal);
    }

    /// The file in which each request has a line.
    pub fn requests_file(&self) -> PathBuf {
        self.folder.path().join("requests")
    }

    /// To how many requests a rule was applied so far.
    pub fn applied(&self, rule: &Rule) -> usize {
        self.requests(&format!("rule {}", rule.id()))
    }

    /// Waits until a rule was applied to so many requests: one that it holds is held then.
    #[track_caller]
    pub fn until_applied(&self, rule: &Rule, times: usize) {
        wait_until(&format!("the S3 server applies {rule:?}"), || self.applied(rule) >= times);
    }

    /// How many requests of a kind came so far, refused ones too: `put_object`, `upload_part` … Only those whose
    /// signature was right.
    pub fn requests(&self, kind: &str) -> usize {
        let requests = fs::read_to_string(self.requests_file()).unwrap();
        requests.lines().filter(|request| *request == kind).count()
    }

    /// Its address; a bucket may also be a host of its own in front of `localhost`.
    pub fn endpoint(&self) -> String {
        match self.tls {
            Some(_) => format!("https://localhost:{}", self.port),
            None => format!("http://127.0.0.1:{}", self.port),
        }
    }

    /// Its port on the loopback interface.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// How many parts of uploads lie there that were neither finished nor abandoned.
    pub fn unfinished_parts(&self) -> usize {
        let files = fs::read_dir(self.folder.path().join("objects")).unwrap();
        files.filter(|file| file.as_ref().unwrap().file_name().to_string_lossy().contains(".part-")).count()
    }

    pub fn folder(&self) -> PathBuf {
        self.folder.path().join("objects").join(BUCKET)
    }
}
