use super::*;
use crate::objects::conformance;

async fn with_store(test: impl AsyncFnOnce(FolderObjects)) {
    let folder = tempfile::tempdir().unwrap();
    test(FolderObjects::open(folder.path()).unwrap()).await;
}

#[tokio::test]
async fn what_was_put_is_got_whole_and_the_last_put_counts() {
    with_store(async |store| conformance::what_was_put_is_got_whole_and_the_last_put_counts(&store).await).await;
}

#[tokio::test]
async fn what_is_not_there_is_said_to_be_not_there() {
    with_store(async |store| conformance::what_is_not_there_is_said_to_be_not_there(&store).await).await;
}

#[tokio::test]
async fn many_objects_are_removed_at_once_and_no_other() {
    with_store(async |store| conformance::many_objects_are_removed_at_once_and_no_other(&store).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_conditional_puts_exactly_one_creates_the_object() {
    with_store(async |store| conformance::of_many_conditional_puts_exactly_one_creates(Arc::new(store)).await).await;
}

#[tokio::test]
async fn a_listing_gives_every_key_once_in_order_across_pages() {
    with_store(async |store| conformance::a_listing_gives_every_key_once_in_order_across_pages(&store).await).await;
}

#[tokio::test]
async fn a_file_with_a_name_that_no_key_can_be_is_not_listed() {
    let folder = tempfile::tempdir().unwrap();
    let store = FolderObjects::open(folder.path()).unwrap();
    store.put("images/a.png", Bytes::new()).await.unwrap();
    for name in ["my notes.txt", ".hidden", "a (copy).png", "\u{e9}.png"] {
        fs::write(folder.path().join("images").join(name), "").unwrap();
    }
    let listed = super::super::list_all(&store, "").await.unwrap();
    assert_eq!(listed.iter().map(|object| object.key.as_str()).collect::<Vec<_>>(), ["images/a.png"]);
}

#[tokio::test]
async fn the_time_of_the_last_write_is_known() {
    with_store(async |store| conformance::the_time_of_the_last_write_is_known(&store).await).await;
}

#[tokio::test]
async fn a_local_file_becomes_an_object() {
    with_store(async |store| conformance::a_local_file_becomes_an_object(&store).await).await;
}

#[tokio::test]
async fn a_reader_gives_the_whole_object_and_the_version_that_it_opened() {
    with_store(async |store| conformance::a_reader_gives_the_whole_object(&store).await).await;
    with_store(async |store| conformance::a_range_is_read_without_the_rest(&store).await).await;
}

#[tokio::test]
async fn the_probe_of_the_condition_says_what_holds() {
    with_store(async |store| {
        assert!(super::super::probe_conditional_put(&store).await.unwrap());
        assert_eq!(super::super::list_all(&store, "").await.unwrap(), [], "the probe left something behind");
    })
    .await;
}

#[tokio::test]
async fn no_key_leaves_the_root() {
    with_store(async |store| conformance::no_key_leaves_the_root(&store).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_reader_never_sees_half_an_object() {
    with_store(async |store| conformance::a_reader_never_sees_half_an_object(Arc::new(store)).await).await;
}

#[tokio::test]
async fn what_a_crashed_write_left_is_removed_at_open_and_nothing_else_is() {
    let folder = tempfile::tempdir().unwrap();
    let store = FolderObjects::open(folder.path()).unwrap();
    store.put("kept/a.json", Bytes::from_static(b"kept")).await.unwrap();
    fs::write(store.scratch().join("put-1-1"), b"half").unwrap();
    let reader = FolderObjects::open_to_read(folder.path()).unwrap();
    assert_eq!(reader.get("kept/a.json").await.unwrap(), "kept");
    assert_eq!(fs::read_dir(store.scratch()).unwrap().count(), 1, "another process may be writing it");
    let store = FolderObjects::open(folder.path()).unwrap();
    assert_eq!(fs::read_dir(store.scratch()).unwrap().count(), 0);
    assert_eq!(store.get("kept/a.json").await.unwrap(), "kept");
}

#[tokio::test]
async fn a_write_leaves_nothing_temporary_behind() {
    let folder = tempfile::tempdir().unwrap();
    let store = FolderObjects::open(folder.path()).unwrap();
    store.put("a", Bytes::from_static(b"1")).await.unwrap();
    assert_eq!(store.put_if_absent("a", Bytes::from_static(b"2")).await.unwrap(), Put::Exists);
    assert_eq!(store.put_if_absent("b", Bytes::from_static(b"3")).await.unwrap(), Put::Created);
    store.put("a/b", Bytes::from_static(b"4")).await.unwrap_err();
    assert_eq!(fs::read_dir(store.scratch()).unwrap().count(), 0);
}

/// A file system of 64 KiB, mounted for one test and unmounted whatever happens.
struct TinyDisk(tempfile::TempDir);

impl TinyDisk {
    fn mount() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=64k", "tmpfs"])
            .arg(folder.path())
            .status()
            .unwrap();
        assert!(mounted.success(), "this test mounts a tmpfs of 64 KiB and must run as root");
        Self(folder)
    }

    fn remount_read_only(&self) {
        let done = std::process::Command::new("mount").args(["-o", "remount,ro"]).arg(self.0.path()).status();
        assert!(done.unwrap().success());
    }
}

impl Drop for TinyDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg(self.0.path()).status();
    }
}

#[tokio::test]
async fn a_full_disk_and_a_read_only_one_are_told_apart_and_keep_what_is_there() {
    let disk = TinyDisk::mount();
    let store = FolderObjects::open(disk.0.path()).unwrap();
    store.put("a", Bytes::from_static(b"first")).await.unwrap();

    let error = store.put("a", Bytes::from(vec![0; 1 << 20])).await.unwrap_err();
    assert_eq!(error.kind, ObjectErrorKind::DiskFull, "{error}");
    assert!(error.to_string().contains("free some space") && error.what.ends_with("/a"), "{error}");
    assert_eq!(store.get("a").await.unwrap(), "first");
    store.put("b", Bytes::from_static(b"there is room again")).await.unwrap();

    disk.remount_read_only();
    let error = store.put("c", Bytes::from_static(b"x")).await.unwrap_err();
    assert_eq!(error.kind, ObjectErrorKind::ReadOnly, "{error}");
    assert!(!error.is_retryable());
}
