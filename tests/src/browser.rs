//! A real browser without a window: Chromium, told what to do over a pipe (the DevTools protocol).

use std::cell::Cell;
use std::io::{BufRead, BufReader, Write};
use std::process::{ChildStdin, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use crate::children::{self, PATIENCE, Process};

/// Its pipes are descriptors 3 and 4; those of a child are 0 and 1.
const SCRIPT: &str = "exec chromium \"$@\" 3<&0 4>&1 </dev/null >/dev/null 2>&1";

/// How long one answer may take.
const ANSWER: Duration = Duration::from_secs(60);

/// Between two looks at the page.
const LOOK: Duration = Duration::from_millis(20);

/// A browser with one page. It dies with this value.
pub struct Browser {
    input: Mutex<ChildStdin>,
    answers: Receiver<Value>,
    next: Cell<u64>,
    session: String,
    /// What the page complained of: errors of scripts, refusals of the policy, failed requests.
    complaints: Mutex<Vec<String>>,
    _profile: tempfile::TempDir,
    _process: Process,
}

impl Browser {
    /// Starts one with an empty page of this size, in pixels.
    pub fn start(width: u32, height: u32) -> Self {
        Self::start_with(width, height, &[])
    }

    /// The same with more arguments.
    pub fn start_with(width: u32, height: u32, more: &[&str]) -> Self {
        let profile = tempfile::tempdir().unwrap();
        let mut command = children::command("sh");
        command.args([
            "-c",
            SCRIPT,
            "chromium",
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
        ]);
        command.args(["--remote-debugging-pipe", "--no-first-run", "--disable-background-networking"]);
        command.arg(format!("--user-data-dir={}", profile.path().display())).args(more);
        command.stdout(Stdio::piped()).stderr(Stdio::null());
        let mut process = Process::spawn_with_input(&mut command, "install it: scripts/setup-chromium");
        let (input, output) = (process.input().unwrap(), process.answers().unwrap());
        let (send, answers) = channel();
        std::thread::spawn(move || {
            let mut output = BufReader::new(output);
            let mut message = Vec::new();
            while output.read_until(0, &mut message).is_ok_and(|read| read > 0) {
                message.pop();
                if send.send(serde_json::from_slice(&message).unwrap_or_default()).is_err() {
                    return;
                }
                message.clear();
            }
        });
        let (next, complaints) = (Cell::new(0), Mutex::default());
        let session = String::new();
        let mut browser =
            Self { input: Mutex::new(input), answers, next, session, complaints, _profile: profile, _process: process };
        let target = browser.call("Target.createTarget", json!({ "url": "about:blank" }))["targetId"].clone();
        let attached = browser.call("Target.attachToTarget", json!({ "targetId": target, "flatten": true }));
        browser.session = attached["sessionId"].as_str().unwrap().to_owned();
        for domain in ["Page", "Runtime", "Log", "Network"] {
            browser.call(&format!("{domain}.enable"), json!({}));
        }
        browser.resize(width, height);
        browser
    }

    /// Gives the page another size.
    pub fn resize(&self, width: u32, height: u32) {
        let metrics = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.call("Emulation.setDeviceMetricsOverride", metrics);
    }

    /// Opens an address and waits until it is loaded.
    pub fn open(&self, url: &str) {
        let answer = self.call("Page.navigate", json!({ "url": url }));
        assert!(answer["errorText"].is_null(), "{url}: {answer}");
        self.until("the page is loaded", "document.readyState === 'complete'");
    }

    /// What an expression is in the page; a promise is waited for.
    #[track_caller]
    pub fn value(&self, expression: &str) -> Value {
        self.try_value(expression).unwrap_or_else(|thrown| panic!("{expression}: {thrown}"))
    }

    fn try_value(&self, expression: &str) -> Result<Value, Value> {
        let how = json!({ "expression": expression, "returnByValue": true, "awaitPromise": true, "userGesture": true });
        let answer = self.call("Runtime.evaluate", how);
        match &answer["exceptionDetails"] {
            Value::Null => Ok(answer["result"]["value"].clone()),
            thrown => Err(thrown.clone()),
        }
    }

    /// The text of the first element that fits a selector; empty where there is none.
    #[track_caller]
    pub fn text(&self, selector: &str) -> String {
        let text = self.value(&format!("document.querySelector({})?.innerText ?? ''", Value::from(selector)));
        text.as_str().unwrap_or_default().to_owned()
    }

    /// How many elements fit a selector.
    #[track_caller]
    pub fn count(&self, selector: &str) -> u64 {
        self.value(&format!("document.querySelectorAll({}).length", Value::from(selector))).as_u64().unwrap()
    }

    /// Waits until an expression is true in the page.
    #[track_caller]
    pub fn until(&self, what: &str, expression: &str) {
        let started = Instant::now();
        while self.try_value(expression).ok() != Some(Value::Bool(true)) {
            assert!(
                started.elapsed() < PATIENCE,
                "{what}: not within {PATIENCE:?}; the page says: {}",
                self.text("body")
            );
            std::thread::sleep(LOOK);
        }
    }

    /// Clicks on the first element that fits a selector.
    #[track_caller]
    pub fn click(&self, selector: &str) {
        let clicked = self.value(&format!(
            "(() => {{ const it = document.querySelector({}); it?.click(); return Boolean(it); }})()",
            Value::from(selector)
        ));
        assert_eq!(clicked, true, "nothing fits {selector}: {}", self.text("body"));
    }

    /// Presses a key, by its name in the DevTools protocol: `Tab`, `Enter`, `ArrowRight`.
    pub fn press(&self, key: &str) {
        let text = if key == "Enter" { "\r" } else { "" };
        for kind in ["keyDown", "keyUp"] {
            self.call("Input.dispatchKeyEvent", json!({ "type": kind, "key": key, "code": key, "text": text }));
        }
    }

    /// Types text where the focus is.
    pub fn insert(&self, text: &str) {
        self.call("Input.insertText", json!({ "text": text }));
    }

    /// What the page looks like, as PNG.
    pub fn screenshot(&self) -> Vec<u8> {
        let shot = self.call("Page.captureScreenshot", json!({ "format": "png" }));
        BASE64_STANDARD.decode(shot["data"].as_str().unwrap()).unwrap()
    }

    /// What the page complained of since it was asked last.
    pub fn complaints(&self) -> Vec<String> {
        // What has arrived meanwhile is read with the next answer.
        self.value("1");
        std::mem::take(&mut *self.complaints.lock().unwrap())
    }

    fn call(&self, method: &str, parameters: Value) -> Value {
        let id = self.next.get();
        self.next.set(id + 1);
        let mut message = json!({ "id": id, "method": method, "params": parameters });
        if !self.session.is_empty() {
            message["sessionId"] = self.session.clone().into();
        }
        let mut bytes = message.to_string().into_bytes();
        bytes.push(0);
        self.input.lock().unwrap().write_all(&bytes).unwrap();
        loop {
            let answer = self.answers.recv_timeout(ANSWER);
            let mut answer =
                answer.unwrap_or_else(|_| panic!("chromium does not answer to {method}: is it installed?"));
            if answer["id"] == id {
                assert!(answer["error"].is_null(), "{method}: {}", answer["error"]);
                return answer["result"].take();
            }
            self.note(&answer);
        }
    }

    /// Notes an event that is a complaint.
    fn note(&self, event: &Value) {
        let parameters = &event["params"];
        let complaint = match event["method"].as_str() {
            Some("Runtime.exceptionThrown") => parameters["exceptionDetails"].to_string(),
            Some("Log.entryAdded") if parameters["entry"]["level"] == "error" => parameters["entry"].to_string(),
            Some("Runtime.consoleAPICalled") if parameters["type"] == "error" => parameters["args"].to_string(),
            _ => return,
        };
        self.complaints.lock().unwrap().push(complaint);
    }
}
