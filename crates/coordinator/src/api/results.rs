//! What a run came to: results and errors as JSON lines, and the objects that they name. A run that has not ended gives
//! what is committed so far, straight from its markers.

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use diorama_backends::objects::ObjectErrorKind;
use diorama_core::text;
use diorama_protocol::results::Lines;
use futures::stream;
use tokio_util::io::ReaderStream;

use super::{Opened, Problem, Shared};

/// Says whether these are all lines, or those of a run that has not ended.
const COMPLETE: &str = "diorama-complete";

/// The longest path of an object in its run, in bytes: a key has at most 1,024.
const LONGEST_PATH: usize = 900;

/// Lines so far are sent in pieces of at least this size, in bytes.
const PIECE: usize = 1 << 16;

/// The outcomes of tasks with a picture, one a line, in the manifest's order. Of a run that has not ended, those that
/// are committed, and the header `Diorama-Complete: false`.
#[utoipa::path(get, path = "/v1/runs/{run}/results", tag = "runs", params(("run" = String, Path)),
    responses((status = 200, description = "application/x-ndjson", headers(("Diorama-Complete" = bool))),
              (status = 404, body = Problem)))]
pub(super) async fn results(State(api): State<Shared>, run: Opened) -> Result<Response, Problem> {
    lines(&api, &run, true).await
}

/// The outcomes of tasks without a picture and the rows that were refused, one a line. Of a run that has not ended,
/// those that are committed and will not be tried again, and the header `Diorama-Complete: false`.
#[utoipa::path(get, path = "/v1/runs/{run}/errors", tag = "runs", params(("run" = String, Path)),
    responses((status = 200, description = "application/x-ndjson", headers(("Diorama-Complete" = bool))),
              (status = 404, body = Problem)))]
pub(super) async fn errors(State(api): State<Shared>, run: Opened) -> Result<Response, Problem> {
    lines(&api, &run, false).await
}

async fn lines(api: &Shared, run: &Opened, results: bool) -> Result<Response, Problem> {
    if let Some(ended) = run.history.ended() {
        let file = if results { &ended.results } else { &ended.errors };
        let path = run.store.relative(&file.path);
        let mut response = stream_object(api, &path, "application/x-ndjson", unknown_object).await?;
        response.headers_mut().insert(COMPLETE, header::HeaderValue::from_static("true"));
        return Ok(response);
    }
    let lines = Lines::so_far(&run.store, &run.spec, &run.history, results).await?;
    // An error in the middle breaks the answer off, which whoever reads it notices.
    let pieces = stream::try_unfold(lines, |mut lines| async move {
        let mut piece = Vec::new();
        while piece.len() < PIECE && lines.next(&mut piece).await? {}
        Ok::<_, diorama_protocol::ProtocolError>((!piece.is_empty()).then(|| (Bytes::from(piece), lines)))
    });
    let headers = [(header::CONTENT_TYPE.as_str(), "application/x-ndjson"), (COMPLETE, "false")];
    Ok((headers, Body::from_stream(pieces)).into_response())
}

/// Any object of a run, such as an archive that a result names.
#[utoipa::path(get, path = "/v1/runs/{run}/objects/{path}", tag = "runs",
    params(("run" = String, Path), ("path" = String, Path, description = "relative to the run: shards/… or images/…")),
    responses((status = 200, description = "application/octet-stream"), (status = 404, body = Problem)))]
pub(super) async fn object(
    State(api): State<Shared>,
    run: Opened,
    Path((_run, path)): Path<(String, String)>,
) -> Result<Response, Problem> {
    if !names_an_object(&path) {
        return Err(unknown_object());
    }
    stream_object(&api, &run.store.relative(&path), "application/octet-stream", unknown_object).await
}

/// Whether any object could be called so; of another name a store says what it likes.
fn names_an_object(path: &str) -> bool {
    let is_plain = |part: &str| !matches!(part, "" | "." | "..");
    path.len() <= LONGEST_PATH && text::control(path).is_none() && path.split('/').all(is_plain)
}

fn unknown_object() -> Problem {
    Problem::not_found("unknown_object", "there is no such object in this run")
}

/// Streams an object; `absent` is the answer where there is none.
pub(super) async fn stream_object(
    api: &Shared,
    key: &str,
    content_type: &'static str,
    absent: impl FnOnce() -> Problem,
) -> Result<Response, Problem> {
    let reader = api.backends().objects.open(key).await.map_err(|error| match error.kind {
        ObjectErrorKind::NotFound => absent(),
        _ => error.into(),
    })?;
    let headers = [(header::CONTENT_TYPE, content_type.to_owned()), (header::CONTENT_LENGTH, reader.bytes.to_string())];
    Ok((headers, Body::from_stream(ReaderStream::new(reader.body))).into_response())
}
