//! A private Redis server, that keeps what it was told across a SIGKILL: an append-only file, as a real one should.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;

use super::certificates::Certificates;
use super::{free_port, wait_until};
use crate::children::{self, Process};

const INSTALL: &str = "apt-get install -y --no-install-recommends redis-server";

/// A Redis server on a port and in a folder of its own.
pub struct Redis {
    process: Option<Process>,
    folder: TempDir,
    port: u16,
    /// The port with TLS, beside the plain one.
    tls: Option<(u16, Certificates)>,
    settings: Vec<String>,
}

impl Redis {
    /// Starts one; it answers when this returns.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts one with more settings, as on its command line.
    pub fn start_with(settings: &[&str]) -> Self {
        let settings = settings.iter().map(|&setting| setting.to_owned()).collect();
        let mut redis = Self { process: None, folder: TempDir::new().unwrap(), port: free_port(), tls: None, settings };
        redis.start_again();
        redis
    }

    /// Starts one that is reached over TLS, with a certificate that an authority of its own signed.
    pub fn start_with_tls(settings: &[&str]) -> Self {
        let (port, certificates) = (free_port(), Certificates::new());
        let mut settings: Vec<String> = settings.iter().map(|&setting| setting.to_owned()).collect();
        for (name, value) in [
            ("--tls-port", port.to_string()),
            ("--tls-cert-file", certificates.server().display().to_string()),
            ("--tls-key-file", certificates.key().display().to_string()),
            ("--tls-ca-cert-file", certificates.authority().display().to_string()),
            ("--tls-auth-clients", "no".to_owned()),
        ] {
            settings.extend([name.to_owned(), value]);
        }
        let (folder, tls) = (TempDir::new().unwrap(), Some((port, certificates)));
        let mut redis = Self { process: None, folder, port: free_port(), tls, settings };
        redis.start_again();
        redis
    }

    /// The certificate of the authority that signed the server's.
    pub fn ca_file(&self) -> PathBuf {
        self.tls.as_ref().expect("Redis was started with TLS").1.authority()
    }

    /// Kills it at once, as a power cut would.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Starts it after `kill`, with the same port and folder.
    pub fn start_again(&mut self) {
        let mut command = children::command("redis-server");
        command.arg("--port").arg(self.port.to_string()).arg("--dir").arg(self.folder.path());
        command.args(["--bind", "127.0.0.1", "--appendonly", "yes", "--appendfsync", "everysec", "--save", ""]);
        // It would write over its environment, by which a test knows what belongs to it.
        command.args(["--set-proc-title", "no"]);
        command.args(&self.settings).stdout(Stdio::null());
        let mut process = Process::spawn(&mut command, INSTALL);
        wait_until("Redis answers", || {
            assert!(!process.has_ended(), "redis-server ended at once; run {command:?} to see why");
            // One that wants a password refuses, which is an answer.
            self.ask(&["PING"]).is_some_and(|answer| answer[0] == "PONG" || answer[0].starts_with("-NOAUTH"))
        });
        self.process = Some(process);
    }

    /// Its process id, for signals.
    pub fn id(&self) -> u32 {
        self.process.as_ref().expect("Redis runs").id()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        self.process.as_ref().expect("Redis runs").signal(signal);
    }

    /// Empties it.
    pub fn flush(&self) {
        assert_eq!(self.ask(&["FLUSHALL"]).as_deref(), Some(&["OK".to_owned()][..]), "Redis empties itself");
    }

    /// How to connect to it.
    pub fn url(&self) -> String {
        match &self.tls {
            Some((tls, _)) => format!("rediss://localhost:{tls}"),
            None => format!("redis://127.0.0.1:{}", self.port),
        }
    }

    /// Its port on the loopback interface.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where it keeps its files.
    pub fn folder(&self) -> PathBuf {
        self.folder.path().to_owned()
    }

    /// Sends one command; the strings and numbers of its answer, however nested, in order. An error begins with `-`.
    /// None where the server is not there.
    pub fn ask(&self, command: &[&str]) -> Option<Vec<String>> {
        let patience = Duration::from_secs(5);
        let mut stream = TcpStream::connect_timeout(&(Ipv4Addr::LOCALHOST, self.port).into(), patience).ok()?;
        stream.set_read_timeout(Some(patience)).ok()?;
        let mut request = format!("*{}\r\n", command.len());
        for word in command {
            request += &format!("${}\r\n{word}\r\n", word.len());
        }
        stream.write_all(request.as_bytes()).ok()?;
        let mut answer = Vec::new();
        read_answer(&mut BufReader::new(stream), &mut answer)?;
        Some(answer)
    }
}

/// One value of the protocol: a line that says what it is, then its bytes or its parts.
fn read_answer(from: &mut impl BufRead, answer: &mut Vec<String>) -> Option<()> {
    let mut line = String::new();
    from.read_line(&mut line).ok()?;
    let line = line.trim_end();
    match line.split_at_checked(1)? {
        ("+" | ":", text) => answer.push(text.to_owned()),
        ("*", parts) => {
            for _ in 0..parts.parse().unwrap_or(0) {
                read_answer(from, answer)?;
            }
        }
        ("$", length) => {
            if let Ok(length) = length.parse::<usize>() {
                let mut bytes = vec![0; length + 2];
                from.read_exact(&mut bytes).ok()?;
                answer.push(String::from_utf8_lossy(&bytes[..length]).into_owned());
            }
        }
        _ => answer.push(line.to_owned()),
    }
    Some(())
}
