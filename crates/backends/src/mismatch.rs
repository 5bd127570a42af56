//! TLS spoken to a port without it, or the other way round: many a server says nothing then, or hangs up, as one that is
//! away does. So it is spoken to once more, in the other way, and its first byte tells.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// The first bytes of TLS's records: an alert, a handshake.
const TLS: [u8; 2] = [0x15, 0x16];

/// Whether what is there answers with TLS.
pub(crate) async fn speaks_tls(host: &str, port: u16) -> bool {
    let Some(hello) = client_hello(host) else { return false };
    speaks(host, port, &hello, &TLS).await
}

/// Whether what is there answers `hello` with one of these first bytes.
pub(crate) async fn speaks(host: &str, port: u16, hello: &[u8], firsts: &[u8]) -> bool {
    let answer = tokio::time::timeout(PATIENCE, first_answer(host, port, hello)).await;
    matches!(answer, Ok(Ok(first)) if firsts.contains(&first))
}

async fn first_answer(host: &str, port: u16, hello: &[u8]) -> io::Result<u8> {
    let mut stream = TcpStream::connect((host, port)).await?;
    stream.write_all(hello).await?;
    stream.read_u8().await
}

/// What a client of TLS says first.
fn client_hello(host: &str) -> Option<Vec<u8>> {
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let config = config.with_safe_default_protocol_versions().ok()?;
    let config = config.with_root_certificates(RootCertStore::empty()).with_no_client_auth();
    let name = ServerName::try_from(host.to_owned()).ok()?;
    let mut hello = Vec::new();
    ClientConnection::new(Arc::new(config), name).ok()?.write_tls(&mut hello).ok()?;
    Some(hello)
}
