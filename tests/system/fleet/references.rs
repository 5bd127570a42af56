//! References from everywhere in one manifest: each is made a picture of, or fails its own task with the reason.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use super::Fleet;
use crate::case::{Case, end, lines, start, until, wait};

/// A web server with one picture, which remembers what it was asked. It ends with the test's process.
struct Web {
    port: u16,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Web {
    fn start(picture: Vec<u8>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let (port, asked) = (listener.local_addr().unwrap().port(), Arc::<Mutex<Vec<String>>>::default());
        let (remembered, busy) = (asked.clone(), AtomicUsize::new(0));
        std::thread::spawn(move || {
            let mut silent = Vec::new();
            for socket in listener.incoming() {
                silent.extend(answer(socket.unwrap(), &picture, &remembered, &busy));
            }
        });
        Self { port, asked }
    }

    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    fn asked(&self, path: &str) -> usize {
        self.asked.lock().unwrap().iter().filter(|asked| *asked == path).count()
    }
}

/// Answers one request; gives the connection back where it is to stay open without an answer.
fn answer(mut socket: TcpStream, picture: &[u8], asked: &Mutex<Vec<String>>, busy: &AtomicUsize) -> Option<TcpStream> {
    let mut lines = BufReader::new(&socket).lines().map_while(Result::ok);
    let request = lines.next()?;
    for _ in lines.by_ref().take_while(|line| !line.is_empty()) {}
    let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
    let (status, more, body) = match path.as_str() {
        "/moved.png" => ("302 Found", "location: /place.png\r\n", &b""[..]),
        "/inward.png" => ("302 Found", "location: http://169.254.169.254/latest/meta-data\r\n", &b""[..]),
        "/gone.png" => ("404 Not Found", "", &b""[..]),
        "/page.png" => ("200 OK", "", &b"<h1>Log in</h1>"[..]),
        "/half.png" => ("200 OK", "", &picture[..picture.len() / 2]),
        "/busy.png" if busy.fetch_add(1, Ordering::SeqCst) == 0 => ("503 Service Unavailable", "", &b""[..]),
        _ => ("200 OK", "", picture),
    };
    asked.lock().unwrap().push(path.clone());
    if path == "/silent.png" {
        return Some(socket);
    }
    let length = body.len();
    let head = format!("HTTP/1.1 {status}\r\n{more}content-length: {length}\r\nconnection: close\r\n\r\n");
    let _ = socket.write_all(&[head.as_bytes(), body].concat());
    None
}

fn row(id: &str, reference: &str) -> Value {
    json!({"custom_id": id, "reference": reference, "prompt": "a seagull"})
}

/// How each task of a finished run ended: `done`, or the code.
fn ends(folder: &Path) -> BTreeMap<String, String> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let done = lines(&folder.join("results.jsonl")).into_iter().map(|it| (text(&it["custom_id"]), "done".to_owned()));
    let failed = lines(&folder.join("errors.jsonl")).into_iter().map(|it| (text(&it["custom_id"]), text(&it["code"])));
    done.chain(failed).collect()
}

fn expected(wanted: &[(&str, &str)]) -> BTreeMap<String, String> {
    wanted.iter().map(|(id, end)| ((*id).to_owned(), (*end).to_owned())).collect()
}

#[test]
fn references_from_everywhere_end_as_they_deserve_and_the_rest_of_the_run_goes_on() {
    let fleet = Fleet::new();
    let case = &fleet.case;
    let place = fs::read(case.path("place-1.png")).unwrap();
    let web = Web::start(place.clone());
    let bucket = fleet.s3.folder().with_file_name("places");
    fs::create_dir_all(bucket.join("north sea")).unwrap();
    fs::write(bucket.join("north sea/dunes.png"), &place).unwrap();
    fs::write(fleet.s3.folder().join("own.png"), &place).unwrap();

    let rows = [
        row("file", "place-0.png"),
        row("same-file", "place-0.png"),
        row("object", "s3://places/north sea/dunes.png"),
        row("object-beside", "s3://diorama/own.png"),
        row("no-object", "s3://places/gone.png"),
        row("no-bucket", "s3://nowhere/gone.png"),
        row("url", &web.url("/place.png")),
        row("moved", &web.url("/moved.png")),
        row("busy", &web.url("/busy.png")),
        row("gone", &web.url("/gone.png")),
        row("page", &web.url("/page.png")),
        row("half", &web.url("/half.png")),
        row("metadata", "http://169.254.169.254/latest/meta-data/"),
        row("inward", &web.url("/inward.png")),
    ];
    case.write_rows(&rows);
    let settings = [
        ("DIORAMA_ALLOW_PRIVATE_REFERENCES", "true"),
        ("DIORAMA_REFERENCE_CACHE", "cache"),
        ("DIORAMA_S3_READABLE", "places,nowhere,diorama"),
    ];
    let _members = [
        fleet.start_with(&settings, &["serve", "--listen", &fleet.coordinator]),
        fleet.start_with(&settings, &["worker", "--engine", "synthetic", "--heartbeat", "0.5"]),
    ];
    until("the coordinator answers", || fleet.run(&["status"]).code == Some(0));
    let allowed = ["--allow-private-references", "true", "--max-rounds", "1", "--retry-delay", "0", "--json"];
    let submitted = fleet.run(&[&["submit", "rows.jsonl", "--shard-size", "5"][..], &allowed].concat()).expect(0);
    let run = submitted.json()["run"].as_str().unwrap().to_owned();
    until("the run ends", || !fleet.status(&run)["summary"].is_null());

    assert_eq!(fleet.run(&["results", &run, "--to", "results"]).code, Some(0));
    let wanted = expected(&[
        ("busy", "done"),
        ("file", "done"),
        ("gone", "reference_unreadable"),
        ("half", "reference_undecodable"),
        ("inward", "reference_forbidden"),
        ("metadata", "reference_forbidden"),
        ("moved", "done"),
        ("no-bucket", "reference_unreadable"),
        ("no-object", "reference_unreadable"),
        ("object", "done"),
        ("object-beside", "done"),
        ("page", "reference_undecodable"),
        ("same-file", "done"),
        ("url", "done"),
    ]);
    assert_eq!(ends(&case.path("results")), wanted);
    let status = fleet.status(&run);
    assert_eq!((&status["done"], &status["failed"]), (&7.into(), &7.into()), "{status}");
    assert_eq!(web.asked("/gone.png"), 1, "what cannot be mended was tried again");
    let verified = fleet.run(&["verify", &run, "--json"]).expect(0).json();
    assert_eq!((&verified["done"], &verified["failed"]), (&7.into(), &7.into()), "{verified}");

    // The same places again: nothing that was fetched is fetched again.
    let before = (web.asked("/place.png"), web.asked("/busy.png"));
    let again = fleet.run(&[&["submit", "rows.jsonl", "--again", "--watch"][..], &allowed[..2]].concat());
    assert_eq!(again.code, Some(3), "{}", again.stderr);
    assert_eq!((web.asked("/place.png"), web.asked("/busy.png")), before);
}

#[test]
fn a_run_on_this_machine_fetches_urls_and_nothing_private_unless_it_is_allowed() {
    let case = Case::new();
    let web = Web::start(fs::read(case.path("place-1.png")).unwrap());
    case.write_rows(&[row("file", "place-0.png"), row("url", &web.url("/place.png"))]);
    end(&mut case.run("out", &["--allow-private-references", "true"])).expect(0);
    assert_eq!(ends(&case.path("out")), expected(&[("file", "done"), ("url", "done")]));

    let refused = end(&mut case.run("other", &["--json"])).expect(42).json();
    assert_eq!((&refused["issues"][0]["line"], &refused["issues"][0]["code"]), (&2.into(), &"bad_reference".into()));
    let private = format!("https://localhost:{}/place.png", web.port);
    case.write_rows(&[row("file", "place-0.png"), row("url", &private)]);
    end(&mut case.run("private", &[])).expect(3);
    assert_eq!(ends(&case.path("private")), expected(&[("file", "done"), ("url", "reference_forbidden")]));
    assert_eq!(web.asked.lock().unwrap().len(), 1);
}

#[test]
fn a_server_that_says_nothing_does_not_hold_up_a_drain() {
    let case = Case::new();
    let web = Web::start(Vec::new());
    case.write_rows(&[row("file", "place-0.png"), row("silent", &web.url("/silent.png"))]);
    let allowed = ["--allow-private-references", "true", "--reference-timeout", "600"];
    let child = start(&mut case.run("out", &allowed));
    until("the worker asks", || web.asked("/silent.png") > 0);
    let stopped = Instant::now();
    child.signal(Signal::TERM);
    wait(child).expect(143);
    assert!(stopped.elapsed() < Duration::from_secs(60), "the drain took {:?}", stopped.elapsed());
}

#[test]
fn a_reference_that_the_store_has_is_not_sent_again() {
    let fleet = Fleet::new();
    let _coordinator = fleet.serve();
    let sent = || -> BTreeMap<_, _> {
        let blobs = fs::read_dir(fleet.s3.folder().join("blobs")).unwrap().map(Result::unwrap);
        blobs.map(|blob| (blob.file_name(), blob.metadata().unwrap().modified().unwrap())).collect()
    };
    fleet.submit(20);
    let first = sent();
    assert_eq!(first.len(), 3, "each picture once, however many rows name it");
    image::RgbImage::new(48, 32).save(fleet.case.path("place-3.png")).unwrap();
    fleet.case.write_rows(&[row("old", "place-0.png"), row("new", "place-3.png")]);
    fleet.run(&["submit", "rows.jsonl", "--name", "more"]).expect(0);
    let second = sent();
    assert_eq!(second.len(), 4);
    assert!(first.iter().all(|(blob, at)| second[blob] == *at), "one was written again");
}
