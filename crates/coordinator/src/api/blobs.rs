//! Uploaded references, by content.

use axum::Extension;
use axum::body::{Body, HttpBody};
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use diorama_core::causes;
use diorama_core::id::Sha256Hex;
use diorama_core::key::{ObjectKey, RunRoot};

use futures::StreamExt;
use sha2::{Digest, Sha256};

use super::auth::Caller;
use super::problem::disk;
use super::results::stream_object;
use super::{Problem, Shared};
use crate::scratch::{Scratch, Written};

fn digest(text: String) -> Result<Sha256Hex, Problem> {
    Sha256Hex::try_from(text).map_err(|error| Problem::bad_request("invalid_sha256", error.to_string()))
}

fn key(sha256: Sha256Hex) -> String {
    ObjectKey::Blob(sha256).path(&RunRoot::Own)
}

/// Whether the blob is there.
#[utoipa::path(head, path = "/v1/blobs/{sha256}", tag = "blobs", params(("sha256" = String, Path,
    description = "SHA-256 of the content, in hexadecimal")),
    responses((status = 200, description = "it is"), (status = 400, description = "that is not a digest"),
              (status = 404, description = "it is not")))]
pub(super) async fn head(State(api): State<Shared>, Path(sha256): Path<String>) -> Result<StatusCode, Problem> {
    let there = api.backends().objects.head(&key(digest(sha256)?)).await?;
    Ok(if there.is_some() { StatusCode::OK } else { StatusCode::NOT_FOUND })
}

/// The blob.
#[utoipa::path(get, path = "/v1/blobs/{sha256}", tag = "blobs", params(("sha256" = String, Path,
    description = "SHA-256 of the content, in hexadecimal")),
    responses((status = 200, description = "the bytes", content_type = "application/octet-stream"),
              (status = 400, body = Problem), (status = 404, body = Problem)))]
pub(super) async fn get(State(api): State<Shared>, Path(sha256): Path<String>) -> Result<Response, Problem> {
    let sha256 = digest(sha256)?;
    let absent = || Problem::not_found("unknown_blob", format!("there is no blob {sha256}"));
    stream_object(&api, &key(sha256.clone()), "application/octet-stream", absent).await
}

/// Uploads a blob; its content must have the digest.
#[utoipa::path(put, path = "/v1/blobs/{sha256}", tag = "blobs", params(("sha256" = String, Path,
    description = "SHA-256 of the content, in hexadecimal")),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses((status = 201, description = "stored"), (status = 400, body = Problem), (status = 413, body = Problem)))]
pub(super) async fn put(
    State(api): State<Shared>,
    Extension(caller): Extension<Caller>,
    Path(sha256): Path<String>,
    body: Body,
) -> Result<StatusCode, Problem> {
    let (sha256, limit) = (digest(sha256)?, caller.limits().bytes(api.config.max_blob_bytes));
    api.usage.upload(&caller)?;
    let (found, written) = receive(&api, body, limit).await?;
    if found != sha256 {
        let message = format!("the content has the digest {found}; was it truncated?");
        return Err(Problem::bad_request("wrong_digest", message));
    }
    let objects = &api.backends().objects;
    match written {
        Written::Bytes(bytes) => objects.put(&key(sha256), bytes.into()).await?,
        Written::File(file) => objects.put_file(&key(sha256), &file).await?,
    }
    Ok(StatusCode::CREATED)
}

/// Writes the body to disk, unless it is small; gives its digest, too.
async fn receive(api: &Shared, body: Body, limit: u64) -> Result<(Sha256Hex, Written), Problem> {
    if body.size_hint().lower() > limit {
        return Err(Problem::too_large("reference", limit));
    }
    let (mut file, mut hasher, mut bytes) = (Scratch::new(&api.config.scratch), Sha256::new(), 0);
    let mut pieces = body.into_data_stream();
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(|error| {
            let cause = causes::in_one_line(&error);
            Problem::bad_request("cut_off", format!("the upload was interrupted: {cause}; send it again"))
        })?;
        bytes += piece.len() as u64;
        if bytes > limit {
            return Err(Problem::too_large("reference", limit));
        }
        hasher.update(&piece);
        file.write(&piece).await.map_err(disk)?;
    }
    Ok((Sha256Hex::from_digest(hasher.finalize().into()), file.finish().await.map_err(disk)?))
}
