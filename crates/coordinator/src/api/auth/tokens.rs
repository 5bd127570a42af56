//! The file of the tokens, which are known by their digests only.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use diorama_core::id::Sha256Hex;
use diorama_core::text;
use jiff::Timestamp;
use serde::Deserialize;

use super::caller::{Caller, Token};
use super::show::TokenStatus;
use crate::api::Problem;

/// What a file of tokens holds.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenFile {
    #[serde(default)]
    token: Vec<Token>,
}

/// The tokens of a file, as it was read last.
#[derive(Debug)]
pub struct Tokens {
    path: PathBuf,
    known: RwLock<Known>,
}

#[derive(Debug)]
struct Known {
    text: String,
    tokens: Vec<Arc<Token>>,
}

/// A file of tokens that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the token file {path}: {problem}; it holds [[token]] tables with name, role (viewer, submitter or admin), \
         sha256 of the token and, optionally, group, sees, expires and limits; `diorama token new` writes them",
         path = .path.display())]
pub struct TokensError {
    path: PathBuf,
    problem: String,
}

impl Tokens {
    /// What the tokens of a file allow, in its order; there may be none.
    pub fn listed(path: &Path) -> Result<Vec<TokenStatus>, TokensError> {
        Ok(read(path)?.tokens.into_iter().map(|token| TokenStatus::from(&Caller::of(token))).collect())
    }

    /// Reads the file.
    pub fn load(path: &Path) -> Result<Self, TokensError> {
        let known = read(path)?;
        if known.tokens.is_empty() {
            return Err(TokensError { path: path.to_owned(), problem: "it has no tokens".to_owned() });
        }
        Ok(Self { path: path.to_owned(), known: RwLock::new(known) })
    }

    /// Reads the file again; whether it has changed. While it cannot be used, the tokens that it had stay good.
    pub(in crate::api) fn reload(&self) -> Result<bool, TokensError> {
        let read = read(&self.path)?;
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let changed = known.text != read.text;
        *known = read;
        Ok(changed)
    }

    /// Whose token this is.
    pub(in crate::api) fn caller(&self, token: &str, now: Timestamp) -> Result<Caller, Problem> {
        let digest = Sha256Hex::of(token.as_bytes());
        let unknown = || Problem::new(401, "unknown_token", "unknown token");
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let token = known.tokens.iter().find(|known| known.sha256 == digest).ok_or_else(unknown)?;
        match token.expires {
            Some(expires) if expires <= now => {
                let message = format!("the token of {} expired at {expires}; ask for a new one", token.name);
                Err(Problem::new(401, "expired_token", message))
            }
            _ => Ok(Caller::of(token.clone())),
        }
    }

    /// Whether the caller's token is in the file as it was, and has not expired.
    pub(super) fn is_good(&self, token: &Token, now: Timestamp) -> bool {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.tokens.iter().any(|known| **known == *token) && token.expires.is_none_or(|expires| expires > now)
    }
}

fn read(path: &Path) -> Result<Known, TokensError> {
    let failed = |problem: String| TokensError { path: path.to_owned(), problem };
    let text = std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
    let TokenFile { token: tokens } = toml::from_str(&text).map_err(|error| failed(error.to_string()))?;
    for Token { name, group, .. } in &tokens {
        // They stand in logs and on terminals.
        let names = [Some(name), group.as_ref()];
        if let Some(bad) = names.into_iter().flatten().find(|name| name.is_empty() || text::control(name).is_some()) {
            return Err(failed(format!("the name {bad:?} is empty or contains control characters")));
        }
    }
    Ok(Known { text, tokens: tokens.into_iter().map(Arc::new).collect() })
}

#[cfg(test)]
mod tests {
    use super::super::Role;
    use super::*;

    fn entry(name: &str, role: &str, more: &str) -> String {
        let sha256 = Sha256Hex::of(name.as_bytes());
        format!("[[token]]\nname = \"{name}\"\nrole = \"{role}\"\nsha256 = \"{sha256}\"\n{more}\n")
    }

    fn tokens(text: &str) -> (tempfile::NamedTempFile, Tokens) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let tokens = Tokens::load(file.path()).unwrap();
        (file, tokens)
    }

    #[test]
    fn a_token_has_its_role_until_it_expires_and_no_other_text_is_one() {
        let text = [entry("eve", "viewer", ""), entry("old", "admin", "expires = \"2020-01-01T00:00:00Z\"")].concat();
        let (_file, tokens) = tokens(&text);
        let role = |token: &str, now: &str| {
            tokens.caller(token, now.parse().unwrap()).map(|caller| caller.role()).map_err(|problem| problem.code)
        };
        assert_eq!(role("eve", "2026-01-01T00:00:00Z"), Ok(Role::Viewer));
        assert_eq!(role("old", "2019-12-31T23:59:59Z"), Ok(Role::Admin));
        assert_eq!(role("old", "2020-01-01T00:00:00Z"), Err("expired_token".to_owned()));
        assert_eq!(role("mallory", "2020-01-01T00:00:00Z"), Err("unknown_token".to_owned()));
        assert_eq!(role("", "2020-01-01T00:00:00Z"), Err("unknown_token".to_owned()));
    }

    #[test]
    fn a_file_that_changes_is_read_again_and_one_that_is_broken_changes_nothing() {
        let (file, tokens) = tokens(&entry("eve", "viewer", ""));
        let role = |token: &str| tokens.caller(token, Timestamp::UNIX_EPOCH).map(|caller| caller.role()).ok();
        assert!(!tokens.reload().unwrap(), "nothing has changed");
        for broken in ["[[token]]\nname = 3".to_owned(), entry("e\\nve", "viewer", ""), entry("", "admin", "")] {
            std::fs::write(file.path(), broken).unwrap();
            tokens.reload().unwrap_err();
        }
        assert_eq!((role("eve"), role("sam")), (Some(Role::Viewer), None));
        std::fs::write(file.path(), entry("sam", "admin", "group = \"birds\"\n[token.limits]\nactive_runs = 2"))
            .unwrap();
        assert!(tokens.reload().unwrap());
        assert_eq!((role("eve"), role("sam")), (None, Some(Role::Admin)), "the old token is revoked");
        std::fs::write(file.path(), "").unwrap();
        assert!(tokens.reload().unwrap());
        assert_eq!(role("sam"), None, "so is the last one of the file");
        Tokens::load(file.path()).unwrap_err();
    }

    #[test]
    fn a_token_is_good_for_as_long_as_it_stands_in_the_file_as_it_was() {
        let (file, tokens) = tokens(&entry("sam", "submitter", "expires = \"2020-01-01T00:00:00Z\""));
        let caller = tokens.caller("sam", Timestamp::UNIX_EPOCH).unwrap();
        let is_good = |now: &str| tokens.is_good(caller.token().unwrap(), now.parse().unwrap());
        assert!(is_good("2019-12-31T00:00:00Z") && !is_good("2020-01-01T00:00:00Z"));
        std::fs::write(file.path(), entry("sam", "viewer", "")).unwrap();
        tokens.reload().unwrap();
        assert!(!is_good("2019-12-31T00:00:00Z"), "it allows something else now");
    }
}
