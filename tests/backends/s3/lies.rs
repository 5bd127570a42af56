//! A store that does what it was asked to and says that it did not, that does it late, or that shows only a part: what our
//! client makes of each.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use diorama_backends::objects::retrying::Retrying;
use diorama_backends::objects::s3::{S3Config, S3Objects};
use diorama_backends::objects::{ObjectErrorKind, Objects, Put, list_all};
use diorama_tests::services::s3::{Faults, Lie, Rule, S3Server};
use tokio::task::spawn_blocking;

use super::uploads::{file_of, in_parts};
use super::{config, connect, server, store};

fn lost(code: &str) -> Lie {
    Lie::LoseAnswer { code: code.to_owned() }
}

fn late(after_ms: Option<u64>) -> Lie {
    Lie::Late { code: "InternalError".to_owned(), after_ms }
}

fn patient(server: &S3Server) -> Retrying<S3Objects> {
    Retrying::patient(store(server, "lies"))
}

/// Waits until the store has an object, or has it no longer.
async fn until_it_is(store: &dyn Objects, key: &str, there: bool) {
    let started = Instant::now();
    while store.head(key).await.unwrap().is_some() != there {
        assert!(started.elapsed() < Duration::from_secs(60), "{key} is there: not yet {there}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Waits on the server's side without holding up the requests on ours.
async fn until_applied(server: &Arc<S3Server>, rule: &Rule) {
    let (server, rule) = (server.clone(), rule.clone());
    spawn_blocking(move || server.until_applied(&rule, 1)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conditional_put_whose_answer_was_lost_knows_its_own_object() {
    let server = server();
    let store = patient(&server);
    for code in ["InternalError", "SlowDown", "RequestTimeout"] {
        let rule = Rule::new("put_object", lost(code)).times(1);
        server.set(Faults::by([rule.clone()]));
        let content = Bytes::from(format!("attempt of {code}"));
        assert_eq!(store.put_if_absent(code, content.clone()).await.unwrap(), Put::Created, "{code}");
        assert_eq!(server.applied(&rule), 1);
        assert_eq!(store.get(code).await.unwrap(), content);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conditional_put_that_lost_finds_the_other_object_whatever_its_tries_were_answered() {
    let server = server();
    let store = patient(&server);
    let other = Bytes::from_static(b"another's attempt");
    store.put("a", other.clone()).await.unwrap();
    for code in ["InternalError", "ConditionalRequestConflict"] {
        let refuse = Lie::Refuse { code: code.to_owned() };
        server.set(Faults::by([Rule::new("put_object", refuse).times(2)]));
        let put = store.put_if_absent("a", Bytes::from_static(b"ours")).await.unwrap();
        assert_eq!(put, Put::Exists, "{code}");
        assert_eq!(store.get("a").await.unwrap(), other);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conflict_of_conditional_puts_is_tried_again_until_one_of_them_is_there() {
    let server = server();
    let store = patient(&server);
    let conflict = Lie::Refuse { code: "ConditionalRequestConflict".to_owned() };
    server.set(Faults::by([Rule::new("put_object", conflict).times(3)]));
    assert_eq!(store.put_if_absent("a", Bytes::from_static(b"ours")).await.unwrap(), Put::Created);
    // One whose effect took place is our own, as after any lost answer.
    server.set(Faults::by([Rule::new("put_object", lost("ConditionalRequestConflict")).times(1)]));
    assert_eq!(store.put_if_absent("b", Bytes::from_static(b"ours")).await.unwrap(), Put::Created);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conditional_put_that_takes_effect_late_replaces_nobody() {
    let server = Arc::new(server());
    let bare = store(&server, "lies");
    let rule = Rule::new("put_object", late(None)).times(1);
    server.set(Faults::by([rule.clone()]));
    let first = bare.put_if_absent("a", Bytes::from_static(b"late")).await.unwrap_err();
    assert_eq!(first.kind, ObjectErrorKind::Transient, "{first}");
    until_applied(&server, &rule).await;
    assert_eq!(bare.put_if_absent("a", Bytes::from_static(b"in time")).await.unwrap(), Put::Created);
    // Released: it finds that it comes too late.
    server.set(Faults::default());
    bare.put("b", Bytes::new()).await.unwrap();
    assert_eq!(bare.get("a").await.unwrap(), "in time");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_that_is_answered_with_a_fault_takes_effect_when_it_is_released_or_its_time_comes() {
    let server = server();
    let bare = store(&server, "lies");
    server.set(Faults::by([Rule::new("put_object", late(Some(200))).times(1)]));
    bare.put("timed", Bytes::from_static(b"late")).await.unwrap_err();
    until_it_is(&bare, "timed", true).await;

    server.set(Faults::by([Rule::new("put_object", late(None)).of("released").times(1)]));
    bare.put("released", Bytes::from(vec![7; 2 << 20])).await.unwrap_err();
    bare.put("other", Bytes::new()).await.unwrap();
    assert_eq!(bare.head("released").await.unwrap(), None, "it was not held back");
    server.set(Faults::default());
    until_it_is(&bare, "released", true).await;
    assert!(bare.get("released").await.unwrap() == vec![7; 2 << 20]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removal_whose_answer_was_lost_or_that_comes_late_is_no_error() {
    let server = server();
    let (bare, store) = (store(&server, "lies"), patient(&server));
    let keys = ["a", "b", "c"].map(str::to_owned);
    for key in &keys {
        store.put(key, Bytes::new()).await.unwrap();
    }
    let rules = ["delete_object", "delete_objects"].map(|kind| Rule::new(kind, lost("InternalError")).times(1));
    server.set(Faults::by(rules.clone()));
    store.delete("a").await.unwrap();
    store.delete_all(&keys).await.unwrap();
    assert_eq!(rules.each_ref().map(|rule| server.applied(rule)), [1, 1]);
    assert_eq!(list_all(&store, "").await.unwrap(), []);

    store.put("a", Bytes::new()).await.unwrap();
    server.set(Faults::by([Rule::new("delete_object", late(None)).times(1)]));
    bare.delete("a").await.unwrap_err();
    assert!(store.head("a").await.unwrap().is_some(), "it was not held back");
    server.set(Faults::default());
    until_it_is(&bare, "a", false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_page_that_says_there_is_more_is_not_the_end() {
    let server = server();
    let store = store(&server, "lies");
    let keys: Vec<String> = (0..10).map(|n| format!("commits/{n}")).collect();
    for key in &keys {
        store.put(key, Bytes::new()).await.unwrap();
    }
    let short = Rule::new("list_objects_v2", Lie::Page { most: 3 });
    let empty = Rule::new("list_objects_v2", Lie::Page { most: 0 }).times(4);
    for rules in [vec![short.clone()], vec![empty.clone()], vec![empty.clone().times(2), short.clone()]] {
        server.set(Faults::by(rules.clone()));
        let listed: Vec<_> = list_all(&store, "commits/").await.unwrap().into_iter().map(|object| object.key).collect();
        assert_eq!(listed, keys, "{rules:?}");
    }
    assert!(server.applied(&empty) >= 4, "no page was empty");
    // At the end there may be an empty page, too.
    server.set(Faults::by([Rule::new("list_objects_v2", Lie::Page { most: 0 }).of("nothing/").times(1)]));
    assert_eq!(list_all(&store, "nothing/").await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_else_put_there_under_a_name_that_none_of_ours_can_have_is_not_listed() {
    let server = server();
    let store = store(&server, "lies");
    let keys: Vec<String> = (0..4).map(|n| format!("commits/{n}")).collect();
    for key in &keys {
        store.put(key, Bytes::new()).await.unwrap();
    }
    let folder = server.folder().join("lies/commits");
    for name in ["0 notes.txt", ".hidden", "1 (copy)", "9~"] {
        std::fs::write(folder.join(name), "somebody else's").unwrap();
    }
    // Also where a page has nothing else on it.
    for most in [1, 2, 1000] {
        server.set(Faults::by([Rule::new("list_objects_v2", Lie::Page { most })]));
        let listed: Vec<_> = list_all(&store, "").await.unwrap().into_iter().map(|object| object.key).collect();
        assert_eq!(listed, keys, "{most} a page");
    }
    // Nobody could remove them; and whoever removes everything that is listed gets to its end.
    store.delete_all(&keys).await.unwrap();
    assert_eq!(list_all(&store, "").await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_whose_end_was_answered_with_a_fault_is_looked_for_and_not_sent_again() {
    let server = server();
    let store = in_parts(&server);
    let (content, file) = file_of(11 << 20);
    for code in ["InternalError", "SlowDown", "NoSuchUpload"] {
        let sent = server.requests("upload_part");
        server.set(Faults::by([Rule::new("complete_multipart_upload", lost(code)).times(1)]));
        let started = Instant::now();
        store.put_file(code, file.path()).await.unwrap();
        assert!(started.elapsed() < Duration::from_secs(60), "{code}: it took {:?}", started.elapsed());
        assert_eq!(server.requests("upload_part") - sent, 3, "{code}: it was sent again");
        assert!(store.get(code).await.unwrap() == content);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_object_of_the_same_length_is_not_taken_for_an_upload_that_failed() {
    let server = server();
    let store = in_parts(&server);
    let (content, file) = file_of(11 << 20);
    store.put("large", Bytes::from(vec![9; 11 << 20])).await.unwrap();
    let refuse = Lie::Refuse { code: "InternalError".to_owned() };
    server.set(Faults::by([Rule::new("complete_multipart_upload", refuse).times(2)]));
    store.put_file("large", file.path()).await.unwrap();
    assert!(store.get("large").await.unwrap() == content, "the other object was taken for ours");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_the_store_forgets_is_begun_anew_and_not_for_ever() {
    let server = server();
    let store = in_parts(&server);
    let (content, file) = file_of(11 << 20);
    for step in ["upload_part", "complete_multipart_upload"] {
        let forget = Rule::new(step, Lie::Refuse { code: "NoSuchUpload".to_owned() });
        server.set(Faults::by([forget.clone().times(1)]));
        store.put_file(step, file.path()).await.unwrap();
        assert!(store.get(step).await.unwrap() == content);
        server.set(Faults::by([forget]));
        let started = Instant::now();
        let error = store.put_file("never", file.path()).await.unwrap_err();
        assert_eq!(error.kind, ObjectErrorKind::Away, "{error}");
        assert!(started.elapsed() < Duration::from_secs(60), "{step}: it took {:?}", started.elapsed());
        server.set(Faults::default());
    }
    assert_eq!(store.head("never").await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_that_nobody_finishes_are_found_by_their_age_and_ended_and_no_others() {
    let server = Arc::new(server());
    let store = Arc::new(in_parts(&server));
    let (_, file) = file_of(11 << 20);
    let held = Rule::new("complete_multipart_upload", Lie::Hold);
    server.set(Faults::by([held.clone()]));
    for key in ["runs/a/x.tar", "runs/b/x.tar"] {
        let before = server.applied(&held);
        let (storing, path) = (store.clone(), file.path().to_owned());
        let sender = tokio::spawn(async move { storing.put_file(key, &path).await });
        let (waiting, rule) = (server.clone(), held.clone());
        spawn_blocking(move || waiting.until_applied(&rule, before + 1)).await.unwrap();
        // As the process dies: nobody is told.
        sender.abort();
        assert!(sender.await.unwrap_err().is_cancelled());
    }
    assert_eq!(server.unfinished_parts(), 6);
    assert_eq!(store.abort_stale_uploads("", Duration::from_secs(3600)).await.unwrap(), 0, "they are young");
    assert_eq!(store.abort_stale_uploads("runs/none/", Duration::ZERO).await.unwrap(), 0);
    assert_eq!(store.abort_stale_uploads("runs/a/", Duration::ZERO).await.unwrap(), 1);
    assert_eq!(server.unfinished_parts(), 3, "one of another prefix was ended");
    assert_eq!(store.abort_stale_uploads("", Duration::ZERO).await.unwrap(), 1);
    assert_eq!(store.abort_stale_uploads("", Duration::ZERO).await.unwrap(), 0);
    assert_eq!(server.unfinished_parts(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_held_goes_on_when_it_is_released_and_the_others_meanwhile() {
    let server = Arc::new(server());
    // Longer than it is held, whatever else the machine does.
    let patient = S3Config { answer: Duration::from_secs(120), ..config(&server, "lies") };
    let store = Arc::new(connect(patient));
    store.put("runs/a/1", Bytes::new()).await.unwrap();
    let rule = Rule::new("list_objects_v2", Lie::Hold).of("runs/a/");
    server.set(Faults::by([rule.clone()]));
    let listing = {
        let store = store.clone();
        tokio::spawn(async move { list_all(&*store, "runs/a/").await.unwrap().len() })
    };
    until_applied(&server, &rule).await;
    store.put("runs/a/2", Bytes::new()).await.unwrap();
    assert_eq!(list_all(&*store, "runs/").await.unwrap().len(), 2, "another listing waits, too");
    assert!(!listing.is_finished(), "it was not held");
    server.set(Faults::default());
    assert_eq!(listing.await.unwrap(), 2);
}
