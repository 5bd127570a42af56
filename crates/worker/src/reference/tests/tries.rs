//! What is tried again, and what is not.

use std::process::{Command, Stdio};

use async_trait::async_trait;
use diorama_backends::objects::faulty::{Fault, FaultyObjects};
use diorama_backends::objects::{ObjectReader, RemoteObjects};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

#[tokio::test]
async fn a_server_that_is_overloaded_for_a_moment_is_asked_again() {
    for busy in [500, 502, 503, 504, 408, 429] {
        let busy = StatusCode::from_u16(busy).unwrap();
        let server = Server::start(move |_, n, _| if n == 0 { status(busy) } else { picture().into_response() }).await;
        assert!(Case::new().load(&server.url("/a.png")).await.is_ok(), "{busy}");
        assert_eq!(server.asked(), 2);
    }
}

#[tokio::test]
async fn a_server_is_left_alone_for_as_long_as_it_wants_within_reason() {
    let wait = |seconds: &'static str| {
        let busy = ([("retry-after", seconds)], StatusCode::TOO_MANY_REQUESTS);
        Server::start(move |_, n, _| if n == 0 { busy.into_response() } else { picture().into_response() })
    };
    let (patient, started) = (wait("1").await, tokio::time::Instant::now());
    assert!(Case::new().load(&patient.url("/a.png")).await.is_ok());
    assert!(started.elapsed() >= Duration::from_secs(1));
    let unreasonable = wait("3600").await;
    let loaded = Case::new().load(&unreasonable.url("/a.png")).await;
    Case::refused(loaded, ErrorCode::ReferenceUnreadable, true, "429");
    assert_eq!(unreasonable.asked(), 1);
}

#[tokio::test]
async fn a_refusal_is_not_asked_twice() {
    let server = Server::start(|path, _, _| status(path[1..].parse::<u16>().unwrap().try_into().unwrap())).await;
    for refusal in [400, 401, 403, 404, 410, 204, 206] {
        let loaded = Case::new().load(&server.url(&format!("/{refusal}"))).await;
        Case::refused(loaded, ErrorCode::ReferenceUnreadable, false, &refusal.to_string());
    }
    assert_eq!(server.asked(), 7);
}

#[tokio::test]
async fn a_connection_that_breaks_off_is_made_again() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("http://{}/a.png", listener.local_addr().unwrap());
    let serve = async {
        // At once; in the middle of the body; then whole.
        drop(listener.accept().await.unwrap());
        for part in [20, picture().len()] {
            let (mut socket, _) = listener.accept().await.unwrap();
            assert!(socket.read(&mut [0; 4096]).await.unwrap() > 0);
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", picture().len());
            socket.write_all(&[head.as_bytes(), &picture()[..part]].concat()).await.unwrap();
            socket.shutdown().await.unwrap();
        }
    };
    let case = Case::new();
    let (loaded, ()) = tokio::join!(case.load(&url), serve);
    assert!(loaded.is_ok(), "{loaded:?}");
}

#[tokio::test]
async fn a_store_that_does_not_come_back_fails_its_task_only_and_may_be_tried_later() {
    let server = Server::start(|_, _, _| status(StatusCode::SERVICE_UNAVAILABLE)).await;
    let mut case = Case::new();
    case.config.timeout = Duration::from_secs(3);
    Case::refused(case.load(&server.url("/a.png")).await, ErrorCode::ReferenceUnreadable, true, "503");
    assert!(server.asked() > 1);
}

/// Buckets whose store fails for a while.
struct Failing;

#[async_trait]
impl RemoteObjects for Failing {
    async fn open_in(&self, bucket: &str, key: &str) -> Result<ObjectReader, ObjectError> {
        let what = format!("s3://{bucket}/{key}");
        Err(ObjectError::new(ObjectErrorKind::Transient, "reading", what, "away"))
    }
}

#[tokio::test]
async fn an_object_that_cannot_be_read_is_its_tasks_fault_unless_the_whole_store_is_away() {
    let mut case = Case::new();
    case.config.timeout = Duration::from_millis(300);
    let folder = || FolderObjects::open(case.folder.path()).unwrap();
    let references = case.references_with(Arc::new(folder()), Some(Arc::new(Failing)));
    let loaded = load(&references, "s3://bucket/a.png").await;
    Case::refused(loaded, ErrorCode::ReferenceUnreadable, true, "s3://bucket/a.png cannot be read: the object store");

    let away = FaultyObjects::new(folder(), Box::new(|_, _| Fault::Fail(ObjectErrorKind::Transient)));
    let references = case.references_with(Arc::new(away), Some(Arc::new(Failing)));
    let reference = Reference::S3("s3://bucket/a.png".to_owned());
    assert!(references.load(&reference).await.is_err_and(|error| error.is_retryable()));

    let loaded = case.load("s3://bucket/a.png").await;
    Case::refused(loaded, ErrorCode::ReferenceUnreadable, false, "not a fleet with an object store");
    for foreign in ["s3://hr/a.png", "s3://bucket/../hr/a.png"] {
        let references = case.references_with(Arc::new(folder()), Some(Arc::new(Failing)));
        Case::refused(load(&references, foreign).await, ErrorCode::ReferenceForbidden, false, "s3_readable");
    }
}

/// Ends a program with the test.
struct Killed(std::process::Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn over_tls_a_store_with_its_own_authority_is_fetched_from_once_that_is_trusted() {
    let mut case = Case::new();
    let folder = case.folder.path().to_owned();
    std::fs::write(folder.join("a.png"), picture()).unwrap();
    std::fs::write(folder.join("server.ext"), "subjectAltName=DNS:localhost\n").unwrap();
    let openssl = |arguments: &str| {
        let mut command = Command::new("openssl");
        command.args(arguments.split(' ')).current_dir(&folder).stdin(Stdio::null());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command
    };
    for arguments in [
        "req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -subj /CN=test-authority -days 2",
        "req -newkey rsa:2048 -nodes -keyout server.key -out server.csr -subj /CN=localhost",
        "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile server.ext -out server.pem",
    ] {
        let made = openssl(arguments).status();
        let made = made.expect("openssl is not installed: apt-get install -y --no-install-recommends openssl");
        assert!(made.success(), "{arguments}");
    }
    let port = TcpListener::bind(("127.0.0.1", 0)).await.unwrap().local_addr().unwrap().port();
    let serve = format!("s_server -accept {port} -4 -cert server.pem -key server.key -WWW -quiet");
    let _server = Killed(openssl(&serve).spawn().unwrap());
    let url = format!("https://localhost:{port}/a.png");

    // The usual tries wait until it listens.
    case.config.ca_file = Some(folder.join("ca.pem"));
    let loaded = case.load(&url).await.unwrap();
    assert_eq!(loaded.sha256, Sha256Hex::of(&picture()));
    case.config.ca_file = None;
    case.config.timeout = Duration::from_secs(3);
    Case::refused(case.load(&url).await, ErrorCode::ReferenceUnreadable, true, "certificate");
    case.config.ca_file = Some(folder.join("gone.pem"));
    Case::refused(case.load(&url).await, ErrorCode::ReferenceUnreadable, false, "gone.pem");
}
