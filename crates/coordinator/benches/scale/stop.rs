//! A coordinator that is told to stop in the middle of its longest sections: how soon it does, and that nothing is lost.

use std::time::Duration;

use diorama_core::run::{RunSpec, RunState};
use diorama_protocol::decision::Act;
use tokio_util::sync::CancellationToken;

use crate::report::{Report, Watch};
use crate::world::{World, spec};

const DELAY: Duration = Duration::from_millis(50);
const SHARDS: u64 = 100_000;
const BOUND: Duration = Duration::from_secs(10);

/// What a coordinator is at.
#[derive(Debug, Clone, Copy)]
enum Section {
    Takeover,
    Cancellation,
    Ending,
}

async fn at(section: Section) -> (World, RunSpec) {
    let spec = spec("large", SHARDS, 1);
    let world = World::new(DELAY, Some(&spec));
    let committed = match section {
        Section::Takeover | Section::Ending => spec.shards(),
        Section::Cancellation => spec.shards() / 2,
    };
    let mut history = world.add_run(&spec, committed).await;
    if !matches!(section, Section::Takeover) {
        world.count(&spec, &history, committed).await;
    }
    if matches!(section, Section::Cancellation) {
        world.decide(&spec.run, &mut history, Act::Cancelled).await;
    }
    (world, spec)
}

pub(crate) async fn measure(report: &mut Report) {
    let (mut slowest, mut stops, mut whole) = (Duration::ZERO, 0, true);
    for section in [Section::Takeover, Section::Cancellation, Section::Ending] {
        let (world, spec) = at(section).await;
        // Each coordinator gets a little further than the one before; the last one is left alone.
        for seconds in [1, 3, 9, 27] {
            let drain = CancellationToken::new();
            let stop = async {
                tokio::time::sleep(Duration::from_secs(seconds)).await;
                drain.cancel();
                Watch::start()
            };
            let ((), stopping) = tokio::join!(world.service().run(drain.clone()), stop);
            slowest = slowest.max(stopping.taken().sum());
            stops += 1;
        }
        let history = world.serving(world.ended(&spec.run)).await;
        let summary = history.ended().unwrap().summary.clone();
        let wanted = match section {
            Section::Cancellation => (RunState::Cancelled, SHARDS / 2, SHARDS / 2),
            Section::Takeover | Section::Ending => (RunState::Finished, SHARDS, 0),
        };
        whole &= (summary.state, summary.done, summary.failed) == wanted;
    }
    let measured =
        format!("{:.2} s at most, of {stops} stops; every run whole afterwards: {whole}", slowest.as_secs_f64());
    let what = "a coordinator told to stop in a takeover, a cancellation, an ending of 10⁵ shards at 50 ms a request";
    report.add(what, measured, "within 10 s, losing nothing", whole && slowest <= BOUND);
}
