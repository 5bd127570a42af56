//! The references and regions that are files: each is hashed and uploaded once, unless it is there.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use diorama_core::id::Sha256Hex;
use diorama_core::task::Reference;
use diorama_manifest::{Manifest, ManifestReport};
use reqwest::Method;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::blocking;
use super::estimate::Sample;
use crate::exit::Failure;
use crate::fleet::client::Client;
use crate::progress;

/// References that are hashed or uploaded at a time.
const UPLOADING: usize = 8;

/// Hashes every file that the manifest names, or a sample of its rows, and uploads those that are not there.
pub(super) async fn upload_references(
    client: &Client,
    manifest: &Manifest,
    report: &Arc<ManifestReport>,
    sample: Option<&Sample>,
) -> Result<Blobs, Failure> {
    let (count, mut files) = files(manifest.clone(), report.clone(), sample.cloned()).await?;
    let bar = progress::count(count as u64, "references");
    let mut blobs = Blobs(HashMap::with_capacity(count));
    let mut uploading: JoinSet<Result<(String, Sha256Hex), Failure>> = JoinSet::new();
    loop {
        tokio::select! {
            Some(file) = files.recv(), if uploading.len() < UPLOADING => {
                uploading.spawn(upload(client.clone(), manifest.root().to_owned(), file?));
            }
            Some(uploaded) = uploading.join_next() => {
                let (file, sha256) = uploaded.map_err(Failure::permanent)??;
                blobs.0.insert(short(&file), sha256.digest());
                bar.inc(1);
            }
            else => break,
        }
    }
    bar.finish_and_clear();
    Ok(blobs)
}

/// What each file's content is, by the file's [`short`] name: a manifest may name millions.
#[derive(Default)]
pub(super) struct Blobs(HashMap<[u8; 16], [u8; 32]>);

impl Blobs {
    pub(super) fn of(&self, file: &str) -> Option<Sha256Hex> {
        self.0.get(&short(file)).map(|digest| Sha256Hex::from_digest(*digest))
    }
}

/// Half of the SHA-256 of a file's path: as good as the path, and shorter.
fn short(file: &str) -> [u8; 16] {
    let mut short = [0; 16];
    short.copy_from_slice(&Sha256Hex::of(file.as_bytes()).digest()[..16]);
    short
}

async fn upload(client: Client, root: PathBuf, file: String) -> Result<(String, Sha256Hex), Failure> {
    let path = root.join(&file);
    let read = |error| Failure::permanent(anyhow::anyhow!("the reference {} cannot be read: {error}", path.display()));
    let bytes: Bytes = tokio::fs::read(&path).await.map_err(read)?.into();
    let content = bytes.clone();
    let sha256 = blocking(move || Sha256Hex::of(&content)).await?;
    if !client.has_blob(sha256.as_str()).await? {
        let path = format!("/v1/blobs/{sha256}");
        client.send_again(|| client.request(Method::PUT, &path).body(bytes.clone())).await?;
    }
    Ok((file, sha256))
}

/// How many files the manifest names, and each of them once, read as fast as they are taken.
async fn files(
    manifest: Manifest,
    report: Arc<ManifestReport>,
    sample: Option<Sample>,
) -> Result<(usize, mpsc::Receiver<Result<String, Failure>>), Failure> {
    let each = move |manifest: &Manifest, report: &ManifestReport, visit: &mut dyn FnMut(String) -> bool| {
        for (at, task) in (0..).zip(manifest.tasks(report).map_err(Failure::try_again)?) {
            let task = task.map_err(Failure::try_again)?;
            if sample.as_ref().is_some_and(|sample| !sample.has(at)) {
                continue;
            }
            for named in [task.reference, task.region] {
                if let Some(Reference::File(path)) = named
                    && !visit(path)
                {
                    return Ok(());
                }
            }
        }
        Ok::<_, Failure>(())
    };
    let counted = (manifest.clone(), report.clone(), each.clone());
    let wanted = blocking(move || {
        let mut wanted = HashSet::new();
        let (manifest, report, each) = &counted;
        each(manifest, report, &mut |path| {
            wanted.insert(short(&path));
            true
        })?;
        Ok::<_, Failure>(wanted)
    });
    let mut wanted = wanted.await??;
    let count = wanted.len();
    let (sender, files) = mpsc::channel(UPLOADING);
    if wanted.is_empty() {
        return Ok((count, files));
    }
    tokio::task::spawn_blocking(move || {
        // To the last file, or until nobody takes them any more: the upload of one failed.
        let mut send = |path: String| {
            let taken = !wanted.remove(&short(&path)) || sender.blocking_send(Ok(path)).is_ok();
            taken && !wanted.is_empty()
        };
        if let Err(failure) = each(&manifest, &report, &mut send) {
            drop(sender.blocking_send(Err(failure)));
        }
    });
    Ok((count, files))
}
