//! A run whose own settings do not fit the model would fail task by task, to its last row. Its owner is asked first: the
//! run is paused with the reason. Whoever resumes it has the failures written.

use diorama_core::key::ObjectKey;
use diorama_core::outcome::{ErrorCode, TaskError};
use diorama_core::run::{Control, RunState};
use diorama_core::task::Task;

use crate::error::WorkerError;
use crate::plan::Keys;
use crate::shard::Work;
use crate::worker::{Layout, Worker};

impl Worker {
    /// Whether a shard's run waits for its owner, because every task of the shard was refused and the run's settings by
    /// themselves would be, too. A run on this machine was checked before it began.
    pub(crate) async fn waits_for_its_owner(&self, work: &Work, keys: &Keys) -> Result<bool, WorkerError> {
        let all_refused = keys.iter().all(|variants| variants.first().and_then(misfit).is_some());
        let Some(first) = work.tasks.first().filter(|_| all_refused && self.config.layout == Layout::Shared) else {
            return Ok(false);
        };
        let of_the_run = Task { settings: work.spec.settings.clone(), ..first.clone() };
        let checked = self.engine.check(vec![of_the_run]).await?;
        let Some(error) = checked.first().and_then(misfit) else { return Ok(false) };
        match work.store.read_json::<Control>(&ObjectKey::Control).await? {
            // It was paused for this before, and its owner wants it all the same.
            Some(control) => Ok(control.state != RunState::Running),
            None => {
                let reason = format!(
                    "the run's settings do not fit the model that the pool {} serves: {error}; cancel the run and submit it with \
                     others, or resume it: then its tasks fail as {}",
                    self.config.pool, error.code
                );
                tracing::error!(run = %work.spec.run, %reason, "the run is paused");
                work.store.pause(Some(reason)).await?;
                Ok(true)
            }
        }
    }
}

/// Why the settings do not fit the model, where they do not.
fn misfit<T>(checked: &Result<T, TaskError>) -> Option<&TaskError> {
    checked.as_ref().err().filter(|error| error.code == ErrorCode::InvalidSettings)
}
