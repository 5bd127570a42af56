//! The page: template, style and script are part of the program; the rows go in as JSON.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use diorama_core::run::{AcceptanceCounts, RunSpec, RunState, RunSummary};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::rows::Rows;

const TEMPLATE: &str = include_str!("page.html");
const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("script.js");

pub(super) fn render(spec: &RunSpec, summary: Option<&RunSummary>, rows: &Rows) -> String {
    // The folder says which data set it is; the file is often called the same.
    let mut parts = spec.manifest.rsplit('/').take(2).collect::<Vec<_>>();
    parts.reverse();
    let title = parts.join("/");
    let data = json!({
        "title": title,
        "summary": describe(spec, summary),
        "total": spec.tasks + spec.invalid_rows,
        "made_by": rows.made_by,
        "rows": rows.rows,
    });
    // The data comes last, so that nothing in it is taken for a place in the template.
    TEMPLATE
        .replace("{{STYLE_HASH}}", &content_hash(STYLE))
        .replace("{{SCRIPT_HASH}}", &content_hash(SCRIPT))
        .replace("{{STYLE}}", STYLE)
        .replace("{{SCRIPT}}", SCRIPT)
        .replace("{{DATA}}", &escape(&data.to_string()))
}

/// JSON that cannot end the script element that holds it.
fn escape(json: &str) -> String {
    json.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026")
}

/// What the page's content security policy allows: exactly this text.
fn content_hash(text: &str) -> String {
    format!("sha256-{}", BASE64_STANDARD.encode(Sha256::digest(text)))
}

fn describe(spec: &RunSpec, summary: Option<&RunSummary>) -> String {
    let mut parts = match summary {
        Some(summary) => {
            let mut parts = vec![format!("{} of {} pictures", summary.done, summary.tasks)];
            if summary.failed > 0 {
                parts.push(format!("{} failed", summary.failed));
            }
            if let Some(AcceptanceCounts { accepted, kept, tries }) = summary.acceptance {
                parts.push(format!("{accepted} accepted, {kept} kept although no try passed, {tries} further tries"));
            }
            if summary.state == RunState::Cancelled {
                parts.push("cancelled".to_owned());
            }
            parts.push(format!("{:.2} pictures/s", summary.pictures_per_second));
            parts
        }
        None => vec![format!("{} pictures wanted", spec.tasks), "not finished".to_owned()],
    };
    if spec.invalid_rows > 0 {
        parts.push(format!("{} rows refused", spec.invalid_rows));
    }
    parts.push(format!("run seed {}", spec.seed));
    parts.join(" · ")
}
