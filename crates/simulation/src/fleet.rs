//! The processes of a story: two coordinators with their APIs, and workers; what can happen to them.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use diorama_coordinator::api::{Api, ApiConfig, ApiMetrics, Role, router};
use diorama_coordinator::{CoordinatorConfig, Grace, Service, ServiceConfig, Shares};
use diorama_core::id::Pool;
use diorama_core::run::ModelIdentity;
use diorama_protocol::Backends;
use prometheus::Registry;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::node::{Node, Service as Cut};
use crate::worker::Machine;
use crate::world::World;

/// How long what belongs to nobody is kept: longer than anything stands still.
pub(crate) const GRACE: Duration = Duration::from_secs(600);

/// How long a shard that nobody has is missed before it is published again.
pub(crate) const PUBLISH_AGAIN: Duration = Duration::from_secs(90);

/// Pools of a story.
pub(crate) const POOLS: u64 = 2;

/// A process, and what it is.
struct Process {
    node: Node,
    kind: Kind,
    _running: AbortOnDropHandle<()>,
}

enum Kind {
    Coordinator { name: String, api: Router },
    Worker(Machine),
}

/// The model with this number.
pub(crate) fn serving(model: u64) -> ModelIdentity {
    ModelIdentity { sha256: format!("model-{model}"), dtype: "f32".to_owned(), networks: Default::default() }
}

pub(crate) struct Fleet {
    world: Arc<World>,
    scratch: tempfile::TempDir,
    processes: Vec<Process>,
}

impl Fleet {
    pub(crate) fn new(world: &Arc<World>) -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let mut fleet = Self { world: world.clone(), scratch, processes: Vec::new() };
        fleet.start_coordinator();
        fleet.start_coordinator();
        for worker in 0..3 {
            fleet.start_worker(worker % POOLS, 0);
        }
        fleet
    }

    fn start_coordinator(&mut self) {
        let node = Node::new(&self.world);
        let name = self.world.next_name("coordinator");
        let (api, service) = self.coordinator(&name, node.backends());
        let running = AbortOnDropHandle::new(tokio::spawn(service.run(CancellationToken::new())));
        let kind = Kind::Coordinator { name, api };
        self.processes.push(Process { node, kind, _running: running });
    }

    /// Starts a worker of this pool, with the first or the second model, on a machine of its own.
    fn start_worker(&mut self, pool: u64, model: u64) {
        let pool = Pool::new(format!("pool-{pool}")).unwrap();
        self.start_on(Machine::new(Node::new(&self.world), pool, model));
    }

    fn start_on(&mut self, machine: Machine) {
        let running = AbortOnDropHandle::new(tokio::spawn(machine.clone().serve()));
        let (node, kind) = (machine.node.clone(), Kind::Worker(machine));
        self.processes.push(Process { node, kind, _running: running });
    }

    fn coordinator(&self, name: &str, backends: Backends) -> (Router, Service) {
        let runs = CoordinatorConfig {
            name: name.to_owned(),
            shares: Shares::new(6),
            poll: Duration::from_millis(500),
            control_poll: Duration::from_secs(1),
            publish_again_after: PUBLISH_AGAIN,
            ..CoordinatorConfig::new(self.scratch.path().to_owned())
        };
        let lease = Duration::from_secs(10);
        let config = ServiceConfig { owner: name.to_owned(), lease, grace: Grace(GRACE), runs };
        let (service, leading) = Service::new(backends.clone(), config);
        let api = Api::new(ApiConfig {
            name: name.to_owned(),
            backends,
            remote: None,
            readable: diorama_core::address::Readable::default(),
            scratch: self.scratch.path().to_owned(),
            reference_root: None,
            plain_http: false,
            tokens: None,
            role_without_tokens: Role::Admin,
            max_manifest_bytes: 1 << 20,
            max_blob_bytes: 1 << 20,
            limits: Default::default(),
            leading,
            pools: Vec::new(),
            metrics: ApiMetrics::register(Registry::new()).unwrap(),
        });
        (router(api), service)
    }

    fn victim(&self) -> usize {
        self.world.roll(self.processes.len() as u64) as usize
    }

    /// A process dies, and another one takes its place: a worker's on the same machine, or on another one where the machine
    /// is gone, and perhaps with another model. Or a worker is told to end.
    pub(crate) fn kill(&mut self, other_models: bool) {
        let victim = self.victim();
        if let Kind::Worker(machine) = &self.processes[victim].kind
            && self.world.roll(3) == 0
        {
            machine.drain();
            return;
        }
        match self.processes.remove(victim).kind {
            Kind::Coordinator { .. } => self.start_coordinator(),
            Kind::Worker(machine) => {
                let model = if other_models { self.world.roll(4) / 3 } else { machine.model };
                let next = machine.killed(Node::new(&self.world), model);
                let is_gone = self.world.roll(3) == 0;
                self.start_on(if is_gone { Machine::new(next.node, next.pool, next.model) } else { next });
            }
        }
    }

    /// A process stands still for a while, longer than its lease or not.
    pub(crate) fn freeze(&mut self) {
        let (victim, time) = (self.victim(), Duration::from_millis(self.world.roll(90_000)));
        self.processes[victim].node.freeze_for(time);
    }

    /// A process does not reach one of the services for a while.
    pub(crate) fn cut_off(&mut self) {
        let victim = self.victim();
        let from = [Cut::Objects, Cut::Queue, Cut::Progress][self.world.roll(3) as usize];
        self.processes[victim].node.cut_off(from, Duration::from_millis(self.world.roll(60_000)));
    }

    /// Whether anybody stands still, or is cut off.
    pub(crate) fn is_troubled(&self) -> bool {
        self.processes.iter().any(|process| process.node.is_frozen() || process.node.is_cut_off())
    }

    /// Everybody goes on, and each pool has two workers, which serve these models.
    pub(crate) fn recover(&mut self, models: [u64; 2]) {
        for process in &mut self.processes {
            process.node.go_on();
            process.node.reconnect();
        }
        self.processes.retain(|process| match &process.kind {
            Kind::Coordinator { .. } => true,
            Kind::Worker(machine) => {
                machine.dies();
                false
            }
        });
        for model in models {
            (0..POOLS).for_each(|pool| self.start_worker(pool, model));
        }
    }

    /// Some coordinator that is not frozen, and its name.
    pub(crate) fn api(&self) -> Option<(Router, String)> {
        let awake = self.processes.iter().filter(|process| !process.node.is_frozen());
        let api = |process: &Process| match &process.kind {
            Kind::Coordinator { name, api } => Some((api.clone(), name.clone())),
            Kind::Worker(_) => None,
        };
        let apis: Vec<_> = awake.filter_map(api).collect();
        apis.get(self.world.roll(apis.len() as u64) as usize).cloned()
    }
}
