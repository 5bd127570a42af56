//! An S3 server over a folder, for tests and for `make fleet`: s3s-fs, with small objects in one go, with listings that
//! read only the folders they need, with or without TLS, a bucket in the path or in the host, and faults that a file switches.

mod faults;
mod liar;
mod listing;
mod rights;
mod small;
mod store;
mod uploads;

use std::collections::BTreeMap;
use std::sync::Arc;

use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use s3s::auth::SimpleAuth;
use s3s::host::{S3Host, VirtualHost};
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s::{S3Result, s3_error};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::faults::FaultFile;
use crate::liar::Liar;
use crate::rights::Rights;
use crate::store::Store;

/// `bucket.localhost` names a bucket; any other host leaves that to the path.
struct Hosts;

impl S3Host for Hosts {
    fn parse_host_header<'a>(&'a self, host: &'a str) -> S3Result<VirtualHost<'a>> {
        let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
        match name.strip_suffix(".localhost") {
            Some("") => Err(s3_error!(InvalidRequest, "no bucket in the host")),
            Some(bucket) => Ok(VirtualHost::new("localhost").with_bucket(bucket)),
            None => Ok(VirtualHost::new(host)),
        }
    }
}

/// TLS with the certificate and key in the folder.
fn acceptor(folder: &str) -> TlsAcceptor {
    let certificate =
        CertificateDer::from_pem_file(format!("{folder}/server.pem")).expect("server.pem is a certificate");
    let key = PrivateKeyDer::from_pem_file(format!("{folder}/server.key")).expect("server.key is a key");
    let config = ServerConfig::builder().with_no_client_auth().with_single_cert(vec![certificate], key);
    TlsAcceptor::from(Arc::new(config.expect("the key belongs to the certificate")))
}

async fn serve(socket: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, service: S3Service) {
    let server = Builder::new(TokioExecutor::new());
    // Clients come and go as they like.
    let _ = server.serve_connection(TokioIo::new(socket), service).await;
}

fn main() {
    // One thread, and one for files: requests are short, and waking yet another one costs more than it brings.
    let runtime = tokio::runtime::Builder::new_current_thread().max_blocking_threads(1).enable_all().build();
    runtime.expect("a runtime can be built").block_on(run());
}

async fn run() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let given: BTreeMap<&str, &str> =
        arguments.chunks(2).filter_map(|pair| Some((pair.first()?.as_str(), pair.get(1)?.as_str()))).collect();
    let argument = |name: &str| given.get(name).copied().unwrap_or_else(|| panic!("{name} is missing"));
    let faults = FaultFile::new(argument("--faults").into(), argument("--requests").as_ref());
    let mut service = S3ServiceBuilder::new(Liar::new(Store::new(argument("--folder").into()), faults));
    let rights = Rights::read(argument("--policies").as_ref());
    let mut keys = SimpleAuth::from_single(argument("--access-key"), argument("--secret-key"));
    for key in rights.keys() {
        keys.register(key.to_owned(), argument("--secret-key").into());
    }
    service.set_auth(keys);
    service.set_access(rights);
    service.set_host(Hosts);
    let (service, tls) = (service.build(), given.get("--tls").copied().map(acceptor));
    let address = format!("127.0.0.1:{}", argument("--port"));
    let listener = TcpListener::bind(&address).await.unwrap_or_else(|error| panic!("{address}: {error}"));
    loop {
        let Ok((socket, _)) = listener.accept().await else { continue };
        let _ = socket.set_nodelay(true);
        let (service, tls) = (service.clone(), tls.clone());
        // One task a connection; all of them end with this process, which nothing outlives.
        tokio::spawn(async move {
            match tls {
                None => serve(socket, service).await,
                Some(tls) => {
                    if let Ok(socket) = tls.accept(socket).await {
                        serve(socket, service).await;
                    }
                }
            }
        });
    }
}
