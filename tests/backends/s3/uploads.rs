//! Large files: in parts, each by itself, in bounded memory, and nothing left behind.

use std::io::{Seek, SeekFrom, Write};

use bytes::Bytes;
use diorama_backends::objects::s3::{S3Config, S3Objects};
use diorama_backends::objects::{ObjectErrorKind, Objects};
use diorama_tests::children;
use diorama_tests::services::s3::{Faults, S3Server};
use tempfile::NamedTempFile;
use tokio::io::AsyncReadExt;

use super::{config, connect, is_outside, server};

/// A store whose parts are as small as S3 allows.
pub(super) fn in_parts(server: &S3Server) -> S3Objects {
    connect(S3Config { multipart_bytes: 5 << 20, ..config(server, "parts") })
}

pub(super) fn file_of(bytes: u32) -> (Bytes, NamedTempFile) {
    let content: Bytes = (0..bytes).map(|i| (i.wrapping_mul(31) % 251) as u8).collect::<Vec<_>>().into();
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(&content).unwrap();
    (content, file)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_file_goes_up_in_parts_and_arrives_whole() {
    let server = server();
    let store = in_parts(&server);
    // One that ends inside a part, and one that ends with it.
    for bytes in [(12 << 20) + 7, 15 << 20] {
        let (content, file) = file_of(bytes);
        store.put_file("large", file.path()).await.unwrap();
        assert!(store.get("large").await.unwrap() == content);
    }
    assert_eq!(server.requests("upload_part"), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_that_is_refused_is_sent_again_alone() {
    let server = server();
    let store = in_parts(&server);
    server.set(Faults { refuse: 0.3, ..Faults::default() });
    let (content, file) = file_of((42 << 20) + 7);
    // No other retries around it: the parts' own are enough.
    store.put_file("large", file.path()).await.unwrap();
    server.set(Faults::default());
    assert!(store.get("large").await.unwrap() == content);
    let sent = server.requests("upload_part");
    assert!((10..=14).contains(&sent), "{sent} requests for 9 parts, 3 in 10 of them refused");
    assert_eq!(server.unfinished_parts(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_fails_leaves_no_parts_behind() {
    let server = server();
    let store = in_parts(&server);
    let (_, file) = file_of(11 << 20);
    for step in ["upload_part", "complete_multipart_upload"] {
        server.set(Faults::answering(step, "AccessDenied"));
        let error = store.put_file("large", file.path()).await.unwrap_err();
        assert_eq!(error.kind, ObjectErrorKind::Refused, "{error}");
        assert_eq!(server.unfinished_parts(), 0, "{step}");
    }
    // A store that refuses before it has read the body may break the connection before its answer is seen.
    let sent = server.requests("upload_part");
    assert!((4..=6).contains(&sent), "{sent} requests for 1 + 3 parts: what is refused for good is sent again");
    assert_eq!(store.head("large").await.unwrap(), None);
}

#[tokio::test]
async fn an_object_of_any_size_goes_up_and_down_in_bounded_memory() {
    const BYTES: u64 = 300 << 20;
    const BOUND_KIB: u64 = 120 << 10;
    let again = children::command(std::env::current_exe().unwrap());
    if is_outside("s3::uploads::an_object_of_any_size_goes_up_and_down_in_bounded_memory", again) {
        return;
    }
    let server = server();
    let store = connect(config(&server, "huge"));
    let mut file = NamedTempFile::new().unwrap();
    file.as_file().set_len(BYTES).unwrap();
    // The rest is a hole of zeros.
    file.seek(SeekFrom::Start(BYTES - 4)).unwrap();
    file.write_all(b"last").unwrap();
    store.put_file("a", file.path()).await.unwrap();

    let mut reader = store.open("a").await.unwrap();
    assert_eq!(reader.bytes, BYTES);
    let (mut read, mut last, mut piece) = (0, Vec::new(), vec![0; 1 << 20]);
    loop {
        let length = reader.body.read(&mut piece).await.unwrap();
        if length == 0 {
            break;
        }
        read += length as u64;
        last.extend_from_slice(&piece[length.saturating_sub(4)..length]);
        last.drain(..last.len() - 4);
    }
    assert_eq!((read, last.as_slice()), (BYTES, &b"last"[..]));

    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(peak < BOUND_KIB, "{peak} KiB of memory for an object of {} KiB", BYTES >> 10);
}
