//! Why a file that is named may not be there: what was probably meant, and how to write it.

use std::path::Path;

use diorama_core::text::quoted;
use unicode_normalization::UnicodeNormalization;

/// What lies in the folder under nearly that name, where something does. Looks at a few paths below the folder only.
pub(super) fn of_this_folder(root: &Path, path: &str) -> Option<String> {
    let is_there = |other: &str| {
        let inside = !Path::new(other).is_absolute() && !other.split('/').any(|part| part == "..");
        other != path && inside && root.join(other).exists()
    };
    let say = |other: String, why: &str| is_there(&other).then(|| format!("{} is there: {why}", quoted(&other)));
    say(path.replace('\\', "/"), "a backslash is not a separator here; write /")
        .or_else(|| other_form(path, &is_there))
        .or_else(|| other_case(root, path, &is_there))
        .or_else(|| say(path.trim().to_owned(), "the reference begins or ends with white space"))
        .or_else(|| say(percent_decoded(path)?, "%20 means a space only in URLs"))
}

/// The same text in another Unicode form: what is typed is composed, what some systems and archives store is not.
fn other_form(path: &str, is_there: &dyn Fn(&str) -> bool) -> Option<String> {
    let forms: [(&str, String); 2] = [("NFC", path.nfc().collect()), ("NFD", path.nfd().collect())];
    let (name, _) = forms.into_iter().find(|(_, form)| is_there(form))?;
    Some(format!("a file of that name exists in another Unicode form, {name}: write it like that, or rename the file"))
}

/// Entries of a folder that are looked at.
const LOOKED_AT: usize = 10_000;

/// The same name in other capitals: where the manifest was written, the disk may not have told them apart.
fn other_case(root: &Path, path: &str, is_there: &dyn Fn(&str) -> bool) -> Option<String> {
    let (folder, name) = path.rsplit_once('/').map_or(("", path), |(folder, name)| (folder, name));
    if !folder.is_empty() && !is_there(folder) {
        return None;
    }
    let entries = std::fs::read_dir(root.join(folder)).ok()?.take(LOOKED_AT);
    let mut names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let found = names.find(|other| other != name && other.to_lowercase() == name.to_lowercase())?;
    let found = path.strip_suffix(name)?.to_owned() + &found;
    Some(format!("{} is there: small and capital letters are not the same here", quoted(&found)))
}

fn percent_decoded(path: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let [first, tail @ ..] = rest {
        let digits = tail.get(..2).filter(|_| *first == b'%').and_then(|two| std::str::from_utf8(two).ok());
        match digits.and_then(|two| u8::from_str_radix(two, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8(bytes).ok()
}

/// What a path says that is written for another system or for a shell.
pub(super) fn of_another_notation(path: &str) -> Option<String> {
    if path.contains('\\') {
        return Some(
            "a backslash is not a separator here; write the path with /, relative to the manifest's folder".to_owned(),
        );
    }
    let scheme = |scheme: &str| path.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme));
    if scheme("https:/") || scheme("http:/") {
        return Some(
            "an address begins with https://, and a program that took it for a path left out a slash".to_owned(),
        );
    }
    if path.starts_with('~') {
        return Some("only shells expand ~; write a path relative to the manifest's folder".to_owned());
    }
    None
}
