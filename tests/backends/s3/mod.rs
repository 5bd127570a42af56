//! The object store over a real S3 server.

mod damage;
mod lies;
mod refusals;
mod uploads;

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use diorama_backends::objects::retrying::Retrying;
use diorama_backends::objects::s3::{S3Config, S3Credentials, S3Objects};
use diorama_backends::objects::{
    ObjectErrorKind, Objects, RemoteObjects, conformance, list_all, probe_conditional_put,
};
use diorama_tests::children;
use diorama_tests::services::s3::{ACCESS_KEY, BUCKET, Faults, S3Server, SECRET_KEY};
use tokio::io::AsyncReadExt;

const PROGRAM: &str = env!("CARGO_BIN_EXE_diorama-s3");

fn server() -> S3Server {
    S3Server::start(Path::new(PROGRAM))
}

fn server_with_tls() -> S3Server {
    S3Server::start_with_tls(Path::new(PROGRAM))
}

fn key(id: &str, secret: &str) -> S3Credentials {
    S3Credentials::Key { id: id.into(), secret: secret.into(), session_token: None }
}

fn config(server: &S3Server, prefix: &str) -> S3Config {
    S3Config {
        endpoint: Some(server.endpoint()),
        bucket: BUCKET.to_owned(),
        prefix: prefix.to_owned(),
        credentials: key(ACCESS_KEY, SECRET_KEY),
        path_style: true,
        ..S3Config::default()
    }
}

fn config_with_tls(server: &S3Server, prefix: &str) -> S3Config {
    S3Config { ca_file: Some(server.ca_file()), ..config(server, prefix) }
}

fn connect(config: S3Config) -> S3Objects {
    S3Objects::connect(config).unwrap()
}

fn store(server: &S3Server, prefix: &str) -> S3Objects {
    connect(config(server, prefix))
}

/// Runs this test again in a process of its own, through `command`; inside it, gives false.
fn is_outside(test: &str, mut command: Command) -> bool {
    const INSIDE: &str = "DIORAMA_TEST_INSIDE";
    if std::env::var_os(INSIDE).is_some() {
        return false;
    }
    command.args(["--exact", test, "--nocapture"]).env(INSIDE, "1");
    let output = children::output(&mut command, "install util-linux");
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
    true
}

async fn holds_what_every_store_must_hold(new: impl Fn(&str) -> S3Objects) {
    conformance::what_was_put_is_got_whole_and_the_last_put_counts(&new("whole")).await;
    conformance::what_is_not_there_is_said_to_be_not_there(&new("absent")).await;
    conformance::many_objects_are_removed_at_once_and_no_other(&new("removal")).await;
    conformance::of_many_conditional_puts_exactly_one_creates(Arc::new(new("conditional"))).await;
    conformance::a_listing_gives_every_key_once_in_order_across_pages(&new("listing")).await;
    conformance::the_time_of_the_last_write_is_known(&new("times")).await;
    conformance::a_local_file_becomes_an_object(&new("file")).await;
    conformance::no_key_leaves_the_root(&new("keys")).await;
    conformance::a_reader_gives_the_whole_object(&new("reader")).await;
    conformance::a_range_is_read_without_the_rest(&new("range")).await;
    conformance::a_reader_never_sees_half_an_object(Arc::new(new("half"))).await;
}

#[tokio::test]
async fn removals_that_are_refused_now_and_then_come_to_their_end() {
    let server = server();
    let store = store(&server, "removal");
    for rules in [vec![], Faults::answering("delete_objects", "NotImplemented").rules] {
        let keys: Vec<String> = (0..1100).map(|number| format!("journal/{number}.jsonl")).collect();
        store.put(&keys[1099], Bytes::new()).await.unwrap();
        // One of three: no thousand single requests go through in one go.
        server.set(Faults { refuse: 0.34, rules, ..Faults::default() });
        store.delete_all(&keys).await.unwrap();
        server.set(Faults::default());
        assert_eq!(list_all(&store, "").await.unwrap(), []);
    }
}

#[tokio::test]
async fn a_store_that_removes_objects_only_one_by_one_is_asked_so() {
    let server = server();
    server.set(Faults::answering("delete_objects", "NotImplemented"));
    conformance::many_objects_are_removed_at_once_and_no_other(&store(&server, "removal")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_of_another_bucket_is_read_whatever_its_key() {
    let server = server();
    let other = server.folder().with_file_name("places");
    std::fs::create_dir_all(other.join("north sea")).unwrap();
    std::fs::write(other.join("north sea/dunes, 1.png"), "dunes").unwrap();
    let store = store(&server, "prefix");
    let mut reader = store.open_in("places", "north sea/dunes, 1.png").await.unwrap();
    let mut content = String::new();
    reader.body.read_to_string(&mut content).await.unwrap();
    assert_eq!((reader.bytes, content.as_str()), (5, "dunes"));
    for (bucket, key, kind) in
        [("places", "gone.png", ObjectErrorKind::NotFound), ("nowhere", "a.png", ObjectErrorKind::Refused)]
    {
        let error = store.open_in(bucket, key).await.err().unwrap();
        assert_eq!((error.kind, error.what.clone()), (kind, format!("s3://{bucket}/{key}")));
    }
    server.set(Faults { refuse: 1.0, ..Faults::default() });
    assert!(store.open_in("places", "gone.png").await.is_err_and(|error| error.is_retryable()));
}

#[tokio::test(flavor = "multi_thread")]
async fn s3_holds_what_every_store_must_hold() {
    let server = server();
    holds_what_every_store_must_hold(|prefix| store(&server, prefix)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s3_over_tls_holds_what_every_store_must_hold() {
    let server = server_with_tls();
    holds_what_every_store_must_hold(|prefix| connect(config_with_tls(&server, prefix))).await;
}

/// In a mount namespace where `diorama.localhost` and `strange.localhost` are this machine, as a name service would say.
#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_is_a_host_holds_what_every_store_must_hold() {
    let mut command = children::command("unshare");
    let hosts = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(hosts.path(), "127.0.0.1 localhost diorama.localhost strange.localhost\n").unwrap();
    command.args(["--map-root-user", "--mount", "sh", "-euc"]);
    command.arg("mount --bind \"$HOSTS\" /etc/hosts; exec \"$0\" \"$@\"").arg(std::env::current_exe().unwrap());
    command.env("HOSTS", hosts.path());
    if is_outside("s3::a_bucket_that_is_a_host_holds_what_every_store_must_hold", command) {
        return;
    }
    let server = server_with_tls();
    let config = |prefix: &str| S3Config { path_style: false, ..config_with_tls(&server, prefix) };
    holds_what_every_store_must_hold(|prefix| connect(config(prefix))).await;

    let strange = connect(S3Config { bucket: "strange".to_owned(), ..config("") });
    let error = strange.head("a").await.unwrap_err();
    assert_eq!(error.kind, ObjectErrorKind::Refused, "{error}");
    assert!(error.to_string().contains("CertificateRefused") && error.to_string().contains("s3_path_style"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_probe_tells_a_store_that_ignores_the_condition() {
    let server = server();
    let store = store(&server, "");
    assert!(probe_conditional_put(&store).await.unwrap());
    server.set(Faults { ignore_conditions: true, ..Faults::default() });
    assert!(!probe_conditional_put(&store).await.unwrap());
    assert_eq!(list_all(&store, "").await.unwrap(), [], "the probe left something behind");
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_requests_are_tried_again() {
    let server = server();
    let store = Retrying::patient(store(&server, "refused"));
    server.set(Faults { refuse: 0.5, ..Faults::default() });
    for index in 0..20 {
        store.put(&format!("a/{index}"), Bytes::from_static(b"x")).await.unwrap();
    }
    assert_eq!(list_all(&store, "a/").await.unwrap().len(), 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_away_is_waited_for() {
    let mut server = server();
    let store = store(&server, "away");
    store.put("kept", Bytes::from_static(b"x")).await.unwrap();
    server.kill();
    assert_eq!(store.get("kept").await.unwrap_err().kind, ObjectErrorKind::Transient);
    let patient = Retrying::patient(store);
    let back = tokio::task::spawn_blocking(move || {
        server.start_again();
        server
    });
    let (got, server) = tokio::join!(patient.get("kept"), back);
    assert_eq!(got.unwrap(), "x");
    drop(server);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_says_nothing_is_given_up_in_time() {
    let server = server();
    let brief = Duration::from_millis(500);
    // Bounds that hold on a busy machine, too: the store would be silent for ten minutes, and stand still for ever.
    let bound = Duration::from_secs(60);
    let calm = store(&server, "silent");
    let store = connect(S3Config { answer: brief, stall: Duration::from_secs(1), ..config(&server, "silent") });
    let content = Bytes::from(vec![7; 1 << 20]);
    calm.put("a", content.clone()).await.unwrap();

    server.set(Faults { delay_ms: 600_000, ..Faults::default() });
    let started = Instant::now();
    assert_eq!(store.get("a").await.unwrap_err().kind, ObjectErrorKind::Transient);
    assert_eq!(store.put("b", Bytes::new()).await.unwrap_err().kind, ObjectErrorKind::Transient);
    assert!(started.elapsed() < bound, "{:?}", started.elapsed());

    server.set(Faults { stall_after: Some(100_000), ..Faults::default() });
    let started = Instant::now();
    let error = store.get("a").await.unwrap_err();
    assert_eq!(error.kind, ObjectErrorKind::Transient, "{error}");
    let mut reader = store.open("a").await.unwrap();
    let mut read = Vec::new();
    reader.body.read_to_end(&mut read).await.unwrap_err();
    assert!(read.len() < content.len());
    assert!(started.elapsed() < bound, "{:?}", started.elapsed());

    server.set(Faults::default());
    assert_eq!(calm.get("a").await.unwrap(), content);
}
