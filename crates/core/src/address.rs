//! Addresses that users write for what lies in an object store, and which of those the fleet reads for them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::key::is_of_fleet;

/// The bucket and the key of `s3://bucket/key`; `None` for what is not of that form.
pub fn bucket_and_key(address: &str) -> Option<(&str, &str)> {
    let (bucket, key) = address.strip_prefix("s3://")?.split_once('/')?;
    (!bucket.is_empty() && !key.is_empty()).then_some((bucket, key))
}

/// A bucket, or what lies below a prefix in one: `bucket` or `bucket/some/prefix`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Place {
    bucket: String,
    /// Without slashes at its ends; may be empty.
    prefix: String,
}

/// A place that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a bucket and prefix; write it as bucket or bucket/prefix")]
pub struct InvalidPlace(String);

impl Place {
    /// A prefix of a bucket; the empty one is the whole bucket.
    pub fn new(bucket: &str, prefix: &str) -> Self {
        Self { bucket: bucket.to_owned(), prefix: prefix.trim_matches('/').to_owned() }
    }

    /// What of the key lies below this place, where it does.
    fn below<'a>(&self, bucket: &str, key: &'a str) -> Option<&'a str> {
        if bucket != self.bucket {
            return None;
        }
        match self.prefix.as_str() {
            "" => Some(key),
            prefix => key.strip_prefix(prefix)?.strip_prefix('/'),
        }
    }
}

impl FromStr for Place {
    type Err = InvalidPlace;
    fn from_str(text: &str) -> Result<Self, InvalidPlace> {
        let (bucket, prefix) = text.strip_prefix("s3://").unwrap_or(text).split_once('/').unwrap_or((text, ""));
        let bucket = bucket.strip_prefix("s3://").unwrap_or(bucket);
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        let is_good = !bucket.is_empty() && bucket.chars().all(is_plain) && !prefix.split('/').any(is_a_step);
        if is_good { Ok(Self::new(bucket, prefix)) } else { Err(InvalidPlace(text.to_owned())) }
    }
}

impl TryFrom<String> for Place {
    type Error = InvalidPlace;
    fn try_from(text: String) -> Result<Self, InvalidPlace> {
        text.parse()
    }
}

impl From<Place> for String {
    fn from(place: Place) -> Self {
        place.to_string()
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let slash = if self.prefix.is_empty() { "" } else { "/" };
        write!(f, "{}{slash}{}", self.bucket, self.prefix)
    }
}

/// Which objects users may name, as manifests and as references: those below some places, and none of the fleet's own. The
/// store's key reads more than any of them should. By default none.
#[derive(Debug, Clone, Default)]
pub struct Readable {
    places: Vec<Place>,
    own: Option<Place>,
}

impl Readable {
    /// What lies below `places`; `own` is where the fleet keeps its runs.
    pub fn new(places: Vec<Place>, own: Option<Place>) -> Self {
        Self { places, own }
    }

    /// Whether users may name this object.
    pub fn allows(&self, bucket: &str, key: &str) -> bool {
        // What some stores take for another key than it says.
        if key.split('/').any(is_a_step) || key.chars().any(char::is_control) {
            return false;
        }
        let of_fleet = self.own.as_ref().and_then(|own| own.below(bucket, key)).is_some_and(is_of_fleet);
        !of_fleet && self.places.iter().any(|place| place.below(bucket, key).is_some())
    }

    /// The same of `s3://bucket/key`.
    pub fn allows_address(&self, address: &str) -> bool {
        bucket_and_key(address).is_some_and(|(bucket, key)| self.allows(bucket, key))
    }

    /// The same of a key of the fleet's own store.
    pub fn allows_own(&self, key: &str) -> bool {
        self.own.as_ref().is_some_and(|own| {
            let slash = if own.prefix.is_empty() { "" } else { "/" };
            self.allows(&own.bucket, &format!("{}{slash}{key}", own.prefix))
        })
    }
}

fn is_a_step(part: &str) -> bool {
    matches!(part, "." | "..")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn readable(places: &[&str], own: &str) -> Readable {
        Readable::new(places.iter().map(|place| place.parse().unwrap()).collect(), Some(own.parse().unwrap()))
    }

    #[test]
    fn only_what_lies_below_a_place_is_read_and_nothing_by_default() {
        let readable = readable(&["pictures", "s3://shared/team-a/"], "fleet");
        for address in ["s3://pictures/a.png", "s3://pictures/a/b.png", "s3://shared/team-a/m.jsonl"] {
            assert!(readable.allows_address(address), "{address}");
            assert!(!Readable::default().allows_address(address), "{address}");
        }
        for address in [
            "s3://hr/salaries.csv",
            "s3://pictures",
            "s3://pictures/",
            "s3://pictures-of-hr/a.png",
            "s3://shared/team-a",
            "s3://shared/team-ab/m.jsonl",
            "s3://shared/team-b/m.jsonl",
            "s3://shared/team-a/../team-b/m.jsonl",
            "s3://pictures/../hr/a",
            "s3://pictures/./a",
            "s3://pictures/a\nb",
            "s3://arn:aws:s3:us-east-1:123456789012:accesspoint/x/pictures/a",
            "s3://fleet/mine.jsonl",
            "https://pictures/a.png",
        ] {
            assert!(!readable.allows_address(address), "{address}");
        }
    }

    #[test]
    fn the_fleets_own_objects_are_nobodys_to_name_even_where_its_bucket_is_readable() {
        for (readable, root) in
            [(readable(&["fleet"], "fleet"), ""), (readable(&["fleet"], "fleet/diorama"), "diorama/")]
        {
            for ours in ["runs/r/run.json", "index/leader", "index/idempotency/x", "blobs/00"] {
                assert!(!readable.allows("fleet", &format!("{root}{ours}")), "{ours}");
                assert!(!readable.allows_own(ours), "{ours}");
            }
            assert!(
                readable.allows("fleet", &format!("{root}manifests/a.jsonl")) && readable.allows_own("manifests/a")
            );
        }
        assert!(!readable(&["pictures"], "fleet").allows_own("manifests/a"));
    }

    #[test]
    fn a_place_is_a_bucket_with_or_without_a_prefix() {
        for (text, place) in [("a", "a"), ("a/", "a"), ("s3://a", "a"), ("s3://a/b/", "a/b"), ("a/b/c", "a/b/c")] {
            assert_eq!(text.parse::<Place>().unwrap().to_string(), place);
        }
        for bad in ["", "/", "s3://", "s3:///a", "a/../b", "https://a/b", "a b", "*"] {
            assert!(bad.parse::<Place>().is_err(), "{bad}");
        }
    }
}
