//! The dashboards of Grafana on a fleet that has seen all sorts of trouble: whatever they ask for is there.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use diorama_tests::services::prometheus::Prometheus;
use diorama_tests::services::s3::Faults;
use serde_json::Value;

use super::{CHART, Watched, files, selectors};
use crate::case::until;

/// How long the last of the queries may take to have data: the coordinators look at the pools every five seconds, and a
/// rate needs two scrapes.
const PATIENCE: Duration = Duration::from_secs(90);

/// What a dashboard asks Prometheus: the panel, or the variable, and the expression with nothing left to fill in.
struct Question {
    whose: String,
    expression: String,
}

/// Every question of a dashboard.
fn questions(name: &str, dashboard: &Value) -> Vec<Question> {
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    let names: Vec<_> = variables.iter().map(|variable| variable["name"].as_str().unwrap()).collect();
    let filled = |expression: &str| {
        let windows = [("$__rate_interval", "15s"), ("$__range", "60s"), ("$__interval", "5s")];
        let filled = windows.iter().fold(expression.to_owned(), |text, (name, value)| text.replace(name, value));
        // Whatever is chosen: everything.
        let filled = names.iter().fold(filled, |text, name| text.replace(&format!("${name}"), ".*"));
        assert!(!filled.contains('$'), "{name}: a variable that there is not in {expression}");
        filled
    };
    let mut questions = Vec::new();
    for variable in variables.iter().filter(|variable| variable["type"] == "query") {
        let query = variable["query"]["query"].as_str().unwrap();
        let (metric, label) = query
            .strip_prefix("label_values(")
            .and_then(|rest| rest.strip_suffix(')'))
            .unwrap()
            .rsplit_once(", ")
            .expect("label_values(METRIC, LABEL)");
        let expression = filled(&format!("count by ({label}) ({metric})"));
        questions.push(Question { whose: format!("{name}: variable {}", variable["name"]), expression });
    }
    let mut panels: Vec<&Value> = dashboard["panels"].as_array().unwrap().iter().collect();
    while let Some(panel) = panels.pop() {
        panels.extend(panel["panels"].as_array().into_iter().flatten());
        for target in panel["targets"].as_array().into_iter().flatten() {
            let expression = filled(target["expr"].as_str().unwrap());
            questions.push(Question { whose: format!("{name}: {}", panel["title"]), expression });
        }
    }
    questions
}

/// Whether there is a number among what it gives.
fn has_data(prometheus: &Prometheus, expression: &str) -> bool {
    let is_number = |series: &Value| series["value"][1].as_str().unwrap().parse::<f64>().is_ok_and(f64::is_finite);
    prometheus.query(expression).iter().any(is_number)
}

/// What of `expression` gives nothing, as a whole or in a part, which something like `or vector(0)` would hide.
fn missing(prometheus: &Prometheus, expression: &str) -> Vec<String> {
    let parts = selectors(expression)
        .into_iter()
        .filter(|part| prometheus.query(&format!("last_over_time({part}[1h])")).is_empty());
    let mut missing: Vec<_> = parts.map(str::to_owned).collect();
    if !has_data(prometheus, expression) {
        missing.push(expression.to_owned());
    }
    missing
}

#[test]
fn every_panel_of_every_dashboard_has_data_on_a_fleet_that_has_seen_trouble() {
    let watched = Watched::new(2, 4);
    let fleet = &watched.fleet;
    fleet.s3.set(Faults { refuse: 0.02, ..Faults::default() });
    // Half of this one's tasks fail, and are tried again.
    let _failing = watched.worker("busy", 0, "100", &["--synthetic-fail-rate", "0.5"]);
    let _idle = watched.worker("paused", 1, "100", &[]);
    let paused = watched.submit("paused", 800);
    fleet.until_done(&paused, 8);
    fleet.run(&["pause", &paused]).expect(0);
    // A pool without a run: nobody takes its dead letters.
    let _unreadable = watched.worker("unreadable", 3, "20", &[]);
    watched.publish_what_no_run_has("unreadable");
    // Nobody works for this one, and an alert says so.
    watched.submit("forsaken", 80);
    let _busy = watched.submit("busy", 8000);
    // A worker that was killed and came back.
    let mut killed = watched.worker("busy", 2, "100", &[]);
    killed.kill();
    let _again = watched.worker("busy", 2, "100", &[]);

    let asked: Vec<Question> = files(&Path::new(CHART).join("dashboards"), "json")
        .iter()
        .flat_map(|file| {
            let dashboard = serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap();
            questions(&file.file_stem().unwrap().to_string_lossy(), &dashboard)
        })
        .collect();
    until("the dead letter is seen", || has_data(&watched.prometheus, "diorama_queue_dead_shards > 0"));
    let started = Instant::now();
    let mut without: Vec<_> = asked.iter().collect();
    loop {
        without.retain(|question| !missing(&watched.prometheus, &question.expression).is_empty());
        if without.is_empty() || started.elapsed() > PATIENCE {
            break;
        }
        std::thread::sleep(Duration::from_secs(1));
    }
    let said = without.iter().map(|question| {
        format!("{}\n    {}", question.whose, missing(&watched.prometheus, &question.expression).join("\n    "))
    });
    assert!(
        without.is_empty(),
        "{} of {} have no data:\n{}",
        without.len(),
        asked.len(),
        said.collect::<Vec<_>>().join("\n")
    );
}
