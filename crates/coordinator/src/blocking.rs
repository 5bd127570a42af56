//! Work that blocks: files, and what reads them. Never on a thread that has requests to answer.

use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::task::JoinError;

/// Does `work` on a thread for such work; the error is its panic. A runtime with one thread, as tests have, does it in
/// place: there another thread would only make the order of things a matter of chance.
pub(crate) async fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, JoinError> {
    if Handle::current().runtime_flavor() == RuntimeFlavor::CurrentThread {
        return Ok(work());
    }
    tokio::task::spawn_blocking(work).await
}
