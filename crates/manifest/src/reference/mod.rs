//! References: their syntax, and that a file exists and does not leave the manifest's folder.

mod files;
mod near;

use diorama_core::address::bucket_and_key;
use diorama_core::id::Sha256Hex;
use diorama_core::task::Reference;
use diorama_core::text::{control, quoted};
use url::Url;

pub(crate) use self::files::Files;
use crate::rules::Rules;

/// A stable code and a message.
pub(crate) type Refusal = (&'static str, String);

/// The longest reference, in bytes: a path has at most 4096, a signed URL may have more.
const MAX_REFERENCE_BYTES: usize = 8192;

/// Reads the reference that stands under `key`. Looks at nothing but the text.
pub(crate) fn parse(key: &str, text: &str, rules: &Rules) -> Result<Reference, Refusal> {
    check_text(key, text)?;
    if let Some(sha256) = text.strip_prefix("blob:") {
        let sha256 = Sha256Hex::try_from(sha256.to_owned()).map_err(|error| ("bad_reference", error.to_string()))?;
        return of_the_fleet(key, text, Reference::Blob(sha256), rules);
    }
    let Some((scheme, rest)) = text.split_once("://") else {
        return if rules.references.files() {
            Ok(Reference::File(text.to_owned()))
        } else {
            Err(no_files_here(key, text))
        };
    };
    // Schemes have no case; everything behind them may have.
    let scheme = scheme.to_ascii_lowercase();
    let address = format!("{scheme}://{rest}");
    match scheme.as_str() {
        "s3" => match bucket_and_key(&address) {
            Some(_) => of_the_fleet(key, text, Reference::S3(address), rules),
            None => Err(not_of_the_form(key, text, "s3://bucket/key")),
        },
        "http" if !rules.plain_http => Err((
            "bad_reference",
            format!(
                "{key} {} is plain http://, which is fetched only if allow_private_references is set; write \
                 https://",
                quoted(text)
            ),
        )),
        "https" | "http" => url(key, text, rest).map(|()| Reference::Https(address)),
        "file" => Err(("bad_reference", format!("{key} {} is a file:// URL; write only the path", quoted(text)))),
        _ => Err((
            "bad_reference",
            format!("{key} {} has the scheme {}; use a path, s3:// or https://", quoted(text), quoted(&scheme)),
        )),
    }
}

/// What is no reference of any kind.
fn check_text(key: &str, text: &str) -> Result<(), Refusal> {
    let bad = |message: String| Err(("bad_reference", message));
    if text.is_empty() || text.contains('\0') {
        return bad(format!("{key} is empty or holds a NUL; write a path"));
    }
    if text.get(..5).is_some_and(|scheme| scheme.eq_ignore_ascii_case("data:")) {
        return bad(format!(
            "{key} {} is a data: URI; save the picture to a file, and write the file's path here",
            quoted(text)
        ));
    }
    if text.len() > MAX_REFERENCE_BYTES {
        return bad(format!(
            "{key} {} has {} bytes; at most {MAX_REFERENCE_BYTES} are allowed: a path or an address is needed, not \
             the picture itself",
            quoted(text),
            text.len()
        ));
    }
    if let Some(c) = control(text) {
        return bad(format!("{key} {} contains the control character U+{:04X}; remove it", quoted(text), u32::from(c)));
    }
    Ok(())
}

/// What only workers of a fleet can read.
fn of_the_fleet(key: &str, text: &str, reference: Reference, rules: &Rules) -> Result<Reference, Refusal> {
    if rules.references.objects() {
        return Ok(reference);
    }
    let text = quoted(text);
    Err((
        "needs_fleet",
        format!("{key} {text} works only in a fleet: a run on this machine reads files and https://; download it"),
    ))
}

fn no_files_here(key: &str, text: &str) -> Refusal {
    let text = quoted(text);
    let message = format!(
        "{key} {text} is a file, which the coordinator cannot read; `diorama submit` uploads files, or write an \
         s3:// or https:// address"
    );
    ("local_reference", message)
}

/// Checks what follows the scheme of a URL.
fn url(key: &str, text: &str, rest: &str) -> Result<(), Refusal> {
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if host.contains('@') {
        let message = format!("{key} contains a user name or password; do not put them in a manifest");
        return Err(("bad_reference", message));
    }
    if rest.chars().any(char::is_whitespace) {
        let message = format!("{key} {} contains a space; in a URL write %20", quoted(text));
        return Err(("bad_reference", message));
    }
    if rest.contains('\\') {
        let message = format!("{key} {} contains a backslash; in a URL write /", quoted(text));
        return Err(("bad_reference", message));
    }
    if host.is_empty() || host.starts_with(':') {
        return Err(not_of_the_form(key, text, "https://host/path"));
    }
    match Url::parse(text) {
        Ok(_) => Ok(()),
        Err(error) => Err(("bad_reference", format!("{key} {} is no address: {error}", quoted(text)))),
    }
}

fn not_of_the_form(key: &str, text: &str, wanted: &str) -> Refusal {
    ("bad_reference", format!("{key} {} is not of the form {wanted}", quoted(text)))
}
