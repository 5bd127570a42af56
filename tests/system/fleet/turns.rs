//! Fleets are tested side by side: most of their time they wait. The soak has the machine to itself.
//!
//! A lock of the standard library would be waited for without end behind a test that hangs, and without saying for whom.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long a turn is waited for: all that comes before it has bounds of its own.
const PATIENCE: Duration = Duration::from_secs(3600);

/// The turns of this process.
static TURNS: Turns = Turns::new();

/// Waits for a turn beside others.
pub(crate) fn share() -> Turn {
    TURNS.take(false, PATIENCE)
}

/// Waits until nobody else has a turn; until it ends, nobody gets one.
pub(crate) fn alone() -> Turn {
    TURNS.take(true, PATIENCE)
}

struct Turns {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// The names of the tests that have a turn.
    holders: Vec<String>,
    /// One of them, the only one, has the machine to itself.
    alone: bool,
    /// Those who wait for that. Nobody begins to share before them.
    waiting: usize,
}

/// A test's turn; it ends with this value, also where the test fails.
pub(crate) struct Turn {
    of: &'static Turns,
    name: String,
}

impl Turns {
    const fn new() -> Self {
        let state = State { holders: Vec::new(), alone: false, waiting: 0 };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[track_caller]
    fn take(&'static self, alone: bool, patience: Duration) -> Turn {
        let name = std::thread::current().name().unwrap_or("a test").to_owned();
        let mut state = self.state();
        state.waiting += usize::from(alone);
        let must_wait = |state: &mut State| {
            if alone { !state.holders.is_empty() } else { state.alone || state.waiting > 0 }
        };
        let (mut state, waited) =
            self.changed.wait_timeout_while(state, patience, must_wait).unwrap_or_else(PoisonError::into_inner);
        state.waiting -= usize::from(alone);
        if waited.timed_out() {
            let holders = state.holders.join(", ");
            drop(state);
            self.changed.notify_all();
            panic!("{name} waited {patience:?} for its turn behind {holders}");
        }
        state.alone = alone;
        state.holders.push(name.clone());
        Turn { of: self, name }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut state = self.of.state();
        if let Some(at) = state.holders.iter().position(|holder| *holder == self.name) {
            state.holders.swap_remove(at);
        }
        state.alone = false;
        drop(state);
        self.of.changed.notify_all();
    }
}

#[test]
fn a_test_that_waits_for_its_turn_in_vain_names_who_has_it_and_a_failing_one_gives_it_back() {
    static OWN: Turns = Turns::new();
    let brief = Duration::from_millis(50);
    let failing = std::thread::Builder::new().name("hanging".to_owned()).spawn(move || {
        let _turn = OWN.take(false, brief);
        let panic = std::thread::scope(|scope| scope.spawn(|| OWN.take(true, brief)).join().err());
        let said = panic.expect("both have a turn").downcast::<String>().unwrap();
        assert!(said.contains("for its turn behind hanging"), "{said}");
        drop(OWN.take(false, brief));
        panic!("as a test fails");
    });
    assert_eq!(*failing.unwrap().join().unwrap_err().downcast::<&str>().unwrap(), "as a test fails");
    let alone = OWN.take(true, brief);
    assert!(std::thread::spawn(move || drop(OWN.take(false, brief))).join().is_err(), "it was not alone");
    drop(alone);
    drop(OWN.take(false, brief));
}
