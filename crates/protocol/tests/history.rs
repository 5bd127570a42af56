//! What a run's log allows, and the state that follows from it.

#![allow(clippy::unwrap_used, reason = "a test panics where a guarantee is broken")]

use diorama_backends::progress::Counts;
use diorama_core::id::{AttemptId, Round, RunId, Sha256Hex, ShardId};
use diorama_core::outcome::FileRef;
use diorama_core::round::{FailedWhere, RoundInfo};
use diorama_core::run::{ModelIdentity, RunState, RunSummary};
use diorama_protocol::decision::{Act, Decision, Ended};
use diorama_protocol::history::{History, Need, Refused};
use jiff::Timestamp;
use proptest::prelude::*;

fn round(number: u32, reopened: bool) -> RoundInfo {
    RoundInfo {
        round: Round(number),
        reopened: reopened.then(FailedWhere::default),
        ..RoundInfo::first(2, 3, AttemptId::new("w").unwrap(), Timestamp::UNIX_EPOCH)
    }
}

fn submitted() -> Act {
    Act::Submitted { round: round(0, false) }
}

fn ended(state: RunState) -> Act {
    let file = || FileRef { path: "results.jsonl".to_owned(), sha256: Sha256Hex::of(b""), bytes: 0 };
    let summary = RunSummary {
        run: RunId::new("r").unwrap(),
        state,
        tasks: 3,
        done: 3,
        failed: 0,
        invalid_rows: 0,
        failures: Default::default(),
        rounds: 0,
        shards: 2,
        device_seconds: 0.0,
        wall_seconds: 0.0,
        pictures_per_second: 0.0,
        acceptance: None,
    };
    Act::Ended(Box::new(Ended { summary, counts: Counts::default(), results: file(), errors: file() }))
}

fn begun(state: RunState) -> Act {
    Act::EndingBegun { state, void: None }
}

fn reopened() -> Act {
    Act::Reopened { which: FailedWhere::default() }
}

fn paused(reason: &str) -> Act {
    Act::Paused { reason: Some(reason.to_owned()).filter(|reason| !reason.is_empty()) }
}

fn stuck(reason: &str) -> Act {
    Act::Stuck { reason: reason.to_owned() }
}

fn bound(sha256: &str) -> Act {
    Act::Bound {
        model: ModelIdentity { sha256: sha256.to_owned(), dtype: "f32".to_owned(), networks: Default::default() },
    }
}

fn entry(act: Act) -> Decision {
    let nonce = AttemptId::new("n").unwrap();
    Decision { version: 1, nonce, at: Timestamp::UNIX_EPOCH, by: "a test".to_owned(), act }
}

/// The history of these acts, each of which must be allowed and needed.
fn history(acts: impl IntoIterator<Item = Act>) -> History {
    let mut history = History::default();
    for act in acts {
        assert_eq!(history.check(&act), Ok(Need::Write), "{act:?} after {} entries", history.decisions());
        history.apply(entry(act)).unwrap();
    }
    history
}

#[test]
fn an_entry_survives_its_json() {
    for act in [submitted(), bound("ab"), paused("why"), Act::Resumed, Act::Cancelled, reopened(), Act::Deleted] {
        let entry = entry(act);
        let read: Decision = serde_json::from_str(&serde_json::to_string(&entry).unwrap()).unwrap();
        assert_eq!(read, entry);
    }
    let text = serde_json::to_string(&entry(ended(RunState::Finished))).unwrap();
    assert!(text.contains(r#""act":"ended","summary":{"#), "{text}");
}

#[test]
fn a_cancelled_run_ends_as_cancelled_whoever_ends_it() {
    let mut cancelled = history([submitted(), Act::Cancelled]);
    assert_eq!(cancelled.state(), Some(RunState::Cancelled));
    assert!(matches!(cancelled.check(&begun(RunState::Finished)), Err(Refused::Late { .. })));
    assert!(matches!(cancelled.check(&Act::RoundOpened { round: round(1, false) }), Err(Refused::Late { .. })));
    cancelled.apply(entry(begun(RunState::Cancelled))).unwrap();
    cancelled.apply(entry(ended(RunState::Cancelled))).unwrap();
    assert_eq!(cancelled.check(&Act::Cancelled), Ok(Need::Nothing));
}

#[test]
fn what_is_ending_cannot_be_stopped_or_taken_further() {
    let ending = history([submitted(), begun(RunState::Finished)]);
    for late in [Act::Cancelled, paused(""), Act::Resumed] {
        assert!(matches!(ending.check(&late), Err(Refused::Illegal { from: RunState::Finished, .. })), "{late:?}");
    }
    for late in [Act::RoundOpened { round: round(1, false) }, begun(RunState::Finished), bound("ab")] {
        assert!(matches!(ending.check(&late), Err(Refused::Late { .. })), "{late:?}");
    }
    for early in [reopened(), Act::Deleted] {
        assert!(matches!(ending.check(&early), Err(Refused::NotEnded { .. })), "{early:?}");
    }
}

#[test]
fn an_ending_that_cannot_be_carried_out_is_shown_can_be_tried_again_and_need_not_stay_for_ever() {
    for (state, acts) in [
        (RunState::Finished, vec![submitted(), begun(RunState::Finished)]),
        (RunState::Finished, vec![submitted(), paused("why"), begun(RunState::Finished)]),
        (RunState::Cancelled, vec![submitted(), Act::Cancelled, begun(RunState::Cancelled)]),
        // Its ending cannot even begin.
        (RunState::Cancelled, vec![submitted(), Act::Cancelled]),
    ] {
        let ending = history(acts);
        let mut run = ending.clone();
        run.apply(entry(stuck("it is damaged"))).unwrap();
        assert_eq!((run.state(), run.reason()), (Some(RunState::Paused), Some("it is damaged")));
        assert!(!run.wants_work());
        for asked in [paused(""), paused("the model is another one"), stuck("it is damaged still")] {
            assert_eq!(run.check(&asked), Ok(Need::Nothing), "{asked:?}");
        }
        let mut gone = run.clone();
        gone.apply(entry(Act::Deleted)).unwrap();
        assert!(gone.is_deleted());
        // Whoever drives it may have mended it meanwhile, or another one did.
        let mut mended = run.clone();
        if mended.ending().is_none() {
            mended.apply(entry(begun(state))).unwrap();
        }
        mended.apply(entry(ended(state))).unwrap();
        assert_eq!((mended.state(), mended.reason()), (Some(state), None));
        assert!(matches!(mended.check(&stuck("late")), Err(Refused::Late { .. })));
        run.apply(entry(Act::Resumed)).unwrap();
        assert_eq!((run.state(), run.reason()), (ending.state(), None));
        assert!(matches!(run.check(&Act::Deleted), Err(Refused::NotEnded { .. })));
    }
    let running = history([submitted()]);
    assert!(matches!(running.check(&stuck("no ending")), Err(Refused::Late { .. })));
}

#[test]
fn a_late_coordinator_cannot_end_a_run_that_goes_on_since() {
    let acts = [submitted(), begun(RunState::Finished), ended(RunState::Finished), reopened()];
    let mut since = history(acts);
    assert!(matches!(since.check(&ended(RunState::Finished)), Err(Refused::Late { .. })));
    assert!(matches!(since.check(&begun(RunState::Finished)), Err(Refused::Late { .. })), "its round is still to come");
    assert!(matches!(since.check(&Act::RoundOpened { round: round(1, false) }), Err(Refused::Late { .. })));
    since.apply(entry(Act::RoundOpened { round: round(1, true) })).unwrap();
    assert!(since.is_under_way(ShardId { round: Round(1), index: 1 }));
    assert!(!since.is_under_way(ShardId { round: Round(1), index: 2 }));
    assert!(!since.is_under_way(ShardId { round: Round(0), index: 1 }), "what it came to is decided");
}

#[test]
fn a_pause_without_a_reason_takes_the_reason_away_and_one_with_a_reason_does_not_hide_the_owners() {
    let asked = history([submitted(), paused("the model is another one")]);
    assert_eq!((asked.state(), asked.reason()), (Some(RunState::Paused), Some("the model is another one")));
    assert_eq!(asked.check(&paused("")), Ok(Need::Write));
    let owner = history([submitted(), paused("")]);
    assert_eq!(owner.check(&paused("the model is another one")), Ok(Need::Nothing));
}

#[test]
fn the_first_model_counts_and_outlives_an_ending() {
    let acts = [submitted(), bound("ab"), begun(RunState::Finished), ended(RunState::Finished), reopened()];
    let again = history(acts);
    assert_eq!(again.check(&bound("cd")), Ok(Need::Nothing));
    assert_eq!(again.model().unwrap().sha256, "ab");
}

#[test]
fn a_half_submission_can_be_deleted_and_is_then_refused() {
    let mut half = History::default();
    assert_eq!(half.state(), Some(RunState::Submitting));
    assert!(matches!(half.check(&Act::Cancelled), Err(Refused::Illegal { from: RunState::Submitting, .. })));
    half.apply(entry(Act::Deleted)).unwrap();
    assert_eq!((half.state(), half.check(&submitted())), (None, Err(Refused::Deleted)));
    assert_eq!(half.check(&Act::Deleted), Ok(Need::Nothing));
}

fn any_act() -> impl Strategy<Value = Act> {
    let state = || prop_oneof![Just(RunState::Finished), Just(RunState::Cancelled)];
    prop_oneof![
        Just(submitted()),
        Just(bound("ab")),
        prop_oneof![Just(paused("")), Just(paused("why"))],
        Just(Act::Resumed),
        Just(Act::Cancelled),
        (0..4u32, any::<bool>()).prop_map(|(number, reopened)| Act::RoundOpened { round: round(number, reopened) }),
        state().prop_map(begun),
        state().prop_map(ended),
        Just(stuck("why")),
        Just(reopened()),
        Just(Act::Deleted),
    ]
}

proptest! {
    /// Whatever is asked in whatever order: what is refused changes nothing, a deleted run stays deleted, rounds have no
    /// gap, and nobody works on a run that is ending, has ended or is gone.
    #[test]
    fn no_order_of_decisions_breaks_a_run(acts in proptest::collection::vec(any_act(), 0..60)) {
        let mut history = History::default();
        history.apply(entry(submitted())).unwrap();
        for act in acts {
            let before = history.clone();
            match history.check(&act) {
                Ok(Need::Write) => history.apply(entry(act)).unwrap(),
                Ok(Need::Nothing) => {}
                Err(refused) => {
                    prop_assert_eq!(history.apply(entry(act)), Err(refused));
                    prop_assert_eq!(&history, &before);
                }
            }
            prop_assert!(!before.is_deleted() || history.is_deleted());
            prop_assert!(history.rounds().iter().enumerate().all(|(at, round)| round.round.0 as usize == at));
            prop_assert!(!history.wants_work() || (history.ending().is_none() && !history.is_deleted()));
            prop_assert!(history.ended().is_none() || history.ending().is_some());
        }
    }
}

#[test]
fn a_worker_does_not_pause_again_for_what_the_owner_had_go_on() {
    let paused_for = "the settings do not fit";
    let mut run = history([submitted(), paused(paused_for), paused("")]);
    assert!(!run.was_resumed_after(paused_for), "it has not gone on yet");
    run.apply(entry(Act::Resumed)).unwrap();
    assert!(run.was_resumed_after(paused_for) && !run.was_resumed_after("another reason"));
}
