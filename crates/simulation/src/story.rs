//! One story, chosen by a seed. First everything happens at once; then it is calm, but the fleet has much to do; at last
//! everything must come to rest.

use std::sync::Arc;
use std::time::Duration;

use diorama_coordinator::Grace;
use diorama_core::id::RunId;
use diorama_core::run::RunState;
use diorama_protocol::mutant::{Mutant, is_back};
use diorama_protocol::{Exclusive, RunStore};

use crate::checker::{Broken, Checker};
use crate::client::Client;
use crate::fleet::{Fleet, GRACE, PUBLISH_AGAIN, serving};
use crate::node::Node;
use crate::world::{Chaos, World};

/// Things that happen while everything does, and then while it is calm.
const STORMY: u64 = 45;
const BUSY: u64 = 16;

/// Turns at the end in which runs may still be paused for a moment.
const BRIEF_PAUSES: u64 = 30;

/// How long the fleet may take to stand again when the weather has cleared.
const RECOVERY: Duration = Duration::from_secs(30);

/// The same while the progress service is away, for whoever leads then.
const RECOVERY_WITHOUT_PROGRESS: Duration = Duration::from_secs(60);

/// While everything comes to rest, the workers' models change after so many turns, where there are two.
const TURNS_A_MODEL: u64 = 24;

/// How long everything may take to come to rest, runs that nobody handed over among it.
const REST: Duration = Duration::from_secs(3600);

/// What was written late has come by then, and what is deleted is gone.
const SETTLED: Duration = Duration::from_secs(120);

struct Story {
    world: Arc<World>,
    fleet: Fleet,
    client: Client,
    checker: Checker,
    weather_until: Duration,
    two_models: bool,
}

/// Tells the story with this seed: its digest, or what was broken in it.
pub(crate) async fn story(seed: u64) -> Result<u64, Broken> {
    let world = World::new(seed);
    let two_models = world.roll(3) == 0 || is_back(Mutant::ModelIsNotChecked);
    let mut story = Story {
        fleet: Fleet::new(&world),
        client: Client::new(&world),
        checker: Checker::default(),
        weather_until: Duration::ZERO,
        two_models,
        world: world.clone(),
    };
    story.everything_at_once().await?;
    story.calm_and_busy().await?;
    story.come_to_rest().await?;
    Ok(world.digest())
}

impl Story {
    /// Time goes by, and the checker looks.
    async fn pass(&mut self, time: Duration) -> Result<(), Broken> {
        tokio::time::sleep(time).await;
        let is_fair = self.weather_until <= self.world.now();
        if is_fair && self.weather_until > Duration::ZERO {
            self.world.set_chaos(Chaos::default());
            self.weather_until = Duration::ZERO;
            self.disturbed();
        }
        if self.fleet.is_troubled() || !is_fair {
            self.disturbed();
        }
        if let Some(broken) = self.world.broken() {
            return Err(broken);
        }
        self.checker.look(&self.world)
    }

    async fn everything_at_once(&mut self) -> Result<(), Broken> {
        for _ in 0..STORMY {
            match self.world.roll(100) {
                0..13 => self.submit(true).await?,
                13..48 => self.somebody_asks().await?,
                48..53 => self.tools(),
                53..63 => {
                    self.fleet.kill(self.two_models);
                    self.disturbed();
                }
                63..74 => self.fleet.freeze(),
                74..79 => self.fleet.cut_off(),
                79..90 => self.something_is_lost(),
                _ => self.storm(),
            }
            self.pass(Duration::from_millis(self.world.roll(12_000))).await?;
        }
        Ok(())
    }

    /// No process and no service fails, but perhaps the progress service is away; runs come, stop and go on, and messages
    /// and keys are lost.
    async fn calm_and_busy(&mut self) -> Result<(), Broken> {
        self.world.calm_begins();
        self.clear(if self.two_models { [0, 1] } else { [0, 0] });
        // Where a claim fences, nothing can be written once while the progress service is away.
        let away = self.world.roll(4) == 0 && self.world.exclusive == Exclusive::ConditionalPut;
        self.world.set_chaos(Chaos { progress_away: away, ..Chaos::default() });
        let recovery = if away { RECOVERY_WITHOUT_PROGRESS } else { RECOVERY + self.world.claims_last() };
        self.checker.disturbed(&self.world, recovery);
        self.pass(recovery).await?;
        for _ in 0..BUSY {
            match self.world.roll(100) {
                0..25 => self.submit(false).await?,
                25..50 => self.somebody_asks().await?,
                50..75 => self.brief_pause().await?,
                75..80 => self.tools(),
                _ => self.something_is_lost(),
            }
            self.pass(Duration::from_millis(self.world.roll(16_000))).await?;
        }
        Ok(())
    }

    /// The fleet needs a while now until it stands again.
    fn disturbed(&mut self) {
        self.checker.disturbed(&self.world, RECOVERY + self.world.claims_last());
    }

    /// The weather clears and everybody goes on, the workers with these models.
    fn clear(&mut self, models: [u64; 2]) {
        self.world.set_chaos(Chaos::default());
        self.weather_until = Duration::ZERO;
        self.fleet.recover(models);
        self.disturbed();
    }

    /// Paused runs are resumed: everything must end. Where they are bound to different models, their owner does what the
    /// reason of their pause says: has the workers serve one of them, and then the other.
    async fn come_to_rest(&mut self) -> Result<(), Broken> {
        let mut serves = 0;
        self.clear([serves; 2]);
        let until = self.world.now() + REST;
        for turn in 0u64.. {
            if self.two_models && turn % TURNS_A_MODEL == TURNS_A_MODEL - 1 {
                serves = 1 - serves;
                self.clear([serves; 2]);
            }
            self.pass(Duration::from_secs(5)).await?;
            if turn < BRIEF_PAUSES && self.world.roll(3) == 0 {
                self.brief_pause().await?;
            }
            let open = |(run, history): (&RunId, &diorama_protocol::history::History)| {
                let fits = history.model().is_none_or(|model| *model == serving(serves));
                let waits_for_its_owner = fits && history.state() == Some(RunState::Paused);
                history.ended().is_none().then(|| (run.clone(), waits_for_its_owner))
            };
            let open: Vec<_> = self.checker.living().filter_map(open).collect();
            if open.is_empty() {
                break;
            }
            if self.world.now() > until {
                let told: Vec<String> = open.iter().map(|(run, _)| self.checker.tell(run)).collect();
                return Err(format!("not ended after {REST:?} of fair weather: {}", told.join("; ")));
            }
            for (run, _) in open.iter().filter(|(_, waits_for_its_owner)| *waits_for_its_owner) {
                self.client.ask(&self.fleet, &mut self.checker, run, "resume").await?;
            }
        }
        self.pass(SETTLED).await?;
        let backends = Node::new(&self.world).backends();
        self.checker.at_rest(&self.world, &backends).await
    }

    fn storm(&mut self) {
        let world = &self.world;
        world.set_chaos(Chaos {
            refused: world.roll(150) as u32,
            answer_lost: world.roll(100) as u32,
            late: world.roll(60) as u32,
            progress_away: world.roll(3) == 0,
        });
        self.weather_until = world.now() + Duration::from_millis(world.roll(60_000));
        self.disturbed();
    }

    fn something_is_lost(&mut self) {
        let event = self.world.roll(8);
        match event {
            0 => self.world.purge(),
            1 => self.world.lose_one(),
            2 => self.world.duplicate(),
            3 => self.world.lose_parts(),
            4 if self.world.exclusive == Exclusive::ConditionalPut => {
                self.world.empty_progress();
                // The lease, too.
                self.disturbed();
            }
            5 => self.world.give_up_one(),
            6 => self.world.lose_blob(),
            _ => self.world.cut_consumers(),
        }
        // A message that is lost is published again when it has been missed for long.
        let made_good = if event < 2 { PUBLISH_AGAIN + RECOVERY } else { Duration::ZERO };
        self.checker.lost_something(&self.world, made_good);
    }

    fn some_run(&self) -> Option<(RunId, bool)> {
        let runs: Vec<_> = self.checker.living().collect();
        let (run, history) = runs.get(self.world.roll(runs.len() as u64) as usize)?;
        Some(((*run).clone(), history.ended().is_some()))
    }

    async fn submit(&mut self, cut_off: bool) -> Result<(), Broken> {
        self.client.submit(&self.fleet, &mut self.checker, cut_off).await
    }

    async fn somebody_asks(&mut self) -> Result<(), Broken> {
        let Some((run, has_ended)) = self.some_run() else { return Ok(()) };
        let dice = self.world.roll(20);
        let what = match dice {
            0 => return self.client.list(&self.fleet, &mut self.checker).await,
            1..4 => "show",
            4 => "delete",
            _ if has_ended => "retry",
            5..9 => "pause",
            9..16 => "resume",
            16..18 => "cancel",
            _ => "retry",
        };
        self.client.ask(&self.fleet, &mut self.checker, &run, what).await
    }

    /// A pause and a resume within a second.
    async fn brief_pause(&mut self) -> Result<(), Broken> {
        let running: Vec<RunId> =
            self.checker.living().filter(|(_, history)| history.wants_work()).map(|(run, _)| run.clone()).collect();
        let Some(run) = running.get(self.world.roll(running.len() as u64) as usize) else { return Ok(()) };
        self.client.ask(&self.fleet, &mut self.checker, run, "pause").await?;
        tokio::time::sleep(Duration::from_millis(self.world.roll(1000))).await;
        self.client.ask(&self.fleet, &mut self.checker, run, "resume").await
    }

    /// What `diorama verify --repair`, `reconcile` and `gc` do, each a process of its own, which may stand still.
    fn tools(&mut self) {
        let Some((run, _)) = self.some_run() else { return };
        let (node, tool) = (Node::new(&self.world), self.world.roll(6));
        let backends = node.backends();
        if self.world.roll(2) == 0 {
            let (world, node) = (self.world.clone(), node);
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(world.roll(2000))).await;
                node.freeze_for(Duration::from_millis(world.roll(60_000)));
            });
        }
        tokio::spawn(async move {
            let store = RunStore::shared(backends.objects.clone(), &run);
            // Whatever they find in a storm: what matters is what they leave.
            if tool == 0 {
                let _ = diorama_coordinator::collect(&backends, "gc", Grace(GRACE), false).await;
                return;
            }
            let (Ok(Some(spec)), Ok(history)) = (store.spec().await, store.history().await) else { return };
            if tool == 1 {
                let _ = diorama_coordinator::reconcile(&backends, &store, &spec, &history).await;
            } else {
                let _ =
                    diorama_coordinator::verify(&backends, &store, &spec, &history, Some(Grace(Duration::ZERO))).await;
            }
        });
    }
}
