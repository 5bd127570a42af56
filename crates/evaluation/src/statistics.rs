//! Means, medians and bootstrap intervals.

use serde::{Deserialize, Serialize};

/// Above this many values the interval is that of the normal distribution: resampling would say the same.
const MOST_RESAMPLED: usize = 10_000;
/// Resamples of an interval.
const RESAMPLES: usize = 2_000;

/// What is said of some numbers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// How many.
    pub count: usize,
    /// Their mean.
    pub mean: f64,
    /// Their median; of an even number of values the mean of the middle two.
    pub median: f64,
    /// The 95 % interval of the mean: percentiles of bootstrap means (Efron 1979), seeded. Of one value, that value.
    pub low: f64,
    /// Its upper end.
    pub high: f64,
}

impl Summary {
    /// `None` of no values. The same values in the same order give the same interval.
    pub fn of(values: &[f64]) -> Option<Self> {
        if values.is_empty() {
            return None;
        }
        let mean = mean(values);
        let (low, high) = interval(values, mean);
        Some(Self { count: values.len(), mean, median: median(values), low, high })
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2.0 }
}

fn interval(values: &[f64], mean: f64) -> (f64, f64) {
    let count = values.len();
    if count == 1 {
        return (mean, mean);
    }
    if count > MOST_RESAMPLED {
        let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (count - 1) as f64;
        let half = 1.959_964 * (variance / count as f64).sqrt();
        return (mean - half, mean + half);
    }
    let mut random = fastrand::Rng::with_seed(count as u64);
    let mut means: Vec<f64> =
        (0..RESAMPLES).map(|_| (0..count).map(|_| values[random.usize(..count)]).sum::<f64>() / count as f64).collect();
    means.sort_by(f64::total_cmp);
    let at = |share: f64| means[((RESAMPLES - 1) as f64 * share).round() as usize];
    (at(0.025), at(0.975))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_of_nothing_is_absent_and_of_one_value_is_that_value() {
        assert_eq!(Summary::of(&[]), None);
        let one = Summary::of(&[3.5]).unwrap();
        assert_eq!((one.count, one.mean, one.median, one.low, one.high), (1, 3.5, 3.5, 3.5, 3.5));
    }

    #[test]
    fn the_interval_holds_the_mean_narrows_with_more_values_and_is_the_same_each_time() {
        let mut random = fastrand::Rng::with_seed(1);
        let values: Vec<f64> = (0..400).map(|_| random.f64()).collect();
        let (few, many) = (Summary::of(&values[..25]).unwrap(), Summary::of(&values).unwrap());
        assert!(few.low < few.mean && few.mean < few.high);
        assert!(many.high - many.low < (few.high - few.low) / 2.0);
        assert_eq!(Summary::of(&values), Some(many));
        // A uniform mean of 400 has a standard error of 0.0144.
        assert!((many.high - many.low - 2.0 * 1.96 * 0.0144).abs() < 0.006, "{many:?}");
    }

    #[test]
    fn resampling_and_the_normal_interval_agree_where_one_takes_over_from_the_other() {
        let mut random = fastrand::Rng::with_seed(2);
        let values: Vec<f64> = (0..=MOST_RESAMPLED).map(|_| random.f64()).collect();
        let (below, above) = (Summary::of(&values[1..]).unwrap(), Summary::of(&values).unwrap());
        assert!((below.low - above.low).abs() < 5e-4 && (below.high - above.high).abs() < 5e-4, "{below:?} {above:?}");
    }
}
