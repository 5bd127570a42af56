//! How this worker does, for its heartbeat: over the last minute.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::Duration;

use diorama_backends::progress::Vitals;
use diorama_core::clock;
use jiff::Timestamp;
use tokio::time::Instant;

use crate::lock::locked;

/// Shares and rates are taken over this long.
const OVER: Duration = Duration::from_secs(60);

/// What adds up.
#[derive(Debug, Clone, Copy, Default)]
struct Sums {
    device_seconds: f64,
    pictures: u64,
}

/// Counts what the device did.
pub(crate) struct Pulse {
    started_at: Timestamp,
    model_load: Option<Duration>,
    device_seconds: Mutex<f64>,
    samples: Mutex<VecDeque<(Instant, Sums)>>,
}

impl Pulse {
    /// From now on; the model took `model_load` to load, where that is known.
    pub(crate) fn new(model_load: Option<Duration>) -> Self {
        let samples = VecDeque::from([(Instant::now(), Sums::default())]);
        let (device_seconds, samples) = (Mutex::new(0.0), Mutex::new(samples));
        Self { started_at: clock::now(), model_load, device_seconds, samples }
    }

    /// The device had a batch for so long.
    pub(crate) fn worked(&self, device_seconds: f64) {
        *locked(&self.device_seconds) += device_seconds;
    }

    /// How the worker does, which has committed so many pictures in all.
    pub(crate) fn take(&self, pictures: u64) -> Vitals {
        let now = Instant::now();
        let sums = Sums { device_seconds: *locked(&self.device_seconds), pictures };
        let (since, before) = {
            let mut samples = locked(&self.samples);
            samples.push_back((now, sums));
            while samples.get(1).is_some_and(|(at, _)| now.duration_since(*at) >= OVER) {
                samples.pop_front();
            }
            samples.front().copied().unwrap_or((now, sums))
        };
        let seconds = now.duration_since(since).as_secs_f64();
        let over = |sum: f64| (seconds > 0.0).then(|| sum / seconds);
        Vitals {
            started_at: Some(self.started_at),
            model_load_seconds: self.model_load.map(|took| took.as_secs_f64()),
            // A batch counts when it is done, and may have begun before.
            device_share: over(sums.device_seconds - before.device_seconds).map(|share| share.clamp(0.0, 1.0)),
            pictures_per_second: over((sums.pictures - before.pictures) as f64),
            memory_bytes: resident(),
        }
    }
}

/// Resident bytes of this process, where the system says so.
fn resident() -> Option<u64> {
    let pages = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = pages.split(' ').nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn share_and_rate_are_those_of_the_last_minute() {
        let pulse = Pulse::new(Some(Duration::from_secs(9)));
        let vitals = pulse.take(0);
        assert_eq!(
            (vitals.device_share, vitals.pictures_per_second, vitals.model_load_seconds),
            (None, None, Some(9.0))
        );
        for second in 1..=100 {
            tokio::time::advance(Duration::from_secs(1)).await;
            if second <= 50 {
                pulse.worked(1.0);
            }
            pulse.take(second.min(50) * 2);
        }
        let vitals = pulse.take(100);
        assert!((vitals.device_share.unwrap() - 10.0 / 60.0).abs() < 1e-9, "{vitals:?}");
        assert!((vitals.pictures_per_second.unwrap() - 20.0 / 60.0).abs() < 1e-9, "{vitals:?}");
        assert!(vitals.memory_bytes.unwrap() > 1 << 20);
    }
}
