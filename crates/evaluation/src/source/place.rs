//! Where a file's bytes lie: a file of its own, or a member of a tar archive.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// Archives whose contents are known at a time: tasks of one archive follow each other.
const ARCHIVES: usize = 8;

/// Where bytes lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// In a file.
    File(PathBuf),
    /// In an archive.
    Member {
        /// The archive's file.
        archive: PathBuf,
        /// The path inside.
        member: String,
    },
}

impl Place {
    /// From what it is displayed as, in a row.
    pub fn parse(text: &str) -> Self {
        match text.split_once(".tar!") {
            Some((archive, member)) => {
                Self::Member { archive: PathBuf::from(format!("{archive}.tar")), member: member.to_owned() }
            }
            None => Self::File(PathBuf::from(text)),
        }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Member { archive, member } => write!(f, "{}!{member}", archive.display()),
        }
    }
}

/// Offset and length of each member, by path.
type Members = HashMap<String, (u64, u64)>;

/// Reads bytes from places; remembers where members lie in the archives that were asked last.
#[derive(Debug, Default)]
pub struct Reader {
    archives: VecDeque<(PathBuf, Members)>,
}

impl Reader {
    /// The bytes, or a sentence that begins with the place's name and says why there are none.
    pub fn read(&mut self, place: &Place) -> Result<Vec<u8>, String> {
        let gone = |error: std::io::Error| match error.kind() {
            std::io::ErrorKind::NotFound => format!("{place} is gone"),
            _ => format!("{place} cannot be read: {error}"),
        };
        match place {
            Place::File(path) => std::fs::read(path).map_err(gone),
            Place::Member { archive, member } => {
                let (offset, length) =
                    self.find(archive, member).map_err(gone)?.ok_or_else(|| format!("{place} is gone"))?;
                let mut file = File::open(archive).map_err(gone)?;
                let mut bytes = vec![0; length as usize];
                file.seek(SeekFrom::Start(offset)).and_then(|_| file.read_exact(&mut bytes)).map_err(gone)?;
                Ok(bytes)
            }
        }
    }

    fn find(&mut self, archive: &Path, member: &str) -> std::io::Result<Option<(u64, u64)>> {
        if !self.archives.iter().any(|(known, _)| known == archive) {
            if self.archives.len() >= ARCHIVES {
                self.archives.pop_front();
            }
            self.archives.push_back((archive.to_owned(), members(archive)?));
        }
        let known = self.archives.iter().find(|(known, _)| known == archive);
        Ok(known.and_then(|(_, members)| members.get(member).copied()))
    }
}

fn members(archive: &Path) -> std::io::Result<Members> {
    let mut tar = tar::Archive::new(File::open(archive)?);
    let mut members = HashMap::new();
    for entry in tar.entries_with_seek()? {
        let entry = entry?;
        members.insert(entry.path()?.to_string_lossy().into_owned(), (entry.raw_file_position(), entry.size()));
    }
    Ok(members)
}
