//! What goes wrong at the server: a file says it, and every request looks.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use diorama_tests::services::s3::{Faults, Lie, Rule};
use futures::StreamExt;
use s3s::dto::StreamingBlob;
use s3s::{S3Error, S3ErrorCode, S3Result, s3_error};

/// Between two looks whether a rule is still in force.
const LOOK: Duration = Duration::from_millis(10);

/// What a line of the file of requests begins with where a rule was applied.
const APPLIED: &str = "rule ";

/// The file of faults, and the file that every request is noted in.
pub(crate) struct FaultFile {
    path: PathBuf,
    requests: File,
    counted: AtomicU64,
    /// How often each rule was applied.
    applied: Mutex<BTreeMap<u64, u64>>,
    /// How many requests each rule fitted, where it applies to some of them.
    fitted: Mutex<BTreeMap<u64, u64>>,
}

/// What befalls a request that is not refused.
pub(crate) struct Passed {
    pub(crate) faults: Faults,
    pub(crate) rule: Option<Rule>,
}

impl FaultFile {
    /// Faults from `path`; the name of each request goes into `requests`, a line each. What an earlier server noted there
    /// counts.
    pub(crate) fn new(path: PathBuf, requests: &Path) -> Self {
        let mut applied = BTreeMap::new();
        for line in std::fs::read_to_string(requests).unwrap_or_default().lines() {
            if let Some(rule) = line.strip_prefix(APPLIED).and_then(|rule| rule.parse().ok()) {
                *applied.entry(rule).or_default() += 1;
            }
        }
        let requests = OpenOptions::new().create(true).append(true).open(requests);
        let requests = requests.expect("the file of the requests can be written");
        Self { path, requests, counted: AtomicU64::new(0), applied: Mutex::new(applied), fitted: Mutex::default() }
    }

    /// What is in force.
    fn now(&self) -> Faults {
        let text = std::fs::read(&self.path).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    fn note(&self, line: &str) {
        // In one piece, so that lines do not mix.
        let _ = (&self.requests).write_all(format!("{line}\n").as_bytes());
    }

    /// Notes the request, waits, holds and refuses as the file says; evenly spread, so that a test does not depend on luck.
    pub(crate) async fn pass(&self, request: &str, key: &str) -> S3Result<Passed> {
        self.note(request);
        let faults = self.now();
        if faults.delay_ms > 0 {
            tokio::time::sleep(Duration::from_millis(faults.delay_ms)).await;
        }
        let rule = faults.rules.iter().find(|rule| rule.fits(request, key) && self.applies(rule)).cloned();
        match rule.as_ref().map(|rule| &rule.lie) {
            Some(Lie::Refuse { code }) => return Err(answer(code)),
            Some(Lie::Hold) => self.until_over(rule.as_ref()).await,
            _ => {}
        }
        let number = self.counted.fetch_add(1, Ordering::Relaxed);
        let refused = |number: u64| (number as f64 * faults.refuse) as u64;
        if refused(number + 1) > refused(number) {
            return Err(s3_error!(SlowDown, "refused by the test"));
        }
        Ok(Passed { faults, rule })
    }

    /// Whether the rule applies once more; counts that.
    fn applies(&self, rule: &Rule) -> bool {
        if rule.every > 1 {
            let mut fitted = self.fitted.lock().unwrap_or_else(PoisonError::into_inner);
            let times = fitted.entry(rule.id()).or_default();
            *times += 1;
            if !times.is_multiple_of(rule.every) {
                return false;
            }
        }
        let mut applied = self.applied.lock().unwrap_or_else(PoisonError::into_inner);
        let times = applied.entry(rule.id()).or_default();
        if rule.times.is_some_and(|most| *times >= most) {
            return false;
        }
        *times += 1;
        self.note(&format!("{APPLIED}{}", rule.id()));
        true
    }

    /// Waits until the rule is no longer in force.
    pub(crate) async fn until_over(&self, rule: Option<&Rule>) {
        let id = rule.map(Rule::id);
        while self.now().rules.iter().any(|rule| Some(rule.id()) == id) {
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// The answer with a code of S3.
pub(crate) fn answer(code: &str) -> S3Error {
    let code = S3ErrorCode::from_bytes(code.as_bytes()).unwrap_or(S3ErrorCode::InternalError);
    S3Error::with_message(code, "as the test wants it")
}

/// A body that says nothing more after `bytes` bytes, and does not end.
pub(crate) fn stalled(body: StreamingBlob, bytes: u64) -> StreamingBlob {
    let mut sent = 0;
    StreamingBlob::wrap(body.then(move |piece| {
        sent += piece.as_ref().map_or(0, |piece| piece.len() as u64);
        let stands_still = sent > bytes;
        async move {
            if stands_still {
                std::future::pending::<()>().await;
            }
            piece.map_err(std::io::Error::other)
        }
    }))
}
