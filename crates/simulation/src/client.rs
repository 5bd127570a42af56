//! What people ask of the fleet, and what they make of the answers.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use bytes::Bytes;
use diorama_core::id::{RunId, Sha256Hex};
use diorama_core::picture::Rgb8;
use serde_json::Value;
use tower::ServiceExt;

use crate::checker::{Asked, Broken, Checker};
use crate::fleet::{Fleet, POOLS};
use crate::studio::{DEADLY, MOODY, NOTHING, STUNNING};
use crate::world::World;

/// How long somebody waits for an answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// An answer, and who gave it.
struct Answer {
    status: StatusCode,
    body: Value,
    of: String,
}

/// Somebody with a list of runs.
pub(crate) struct Client {
    world: Arc<World>,
    submissions: u64,
}

impl Client {
    pub(crate) fn new(world: &Arc<World>) -> Self {
        Self { world: world.clone(), submissions: 0 }
    }

    /// Sends the request; the answer, where one came in time.
    async fn send(&self, fleet: &Fleet, request: Request<Body>, patience: Duration) -> Option<Answer> {
        let (api, of) = fleet.api()?;
        let answer = tokio::time::timeout(patience, api.oneshot(request)).await.ok()?.ok()?;
        let status = answer.status();
        let body = axum::body::to_bytes(answer.into_body(), 1 << 22).await.ok()?;
        self.world.note(&(status.as_u16(), &body));
        Some(Answer { status, body: serde_json::from_slice(&body).unwrap_or_default(), of })
    }

    /// Asks something of a run: `pause`, `resume`, `cancel`, `retry`, `delete`, `show`.
    pub(crate) async fn ask(
        &self,
        fleet: &Fleet,
        checker: &mut Checker,
        run: &RunId,
        what: &'static str,
    ) -> Result<(), Broken> {
        let (method, path) = match what {
            "delete" => ("DELETE", String::new()),
            "show" => ("GET", String::new()),
            _ => ("POST", format!("/{what}")),
        };
        if what == "delete" {
            checker.asks_for_deletion(run);
        }
        let request = Request::builder().method(method).uri(format!("/v1/runs/{run}{path}"));
        let at = self.world.now();
        let answer = self.send(fleet, request.body(Body::empty()).unwrap(), PATIENCE).await;
        let Some(Answer { status, body, of }) = answer else { return Ok(()) };
        checker.answered(&self.world, &Asked { run: run.clone(), what, at, of }, status, &body)
    }

    /// Looks at the list.
    pub(crate) async fn list(&self, fleet: &Fleet, checker: &mut Checker) -> Result<(), Broken> {
        let at = self.world.now();
        let request = Request::builder().uri("/v1/runs?limit=100").body(Body::empty()).unwrap();
        match self.send(fleet, request, PATIENCE).await {
            Some(answer) if answer.status.is_success() => checker.listed(&self.world, at, &answer.body),
            _ => Ok(()),
        }
    }

    /// Submits a run, up to three times with the same key; where `cut_off`, it may hang up halfway.
    pub(crate) async fn submit(&mut self, fleet: &Fleet, checker: &mut Checker, cut_off: bool) -> Result<(), Broken> {
        self.submissions += 1;
        let key = format!("submission-{}", self.submissions);
        let references = self.references();
        for reference in &references {
            let request = Request::builder().method("PUT").uri(format!("/v1/blobs/{}", Sha256Hex::of(reference)));
            // Where it does not get there, the submission that names it is refused.
            self.send(fleet, request.body(Body::from(reference.clone())).unwrap(), PATIENCE).await;
        }
        let form = self.form(&references);
        let mut first: Option<RunId> = None;
        for _ in 0..1 + self.world.roll(3) {
            let hangs_up = cut_off && self.world.roll(4) == 0;
            let patience = if hangs_up { Duration::from_millis(self.world.roll(600)) } else { PATIENCE };
            let request = Request::builder()
                .method("POST")
                .uri("/v1/runs")
                .header("content-type", "multipart/form-data; boundary=edge")
                .header("idempotency-key", &key)
                .body(Body::from(form.clone()));
            let Some(answer) = self.send(fleet, request.unwrap(), patience).await else { continue };
            if !answer.status.is_success() {
                continue;
            }
            let run = RunId::new(answer.body["run"].as_str().unwrap_or_default()).map_err(|error| error.to_string())?;
            checker.accepted(&self.world, &run)?;
            if first.as_ref().is_some_and(|first| *first != run) {
                return Err(format!("one submission, sent again, became two runs: {first:?} and {run}"));
            }
            first = Some(run);
        }
        Ok(())
    }

    /// What some rows begin from: a picture or two, and something that is none.
    fn references(&self) -> Vec<Bytes> {
        let world = &self.world;
        if world.roll(3) > 0 {
            return Vec::new();
        }
        let picture = |_| {
            let data = std::iter::repeat_with(|| world.roll(256) as u8).take(3).collect();
            diorama_picture::encode_rgb(&Rgb8 { width: 1, height: 1, data }).unwrap().into()
        };
        let pictures = (0..1 + world.roll(2)).map(picture);
        let no_picture = (world.roll(3) == 0).then(|| Bytes::from_static(b"no picture"));
        pictures.chain(no_picture).collect()
    }

    fn form(&self, references: &[Bytes]) -> String {
        let world = &self.world;
        let (deadly, stunning, moody) = (world.roll(6) == 0, world.roll(6) == 0, world.roll(4) == 0);
        let row = |row: u64| {
            let prompt = match world.roll(20) {
                0 | 1 => NOTHING,
                2 if deadly => DEADLY,
                2 | 3 if stunning => STUNNING,
                _ if moody => MOODY,
                _ => "a duck",
            };
            let mut cells = serde_json::json!({ "custom_id": format!("t{row}"), "prompt": prompt });
            if let Some(reference) = references.get(world.roll(4) as usize) {
                cells["method"] = "img2img".into();
                cells["reference"] = format!("blob:{}", Sha256Hex::of(reference)).into();
            }
            format!("{cells}\n")
        };
        let rows: String = (0..1 + world.roll(30)).map(row).collect();
        let spec = serde_json::json!({
            "pool": format!("pool-{}", world.roll(POOLS)),
            "format": if world.roll(2) == 0 { "files" } else { "webdataset" },
            "shard_size": 1 + world.roll(4),
            "priority": world.roll(5) / 3,
            "settings": { "method": "txt2img" },
            "retry": { "max_rounds": world.roll(3), "delay_seconds": 2 },
        });
        format!(
            "--edge\r\nContent-Disposition: form-data; name=\"spec\"\r\n\r\n{spec}\r\n--edge\r\n\
             Content-Disposition: form-data; name=\"manifest\"; filename=\"m.jsonl\"\r\n\r\n{rows}\r\n--edge--\r\n"
        )
    }
}
