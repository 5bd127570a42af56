//! The object store over a real S3 server.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use diorama_backends::objects::retrying::Retrying;
use diorama_backends::objects::s3::{S3Config, S3Objects};
use diorama_backends::objects::{
    ObjectErrorKind, Objects, RemoteObjects, conformance, list_all, probe_conditional_put,
};
use diorama_tests::services::s3::{ACCESS_KEY, BUCKET, Faults, S3Server, SECRET_KEY};
use tokio::io::AsyncReadExt;

fn server() -> S3Server {
    S3Server::start(Path::new(env!("CARGO_BIN_EXE_diorama-s3")))
}

fn config(server: &S3Server, prefix: &str) -> S3Config {
    S3Config {
        endpoint: Some(server.endpoint()),
        bucket: BUCKET.to_owned(),
        prefix: prefix.to_owned(),
        access_key: Some(ACCESS_KEY.to_owned().into()),
        secret_key: Some(SECRET_KEY.to_owned().into()),
        path_style: true,
        ..S3Config::default()
    }
}

fn store(server: &S3Server, prefix: &str) -> S3Objects {
    S3Objects::connect(config(server, prefix)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn s3_holds_what_every_store_must_hold() {
    let server = server();
    let new = |prefix| store(&server, prefix);
    conformance::what_was_put_is_got_whole_and_the_last_put_counts(&new("whole")).await;
    conformance::what_is_not_there_is_said_to_be_not_there(&new("absent")).await;
    conformance::of_many_conditional_puts_exactly_one_creates(Arc::new(new("conditional"))).await;
    conformance::a_listing_gives_every_key_once_in_order_across_pages(&new("listing")).await;
    conformance::a_local_file_becomes_an_object(&new("file")).await;
    conformance::no_key_leaves_the_root(&new("keys")).await;
    conformance::a_reader_gives_the_whole_object(&new("reader")).await;
    conformance::a_reader_never_sees_half_an_object(Arc::new(new("half"))).await;
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
    for (bucket, key) in [("places", "gone.png"), ("nowhere", "a.png")] {
        let error = store.open_in(bucket, key).await.err().unwrap();
        assert_eq!((error.kind, error.what.clone()), (ObjectErrorKind::NotFound, format!("s3://{bucket}/{key}")));
    }
    server.set(Faults { refuse: 1.0, ..Faults::default() });
    assert!(store.open_in("places", "gone.png").await.is_err_and(|error| error.is_retryable()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_file_goes_up_in_parts_and_arrives_whole() {
    let server = server();
    let store = S3Objects::connect(S3Config { multipart_bytes: 5 << 20, ..config(&server, "parts") }).unwrap();
    let content: Bytes = (0..(12u32 << 20) + 7).map(|i| (i * 31 % 251) as u8).collect::<Vec<_>>().into();
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&content).unwrap();
    store.put_file("large", file.path()).await.unwrap();
    assert!(store.get("large").await.unwrap() == content);
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
async fn wrong_settings_are_named_and_the_secret_is_not() {
    let server = server();
    let right = config(&server, "");
    let secret = || Some("hunter2".to_owned().into());
    for (config, part) in [
        (S3Config { secret_key: secret(), ..right.clone() }, "s3_secret_key"),
        (
            S3Config { access_key: Some("nobody".to_owned().into()), secret_key: secret(), ..right.clone() },
            "s3_access_key",
        ),
        (S3Config { bucket: "none".to_owned(), ..right.clone() }, "s3_bucket"),
    ] {
        let store = S3Objects::connect(config).unwrap();
        let error = store.put("a", Bytes::from_static(b"x")).await.unwrap_err();
        assert_eq!(error.kind, ObjectErrorKind::Permission, "{error}");
        assert!(error.to_string().contains(part) && !error.to_string().contains("hunter2"), "{error}");
    }
    let error = S3Objects::connect(S3Config { secret_key: None, ..right }).unwrap_err().to_string();
    assert!(error.contains("AWS_SECRET_ACCESS_KEY"), "{error}");
}
