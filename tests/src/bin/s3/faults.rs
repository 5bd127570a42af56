//! What goes wrong at the server: a file says it, and every request looks.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use diorama_tests::services::s3::Faults;
use futures::StreamExt;
use s3s::dto::StreamingBlob;
use s3s::{S3Error, S3ErrorCode, S3Result, s3_error};

/// The file of faults, and the file that every request is noted in.
pub(crate) struct FaultFile {
    path: PathBuf,
    requests: File,
    counted: AtomicU64,
}

impl FaultFile {
    /// Faults from `path`; the name of each request goes into `requests`, a line each.
    pub(crate) fn new(path: PathBuf, requests: &Path) -> Self {
        let requests = OpenOptions::new().create(true).append(true).open(requests);
        let requests = requests.expect("the file of the requests can be written");
        Self { path, requests, counted: AtomicU64::new(0) }
    }

    /// What is in force.
    pub(crate) fn now(&self) -> Faults {
        let text = std::fs::read(&self.path).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    /// Notes the request, waits and refuses as the file says; evenly spread, so that a test does not depend on luck.
    pub(crate) async fn pass(&self, request: &str) -> S3Result<Faults> {
        // In one piece, so that lines do not mix.
        let _ = (&self.requests).write_all(format!("{request}\n").as_bytes());
        let faults = self.now();
        if faults.delay_ms > 0 {
            tokio::time::sleep(Duration::from_millis(faults.delay_ms)).await;
        }
        if let Some(code) = faults.answers.get(request) {
            let code = S3ErrorCode::from_bytes(code.as_bytes()).unwrap_or(S3ErrorCode::InternalError);
            return Err(S3Error::with_message(code, "as the test wants it"));
        }
        let number = self.counted.fetch_add(1, Ordering::Relaxed);
        let refused = |number: u64| (number as f64 * faults.refuse) as u64;
        if refused(number + 1) > refused(number) { Err(s3_error!(SlowDown, "refused by the test")) } else { Ok(faults) }
    }
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
