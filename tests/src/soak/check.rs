//! The checker: what must hold once all stories are told and all parts are up.

use std::time::Duration;

use serde_json::Value;

use super::fleet::Fleet;
use super::janitor::Looked;
use super::owner::{Broken, Life, Owner};
use super::parts::Kind;
use super::report::{Counters, Report, RunReport};
use super::rows::Tally;
use super::strikes::Struck;
use super::{LOOK, Options, get};

/// Reads everything and says what it came to.
pub(super) fn report(
    fleet: &Fleet,
    options: &Options,
    owners: &[Owner],
    lives: Vec<Result<Life, Broken>>,
    looked: Looked,
    struck: Struck,
    took: Duration,
) -> Report {
    let mut faults = looked.faults;
    let (mut acts, mut runs, mut deleted) = (looked.acts, Vec::new(), Vec::new());
    for (owner, life) in owners.iter().zip(lives) {
        let seen = owner.seen().clone();
        seen.acts.into_iter().for_each(|(act, times)| *acts.entry(act).or_default() += times);
        faults.extend(seen.faults);
        match life {
            Ok(life) => {
                let run = seen.run.expect("a story ends with a run");
                deleted.extend(life.deleted.iter().cloned());
                runs.push(check(fleet, owner, &run, life, &struck));
            }
            Err(Broken::Stopped) => {}
            Err(Broken::Hangs(hangs)) => {
                let words = fleet.of(Kind::Coordinator).map(|site| fleet.last_words(&site.name));
                faults.push(format!("{hangs}\n{}", words.collect::<Vec<_>>().join("\n")));
            }
        }
    }
    faults.extend(download(fleet, &runs));
    faults.extend(fleet.panics());
    // Nobody is at work any more, so nothing needs time.
    fleet.run(&["gc", "--grace", "0", "--yes"]);
    for run in &deleted {
        let left = fleet.left_of(run);
        if !left.is_empty() {
            faults.push(format!(
                "the run {run} was deleted, and {} things are left: {:?}",
                left.len(),
                &left[..left.len().min(5)]
            ));
        }
    }
    let left = fleet.run(&["gc", "--grace", "0"]);
    if ["runs", "leftovers", "idempotency"].iter().any(|kind| left[kind] != 0) {
        faults.push(format!("a collection left something: {left}"));
    }
    faults.extend(fleet.drain(Kind::Coordinator));
    Report { options: options.clone(), took, struck, acts, deleted: deleted.len(), runs, faults }
}

/// One run, that has ended.
fn check(fleet: &Fleet, owner: &Owner, run: &str, life: Life, struck: &Struck) -> RunReport {
    fleet.until_let_go(run);
    let may_be_lost = struck.redis_at.is_some_and(|at| at + LOOK * 10 >= life.running);
    let (counters, counted) = counters(fleet, run, may_be_lost);
    let status = get_json(fleet, &format!("/v1/runs/{run}"));
    RunReport {
        name: owner.name.clone(),
        run: run.to_owned(),
        story: owner.story,
        wanted: life.wanted,
        state: status["state"].as_str().unwrap_or_default().to_owned(),
        has_changed: status["summary"] != life.summary,
        tasks: owner.tasks,
        submission: life.submission,
        counters,
        counted,
        tally: tally(fleet, run, owner.tasks, life.wanted == super::Wanted::Cancelled),
        verified: [&[][..], &["--repair", "--grace", "0"], &[]].map(|how| fleet.run(&[&["verify", run], how].concat())),
    }
}

fn get_json(fleet: &Fleet, path: &str) -> Value {
    let answer = fleet.coordinators.iter().find_map(|address| get(*address, path));
    let answer = answer.unwrap_or_else(|| panic!("no coordinator answers GET {path}"));
    serde_json::from_reader(answer).unwrap_or_else(|error| panic!("GET {path}: {error}"))
}

/// The counters as Redis has them, against those that are counted anew from the markers. Where Redis lost them after the
/// coordinator's last look, they may be fewer.
fn counters(fleet: &Fleet, run: &str, may_be_lost: bool) -> (Counters, [u64; 2]) {
    let said = fleet.counters(run);
    let rebuilt = fleet.run(&["reconcile", run]);
    let markers = fleet.counters(run);
    let counters = if said == markers {
        Counters::Equal
    } else if may_be_lost && said.iter().zip(&markers).all(|(said, marker)| said <= marker) {
        Counters::Rebuilt { said, markers }
    } else {
        Counters::Wrong { said, markers }
    };
    (counters, ["done", "failed"].map(|name| rebuilt[name].as_u64().unwrap()))
}

/// Reads the outcome of every row, without asking `verify`.
fn tally(fleet: &Fleet, run: &str, rows: u64, was_cancelled: bool) -> Tally {
    let mut tally = Tally::new(rows, was_cancelled);
    for file in ["results", "errors"] {
        let path = format!("/v1/runs/{run}/{file}");
        let answer = fleet.coordinators.iter().find_map(|address| get(*address, &path));
        let answer = answer.unwrap_or_else(|| panic!("no coordinator gives the {file} of {run}"));
        tally.read(answer).unwrap_or_else(|error| panic!("the {file} of {run} cannot be read: {error}"));
    }
    tally
}

/// Downloads the smallest run, picture by picture; what was wrong with that.
fn download(fleet: &Fleet, runs: &[RunReport]) -> Option<String> {
    let smallest = runs.iter().min_by_key(|run| run.tasks)?;
    let folder = fleet.work.join("results");
    let said = fleet.run(&["results", &smallest.run, "--to", &folder.display().to_string()]);
    let results = std::fs::read_to_string(folder.join("results.jsonl")).unwrap_or_default();
    let is_there = |line: &&str| {
        let result: Value = serde_json::from_str(line).unwrap_or_default();
        result["files"]["image"]["path"].as_str().is_some_and(|image| folder.join(image).is_file())
    };
    let (pictures, wanted) = (results.lines().filter(is_there).count() as u64, smallest.tally.done);
    (pictures != wanted || said["complete"] != true)
        .then(|| format!("{}: of {wanted} pictures {pictures} were downloaded: {said}", smallest.name))
}
