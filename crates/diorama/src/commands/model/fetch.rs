//! Downloads into `NAME.fetching` beside the folder, which then gets its name at once. One that was broken off goes on
//! where it stopped; a second one for the same folder waits for the first.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use diorama_backends::objects::{ObjectError, ObjectMeta, Objects};
use diorama_core::id::Sha256Hex;
use futures::{StreamExt, TryStreamExt, stream};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::super::blocking;
use super::folder::{self, Files};
use crate::exit::Failure;

/// Files that are downloaded at a time.
const AT_ONCE: usize = 4;

/// Files that are listed at a time.
const PAGE: usize = 1000;

/// Tries for a file whose download breaks off.
const TRIES: u32 = 5;

/// What a model is read from; weights in other formats stay where they are.
const READ: [&str; 3] = ["json", "txt", "safetensors"];

/// What every model's folder has.
const INDEX: &str = "model_index.json";

/// A model that is on this machine.
pub(super) struct Fetched {
    /// [`folder::digest_of`] its files.
    pub(super) sha256: Sha256Hex,
    pub(super) files: usize,
    pub(super) bytes: u64,
    /// Nothing had to be done.
    pub(super) was_there: bool,
}

/// Brings the model below the root of `objects`, which is called `from`, to the folder `to`.
pub(super) async fn fetch(
    objects: &dyn Objects,
    from: &str,
    to: &Path,
    expected: Option<&Sha256Hex>,
) -> Result<Fetched, Failure> {
    let (parent, name) = match (to.parent(), to.file_name()) {
        (Some(parent), Some(name)) if parent == Path::new("") => (Path::new("."), name.to_string_lossy()),
        (Some(parent), Some(name)) => (parent, name.to_string_lossy()),
        _ => return Err(Failure::usage(anyhow::anyhow!("--to {} does not name a folder", to.display()))),
    };
    fs::create_dir_all(parent).map_err(|error| disk(parent, &error))?;
    let _lock = lock(parent.join(format!("{name}.lock"))).await?;
    let wanted = listing(objects, from).await?;
    if fs::read_dir(to).is_ok_and(|mut entries| entries.next().is_some()) {
        return already_there(to, from, &wanted, expected).await;
    }
    let part = parent.join(format!("{name}.fetching"));
    refuse_foreign(&part)?;
    let mut files = download(objects, &part, &wanted).await?;
    if expected.is_some_and(|expected| folder::digest_of(&files) != *expected) {
        // What an earlier try left may be at fault.
        fs::remove_dir_all(&part).map_err(|error| disk(&part, &error))?;
        files = download(objects, &part, &wanted).await?;
    }
    let sha256 = folder::digest_of(&files);
    if let Some(expected) = expected.filter(|expected| **expected != sha256) {
        fs::remove_dir_all(&part).map_err(|error| disk(&part, &error))?;
        return Err(Failure::permanent(anyhow::anyhow!(
            "{from} is another model: its sha256 is {sha256}, but {expected} was requested; nothing was kept"
        )));
    }
    // An empty folder may be in the way; a mount cannot be replaced.
    let placed = fs::remove_dir(to).or_else(absent).and_then(|()| fs::rename(&part, to));
    placed.map_err(|error| {
        let hint = "if it is a volume, name a folder inside it";
        Failure::permanent(anyhow::anyhow!("{} cannot be put in place: {error}; {hint}", to.display()))
    })?;
    File::open(parent).and_then(|folder| folder.sync_all()).map_err(|error| disk(parent, &error))?;
    let bytes = wanted.iter().map(|file| file.bytes).sum();
    Ok(Fetched { sha256, files: files.len(), bytes, was_there: false })
}

fn absent(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

/// Held until it is dropped, by whatever death.
async fn lock(path: PathBuf) -> Result<File, Failure> {
    let at = path.clone();
    let held = blocking(move || {
        // Somebody may have a file of that name: it is locked, not emptied.
        let file = File::options().write(true).create(true).truncate(false).open(at)?;
        file.lock()?;
        Ok(file)
    });
    held.await?.map_err(|error| disk(&path, &error))
}

/// The files that a model is read from.
async fn listing(objects: &dyn Objects, from: &str) -> Result<Vec<ObjectMeta>, Failure> {
    let (mut files, mut after) = (Vec::new(), None);
    loop {
        // Page by page, so that none is left out because of its name: the model is whole, or not there.
        let page = objects.list("", after.as_deref(), PAGE).await.map_err(of_store)?;
        files.extend(page.objects);
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    files.retain(|file| READ.iter().any(|kind| file.key.rsplit_once('.').is_some_and(|(_, is)| is == *kind)));
    if !files.iter().any(|file| file.key == INDEX) {
        return Err(Failure::permanent(anyhow::anyhow!(
            "there is no {from}/{INDEX}; name the folder that holds it, as s3://BUCKET/FOLDER"
        )));
    }
    match files.iter().find(|file| file.key.split('/').any(|part| matches!(part, "" | "." | ".."))) {
        Some(file) => Err(Failure::permanent(anyhow::anyhow!("{from}/{} is not the name of a file", file.key))),
        None => Ok(files),
    }
}

/// A folder that has something in it is never changed: a worker may be reading it.
async fn already_there(
    to: &Path,
    from: &str,
    wanted: &[ObjectMeta],
    expected: Option<&Sha256Hex>,
) -> Result<Fetched, Failure> {
    let folder = to.to_owned();
    let (files, bytes) = blocking(move || folder::read(&folder)).await?.map_err(|error| disk(to, &error))?;
    let sha256 = folder::digest_of(&files);
    let same = match expected {
        Some(expected) => sha256 == *expected,
        None => {
            let same_size = |file: &ObjectMeta| to.join(&file.key).metadata().is_ok_and(|is| is.len() == file.bytes);
            files.len() == wanted.len() && wanted.iter().all(same_size)
        }
    };
    if same {
        return Ok(Fetched { sha256, files: files.len(), bytes, was_there: true });
    }
    let what = expected.map_or_else(|| from.to_owned(), |expected| format!("the model with sha256 {expected}"));
    Err(Failure::permanent(anyhow::anyhow!(
        "{} holds something other than {what} (its sha256 is {sha256}); give another folder, or remove it",
        to.display()
    )))
}

/// Refuses a folder that holds what no download leaves: it would be removed as a leftover.
fn refuse_foreign(part: &Path) -> Result<(), Failure> {
    let left = |name: &str| [&READ[..], &["part"]].concat().iter().any(|kind| name.ends_with(&format!(".{kind}")));
    let there = if part.exists() { folder::names(part).map_err(|error| disk(part, &error))? } else { Vec::new() };
    match there.iter().find(|name| !left(name)) {
        None => Ok(()),
        Some(name) => Err(Failure::permanent(anyhow::anyhow!(
            "{} is where the download is prepared, but it holds {name}, which is not part of a model; move that \
             folder away, or give --to another name",
            part.display()
        ))),
    }
}

async fn download(objects: &dyn Objects, part: &Path, wanted: &[ObjectMeta]) -> Result<Files, Failure> {
    let one = |file: &ObjectMeta| {
        let (file, path) = (file.clone(), part.join(&file.key));
        async move {
            let sha256 = download_file(objects, &file, &path).await?;
            Ok::<_, Failure>((file.key, sha256))
        }
    };
    let files: Files = stream::iter(wanted).map(one).buffer_unordered(AT_ONCE).try_collect().await?;
    folder::keep_only(part, &files).map_err(|error| disk(part, &error))?;
    Ok(files)
}

/// Downloads a file, unless it is there.
async fn download_file(objects: &dyn Objects, file: &ObjectMeta, path: &Path) -> Result<Sha256Hex, Failure> {
    if path.metadata().is_ok_and(|there| there.len() == file.bytes) {
        let there = path.to_owned();
        return blocking(move || folder::of_file(&there)).await?.map_err(|error| disk(path, &error));
    }
    let folder = path.parent().unwrap_or(path);
    fs::create_dir_all(folder).map_err(|error| disk(folder, &error))?;
    let mut broken = String::new();
    for again in 0..TRIES {
        tokio::time::sleep(Duration::from_millis(200) * (again * again)).await;
        let mut body = objects.open(&file.key).await.map_err(of_store)?.body;
        // Its own name only once it is whole.
        let unfinished = path.with_added_extension("part");
        let mut to = tokio::fs::File::create(&unfinished).await.map_err(|error| disk(&unfinished, &error))?;
        let (mut hasher, mut bytes, mut piece) = (Sha256::new(), 0, vec![0; 1 << 20]);
        let read = loop {
            match body.read(&mut piece).await {
                Ok(0) => break Ok(()),
                Err(error) => break Err(error),
                Ok(read) => {
                    hasher.update(&piece[..read]);
                    bytes += read as u64;
                    to.write_all(&piece[..read]).await.map_err(|error| disk(&unfinished, &error))?;
                }
            }
        };
        broken = match read {
            Err(error) => error.to_string(),
            Ok(()) if bytes != file.bytes => format!("it has {bytes} bytes, and {} were listed", file.bytes),
            Ok(()) => {
                to.sync_all().await.map_err(|error| disk(&unfinished, &error))?;
                fs::rename(&unfinished, path).map_err(|error| disk(path, &error))?;
                return Ok(Sha256Hex::from_digest(hasher.finalize().into()));
            }
        };
        tracing::warn!(file = file.key, problem = broken, "the download was interrupted; trying again");
    }
    Err(Failure::try_again(anyhow::anyhow!("{} cannot be downloaded: {broken}", file.key)))
}

fn of_store(error: ObjectError) -> Failure {
    Failure::judged(error, ObjectError::may_pass_later)
}

fn disk(path: &Path, error: &io::Error) -> Failure {
    let failed = anyhow::anyhow!("{}: {error}", path.display());
    match error.kind() {
        io::ErrorKind::Interrupted | io::ErrorKind::TimedOut => Failure::try_again(failed),
        _ => Failure::permanent(failed),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use diorama_backends::objects::ObjectErrorKind;
    use diorama_backends::objects::embedded::FolderObjects;
    use diorama_backends::objects::faulty::{Fault, FaultyObjects};

    use super::*;
    use crate::exit;

    const FILES: [(&str, &[u8]); 3] =
        [(INDEX, b"{}"), ("unet/config.json", b"{\"a\":1}"), ("unet/model.safetensors", b"weights")];

    struct Case {
        folder: tempfile::TempDir,
        store: FolderObjects,
    }

    impl Case {
        async fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let store = FolderObjects::open(&folder.path().join("store")).unwrap();
            for (name, content) in FILES.into_iter().chain([("unet/model.bin", &b"other weights"[..])]) {
                store.put(name, Bytes::from_static(content)).await.unwrap();
            }
            Self { folder, store }
        }

        fn to(&self) -> PathBuf {
            self.folder.path().join("models/demo")
        }

        async fn fetch(&self, expected: Option<&Sha256Hex>) -> Result<Fetched, Failure> {
            fetch(&self.store, "s3://bucket/demo", &self.to(), expected).await
        }

        /// What is there beside the model and the lock.
        fn leftovers(&self) -> Vec<String> {
            let entries = fs::read_dir(self.folder.path().join("models")).unwrap();
            let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
            names.filter(|name| name != "demo" && name != "demo.lock").collect()
        }
    }

    #[tokio::test]
    async fn a_model_comes_whole_and_once_with_the_digest_that_sha256sum_gives_it() {
        let case = Case::new().await;
        let first = case.fetch(None).await.unwrap();
        let lines: String =
            FILES.iter().map(|(name, content)| format!("{}  {name}\n", Sha256Hex::of(content))).collect();
        assert_eq!((first.sha256.clone(), first.files, first.was_there), (Sha256Hex::of(lines.as_bytes()), 3, false));
        for (name, content) in FILES {
            assert_eq!(fs::read(case.to().join(name)).unwrap(), content);
        }
        let again = case.fetch(Some(&first.sha256)).await.unwrap();
        assert_eq!((again.sha256, again.was_there), (first.sha256, true));
        assert_eq!(case.leftovers(), Vec::<String>::new());
    }

    #[tokio::test]
    async fn another_model_is_refused_and_what_is_there_stays() {
        let case = Case::new().await;
        let wrong = Sha256Hex::of(b"another");
        let refused = case.fetch(Some(&wrong)).await.err().unwrap();
        assert_eq!(refused.code, exit::PERMANENT);
        assert!(!case.to().exists() && case.leftovers().is_empty(), "{:?}", case.leftovers());

        fs::create_dir_all(case.to()).unwrap();
        fs::write(case.to().join("mine.txt"), "mine").unwrap();
        let refused = case.fetch(None).await.err().unwrap();
        assert!(refused.code == exit::PERMANENT && refused.to_string().contains("holds something other"), "{refused}");
        assert_eq!(fs::read_to_string(case.to().join("mine.txt")).unwrap(), "mine");
    }

    #[tokio::test]
    async fn files_beside_the_model_that_bear_its_working_names_are_kept() {
        let case = Case::new().await;
        let beside = |name: &str| case.folder.path().join("models").join(name);
        fs::create_dir_all(beside("demo.fetching")).unwrap();
        fs::write(beside("demo.lock"), "mine").unwrap();
        fs::write(beside("demo.fetching/notes.odt"), "mine").unwrap();
        let refused = case.fetch(None).await.err().unwrap();
        assert!(refused.code == exit::PERMANENT && refused.to_string().contains("notes.odt"), "{refused}");
        fs::remove_dir_all(beside("demo.fetching")).unwrap();
        case.fetch(None).await.unwrap();
        assert_eq!(fs::read_to_string(beside("demo.lock")).unwrap(), "mine");
    }

    #[tokio::test]
    async fn a_fetch_that_was_broken_off_goes_on_and_trusts_no_damaged_leftover() {
        let case = Case::new().await;
        let whole = Case::new().await.fetch(None).await.unwrap().sha256;
        let part = case.folder.path().join("models/demo.fetching/unet");
        fs::create_dir_all(&part).unwrap();
        // As long as the right one, and half of another.
        fs::write(part.join("model.safetensors"), b"WEIGHTS").unwrap();
        fs::write(part.join("config.json.part"), b"{\"a").unwrap();
        fs::write(part.join("old.safetensors"), b"of an earlier version").unwrap();
        assert_eq!(case.fetch(Some(&whole)).await.unwrap().sha256, whole);
        assert_eq!(fs::read(case.to().join("unet/model.safetensors")).unwrap(), b"weights");
        let names: Vec<_> =
            fs::read_dir(case.to().join("unet")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names.len(), 2, "{names:?}");
    }

    #[tokio::test]
    async fn a_store_that_is_away_is_tried_again_later_and_a_folder_without_a_model_never() {
        let case = Case::new().await;
        let away = FaultyObjects::new(case.store.clone(), Box::new(|_, _| Fault::Fail(ObjectErrorKind::Away)));
        let failed = fetch(&away, "s3://bucket/demo", &case.to(), None).await.err().unwrap();
        assert_eq!(failed.code, exit::TRY_AGAIN);
        case.store.delete(INDEX).await.unwrap();
        let failed = case.fetch(None).await.err().unwrap();
        assert!(failed.code == exit::PERMANENT && failed.to_string().contains(INDEX), "{failed}");
        assert!(!case.to().exists());
    }
}
