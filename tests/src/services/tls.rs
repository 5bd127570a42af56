//! An authority of the test's own, and a certificate of a server that it signed.

use std::fs;
use std::path::Path;
use std::process::Command;

/// The names that the certificate holds for: the loopback interface, and a bucket as a host of its own.
const NAMES: &str = "subjectAltName=DNS:localhost,DNS:diorama.localhost,IP:127.0.0.1\n";

/// Makes `folder` with `ca.pem`, and with `server.pem` and `server.key`, which that authority signed for `localhost`,
/// `diorama.localhost` and `127.0.0.1`.
pub fn authority_and_certificate(folder: &Path) {
    fs::create_dir(folder).unwrap();
    fs::write(folder.join("server.ext"), NAMES).unwrap();
    for arguments in [
        "req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -subj /CN=test-authority -days 2",
        "req -newkey rsa:2048 -nodes -keyout server.key -out server.csr -subj /CN=localhost",
        "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile server.ext -out server.pem",
    ] {
        let openssl = Command::new("openssl").args(arguments.split(' ')).current_dir(folder).output();
        let output = openssl.expect("openssl is not installed: apt-get install -y --no-install-recommends openssl");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}
