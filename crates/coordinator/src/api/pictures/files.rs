//! The bytes of pictures: of a task's files, out of archives and beside them, and of its reference; whole or as
//! thumbnails. They never change, and browsers keep them.

use std::io;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use diorama_backends::blocking;
use diorama_backends::objects::ObjectReader;
use diorama_core::address::bucket_and_key;
use diorama_core::id::Sha256Hex;
use diorama_core::key::{ObjectKey, RunRoot};
use diorama_core::marker::CommitMarker;
use diorama_core::outcome::{FileRef, Outcome};
use diorama_core::task::{Reference, Task};
use diorama_core::text::quoted;
use diorama_picture::{PictureLimits, thumbnail};
use serde::Deserialize;
use tokio::io::AsyncReadExt;
use utoipa::IntoParams;

use super::shelf::on;
use super::{REFERENCE, outcome_of, section, shard_of};
use crate::api::{Opened, Problem, Shared};

/// The widest thumbnail, in pixels.
const WIDEST: u32 = 2048;

/// Bytes of a reference that is shown.
const LARGEST_REFERENCE: u64 = 64 << 20;

/// Bytes of a thumbnail that is kept for the next page.
const LARGEST_KEPT: usize = 128 << 10;

/// How wide.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct HowWide {
    /// Pixels, 16 to 2048: a smaller picture as JPEG. Without it, the bytes as they were made.
    width: Option<u32>,
}

/// A file of a task by its role: `image`, `mask`, `overlay`, `heatmap.NOUN`, `heatmap`, `compare.METHOD`, `record`,
/// `metadata`, `prompt`; or `reference`.
#[utoipa::path(get, path = "/v1/runs/{run}/files/{shard}/{task}/{role}", tag = "pictures",
    params(("run" = String, Path), ("shard" = String, Path), ("task" = u64, Path), ("role" = String, Path), HowWide),
    responses((status = 200, description = "image/png, image/jpeg or application/json, with an ETag"),
              (status = 304, description = "the browser has it"), (status = 404, body = Problem)))]
pub(super) async fn file(
    State(api): State<Shared>,
    run: Opened,
    Path((_run, shard, task, role)): Path<(String, String, String, String)>,
    how_wide: Result<Query<HowWide>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let Query(how_wide) = how_wide?;
    let width = how_wide.width.map(|width| width.clamp(16, WIDEST));
    let shard = shard_of(&run, &shard)?;
    let unknown =
        || Problem::not_found("unknown_file", format!("task {} has no file {}", quoted(&task), quoted(&role)));
    let index: u64 = task.parse().map_err(|_| unknown())?;
    let tasks = api.shelf.tasks(&run, shard).await?;
    let task = tasks.iter().find(|task| task.index.0 == index).ok_or_else(unknown)?;
    if role == REFERENCE {
        let reference = task.reference.as_ref().ok_or_else(unknown)?;
        // A reference may change where it lies; a run's name for it does not.
        let name = format!("{} {reference}", run.spec.run);
        let tag = tag(&Sha256Hex::of(name.as_bytes()), width);
        if is_known(&headers, &tag) {
            return Ok(StatusCode::NOT_MODIFIED.into_response());
        }
        let bytes = match width.and_then(|width| kept(&api, &name, width)) {
            Some(small) => small,
            None => {
                shown(&api, &name, width, read_reference(&api, &run, reference).await?.ok_or_else(unknown)?).await?
            }
        };
        return Ok(answer(bytes, &tag, "max-age=3600"));
    }
    let marker = api.shelf.marker(&run, shard).await?.ok_or_else(unknown)?;
    let sha256 = file_of(&marker, task, &role).map(|(file, _)| file.sha256.clone()).ok_or_else(unknown)?;
    let is_picture = !["record", "metadata", "prompt"].contains(&role.as_str());
    let width = width.filter(|_| is_picture);
    let tag = tag(&sha256, width);
    if is_known(&headers, &tag) {
        return Ok(StatusCode::NOT_MODIFIED.into_response());
    }
    let bytes = match width.and_then(|width| kept(&api, sha256.as_str(), width)) {
        Some(small) => small,
        None => {
            let whole = of_task(&api, &run, &marker, task, &role).await?.ok_or_else(unknown)?;
            shown(&api, sha256.as_str(), width, whole).await?
        }
    };
    Ok(answer(bytes, &tag, "max-age=31536000, immutable"))
}

/// A file of a task, whole; `None` where there is none.
pub(super) async fn of_task(
    api: &Shared,
    run: &Opened,
    marker: &CommitMarker,
    task: &Task,
    role: &str,
) -> Result<Option<Bytes>, Problem> {
    let Some((file, archive)) = file_of(marker, task, role) else { return Ok(None) };
    match archive {
        Some(key) => Ok(section::read(api, run, marker, key, task).await?.get(&file.path).cloned()),
        None => Ok(Some(api.backends().objects.get(&run.store.relative(&file.path)).await?)),
    }
}

fn file_of<'a>(marker: &'a CommitMarker, task: &Task, role: &str) -> Option<(&'a FileRef, Option<&'a str>)> {
    match &outcome_of(marker, task)?.outcome {
        Outcome::Done { archive, files, .. } => Some((files.get(role)?, archive.as_deref())),
        Outcome::Failed(_) => None,
    }
}

/// Whether the coordinator reads such references. It fetches none from the web, and no file that it was not given.
pub(super) fn is_readable(api: &Shared, reference: &Reference) -> bool {
    match reference {
        Reference::Blob(_) => true,
        Reference::S3(address) => api.config.remote.is_some() && api.config.readable.allows_address(address),
        Reference::File(_) => api.config.reference_root.is_some(),
        Reference::Https(_) => false,
    }
}

/// The bytes of a reference; `None` where it is none that the coordinator reads, or is gone.
async fn read_reference(api: &Shared, run: &Opened, reference: &Reference) -> Result<Option<Bytes>, Problem> {
    let opened = match reference {
        Reference::Https(_) => return Ok(None),
        Reference::Blob(sha256) => {
            api.backends().objects.open(&ObjectKey::Blob(sha256.clone()).path(&RunRoot::Own)).await
        }
        Reference::S3(address) => match (&api.config.remote, bucket_and_key(address)) {
            (Some(remote), Some((bucket, key))) if api.config.readable.allows(bucket, key) => {
                remote.open_in(bucket, key).await
            }
            _ => return Ok(None),
        },
        Reference::File(path) => {
            let Some(root) = &api.config.reference_root else { return Ok(None) };
            let (root, path) = (root.clone(), std::path::Path::new(&run.spec.reference_root).join(path));
            let read = blocking::run(move || read_below(&root, &path)).await;
            return Ok(read.ok().and_then(Result::ok).map(Bytes::from));
        }
    };
    let ObjectReader { body, bytes } = match opened {
        Ok(reader) => reader,
        Err(error) if error.may_pass_later() => return Err(error.into()),
        // It is gone, or it is the row that names what we may not read.
        Err(error) => {
            tracing::debug!(%error, "a reference cannot be shown");
            return Ok(None);
        }
    };
    if bytes > LARGEST_REFERENCE {
        return Ok(None);
    }
    let mut content = Vec::new();
    match body.take(LARGEST_REFERENCE).read_to_end(&mut content).await {
        Ok(_) => Ok(Some(content.into())),
        Err(error) => Err(diorama_backends::objects::ObjectError::broken_off(reference.to_string(), &error).into()),
    }
}

/// A file that lies, links followed, below `root`.
fn read_below(root: &std::path::Path, path: &std::path::Path) -> io::Result<Vec<u8>> {
    let (root, path) = (root.canonicalize()?, root.join(path).canonicalize()?);
    let is_below = path.starts_with(&root) && path.metadata()?.len() <= LARGEST_REFERENCE;
    if is_below { std::fs::read(path) } else { Err(io::ErrorKind::PermissionDenied.into()) }
}

fn tag(sha256: &Sha256Hex, width: Option<u32>) -> String {
    match width {
        Some(width) => format!("\"{sha256}-{width}\""),
        None => format!("\"{sha256}\""),
    }
}

fn is_known(headers: &HeaderMap, tag: &str) -> bool {
    let known = headers.get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok());
    known.is_some_and(|known| {
        known.split(',').any(|known| matches!(known.trim(), "*") || known.trim().trim_start_matches("W/") == tag)
    })
}

/// A thumbnail that was made before.
fn kept(api: &Shared, name: &str, width: u32) -> Option<Bytes> {
    on(&api.shelf.thumbnails).get(&(name.to_owned(), width)).cloned()
}

/// The picture as it is shown: whole, or small.
async fn shown(api: &Shared, name: &str, width: Option<u32>, whole: Bytes) -> Result<Bytes, Problem> {
    let Some(width) = width else { return Ok(whole) };
    // Few at a time: a large picture takes its memory.
    let _permit = api.shelf.decoding.acquire().await;
    let small = blocking::run(move || thumbnail(&whole, width, &PictureLimits::default())).await;
    let undecodable = |code: &str, why: &str| Problem::new(422, code, format!("the picture {why}"));
    let small: Bytes = match small {
        Ok(Ok(small)) => small.into(),
        Ok(Err(error)) => return Err(undecodable(error.code.as_str(), &error.message)),
        Err(panicked) => return Err(undecodable("reference_undecodable", &panicked.to_string())),
    };
    if small.len() <= LARGEST_KEPT {
        on(&api.shelf.thumbnails).put((name.to_owned(), width), small.clone());
    }
    Ok(small)
}

fn answer(bytes: Bytes, tag: &str, age: &str) -> Response {
    let headers = [
        (header::CONTENT_TYPE, content_type(&bytes).to_owned()),
        (header::ETAG, tag.to_owned()),
        (header::CACHE_CONTROL, format!("private, {age}")),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'; sandbox".to_owned()),
    ];
    (headers, bytes).into_response()
}

/// By its first bytes; what is none of the pictures that are read is a browser's to save, not to show.
fn content_type(bytes: &[u8]) -> &'static str {
    match bytes {
        [0x89, b'P', b'N', b'G', ..] => "image/png",
        [0xFF, 0xD8, 0xFF, ..] => "image/jpeg",
        [b'G', b'I', b'F', b'8', ..] => "image/gif",
        [b'B', b'M', ..] => "image/bmp",
        [b'I', b'I', 42, 0, ..] | [b'M', b'M', 0, 42, ..] => "image/tiff",
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => "image/webp",
        [b'{', ..] => "application/json",
        _ => "application/octet-stream",
    }
}
