//! The dashboard: one page that shows what the API says, and nothing else. Part of the program, without outer resources.

use axum::Router;
use axum::extract::Path;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use diorama_core::id::Sha256Hex;

use crate::api::{Problem, Shared};

/// A file of the page: its name and its content.
type Asset = (&'static str, &'static str);

macro_rules! assets {
    ($($name:literal),* $(,)?) => { &[$(($name, include_str!(concat!("page/", $name)))),*] };
}

/// The page itself, and what it loads.
const ASSETS: &[Asset] = assets![
    "actions.js",
    "api.js",
    "cards.js",
    "charts.js",
    "dom.js",
    "failures.js",
    "feed.js",
    "fleet.js",
    "format.js",
    "icon.svg",
    "index.html",
    "live.js",
    "login.js",
    "main.js",
    "parts.css",
    "picture.js",
    "pictures.css",
    "progress.js",
    "record.js",
    "run.js",
    "runcard.js",
    "runs.js",
    "scores.js",
    "shard.js",
    "shardmap.js",
    "shards.js",
    "spec.js",
    "style.css",
    "viewer.js",
    "words.js",
    "workers.js",
];

/// Only what the program brings along, and nothing around the page.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; \
                      form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// The page at `/`, its files below `assets/`. It needs no token: what it shows, it asks the API for.
pub(crate) fn routes() -> Router<Shared> {
    let page = |headers: HeaderMap| async move { serve("index.html", &headers) };
    Router::new().route("/", get(page)).route(
        "/assets/{name}",
        get(|Path(name): Path<String>, headers: HeaderMap| async move { serve(&name, &headers) }),
    )
}

fn serve(name: &str, headers: &HeaderMap) -> Response {
    let Some((_, content)) = ASSETS.iter().find(|(known, _)| *known == name) else {
        return Problem::not_found("unknown_path", "the page has no such file").into_response();
    };
    let tag = format!("\"{}\"", Sha256Hex::of(content.as_bytes()));
    if headers.get(header::IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == tag.as_bytes()) {
        return StatusCode::NOT_MODIFIED.into_response();
    }
    let headers = [
        (header::CONTENT_TYPE, content_type(name)),
        (header::ETAG, &tag),
        // Another version of the program brings another page.
        (header::CACHE_CONTROL, "no-cache"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    (headers, *content).into_response()
}

fn content_type(name: &str) -> &'static str {
    match name.rsplit_once('.').map(|(_, end)| end) {
        Some("html") => "text/html; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        _ => "text/javascript; charset=utf-8",
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_file_of_the_page_is_served_and_loads_nothing_from_elsewhere() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/dashboard/page");
        let there: BTreeSet<String> =
            std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
        let served: BTreeSet<String> = ASSETS.iter().map(|(name, _)| (*name).to_owned()).collect();
        assert_eq!(there, served, "ASSETS lists the files of the folder");
        for (name, content) in ASSETS {
            let without = content.replace("http://www.w3.org/", "");
            assert!(!without.contains("http://") && !without.contains("https://"), "{name} names another place");
            for banned in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "style=\""] {
                assert!(!content.contains(banned), "{name} has {banned}");
            }
        }
    }
}
