//! The time of day, asked for in one place, so that a simulation can say what time it is.

use jiff::Timestamp;

/// What time it is.
pub fn now() -> Timestamp {
    #[cfg(feature = "testing")]
    if let Some(now) = simulated::now() {
        return now;
    }
    Timestamp::now()
}

/// A time of day that a simulation tells. Only on the thread that asked for it.
#[cfg(feature = "testing")]
pub mod simulated {
    use std::cell::Cell;

    use jiff::Timestamp;

    thread_local! {
        static CLOCK: Cell<Option<fn() -> Timestamp>> = const { Cell::new(None) };
    }

    /// From now on `clock` says what time it is on this thread.
    pub fn begin(clock: fn() -> Timestamp) {
        CLOCK.set(Some(clock));
    }

    pub(super) fn now() -> Option<Timestamp> {
        CLOCK.get().map(|clock| clock())
    }
}
