//! The page of a run on this machine: the same API and the same page as a coordinator's.

use std::io::Read;
use std::net::SocketAddr;
use std::time::Duration;

use diorama_tests::http;
use diorama_tests::services::free_port;
use rustix::process::Signal;
use serde_json::Value;

use crate::case::{Case, start, until, wait};

/// The status of an answer and its JSON; `None` where there is no answer.
fn send(address: SocketAddr, request: &str) -> Option<(u16, Value)> {
    let (status, mut answer) = http::send(address, request, Duration::from_secs(10))?;
    let mut body = Vec::new();
    answer.read_to_end(&mut body).ok()?;
    // A picture is none.
    Some((status, serde_json::from_slice(&body).unwrap_or_default()))
}

#[test]
fn a_run_on_this_machine_is_shown_steered_and_still_shown_after_its_end() {
    let case = Case::new();
    case.manifest(40);
    let address: SocketAddr = format!("127.0.0.1:{}", free_port()).parse().unwrap();
    let slow = ["--synthetic-latency", "400", "--batch-size", "2", "--shard-size", "4", "--format", "webdataset"];
    let run = start(&mut case.run("out", &[&slow[..], &["--serve", &address.to_string()]].concat()));
    let ask = |path: &str| send(address, &format!("GET {path}")).unwrap_or((0, Value::Null));
    until("the run is shown", || ask("/v1/runs").1["runs"][0]["run"].is_string());
    let id = ask("/v1/runs").1["runs"][0]["run"].as_str().unwrap().to_owned();
    let steer = |action: &str| send(address, &format!("POST /v1/runs/{id}/{action}")).unwrap();
    let state = || ask(&format!("/v1/runs/{id}")).1["state"].clone();

    until("it has made something", || ask(&format!("/v1/runs/{id}/pictures")).1["pictures"][0].is_object());
    assert_eq!(steer("pause").0, 200);
    assert_eq!(state(), "paused");
    assert_eq!(steer("resume").0, 200);
    assert_eq!(send(address, "POST /v1/runs").unwrap().1["code"], "one_run");
    assert_eq!(send(address, &format!("DELETE /v1/runs/{id}")).unwrap().1["code"], "role_too_low");

    until("it ends", || ask(&format!("/v1/runs/{id}")).1["summary"].is_object());
    until("the page of a run that has ended is still there", || ask("/v1/fleet").1["runs"] == Value::Array(Vec::new()));
    let (_, picture) = ask(&format!("/v1/runs/{id}/tasks/3"));
    assert_eq!(picture["picture"]["status"], "done", "{picture}");
    let reference = picture["picture"]["reference"]["url"].as_str().unwrap();
    assert_eq!(ask(&format!("/{reference}?width=32")).0, 200, "the run's own references are shown");
    assert_eq!(steer("retry").1["code"], "run_has_ended");
    until("everything of the run is written", || case.path("out/index.html").exists());
    run.signal(Signal::INT);
    wait(run).expect(0);
}
