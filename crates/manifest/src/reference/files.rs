//! References that are files: that each is there, can be read, and does not leave the manifest's folder.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use diorama_core::text::quoted;

use super::{Refusal, near};

/// Checks files once each: data sets use one place with many prompts.
pub(crate) struct Files {
    root: PathBuf,
    follow_links: bool,
    checked: HashMap<String, Result<(), Refusal>>,
}

impl Files {
    /// Paths remembered at a time; then the memory starts anew, so that it stays flat.
    const REMEMBERED: usize = 1 << 15;

    /// `root` is canonical.
    pub(crate) fn new(root: PathBuf, follow_links: bool) -> Self {
        Self { root, follow_links, checked: HashMap::new() }
    }

    pub(crate) fn check(&mut self, path: &str) -> Result<(), Refusal> {
        if let Some(result) = self.checked.get(path) {
            return result.clone();
        }
        let result = self.look(path);
        if self.checked.len() >= Self::REMEMBERED {
            self.checked.clear();
        }
        self.checked.insert(path.to_owned(), result.clone());
        result
    }

    fn look(&self, path: &str) -> Result<(), Refusal> {
        let unreadable = |error: io::Error| ("unreadable_file", format!("{} cannot be read: {error}", quoted(path)));
        let stays = stays_inside(&self.root, Path::new(path));
        let real = match self.root.join(path).canonicalize() {
            Ok(real) => real,
            // Nothing is told about files outside, not even whether they exist.
            Err(_) if !stays => return Err(self.outside(path)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(self.missing(path)),
            Err(error) => return Err(unreadable(error)),
        };
        if !real.starts_with(&self.root) {
            match stays {
                true if self.follow_links => {}
                true => return Err(self.link(path)),
                false => return Err(self.outside(path)),
            }
        }
        if !real.is_file() {
            return Err(("not_a_file", format!("{} is not a file", quoted(path))));
        }
        File::open(&real).map(drop).map_err(unreadable)
    }

    fn outside(&self, path: &str) -> Refusal {
        let hint = near::of_another_notation(path).unwrap_or_else(|| "move or copy it there".to_owned());
        let message = format!("{} leaves the manifest's folder {}; {hint}", quoted(path), self.root.display());
        ("outside_folder", message)
    }

    fn link(&self, path: &str) -> Refusal {
        let message = format!(
            "{} is a link that leaves the manifest's folder {}; --follow-links allows that, or copy the file \
             there",
            quoted(path),
            self.root.display()
        );
        ("outside_folder", message)
    }

    fn missing(&self, path: &str) -> Refusal {
        let hint = near::of_this_folder(&self.root, path)
            .or_else(|| near::of_another_notation(path))
            .map_or_else(String::new, |hint| format!("; {hint}"));
        let message = format!("{} does not exist (looked in {}){hint}", quoted(path), self.root.display());
        ("missing_file", message)
    }
}

/// Whether `path`, read without looking at the disk, stays below `root`.
fn stays_inside(root: &Path, path: &Path) -> bool {
    use std::path::Component;
    let relative = if path.is_absolute() {
        match path.strip_prefix(root) {
            Ok(relative) => relative,
            Err(_) => return false,
        }
    } else {
        path
    };
    let mut depth = 0i64;
    relative.components().all(|component| {
        match component {
            Component::ParentDir => depth -= 1,
            Component::Normal(_) => depth += 1,
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
        depth >= 0
    })
}
