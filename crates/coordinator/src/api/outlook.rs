//! How the active runs stand, for whoever looks at all of them again and again: from memory and the progress service; the
//! store is asked only for what was decided since the last look.

use std::sync::Arc;

use diorama_core::run::RunSpec;
use futures::{StreamExt, TryStreamExt, stream};

use super::{Api, Opened, Problem};
use crate::status::{Live, RunStatus, live_status};
use crate::waiting::Waiting;

/// Runs that are looked at, at a time.
const AT_ONCE: usize = 32;

/// How an active run stands.
pub(super) struct Outlook {
    pub(super) status: RunStatus,
    /// What the progress service said of it.
    pub(super) live: Option<Live>,
    pub(super) run: Opened,
}

impl Outlook {
    /// Shards that are to be made and are not committed; while the counts are rebuilt, rather too many.
    pub(super) fn outstanding(&self) -> u64 {
        match self.run.history.wants_work() {
            true => self.status.shards.saturating_sub(self.status.shards_committed),
            false => 0,
        }
    }

    /// The same, unless the round waits for its time.
    pub(super) fn begun(&self) -> u64 {
        match Waiting::by_log(&self.run.history) {
            None => self.outstanding(),
            Some(_) => 0,
        }
    }
}

/// How the runs of `specs` stand. One whose log is damaged or gone is left out.
pub(super) async fn of(api: &Api, specs: &[Arc<RunSpec>]) -> Result<Vec<Outlook>, Problem> {
    let look = |spec: Arc<RunSpec>| async move {
        let opened = match api.glance_at_any(&spec.run).await {
            Ok(opened) => opened,
            Err(error) if error.may_pass_later() => return Err(Problem::from(error)),
            Err(_) => None,
        };
        let Some(run) = opened.filter(|run| run.history.state().is_some()) else { return Ok(None) };
        let (mut status, live) = live_status(api.backends(), &run.spec, &run.history).await?;
        status.price(&api.config.prices);
        Ok(Some(Outlook { status, live, run }))
    };
    let looked = stream::iter(specs.iter().cloned()).map(look).buffered(AT_ONCE);
    looked.try_filter_map(|run| std::future::ready(Ok(run))).try_collect().await
}
