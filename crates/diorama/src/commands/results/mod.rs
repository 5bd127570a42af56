//! `diorama results RUN --to DIR`: downloads what a run made. The same command again goes on where it stopped.

mod wanted;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use diorama_core::id::Sha256Hex;
use diorama_core::key::{ERRORS, ObjectKey, RESULTS, RunRoot};
use diorama_core::outcome::FileRef;
use diorama_core::run::OutputFormat;
use diorama_picture::whole;
use futures::StreamExt;
use reqwest::Method;
use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::wanted::{Kind, Target, Wanted, WantedObjects, folds_case, name_as_users_do};
use super::blocking;
use crate::cli::{Cli, Results};
use crate::exit::{self, Failure};
use crate::fleet::client::Client;
use crate::{gallery, output, overwrite, progress, table};

/// What is copied at a time, in bytes.
const PIECE: usize = 256 << 10;

/// Objects that are downloaded at a time.
const DOWNLOADING: usize = 4;

pub(crate) async fn run(command: &Results, cli: &Cli, drain: CancellationToken) -> Result<u8, Failure> {
    let client = super::runs::client(cli)?;
    tokio::select! {
        done = download(command, cli, &client) => done,
        () = drain.cancelled() => Ok(exit::DRAINED),
    }
}

async fn download(command: &Results, cli: &Cli, client: &Client) -> Result<u8, Failure> {
    let there = overwrite::check_run_folder(&command.to, &[OutputFormat::Files, OutputFormat::Webdataset])?;
    if let Some(other) = there.filter(|there| there.run.as_str() != command.run) {
        let message = format!("{} holds the run {}; choose another folder", command.to.display(), other.run);
        return Err(Failure::permanent(anyhow::anyhow!(message)));
    }
    std::fs::create_dir_all(&command.to).map_err(|error| disk(&command.to, &error))?;
    // The spec first: it shows whose folder this is.
    let spec = ObjectKey::Spec.path(&RunRoot::Own);
    fetch(client, &format!("/v1/runs/{}/objects/{spec}", command.run), &command.to.join(&spec), true).await?;
    // As the coordinator gives them, with the names that objects have in the store.
    let results = command.to.join(".part-results.jsonl");
    let mut complete = true;
    for (name, to) in [("results", results.clone()), ("errors", command.to.join(ERRORS))] {
        complete &= fetch(client, &format!("/v1/runs/{}/{name}", command.run), &to, command.partial).await?;
    }
    let lines = WantedObjects::count(&results).map_err(|error| disk(&results, &error))?;
    let folds_case = folds_case(&command.to).map_err(|error| disk(&command.to, &error))?;
    let wanted = WantedObjects::open(&results, command.keep_archives, folds_case);
    let mut wanted = wanted.map_err(|error| disk(&results, &error))?;
    let bar = progress::count(lines, "pictures");
    let mut downloading: JoinSet<Result<(usize, u64), Failure>> = JoinSet::new();
    let (mut files, mut objects, mut all_begun) = (0, 0, false);
    loop {
        while !all_begun && downloading.len() < DOWNLOADING {
            match wanted.next().map_err(Failure::permanent)? {
                Some(next) => {
                    objects += 1;
                    downloading.spawn(one(client.clone(), command.run.clone(), command.to.clone(), next));
                }
                None => all_begun = true,
            }
        }
        let Some(done) = downloading.join_next().await else { break };
        let (made, lines) = done.map_err(Failure::permanent)??;
        files += made;
        bar.inc(lines);
    }
    bar.finish_and_clear();
    let to = command.to.join(RESULTS);
    let (from, named, keep) = (results.clone(), to.clone(), command.keep_archives);
    blocking(move || name_as_users_do(&from, &named, keep)).await?.map_err(|error| disk(&to, &error))?;
    let _ = std::fs::remove_file(&results);
    describe(command, client).await?;
    if cli.json() {
        let done = serde_json::json!({ "to": command.to, "files": files, "objects": objects, "complete": complete });
        output::line(&done.to_string());
    } else {
        let so_far = if complete { "" } else { " (so far: the run has not ended; run the same command to resume)" };
        output::line(&format!("{files} files are in {}{so_far}", command.to.display()));
    }
    Ok(exit::DONE)
}

/// What a run on one machine has beside its pictures: how it ended, the results as a table, and the gallery.
async fn describe(command: &Results, client: &Client) -> Result<(), Failure> {
    let to = command.to.join(ObjectKey::Summary.path(&RunRoot::Own));
    if let Some(summary) = client.run(&command.run).await?.summary {
        let bytes = serde_json::to_vec_pretty(&summary).map_err(Failure::permanent)?;
        whole::put(&to, &bytes).map_err(|error| disk(&to, &error))?;
    }
    let folder = command.to.clone();
    blocking(move || table::write(&folder)).await?.map_err(Failure::permanent)?;
    gallery::write(&command.to).await.map(drop).map_err(Failure::permanent)
}

/// Downloads one object, unless everything that comes out of it is there. Gives the number of its files, and of the
/// lines that are done with it.
async fn one(client: Client, run: String, to: PathBuf, wanted: Wanted) -> Result<(usize, u64), Failure> {
    let count = (wanted.files.len(), wanted.lines);
    let (folder, files, kept) = (to.clone(), wanted.files.clone(), to.join(&wanted.object));
    let is_there = move || match wanted.kind {
        Kind::Kept => {
            kept.is_file() && each_member(&kept, &files, |it, content| check(&kept, &it.file, content)).is_ok()
        }
        Kind::File | Kind::Extracted => files.iter().all(|target| is_there(&folder, target)),
    };
    if blocking(is_there).await? {
        return Ok(count);
    }
    let part = to.join(format!(".part-{}", wanted.object.replace('/', "-")));
    fetch(&client, &format!("/v1/runs/{run}/objects/{}", wanted.object), &part, true).await?;
    let place = part.clone();
    let put = move || match wanted.kind {
        Kind::Extracted => each_member(&place, &wanted.files, |target, content| write(&to, target, content)),
        Kind::File => keep(&place, &to, &wanted.files),
        Kind::Kept => {
            each_member(&place, &wanted.files, |target, content| check(&place, &target.file, content))?;
            let at = to.join(&wanted.object);
            let made = at.parent().map_or(Ok(()), std::fs::create_dir_all);
            made.and_then(|()| std::fs::rename(&place, &at)).map_err(|error| disk(&at, &error))
        }
    };
    blocking(put).await??;
    let _ = std::fs::remove_file(&part);
    Ok(count)
}

fn is_there(folder: &Path, Target { file, to }: &Target) -> bool {
    let path = folder.join(to);
    let same_size = std::fs::metadata(&path).is_ok_and(|metadata| metadata.len() == file.bytes);
    let digest = || {
        let mut hasher = Sha256::new();
        std::io::copy(&mut std::fs::File::open(&path)?, &mut hasher)?;
        Ok::<_, std::io::Error>(Sha256Hex::from_digest(hasher.finalize().into()))
    };
    same_size && digest().is_ok_and(|sha256| sha256 == file.sha256)
}

/// Gives each of these members of an archive to `take`; all of them must be there.
fn each_member(
    archive: &Path,
    files: &[Target],
    mut take: impl FnMut(&Target, &mut dyn Read) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let failed = |error: &std::io::Error| disk(archive, error);
    let mut left: BTreeMap<&str, &Target> = files.iter().map(|target| (target.file.path.as_str(), target)).collect();
    let opened = std::fs::File::open(archive).map_err(|error| failed(&error))?;
    let mut tar = tar::Archive::new(std::io::BufReader::new(opened));
    for entry in tar.entries().map_err(|error| failed(&error))? {
        let mut entry = entry.map_err(|error| failed(&error))?;
        let path = entry.path().map_err(|error| failed(&error))?.to_string_lossy().into_owned();
        let Some(target) = left.remove(path.as_str()) else { continue };
        take(target, &mut entry)?;
    }
    match left.keys().next() {
        Some(path) => Err(Failure::permanent(anyhow::anyhow!("{path} is not in its archive; run `diorama verify`"))),
        None => Ok(()),
    }
}

fn keep(part: &Path, to: &Path, files: &[Target]) -> Result<(), Failure> {
    files.iter().try_for_each(|target| {
        let mut content = std::fs::File::open(part).map_err(|error| disk(part, &error))?;
        write(to, target, &mut content)
    })
}

/// Reads a member of an archive; its digest must be right.
fn check(archive: &Path, file: &FileRef, content: &mut dyn Read) -> Result<(), Failure> {
    let mut hasher = Sha256::new();
    std::io::copy(content, &mut hasher).map_err(|error| disk(archive, &error))?;
    if Sha256Hex::from_digest(hasher.finalize().into()) == file.sha256 { Ok(()) } else { Err(not_committed(file)) }
}

fn not_committed(file: &FileRef) -> Failure {
    let message = format!("{} is not what was committed; run `diorama verify`", file.path);
    Failure::permanent(anyhow::anyhow!(message))
}

/// Writes a file whose digest is right, as a whole. How large it is said to be costs no memory.
fn write(to: &Path, Target { file, to: name }: &Target, content: &mut dyn Read) -> Result<(), Failure> {
    let path = to.join(name);
    let folder = path.parent().unwrap_or(to);
    let mut copy = || {
        std::fs::create_dir_all(folder)?;
        let (mut temporary, mut hasher) = (tempfile::NamedTempFile::new_in(folder)?, Sha256::new());
        let mut piece = vec![0; PIECE];
        loop {
            match content.read(&mut piece)? {
                0 => break,
                read => {
                    hasher.update(&piece[..read]);
                    temporary.write_all(&piece[..read])?;
                }
            }
        }
        if Sha256Hex::from_digest(hasher.finalize().into()) != file.sha256 {
            return Ok(false);
        }
        temporary.persist(&path).map_err(|error| error.error)?;
        Ok::<_, std::io::Error>(true)
    };
    if copy().map_err(|error| disk(&path, &error))? { Ok(()) } else { Err(not_committed(file)) }
}

/// Streams an answer into a file; whether it is all there will be. A download that breaks off is begun again.
async fn fetch(client: &Client, path: &str, to: &Path, partial: bool) -> Result<bool, Failure> {
    for again in [true, true, false] {
        let response = client.send_again(|| client.request(Method::GET, path)).await?;
        let complete = response.headers().get("diorama-complete").is_none_or(|complete| complete != "false");
        if !complete && !partial {
            let message = "the run has not ended; --partial downloads what is committed so far";
            return Err(Failure::try_again(anyhow::anyhow!(message)));
        }
        // Of an earlier try, or a link to something else.
        match tokio::fs::remove_file(to).await {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(disk(to, &error)),
            _ => {}
        }
        let mut file = tokio::fs::File::create_new(to).await.map_err(|error| disk(to, &error))?;
        let mut body = response.bytes_stream();
        let broken = loop {
            match body.next().await {
                None => break None,
                Some(Err(error)) => break Some(error),
                Some(Ok(chunk)) => {
                    file.write_all(&chunk).await.map_err(|error| disk(to, &error))?;
                }
            }
        };
        file.flush().await.map_err(|error| disk(to, &error))?;
        match broken {
            None => return Ok(complete),
            Some(error) if again => tracing::warn!(%error, path, "the download was interrupted; trying again"),
            Some(error) => return Err(client.unreachable(error).into()),
        }
    }
    Ok(false)
}

fn disk(path: &Path, error: &std::io::Error) -> Failure {
    Failure::try_again(anyhow::anyhow!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An archive with these members, and the first one as a marker has it.
    fn archive(members: &[(&str, &[u8])], said: u64) -> (tempfile::TempDir, PathBuf, Target) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.tar");
        let mut tar = tar::Builder::new(std::fs::File::create(&path).unwrap());
        for (name, content) in members {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            tar.append_data(&mut header, name, *content).unwrap();
        }
        tar.into_inner().unwrap();
        let (name, content) = members[0];
        let file = FileRef { path: name.to_owned(), sha256: Sha256Hex::of(content), bytes: said };
        (folder, path, Target { to: name.to_owned(), file })
    }

    fn extract(archive: &Path, to: &Path, files: &[Target]) -> Result<(), Failure> {
        each_member(archive, files, |target, content| write(to, target, content))
    }

    #[test]
    fn a_file_that_is_said_to_have_a_terabyte_is_written_as_it_is_or_refused() {
        for said in [4, 1 << 40, u64::MAX] {
            let (folder, path, file) = archive(&[("images/a.png", b"duck"), ("b", b"x")], said);
            let to = folder.path().join("out");
            extract(&path, &to, std::slice::from_ref(&file)).unwrap();
            assert_eq!(std::fs::read(to.join("images/a.png")).unwrap(), b"duck");
            assert_eq!(is_there(&to, &file), said == 4);
            keep(&to.join("images/a.png"), &folder.path().join("again"), &[file]).unwrap();
        }
    }

    #[test]
    fn what_was_not_committed_is_refused_and_leaves_nothing() {
        let (folder, path, mut file) = archive(&[("images/a.png", b"duck")], 1 << 40);
        file.file.sha256 = Sha256Hex::of(b"goose");
        let to = folder.path().join("out");
        let refused = extract(&path, &to, &[file]).unwrap_err().to_string();
        assert!(refused.contains("is not what was committed"), "{refused}");
        assert_eq!(std::fs::read_dir(to.join("images")).unwrap().count(), 0);
    }
}
