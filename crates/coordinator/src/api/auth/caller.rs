//! Who is asking, and what that lets them see and do.

use std::sync::Arc;

use diorama_core::id::Sha256Hex;
use diorama_core::run::Owner;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::limits::Limits;
use crate::api::Problem;

/// What a token allows; each role includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// To look.
    Viewer,
    /// To submit runs and to steer their own.
    Submitter,
    /// Everything, the runs of others and their deletion included.
    Admin,
}

/// Whose runs a token sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sees {
    /// Those of its name and of its group.
    Own,
    /// All of the fleet.
    All,
}

/// A token of the file.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Token {
    /// Whose it is; stands in logs, and in the runs that it submits.
    pub(super) name: String,
    pub(super) role: Role,
    /// Whose runs it shares.
    #[serde(default)]
    pub(super) group: Option<String>,
    /// Where it is not given, a viewer and an admin see all runs, a submitter those of its own.
    #[serde(default)]
    pub(super) sees: Option<Sees>,
    /// SHA-256 of the token, in hexadecimal.
    pub(super) sha256: Sha256Hex,
    /// Until when it is good.
    #[serde(default)]
    pub(super) expires: Option<Timestamp>,
    #[serde(default)]
    pub(super) limits: Limits,
}

/// Who sent a request.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    /// `None` where no token is asked for: then every run is the caller's own.
    token: Option<Arc<Token>>,
    role: Role,
}

impl Caller {
    /// Whoever reaches a coordinator that asks for no token.
    pub(crate) fn anybody(role: Role) -> Self {
        Self { token: None, role }
    }

    pub(super) fn of(token: Arc<Token>) -> Self {
        Self { role: token.role, token: Some(token) }
    }

    pub(super) fn token(&self) -> Option<&Arc<Token>> {
        self.token.as_ref()
    }

    /// The token's name.
    pub(crate) fn name(&self) -> Option<&str> {
        self.token.as_ref().map(|token| token.name.as_str())
    }

    /// What it allows.
    pub(crate) fn role(&self) -> Role {
        self.role
    }

    pub(crate) fn limits(&self) -> Limits {
        self.token.as_ref().map(|token| token.limits.clone()).unwrap_or_default()
    }

    /// Whose a run will be that is submitted now.
    pub(crate) fn owner(&self) -> Option<Owner> {
        self.token.as_ref().map(|token| Owner { token: token.name.clone(), group: token.group.clone() })
    }

    /// Whether a run of this owner is the caller's own, or of the caller's group. A run without an owner is nobody's.
    fn owns(&self, owner: Option<&Owner>) -> bool {
        let Some(token) = &self.token else { return true };
        owner.is_some_and(|owner| owner.token == token.name || (owner.group.is_some() && owner.group == token.group))
    }

    /// Whether the token sees the runs of others.
    pub(crate) fn sees_all(&self) -> bool {
        let Some(token) = &self.token else { return true };
        match (self.role, token.sees) {
            (Role::Admin, _) => true,
            (_, Some(sees)) => sees == Sees::All,
            (role, None) => role == Role::Viewer,
        }
    }

    /// Whether the caller may know of a run of this owner.
    pub(crate) fn sees(&self, owner: Option<&Owner>) -> bool {
        self.sees_all() || self.owns(owner)
    }

    /// Whether the caller may change a run of this owner that it sees.
    pub(crate) fn check_steers(&self, owner: Option<&Owner>) -> Result<(), Problem> {
        if self.role == Role::Admin || self.owns(owner) {
            return Ok(());
        }
        let message = "the run is not yours: only its owner, the owner's group and an admin may change it";
        Err(Problem::new(403, "not_your_run", message))
    }

    /// Whose requests are repetitions of one another: idempotency keys and counts belong to a name.
    pub(crate) fn scope(&self) -> &str {
        self.name().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(name: &str, role: Role, group: Option<&str>, sees: Option<Sees>) -> Caller {
        Caller::of(Arc::new(Token {
            name: name.to_owned(),
            role,
            group: group.map(str::to_owned),
            sees,
            sha256: Sha256Hex::of(name.as_bytes()),
            expires: None,
            limits: Limits::default(),
        }))
    }

    fn may(caller: &Caller, owner: Option<&Owner>) -> (bool, bool) {
        (caller.sees(owner), caller.check_steers(owner).is_ok())
    }

    #[test]
    fn a_run_is_seen_and_steered_by_its_owner_the_owners_group_and_admins() {
        let own = |name: &str, group: Option<&str>| caller(name, Role::Submitter, group, None).owner();
        let (alone, shared) = (own("sam", None), own("sam", Some("birds")));
        for (caller, of_one, of_group, of_nobody) in [
            (caller("sam", Role::Submitter, None, None), (true, true), (true, true), (false, false)),
            (caller("tim", Role::Submitter, None, None), (false, false), (false, false), (false, false)),
            (caller("kim", Role::Submitter, Some("birds"), None), (false, false), (true, true), (false, false)),
            (caller("sue", Role::Submitter, Some("sam"), None), (false, false), (false, false), (false, false)),
            (caller("joe", Role::Submitter, None, Some(Sees::All)), (true, false), (true, false), (true, false)),
            (caller("eve", Role::Viewer, None, None), (true, false), (true, false), (true, false)),
            (caller("pia", Role::Viewer, Some("birds"), Some(Sees::Own)), (false, false), (true, true), (false, false)),
            (caller("ada", Role::Admin, None, None), (true, true), (true, true), (true, true)),
            (Caller::anybody(Role::Submitter), (true, true), (true, true), (true, true)),
        ] {
            let found = [alone.as_ref(), shared.as_ref(), None].map(|owner| may(&caller, owner));
            // What a viewer's role keeps from steering at all is checked before any run is looked at.
            assert_eq!(found, [of_one, of_group, of_nobody], "{caller:?}");
        }
    }
}
