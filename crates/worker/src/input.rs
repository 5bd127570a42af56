//! What a shard asks for, read once its attempt is noted.

use diorama_core::id::ShardId;
use diorama_core::task::Task;
use diorama_protocol::RunStore;

use crate::context::Context;
use crate::ending::{Ending, Interrupt};
use crate::fit;
use crate::journal::Journal;
use crate::poison::SILENCES;
use crate::runs::Known;

/// The tasks of a shard, unless no worker should make them.
pub(crate) async fn tasks(
    context: &Context,
    store: &RunStore,
    shard: ShardId,
    known: &Known,
    journal: &Journal,
) -> Result<Vec<Task>, Interrupt> {
    let silent = journal.died_before_any_task();
    if silent >= known.spec.retry.poison_after + SILENCES {
        tracing::error!(silent, "several workers died before starting a task of this shard; it is given up");
        return Err(Interrupt::Ended(Ending::DeadLettered));
    }
    let tasks = match known.history.round(shard.round) {
        Some(round) => store.input(shard, &round.inputs).await?,
        None => None,
    };
    let Some(tasks) = tasks else {
        tracing::error!("the shard has no input");
        return Err(Interrupt::Ended(Ending::DeadLettered));
    };
    if fit::are_within_caps(context, store, known, &tasks).await? {
        Ok(tasks)
    } else {
        Err(Interrupt::Ended(Ending::LetGo))
    }
}
