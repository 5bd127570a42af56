//! References: their syntax, and that a file exists and does not leave the manifest's folder.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use diorama_core::address::bucket_and_key;
use diorama_core::id::Sha256Hex;
use diorama_core::task::Reference;

use crate::rules::Rules;

/// A stable code and a message.
pub(crate) type Refusal = (&'static str, String);

/// Reads the reference that stands under `key`. Looks at nothing but the text.
pub(crate) fn parse(key: &str, text: &str, rules: &Rules) -> Result<Reference, Refusal> {
    let bad_url = |want: &str| Err(("bad_reference", format!("{key} {text:?} is not of the form {want}")));
    let object = |reference: Reference| {
        if rules.references.objects() {
            return Ok(reference);
        }
        let message =
            format!("{key} {text:?} needs the fleet: a run on this machine reads files and https://; download it");
        Err(("needs_fleet", message))
    };
    if text.is_empty() || text.contains('\0') {
        return Err(("bad_reference", format!("{key} is empty or holds a NUL; write a path")));
    }
    if let Some(sha256) = text.strip_prefix("blob:") {
        let sha256 = Sha256Hex::try_from(sha256.to_owned());
        return sha256.map_err(|error| ("bad_reference", error.to_string())).and_then(|it| object(Reference::Blob(it)));
    }
    let Some((scheme, rest)) = text.split_once("://") else {
        if rules.references.files() {
            return Ok(Reference::File(text.to_owned()));
        }
        let message = format!(
            "{key} {text:?} is a file, which the coordinator cannot read; `diorama submit` uploads files, or write \
             an s3:// or https:// address"
        );
        return Err(("local_reference", message));
    };
    match scheme {
        "s3" => match bucket_and_key(text) {
            Some(_) => object(Reference::S3(text.to_owned())),
            None => bad_url("s3://bucket/key"),
        },
        "http" if !rules.plain_http => {
            let message = format!(
                "{key} {text:?} is plain http://, which is fetched only where allow_private_references is set; write \
                 https://"
            );
            Err(("bad_reference", message))
        }
        "https" | "http" => {
            let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
            if host.contains('@') {
                let message = format!("{key} holds a user name or password; a manifest is no place for them");
                return Err(("bad_reference", message));
            }
            if host.is_empty() || host.starts_with(':') || text.chars().any(char::is_whitespace) {
                return bad_url("https://host/path");
            }
            Ok(Reference::Https(text.to_owned()))
        }
        _ => Err((
            "bad_reference",
            format!("{key} {text:?} has the scheme {scheme:?}; a path, s3:// or https:// is wanted"),
        )),
    }
}

/// Checks files once each: data sets use one place with many prompts.
pub(crate) struct Files {
    root: PathBuf,
    checked: HashMap<String, Result<(), Refusal>>,
}

impl Files {
    /// Paths remembered at a time; then the memory starts anew, so that it stays flat.
    const REMEMBERED: usize = 1 << 16;

    /// `root` is canonical.
    pub(crate) fn new(root: PathBuf) -> Self {
        Self { root, checked: HashMap::new() }
    }

    pub(crate) fn check(&mut self, path: &str) -> Result<(), Refusal> {
        if let Some(result) = self.checked.get(path) {
            return result.clone();
        }
        let result = check(&self.root, path);
        if self.checked.len() >= Self::REMEMBERED {
            self.checked.clear();
        }
        self.checked.insert(path.to_owned(), result.clone());
        result
    }
}

fn check(root: &Path, path: &str) -> Result<(), Refusal> {
    let outside = || {
        let message = format!("{path:?} leaves the manifest's folder {}; move or copy it there", root.display());
        Err(("outside_folder", message))
    };
    let full = root.join(path);
    let real = match full.canonicalize() {
        Ok(real) => real,
        // Nothing is told about files outside, not even whether they exist.
        Err(_) if !stays_inside(root, Path::new(path)) => return outside(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(("missing_file", format!("{path:?} does not exist (looked in {})", root.display())));
        }
        Err(error) => return Err(("unreadable_file", format!("{path:?} cannot be read: {error}"))),
    };
    if !real.starts_with(root) {
        return outside();
    }
    if !real.is_file() {
        return Err(("not_a_file", format!("{path:?} is not a file")));
    }
    File::open(&real).map(drop).map_err(|error| ("unreadable_file", format!("{path:?} cannot be read: {error}")))
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
