//! What one request may take, as a table of requests with their bounds, against a real fleet: none of them silences,
//! bloats or ends a process, and none makes a worker do what its operator does not allow.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use diorama_tests::services::free_port;
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use serde_json::{Value, json};

use super::{Fleet, Member};
use crate::case::until;

/// What a process may grow by, in MiB.
const GROWTH: u64 = 64;

/// How long `/livez` may be silent.
const SILENCE: Duration = Duration::from_secs(5);

impl Member {
    /// The most memory that it had, in MiB.
    fn peak(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
    }
}

/// Sends bytes; the answer's status and whatever follows, 0 where none came.
fn send(address: &str, bytes: &[u8]) -> (u16, String) {
    let mut answer = String::new();
    let mut asked = || {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        // One that is refused may be closed before all of it was sent.
        let _ = stream.write_all(bytes);
        stream.read_to_string(&mut answer)
    };
    let _ = asked();
    (answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default(), answer)
}

fn submission(spec: &Value, manifest: &str) -> Vec<u8> {
    let part =
        |name: &str, text: &str| format!("--cut\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{text}\r\n");
    let body = part("spec", &spec.to_string()) + &part("manifest", manifest) + "--cut--\r\n";
    let head = "POST /v1/runs HTTP/1.0\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=cut\r\n";
    format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

fn rows(count: usize, prompt: &str, more: &str) -> String {
    let row = |index| format!("{{\"custom_id\":\"r{index}\",\"prompt\":\"{prompt}\",\"method\":\"txt2img\"{more}}}\n");
    (0..count).map(row).collect()
}

fn get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").into_bytes()
}

/// Each request, and the status that it is answered with.
fn table() -> Vec<(&'static str, Vec<u8>, u16)> {
    let spec = |more: Value| {
        let mut spec = json!({ "pool": "default", "retry": { "max_rounds": 0 } });
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        spec
    };
    let long = "duck ".repeat(1900);
    let (ordinary, heavy) = (rows(2, "a duck", ""), rows(64, &long, ""));
    let everything = json!(["abs-grad-sam", "img2img", "img2img-reduced", "txt2img"]);
    let reference = ",\"reference\":\"https://example.org/a.png\"";
    let digest = "0".repeat(64);
    let too_long = format!("PUT /v1/blobs/{digest} HTTP/1.0\r\nContent-Length: 1099511627776\r\n\r\nx").into_bytes();
    let of = |more: Value, manifest: &str| submission(&spec(more), manifest);
    vec![
        ("a comparison of 20,000", of(json!({ "compare": vec!["txt2img"; 20_000] }), &heavy), 400),
        ("a comparison of 1,000", of(json!({ "compare": vec!["img2img"; 1000] }), &heavy), 400),
        ("a comparison of two that are one", of(json!({ "compare": ["txt2img", "txt2img"] }), &ordinary), 400),
        ("a method that does not exist", of(json!({ "compare": ["txt3img"] }), &ordinary), 400),
        ("shards beyond the cap", of(json!({ "shard_size": 5000 }), &ordinary), 400),
        ("rounds beyond the cap", of(json!({ "retry": { "max_rounds": 9 } }), &ordinary), 400),
        ("steps beyond the cap", of(json!({ "settings": { "steps": 1000 } }), &ordinary), 400),
        ("a size beyond the cap", of(json!({ "settings": { "size": "4096x4096" } }), &ordinary), 400),
        ("a row's steps beyond the cap", of(json!({}), &rows(2, "a duck", ",\"steps\":1000")), 422),
        ("a row's size beyond the cap", of(json!({}), &rows(2, "a duck", ",\"size\":\"4096x4096\"")), 422),
        ("many layers", of(json!({ "settings": { "layers": "a,".repeat(100_000) } }), &ordinary), 400),
        (
            "a shard that fills a worker",
            of(json!({ "compare": everything, "shard_size": 2000 }), &rows(1800, &long, reference)),
            413,
        ),
        ("a blob of a terabyte", too_long, 413),
        ("a query of half a megabyte", get(&format!("/v1/runs?limit={}", "9".repeat(400_000))), 414),
        ("a limit of 2^64", get("/v1/runs?limit=18446744073709551615"), 200),
        ("a path of dots", get("/v1/runs/../../etc/passwd"), 404),
    ]
}

/// Whether it is alive, asked anew.
fn is_alive(address: &str) -> bool {
    super::ask(address, "GET /livez").is_some()
}

#[test]
fn no_request_costs_more_than_its_bound_or_reaches_a_worker() {
    let fleet = Fleet::new();
    let caps = ["--max-shard-size", "4096", "--max-retry-rounds", "3", "--max-size", "1024x1024", "--max-steps", "100"];
    let mut serving = fleet.serving(&fleet.coordinator);
    serving.args(caps);
    let (coordinator, worker) = (fleet.serve_as(serving), fleet.worker("w"));
    let ordinary = fleet.submit(9);
    fleet.proves_whole(&ordinary, 9);
    let written = || std::fs::read_dir(fleet.s3.folder().join("runs")).unwrap().count();
    let (runs, made) = (written(), worker.peak());
    for (what, request, status) in table() {
        let before = coordinator.peak();
        let (answered, text) = send(&fleet.coordinator, &request);
        assert_eq!(answered, status, "{what} is answered with {text:.2000}");
        assert!(text.len() < 4096, "the answer to {what} has {} bytes", text.len());
        let grown = coordinator.peak() - before;
        assert!(grown <= GROWTH + request.len() as u64 / (1 << 20), "{what} costs the coordinator {grown} MiB");
        assert!(is_alive(&fleet.coordinator), "{what} ends the coordinator");
    }
    assert_eq!(written(), runs, "something of a refused run was written");
    assert!(worker.peak() - made <= GROWTH, "the worker grew by {} MiB", worker.peak() - made);
    let run = fleet.submit_as("afterwards", 9, &[]);
    fleet.proves_whole(&run, 9);
}

/// Opens a connection from one of some addresses, and begins.
fn begin(address: &str, number: usize, bytes: &[u8]) -> Option<TcpStream> {
    let to: SocketAddr = address.parse().unwrap();
    let socket = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::STREAM, None).ok()?;
    let from = SocketAddr::from(([127, 0, 0, 2 + (number % 3) as u8], 0));
    rustix::net::bind(&socket, &from).ok()?;
    rustix::net::connect(&socket, &to).ok()?;
    let mut stream = TcpStream::from(socket);
    stream.write_all(bytes).ok()?;
    Some(stream)
}

#[test]
fn however_many_connections_are_opened_and_held_probes_are_answered_at_once() {
    let fleet = Fleet::new();
    let beside = format!("127.0.0.1:{}", free_port());
    let mut serving = fleet.serving(&fleet.coordinator);
    serving.args(["--metrics-listen", &beside]);
    let coordinator = fleet.serve_as(serving);
    let pid = Pid::from_raw(coordinator.process.id() as i32);
    prlimit(pid, Resource::Nofile, Rlimit { current: Some(256), maximum: Some(256) }).unwrap();
    let digest = "0".repeat(64);
    let half_a_body =
        format!("PUT /v1/blobs/{digest} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\nhalf");
    let kinds: [&[u8]; 5] = [
        b"",
        b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX-",
        b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n",
        half_a_body.as_bytes(),
    ];
    let mut held = Vec::new();
    for kind in kinds.into_iter().chain([half_a_body.as_bytes()]) {
        // As many again as there may be.
        for number in 0..150 {
            held.extend(begin(&fleet.coordinator, number, kind));
            if number % 25 == 0 {
                for address in [&fleet.coordinator, &beside] {
                    let asked = Instant::now();
                    until("a probe is answered", || is_alive(address));
                    assert!(asked.elapsed() < SILENCE, "silent for {:?}", asked.elapsed());
                }
            }
        }
    }
    for path in ["/livez", "/readyz", "/metrics"] {
        assert!(super::ask(&beside, &format!("GET {path}")).is_some(), "{path} beside the API");
    }
    drop(held);
    until("the API answers everybody again", || fleet.run(&["status"]).code == Some(0));
}
