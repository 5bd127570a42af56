//! What every object store must hold. Each function takes an empty store and panics where a guarantee is broken.

use std::collections::BTreeSet;
use std::io::Write;
use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use tokio::io::AsyncReadExt;
use tokio::sync::Barrier;

use super::{ObjectErrorKind, Objects, Put, list_all};

/// A put object comes back byte for byte, empty and large ones too, and a second put replaces the first.
pub async fn what_was_put_is_got_whole_and_the_last_put_counts(store: &dyn Objects) {
    let large: Bytes = (0..3_000_000u32).map(|i| (i * 31 % 251) as u8).collect::<Vec<_>>().into();
    store.put("a/empty", Bytes::new()).await.unwrap();
    store.put("a/large", large.clone()).await.unwrap();
    store.put("a/twice", Bytes::from_static(b"first")).await.unwrap();
    store.put("a/twice", Bytes::from_static(b"second")).await.unwrap();
    assert_eq!(store.get("a/empty").await.unwrap(), "");
    assert_eq!(store.get("a/large").await.unwrap(), large);
    assert_eq!(store.get("a/twice").await.unwrap(), "second");
    assert_eq!(store.head("a/large").await.unwrap().unwrap().bytes, large.len() as u64);
}

/// A reader gives every byte of an object, small or large, and says its length; there is none for what is not there.
pub async fn a_reader_gives_the_whole_object(store: &dyn Objects) {
    for (key, length) in [("a/empty", 0), ("a/small", 10), ("a/large", 9_000_000u32)] {
        let bytes: Bytes = (0..length).map(|i| (i * 31 % 251) as u8).collect::<Vec<_>>().into();
        store.put(key, bytes.clone()).await.unwrap();
        let mut reader = store.open(key).await.unwrap();
        assert_eq!(reader.bytes, u64::from(length));
        let mut read = Vec::new();
        reader.body.read_to_end(&mut read).await.unwrap();
        assert!(read == bytes, "{key}: {} bytes came back of {length}", read.len());
    }
    assert_eq!(store.open("a/none").await.err().unwrap().kind, ObjectErrorKind::NotFound);
}

/// A range is exactly those bytes, fewer at the object's end, none behind it.
pub async fn a_range_is_read_without_the_rest(store: &dyn Objects) {
    let content: Vec<u8> = (0..100_000u32).map(|n| (n % 251) as u8).collect();
    store.put("a/ranged", content.clone().into()).await.unwrap();
    for (from, length) in [(0, 10), (99_990, 10), (5, 70_000), (99_990, 100), (100_000, 5), (200_000, 5), (7, 0)] {
        let read = store.read_range("a/ranged", from, length).await.unwrap();
        let (from, end) = (content.len().min(from as usize), content.len().min((from + length) as usize));
        assert!(read == content[from..end], "{from}..{end}: {} bytes", read.len());
    }
    let absent = store.read_range("a/absent", 0, 10).await.unwrap_err();
    assert_eq!(absent.kind, ObjectErrorKind::NotFound);
}

/// Absence is `NotFound` to `get`, `None` to `head`, no error to `delete`, and follows a `delete`.
pub async fn what_is_not_there_is_said_to_be_not_there(store: &dyn Objects) {
    assert_eq!(store.get("a/b").await.unwrap_err().kind, ObjectErrorKind::NotFound);
    assert_eq!(store.head("a/b").await.unwrap(), None);
    store.delete("a/b").await.unwrap();
    store.put("a/b", Bytes::from_static(b"x")).await.unwrap();
    assert_eq!(store.head("a").await.unwrap(), None, "a prefix is no object");
    store.delete("a/b").await.unwrap();
    assert_eq!(store.get("a/b").await.unwrap_err().kind, ObjectErrorKind::NotFound);
    assert_eq!(list_all(store, "").await.unwrap(), []);
    assert_eq!(store.put_if_absent("a/b", Bytes::new()).await.unwrap(), Put::Created, "deleted means absent");
}

/// `delete_all` removes what it is given, be it there or not, more than one request of S3 takes, and nothing else.
pub async fn many_objects_are_removed_at_once_and_no_other(store: &dyn Objects) {
    let keys: Vec<String> = (0..1100).map(|number| format!("journal/{number}.jsonl")).collect();
    for key in keys.iter().step_by(3) {
        store.put(key, Bytes::new()).await.unwrap();
    }
    store.put("journal/1.jsonl.kept", Bytes::new()).await.unwrap();
    store.delete_all(&keys).await.unwrap();
    store.delete_all(&[]).await.unwrap();
    let left: Vec<_> = list_all(store, "").await.unwrap().into_iter().map(|object| object.key).collect();
    assert_eq!(left, ["journal/1.jsonl.kept"]);
    let error = store.delete_all(&["../x".to_owned()]).await.unwrap_err();
    assert_eq!(error.kind, ObjectErrorKind::InvalidKey);
}

/// The property that the whole protocol stands on.
pub async fn of_many_conditional_puts_exactly_one_creates(store: Arc<dyn Objects>) {
    for round in 0..20 {
        let barrier = Arc::new(Barrier::new(8));
        let writers: Vec<_> = (0..8u8)
            .map(|writer| {
                let (store, barrier) = (store.clone(), barrier.clone());
                tokio::spawn(async move {
                    barrier.wait().await;
                    let bytes = Bytes::from(vec![writer; 10_000]);
                    (writer, store.put_if_absent(&format!("race/{round}"), bytes).await.unwrap())
                })
            })
            .collect();
        let mut winners = Vec::new();
        for writer in writers {
            let (writer, put) = writer.await.unwrap();
            if put == Put::Created {
                winners.push(writer);
            }
        }
        assert_eq!(winners.len(), 1, "exactly one of eight conditional puts creates the object");
        assert_eq!(store.get(&format!("race/{round}")).await.unwrap(), vec![winners[0]; 10_000]);
    }
}

/// Listing: by prefix, in byte order, each key once, also where pages are small.
pub async fn a_listing_gives_every_key_once_in_order_across_pages(store: &dyn Objects) {
    let wanted: BTreeSet<String> = (0..25).map(|i| format!("commits/r0-{i:06}.json")).collect();
    for key in wanted.iter().map(String::as_str).chain(["commits-of-others/a", "input/r0-000000.jsonl", "run.json"]) {
        store.put(key, Bytes::from(key.to_owned())).await.unwrap();
    }
    let mut seen = Vec::new();
    let mut after: Option<String> = None;
    loop {
        let page = store.list("commits/", after.as_deref(), 7).await.unwrap();
        assert!(page.objects.len() <= 7);
        seen.extend(page.objects);
        match page.next {
            Some(next) => after = Some(next),
            None => break,
        }
    }
    assert!(seen.iter().all(|object| object.bytes == object.key.len() as u64));
    assert_eq!(seen.iter().map(|object| object.key.clone()).collect::<Vec<_>>(), Vec::from_iter(wanted));
    assert_eq!(list_all(store, "commits/r0-00001").await.unwrap().len(), 10, "a prefix may end inside a name");
    assert_eq!(list_all(store, "").await.unwrap().len(), 28);
    assert_eq!(list_all(store, "nothing/").await.unwrap(), []);
}

/// A look and a listing say when an object was written last, and the same, to the second.
pub async fn the_time_of_the_last_write_is_known(store: &dyn Objects) {
    let second = jiff::SignedDuration::from_secs(1);
    let seconds = |at: Timestamp| at.as_second();
    let before = Timestamp::now();
    store.put("a", Bytes::from_static(b"first")).await.unwrap();
    store.put("a", Bytes::from_static(b"second")).await.unwrap();
    assert_eq!(store.put_if_absent("b", Bytes::new()).await.unwrap(), Put::Created);
    let after = Timestamp::now();
    let listed = list_all(store, "").await.unwrap();
    assert_eq!(listed.len(), 2);
    for listed in listed {
        let seen = store.head(&listed.key).await.unwrap().unwrap().modified.unwrap();
        assert!(before - second <= seen && seen <= after + second, "{seen} is not between {before} and {after}");
        assert_eq!(listed.modified.map(seconds), Some(seconds(seen)));
    }
}

/// `put_file` stores the file's bytes and replaces what was there.
pub async fn a_local_file_becomes_an_object(store: &dyn Objects) {
    let bytes: Bytes = (0..2_000_000u32).map(|i| (i % 253) as u8).collect::<Vec<_>>().into();
    store.put("shards/a.tar", Bytes::from_static(b"old")).await.unwrap();
    let mut file = tempfile_in_system_folder();
    file.1.write_all(&bytes).unwrap();
    drop(file.1);
    store.put_file("shards/a.tar", &file.0).await.unwrap();
    assert_eq!(store.get("shards/a.tar").await.unwrap(), bytes);
    let missing = std::env::temp_dir().join("diorama-conformance-no-such-file");
    assert_eq!(store.put_file("shards/b.tar", &missing).await.unwrap_err().kind, ObjectErrorKind::NotFound);
    assert_eq!(store.head("shards/b.tar").await.unwrap(), None);
    let _ = std::fs::remove_file(file.0);
}

fn tempfile_in_system_folder() -> (std::path::PathBuf, std::fs::File) {
    let path = std::env::temp_dir().join(format!("diorama-conformance-{}", uuid_like()));
    (path.clone(), std::fs::File::create_new(path).unwrap())
}

fn uuid_like() -> String {
    diorama_core::id::AttemptId::generate().to_string()
}

/// Keys with `..`, absolute ones, hidden ones and control characters are refused by every operation that writes.
pub async fn no_key_leaves_the_root(store: &dyn Objects) {
    let long = "x/".repeat(600);
    for key in ["", "/etc/x", "../x", "a/../../x", "a//b", "a/", ".tmp/x", "a/.b", "a\\b", "a\0b", "a b", "é", &long] {
        for error in [
            store.get(key).await.err(),
            store.head(key).await.err(),
            store.put(key, Bytes::new()).await.err(),
            store.put_if_absent(key, Bytes::new()).await.err(),
            store.put_file(key, std::path::Path::new("/dev/null")).await.err(),
            store.delete(key).await.err(),
        ] {
            assert_eq!(error.map(|error| error.kind), Some(ObjectErrorKind::InvalidKey), "{key:?}");
        }
    }
}

/// While one writer replaces an object over and over, every reader sees one of the versions, whole.
pub async fn a_reader_never_sees_half_an_object(store: Arc<dyn Objects>) {
    store.put("a", Bytes::from(vec![0; 100_000])).await.unwrap();
    let writer = {
        let store = store.clone();
        tokio::spawn(async move {
            for version in 1..30u8 {
                store.put("a", Bytes::from(vec![version; 100_000])).await.unwrap();
            }
        })
    };
    while !writer.is_finished() {
        let bytes = store.get("a").await.unwrap();
        assert_eq!(bytes.len(), 100_000);
        assert!(bytes.iter().all(|b| *b == bytes[0]), "a mixture of two versions was read");
    }
    writer.await.unwrap();
}
