//! `diorama token`: the file of a coordinator's tokens, edited in place; comments and limits stay as they are. A file is
//! replaced as a whole, and only by one that a coordinator reads.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use diorama_coordinator::api::{Role, TokenStatus, Tokens};
use diorama_core::id::Sha256Hex;
use diorama_core::text::{counted, shown};
use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use tempfile::NamedTempFile;
use toml_edit::{ArrayOfTables, DocumentMut, Item, Table, value};

use crate::cli::{Cli, NewToken, Token};
use crate::exit::{self, Failure};
use crate::output;

/// Bytes of a token that are drawn.
const BYTES: usize = 32;

pub(crate) fn run(command: &Token, cli: &Cli) -> Result<u8, Failure> {
    let config = cli.configuration().map_err(Failure::usage)?;
    let missing = || Failure::usage(anyhow::anyhow!("no tokens file: give --tokens-file, or DIORAMA_TOKENS_FILE"));
    let path = config.coordinator.tokens_file.ok_or_else(missing)?;
    match command {
        Token::New(command) => add(command, &path, cli.json()),
        Token::List(_) => list(&path, cli.json()),
        Token::Revoke(command) => revoke(&command.name, &path, cli.json()),
    }
}

fn add(command: &NewToken, path: &Path, json: bool) -> Result<u8, Failure> {
    let mut random = [0; BYTES];
    getrandom::fill(&mut random).map_err(|error| Failure::permanent(anyhow::anyhow!("no random numbers: {error}")))?;
    let token = format!("diorama_{}", BASE64_URL_SAFE_NO_PAD.encode(random));
    let days = |days: u32| Timestamp::now() + SignedDuration::from_hours(24 * i64::from(days));
    let expires = command.days.map(days).map(|expires| expires.round(jiff::Unit::Second).unwrap_or(expires));
    let mut entry = Table::new();
    entry["name"] = value(&command.name);
    entry["role"] = value(&command.role);
    for (key, given) in [("group", &command.group), ("sees", &command.sees)] {
        if let Some(given) = given {
            entry[key] = value(given);
        }
    }
    entry["sha256"] = value(Sha256Hex::of(token.as_bytes()).as_str());
    if let Some(expires) = expires {
        entry["expires"] = value(expires.to_string());
    }
    if command.role == "submitter" {
        entry["limits"] = Item::Table(usual_limits());
    }
    let mut document = if path.exists() { read(path)? } else { DocumentMut::new() };
    tables(&mut document, path)?.push(entry);
    replace(path, &document)?;
    if json {
        output::line(&json!({ "token": token, "name": command.name, "expires": expires }).to_string());
    } else {
        output::error_line("diorama: here is the token; it is shown only once, and anyone who has it can use it:");
        output::line(&token);
    }
    Ok(exit::DONE)
}

/// What a new submitter may take of a fleet, so that nobody has it all by mistake: an admin's to change in the file.
fn usual_limits() -> Table {
    let range = |low: i64, high: i64| value(toml_edit::Array::from_iter([low, high]));
    let mut limits = Table::new();
    limits["active_runs"] = value(16);
    limits["priority"] = range(-100, 0);
    limits["weight"] = range(1, 4);
    limits
}

fn list(path: &Path, json: bool) -> Result<u8, Failure> {
    let listed = Tokens::listed(path).map_err(Failure::permanent)?;
    if json {
        output::line(&serde_json::to_string(&listed).map_err(Failure::permanent)?);
    } else if listed.is_empty() {
        output::line("there are no tokens");
    } else {
        listed.iter().for_each(|token| output::line(&describe(token, Timestamp::now())));
    }
    Ok(exit::DONE)
}

fn describe(token: &TokenStatus, now: Timestamp) -> String {
    let TokenStatus { name, role, group, sees_all, expires } = token;
    let role = match role {
        Role::Viewer => "viewer",
        Role::Submitter => "submitter",
        Role::Admin => "admin",
    };
    let group = group.as_ref().map(|group| format!("  group {}", shown(group))).unwrap_or_default();
    let sees = if *sees_all { "sees all runs" } else { "sees its own runs" };
    let expires = match expires {
        Some(expires) if *expires <= now => format!("EXPIRED at {expires}"),
        Some(expires) => format!("expires at {expires}"),
        None => "does not expire".to_owned(),
    };
    format!("{}  {role}{group}  {sees}  {expires}", shown(name.as_deref().unwrap_or_default()))
}

fn revoke(name: &str, path: &Path, json: bool) -> Result<u8, Failure> {
    let mut document = read(path)?;
    let tables = tables(&mut document, path)?;
    let before = tables.len();
    tables.retain(|entry| entry.get("name").and_then(Item::as_str) != Some(name));
    let revoked = before - tables.len();
    if revoked == 0 {
        return Err(Failure::permanent(anyhow::anyhow!("{} has no token named {name:?}", path.display())));
    }
    replace(path, &document)?;
    if json {
        output::line(&json!({ "name": name, "revoked": revoked }).to_string());
    } else {
        output::line(&format!("revoked {} of {}", counted(revoked as u64, "token"), shown(name)));
    }
    Ok(exit::DONE)
}

fn read(path: &Path) -> Result<DocumentMut, Failure> {
    let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()));
    let document = text.and_then(|text| text.parse().with_context(|| format!("reading {}", path.display())));
    document.map_err(Failure::permanent)
}

fn tables<'a>(document: &'a mut DocumentMut, path: &Path) -> Result<&'a mut ArrayOfTables, Failure> {
    let tables = document.entry("token").or_insert(Item::ArrayOfTables(ArrayOfTables::new()));
    let other = || Failure::permanent(anyhow::anyhow!("{}: token is not written as [[token]]", path.display()));
    tables.as_array_of_tables_mut().ok_or_else(other)
}

/// Writes the file beside the old one, and puts it in its place once it was read.
fn replace(path: &Path, document: &DocumentMut) -> Result<(), Failure> {
    // Where the name is a link, what it leads to is replaced.
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let folder =
        path.parent().filter(|folder| !folder.as_os_str().is_empty()).map_or(PathBuf::from("."), Path::to_owned);
    let written = || {
        let mut file = NamedTempFile::new_in(&folder)?;
        file.write_all(document.to_string().as_bytes())?;
        if let Ok(old) = std::fs::metadata(&path) {
            file.as_file().set_permissions(old.permissions())?;
        }
        file.as_file().sync_all()?;
        Ok::<_, std::io::Error>(file)
    };
    let file = written().with_context(|| format!("writing {}", path.display())).map_err(Failure::permanent)?;
    Tokens::listed(file.path()).map_err(Failure::usage)?;
    file.persist(&path).with_context(|| format!("writing {}", path.display())).map_err(Failure::permanent)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_shown_with_what_it_allows_and_until_when() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let token = |expires: Option<&str>| TokenStatus {
            name: Some("s\u{1b}m".to_owned()),
            role: Role::Submitter,
            group: Some("birds".to_owned()),
            sees_all: false,
            expires: expires.map(|at| at.parse().unwrap()),
        };
        let begin = "s\\u001bm  submitter  group birds  sees its own runs  ";
        for (expires, end) in [
            (None, "does not expire"),
            (Some("2026-01-01T00:00:01Z"), "expires at 2026-01-01T00:00:01Z"),
            (Some("2026-01-01T00:00:00Z"), "EXPIRED at 2026-01-01T00:00:00Z"),
        ] {
            assert_eq!(describe(&token(expires), now), format!("{begin}{end}"));
        }
    }

    #[test]
    fn what_a_coordinator_would_not_read_replaces_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens.toml");
        std::fs::write(&path, "# ours\n").unwrap();
        let broken: DocumentMut = "[[token]]\nname = 3\n".parse().unwrap();
        assert!(replace(&path, &broken).is_err());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "# ours\n");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
