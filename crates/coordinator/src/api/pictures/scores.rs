//! How the scores of a run's pictures lie: histograms over shards that are spread evenly over it.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use diorama_core::id::ShardId;
use diorama_core::outcome::Outcome;
use futures::{StreamExt, TryStreamExt, stream};
use serde::Serialize;
use utoipa::ToSchema;

use super::shards::{committed, void};
use crate::api::{Opened, Problem, Shared};

/// Shards that are looked at.
const SHARDS: usize = 48;

/// Shards that are read at a time.
const AT_ONCE: usize = 16;

/// Bars of a histogram.
const BINS: usize = 20;

/// Warnings that are listed.
const WARNINGS: usize = 20;

/// The share of the picture that the mask covers, among the other measures.
const COVERAGE: &str = "mask_coverage";

/// How the scores of a run lie.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Scores {
    /// Pictures that were looked at.
    pictures: u64,
    /// Pictures that the shards of round 0 have, about: those looked at are spread evenly over them.
    of: u64,
    measures: BTreeMap<String, Histogram>,
    /// Warnings of the pictures looked at, by how often they come.
    warnings: BTreeMap<String, u64>,
}

/// A measure's values.
#[derive(Debug, PartialEq, Serialize, ToSchema)]
struct Histogram {
    /// Where the first bar begins.
    from: f64,
    /// Where the last bar ends.
    to: f64,
    /// Pictures a bar; all bars are equally wide.
    counts: Vec<u64>,
    mean: f64,
    median: f64,
}

/// Histograms of the scores of a run's pictures, of a sample that is spread evenly over its shards.
#[utoipa::path(get, path = "/v1/runs/{run}/scores", tag = "pictures", params(("run" = String, Path)),
    responses((status = 200, body = Scores), (status = 404, body = Problem)))]
pub(super) async fn scores(State(api): State<Shared>, run: Opened) -> Result<Json<Scores>, Problem> {
    let nothing = Scores { pictures: 0, of: 0, measures: BTreeMap::new(), warnings: BTreeMap::new() };
    let Some(round) = run.history.rounds().first() else { return Ok(Json(nothing)) };
    let committed = committed(&api, &run, round, &void(&run, round.round).await?).await?;
    let committed: Vec<u32> = committed.iter().collect();
    let chosen = spread(&committed, SHARDS).into_iter().map(|index| ShardId { round: round.round, index });
    let (shelf, opened) = (&api.shelf, &run);
    let read = stream::iter(chosen).map(|shard| shelf.marker(opened, shard)).buffered(AT_ONCE);
    let markers: Vec<_> = read.try_collect().await?;

    let mut values: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    let (mut pictures, mut outcomes, mut warned) = (0, 0, BTreeMap::new());
    for outcome in markers.iter().flatten().flat_map(|marker| &marker.outcomes) {
        outcomes += 1;
        let Outcome::Done { mask_coverage, scores, measures, warnings, .. } = &outcome.outcome else { continue };
        pictures += 1;
        let measured = named(scores).chain(named(measures));
        for (name, value) in mask_coverage.iter().map(|value| (COVERAGE, value)).chain(measured) {
            values.entry(name.to_owned()).or_default().push(*value);
        }
        for warning in warnings {
            *warned.entry(warning.clone()).or_default() += 1;
        }
    }
    let of = match outcomes {
        0 => 0,
        outcomes => (committed.len() as u64 * u64::from(run.spec.shard_size)).min(run.spec.tasks) * pictures / outcomes,
    };
    let measures = values.into_iter().filter_map(|(name, values)| Some((name, histogram(values)?))).collect();
    let mut often: Vec<(String, u64)> = warned.into_iter().collect();
    often.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    often.truncate(WARNINGS);
    Ok(Json(Scores { pictures, of, measures, warnings: often.into_iter().collect() }))
}

fn named(scores: &BTreeMap<String, f64>) -> impl Iterator<Item = (&str, &f64)> {
    scores.iter().map(|(name, value)| (name.as_str(), value))
}

/// At most `most` of them, evenly spread.
fn spread(indices: &[u32], most: usize) -> Vec<u32> {
    let wanted = indices.len().min(most);
    (0..wanted).map(|number| indices[number * indices.len() / wanted]).collect()
}

/// `None` without a value. Shares go from 0 to 1; everything else from its least value to its largest.
fn histogram(mut values: Vec<f64>) -> Option<Histogram> {
    values.retain(|value| value.is_finite());
    values.sort_by(f64::total_cmp);
    let (least, largest) = (*values.first()?, *values.last()?);
    let (from, to) = if least >= 0.0 && largest <= 1.0 { (0.0, 1.0) } else { (least, largest) };
    let width = (to - from) / BINS as f64;
    let mut counts = vec![0; BINS];
    for value in &values {
        let bin = if width > 0.0 { ((value - from) / width) as usize } else { 0 };
        counts[bin.min(BINS - 1)] += 1;
    }
    let middle = values.len() / 2;
    let median = if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 };
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    Some(Histogram { from, to, counts, mean, median })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_spread_evenly_and_has_each_shard_once() {
        assert!(spread(&[], 4).is_empty());
        assert_eq!(spread(&[3, 5], 4), [3, 5]);
        let all: Vec<u32> = (0..1000).collect();
        assert_eq!(spread(&all, 4), [0, 250, 500, 750]);
    }

    #[test]
    fn every_value_is_in_a_bar() {
        assert_eq!(histogram(vec![]), None);
        let shares = histogram(vec![0.0, 0.04, 0.5, 1.0]).unwrap();
        assert_eq!(
            (shares.from, shares.to, shares.counts[0], shares.counts[10], shares.counts[19]),
            (0.0, 1.0, 2, 1, 1)
        );
        assert_eq!((shares.mean, shares.median), (0.385, 0.27));
        let decibel = histogram(vec![20.0, 30.0, 40.0]).unwrap();
        assert_eq!((decibel.from, decibel.to, decibel.median), (20.0, 40.0, 30.0));
        assert_eq!(decibel.counts.iter().sum::<u64>(), 3);
        let same = histogram(vec![7.0, 7.0]).unwrap();
        assert_eq!((same.from, same.to, same.counts[0]), (7.0, 7.0, 2));
    }
}
