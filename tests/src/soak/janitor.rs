//! Somebody who looks after the fleet while things go on: verifies and repairs runs, reconciles their counters, collects
//! garbage. None of it may do harm, whatever happens to a run meanwhile.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fastrand::Rng;

use super::fleet::{Fleet, json};
use super::owner::{Owner, Seen};
use super::parts::TRY_AGAIN;

/// Between two commands.
const EVERY: Duration = Duration::from_secs(2);

/// The grace time of collections, in seconds: longer than anything here stands still.
const GRACE: &str = "60";

/// What was done, and what was wrong with it.
#[derive(Debug, Default)]
pub(super) struct Looked {
    pub(super) acts: BTreeMap<&'static str, u64>,
    pub(super) faults: Vec<String>,
}

/// Looks after the runs until `over`.
pub(super) fn look_after(fleet: &Fleet, owners: &[Owner], seed: u64, over: &AtomicBool) -> Looked {
    let (mut rng, mut looked) = (Rng::with_seed(seed), Looked::default());
    while !over.load(Ordering::Acquire) {
        let owner = &owners[rng.usize(..owners.len())];
        let before = owner.seen().clone();
        let Some(run) = before.run.as_deref() else {
            std::thread::sleep(super::LOOK);
            continue;
        };
        let commands: [(&'static str, &[&str]); 5] = [
            ("verify", &["verify", run]),
            ("verify --repair", &["verify", run, "--repair", "--grace", "0"]),
            ("reconcile", &["reconcile", run]),
            ("gc --yes", &["gc", "--yes", "--grace", GRACE]),
            ("gc", &["gc"]),
        ];
        let (name, arguments) = commands[rng.usize(..commands.len())];
        *looked.acts.entry(name).or_default() += 1;
        let ended = fleet.try_to("janitor", arguments);
        let said = json(&ended).unwrap_or_default();
        let fine = match ended.status.code() {
            Some(0) => true,
            Some(TRY_AGAIN) => true,
            // What it looked at is not what there is any more.
            Some(42) => has_changed(&before, &owner.seen()),
            _ => false,
        };
        if !fine {
            let (name, status) = (&owner.name, ended.status);
            looked.faults.push(format!("diorama {arguments:?} ({name}) ended with {status}: {said}"));
        }
        let mut waited = Duration::ZERO;
        while waited < EVERY && !over.load(Ordering::Acquire) {
            std::thread::sleep(super::LOOK);
            waited += super::LOOK;
        }
    }
    looked
}

/// Whether anything was decided about a run meanwhile, or may have been.
fn has_changed(before: &Seen, after: &Seen) -> bool {
    before.decided != after.decided || before.decided % 2 == 1 || before.run != after.run || before.ended != after.ended
}
