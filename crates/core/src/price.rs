//! What workers cost, and what a run costs by that.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::id::Pool;

/// What a worker of a pool costs an hour, in whatever currency: `spot=0.9`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PoolPrice {
    /// The pool.
    pub pool: Pool,
    /// From 0.
    pub per_hour: f64,
}

/// A price as people write it: a number from 0.
pub fn amount(text: &str) -> Option<f64> {
    text.parse().ok().filter(|price: &f64| price.is_finite() && *price >= 0.0)
}

/// A price that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a pool's price; write it as POOL=PRICE, such as spot=0.90")]
pub struct InvalidPrice(String);

impl FromStr for PoolPrice {
    type Err = InvalidPrice;
    fn from_str(text: &str) -> Result<Self, InvalidPrice> {
        let parse = || {
            let (pool, price) = text.split_once('=')?;
            Some(Self { pool: Pool::new(pool.trim()).ok()?, per_hour: amount(price.trim())? })
        };
        parse().ok_or_else(|| InvalidPrice(text.to_owned()))
    }
}

impl TryFrom<String> for PoolPrice {
    type Error = InvalidPrice;
    fn try_from(text: String) -> Result<Self, InvalidPrice> {
        text.parse()
    }
}

impl From<PoolPrice> for String {
    fn from(price: PoolPrice) -> Self {
        price.to_string()
    }
}

impl fmt::Display for PoolPrice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.pool, self.per_hour)
    }
}

/// What a run costs: seconds of devices at its pool's price. What workers wait for is not in it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// Of what is committed.
    pub so_far: f64,
    /// Of the tasks that have no outcome yet, if they take as long as those that have one; absent before the first.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub to_come: Option<f64>,
}

impl Cost {
    /// After `settled` tasks that took `device_seconds`, with `left` tasks to go.
    pub fn of(per_hour: f64, device_seconds: f64, settled: u64, left: u64) -> Self {
        let so_far = device_seconds / 3600.0 * per_hour;
        Self { so_far, to_come: (settled > 0).then(|| so_far / settled as f64 * left as f64) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_price_is_a_pool_and_a_number() {
        for (text, shown) in [("default=2.5", "default=2.5"), (" spot = 0 ", "spot=0"), ("a=1e1", "a=10")] {
            assert_eq!(text.parse::<PoolPrice>().unwrap().to_string(), shown);
        }
        for bad in ["default", "default=", "=1", "default=-1", "default=inf", "default=nan", "a b=1", "a=1=2"] {
            assert_eq!(bad.parse::<PoolPrice>(), Err(InvalidPrice(bad.to_owned())));
        }
    }

    #[test]
    fn what_is_to_come_costs_what_the_rest_did() {
        let cost = Cost::of(2.0, 1800.0, 30, 60);
        assert_eq!((cost.so_far, cost.to_come), (1.0, Some(2.0)));
        assert_eq!(Cost::of(2.0, 1800.0, 90, 0).to_come, Some(0.0));
        assert_eq!(Cost::of(2.0, 0.0, 0, 90).to_come, None);
    }
}
