//! Bodies: a request's that must go on coming, and an answer's that lasts as long as its connection is busy.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::BoxError;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep};

use super::Limits;
use super::places::Asking;

/// A request's body. It fails where its sender keeps us waiting: for longer than the limit until so many bytes more are
/// here. Only waiting counts, not what we do between two pieces.
pub(super) struct Patient<B> {
    body: B,
    /// How long we may wait for `least` bytes.
    most: Duration,
    least: u64,
    /// What came, and how long we waited for it, since the count began anew.
    came: u64,
    waited: Duration,
    /// Since when we wait, and the alarm for it.
    since: Option<(Instant, Pin<Box<Sleep>>)>,
}

impl<B> Patient<B> {
    pub(super) fn new(body: B, limits: &Limits) -> Self {
        Self { body, most: limits.body, least: limits.least_body, came: 0, waited: Duration::ZERO, since: None }
    }

    fn came(&mut self, bytes: u64) {
        if let Some((since, _)) = self.since.take() {
            self.waited += since.elapsed();
        }
        self.came += bytes;
        if self.came >= self.least {
            (self.came, self.waited) = (0, Duration::ZERO);
        }
    }
}

impl<B> Body for Patient<B>
where
    B: Body + Unpin,
    B::Error: Into<BoxError>,
{
    type Data = B::Data;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) {
            let bytes = frame.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref().map(bytes::Buf::remaining));
            self.came(bytes.unwrap_or_default() as u64);
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        let left = self.most.saturating_sub(self.waited);
        let (_, alarm) = self.since.get_or_insert_with(|| (Instant::now(), Box::pin(tokio::time::sleep(left))));
        ready!(alarm.as_mut().poll(context));
        let error = io::Error::new(io::ErrorKind::TimedOut, "the body was sent too slowly");
        Poll::Ready(Some(Err(error.into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// An answer's body.
pub(super) struct Lasting<B> {
    pub(super) body: B,
    pub(super) _asking: Asking,
}

impl<B: Body + Unpin> Body for Lasting<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
