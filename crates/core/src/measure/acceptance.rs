//! Which pictures a run accepts, and which try it keeps where none is accepted.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::expression::{Expression, ExpressionError};
use crate::id::Seed;
use crate::outcome::ErrorCode;

/// What a run accepts: a picture that does not fulfil the condition is made again with the next seeds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Acceptance {
    /// What a picture must fulfil.
    pub condition: Condition,
    /// How often it is made again at most: [`crate::range::ACCEPT_TRIES`].
    pub tries: u32,
}

/// A condition with the text that it was read from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Condition {
    text: String,
    expression: Expression,
}

impl Condition {
    /// What it says.
    pub fn expression(&self) -> &Expression {
        &self.expression
    }
}

impl FromStr for Condition {
    type Err = ExpressionError;

    fn from_str(text: &str) -> Result<Self, ExpressionError> {
        Ok(Self { text: text.to_owned(), expression: text.parse()? })
    }
}

impl TryFrom<String> for Condition {
    type Error = ExpressionError;

    fn try_from(text: String) -> Result<Self, ExpressionError> {
        text.parse()
    }
}

impl From<Condition> for String {
    fn from(condition: Condition) -> Self {
        condition.text
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// One picture that was made of a task, and what it scored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Try {
    /// The seed that it was made with.
    pub seed: Seed,
    /// What was measured, by name.
    #[serde(default)]
    pub measures: BTreeMap<String, f64>,
    /// Whether it fulfils the run's condition.
    pub accepted: bool,
    /// Why this seed gave no picture, or none that could be measured.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub error: Option<ErrorCode>,
}

/// How far a picture is from fulfilling a condition. The less, the better; of equal ones the earlier try is kept.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Miss {
    /// Comparisons that fail and that the condition needs: of an `or`, those of its best part.
    pub failed: u32,
    /// How far the values of those lie from their limits, summed: `|value − limit| / |limit|`, or `|value − limit|` where
    /// the limit is 0. Infinite where a measure is absent.
    pub distance: f64,
}

impl Miss {
    /// Nothing is missed.
    const NONE: Self = Self { failed: 0, distance: 0.0 };

    /// Whether the condition is fulfilled.
    pub fn is_none(&self) -> bool {
        self.failed == 0
    }

    /// Fewer comparisons that fail, then a shorter distance.
    pub fn order(&self, other: &Self) -> Ordering {
        self.failed.cmp(&other.failed).then_with(|| self.distance.total_cmp(&other.distance))
    }

    fn plus(self, other: Self) -> Self {
        Self { failed: self.failed.saturating_add(other.failed), distance: self.distance + other.distance }
    }
}

impl Expression {
    /// How far a picture with these measures is from fulfilling it.
    pub fn miss(&self, measures: &BTreeMap<String, f64>) -> Miss {
        self.miss_as(measures, true)
    }

    /// How far it is from being what is `wanted` of it.
    fn miss_as(&self, measures: &BTreeMap<String, f64>, wanted: bool) -> Miss {
        match (self, wanted) {
            (Self::Not(part), _) => part.miss_as(measures, !wanted),
            (Self::All(parts), true) | (Self::Any(parts), false) => {
                parts.iter().map(|part| part.miss_as(measures, wanted)).fold(Miss::NONE, Miss::plus)
            }
            (Self::Any(parts), true) | (Self::All(parts), false) => {
                let misses = parts.iter().map(|part| part.miss_as(measures, wanted));
                misses.min_by(Miss::order).unwrap_or(Miss::NONE)
            }
            (Self::Compare(..), _) if self.holds(measures) == wanted => Miss::NONE,
            (Self::Compare(name, _, limit), _) => {
                let distance = measures.get(*name).map_or(f64::INFINITY, |value| {
                    (value - limit).abs() / if *limit == 0.0 { 1.0 } else { limit.abs() }
                });
                Miss { failed: 1, distance }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn measures(values: &[(&str, f64)]) -> BTreeMap<String, f64> {
        values.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect()
    }

    /// The place of the try that is kept, as a worker chooses.
    fn kept(condition: &str, tries: &[&[(&str, f64)]]) -> usize {
        let expression: Expression = condition.parse().unwrap();
        let misses = tries.iter().map(|values| expression.miss(&measures(values)));
        misses.enumerate().min_by(|(_, a), (_, b)| a.order(b)).unwrap().0
    }

    #[test]
    fn where_no_try_is_accepted_the_fewest_failures_then_the_nearest_then_the_earliest_is_kept() {
        let both = "clip > 26 and coverage < 0.5";
        // Far away in one beats near in two.
        assert_eq!(kept(both, &[&[("clip", 25.9), ("coverage", 0.51)], &[("clip", 3.0), ("coverage", 0.1)]]), 1);
        // A tenth of the limit each, whatever the unit; then less than a tenth.
        assert_eq!(kept(both, &[&[("clip", 23.4), ("coverage", 0.1)], &[("clip", 30.0), ("coverage", 0.54)]]), 1);
        assert_eq!(kept("clip > 26", &[&[("clip", 20.0)], &[("clip", 20.0)], &[("clip", 19.0)]]), 0);
        // What could not be measured is the worst.
        assert_eq!(kept("clip > 26", &[&[], &[("clip", 0.0)]]), 1);
        assert_eq!(
            kept("structure_distance <= 0", &[&[("structure_distance", 0.2)], &[("structure_distance", 0.1)]]),
            1
        );
    }

    #[test]
    fn of_an_or_the_nearer_part_counts_and_a_not_is_carried_inwards() {
        assert_eq!(kept("psnr > 100 or clip > 26", &[&[("psnr", 20.0), ("clip", 25.0)], &[("psnr", 99.0)]]), 1);
        let neither = "not (coverage > 0.5 or clip < 26)";
        assert_eq!(kept(neither, &[&[("coverage", 0.6), ("clip", 20.0)], &[("coverage", 0.9), ("clip", 30.0)]]), 1);
    }

    #[test]
    fn a_condition_is_written_as_its_text_and_read_again() {
        let acceptance = Acceptance { condition: "clip > 26 and  coverage < 0.6".parse().unwrap(), tries: 3 };
        let json = serde_json::to_string(&acceptance).unwrap();
        assert_eq!(json, r#"{"condition":"clip > 26 and  coverage < 0.6","tries":3}"#);
        assert_eq!(serde_json::from_str::<Acceptance>(&json).unwrap(), acceptance);
        assert!(serde_json::from_str::<Acceptance>(r#"{"condition":"clip >","tries":3}"#).is_err());
    }

    fn expression() -> impl Strategy<Value = Expression> {
        let names = prop::sample::select(vec!["psnr", "clip", "coverage"]);
        let signs = prop::sample::select(vec!["<", "<=", ">", ">=", "=", "!="]);
        let leaf = (names, signs, -2..3_i32)
            .prop_map(|(name, sign, limit)| format!("{name} {sign} {limit}").parse::<Expression>().unwrap());
        leaf.prop_recursive(4, 24, 3, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 1..4).prop_map(Expression::All),
                prop::collection::vec(inner.clone(), 1..4).prop_map(Expression::Any),
                inner.prop_map(|part| Expression::Not(Box::new(part))),
            ]
        })
    }

    proptest! {
        #[test]
        fn nothing_is_missed_exactly_where_the_condition_holds(
            expression in expression(),
            values in prop::collection::btree_map(
                prop::sample::select(vec!["psnr".to_owned(), "clip".to_owned(), "coverage".to_owned()]),
                (-2..3_i32).prop_map(f64::from),
                0..4,
            ),
        ) {
            prop_assert_eq!(expression.miss(&values).is_none(), expression.holds(&values));
        }
    }
}
