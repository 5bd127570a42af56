//! What no waiting mends is said at once, with what to do, and without the secret; what may pass is waited for.

use std::time::{Duration, Instant};

use bytes::Bytes;
use diorama_backends::kind::ErrorKind;
use diorama_backends::objects::retrying::Retrying;
use diorama_backends::objects::s3::{S3Config, S3Credentials, S3Objects};
use diorama_backends::objects::{ObjectErrorKind, Objects};
use diorama_tests::services::s3::{ACCESS_KEY, Faults};

use super::{config, config_with_tls, connect, key, server, server_with_tls, store};

/// What a store with these settings says, asked with the patience of a fleet; it must not use that patience up.
async fn refusal(config: S3Config) -> String {
    let started = Instant::now();
    let error = Retrying::patient(connect(config)).put("a", Bytes::from_static(b"x")).await.unwrap_err();
    assert!(started.elapsed() < Duration::from_secs(60), "{:?}: {error}", started.elapsed());
    assert_eq!(error.kind, ObjectErrorKind::Refused, "{error}");
    assert!(!error.is_retryable() && !error.may_pass_later());
    let text = error.to_string();
    assert!(!text.contains("hunter2") && !text.contains("folder"), "{text}");
    text
}

fn assert_says(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "no {word:?} in {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_settings_are_named_at_once_and_the_secret_is_not() {
    let server = server();
    let right = config(&server, "");
    let with = |id, secret| S3Config { credentials: key(id, secret), ..right.clone() };
    let wrong_secret = refusal(with(ACCESS_KEY, "hunter2")).await;
    assert_says(&wrong_secret, &["SignatureDoesNotMatch", "s3_secret_key"]);
    let wrong_key = refusal(with("nobody", "hunter2")).await;
    assert_says(&wrong_key, &["NotSignedUp", "s3_access_key"]);
    let wrong_bucket = refusal(S3Config { bucket: "none".to_owned(), ..right.clone() }).await;
    assert_says(&wrong_bucket, &["NoSuchBucket", "s3_bucket", "s3://none/a"]);
    let endpoint = Some("http://no-such-host.invalid".to_owned());
    // A name service may be away; but it is said at once.
    let started = Instant::now();
    let store = Retrying::patient(connect(S3Config { endpoint, ..right.clone() }));
    let wrong_host = store.put("a", Bytes::from_static(b"x")).await.unwrap_err();
    assert!(started.elapsed() < Duration::from_secs(10) && wrong_host.is_retryable(), "{wrong_host}");
    assert_says(&wrong_host.to_string(), &["UnknownHost", "s3_endpoint"]);
    for endpoint in ["localhost:9000", "no address", "ftp://localhost", "http://", "http://me:hunter2@localhost"] {
        let config = S3Config { endpoint: Some(endpoint.to_owned()), ..right.clone() };
        let error = S3Objects::connect(config).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Permanent);
        assert_says(&error.to_string(), &["s3_endpoint", "http://host:port"]);
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
    let credentials = S3Credentials::Profile("no-such-profile".to_owned());
    assert_says(&refusal(S3Config { credentials, ..right }).await, &["NoCredentials", "no-such-profile"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_nobody_vouches_for_is_refused_at_once() {
    let (server, other) = (server_with_tls(), server_with_tls());
    let right = config_with_tls(&server, "");
    Retrying::patient(connect(right.clone())).put("a", Bytes::from_static(b"x")).await.unwrap();
    for ca_file in [None, Some(other.ca_file())] {
        assert_says(&refusal(S3Config { ca_file, ..right.clone() }).await, &["CertificateRefused", "ca_file"]);
    }
    // There, and no certificate.
    let malformed = server.folder().join("malformed.pem");
    std::fs::write(&malformed, "hunter2").unwrap();
    for (file, part) in [("no-such-file.pem".into(), "no-such-file.pem"), (malformed, "holds no certificate")] {
        let error = S3Objects::connect(S3Config { ca_file: Some(file), ..right.clone() }).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Permanent);
        assert_says(&error.to_string(), &[part, "CA file", "set ca_file"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_where_there_is_none_and_none_where_there_is_are_told_apart_from_an_outage() {
    let (plain, tls) = (server(), server_with_tls());
    let endpoint = Some(format!("https://localhost:{}", plain.port()));
    assert_says(&refusal(S3Config { endpoint, ..config(&plain, "") }).await, &["NotTls", "http://"]);
    let endpoint = Some(format!("http://localhost:{}", tls.port()));
    assert_says(&refusal(S3Config { endpoint, ..config(&tls, "") }).await, &["NotHttp", "https://"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_refusal_of_s3_says_what_to_mend() {
    let server = server();
    for (code, advice) in [
        ("AccessDenied", "get, put, list and delete"),
        ("RequestTimeTooSkewed", "clock"),
        ("PermanentRedirect", "s3_region"),
        ("AuthorizationHeaderMalformed", "s3_region"),
        ("NotImplemented", "docs/operations.md"),
    ] {
        server.set(Faults::answering("put_object", code));
        assert_says(&refusal(config(&server, "")).await, &[code, advice]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_pass_is_transient() {
    let server = server();
    let store = store(&server, "");
    for code in ["SlowDown", "InternalError", "ServiceUnavailable", "RequestTimeout", "OperationAborted", "BadDigest"] {
        server.set(Faults::answering("put_object", code));
        let error = store.put("a", Bytes::from_static(b"x")).await.unwrap_err();
        assert_eq!(error.kind, ObjectErrorKind::Transient, "{error}");
        assert!(error.to_string().contains(code), "{error}");
    }
}
