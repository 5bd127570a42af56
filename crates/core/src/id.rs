//! Newtypes for everything that travels, so that two ids can never be swapped.
//!
//! Ids that end up in file names or object keys are checked here, once, on construction and on deserialization.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// An id that was refused, with the reason and the rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind} {value:?} {problem}")]
pub struct InvalidId {
    /// Which id: `custom_id`, `run id` …
    pub kind: &'static str,
    /// The refused text, cut to 80 characters.
    pub value: String,
    /// What is wrong and what would be right.
    pub problem: String,
}

fn invalid(kind: &'static str, value: &str, problem: impl Into<String>) -> InvalidId {
    InvalidId { kind, value: value.chars().take(80).collect(), problem: problem.into() }
}

/// Checks text that becomes one component of a path: `[A-Za-z0-9._-]`, starting with a letter, digit or `_`.
fn check_component(kind: &'static str, value: &str, max_bytes: usize) -> Result<(), InvalidId> {
    if value.is_empty() {
        return Err(invalid(kind, value, "is empty"));
    }
    if value.len() > max_bytes {
        return Err(invalid(kind, value, format!("has {} bytes; at most {max_bytes} are allowed", value.len())));
    }
    if let Some(c) = value.chars().find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))) {
        return Err(invalid(
            kind,
            value,
            format!("contains {c:?}; only letters, digits, '.', '_' and '-' are allowed, because it names files"),
        ));
    }
    if value.starts_with(['.', '-']) {
        return Err(invalid(kind, value, "starts with '.' or '-'; start it with a letter, a digit or '_'"));
    }
    if kind == POOL && value.ends_with(DEAD) {
        return Err(invalid(kind, value, "is the name of another pool's dead-letter queue; choose another"));
    }
    Ok(())
}

/// What errors call a pool.
const POOL: &str = "pool";

/// How the queue of a pool's dead letters is told from the pool's own: no pool's name ends so.
pub const DEAD: &str = ".dead";

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $kind:expr, $max:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Checks `value`: 1 to the id's limit of bytes, `[A-Za-z0-9._-]`, not starting with `.` or `-`.
            pub fn new(value: impl Into<String>) -> Result<Self, InvalidId> {
                let value = value.into();
                check_component($kind, &value, $max)?;
                Ok(Self(value))
            }

            /// The id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;
            fn try_from(value: String) -> Result<Self, InvalidId> {
                Self::new(value)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(value: &str) -> Result<Self, InvalidId> {
                Self::new(value)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

text_id!(
    /// One submission. New ones are UUID v7, so that they sort by time.
    RunId, "run id", 64
);
text_id!(
    /// The user's name of a task, unique in its run; it names the task's files (at most 128 bytes).
    CustomId, "custom_id", 128
);
text_id!(
    /// One delivery of a shard to a worker: two workers on the same shard never share one.
    AttemptId, "attempt id", 64
);
text_id!(
    /// A worker process.
    WorkerId, "worker id", 64
);
text_id!(
    /// Workers that serve one model on one kind of device; one queue a pool.
    Pool, POOL, 64
);

impl CustomId {
    /// Whether a file of this name would be a device, or another file, on Windows: `con`, `nul.old`, `a.`
    pub fn is_special_on_windows(&self) -> bool {
        const DEVICES: [&str; 6] = ["con", "prn", "aux", "nul", "conin$", "conout$"];
        let stem = self.0.split('.').next().unwrap_or_default().to_ascii_lowercase();
        let numbered = |prefix| stem.strip_prefix(prefix).is_some_and(|n: &str| n.len() == 1 && n != "0");
        let is_port = (numbered("com") || numbered("lpt")) && stem.ends_with(|c: char| c.is_ascii_digit());
        DEVICES.contains(&stem.as_str()) || is_port || self.0.ends_with('.')
    }
}

/// Rises with time.
fn new_uuid() -> uuid::Uuid {
    #[cfg(feature = "testing")]
    if let Some(next) = seeded::next() {
        return next;
    }
    uuid::Uuid::now_v7()
}

/// Ids that follow from a seed, so that a simulation can be told again. Only on the thread that asked for them.
#[cfg(feature = "testing")]
pub mod seeded {
    use std::cell::Cell;

    thread_local! {
        static NEXT: Cell<Option<(u64, u64)>> = const { Cell::new(None) };
    }

    /// From now on ids of this thread follow from `seed`.
    pub fn begin(seed: u64) {
        NEXT.set(Some((seed, 0)));
    }

    pub(super) fn next() -> Option<uuid::Uuid> {
        let (seed, count) = NEXT.get()?;
        NEXT.set(Some((seed, count + 1)));
        Some(uuid::Uuid::from_u64_pair((count << 16) | 0x7000, seed))
    }
}

impl RunId {
    /// A new id: UUID v7.
    pub fn generate() -> Self {
        Self(new_uuid().to_string())
    }
}

impl AttemptId {
    /// A new id: UUID v7 without hyphens.
    pub fn generate() -> Self {
        Self(new_uuid().simple().to_string())
    }
}

/// A task's place in its manifest, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TaskIndex(pub u64);

impl fmt::Display for TaskIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Round 0 is the manifest; a later round holds shards of the tasks that failed and may be tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Round(pub u32);

/// A shard of a run: its round and its index in the round. Written `r0-000012`, which sorts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ShardId {
    /// The round that made it.
    pub round: Round,
    /// Its index in the round, from 0.
    pub index: u32,
}

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "r{}-{:06}", self.round.0, self.index)
    }
}

impl FromStr for ShardId {
    type Err = InvalidId;
    fn from_str(value: &str) -> Result<Self, InvalidId> {
        let parse = || {
            let (round, index) = value.strip_prefix('r')?.split_once('-')?;
            let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
            if !digits(round) || !digits(index) {
                return None;
            }
            Some(ShardId { round: Round(round.parse().ok()?), index: index.parse().ok()? })
        };
        match parse() {
            Some(id) if id.to_string() == value => Ok(id),
            _ => Err(invalid("shard id", value, "is not of the form r0-000012")),
        }
    }
}

impl TryFrom<String> for ShardId {
    type Error = InvalidId;
    fn try_from(value: String) -> Result<Self, InvalidId> {
        value.parse()
    }
}

impl From<ShardId> for String {
    fn from(id: ShardId) -> String {
        id.to_string()
    }
}

/// The seed of a task's noise: 0 to 2^53 - 1, so that every JSON reader keeps it exact.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct Seed(u64);

impl Seed {
    /// The largest seed.
    pub const MAX: u64 = (1 << 53) - 1;

    /// Checks that `value` is at most [`Seed::MAX`].
    pub fn new(value: u64) -> Result<Self, InvalidId> {
        if value > Self::MAX {
            return Err(invalid("seed", &value.to_string(), format!("is above {} (2^53 - 1)", Self::MAX)));
        }
        Ok(Self(value))
    }

    /// The seed of a task that names none: the first 53 bits of SHA-256(run seed, little endian ‖ custom_id).
    pub fn derive(run_seed: Seed, custom_id: &CustomId) -> Self {
        let digest = Sha256::new().chain_update(run_seed.0.to_le_bytes()).chain_update(custom_id.as_str()).finalize();
        let mut first = [0; 8];
        first.copy_from_slice(&digest[..8]);
        Self(u64::from_le_bytes(first) & Self::MAX)
    }

    /// The seed that comes so many later; after the largest one comes 0.
    #[must_use]
    pub fn later(self, by: u32) -> Self {
        Self((self.0 + u64::from(by)) % (Self::MAX + 1))
    }

    /// The seed as a number.
    pub fn get(self) -> u64 {
        self.0
    }
}

impl TryFrom<u64> for Seed {
    type Error = InvalidId;
    fn try_from(value: u64) -> Result<Self, InvalidId> {
        Self::new(value)
    }
}

impl From<Seed> for u64 {
    fn from(seed: Seed) -> u64 {
        seed.0
    }
}

impl fmt::Display for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A SHA-256 digest, written as 64 lower-case hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Sha256Hex(String);

impl Sha256Hex {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(hex::encode(Sha256::digest(bytes)))
    }

    /// A digest computed piece by piece.
    pub fn from_digest(digest: [u8; 32]) -> Self {
        Self(hex::encode(digest))
    }

    /// The digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The bytes that the digits stand for.
    pub fn digest(&self) -> [u8; 32] {
        let mut digest = [0; 32];
        hex::decode_to_slice(&self.0, &mut digest).expect("a digest has 64 hexadecimal digits");
        digest
    }
}

impl TryFrom<String> for Sha256Hex {
    type Error = InvalidId;
    fn try_from(value: String) -> Result<Self, InvalidId> {
        if value.len() == 64 && value.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            Ok(Self(value))
        } else {
            Err(invalid("sha256", &value, "is not 64 lower-case hexadecimal digits"))
        }
    }
}

impl From<Sha256Hex> for String {
    fn from(digest: Sha256Hex) -> String {
        digest.0
    }
}

impl fmt::Display for Sha256Hex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_of_devices_are_known_whatever_their_case_and_extension() {
        let is_special = |id: &str| CustomId::new(id).unwrap().is_special_on_windows();
        for special in ["con", "CON", "nul.png", "aux.tar.gz", "Com1", "lpt9.x", "a."] {
            assert!(is_special(special), "{special}");
        }
        for fine in ["contour", "com", "com10", "com0", "lptx", "nul-1", "a.con", "_con", "0001"] {
            assert!(!is_special(fine), "{fine}");
        }
    }

    #[test]
    fn an_id_that_could_leave_its_folder_is_refused() {
        for bad in ["", "..", ".hidden", "-rf", "a/b", "a\\b", "a\0b", "a b", "é", &"x".repeat(129)] {
            assert!(CustomId::new(bad).is_err(), "{bad:?}");
        }
        for good in ["a", "0", "_x", "ocean.seagull-01", &"x".repeat(128)] {
            assert!(CustomId::new(good).is_ok(), "{good:?}");
        }
        assert!(Pool::new("gpu.dead").unwrap_err().problem.contains("dead-letter queue"));
        assert!(Pool::new("dead").is_ok() && CustomId::new("gpu.dead").is_ok());
    }

    #[test]
    fn a_seed_depends_on_the_run_and_on_the_task() {
        let (a, b) = (CustomId::new("a").unwrap(), CustomId::new("b").unwrap());
        let (s, t) = (Seed::new(1).unwrap(), Seed::new(2).unwrap());
        assert_eq!(Seed::derive(s, &a), Seed::derive(s, &a));
        assert_ne!(Seed::derive(s, &a), Seed::derive(s, &b));
        assert_ne!(Seed::derive(s, &a), Seed::derive(t, &a));
        assert!(Seed::new(Seed::MAX + 1).is_err());
    }

    proptest! {
        #[test]
        fn a_shard_id_survives_its_text(round in 0u32..1000, index in any::<u32>()) {
            let id = ShardId { round: Round(round), index };
            prop_assert_eq!(id.to_string().parse::<ShardId>().unwrap(), id);
        }

        #[test]
        fn no_text_makes_a_shard_id_panic(text in "\\PC*") {
            let _ = text.parse::<ShardId>();
        }
    }
}
