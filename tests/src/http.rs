//! Asks a coordinator over plain HTTP and nothing else: once, with limited patience, because whoever is asked may be dead or
//! frozen. A real client would try again.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Sends `request`, a method and a path; what follows the head of the answer, `None` where there is no good answer.
pub fn ask(address: SocketAddr, request: &str, patience: Duration) -> Option<impl BufRead + use<>> {
    let (status, answer) = send(address, request, patience)?;
    (status == 200).then_some(answer)
}

/// Sends `request`; the status of the answer and what follows its head, `None` where none came.
pub fn send(address: SocketAddr, request: &str, patience: Duration) -> Option<(u16, impl BufRead + use<>)> {
    let mut stream = TcpStream::connect_timeout(&address, patience).ok()?;
    stream.set_read_timeout(Some(patience)).ok()?;
    // HTTP/1.0: the answer ends with the connection, and has no chunks.
    write!(stream, "{request} HTTP/1.0\r\nHost: {address}\r\nContent-Length: 0\r\n\r\n").ok()?;
    let mut answer = BufReader::new(stream);
    let mut line = String::new();
    answer.read_line(&mut line).ok()?;
    let status = line.split(' ').nth(1)?.parse().ok()?;
    while line != "\r\n" {
        line.clear();
        if answer.read_line(&mut line).ok()? == 0 {
            return None;
        }
    }
    Some((status, answer))
}
