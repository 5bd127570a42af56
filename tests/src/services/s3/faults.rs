//! What goes wrong at the S3 server, as a test says it and as the server reads it: settings for all requests, and rules for
//! some of them.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

/// What goes wrong at the server.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Faults {
    /// The share of requests that are answered with 503.
    pub refuse: f64,
    /// Milliseconds that every request waits.
    pub delay_ms: u64,
    /// `If-None-Match` is ignored, as some stores do.
    pub ignore_conditions: bool,
    /// An object's body stands still after so many bytes, and does not end.
    pub stall_after: Option<u64>,
    /// What befalls some requests; of the rules that fit a request, the first counts.
    pub rules: Vec<Rule>,
}

impl Faults {
    /// Nothing but these rules.
    pub fn by(rules: impl IntoIterator<Item = Rule>) -> Self {
        Self { rules: rules.into_iter().collect(), ..Self::default() }
    }

    /// Every kind of lie again and again, so that whoever asks meets each of them, and gets through all the same: what is
    /// done is answered with a fault, what is answered with a fault is done late, pages are short and empty.
    pub fn lying() -> Self {
        let lost = |code: &str| Lie::LoseAnswer { code: code.to_owned() };
        let late = Lie::Late { code: "InternalError".to_owned(), after_ms: Some(700) };
        Self::by([
            Rule::new("put_object", lost("InternalError")).every(5),
            Rule::new("put_object", lost("ConditionalRequestConflict")).every(6),
            Rule::new("put_object", late.clone()).every(7),
            // Large files are few: the first of them meets these.
            Rule::new("create_multipart_upload", lost("InternalError")).times(1),
            Rule::new("upload_part", lost("RequestTimeout")).times(1),
            Rule::new("complete_multipart_upload", lost("InternalError")).times(1),
            Rule::new("delete_object", lost("InternalError")).every(2),
            Rule::new("delete_object", late).every(3),
            Rule::new("delete_objects", lost("SlowDown")).every(2),
            Rule::new("head_object", Lie::Refuse { code: "SlowDown".to_owned() }).every(4),
            Rule::new("list_objects_v2", Lie::Page { most: 0 }).every(3),
            Rule::new("list_objects_v2", Lie::Page { most: 2 }).every(2),
        ])
    }

    /// Every request of `kind` is answered with `code`.
    pub fn answering(kind: &str, code: &str) -> Self {
        Self::by([Rule::new(kind, Lie::Refuse { code: code.to_owned() })])
    }
}

/// What befalls requests of one kind. It applies to each of them, unless it is narrowed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rule {
    /// Tells it from all other rules, so that it is counted whatever else is set meanwhile.
    id: u64,
    /// `put_object`, `upload_part` …
    pub kind: String,
    /// A part of the key, or of a listing's prefix.
    pub key: String,
    /// To how many requests it applies.
    pub times: Option<u64>,
    /// Of the requests that it fits, it applies to every so many-th one.
    pub every: u64,
    /// What befalls them.
    pub lie: Lie,
}

/// What befalls a request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Lie {
    /// Nothing is done, and the answer is this code of S3.
    Refuse { code: String },
    /// It is done, and the answer is this code of S3 all the same.
    LoseAnswer { code: String },
    /// The answer is this code of S3, at once, and it is done later.
    Late {
        code: String,
        /// How much later, in milliseconds; where it is not said, when the rule is no longer in force.
        after_ms: Option<u64>,
    },
    /// Nothing is done or answered while the rule is in force.
    Hold,
    /// A listing has so many objects a page at the most, none at all included, and says that there are more.
    Page {
        /// Objects a page.
        most: i32,
    },
}

impl Rule {
    /// For every request of the kind.
    pub fn new(kind: &str, lie: Lie) -> Self {
        static RULES: AtomicU64 = AtomicU64::new(0);
        let id = RULES.fetch_add(1, Ordering::Relaxed);
        Self { id, kind: kind.to_owned(), key: String::new(), times: None, every: 1, lie }
    }

    /// Only for keys, or prefixes of listings, that have `part` in them.
    pub fn of(self, part: &str) -> Self {
        Self { key: part.to_owned(), ..self }
    }

    /// Only for the first so many requests that it fits.
    pub fn times(self, times: u64) -> Self {
        Self { times: Some(times), ..self }
    }

    /// Only for every `every`th request that it fits, beginning with the last of the first ones.
    pub fn every(self, every: u64) -> Self {
        Self { every, ..self }
    }

    /// What tells it from all others.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Whether it is about such a request.
    pub fn fits(&self, kind: &str, key: &str) -> bool {
        self.kind == kind && key.contains(&self.key)
    }
}
