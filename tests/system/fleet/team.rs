//! Several people on one fleet, and pages that would like to be one of them.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;

use diorama_tests::browser::Browser;
use serde_json::Value;

use super::Fleet;
use crate::case::{End, end, until};

/// People with tokens of one coordinator.
struct Team<'a> {
    fleet: &'a Fleet,
    tokens: Vec<(&'static str, String)>,
}

impl<'a> Team<'a> {
    fn new(fleet: &'a Fleet, people: &[(&'static str, &str)]) -> Self {
        let file = fleet.case.path("tokens.toml");
        let new = |(name, role): &(&'static str, &str)| {
            let arguments = ["token", "new", name, "--role", role, "--tokens-file", file.to_str().unwrap(), "--json"];
            let made = fleet.run(&arguments).expect(0).json();
            (*name, made["token"].as_str().unwrap().to_owned())
        };
        Self { fleet, tokens: people.iter().map(new).collect() }
    }

    /// A command as this person gives it.
    fn run(&self, who: &str, arguments: &[&str]) -> End {
        let (_, token) = self.tokens.iter().find(|(name, _)| *name == who).unwrap();
        end(self.fleet.command(arguments).env("DIORAMA_TOKEN", token))
    }

    fn submits(&self, who: &str, rows: u32, more: &[&str]) -> End {
        self.fleet.case.manifest(rows as usize);
        self.run(who, &[&["submit", "rows.jsonl", "--shard-size", "2", "--again", "--json"], more].concat())
    }

    fn run_of(&self, who: &str, rows: u32) -> String {
        self.submits(who, rows, &[]).expect(0).json()["run"].as_str().unwrap().to_owned()
    }

    fn status(&self, run: &str) -> Value {
        self.run("ada", &["status", run, "--json"]).expect(0).json()
    }
}

#[test]
fn two_users_on_one_fleet_cannot_see_touch_or_starve_each_other() {
    let fleet = Fleet::new();
    let team = Team::new(&fleet, &[("sam", "submitter"), ("tim", "submitter"), ("ada", "admin")]);
    let tokens = fleet.case.path("tokens.toml");
    let limited = fs::read_to_string(&tokens).unwrap().replace("active_runs = 16", "active_runs = 3");
    fs::write(&tokens, limited).unwrap();
    let mut serving = fleet.serving(&fleet.coordinator);
    serving.args(["--tokens-file", tokens.to_str().unwrap(), "--window", "8"]);
    let coordinator = fleet.start(serving);
    until("the coordinator answers", || team.run("ada", &["status"]).code == Some(0));

    // Sam takes what he can.
    let taken: Vec<String> = (0..3).map(|_| team.run_of("sam", 100)).collect();
    let code = |refused: End| refused.expect(42).json()["code"].clone();
    assert_eq!(team.submits("sam", 4, &[]).expect(75).json()["code"], "too_many_runs");
    assert_eq!(code(team.submits("sam", 4, &["--priority", "1"])), "beyond_your_limits");
    assert_eq!(code(team.submits("sam", 4, &["--weight", "1000"])), "beyond_your_limits");
    let slow = ["worker", "--engine", "synthetic", "--synthetic-latency", "150", "--heartbeat", "0.5"];
    let _worker = fleet.start(fleet.command(&slow));
    until("sam's runs are at work", || team.status(&taken[0])["done"].as_u64() > Some(0));

    // Tim gets his share of the fleet all the same, and nothing of Sam's.
    let own = team.run_of("tim", 8);
    until("tim's run ends", || team.status(&own)["summary"].is_object());
    assert_eq!(team.status(&own)["done"], 8);
    for run in &taken {
        assert!(team.status(run)["summary"].is_null(), "sam's runs were done before tim's had to wait for anything");
    }
    let theirs = taken[0].as_str();
    let results = ["results", theirs, "--to", "stolen", "--partial", "--json"];
    for arguments in [
        &["status", theirs, "--json"][..],
        &["watch", theirs, "--json"],
        &["pause", theirs, "--json"],
        &["resume", theirs, "--json"],
        &["cancel", theirs, "--json"],
        &["retry", theirs, "--json"],
        &results,
    ] {
        assert_eq!(code(team.run("tim", arguments)), "unknown_run", "{arguments:?}");
    }
    assert_eq!(code(team.run("tim", &["delete", theirs, "--json"])), "role_too_low");
    let seen = team.run("tim", &["status", "--all", "--json"]).expect(0).json();
    let seen: Vec<&Value> = seen["runs"].as_array().unwrap().iter().map(|run| &run["run"]).collect();
    assert_eq!(seen, [own.as_str()]);
    assert_eq!(team.status(theirs)["state"], "running", "nothing of that changed it");
    team.run("sam", &["pause", theirs]).expect(0);
    for run in &taken {
        team.run("sam", &["cancel", run]).expect(0);
    }

    // Who is revoked is out, and all of it is in the audit.
    fleet.run(&["token", "revoke", "sam", "--tokens-file", tokens.to_str().unwrap()]).expect(0);
    until("sam's token is unknown", || team.run("sam", &["status"]).code == Some(42));
    let logged = coordinator.logged();
    let audit = logged.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let audit: Vec<Value> = audit.filter(|line| line["target"] == "diorama_audit").collect();
    let is_told = |who: &str, path: &str, status: u64| {
        audit.iter().any(|line| {
            (&line["who"], &line["status"]) == (&who.into(), &status.into())
                && line["path"].as_str().unwrap().ends_with(path)
                && line["from"] == "127.0.0.1"
        })
    };
    assert!(is_told("sam", "/v1/runs", 201) && is_told("sam", "/v1/runs", 429), "{audit:?}");
    assert!(is_told("sam", &format!("{theirs}/pause"), 200) && is_told("tim", &format!("{theirs}/pause"), 404));
    assert!(audit.iter().any(|line| line["code"] == "unknown_token"), "{audit:?}");
    for (_, token) in &team.tokens {
        assert!(!logged.contains(token.as_str()), "a token is in the log");
    }
}

/// Serves one page to whoever asks, until the test ends. Gives its port.
fn evil_page(page: String) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            let mut socket = socket.unwrap();
            let _ = socket.read(&mut [0; 4096]);
            let head = format!("HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: {}\r\n", page.len());
            let _ = socket.write_all(format!("{head}connection: close\r\n\r\n{page}").as_bytes());
        }
    });
    port
}

#[test]
fn a_foreign_page_and_a_rebinding_one_change_nothing_and_see_nothing() {
    let fleet = Fleet::new();
    let coordinator = fleet.serve();
    let run = fleet.submit_as("mine", 4, &[]);
    let api = format!("http://{}/v1/runs/{run}", fleet.coordinator);
    let page = format!(
        "<iframe name=sink></iframe>\
         <form method=post target=sink enctype=text/plain action='{api}/cancel'><input name=a value=b></form>\
         <img src='http://{}/v1/runs'>\
         <script>\
           const said = [];\
           const tries = [\
             fetch('{api}/cancel', {{ method: 'POST', mode: 'no-cors' }}),\
             fetch('{api}/pause', {{ method: 'POST', headers: {{ 'Diorama-Page': '1' }} }}),\
             fetch('{api}', {{ mode: 'cors' }}),\
           ].map((one) => one.then((answer) => said.push(answer.type), () => said.push('refused')));\
           document.forms[0].submit();\
           Promise.allSettled(tries).then(() => {{ document.title = said.sort().join(' '); }});\
         </script>",
        fleet.coordinator
    );
    let port = evil_page(page);
    let rules = "--host-resolver-rules=MAP evil.example 127.0.0.1";
    let browser = Browser::start_with(800, 600, &[rules]);
    browser.open(&format!("http://evil.example:{port}/"));
    browser.until("all was tried", "document.title !== ''");
    let said = browser.value("document.title");
    assert!(["opaque refused refused", "refused refused refused"].contains(&said.as_str().unwrap()), "{said}");
    assert_eq!(fleet.status(&run)["state"], "running");

    // A name that leads here now: the page of that name would be at home.
    let (_, own_port) = fleet.coordinator.rsplit_once(':').unwrap();
    for path in ["", "v1/runs", &format!("v1/runs/{run}"), "metrics"] {
        browser.open(&format!("http://evil.example:{own_port}/{path}"));
        let shown = browser.text("body");
        assert!(shown.contains("foreign_host") && !shown.contains(&run), "{path}: {shown}");
    }
    let refused = coordinator.logged().lines().filter(|line| line.contains("\"foreign_host\"")).count();
    assert!(refused >= 4, "the browser asked");
    // The page of the coordinator itself still changes what it is asked to.
    browser.open(&format!("http://{}/", fleet.coordinator));
    let paused = format!(
        "fetch('v1/runs/{run}/pause', {{ method: 'POST', headers: {{ 'Diorama-Page': '1' }} }}).then((answer) => answer.status)"
    );
    assert_eq!(browser.value(&paused), 200);
    assert_eq!(fleet.status(&run)["state"], "paused");
}
