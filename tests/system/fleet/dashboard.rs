//! The coordinator's own page, in a real browser, over a real fleet.

use std::fs;
use std::time::{Duration, Instant};

use diorama_core::id::Sha256Hex;
use diorama_tests::browser::Browser;
use serde_json::{Value, json};

use super::{Fleet, ask};
use crate::case::until;

/// A prompt that would like to be markup.
const EVIL: &str = "</script><img src=x onerror=\"document.title='owned'\"> seagull";

/// How far the page may be behind the API.
const BEHIND: Duration = Duration::from_secs(2);

impl Fleet {
    fn page(&self, hash: &str) -> String {
        format!("http://{}/{hash}", self.coordinator)
    }

    fn says(&self, path: &str) -> Value {
        let answer = ask(&self.coordinator, &format!("GET {path}")).unwrap_or_else(|| panic!("no answer to {path}"));
        serde_json::from_str(&answer).unwrap()
    }
}

/// The number of a figure of the page.
fn figure(browser: &Browser, name: &str) -> Option<u64> {
    let selector = Value::from(format!("[data-figure=\"{name}\"]"));
    let value = browser.value(&format!("document.querySelector({selector})?.dataset.value ?? ''"));
    value.as_str().unwrap_or_default().parse().ok()
}

fn ready(browser: &Browser, view: &str) {
    browser.until(view, &format!("document.body.dataset.ready === '1' && document.body.dataset.view === '{view}'"));
}

/// Complaints that are not about a coordinator that was away.
fn unexpected(browser: &Browser) -> Vec<String> {
    let is_away = |complaint: &str| complaint.contains("net::ERR_") && !complaint.contains("BLOCKED");
    browser.complaints().into_iter().filter(|complaint| !is_away(complaint)).collect()
}

#[test]
fn a_run_is_followed_to_its_end_with_its_pictures_through_the_death_of_the_coordinator() {
    let fleet = Fleet::new();
    let mut coordinator = fleet.serve();
    let browser = Browser::start(1280, 900);
    browser.open(&fleet.page(""));
    ready(&browser, "fleet");
    let rows: Vec<Value> = (0..400)
        .map(|n| {
            let prompt = if n % 40 == 0 { EVIL.to_owned() } else { format!("seagull number {n}") };
            json!({"custom_id": format!("row-{n:03}"), "reference": format!("place-{}.png", n % 3), "prompt": prompt})
        })
        .collect();
    fleet.case.write_rows(&rows);
    let submit = ["submit", "rows.jsonl", "--name", "gulls", "--shard-size", "8", "--format", "webdataset", "--json"];
    let run = fleet.run(&submit).expect(0).json()["run"].as_str().unwrap().to_owned();
    // Nobody works: the page says so, and why.
    browser.until("the run is shown", &format!("document.querySelector('[data-run=\"{run}\"]') !== null"));
    browser.until("what is wrong is shown", "document.querySelector('[data-problem=\"no_workers\"]') !== null");

    // Slow enough that a page on a busy machine is loaded long before the run is over.
    let _workers = ["w1", "w2"].map(|name| fleet.start(fleet.working(name, "250")));
    browser.open(&fleet.page(&format!("#/runs/{run}")));
    ready(&browser, "run");
    let shown =
        "[...document.querySelectorAll('[data-task] img')].some((image) => image.complete && image.naturalWidth > 0)";
    browser.until("pictures are shown while the run goes on", shown);
    assert!(fleet.status(&run)["summary"].is_null(), "the run is not over");

    coordinator.kill();
    browser.until("the page says that nobody answers", "document.querySelector('#banner').innerText !== ''");
    assert!(figure(&browser, "done").is_some_and(|done| done > 0), "what was there stays");
    let _again = fleet.serve();
    browser.until("the page goes on", "document.querySelector('#banner').innerText === ''");

    until("the run ends", || !fleet.status(&run)["summary"].is_null());
    let ended = Instant::now();
    browser.until("the end is shown", "document.querySelector('[data-figure=\"done\"]')?.dataset.value === '400'");
    assert!(ended.elapsed() < BEHIND, "{:?} behind", ended.elapsed());

    // A picture with everything around it; a prompt is text, whatever it looks like.
    browser.open(&fleet.page(&format!("#/runs/{run}/tasks/40")));
    ready(&browser, "picture");
    assert!(browser.text("main").contains(EVIL), "{}", browser.text("main"));
    let drawn = "[...document.querySelectorAll('main img')].filter((image) => image.complete && image.naturalWidth > 0).length >= 4";
    browser.until("picture, mask, overlay and heat map are drawn", drawn);
    assert_ne!(browser.value("document.title"), "owned");
    assert_eq!(unexpected(&browser), [""; 0]);
}

#[test]
fn whoever_may_only_look_has_no_buttons_and_whoever_may_more_is_asked_before_anything_happens() {
    let fleet = Fleet::new();
    let entry = |name: &str, role: &str| {
        format!("[[token]]\nname = \"{name}\"\nrole = \"{role}\"\nsha256 = \"{}\"\n", Sha256Hex::of(name.as_bytes()))
    };
    let tokens = fleet.case.path("tokens.toml");
    fs::write(&tokens, [entry("eve", "viewer"), entry("sam", "submitter")].concat()).unwrap();
    let mut command = fleet.serving(&fleet.coordinator);
    command.args(["--tokens-file", tokens.to_str().unwrap()]);
    let _coordinator = fleet.start(command);
    until("the coordinator answers", || ask(&fleet.coordinator, "GET /livez").is_some());
    let mut submitting = fleet.submitting("gulls", 64, &[]);
    submitting.env("DIORAMA_TOKEN", "sam");
    let run = crate::case::end(&mut submitting).expect(0).json()["run"].as_str().unwrap().to_owned();

    let browser = Browser::start(1280, 900);
    let log_in = |token: &str| {
        browser.open(&fleet.page(&format!("#/runs/{run}")));
        ready(&browser, "login");
        browser.value("document.querySelector('input[type=password]').focus()");
        browser.insert(token);
        browser.press("Enter");
    };
    log_in("mallory");
    browser.until(
        "a wrong token is refused in words",
        "document.querySelector('main').innerText.includes('unknown token')",
    );
    browser.open(&fleet.page(&format!("?again#/runs/{run}")));
    log_in("eve");
    ready(&browser, "run");
    assert_eq!(browser.count("[data-action]"), 0, "a viewer has no buttons");
    let refused = format!(
        "fetch('v1/runs/{run}/pause', {{ method: 'POST', headers: {{ 'Diorama-Page': '1' }} }}).then((answer) => answer.status)"
    );
    assert_eq!(browser.value(&refused), 403);
    browser.click("#log-out");
    ready(&browser, "login");

    log_in("sam");
    ready(&browser, "run");
    browser.until("a submitter may pause", "document.querySelector('[data-action=\"pause\"]') !== null");
    assert_eq!(browser.count("[data-action=\"delete\"]"), 0, "that is the admin's");
    browser.click("[data-action=\"pause\"]");
    browser.until("it asks", "document.querySelector('dialog[open]') !== null");
    browser.click("dialog[open] [data-confirm]");
    browser.until("it is paused", "document.querySelector('[data-action=\"resume\"]') !== null");
    assert_eq!(
        browser.value(&format!("fetch('v1/runs/{run}').then((answer) => answer.json()).then((run) => run.state)")),
        "paused"
    );
}

#[test]
fn the_page_fits_a_phone_and_can_be_used_by_keyboard() {
    let fleet = Fleet::new();
    let _coordinator = fleet.serve();
    let run = fleet.submit(64);
    let _worker = fleet.worker("w1");
    fleet.until_done(&run, 64);
    let browser = Browser::start(360, 780);
    for (view, hash) in [
        ("fleet", String::new()),
        ("runs", "#/runs".to_owned()),
        ("run", format!("#/runs/{run}")),
        ("shard", format!("#/runs/{run}/shards/r0-000001")),
        ("picture", format!("#/runs/{run}/tasks/9")),
    ] {
        browser.open(&fleet.page(&hash));
        ready(&browser, view);
        let wide = browser.value("document.documentElement.scrollWidth");
        assert!(wide.as_u64().unwrap() <= 360, "{view} is {wide} pixels wide");
    }
    // From the top of the list of runs to the run, without a mouse.
    browser.open(&fleet.page("#/runs"));
    ready(&browser, "runs");
    let reached = (0..40).any(|_| {
        browser.press("Tab");
        browser.value("document.activeElement?.getAttribute('href') ?? ''").as_str().unwrap().ends_with(&run)
    });
    assert!(reached, "the run is not reached by Tab");
    browser.press("Enter");
    ready(&browser, "run");
    assert_eq!(unexpected(&browser), [""; 0]);
}

#[test]
fn every_figure_is_the_apis_within_two_seconds_while_a_hundred_thousand_tasks_are_made() {
    let fleet = Fleet::new();
    let _coordinator = fleet.serve();
    fleet.case.manifest(100_000);
    let submit = ["submit", "rows.jsonl", "--name", "many", "--shard-size", "64", "--format", "webdataset", "--json"];
    let run = fleet.run(&submit).expect(0).json()["run"].as_str().unwrap().to_owned();
    let worker = |name: &str| {
        let work = ["--engine", "synthetic", "--synthetic-latency", "0", "--batch-size", "64"];
        fleet.start(fleet.command(&[&["worker", "--worker", name, "--heartbeat", "0.5"][..], &work].concat()))
    };
    let _workers = [worker("w1"), worker("w2")];
    let browser = Browser::start(1280, 900);
    browser.open(&fleet.page(&format!("#/runs/{run}")));
    ready(&browser, "run");
    let mut compared = 0;
    while compared < 5 {
        fleet.until_done(&run, 4_000 * (compared + 1));
        let said = fleet.says(&format!("/v1/runs/{run}"))["done"].as_u64().unwrap();
        let asked = Instant::now();
        browser.until(
            "the page is as far",
            &format!("Number(document.querySelector('[data-figure=\"done\"]')?.dataset.value) >= {said}"),
        );
        assert!(asked.elapsed() < BEHIND, "{:?} behind at {said}", asked.elapsed());
        compared += 1;
    }
    assert_eq!(unexpected(&browser), [""; 0]);
}
