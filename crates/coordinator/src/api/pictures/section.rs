//! The files of one task out of an archive, without the rest of it.
//!
//! An archive holds its tasks in the shard's order, and the marker knows every file's name and length: so where a task's
//! members begin follows from those before it, and one range of the object is read.

use std::collections::HashMap;
use std::io::{Cursor, Read};
use std::sync::Arc;

use bytes::Bytes;
use diorama_core::marker::CommitMarker;
use diorama_core::outcome::{FileRef, Outcome, TaskOutcome};
use diorama_core::task::Task;

use super::shelf::{Section, on};
use crate::api::{Opened, Problem, Shared};

/// A tar consists of blocks of so many bytes.
const BLOCK: u64 = 512;

/// What a header has room for; a longer name has a member of its own.
const NAME: usize = 100;

/// The files of one task that are read at a time, in bytes.
const MOST: u64 = 64 << 20;

/// Bytes of the files that are kept for the next request.
const LARGEST_KEPT: u64 = 8 << 20;

/// The files of `task` in the archive `key`, by their paths.
pub(super) async fn read(
    api: &Shared,
    run: &Opened,
    marker: &CommitMarker,
    key: &str,
    task: &Task,
) -> Result<Section, Problem> {
    let known = ((run.spec.run.clone(), marker.shard), task.index.0);
    if let Some(section) = on(&api.shelf.sections).get(&known) {
        return Ok(section.clone());
    }
    let gone = || Problem::not_found("unknown_file", format!("the archive holds no files of task {}", task.index.0));
    let (from, length) = range(marker, key, task).ok_or_else(gone)?;
    if length > MOST {
        let message = format!("the files of task {} have {length} bytes, too many for a page", task.index.0);
        return Err(Problem::not_found("too_large", message));
    }
    let bytes = api.backends().objects.read_range(&run.store.relative(key), from, length).await?;
    let section = Arc::new(members(&bytes));
    if length <= LARGEST_KEPT {
        on(&api.shelf.sections).put(known, section.clone());
    }
    Ok(section)
}

/// Where the members of `task` begin, and how many bytes they have.
fn range(marker: &CommitMarker, key: &str, task: &Task) -> Option<(u64, u64)> {
    let mut from = 0;
    for outcome in &marker.outcomes {
        let Some(files) = files_in(outcome, key) else { continue };
        let length = files.map(member).fold(0, u64::saturating_add);
        if outcome.task == task.index {
            return Some((from, length));
        }
        from = length.saturating_add(from);
    }
    None
}

fn files_in<'a>(outcome: &'a TaskOutcome, key: &str) -> Option<impl Iterator<Item = &'a FileRef>> {
    match &outcome.outcome {
        Outcome::Done { archive: Some(archive), files, .. } if archive == key => Some(files.values()),
        _ => None,
    }
}

/// The bytes of a member: header, content, filling. A marker is believed about them only so far that nothing overflows.
fn member(file: &FileRef) -> u64 {
    let padded = |bytes: u64| bytes.div_ceil(BLOCK).saturating_mul(BLOCK);
    let long_name = match file.path.len() {
        length if length > NAME => BLOCK + padded(length as u64 + 1),
        _ => 0,
    };
    padded(file.bytes).saturating_add(long_name + BLOCK)
}

/// What lies in a piece of a tar; nothing more where it is damaged.
fn members(bytes: &[u8]) -> HashMap<String, Bytes> {
    let mut found = HashMap::new();
    let mut tar = tar::Archive::new(Cursor::new(bytes));
    let Ok(entries) = tar.entries() else { return found };
    for mut entry in entries.map_while(Result::ok) {
        let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let mut content = Vec::new();
        if entry.read_to_end(&mut content).is_err() {
            break;
        }
        found.insert(path, content.into());
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_said_to_be_larger_than_any_has_a_size_all_the_same() {
        let sha256 = diorama_core::id::Sha256Hex::of(b"");
        let file = |bytes| FileRef { path: "a.png".to_owned(), sha256: sha256.clone(), bytes };
        assert_eq!(member(&file(1 << 40)), (1 << 40) + BLOCK);
        assert_eq!(member(&file(u64::MAX)), u64::MAX);
    }

    #[test]
    fn whatever_a_piece_of_an_archive_holds_it_has_members_or_none() {
        diorama_fuzz::fuzz_among_others("archive", |bytes| {
            let content: usize = members(bytes).values().map(Bytes::len).sum();
            assert!(content <= bytes.len() * 2, "{content} bytes out of {}", bytes.len());
        });
    }

    #[test]
    fn a_member_takes_as_much_of_a_tar_as_was_foretold() {
        for (name, bytes) in
            [("a.png", 0), ("a.png", 512), ("a.png", 513), (&"n".repeat(100), 3), (&"n".repeat(700), 3)]
        {
            let mut tar = tar::Builder::new(Vec::new());
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes);
            tar.append_data(&mut header, name, &*vec![7; bytes as usize]).unwrap();
            let written = tar.get_ref().len() as u64;
            let file = FileRef { path: name.to_owned(), sha256: diorama_core::id::Sha256Hex::of(b""), bytes };
            assert_eq!(member(&file), written, "{} of {bytes}", name.len());
            let content = members(tar.get_ref());
            assert_eq!(content[name].len() as u64, bytes);
        }
    }
}
