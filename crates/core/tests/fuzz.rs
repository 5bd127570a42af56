//! Whatever a commit marker holds: it is read or refused, and what is read is written as the same again.

#![allow(clippy::unwrap_used, reason = "a test")]

use diorama_core::marker::CommitMarker;
use diorama_fuzz::fuzz;

#[test]
fn whatever_a_marker_holds_it_is_read_or_refused() {
    fuzz("marker", |bytes| {
        let Ok(marker) = serde_json::from_slice::<CommitMarker>(bytes) else { return };
        let again = serde_json::to_vec(&marker).unwrap();
        let read: CommitMarker = serde_json::from_slice(&again).unwrap();
        assert_eq!(serde_json::to_vec(&read).unwrap(), again);
    });
}
