//! What each token takes of this coordinator now, against its limits.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::auth::Caller;
use super::{Api, Problem, active};

/// Streams of events that one token follows at a time, where it has no limit of its own.
const STREAMS: usize = 64;

/// Streams of events of all tokens together.
const ALL_STREAMS: usize = 1024;

/// Over which uploads are counted.
const HOUR: Duration = Duration::from_secs(3600);

/// What is taken now, by the names of tokens.
#[derive(Default)]
pub(crate) struct Usage(Arc<Mutex<HashMap<String, Taken>>>);

#[derive(Default)]
struct Taken {
    /// Submissions under way.
    submitting: u64,
    streams: usize,
    /// When references were uploaded within the last hour, the oldest first.
    uploads: VecDeque<Instant>,
}

/// What one request takes; given back on drop.
pub(super) struct Hold {
    usage: Arc<Mutex<HashMap<String, Taken>>>,
    name: String,
    give_back: fn(&mut Taken),
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut all = lock(&self.usage);
        if let Some(taken) = all.get_mut(&self.name) {
            (self.give_back)(taken);
            if taken.submitting == 0 && taken.streams == 0 && taken.uploads.is_empty() {
                all.remove(&self.name);
            }
        }
    }
}

fn lock(usage: &Mutex<HashMap<String, Taken>>) -> MutexGuard<'_, HashMap<String, Taken>> {
    usage.lock().unwrap_or_else(PoisonError::into_inner)
}

fn refused(code: &str, message: String) -> Problem {
    Problem::new(429, code, message)
}

impl Usage {
    fn hold(&self, caller: &Caller, give_back: fn(&mut Taken)) -> Hold {
        Hold { usage: self.0.clone(), name: caller.scope().to_owned(), give_back }
    }

    /// One more stream of events of the caller.
    pub(super) fn stream(&self, caller: &Caller) -> Result<Hold, Problem> {
        let mut all = lock(&self.0);
        let together: usize = all.values().map(|taken| taken.streams).sum();
        let taken = all.entry(caller.scope().to_owned()).or_default();
        let most = match (caller.limits().streams, caller.name()) {
            (Some(most), _) => most,
            (None, Some(_)) => STREAMS,
            (None, None) => ALL_STREAMS,
        };
        if taken.streams >= most || together >= ALL_STREAMS {
            let message = format!("{} event streams are open already; close some, or poll instead", taken.streams);
            return Err(refused("too_many_streams", message));
        }
        taken.streams += 1;
        drop(all);
        Ok(self.hold(caller, |taken| taken.streams -= 1))
    }

    /// One more upload of the caller.
    pub(super) fn upload(&self, caller: &Caller) -> Result<(), Problem> {
        let Some(most) = caller.limits().blobs else { return Ok(()) };
        let (mut all, now) = (lock(&self.0), Instant::now());
        let uploads = &mut all.entry(caller.scope().to_owned()).or_default().uploads;
        while uploads.front().is_some_and(|at| now.duration_since(*at) >= HOUR) {
            uploads.pop_front();
        }
        if uploads.len() as u64 >= most {
            let message = format!("your token may upload at most {most} references per hour; continue later");
            return Err(refused("too_many_blobs", message));
        }
        uploads.push_back(now);
        Ok(())
    }

    fn submission(&self, caller: &Caller) -> (u64, Hold) {
        let mut all = lock(&self.0);
        let taken = all.entry(caller.scope().to_owned()).or_default();
        let under_way = taken.submitting;
        taken.submitting += 1;
        drop(all);
        (under_way, self.hold(caller, |taken| taken.submitting -= 1))
    }
}

/// One more run of the caller, where its token may have one; to be held until the run is there.
pub(super) async fn one_more_run(api: &Api, caller: &Caller) -> Result<Option<Hold>, Problem> {
    let (Some(most), Some(name)) = (caller.limits().active_runs, caller.name()) else { return Ok(None) };
    // Counted before the list is read: of two at once, one sees the other.
    let (under_way, hold) = api.usage.submission(caller);
    let active = active::specs(api, Duration::ZERO).await?;
    let own = active.iter().filter(|spec| spec.owner.as_ref().is_some_and(|owner| owner.token == name)).count() as u64;
    if own + under_way >= most {
        let message = format!(
            "{own} runs of {name} have not ended, {under_way} are being submitted, and only {most} are allowed at a \
             time; wait for one, or cancel it"
        );
        return Err(refused("too_many_runs", message));
    }
    Ok(Some(hold))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Role;

    #[tokio::test(start_paused = true)]
    async fn what_is_taken_is_given_back_and_there_is_a_cap_without_a_limit() {
        let (usage, anybody) = (Usage::default(), Caller::anybody(Role::Admin));
        let held: Vec<_> = (0..ALL_STREAMS).map(|_| usage.stream(&anybody).unwrap()).collect();
        assert_eq!(usage.stream(&anybody).err().unwrap().code, "too_many_streams");
        drop(held);
        assert!(usage.stream(&anybody).is_ok());
        assert!(lock(&usage.0).is_empty(), "nothing is remembered of who takes nothing");
        usage.upload(&anybody).unwrap();
    }
}
