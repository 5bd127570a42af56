//! What a look at a service finds, for `diorama doctor`: each thing that a fleet needs of it, and what to do where it is
//! not so.

use serde::Serialize;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// It works, and something about it may hurt later.
    Warning,
    /// It does not work.
    Problem,
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was checked.
    pub name: &'static str,
    pub verdict: Verdict,
    pub found: String,
    /// What to do, where something is to be done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
    /// Whether a problem may be over later with nothing changed: the service is away.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub may_pass: bool,
}

impl Finding {
    /// Everything is right.
    pub fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Ok, found: found.into(), advice: None, may_pass: false }
    }

    /// It works, with a reservation.
    pub fn warning(name: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { advice: Some(advice.into()), verdict: Verdict::Warning, ..Self::ok(name, found) }
    }

    /// It does not work, and will not until somebody does something.
    pub fn problem(name: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { verdict: Verdict::Problem, ..Self::warning(name, found, advice) }
    }

    /// It does not work now.
    pub fn away(name: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { may_pass: true, ..Self::problem(name, found, advice) }
    }
}

/// Whether a version such as `3.10.8` or `7.0.15-debian` is `least` or later; `None` where it is no version.
pub(crate) fn is_at_least(version: &str, least: (u32, u32)) -> Option<bool> {
    let mut numbers = version.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    let (major, minor) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
    Some((major, minor) >= least)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_number_and_not_by_letter() {
        let least = (3, 10);
        for (version, wanted) in [
            ("3.10.8", Some(true)),
            ("3.9.27", Some(false)),
            ("4.1.0-rc.1", Some(true)),
            ("3.10", Some(true)),
            ("unknown", None),
            ("", None),
        ] {
            assert_eq!(is_at_least(version, least), wanted, "{version}");
        }
    }
}
