//! What is fetched once, and what is fetched again.

use diorama_backends::objects::Objects;

use super::*;

#[tokio::test]
async fn a_reference_is_fetched_once_for_all_workers_that_share_a_cache() {
    let server = Server::of_pictures().await;
    let case = Case::cached();
    for _ in 0..3 {
        // As other workers, and this one after a restart.
        assert_eq!(case.load(&server.url("/a.png")).await.unwrap().picture.width, 12);
    }
    assert_eq!(server.asked(), 1);
    // The whole address counts: behind another query there may be another picture.
    case.load(&server.url("/a.png?other")).await.unwrap();
    assert_eq!(server.asked(), 2);
}

#[tokio::test]
async fn one_who_may_fetch_less_does_not_find_what_another_one_fetched() {
    let server = Server::of_pictures().await;
    let mut case = Case::cached();
    case.load(&server.url("/a.png")).await.unwrap();
    case.config.realm = "another store".to_owned();
    case.load(&server.url("/a.png")).await.unwrap();
    assert_eq!(server.asked(), 2);
    case.config.allow_private = false;
    let loaded = case.load(&server.url("/a.png")).await;
    Case::refused(loaded, ErrorCode::ReferenceForbidden, false, "is not fetched");
}

#[tokio::test]
async fn tasks_that_want_the_same_reference_at_once_fetch_it_once() {
    let server = Server::of_pictures().await;
    let references = Case::new().references();
    let url = server.url("/a.png");
    let loaded = futures::future::join_all((0..8).map(|_| load(&references, &url))).await;
    assert!(loaded.iter().all(Result::is_ok));
    assert_eq!(server.asked(), 1);
    load(&references, &url).await.unwrap();
    assert_eq!(server.asked(), 2, "nothing is kept without a cache");
}

#[tokio::test]
async fn an_old_one_is_asked_for_again_and_sent_again_only_where_it_changed() {
    let server = Server::start(|_, n, headers| {
        let version = if n < 2 { "\"one\"" } else { "\"two\"" };
        match headers.get("if-none-match") {
            Some(known) if known == version => status(StatusCode::NOT_MODIFIED),
            _ => ([("etag", version)], picture()).into_response(),
        }
    })
    .await;
    let mut case = Case::cached();
    case.config.cache.as_mut().unwrap().max_age = Duration::ZERO;
    for asked in 1..=4 {
        assert_eq!(case.load(&server.url("/a.png")).await.unwrap().sha256, Sha256Hex::of(&picture()));
        assert_eq!(server.asked(), asked);
    }
    case.config.cache.as_mut().unwrap().max_age = Duration::from_secs(3600);
    case.load(&server.url("/a.png")).await.unwrap();
    assert_eq!(server.asked(), 4, "an answer that nothing changed makes it young again");
}

#[tokio::test]
async fn a_damaged_one_is_fetched_again() {
    let server = Server::of_pictures().await;
    let case = Case::cached();
    case.load(&server.url("/a.png")).await.unwrap();
    let blob = case.folder.path().join("cache/blobs").join(Sha256Hex::of(&picture()).as_str());
    std::fs::write(&blob, &picture()[..30]).unwrap();
    case.load(&server.url("/a.png")).await.unwrap();
    assert_eq!(server.asked(), 2);
    assert_eq!(std::fs::read(blob).unwrap(), picture());
}

#[tokio::test]
async fn what_is_no_picture_is_not_kept() {
    let server = Server::start(|_, n, _| if n == 0 { "soon".into_response() } else { picture().into_response() }).await;
    let case = Case::cached();
    let loaded = case.load(&server.url("/a.png")).await;
    Case::refused(loaded, ErrorCode::ReferenceUndecodable, false, "is not a picture");
    assert!(case.load(&server.url("/a.png")).await.is_ok(), "it was mended, and the old one is still used");
}

#[tokio::test]
async fn without_a_place_for_the_cache_references_are_fetched_all_the_same() {
    let server = Server::of_pictures().await;
    let mut case = Case::cached();
    std::fs::write(case.folder.path().join("file"), "").unwrap();
    case.config.cache.as_mut().unwrap().folder = case.folder.path().join("file/cache");
    assert!(case.load(&server.url("/a.png")).await.is_ok());
}

#[tokio::test]
async fn an_uploaded_reference_is_read_from_the_store_once() {
    let case = Case::cached();
    let store = FolderObjects::open(case.folder.path()).unwrap();
    let sha256 = Sha256Hex::of(&picture());
    let key = format!("blobs/{sha256}");
    store.put(&key, picture().into()).await.unwrap();
    let reference = Reference::Blob(sha256);
    case.references().load(&reference).await.unwrap().unwrap();
    store.delete(&key).await.unwrap();
    case.references().load(&reference).await.unwrap().unwrap();
}
