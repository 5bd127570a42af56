//! A fleet as its operators see it: a Prometheus scrapes it, evaluates the alerts that the chart brings, and answers what
//! the dashboards ask.

use std::fs;
use std::path::{Path, PathBuf};

use diorama_tests::services::free_port;
use diorama_tests::services::prometheus::Prometheus;

use super::{Fleet, Member};
use crate::case::until;

mod alerts;
mod dashboards;
mod rules;

/// The chart.
const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../helm/diorama");

/// A fleet and the Prometheus that watches it.
struct Watched {
    fleet: Fleet,
    prometheus: Prometheus,
    coordinators: Vec<Member>,
    /// Where its workers answer Prometheus; nobody need be there.
    workers: Vec<String>,
}

impl Watched {
    /// So many coordinators, and addresses for so many workers.
    fn new(coordinators: usize, workers: usize) -> Self {
        let fleet = Fleet::new();
        let address = || format!("127.0.0.1:{}", free_port());
        let others = (1..coordinators).map(|_| address());
        let listen: Vec<_> = std::iter::once(fleet.coordinator.clone()).chain(others).collect();
        let coordinators = listen.iter().map(|address| fleet.serve_as(fleet.serving(address))).collect();
        let workers: Vec<_> = (0..workers).map(|_| address()).collect();
        let hurried = fleet.case.path("alerts");
        fs::create_dir(&hurried).unwrap();
        for file in rule_files() {
            let text = fs::read_to_string(&file).unwrap();
            fs::write(hurried.join(file.file_name().unwrap()), in_a_hurry(&text)).unwrap();
        }
        let prometheus = Prometheus::start(&[("coordinator", &listen), ("worker", &workers)], &hurried);
        let watched = Self { fleet, prometheus, coordinators, workers };
        watched.until_any("diorama_coordinator_leader == 1");
        watched
    }

    /// Starts a worker of a pool that answers Prometheus at the address with this number, with more flags, and waits until
    /// Prometheus has seen it: what it counts before that has no rate.
    fn worker(&self, pool: &str, number: usize, latency: &str, more: &[&str]) -> Member {
        let name = format!("{pool}-{number}");
        let mut command = self.fleet.working(&name, latency);
        command.args(["--pool", pool, "--metrics-listen", &self.workers[number]]).args(more);
        let member = self.fleet.start(command);
        self.until_any(&format!("diorama_worker_info{{worker=\"{name}\"}}"));
        member
    }

    /// Submits a run of a pool, named after it.
    fn submit(&self, pool: &str, rows: usize) -> String {
        self.fleet.submit_as(pool, rows, &["--pool", pool])
    }

    /// Waits until `expression` gives a series.
    #[track_caller]
    fn until_any(&self, expression: &str) {
        until(expression, || !self.prometheus.query(expression).is_empty());
    }
}

/// The files of alerts.
fn rule_files() -> Vec<PathBuf> {
    files(&Path::new(CHART).join("alerts"), "yaml")
}

/// The files in a folder whose names end so, in order.
fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = entries.filter(|path| path.extension().is_some_and(|it| it == extension)).collect();
    files.sort();
    assert!(!files.is_empty(), "{} has no .{extension}", folder.display());
    files
}

/// Rules in which a minute lasts a second, so that what takes an hour is seen in one.
fn in_a_hurry(rules: &str) -> String {
    let is_word = |c: char| c.is_ascii_alphanumeric();
    let hurry = |word: &str| {
        let minutes = |number: &str, each: u32| number.parse::<u32>().ok().map(|number| format!("{}s", number * each));
        let hours = word.strip_suffix('h').and_then(|number| minutes(number, 60));
        hours.or_else(|| word.strip_suffix('m').and_then(|number| minutes(number, 1)))
    };
    let mut hurried = String::new();
    let mut rest = rules;
    while !rest.is_empty() {
        let begins_word = rest.starts_with(is_word);
        let end = rest.find(|c| is_word(c) != begins_word).unwrap_or(rest.len());
        let (piece, more) = rest.split_at(end);
        hurried.push_str(&hurry(piece).unwrap_or_else(|| piece.to_owned()));
        rest = more;
    }
    hurried
}

/// The selectors of our metrics, and of the usual ones of a process, in an expression: each name with its braces.
fn selectors(expression: &str) -> Vec<&str> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let begins = expression.char_indices().filter(|(at, _)| !expression[..*at].ends_with(is_name)).map(|(at, _)| at);
    let names =
        begins.map(|at| &expression[at..]).filter(|rest| ["diorama_", "process_"].iter().any(|p| rest.starts_with(p)));
    let whole = names.map(|rest| {
        let name = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
        let braces = rest[name..].starts_with('{').then(|| rest[name..].find('}').expect("braces are closed") + 1);
        &rest[..name + braces.unwrap_or(0)]
    });
    whole.collect()
}

#[test]
fn what_hurries_the_rules_and_what_finds_selectors_do_so() {
    assert_eq!(
        in_a_hurry("for: 5m\nrate(a_5m[30m] offset 1h) > 5 # 10min"),
        "for: 5s\nrate(a_5s[30s] offset 60s) > 5 # 10min"
    );
    let expression =
        r#"sum(rate(diorama_a_total{outcome!="done"}[5m])) / on (pool) max(up * diorama_b) + process_c{d="e"}"#;
    assert_eq!(selectors(expression), [r#"diorama_a_total{outcome!="done"}"#, "diorama_b", r#"process_c{d="e"}"#]);
    assert!(selectors("absent(foo_diorama_a)").is_empty());
}
