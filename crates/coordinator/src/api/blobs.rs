//! Uploaded references, by content.

use axum::Extension;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use diorama_core::id::Sha256Hex;
use diorama_core::key::{ObjectKey, RunRoot};

use super::auth::Caller;
use super::results::stream_object;
use super::{Problem, Shared};

fn digest(text: String) -> Result<Sha256Hex, Problem> {
    Sha256Hex::try_from(text).map_err(|error| Problem::bad_request("invalid_sha256", error.to_string()))
}

fn key(sha256: Sha256Hex) -> String {
    ObjectKey::Blob(sha256).path(&RunRoot::Own)
}

/// Whether the blob is there.
#[utoipa::path(head, path = "/v1/blobs/{sha256}", tag = "blobs", params(("sha256" = String, Path,
    description = "SHA-256 of the content, in hexadecimal")),
    responses((status = 200, description = "it is"), (status = 404, description = "it is not")))]
pub(super) async fn head(State(api): State<Shared>, Path(sha256): Path<String>) -> Result<StatusCode, Problem> {
    let there = api.backends().objects.head(&key(digest(sha256)?)).await?;
    Ok(if there.is_some() { StatusCode::OK } else { StatusCode::NOT_FOUND })
}

/// The blob.
#[utoipa::path(get, path = "/v1/blobs/{sha256}", tag = "blobs", params(("sha256" = String, Path,
    description = "SHA-256 of the content, in hexadecimal")),
    responses((status = 200, description = "application/octet-stream"), (status = 404, body = Problem)))]
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
    let bytes = axum::body::to_bytes(body, usize::try_from(limit).unwrap_or(usize::MAX)).await;
    let bytes = bytes.map_err(|_| Problem::too_large("reference, or the upload broke off: it", limit))?;
    let found = Sha256Hex::of(&bytes);
    if found != sha256 {
        let message = format!("the content has the digest {found}; was it cut off?");
        return Err(Problem::bad_request("wrong_digest", message));
    }
    api.backends().objects.put(&key(sha256), bytes).await?;
    Ok(StatusCode::CREATED)
}
