//! What reading a picture may cost. A file of few bytes may claim many pixels; what it may take follows from its bytes.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::problem::Problem;

/// Bytes of memory that decoding any file may take, and all that are decoded at a time together; a file that may take more
/// by its length is decoded alone.
const MEMORY: u64 = 56 << 20;

/// Bytes of memory that decoding may take for each byte of a file. A camera's JPEG has a fifth of a byte a pixel or more,
/// one of the web a tenth.
const MEMORY_A_BYTE: u64 = 56;

/// Bytes that unpacking the rows of any PNG may give, which costs time and no memory; and for each byte of a file.
const UNPACKED: u64 = 256 << 20;
const UNPACKED_A_BYTE: u64 = 64;

/// Pixels that any reference keeps; a larger one is kept smaller unless its bytes speak for it.
const KEPT: u64 = 3_000_000;
const KEPT_A_BYTE: u64 = 4;
const KEPT_AT_MOST: u64 = 32_000_000;

/// What a reference may be at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PictureLimits {
    /// Pixels: 100 million.
    pub max_pixels: u64,
    /// Encoded bytes: 256 MiB.
    pub max_file_bytes: u64,
    /// How long decoding may take: 30 s.
    pub max_time: Duration,
}

impl Default for PictureLimits {
    fn default() -> Self {
        Self { max_pixels: 100_000_000, max_file_bytes: 256 << 20, max_time: Duration::from_secs(30) }
    }
}

impl PictureLimits {
    /// Refuses more pixels than any picture may have.
    pub(crate) fn check_pixels(&self, width: u32, height: u32, bytes: usize) -> Result<(), Problem> {
        if u64::from(width) * u64::from(height) <= self.max_pixels {
            return Ok(());
        }
        let most = self.max_pixels;
        Err(Problem::Limits(format!("claims {width}x{height} pixels in {bytes} bytes; at most {most} are allowed")))
    }

    /// Bytes of memory that decoding a file of this length may take.
    pub(crate) fn memory(bytes: usize) -> u64 {
        MEMORY.max(MEMORY_A_BYTE.saturating_mul(bytes as u64))
    }

    /// Bytes that the rows of a PNG of this length may unpack to.
    pub(crate) fn unpacked(bytes: usize) -> u64 {
        UNPACKED.max(UNPACKED_A_BYTE.saturating_mul(bytes as u64))
    }

    /// Pixels that the decoded picture of a file of this length may have.
    pub(crate) fn kept(bytes: usize) -> u64 {
        KEPT_A_BYTE.saturating_mul(bytes as u64).clamp(KEPT, KEPT_AT_MOST)
    }
}

/// The memory that is left for decoding in this process.
static LEFT: Mutex<u64> = Mutex::new(MEMORY);
static GIVEN_BACK: Condvar = Condvar::new();

/// Memory that one decoding may use, until this is dropped.
pub(crate) struct Room(u64);

impl Room {
    /// Waits until `bytes` are left, or all there is where that is less. Blocking: for threads that may wait.
    pub(crate) fn take(bytes: u64) -> Self {
        let wanted = bytes.min(MEMORY);
        let left = LEFT.lock().unwrap_or_else(PoisonError::into_inner);
        let mut left = GIVEN_BACK.wait_while(left, |left| *left < wanted).unwrap_or_else(PoisonError::into_inner);
        *left -= wanted;
        Self(wanted)
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        *LEFT.lock().unwrap_or_else(PoisonError::into_inner) += self.0;
        GIVEN_BACK.notify_all();
    }
}

/// When decoding a picture has to be over.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadline(Instant);

impl Deadline {
    /// It begins now.
    pub(crate) fn of(limits: &PictureLimits) -> Self {
        Self(Instant::now() + limits.max_time)
    }

    /// Whether it is over.
    pub(crate) fn is_past(self) -> bool {
        Instant::now() > self.0
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[test]
    fn what_is_decoded_at_a_time_fits_into_the_memory_that_there_is() {
        let (used, most) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let sizes = [MEMORY / 2, MEMORY / 3, MEMORY, MEMORY * 9, 1, MEMORY / 2];
        let threads: Vec<_> = sizes
            .into_iter()
            .cycle()
            .take(24)
            .map(|bytes| {
                let (used, most) = (used.clone(), most.clone());
                std::thread::spawn(move || {
                    let _room = Room::take(bytes);
                    let now = used.fetch_add(bytes.min(MEMORY), Ordering::SeqCst) + bytes.min(MEMORY);
                    most.fetch_max(now, Ordering::SeqCst);
                    std::thread::yield_now();
                    used.fetch_sub(bytes.min(MEMORY), Ordering::SeqCst);
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert!(most.load(Ordering::SeqCst) <= MEMORY);
    }
}
