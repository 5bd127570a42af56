//! Which uploads in parts have begun and not ended. (s3s-fs cannot list them, and denies access to those that are over.)

use std::fs;
use std::io;
use std::path::PathBuf;

use s3s::dto::{MultipartUpload, Timestamp};

/// The folder of notes, a file an upload; outside of all buckets.
const NOTES: &str = ".uploads";

/// The uploads of a store.
pub(crate) struct Uploads {
    folder: PathBuf,
}

impl Uploads {
    /// Those of the store in this folder.
    pub(crate) fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// Notes where an upload leads.
    pub(crate) fn begin(&self, id: &str, bucket: &str, key: &str) -> io::Result<()> {
        let notes = self.folder.join(NOTES);
        fs::create_dir_all(&notes)?;
        fs::write(notes.join(id), format!("{bucket}/{key}"))
    }

    /// Whether it has begun and is neither finished nor abandoned: s3s-fs has a file for each.
    pub(crate) fn is_known(&self, id: &str) -> bool {
        !id.contains('/') && self.folder.join(format!(".upload-{id}.json")).is_file()
    }

    /// Those of a bucket whose keys begin with `prefix` and that come after the key and id `after`, in that order.
    pub(crate) fn list(
        &self,
        bucket: &str,
        prefix: &str,
        after: &(String, String),
    ) -> io::Result<Vec<MultipartUpload>> {
        let notes = match fs::read_dir(self.folder.join(NOTES)) {
            Ok(notes) => notes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut found = Vec::new();
        for note in notes {
            let note = note?;
            let id = note.file_name().to_string_lossy().into_owned();
            let leads_to = fs::read_to_string(note.path())?;
            let key = leads_to.strip_prefix(bucket).and_then(|key| key.strip_prefix('/')).map(str::to_owned);
            if let Some(key) = key.filter(|key| key.starts_with(prefix) && self.is_known(&id)) {
                found.push(((key, id), note.metadata()?.modified()?));
            }
        }
        found.sort_unstable();
        let upload = |((key, id), begun)| MultipartUpload {
            initiated: Some(Timestamp::from(begun)),
            key: Some(key),
            upload_id: Some(id),
            ..MultipartUpload::default()
        };
        Ok(found.into_iter().filter(|(place, _)| place > after).map(upload).collect())
    }
}
