//! The first Ctrl-C or SIGTERM asks to drain; the second ends the process at once.
//!
//! Ending at once loses nothing: whatever was committed stays, and the same command goes on from there.

use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// The exit code of a process that a signal ended, whether it drained or not: its work can be resumed.
pub const EXIT_DRAINED: u8 = 143;

/// Listens for signals until dropped.
#[derive(Debug)]
pub struct Shutdown {
    drain: CancellationToken,
    listener: JoinHandle<()>,
}

impl Shutdown {
    /// Starts to listen. Needs a tokio runtime.
    pub fn listen() -> std::io::Result<Self> {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let drain = CancellationToken::new();
        let token = drain.clone();
        let listener = tokio::spawn(async move {
            loop {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                if token.is_cancelled() {
                    std::process::exit(i32::from(EXIT_DRAINED));
                }
                tracing::warn!("draining: finishing what is running; press Ctrl-C again to stop at once");
                token.cancel();
            }
        });
        Ok(Self { drain, listener })
    }

    /// Cancelled by the first signal.
    pub fn drain(&self) -> CancellationToken {
        self.drain.clone()
    }
}

impl Drop for Shutdown {
    fn drop(&mut self) {
        self.listener.abort();
    }
}
