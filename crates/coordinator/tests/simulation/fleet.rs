//! One story: a fleet, what happens to it, and what people ask of it, all chosen by a seed.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use diorama_backends::objects::Objects;
use diorama_backends::objects::retrying::Retrying;
use diorama_backends::progress::Progress;
use diorama_backends::queue::Queue;
use diorama_coordinator::api::{Api, ApiConfig, router};
use diorama_coordinator::{CoordinatorConfig, Grace, Service, ServiceConfig, Shares};
use diorama_core::id::{Pool, RunId};
use diorama_protocol::{Backends, Exclusive, RunStore};
use serde_json::Value;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tower::ServiceExt;

use crate::checker::Checker;
use crate::store::{Chaos, Node, World, locked};
use crate::worker::work;

/// Things that happen in a story.
const EVENTS: u64 = 60;

/// How long everything may take to come to rest once the weather is fair.
const REST: Duration = Duration::from_secs(3600);

fn pool(number: u64) -> Pool {
    Pool::new(format!("pool-{number}")).unwrap()
}

fn backends(node: &Node) -> Backends {
    Backends {
        queue: Arc::new(node.clone()) as Arc<dyn Queue>,
        progress: Arc::new(node.clone()) as Arc<dyn Progress>,
        objects: Arc::new(Retrying::new(node.clone())) as Arc<dyn Objects>,
        exclusive: Exclusive::ConditionalPut,
    }
}

/// A process, and what it is.
struct Process {
    node: Node,
    kind: Kind,
    /// The API, of a coordinator.
    api: Option<Router>,
    _running: AbortOnDropHandle<()>,
    thaws: Option<Instant>,
}

#[derive(Clone, Copy)]
enum Kind {
    Coordinator(u64),
    Worker(u64),
}

struct Fleet {
    world: Arc<World>,
    scratch: tempfile::TempDir,
    processes: Vec<Process>,
    lives: u64,
    runs: Vec<RunId>,
    submitted: u64,
    checker: Checker,
    weather_until: Instant,
}

/// Tells the story with this seed; what was broken in it.
pub(crate) async fn story(seed: u64) -> Result<(), String> {
    diorama_core::id::seeded::begin(seed);
    fastrand::seed(seed);
    let world = World::new(seed);
    let mut fleet = Fleet {
        scratch: tempfile::tempdir().unwrap(),
        processes: Vec::new(),
        lives: 0,
        runs: Vec::new(),
        submitted: 0,
        checker: Checker::default(),
        weather_until: Instant::now(),
        world,
    };
    for kind in [Kind::Coordinator(0), Kind::Coordinator(1), Kind::Worker(0), Kind::Worker(1), Kind::Worker(2)] {
        fleet.start(kind);
    }
    for _ in 0..EVENTS {
        fleet.event().await;
        fleet.pass(Duration::from_millis(fleet.world.roll(15_000))).await?;
    }
    fleet.come_to_rest().await
}

impl Fleet {
    fn start(&mut self, kind: Kind) {
        self.lives += 1;
        let node = Node::new(&self.world);
        let backends = backends(&node);
        let (api, running) = match kind {
            Kind::Coordinator(number) => {
                let name = format!("coordinator-{number}-{}", self.lives);
                let (api, service) = self.coordinator(&name, backends);
                (Some(api), AbortOnDropHandle::new(tokio::spawn(service.run(CancellationToken::new()))))
            }
            Kind::Worker(number) => {
                let name = format!("worker-{number}-{}", self.lives);
                let task = work(self.world.clone(), backends, name, pool(number % 2));
                (None, AbortOnDropHandle::new(tokio::spawn(task)))
            }
        };
        self.processes.push(Process { node, kind, api, _running: running, thaws: None });
    }

    fn coordinator(&self, name: &str, backends: Backends) -> (Router, Service) {
        let runs = CoordinatorConfig {
            name: name.to_owned(),
            shares: Shares::new(6),
            poll: Duration::from_millis(200),
            control_poll: Duration::from_secs(1),
            publish_again_after: Duration::from_secs(30),
            ..CoordinatorConfig::new(self.scratch.path().to_owned())
        };
        let lease = Duration::from_secs(10);
        let config = ServiceConfig { owner: name.to_owned(), lease, grace: Grace::default(), runs };
        let (service, leading) = Service::new(backends.clone(), config);
        let api = Api::new(ApiConfig {
            name: name.to_owned(),
            backends,
            remote: None,
            scratch: self.scratch.path().to_owned(),
            reference_root: None,
            plain_http: false,
            tokens: None,
            max_manifest_bytes: 1 << 20,
            max_blob_bytes: 1 << 20,
            leading,
        });
        (router(api), service)
    }

    /// Time goes by; frozen processes go on when theirs is over, and the checker looks.
    async fn pass(&mut self, time: Duration) -> Result<(), String> {
        tokio::time::sleep(time).await;
        let now = Instant::now();
        for process in &mut self.processes {
            if process.thaws.is_some_and(|at| at <= now) {
                process.thaws = None;
                process.node.go_on();
            }
        }
        if self.weather_until <= now {
            *locked(&self.world.chaos) = Chaos::NONE;
        }
        self.checker.look(&self.world)
    }

    /// Something happens.
    async fn event(&mut self) {
        let dice = self.world.roll(100);
        match dice {
            0..14 => self.submit().await,
            14..24 => self.ask("POST", "/pause").await,
            24..38 => self.ask("POST", "/resume").await,
            38..44 => self.ask("POST", "/cancel").await,
            44..54 => self.ask("POST", "/retry").await,
            54..58 => self.delete().await,
            58..62 => self.repair().await,
            62..72 => self.kill(),
            72..82 => self.freeze(),
            82..85 => self.world.purge(),
            85..88 => self.world.duplicate(),
            88..91 => self.world.empty_progress(),
            91..93 => self.world.cut_everybody(),
            _ => self.storm(),
        }
    }

    fn storm(&mut self) {
        let world = &self.world;
        let chaos = Chaos {
            refused: world.roll(150) as u32,
            answer_lost: world.roll(100) as u32,
            late: world.roll(60) as u32,
            progress_away: world.roll(3) == 0,
        };
        *locked(&world.chaos) = chaos;
        self.weather_until = Instant::now() + Duration::from_millis(world.roll(60_000));
    }

    fn kill(&mut self) {
        let victim = self.world.roll(self.processes.len() as u64) as usize;
        let kind = self.processes.remove(victim).kind;
        self.start(kind);
    }

    fn freeze(&mut self) {
        let victim = self.world.roll(self.processes.len() as u64) as usize;
        let process = &mut self.processes[victim];
        process.node.freeze();
        process.thaws = Some(Instant::now() + Duration::from_millis(self.world.roll(90_000)));
    }

    /// Some coordinator that is not frozen.
    fn api(&self) -> Option<Router> {
        let awake = self.processes.iter().filter(|process| process.thaws.is_none());
        let apis: Vec<&Router> = awake.filter_map(|process| process.api.as_ref()).collect();
        apis.get(self.world.roll(apis.len() as u64) as usize).map(|api| (*api).clone())
    }

    /// The answer of a coordinator, where one came.
    async fn send(&self, request: Request<Body>) -> Option<(StatusCode, Value)> {
        let answer = self.api()?.oneshot(request);
        let answer = tokio::time::timeout(Duration::from_secs(20), answer).await.ok()?.ok()?;
        let status = answer.status();
        let body = axum::body::to_bytes(answer.into_body(), 1 << 20).await.ok()?;
        Some((status, serde_json::from_slice(&body).unwrap_or_default()))
    }

    fn some_run(&self) -> Option<RunId> {
        self.runs.get(self.world.roll(self.runs.len() as u64) as usize).cloned()
    }

    async fn ask(&mut self, method: &str, what: &str) {
        let Some(run) = self.some_run() else { return };
        let request = Request::builder().method(method).uri(format!("/v1/runs/{run}{what}"));
        self.send(request.body(Body::empty()).unwrap()).await;
    }

    async fn delete(&mut self) {
        let Some(run) = self.some_run() else { return };
        let request = Request::builder().method("DELETE").uri(format!("/v1/runs/{run}"));
        let answer = self.send(request.body(Body::empty()).unwrap()).await;
        // Without an answer it may be deleted all the same.
        if answer.is_none_or(|(status, _)| status == StatusCode::ACCEPTED || status.is_server_error()) {
            self.checker.told.entry(run).or_default().deleted = true;
        }
    }

    async fn submit(&mut self) {
        self.submitted += 1;
        let rows: String = (0..1 + self.world.roll(30))
            .map(|row| format!("{{\"custom_id\":\"t{row}\",\"prompt\":\"a duck\"}}\n"))
            .collect();
        let retry = format!("{{\"max_rounds\":{},\"delay_seconds\":2}}", self.world.roll(3));
        let spec = format!(
            "{{\"pool\":\"pool-{}\",\"format\":\"files\",\"shard_size\":{},\"priority\":{},\"settings\":{{\"method\":\"txt2img\"}},\"retry\":{retry}}}",
            self.world.roll(2),
            1 + self.world.roll(4),
            self.world.roll(3),
        );
        let form = format!(
            "--edge\r\nContent-Disposition: form-data; name=\"spec\"\r\n\r\n{spec}\r\n--edge\r\n\
             Content-Disposition: form-data; name=\"manifest\"; filename=\"m.jsonl\"\r\n\r\n{rows}\r\n--edge--\r\n"
        );
        let key = format!("submission-{}", self.submitted);
        let mut runs = Vec::new();
        for _ in 0..1 + self.world.roll(3) {
            let request = Request::builder()
                .method("POST")
                .uri("/v1/runs")
                .header("content-type", "multipart/form-data; boundary=edge")
                .header("idempotency-key", &key)
                .body(Body::from(form.clone()));
            let Some((status, answer)) = self.send(request.unwrap()).await else { continue };
            if status.is_success() {
                runs.push(RunId::new(answer["run"].as_str().unwrap()).unwrap());
            }
        }
        runs.dedup();
        assert!(runs.len() <= 1, "one submission, sent again, became several runs: {runs:?}");
        for run in runs {
            self.checker.told.entry(run.clone()).or_default().accepted = true;
            self.runs.push(run);
        }
    }

    /// What `diorama verify --repair` does, from a node of its own.
    async fn repair(&mut self) {
        let Some(run) = self.some_run() else { return };
        let backends = backends(&Node::new(&self.world));
        tokio::spawn(async move {
            let store = RunStore::shared(backends.objects.clone(), &run);
            let (Ok(Some(spec)), Ok(history)) = (store.spec().await, store.history().await) else { return };
            // Whatever it finds in a storm: what matters is what it leaves.
            let grace = Some(diorama_coordinator::Grace(Duration::ZERO));
            let _ = diorama_coordinator::verify(&backends, &store, &spec, &history, grace).await;
        });
    }

    /// The weather clears, every process goes on, paused runs are resumed: everything must end.
    async fn come_to_rest(mut self) -> Result<(), String> {
        *locked(&self.world.chaos) = Chaos::NONE;
        self.weather_until = Instant::now();
        for process in &mut self.processes {
            process.thaws = None;
            process.node.go_on();
        }
        let backends = backends(&Node::new(&self.world));
        let until = Instant::now() + REST;
        loop {
            self.pass(Duration::from_secs(5)).await?;
            let mut open = Vec::new();
            for run in &self.runs {
                let history = RunStore::shared(backends.objects.clone(), run).history().await;
                let history = history.map_err(|error| error.to_string())?;
                if history.ended().is_none() && !history.is_deleted() {
                    open.push(run.clone());
                }
            }
            if open.is_empty() {
                break;
            }
            if Instant::now() > until {
                let told: Vec<String> = open.iter().map(|run| self.checker.tell(&self.world, run)).collect();
                return Err(format!("not ended after {REST:?} of fair weather: {}", told.join("; ")));
            }
            for run in open {
                let request = Request::builder().method("POST").uri(format!("/v1/runs/{run}/resume"));
                self.send(request.body(Body::empty()).unwrap()).await;
            }
        }
        // What was written late has come by now, and what is deleted is gone.
        self.pass(Duration::from_secs(120)).await?;
        self.checker.at_rest(&self.world, &backends).await
    }
}
