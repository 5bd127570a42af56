//! The roles of a task's files, as the page shows them.

use std::collections::BTreeMap;

use serde::Serialize;

/// One picture of a row, by its path below the folder.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Picture {
    pub(super) role: String,
    pub(super) name: String,
    pub(super) src: String,
    /// PSNR in dB outside the region that the row gives, of the picture and of those that it is compared with.
    pub(super) outside: Option<f64>,
}

/// What the page calls a role; the bare mask is not shown beside its overlay.
pub(super) fn name(role: &str) -> Option<String> {
    match role {
        "image" => Some("picture".to_owned()),
        "overlay" => Some("mask".to_owned()),
        "heatmap" => Some("heat maps".to_owned()),
        "reference" => Some("reference".to_owned()),
        _ => match role.split_once('.')? {
            ("heatmap", subject) => Some(format!("heat map: {subject}")),
            ("compare", method) => Some(method.to_owned()),
            _ => None,
        },
    }
}

/// Where a role stands in its row.
pub(super) fn rank(role: &str) -> u8 {
    match role.split('.').next() {
        Some("reference") => 0,
        Some("image") => 1,
        Some("overlay") => 2,
        Some("heatmap") => 3,
        _ => 4,
    }
}

/// Whether a role's picture is shown, and so taken out of an archive.
pub(super) fn is_shown(role: &str) -> bool {
    name(role).is_some()
}

/// The PSNR outside the row's region of a role's picture, where it was measured.
pub(super) fn outside(role: &str, scores: &BTreeMap<String, f64>) -> Option<f64> {
    let key = match role.split_once('.') {
        None if role == "image" => "outside_psnr".to_owned(),
        Some(("compare", method)) => format!("outside_psnr.{method}"),
        _ => return None,
    };
    scores.get(&key).copied()
}
