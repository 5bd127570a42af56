//! How much of a fleet one token may take.

use std::ops::RangeInclusive;

use diorama_core::id::Pool;
use serde::Deserialize;

use crate::api::{Problem, SubmitRequest};

/// The limits of a token, as the file has them in `[token.limits]`; what is left out is not limited.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Limits {
    /// Runs of its name that have not ended, at a time.
    pub(crate) active_runs: Option<u64>,
    /// Rows of one run.
    pub(crate) rows: Option<u64>,
    /// Bytes of one manifest or one uploaded reference.
    pub(crate) bytes: Option<u64>,
    /// References that it uploads in an hour, to each coordinator.
    pub(crate) blobs: Option<u64>,
    /// Streams of events that it follows at a time, at each coordinator.
    pub(crate) streams: Option<usize>,
    /// The lowest and the highest priority of its runs.
    pub(crate) priority: Option<[i32; 2]>,
    /// The lowest and the highest weight of its runs.
    pub(crate) weight: Option<[u32; 2]>,
    /// The pools that it may use.
    pub(crate) pools: Option<Vec<Pool>>,
}

impl Limits {
    /// The lower one of the coordinator's own limit and the token's, in bytes.
    pub(crate) fn bytes(&self, own: u64) -> u64 {
        self.bytes.map_or(own, |bytes| bytes.min(own))
    }

    /// Refuses what a run of this token may not be.
    pub(crate) fn check_request(&self, request: &SubmitRequest) -> Result<(), Problem> {
        within("priority", request.priority, self.priority.map(|[low, high]| low..=high))?;
        within("weight", request.weight, self.weight.map(|[low, high]| low..=high))?;
        match &self.pools {
            Some(pools) if !pools.contains(&request.pool) => {
                let pools: Vec<_> = pools.iter().map(Pool::as_str).collect();
                let message =
                    format!("your token may not use the pool {}; it may use: {}", request.pool, pools.join(", "));
                Err(Problem::new(403, "pool_not_yours", message))
            }
            _ => Ok(()),
        }
    }

    /// Refuses a run of more rows than the token's.
    pub(crate) fn check_rows(&self, rows: u64) -> Result<(), Problem> {
        match self.rows {
            Some(most) if rows > most => {
                let message =
                    format!("the manifest has {rows} rows, but your token allows at most {most} per run: split it");
                Err(Problem::new(403, "too_many_rows", message))
            }
            _ => Ok(()),
        }
    }
}

fn within<N: PartialOrd + std::fmt::Display>(
    what: &str,
    given: N,
    allowed: Option<RangeInclusive<N>>,
) -> Result<(), Problem> {
    match allowed {
        Some(allowed) if !allowed.contains(&given) => {
            let (low, high) = (allowed.start(), allowed.end());
            let message = format!("the {what} {given} is outside your token's range, which is {low} to {high}");
            Err(Problem::new(403, "beyond_your_limits", message))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_run_is_held_to_the_priority_weight_pools_and_rows_of_its_token() {
        let limits: Limits =
            toml::from_str("priority = [-10, 0]\nweight = [1, 4]\npools = [\"a\", \"b\"]\nrows = 10").unwrap();
        let code = |limits: &Limits, spec: serde_json::Value| {
            let request: SubmitRequest = serde_json::from_value(spec).unwrap();
            limits.check_request(&request).map_err(|problem| problem.code)
        };
        assert_eq!(code(&limits, json!({ "pool": "a", "priority": -10, "weight": 4 })), Ok(()));
        assert_eq!(code(&limits, json!({ "pool": "a", "priority": 1 })), Err("beyond_your_limits".to_owned()));
        assert_eq!(code(&limits, json!({ "pool": "a", "weight": 5 })), Err("beyond_your_limits".to_owned()));
        assert_eq!(code(&limits, json!({ "pool": "c" })), Err("pool_not_yours".to_owned()));
        assert_eq!(code(&Limits::default(), json!({ "pool": "c", "priority": 100, "weight": 1000 })), Ok(()));
        assert!(limits.check_rows(10).is_ok() && limits.check_rows(11).is_err());
        assert_eq!((limits.bytes(5), Limits { bytes: Some(3), ..limits }.bytes(5)), (5, 3));
        toml::from_str::<Limits>("prority = [0, 1]").unwrap_err();
    }
}
