//! A run of ten million tasks in 156,250 shards: who takes it over, what a cancellation costs, its end. With fewer tasks
//! a shard, requests and waiting are the same, and the CPU is that of fewer tasks.

use std::time::Duration;

use diorama_core::run::RunSpec;
use diorama_protocol::decision::Act;
use serde_json::json;

use crate::report::{Report, Watch};
use crate::world::{World, request, spec, until};

const DELAY: Duration = Duration::from_millis(20);

const SHARDS: u64 = 156_250;

fn large(tasks_a_shard: u32) -> RunSpec {
    spec("large", SHARDS * u64::from(tasks_a_shard), tasks_a_shard)
}

fn named(spec: &RunSpec) -> String {
    format!("a run of 156,250 shards of {}", spec.shard_size)
}

/// From a coordinator's start to the first shard that it publishes; all but some shards are committed.
pub(crate) async fn takeover(report: &mut Report, tasks_a_shard: u32) {
    let spec = large(tasks_a_shard);
    for (what, knows) in [("as it was", true), ("empty", false)] {
        let world = World::new(DELAY, Some(&spec));
        let committed = spec.shards() - 1000;
        let history = world.add_run(&spec, committed).await;
        if knows {
            world.count(&spec, &history, committed).await;
        }
        let (before, watch) = (world.store.requests(), Watch::start());
        let (taken, requests) = world
            .serving(async {
                world.published(&spec.pool).await;
                (watch.taken(), world.store.requests() - before)
            })
            .await;
        let counted = world.backends.progress.counted(&spec.run).await.unwrap();
        let met = counted.complete && counted.counts.done == u64::from(committed) * u64::from(tasks_a_shard);
        let met = met && taken.sum() < Duration::from_secs(30);
        let what = format!("takeover of {}, Redis {what}", named(&spec));
        report.add(what, format!("{taken}, {requests} requests"), "< 30 s at 20 ms a request", met);
    }
}

/// Half of the run is committed.
pub(crate) async fn cancel(report: &mut Report, tasks_a_shard: u32) {
    let spec = large(tasks_a_shard);
    let world = World::new(DELAY, Some(&spec));
    let committed = spec.shards() / 2;
    let history = world.add_run(&spec, committed).await;
    world.count(&spec, &history, committed).await;
    let (_, router) = world.api();
    let (state, ended, requests, summary) = world
        .serving(async {
            world.published(&spec.pool).await;
            let (before, watch) = (world.store.requests(), Watch::start());
            request(&router, "POST", "/v1/runs/large/cancel").await;
            let shown = async || request(&router, "GET", "/v1/runs/large").await.1["state"] == json!("cancelled");
            until(shown).await;
            let state = watch.taken();
            let history = world.ended(&spec.run).await;
            let summary = history.ended().unwrap().summary.clone();
            (state, watch.taken(), world.store.requests() - before, summary)
        })
        .await;
    let met = state.sum() < Duration::from_secs(5);
    let what = format!("cancel of {}, half of them done: the state", named(&spec));
    report.add(what, state.to_string(), "< 5 s at 20 ms a request", met);
    let what = "the same: every task has its outcome, the rest's decided by one object and one entry";
    let done = u64::from(committed) * u64::from(tasks_a_shard);
    let met = (summary.done, summary.failed) == (done, spec.tasks - done) && ended.sum() < Duration::from_secs(120);
    report.add(what, format!("{ended}, {requests} requests"), "< 2 min at 20 ms a request", met);
}

pub(crate) async fn end(report: &mut Report, tasks_a_shard: u32) {
    let spec = large(tasks_a_shard);
    let world = World::new(DELAY, Some(&spec));
    let mut history = world.add_run(&spec, spec.shards()).await;
    world.count(&spec, &history, spec.shards()).await;
    let model = spec.model.clone().unwrap();
    world.decide(&spec.run, &mut history, Act::Bound { model }).await;
    let (before, watch) = (world.store.requests(), Watch::start());
    let (taken, requests, summary) = world
        .serving(async {
            let history = world.ended(&spec.run).await;
            (watch.taken(), world.store.requests() - before, history.ended().unwrap().summary.clone())
        })
        .await;
    let met = summary.done == spec.tasks && taken.sum() < Duration::from_secs(120);
    let what = format!("end of {}, from the last marker to the final files", named(&spec));
    report.add(what, format!("{taken}, {requests} requests"), "< 2 min at 20 ms a request", met);
}
