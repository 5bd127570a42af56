//! What is wrong with a manifest, as text.

use diorama_core::manifest::ManifestIssue;

/// Issues that are kept for people to see; all are counted.
pub(crate) const SHOWN: usize = 1000;

/// Each on a line of its own that begins with the break, and how many of `count` are not among them.
pub(crate) fn list(issues: &[ManifestIssue], count: u64) -> String {
    let mut text: String = issues.iter().map(line).collect();
    if count > issues.len() as u64 {
        text += &format!("\n… and {} more", count - issues.len() as u64);
    }
    text
}

fn line(issue: &ManifestIssue) -> String {
    let place = if issue.line == 0 { "file".to_owned() } else { format!("line {}", issue.line) };
    format!("\n  {place}: {}: {}", issue.code, issue.message)
}
