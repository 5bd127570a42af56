//! Finds ids that occur twice in a manifest of any length, in bounded memory.
//!
//! Each id is 128 bits of its digest and its line, 24 bytes. A million of them are held; more go to unnamed temporary
//! files, parted by the digest's first bits, so that equal ids lie in the same part and one part at a time fits in memory.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, Write};

use diorama_core::id::CustomId;
use sha2::{Digest, Sha256};

/// Ids that are held in memory: 24 MB.
const HELD: usize = 1 << 20;

/// Parts of what is spilled: of 10⁸ ids, 38 MB each.
const PARTS: usize = 64;

/// An id and its line.
type Entry = ([u8; 16], u64);

/// Every id of a manifest.
pub(crate) struct Ids {
    held: Vec<Entry>,
    limit: usize,
    spilled: Vec<BufWriter<File>>,
}

/// A line whose id was used before, and the first line that used it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Duplicate {
    pub(crate) line: u64,
    pub(crate) first: u64,
}

impl Ids {
    pub(crate) fn new() -> Self {
        Self::holding(HELD)
    }

    fn holding(limit: usize) -> Self {
        Self { held: Vec::new(), limit, spilled: Vec::new() }
    }

    /// Adds the id of a line. Fails where the system's temporary folder takes no more.
    pub(crate) fn add(&mut self, id: &CustomId, line: u64) -> io::Result<()> {
        let mut digest = [0; 16];
        digest.copy_from_slice(&Sha256::digest(id.as_str())[..16]);
        self.held.push((digest, line));
        if self.held.len() >= self.limit { self.spill() } else { Ok(()) }
    }

    fn spill(&mut self) -> io::Result<()> {
        while self.spilled.len() < PARTS {
            self.spilled.push(BufWriter::new(tempfile::tempfile()?));
        }
        for (digest, line) in self.held.drain(..) {
            let part = &mut self.spilled[usize::from(digest[0]) * PARTS / 256];
            part.write_all(&digest)?;
            part.write_all(&line.to_le_bytes())?;
        }
        Ok(())
    }

    /// The lines whose id occurs on an earlier one, in order.
    pub(crate) fn duplicates(mut self) -> io::Result<Vec<Duplicate>> {
        let mut found = Vec::new();
        if self.spilled.is_empty() {
            find(&mut self.held, &mut found);
        } else {
            self.spill()?;
            self.held = Vec::new();
            for part in self.spilled {
                find(&mut read(part)?, &mut found);
            }
        }
        found.sort_unstable();
        Ok(found)
    }
}

fn read(part: BufWriter<File>) -> io::Result<Vec<Entry>> {
    let mut file = part.into_inner().map_err(io::IntoInnerError::into_error)?;
    let bytes = file.stream_position()?;
    file.rewind()?;
    let mut file = BufReader::new(file);
    let mut entries = Vec::with_capacity(bytes as usize / 24);
    for _ in 0..bytes / 24 {
        let (mut digest, mut line) = ([0; 16], [0; 8]);
        file.read_exact(&mut digest)?;
        file.read_exact(&mut line)?;
        entries.push((digest, u64::from_le_bytes(line)));
    }
    Ok(entries)
}

fn find(entries: &mut [Entry], found: &mut Vec<Duplicate>) {
    entries.sort_unstable();
    for same in entries.chunk_by(|a, b| a.0 == b.0) {
        let first = same[0].1;
        found.extend(same[1..].iter().map(|(_, line)| Duplicate { line: *line, first }));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_second_use_of_an_id_is_found_whether_it_fits_in_memory_or_not(
            ids in prop::collection::vec(0u32..60, 0..200),
            limit in 1usize..300,
        ) {
            let mut seen = Ids::holding(limit);
            let (mut first, mut wanted) = (HashMap::new(), Vec::new());
            for (line, id) in (1..).zip(&ids) {
                seen.add(&CustomId::new(format!("id-{id}")).unwrap(), line).unwrap();
                match first.get(id) {
                    Some(first) => wanted.push(Duplicate { line, first: *first }),
                    None => drop(first.insert(*id, line)),
                }
            }
            prop_assert_eq!(seen.duplicates().unwrap(), wanted);
        }
    }
}
