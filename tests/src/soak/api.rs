//! The coordinators' API, as far as the soak reads it: plain GETs, with short patience, because whoever is asked may be
//! dead or frozen.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// How long a coordinator may be silent.
const PATIENCE: Duration = Duration::from_secs(3);

/// GETs `path`; what follows the head of the answer, `None` where there is no good answer.
pub(super) fn get(address: SocketAddr, path: &str) -> Option<impl BufRead + use<>> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    // HTTP/1.0: the answer ends with the connection, and has no chunks.
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").ok()?;
    let mut answer = BufReader::new(stream);
    let mut line = String::new();
    answer.read_line(&mut line).ok()?;
    if line.split(' ').nth(1) != Some("200") {
        return None;
    }
    while line != "\r\n" {
        line.clear();
        if answer.read_line(&mut line).ok()? == 0 {
            return None;
        }
    }
    Some(answer)
}
