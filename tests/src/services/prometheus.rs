//! A private Prometheus, which scrapes a fleet every second, evaluates rules as often, and answers queries.

use std::fs;
use std::io::Read;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{free_port, wait_until};
use crate::children::{self, Process};
use crate::http;

const INSTALL: &str = "install it: apt-get install -y --no-install-recommends prometheus (or scripts/setup-services)";

/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(30);

/// A server with what it has seen.
pub struct Prometheus {
    _process: Process,
    _folder: TempDir,
    address: SocketAddr,
}

impl Prometheus {
    /// Starts one that scrapes `targets`, which are addresses, each under the name of its job, and evaluates the files of
    /// rules in `rules`.
    pub fn start(targets: &[(&str, &[String])], rules: &Path) -> Self {
        let folder = tempfile::Builder::new().prefix("diorama-prometheus-").tempdir().unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let scrape =
            |(job, targets): &(&str, &[String])| json!({"job_name": job, "static_configs": [{"targets": targets}]});
        // JSON is YAML.
        let config = json!({
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
            "rule_files": [rules.join("*.yaml")],
            "scrape_configs": targets.iter().map(scrape).collect::<Vec<_>>(),
        });
        let file = folder.path().join("prometheus.yml");
        fs::write(&file, config.to_string()).unwrap();
        let log = folder.path().join("log");
        let mut command = children::command("prometheus");
        command.arg("--config.file").arg(file).arg("--storage.tsdb.path").arg(folder.path().join("data"));
        command.arg(format!("--web.listen-address={address}")).arg("--log.level=warn");
        command.stdout(Stdio::null()).stderr(fs::File::create(&log).unwrap());
        let mut process = Process::spawn(&mut command, INSTALL);
        wait_until("Prometheus is ready", || {
            assert!(!process.has_ended(), "Prometheus ended at once:\n{}", fs::read_to_string(&log).unwrap());
            http::ask(address, "GET /-/ready", ANSWER).is_some()
        });
        Self { _process: process, _folder: folder, address }
    }

    /// The series that `expression` gives now. Panics where it is no PromQL.
    #[track_caller]
    pub fn query(&self, expression: &str) -> Vec<Value> {
        let answer = self.ask(&format!("query?query={}", encoded(expression)));
        answer["result"].as_array().unwrap_or_else(|| panic!("{expression} gives no series: {answer}")).clone()
    }

    /// The rules that it evaluates, with what they look for and their state.
    pub fn rules(&self) -> Vec<Value> {
        let groups = self.ask("rules");
        groups["groups"]
            .as_array()
            .unwrap()
            .iter()
            .flat_map(|group| group["rules"].as_array().unwrap().clone())
            .collect()
    }

    /// The alerts that are pending or firing, with the words that somebody who is woken by them reads.
    pub fn alerts(&self) -> Vec<Value> {
        self.ask("alerts")["alerts"].as_array().unwrap().clone()
    }

    #[track_caller]
    fn ask(&self, what: &str) -> Value {
        let mut text = String::new();
        let (status, mut answer) =
            http::send(self.address, &format!("GET /api/v1/{what}"), ANSWER).expect("Prometheus answers");
        answer.read_to_string(&mut text).unwrap();
        assert_eq!(status, 200, "{what}: {text}");
        serde_json::from_str::<Value>(&text).unwrap()["data"].take()
    }
}

/// Text as a value in a URL's query.
fn encoded(text: &str) -> String {
    let safe = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes().map(|byte| if safe(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

/// Runs `promtool`; whether it is content, and what it says.
pub fn promtool(arguments: &[&Path]) -> (bool, String) {
    let output = children::output(children::command("promtool").args(arguments), INSTALL);
    (output.status.success(), [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap()).concat())
}
