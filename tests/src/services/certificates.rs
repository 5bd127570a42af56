//! Certificates of the tests' own: an authority, and a server's certificate for `localhost` and, as a bucket that is a host
//! of its own, `diorama.localhost`; for nothing else, no address either.

use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::children;

const INSTALL: &str = "openssl is not installed: apt-get install -y --no-install-recommends openssl";

/// An authority and the certificate that it gave to `localhost`.
pub struct Certificates {
    folder: TempDir,
}

impl Certificates {
    /// Makes new ones, unlike all others.
    pub fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("diorama-certificates-").tempdir().unwrap();
        std::fs::write(folder.path().join("server.ext"), "subjectAltName=DNS:localhost,DNS:diorama.localhost\n")
            .unwrap();
        for arguments in [
            "req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -subj /CN=test-authority -days 2",
            "req -newkey rsa:2048 -nodes -keyout server.key -out server.csr -subj /CN=localhost",
            "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile server.ext -out server.pem",
        ] {
            let mut openssl = children::command("openssl");
            openssl.args(arguments.split(' ')).current_dir(folder.path());
            let output = children::output(&mut openssl, INSTALL);
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
        Self { folder }
    }

    /// Where all of it lies: `ca.pem`, `server.pem`, `server.key`.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The authority's certificate, in PEM.
    pub fn authority(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// The server's certificate, in PEM.
    pub fn server(&self) -> PathBuf {
        self.folder.path().join("server.pem")
    }

    /// The server's key, in PEM.
    pub fn key(&self) -> PathBuf {
        self.folder.path().join("server.key")
    }
}

impl Default for Certificates {
    fn default() -> Self {
        Self::new()
    }
}
