//! What each column or key of a manifest is to us: one of our keys, one of the user's own, or a mistake.

use std::collections::{BTreeMap, HashMap, HashSet};

use diorama_core::manifest::{ExtraColumns, ManifestIssue, ROW_KEYS};
use diorama_core::settings::Settings;
use diorama_core::text::{control, quoted};

use crate::raw::issue;
use crate::rules::Rules;

/// The most columns of a table, and the most different keys of all rows of a JSONL file.
pub(crate) const MAX_COLUMNS: usize = 1000;

/// The most issues that are told of one row, or of a table's columns.
pub(crate) const MAX_ISSUES_A_ROW: usize = 20;

/// What the words for our keys are elsewhere.
const ELSEWHERE: [(&str, &[&str]); 3] = [
    ("custom_id", &["id", "key", "__key__", "name", "uid", "uuid", "index", "image_id"]),
    ("prompt", &["caption", "text", "description", "title", "instruction", "edit_prompt"]),
    (
        "reference",
        &["image", "image_path", "file_name", "filename", "file", "path", "url", "image_url", "img", "source"],
    ),
];

/// What a column is.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Role {
    /// One of our keys, perhaps by another name.
    Key(&'static str),
    /// The user's own; it is carried.
    Extra,
    /// Nothing to us: it is left out, or was never the user's.
    LeftOut,
    /// A mistake: its code and what is wrong.
    Refused(&'static str, String),
}

/// The roles of all columns that were seen so far.
pub(crate) struct Keys {
    extra: ExtraColumns,
    renamed: BTreeMap<String, String>,
    roles: HashMap<String, Role>,
    /// How many of them are of names that we do not know.
    others: usize,
}

/// Every key that a row may have.
pub(crate) fn known_keys() -> impl Iterator<Item = &'static str> {
    ROW_KEYS.into_iter().chain(Settings::KEYS)
}

/// Our key of this name.
pub(crate) fn known(name: &str) -> Option<&'static str> {
    known_keys().find(|key| *key == name)
}

impl Keys {
    pub(crate) fn new(rules: &Rules) -> Self {
        let mut keys =
            Self { extra: rules.extra_columns, renamed: rules.columns.clone(), roles: HashMap::new(), others: 0 };
        let named: Vec<String> = known_keys().map(str::to_owned).chain(rules.columns.values().cloned()).collect();
        keys.roles = named.into_iter().map(|name| (name.clone(), keys.decide(&name))).collect();
        keys
    }

    /// What the column of this name is; `None` where there were too many different ones.
    pub(crate) fn role(&mut self, name: &str) -> Option<&Role> {
        if !self.roles.contains_key(name) {
            if self.others >= MAX_COLUMNS {
                return (self.extra == ExtraColumns::Ignore).then_some(&Role::LeftOut);
            }
            self.others += 1;
            self.roles.insert(name.to_owned(), self.decide(name));
        }
        self.roles.get(name)
    }

    fn decide(&self, name: &str) -> Role {
        if let Some((key, _)) = self.renamed.iter().find(|(_, column)| *column == name) {
            return known(key).map_or(Role::LeftOut, Role::Key);
        }
        if self.renamed.contains_key(name) || is_index(name) {
            return Role::LeftOut;
        }
        if let Some(key) = known(name) {
            return Role::Key(key);
        }
        if let Some(c) = control(name) {
            let message = format!(
                "the key {} holds the control character U+{:04X}; name it otherwise",
                quoted(name),
                u32::from(c)
            );
            return Role::Refused("bad_key", message);
        }
        match (self.extra, nearest(name)) {
            (ExtraColumns::Ignore, _) => Role::LeftOut,
            (ExtraColumns::Carry, Some((distance, key))) if is_slip(distance, key) => {
                let message = format!(
                    "{} is not a key of a row; did you mean {key:?}? If it is your own column, rename it, or use \
                     --extra-columns ignore",
                    quoted(name)
                );
                Role::Refused("unknown_key", message)
            }
            (ExtraColumns::Carry, _) => Role::Extra,
            (ExtraColumns::Refuse, Some((_, key))) => {
                Role::Refused("unknown_key", format!("{} is not a key of a row; did you mean {key:?}?", quoted(name)))
            }
            (ExtraColumns::Refuse, None) => {
                let keys = known_keys().collect::<Vec<_>>().join(", ");
                let message = format!(
                    "{} is not a key of a row; the keys are {keys}; use --extra-columns carry for your own columns",
                    quoted(name)
                );
                Role::Refused("unknown_key", message)
            }
        }
    }

    /// What the columns of a table are, and what is wrong with them: problems of the whole file.
    pub(crate) fn of_table(&mut self, line: u64, columns: &[&str]) -> (Vec<Role>, Vec<ManifestIssue>) {
        if columns.len() > MAX_COLUMNS {
            let message = format!("there are {} columns; at most {MAX_COLUMNS} are allowed", columns.len());
            return (Vec::new(), vec![issue(line, "too_many_columns", None, message)]);
        }
        let roles: Vec<Role> = columns.iter().map(|name| self.role(name).cloned().unwrap_or(Role::LeftOut)).collect();
        let mut issues = Vec::new();
        for (column, role) in columns.iter().zip(&roles) {
            if let Role::Refused(code, message) = role {
                issues.push(issue(line, code, Some(column), message));
            }
        }
        for required in ["custom_id", "prompt"] {
            if !roles.iter().any(|role| matches!(role, Role::Key(key) if *key == required)) {
                let message = self.missing(required, columns);
                issues.push(issue(line, "missing_key", Some(required), message));
            }
        }
        for (key, column) in &self.renamed {
            if !columns.contains(&column.as_str()) && !["custom_id", "prompt"].contains(&key.as_str()) {
                let message = format!("--columns {key}={column}: there is no column {}", quoted(column));
                issues.push(issue(line, "missing_key", Some(key), message));
            }
        }
        let mut seen = HashSet::new();
        for (column, role) in columns.iter().zip(&roles) {
            if *role != Role::LeftOut && !seen.insert(column) {
                let message = format!("the column {} occurs twice", quoted(column));
                issues.push(issue(line, "duplicate_key", Some(column), message));
            }
        }
        issues.truncate(MAX_ISSUES_A_ROW);
        (roles, issues)
    }

    /// What to do about a key that no column is.
    fn missing(&self, key: &str, columns: &[&str]) -> String {
        if let Some(column) = self.renamed.get(key) {
            return format!("--columns {key}={column}: there is no column {}", quoted(column));
        }
        let hint = hint(key, columns.iter().copied()).unwrap_or_default();
        format!("there is no column {key:?}{hint}")
    }

    /// The name by which the user has our key.
    pub(crate) fn written<'a>(&'a self, key: &'a str) -> &'a str {
        self.renamed.get(key).map_or(key, String::as_str)
    }
}

/// Which of these columns probably holds our key, and how to say so.
pub(crate) fn hint<'a>(key: &str, mut columns: impl Iterator<Item = &'a str>) -> Option<String> {
    let (_, words) = ELSEWHERE.iter().find(|(ours, _)| *ours == key)?;
    let column = columns.find(|column| words.contains(&column.to_ascii_lowercase().as_str()))?;
    Some(format!("; if it is the column {}, use --columns {key}={column}", quoted(column)))
}

/// Columns that tools add by themselves: the index of a data frame, in Parquet and in CSV.
fn is_index(name: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    name.is_empty()
        || name.strip_prefix("__index_level_").and_then(|rest| rest.strip_suffix("__")).is_some_and(digits)
        || name.strip_prefix("Unnamed: ").is_some_and(digits)
}

/// Our key that the name is most like, where it is like one.
fn nearest(name: &str) -> Option<(usize, &'static str)> {
    let wanted = name.to_ascii_lowercase().replace(['-', ' '], "_");
    let length = wanted.chars().count();
    known_keys()
        .filter(|known| length.abs_diff(known.len()) <= 1 + known.len() / 4)
        .map(|known| (strsim::osa_distance(&wanted, known), known))
        .min()
        .filter(|(distance, known)| *distance <= 1 + known.len() / 4)
}

/// Whether so near a name is one of ours that was misspelt, rather than another word: `refrence`, and not `scene`.
fn is_slip(distance: usize, key: &str) -> bool {
    distance == 0 || distance == 1 && key.len() >= 5 || distance == 2 && key.len() >= 8
}
