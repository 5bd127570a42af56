//! The owners of the soak's runs: each submits one, pauses and resumes it, cancels, retries or deletes it, and holds what
//! it is told meanwhile against what it asked for.
//!
//! An owner repeats what got no answer, as any client would, and knows then that it may have taken place.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use fastrand::Rng;
use serde_json::Value;

use super::fleet::{Fleet, json};
use super::parts::TRY_AGAIN;
use super::{LOOK, PATIENCE, STANDSTILL};
use crate::http;

/// What an owner does with its run, beside pausing it now and then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Story {
    /// Lets it come to its end.
    Finish,
    /// Tries its failed tasks again when it has ended.
    Retry,
    /// Cancels it.
    Cancel,
    /// Cancels it, and tries the failed and cancelled tasks again.
    CancelAndRetry,
    /// Cancels it, deletes it when it has ended, and submits the same manifest again.
    DeleteAndRepeat,
}

/// The stories, in turn.
pub(super) const STORIES: [Story; 5] =
    [Story::Finish, Story::DeleteAndRepeat, Story::Retry, Story::CancelAndRetry, Story::Cancel];

/// The state that an owner asked for last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// It is to go on.
    Running,
    /// It is to wait.
    Paused,
    /// It is to do nothing more.
    Cancelled,
}

impl Wanted {
    /// Whether a run may be in this state; it may have ended before it was paused or cancelled.
    fn allows(self, state: &str) -> bool {
        match self {
            Self::Running => ["running", "finished"].contains(&state),
            Self::Paused => ["paused", "finished"].contains(&state),
            Self::Cancelled => state == "cancelled",
        }
    }
}

/// A run as its owner sees it. Shared with those who verify and reconcile it meanwhile.
#[derive(Debug, Default, Clone)]
pub(super) struct Seen {
    /// Its id, once it is submitted.
    pub(super) run: Option<String>,
    /// How often something was decided about it. Odd while its owner does not know yet whether something was.
    pub(super) decided: u64,
    /// Whether it has ended.
    pub(super) ended: bool,
    /// What was done to it, by name.
    pub(super) acts: BTreeMap<&'static str, u64>,
    /// What an owner was told that cannot be.
    pub(super) faults: Vec<String>,
}

/// What its owner knows of a run in the end.
pub(super) struct Life {
    pub(super) wanted: Wanted,
    pub(super) submission: Duration,
    /// The summary of its end.
    pub(super) summary: Value,
    /// When it was last seen not to have ended.
    pub(super) running: Instant,
    /// Runs of this owner that were deleted.
    pub(super) deleted: Vec<String>,
}

/// An owner and its run.
pub(super) struct Owner<'a> {
    pub(super) fleet: &'a Fleet,
    pub(super) stop: &'a AtomicBool,
    pub(super) name: String,
    pub(super) pool: &'static str,
    pub(super) tasks: u64,
    pub(super) shard_size: u32,
    pub(super) story: Story,
    pub(super) rng: Mutex<Rng>,
    pub(super) seen: Mutex<Seen>,
}

/// Why a story ended before its end.
pub(super) enum Broken {
    /// Somebody stopped the soak.
    Stopped,
    /// What was waited for did not come.
    Hangs(String),
}

impl<'a> Owner<'a> {
    pub(super) fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn rng<T>(&self, draw: impl FnOnce(&mut Rng) -> T) -> T {
        draw(&mut self.rng.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn fault(&self, fault: impl fmt::Display) {
        let mut seen = self.seen();
        let fault = format!("{} ({}): {fault}", self.name, seen.run.as_deref().unwrap_or("not submitted"));
        seen.faults.push(fault);
    }

    fn act(&self, act: &'static str) {
        *self.seen().acts.entry(act).or_default() += 1;
    }

    /// Does what the story says.
    pub(super) fn live(&self) -> Result<Life, Broken> {
        let begun = Instant::now();
        self.submit()?;
        let mut life = Life {
            wanted: Wanted::Running,
            submission: begun.elapsed(),
            summary: Value::Null,
            running: Instant::now(),
            deleted: Vec::new(),
        };
        if matches!(self.story, Story::Cancel | Story::CancelAndRetry | Story::DeleteAndRepeat) {
            let share = self.rng(|rng| 0.1 + 0.5 * rng.f64());
            self.until_share(&mut life, share)?;
            self.cancel(&mut life)?;
        }
        self.until_ended(&mut life)?;
        match self.story {
            Story::Finish | Story::Cancel => {}
            Story::Retry | Story::CancelAndRetry => {
                self.retry(&mut life)?;
                self.until_ended(&mut life)?;
            }
            Story::DeleteAndRepeat => {
                self.delete(&mut life)?;
                self.submit()?;
                life.wanted = Wanted::Running;
                let again = self.seen().run.clone();
                if life.deleted.iter().any(|deleted| Some(deleted) == again.as_ref()) {
                    self.fault("submitted again, it has the id of the run that was deleted");
                }
                self.until_ended(&mut life)?;
            }
        }
        Ok(life)
    }

    /// Submits the manifest; the same command again and again until it gets an answer.
    fn submit(&self) -> Result<(), Broken> {
        self.act("submit");
        let size = self.shard_size.to_string();
        let what = ["submit", &self.manifest(), "--name", &self.name, "--pool", self.pool, "--shard-size", &size]
            .map(str::to_owned);
        let how = ["--method", "txt2img", "--format", "webdataset", "--max-rounds", "2", "--retry-delay", "1"];
        let arguments: Vec<&str> = what.iter().map(String::as_str).chain(how).collect();
        let began = Instant::now();
        loop {
            let ended = self.fleet.try_to(&format!("submit-{}", self.name), &arguments);
            let run = json(&ended).and_then(|submitted| Some(submitted["run"].as_str()?.to_owned()));
            if let (Some(run), Some(0)) = (run, ended.status.code()) {
                let mut seen = self.seen();
                (seen.run, seen.ended) = (Some(run), false);
                return Ok(());
            }
            if ended.status.code() != Some(TRY_AGAIN) {
                self.fault(format!("its submission ended with {}: {ended:?}", ended.status));
            }
            self.may_wait(began, "submitted", &Value::Null)?;
        }
    }

    /// The name of the manifest's file.
    pub(super) fn manifest(&self) -> String {
        format!("{}.jsonl", self.name)
    }

    fn run(&self) -> String {
        self.seen().run.clone().expect("it was submitted")
    }

    /// Whether to wait on; says what was waited for.
    fn may_wait(&self, since: Instant, what: &str, last: &Value) -> Result<(), Broken> {
        if self.stop.load(Ordering::Acquire) {
            return Err(Broken::Stopped);
        }
        if since.elapsed() > STANDSTILL {
            let hangs = format!("{}: waited {STANDSTILL:?} until it is {what}; it was told last: {last}", self.name);
            return Err(Broken::Hangs(hangs));
        }
        std::thread::sleep(LOOK);
        Ok(())
    }

    /// Asks a coordinator, another one each time; the status and the body of its answer.
    fn ask(&self, request: &str) -> Option<(u16, Value)> {
        let addresses = &self.fleet.coordinators;
        let first = self.rng(|rng| rng.usize(..addresses.len()));
        let (status, mut answer) = http::send(addresses[first], request, PATIENCE)?;
        let mut body = String::new();
        answer.read_to_string(&mut body).ok()?;
        match serde_json::from_str(&body) {
            Ok(body) => Some((status, body)),
            // Broken off, where there should be something.
            Err(_) => body.is_empty().then_some((status, Value::Null)),
        }
    }

    /// How the run stands, held against what was asked for; `None` where nobody says.
    fn look(&self, life: &mut Life) -> Option<Value> {
        let (status, body) = self.ask(&format!("GET /v1/runs/{}", self.run()))?;
        match status {
            200 => {}
            503 => return None,
            _ => {
                self.fault(format!("it is {:?}, and the answer was {status}: {body}", life.wanted));
                return None;
            }
        }
        let state = body["state"].as_str().unwrap_or_default();
        // One whose last shard came before the pause is shown as running until its final files are there.
        let number = |key: &str| body[key].as_u64().unwrap_or_default();
        let is_ending = state == "running" && number("done") + number("failed") >= number("tasks");
        let is_allowed = life.wanted.allows(state) || (life.wanted == Wanted::Paused && is_ending);
        if !is_allowed || !body["reason"].is_null() {
            self.fault(format!("it should be {:?}: {body}", life.wanted));
        }
        let counts = ["done", "failed", "retrying"].map(|name| body[name].as_u64().unwrap_or_default());
        if counts.iter().sum::<u64>() > self.tasks || body["tasks"] != self.tasks {
            self.fault(format!("more is counted than its {} tasks: {body}", self.tasks));
        }
        let ended = !body["summary"].is_null();
        if !ended {
            life.running = Instant::now();
        }
        if !life.summary.is_null() && body["summary"] != life.summary {
            self.fault(format!("an ended run has changed: it was {}, it is {body}", life.summary));
        }
        self.seen().ended = ended;
        Some(body)
    }

    /// Waits until this share of its tasks has outcomes, or it has ended.
    fn until_share(&self, life: &mut Life, share: f64) -> Result<(), Broken> {
        let wanted = (self.tasks as f64 * share) as u64;
        self.until(life, "further", |status| status["done"].as_u64().unwrap_or_default() >= wanted)
    }

    /// Waits until it has ended.
    fn until_ended(&self, life: &mut Life) -> Result<(), Broken> {
        self.until(life, "ended", |_| false)
    }

    /// Waits until it has come to something, or has ended, and pauses it now and then.
    fn until(&self, life: &mut Life, what: &str, is_there: impl Fn(&Value) -> bool) -> Result<(), Broken> {
        let (mut progress, mut changed, mut last) = (None, Instant::now(), Value::Null);
        let mut pause = Instant::now() + self.in_some_time();
        loop {
            if let Some(status) = self.look(life) {
                if !status["summary"].is_null() {
                    life.summary = status["summary"].clone();
                    return Ok(());
                }
                if is_there(&status) {
                    return Ok(());
                }
                let now = ["round", "done", "failed"].map(|name| status[name].as_u64());
                if progress.replace(now) != Some(now) {
                    changed = Instant::now();
                }
                last = status;
            }
            if life.wanted == Wanted::Running && Instant::now() > pause {
                self.pause_for_a_while(life)?;
                (pause, changed) = (Instant::now() + self.in_some_time(), Instant::now());
            }
            self.may_wait(changed, what, &last)?;
        }
    }

    /// Until the next pause.
    fn in_some_time(&self) -> Duration {
        Duration::from_secs_f64(self.rng(|rng| 3.0 + 10.0 * rng.f64()))
    }

    /// Pauses and resumes, sometimes before anybody can have heard of it.
    fn pause_for_a_while(&self, life: &mut Life) -> Result<(), Broken> {
        self.change(life, "pause", Wanted::Paused)?;
        let (is_short, seconds) = self.rng(|rng| (rng.bool(), 3.0 * rng.f64()));
        let end = Instant::now() + if is_short { Duration::ZERO } else { Duration::from_secs_f64(seconds) };
        while Instant::now() < end && !self.stop.load(Ordering::Acquire) {
            self.look(life);
            std::thread::sleep(LOOK);
        }
        self.change(life, "resume", Wanted::Running)
    }

    fn cancel(&self, life: &mut Life) -> Result<(), Broken> {
        self.change(life, "cancel", Wanted::Cancelled)
    }

    /// Pauses, resumes or cancels; a run that has ended meanwhile, or is about to, stays as it is.
    fn change(&self, life: &mut Life, act: &'static str, wanted: Wanted) -> Result<(), Broken> {
        let request = format!("POST /v1/runs/{}/{act}", self.run());
        let decided = self.decide(act, &request, |_, status, body| match (status, body["code"].as_str()) {
            (200, _) => Some(true),
            (409, Some("illegal_transition")) => Some(false),
            _ => None,
        })?;
        if decided {
            life.wanted = wanted;
        }
        Ok(())
    }

    /// Tries all failures again.
    fn retry(&self, life: &mut Life) -> Result<(), Broken> {
        let request = format!("POST /v1/runs/{}/retry", self.run());
        self.decide("retry", &request, |tried_before, status, body| match (status, body["code"].as_str()) {
            (200, _) => Some(()),
            // An earlier request took place, and its answer was lost.
            (409, Some("not_ended")) if tried_before => Some(()),
            _ => None,
        })?;
        (life.wanted, life.summary) = (Wanted::Running, Value::Null);
        Ok(())
    }

    /// Deletes it.
    fn delete(&self, life: &mut Life) -> Result<(), Broken> {
        let run = self.run();
        self.decide("delete", &format!("DELETE /v1/runs/{run}"), |tried_before, status, _| match status {
            202 => Some(()),
            404 if tried_before => Some(()),
            _ => None,
        })?;
        life.summary = Value::Null;
        // Nobody shows it any more, whoever is asked.
        let began = Instant::now();
        loop {
            match self.ask(&format!("GET /v1/runs/{run}")) {
                Some((404, _)) => break,
                Some((status, body)) if status != 503 => {
                    self.fault(format!("it was deleted, and the answer was {status}: {body}"));
                    break;
                }
                _ => self.may_wait(began, "seen to be gone", &Value::Null)?,
            }
        }
        self.seen().run = None;
        life.deleted.push(run);
        Ok(())
    }

    /// Sends a request until it is answered as `judge` understands it; `judge` hears whether an earlier one may have taken
    /// place. What it does not understand is a fault, unless it is "try again".
    fn decide<T>(
        &self,
        act: &'static str,
        request: &str,
        judge: impl Fn(bool, u16, &Value) -> Option<T>,
    ) -> Result<T, Broken> {
        self.act(act);
        self.seen().decided += 1;
        let (began, mut tried_before) = (Instant::now(), false);
        let decided = loop {
            let last = match self.ask(request) {
                None => Value::Null,
                Some((status, body)) => match judge(tried_before, status, &body) {
                    Some(decided) => break decided,
                    None => {
                        let again = status == 503 || body["code"] == "changed_meanwhile";
                        if !again {
                            self.fault(format!("{request} was answered with {status}: {body}"));
                        }
                        body
                    }
                },
            };
            tried_before = true;
            self.may_wait(began, act, &last)?;
        };
        self.seen().decided += 1;
        Ok(decided)
    }
}
