//! A run's log, folded: the state that follows from what was decided, and what may be decided next.
//!
//! Pure: reads and writes nothing. [`crate::run_store::RunStore`] reads the entries, [`crate::Backends::decide`] adds one.

use std::collections::BTreeSet;

use diorama_core::id::{AttemptId, Round, ShardId};
use diorama_core::retry::RetryPolicy;
use diorama_core::round::{FailedWhere, RoundInfo};
use diorama_core::run::{ModelIdentity, RunState};
use jiff::Timestamp;

use crate::decision::{Act, Decision, Ended};
use crate::mutant::{self, Mutant};

/// Everything that is decided about a run, up to one entry of its log.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct History {
    next: u64,
    wish: Wish,
    model: Option<ModelIdentity>,
    rounds: Vec<RoundInfo>,
    voids: Vec<AttemptId>,
    ending: Option<Ending>,
    /// Why it cannot be brought to its end, though nothing more is to run.
    stuck: Option<String>,
    ended: Option<Ended>,
    /// The files of every ending, the last one's too.
    files: Vec<[String; 2]>,
    reopening: Option<Reopening>,
    deleted: bool,
    /// Why workers paused it so far.
    reasons: BTreeSet<String>,
    updated_at: Option<Timestamp>,
}

/// What is wanted of a run that has not ended.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
enum Wish {
    #[default]
    Run,
    Pause(Option<String>),
    Cancel,
}

/// An ending that has begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ending {
    /// Finished or cancelled.
    pub state: RunState,
    /// The object with the shards that it left out.
    pub void: Option<AttemptId>,
}

/// A reopening whose round is not opened yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reopening {
    /// The tasks that are tried again.
    pub which: FailedWhere,
    /// When it was asked for.
    pub at: Timestamp,
}

/// Why something cannot be decided about a run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The state of the run does not allow it.
    #[error("a {from} run cannot be {wanted}")]
    Illegal {
        /// The state it is in.
        from: RunState,
        /// What was asked for: `paused`, `resumed` …
        wanted: &'static str,
    },
    /// It can be done when the run has ended.
    #[error("the run is {state} and has not ended; it can be {wanted} when it has")]
    NotEnded {
        /// The state it is in.
        state: RunState,
        /// What was asked for.
        wanted: &'static str,
    },
    /// Somebody else has decided it, or it follows from nothing that was decided: whoever asked is late.
    #[error("the run has changed in the meantime ({wanted}, after {decisions} decisions)")]
    Late {
        /// What was asked for.
        wanted: &'static str,
        /// Entries of the log by now.
        decisions: u64,
    },
    /// There is no such run any more.
    #[error("the run was deleted")]
    Deleted,
}

/// Whether an act changes anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// It is to be written.
    Write,
    /// It is so already.
    Nothing,
}

impl History {
    /// Entries so far, which is the number of the next one.
    pub fn decisions(&self) -> u64 {
        self.next
    }

    /// The state that is shown. `None` where the run was deleted.
    pub fn state(&self) -> Option<RunState> {
        if self.deleted {
            return None;
        }
        if self.rounds.is_empty() {
            return Some(RunState::Submitting);
        }
        if self.stuck.is_some() {
            return Some(RunState::Paused);
        }
        let state = match (&self.ending, &self.wish) {
            // It runs to its end, until that is written.
            (Some(ending), _) if ending.state == RunState::Finished && self.ended.is_none() => RunState::Running,
            (Some(ending), _) => ending.state,
            (None, Wish::Run) => RunState::Running,
            (None, Wish::Pause(_)) => RunState::Paused,
            (None, Wish::Cancel) => RunState::Cancelled,
        };
        Some(state)
    }

    /// Why it is paused, where that was not its owner's wish.
    pub fn reason(&self) -> Option<&str> {
        match &self.wish {
            _ if self.stuck.is_some() => self.stuck.as_deref(),
            Wish::Pause(reason) if self.ending.is_none() => reason.as_deref(),
            _ => None,
        }
    }

    /// Whether it was paused for this reason and its owner had it go on all the same.
    pub fn was_resumed_after(&self, reason: &str) -> bool {
        self.wish == Wish::Run && self.reasons.contains(reason)
    }

    /// Whether workers are to go on with its shards.
    pub fn wants_work(&self) -> bool {
        self.state() == Some(RunState::Running) && self.ending.is_none() && self.reopening.is_none()
    }

    /// Whether the run exists and is completely submitted.
    pub fn is_submitted(&self) -> bool {
        !self.rounds.is_empty() && !self.deleted
    }

    /// Whether the run was deleted.
    pub fn is_deleted(&self) -> bool {
        self.deleted
    }

    /// The model that the run is bound to.
    pub fn model(&self) -> Option<&ModelIdentity> {
        self.model.as_ref()
    }

    /// Every round that was opened, from 0.
    pub fn rounds(&self) -> &[RoundInfo] {
        &self.rounds
    }

    /// Shards of all rounds.
    pub fn shards(&self) -> u64 {
        self.rounds.iter().map(|round| u64::from(round.shards)).sum()
    }

    /// The round that was opened last.
    pub fn last_round(&self) -> Option<&RoundInfo> {
        self.rounds.last()
    }

    pub fn round(&self, round: Round) -> Option<&RoundInfo> {
        self.rounds.get(round.0 as usize)
    }

    /// Whether a worker may run the shard: it belongs to the round that is under way. What earlier rounds came to is
    /// decided.
    pub fn is_under_way(&self, shard: ShardId) -> bool {
        self.last_round().is_some_and(|round| round.round == shard.round && shard.index < round.shards)
    }

    /// The last round that a task of `round` may go into.
    pub fn budget(&self, round: Round, retry: &RetryPolicy) -> u32 {
        self.round(round).map_or(retry.max_rounds, |info| info.last_round(retry))
    }

    /// The objects with shards that count as cancelled, in the order of the endings.
    pub fn voids(&self) -> &[AttemptId] {
        &self.voids
    }

    /// The ending that has begun, ended or not.
    pub fn ending(&self) -> Option<&Ending> {
        self.ending.as_ref()
    }

    /// Whether it was cancelled, and ended as that or will.
    pub fn is_cancelled(&self) -> bool {
        match &self.ending {
            Some(ending) => ending.state == RunState::Cancelled,
            None => self.wish == Wish::Cancel,
        }
    }

    /// Whether it cannot be brought to its end, though nothing more is to run; [`History::reason`] says why.
    pub fn is_stuck(&self) -> bool {
        self.stuck.is_some()
    }

    /// How it ended, where it has.
    pub fn ended(&self) -> Option<&Ended> {
        self.ended.as_ref()
    }

    /// The final files of every ending, relative to the run: results and errors. Those of an ending that a retry took back
    /// stay, so that its entry can be checked.
    pub fn final_files(&self) -> impl Iterator<Item = &str> {
        self.files.iter().flatten().map(String::as_str)
    }

    /// A reopening whose round is still to be made.
    pub fn reopening(&self) -> Option<&Reopening> {
        self.reopening.as_ref()
    }

    /// When the last entry was written.
    pub fn updated_at(&self) -> Option<Timestamp> {
        self.updated_at
    }

    /// Whether `act` may be decided now, and whether it changes anything.
    pub fn check(&self, act: &Act) -> Result<Need, Refused> {
        let wanted = match act {
            Act::Reopened { .. } => "retried",
            act => act.name(),
        };
        let late = || Refused::Late { wanted, decisions: self.next };
        let Some(shown) = self.state() else {
            return if *act == Act::Deleted { Ok(Need::Nothing) } else { Err(Refused::Deleted) };
        };
        let not_ended = || Refused::NotEnded { state: shown, wanted };
        let state = match &self.ending {
            Some(ending) => ending.state,
            None if self.is_cancelled() => RunState::Cancelled,
            None => shown,
        };
        let illegal = || Refused::Illegal { from: state, wanted };
        match act {
            Act::Deleted if self.next == 0 || self.ended.is_some() => return Ok(Need::Write),
            // Nothing more comes of it, and it must not be there for ever.
            Act::Deleted if self.stuck.is_some() => return Ok(Need::Write),
            Act::Deleted => return Err(not_ended()),
            Act::Submitted { .. } if self.next == 0 => return Ok(Need::Write),
            Act::Submitted { .. } => return Err(late()),
            _ if state == RunState::Submitting => return Err(illegal()),
            _ => {}
        }
        let open = self.ending.is_none();
        // Nothing more is to run; what is left to do is the coordinator's.
        let comes_to_its_end = self.ended.is_none() && (!open || self.wish == Wish::Cancel);
        match act {
            Act::Submitted { .. } | Act::Deleted => Err(late()),
            Act::Bound { .. } if self.model.is_some() => Ok(Need::Nothing),
            Act::Bound { .. } if open => Ok(Need::Write),
            Act::Bound { .. } => Err(late()),
            Act::Stuck { .. } if !comes_to_its_end => Err(late()),
            Act::Stuck { .. } | Act::Paused { .. } if self.stuck.is_some() => Ok(Need::Nothing),
            Act::Stuck { .. } => Ok(Need::Write),
            Act::Resumed if self.stuck.is_some() => Ok(Need::Write),
            Act::Paused { reason } => match &self.wish {
                _ if !open => Err(illegal()),
                Wish::Cancel => Err(illegal()),
                Wish::Run => Ok(Need::Write),
                Wish::Pause(Some(_)) if reason.is_none() => Ok(Need::Write),
                Wish::Pause(_) => Ok(Need::Nothing),
            },
            Act::Resumed => match &self.wish {
                _ if !open => Err(illegal()),
                Wish::Cancel => Err(illegal()),
                Wish::Run => Ok(Need::Nothing),
                Wish::Pause(_) => Ok(Need::Write),
            },
            Act::Cancelled if open && self.wish != Wish::Cancel => Ok(Need::Write),
            Act::Cancelled if state == RunState::Cancelled => Ok(Need::Nothing),
            Act::Cancelled => Err(illegal()),
            Act::RoundOpened { round } => {
                let follows = round.round.0 as usize == self.rounds.len() && open;
                let asked = self.reopening.is_some() == round.reopened.is_some();
                let wanted = self.wish != Wish::Cancel;
                if follows && asked && wanted { Ok(Need::Write) } else { Err(late()) }
            }
            Act::EndingBegun { state, .. } => {
                let cancelled = self.wish == Wish::Cancel && !mutant::is_back(Mutant::CancelIsForgotten);
                let right = match state {
                    RunState::Cancelled => cancelled,
                    RunState::Finished => !cancelled && self.reopening.is_none(),
                    RunState::Submitting | RunState::Running | RunState::Paused => false,
                };
                if open && right { Ok(Need::Write) } else { Err(late()) }
            }
            Act::Ended(_) if !open && self.ended.is_none() => Ok(Need::Write),
            Act::Ended(_) => Err(late()),
            Act::Reopened { .. } if self.ended.is_some() => Ok(Need::Write),
            Act::Reopened { .. } => Err(not_ended()),
        }
    }

    /// Adds the next entry. One that does not follow from those before was not written by this protocol: the error says
    /// why.
    pub fn apply(&mut self, decision: Decision) -> Result<(), Refused> {
        self.check(&decision.act)?;
        self.next += 1;
        self.updated_at = Some(decision.at);
        match decision.act {
            Act::Submitted { round } | Act::RoundOpened { round } => {
                self.rounds.push(round);
                self.reopening = None;
            }
            Act::Bound { model } => self.model = self.model.take().or(Some(model)),
            Act::Stuck { reason } => self.stuck = Some(reason),
            Act::Resumed if self.stuck.is_some() => self.stuck = None,
            Act::Paused { reason } => {
                self.reasons.extend(reason.clone());
                self.wish = Wish::Pause(reason);
            }
            Act::Resumed => self.wish = Wish::Run,
            Act::Cancelled => self.wish = Wish::Cancel,
            Act::EndingBegun { state, void } => {
                self.voids.extend(void.clone());
                (self.reopening, self.stuck) = (None, None);
                self.ending = Some(Ending { state, void });
            }
            Act::Ended(ended) => {
                self.stuck = None;
                self.files.push([ended.results.path.clone(), ended.errors.path.clone()]);
                self.ended = Some(*ended);
            }
            Act::Reopened { which } => {
                self.wish = Wish::Run;
                (self.ending, self.ended) = (None, None);
                self.reopening = Some(Reopening { which, at: decision.at });
            }
            Act::Deleted => self.deleted = true,
        }
        Ok(())
    }
}
