//! What a URL can do to a worker: nothing.

use axum::body::Bytes;
use futures::StreamExt;
use tokio::time::Instant;

use super::*;

#[tokio::test]
async fn a_picture_behind_a_few_redirects_is_fetched() {
    let server = Server::start(|path, _, _| match path {
        "/moved/a.png" => redirect("../b.png"),
        "/b.png" => redirect("/c.png?size=full"),
        _ => picture().into_response(),
    })
    .await;
    let fetched = Case::new().load(&server.url("/moved/a.png")).await.unwrap();
    assert_eq!((fetched.picture.width, fetched.picture.height), (12, 8));
    assert_eq!(fetched.sha256, Sha256Hex::of(&picture()));
    assert_eq!(*server.asked.lock().unwrap(), ["/moved/a.png", "/b.png", "/c.png"]);
}

#[tokio::test]
async fn redirects_that_do_not_end_or_lead_nowhere_are_given_up() {
    let server = Server::start(|path, _, _| match path {
        "/nowhere" => Response::builder().status(301).body(Body::empty()).unwrap(),
        path => redirect(path),
    })
    .await;
    let case = Case::new();
    Case::refused(case.load(&server.url("/a")).await, ErrorCode::ReferenceUnreadable, false, "more than 5 redirects");
    assert_eq!(server.asked(), 6);
    Case::refused(case.load(&server.url("/nowhere")).await, ErrorCode::ReferenceUnreadable, false, "to nowhere");
}

#[tokio::test]
async fn a_redirect_to_an_address_or_a_scheme_that_is_not_fetched_is_refused() {
    for to in [
        "http://169.254.169.254/latest/meta-data/",
        "https://[::ffff:127.0.0.1]/",
        "http://[fe80::1]/",
        "//100.100.100.200/",
        "ftp://example.org/x.png",
        "file:///etc/passwd",
    ] {
        let server = Server::start(move |_, _, _| redirect(to)).await;
        let loaded = Case::new().load(&server.url("/a.png")).await;
        Case::refused(loaded, ErrorCode::ReferenceForbidden, false, "/a.png is not fetched");
        assert_eq!(server.asked(), 1, "{to}");
    }
}

#[tokio::test]
async fn without_the_setting_nothing_private_is_connected_to_by_address_or_by_name() {
    let server = Server::of_pictures().await;
    let mut case = Case::new();
    case.config.allow_private = false;
    let port = server.address.rsplit_once(':').unwrap().1;
    for host in ["127.0.0.1", "[::1]", "10.0.0.1", "[fd00::1]", "169.254.169.254", "2130706433"] {
        let loaded = case.load(&format!("https://{host}:{port}/a.png")).await;
        Case::refused(loaded, ErrorCode::ReferenceForbidden, false, "address");
    }
    let loaded = case.load(&format!("https://localhost:{port}/a.png")).await;
    Case::refused(loaded, ErrorCode::ReferenceForbidden, false, "localhost (");
    Case::refused(
        case.load(&server.url("/a.png")).await,
        ErrorCode::ReferenceForbidden,
        false,
        "http:// is not fetched",
    );
    assert_eq!(server.asked(), 0);
    // The same name, where the setting says so.
    case.config.allow_private = true;
    assert!(case.load(&format!("http://localhost:{port}/a.png")).await.is_ok());
}

#[tokio::test]
async fn a_body_that_is_too_long_is_cut_off_whether_it_says_so_or_not() {
    let endless = || futures::stream::repeat(Bytes::from_static(&[7; 1000])).map(Ok::<_, std::io::Error>);
    let server = Server::start(move |path, _, _| match path {
        "/long.png" => vec![7; 100_001].into_response(),
        _ => Body::from_stream(endless()).into_response(),
    })
    .await;
    let mut case = Case::new();
    case.config.max_bytes = 100_000;
    for path in ["/long.png", "/endless.png"] {
        let loaded = case.load(&server.url(path)).await;
        Case::refused(loaded, ErrorCode::ReferenceTooLarge, false, "100000 bytes allowed");
    }
    assert_eq!(server.asked(), 2, "neither was tried again");
}

#[tokio::test]
async fn a_body_that_drips_is_cut_off_when_the_time_is_over() {
    let server = Server::start(|_, _, _| {
        let drops = futures::stream::unfold(picture().into_iter(), |mut bytes| async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let byte = bytes.next()?;
            Some((Ok::<_, std::io::Error>(Bytes::from(vec![byte])), bytes))
        });
        Body::from_stream(drops).into_response()
    })
    .await;
    let mut case = Case::new();
    case.config.timeout = Duration::from_secs(2);
    let started = Instant::now();
    let loaded = case.load(&server.url("/slow.png")).await;
    Case::refused(loaded, ErrorCode::ReferenceUnreadable, true, "longer than 2s (reference_timeout)");
    assert!(started.elapsed() < Duration::from_secs(60));
}

#[tokio::test]
async fn what_is_no_picture_or_claims_to_be_huge_or_comes_compressed_is_refused() {
    // 30,000 × 30,000 in a small BMP.
    let side = 30_000_i32.to_le_bytes();
    let huge =
        [b"BM".as_slice(), &[0; 8], &[54, 0, 0, 0, 40, 0, 0, 0], &side, &side, &[1, 0, 24, 0], &[0; 24]].concat();
    let server = Server::start(move |path, _, _| match path {
        "/page.png" => axum::response::Html("<html><h1>Log in</h1>").into_response(),
        "/empty.png" => status(StatusCode::OK),
        "/half.png" => picture()[..40].to_vec().into_response(),
        "/huge.bmp" => huge.clone().into_response(),
        _ => ([("content-encoding", "gzip")], picture()).into_response(),
    })
    .await;
    let case = Case::new();
    for (path, code, why) in [
        ("/page.png", ErrorCode::ReferenceUndecodable, "is a web page (HTML)"),
        ("/empty.png", ErrorCode::ReferenceUndecodable, "is empty"),
        ("/half.png", ErrorCode::ReferenceUndecodable, "truncated"),
        ("/huge.bmp", ErrorCode::ReferenceTooLarge, "30000x30000"),
        ("/bomb.png", ErrorCode::ReferenceUndecodable, "\"gzip\""),
    ] {
        Case::refused(case.load(&server.url(path)).await, code, false, why);
    }
}

#[tokio::test]
async fn an_error_names_the_reference_without_what_may_be_secret() {
    let server = Server::start(|_, _, _| status(StatusCode::NOT_FOUND)).await;
    let case = Case::new();
    for url in [
        format!("http://me:hunter2@{}/a.png?key=hunter2#hunter2", server.address),
        format!("http://me:hunter2@127.0.0.1:{}/a.png?key=hunter2", closed_port().await),
        "http://me:hunter2@169.254.169.254/a.png?key=hunter2".to_owned(),
        "http://me:hunter2@[bad/a.png?key=hunter2".to_owned(),
    ] {
        let references = References {
            remote: Some(Arc::new(Remote::new(
                RemoteConfig { timeout: Duration::from_millis(100), ..case.config.clone() },
                None,
            ))),
            ..case.references()
        };
        let error = load(&references, &url).await.unwrap_err();
        assert!(!format!("{error:?}").contains("hunter2"), "{error}");
        assert!(error.message.contains("/a.png") || url.contains('['), "{error}");
    }
}

/// A port that nobody listens on.
async fn closed_port() -> u16 {
    tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap().local_addr().unwrap().port()
}
