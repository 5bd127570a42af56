//! Work that blocks: files, what reads them, and whatever computes for long. Never on a thread that has requests to answer.
//!
//! A runtime with one thread, as tests and the simulation have, does it in place: there another thread would only make the
//! order of things a matter of chance, and time that a test has stopped does not go on while it works.

use std::any::Any;
use std::io::{Cursor, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio_util::io::SyncIoBridge;

/// The work panicked; what it said.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Panicked(pub String);

/// Does `work` on a thread for such work.
pub async fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Panicked> {
    if is_in_place() {
        return catch_unwind(AssertUnwindSafe(work)).map_err(|panic| Panicked(panic_message(&*panic)));
    }
    tokio::task::spawn_blocking(work).await.map_err(|error| match error.try_into_panic() {
        Ok(panic) => Panicked(panic_message(&*panic)),
        Err(error) => Panicked(error.to_string()),
    })
}

/// Does `work` with what comes from `source`, as it comes; in place, all of it is in memory first.
pub async fn reading<T: Send + 'static>(
    mut source: impl AsyncRead + Unpin + Send + 'static,
    work: impl FnOnce(Box<dyn Read + Send>) -> std::io::Result<T> + Send + 'static,
) -> std::io::Result<T> {
    let done = if is_in_place() {
        let mut bytes = Vec::new();
        source.read_to_end(&mut bytes).await?;
        run(move || work(Box::new(Cursor::new(bytes)))).await
    } else {
        let bridge = SyncIoBridge::new(source);
        run(move || work(Box::new(bridge))).await
    };
    done.unwrap_or_else(|panicked| Err(std::io::Error::other(panicked)))
}

fn is_in_place() -> bool {
    Handle::current().runtime_flavor() == RuntimeFlavor::CurrentThread
}

/// What a panic said.
pub fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn both() {
        assert_eq!(run(|| 1).await, Ok(1));
        let panicked = run(|| panic!("a defect")).await;
        assert_eq!(panicked.map(|()| 1), Err(Panicked("a defect".to_owned())));
        let read = reading(&b"what is there"[..], |mut source| std::io::read_to_string(&mut source)).await;
        assert_eq!(read.unwrap(), "what is there");
        let panicked = reading(&b""[..], |_| -> std::io::Result<()> { panic!("a defect") }).await;
        assert_eq!(panicked.unwrap_err().to_string(), "a defect");
    }

    #[tokio::test]
    async fn work_gives_its_result_or_what_its_panic_said_in_place() {
        both().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn work_gives_its_result_or_what_its_panic_said_on_a_thread_of_its_own() {
        both().await;
    }
}
