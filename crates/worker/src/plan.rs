//! Which tasks share a batch: tasks with equal keys, in the shard's order, at most a batch at a time.

use diorama_core::generator::BatchKey;
use diorama_core::outcome::TaskError;
use diorama_core::settings::Method;
use diorama_core::task::Task;

/// Every picture that the run wants of one task: the task itself, then one for each method of the comparison.
pub fn variants(task: &Task, compare: &[Method]) -> Vec<Task> {
    let other = |method: &Method| {
        let mut task = task.clone();
        task.settings.method = Some(*method);
        if *method == Method::Img2imgReduced {
            // Its strength is what makes it; the main method's would turn it into img2img.
            task.settings.strength = None;
        }
        task
    };
    std::iter::once(task.clone()).chain(compare.iter().map(other)).collect()
}

/// What the generator said about the variants of each task: `keys[position][variant]`.
pub(crate) type Keys = Vec<Vec<Result<BatchKey, TaskError>>>;

/// Groups the tasks that may run: positions whose main variants share a key, at most `size` each, in the order in
/// which their keys first appear.
pub(crate) fn groups(keys: &Keys, runnable: impl Fn(usize) -> bool, size: usize) -> Vec<Vec<usize>> {
    let mut by_key: Vec<(&BatchKey, Vec<usize>)> = Vec::new();
    for (position, variants) in keys.iter().enumerate() {
        let Some(Ok(key)) = variants.first() else { continue };
        if !runnable(position) {
            continue;
        }
        match by_key.iter_mut().find(|(known, _)| *known == key) {
            Some((_, positions)) => positions.push(position),
            None => by_key.push((key, vec![position])),
        }
    }
    let chunks = by_key.iter().flat_map(|(_, positions)| positions.chunks(size.max(1)));
    chunks.map(<[usize]>::to_vec).collect()
}

/// The batches of one variant within a group: almost always one, more where a key of this variant tells tasks apart
/// that the main variant's did not.
pub(crate) fn batches(keys: &Keys, positions: &[usize], variant: usize) -> Vec<Vec<usize>> {
    let mut by_key: Vec<(&BatchKey, Vec<usize>)> = Vec::new();
    for position in positions {
        let Ok(key) = &keys[*position][variant] else { continue };
        match by_key.iter_mut().find(|(known, _)| *known == key) {
            Some((_, batch)) => batch.push(*position),
            None => by_key.push((key, vec![*position])),
        }
    }
    by_key.into_iter().map(|(_, batch)| batch).collect()
}

#[cfg(test)]
mod tests {
    use diorama_core::outcome::ErrorCode;

    use super::*;

    #[test]
    fn only_equal_keys_share_a_batch_and_refused_tasks_are_in_none() {
        let key = |text: &str| vec![Ok(BatchKey(text.to_owned()))];
        let refused = vec![Err(TaskError::permanent(ErrorCode::NoSubject, "none"))];
        let keys = vec![key("a"), key("b"), key("a"), refused, key("a"), key("b"), key("a")];
        assert_eq!(groups(&keys, |position| position != 4, 2), [vec![0, 2], vec![6], vec![1, 5]]);
    }
}
