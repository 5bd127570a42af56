//! The bytes of a form, no faster than they are taken out of its parts. What reads forms keeps whatever stands before and
//! between the parts in memory until it ends, and looks through all of it again and again; here it ends soon.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use axum::BoxError;
use bytes::Bytes;
use futures::Stream;

/// Bytes that are given and not taken: what may stand between two parts, their heads included.
const AHEAD: u64 = 256 << 10;

/// How often it may be asked to go on while nothing is taken. Whoever has found a part asks once or twice before it takes
/// what is at hand; whoever has found none asks for ever.
const ASKED: u32 = 64;

/// How many bytes were taken out of parts.
#[derive(Debug, Clone, Default)]
pub(super) struct Taken(Arc<AtomicU64>);

impl Taken {
    pub(super) fn add(&self, bytes: usize) {
        self.0.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A body that waits until what it gave is taken, and fails where whoever reads it wants more and takes nothing.
pub(super) struct Ahead<S> {
    body: S,
    given: u64,
    taken: Taken,
    /// What was taken when it was last asked to go on and did not, and how often it was.
    paused: (u64, u32),
}

impl<S> Ahead<S> {
    pub(super) fn new(body: S, taken: Taken) -> Self {
        Self { body, given: 0, taken, paused: (0, 0) }
    }
}

impl<S, E> Stream for Ahead<S>
where
    S: Stream<Item = Result<Bytes, E>> + Unpin,
    E: Into<BoxError>,
{
    type Item = Result<Bytes, BoxError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let taken = self.taken.bytes();
        if self.given.saturating_sub(taken) > AHEAD {
            self.paused = if self.paused.0 == taken { (taken, self.paused.1 + 1) } else { (taken, 1) };
            if self.paused.1 > ASKED {
                let message = format!("there are more than {AHEAD} bytes before or between its parts");
                return Poll::Ready(Some(Err(io::Error::other(message).into())));
            }
            // What is at hand is taken first, by whoever has some of it.
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.paused = (taken, 0);
        let piece = ready!(Pin::new(&mut self.body).poll_next(context));
        if let Some(Ok(piece)) = &piece {
            self.given += piece.len() as u64;
        }
        Poll::Ready(piece.map(|piece| piece.map_err(Into::into)))
    }
}
