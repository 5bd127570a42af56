//! The search itself: which settings are tried on which pictures, and which of them go on. Asks for figures and is told
//! them; makes no picture and knows no model.
//!
//! One axis after the other (coordinate descent), from the settings in force. On an axis every option is tried on the
//! first half of the pictures, the better half of the options on the rest too (one step of successive halving; Jamieson
//! and Talwalkar 2016). All options share references, prompts and seeds, so that their figures are compared in pairs.

use std::ops::Range;

use diorama_core::settings::{Layers, Score, Settings};
use serde::{Deserialize, Serialize};

use super::space::{Axis, Space};

/// Settings of a mask that are tried.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Candidate {
    pub(super) score: Score,
    /// By their diffusers paths; the guidance difference is taken from none, and keeps those of the settings before.
    pub(super) layers: Vec<String>,
    pub(super) threshold: f64,
    /// The timesteps before which latents are replaced.
    pub(super) edit_steps: Vec<u32>,
}

impl Candidate {
    /// As the settings of a run.
    pub(super) fn settings(&self) -> Settings {
        Settings {
            score: Some(self.score),
            layers: Some(Layers::Paths(self.layers.clone())),
            threshold: Some(self.threshold),
            edit_steps: Some(self.edit_steps.clone()),
            ..Settings::default()
        }
    }
}

/// What one picture is worth.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Figures {
    /// How well the subject is there: more is better.
    pub(super) subject: f64,
    /// How much of the place was kept, in dB: more is better.
    pub(super) place: f64,
}

/// The figures of a candidate's pictures in order; none of one that failed or that nothing was measured of.
pub(super) type Column = Vec<Option<Figures>>;

/// How many pictures the search takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) struct Allotment {
    /// On which every option is tried.
    pub(super) first: usize,
    /// On which the better half of them is tried.
    pub(super) search: usize,
    /// On which what was chosen is confirmed: others than those of the search.
    pub(super) confirm: usize,
    /// Pictures in all, at most.
    pub(super) pictures: usize,
}

impl Allotment {
    /// The fewest pictures of each half from which anything follows.
    const FEWEST: usize = 2;

    /// The most pictures of each half that `budget` pictures in all leave; `options` are those of each axis, `finalists`
    /// how many settings are compared at the end, `most` how many pictures there are of each half.
    ///
    /// # Errors
    /// The budget that would do.
    pub(super) fn of(budget: usize, options: &[usize], finalists: usize, most: usize) -> Result<Self, usize> {
        let of = |search: usize| {
            let first = search.div_ceil(2);
            let axis = |options: &usize| options * first + options.div_ceil(2) * (search - first);
            // Those that lead are measured already where the next axis begins.
            let known = options.len().saturating_sub(1) * search;
            let pictures = options.iter().map(axis).sum::<usize>() - known + finalists * search;
            Self { first, search, confirm: search, pictures }
        };
        let fits = |search: &usize| of(*search).pictures <= budget;
        let least = of(Self::FEWEST).pictures;
        (Self::FEWEST..=most.max(Self::FEWEST)).rev().find(fits).map(of).ok_or(least)
    }
}

/// What is to be measured next.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Round {
    pub(super) axis: Axis,
    pub(super) candidates: Vec<Candidate>,
    /// Of the pictures of the search.
    pub(super) samples: Range<usize>,
}

/// What one axis brought.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Step {
    pub(super) axis: Axis,
    /// The settings that led before it first.
    pub(super) tried: Vec<(Candidate, Column)>,
    /// The place of the one that leads after it.
    pub(super) best: usize,
}

/// A search under way.
pub(super) struct Search {
    space: Space,
    axes: std::vec::IntoIter<Axis>,
    allotment: Allotment,
    /// What the subject may lose against the best.
    slack: f64,
    leader: Candidate,
    steps: Vec<Step>,
    /// The axis under way, with what was measured of the first pictures.
    open: Option<Open>,
}

struct Open {
    axis: Axis,
    options: Vec<Candidate>,
    /// None before the first round was told.
    first: Option<Vec<Column>>,
    /// Those that go on.
    kept: Vec<usize>,
}

impl Search {
    pub(super) fn new(space: Space, axes: Vec<Axis>, start: Candidate, allotment: Allotment, slack: f64) -> Self {
        Self { space, axes: axes.into_iter(), allotment, slack, leader: start, steps: Vec::new(), open: None }
    }

    /// What is to be measured next; nothing once every axis was searched. Asked again, the same, until it is told.
    pub(super) fn round(&mut self) -> Option<Round> {
        let Allotment { first, search, .. } = self.allotment;
        if self.open.is_none() {
            let axis = self.axes.next()?;
            let options = self.space.options(axis, &self.leader);
            self.open = Some(Open { axis, options, first: None, kept: Vec::new() });
        }
        let open = self.open.as_ref()?;
        let (candidates, samples) = match &open.first {
            None => (open.options.clone(), 0..first),
            Some(_) => (open.kept.iter().map(|at| open.options[*at].clone()).collect(), first..search),
        };
        Some(Round { axis: open.axis, candidates, samples })
    }

    /// The figures of the round that [`Search::round`] gave, in the order of its candidates.
    pub(super) fn tell(&mut self, columns: Vec<Column>) {
        let Some(mut open) = self.open.take() else { return };
        match open.first.take() {
            None => {
                open.kept = better_half(&columns, self.slack);
                open.first = Some(columns);
                if self.allotment.first == self.allotment.search {
                    let rest = vec![Column::new(); open.kept.len()];
                    self.close(open, rest);
                } else {
                    self.open = Some(open);
                }
            }
            Some(first) => {
                open.first = Some(first);
                self.close(open, columns);
            }
        }
    }

    fn close(&mut self, open: Open, rest: Vec<Column>) {
        let first = open.first.unwrap_or_default();
        let whole: Vec<Column> =
            open.kept.iter().zip(&rest).map(|(at, rest)| [first[*at].as_slice(), rest].concat()).collect();
        let best = ranking(&whole, self.slack).first().map_or(0, |best| open.kept[*best]);
        let mut tried: Vec<(Candidate, Column)> = open.options.into_iter().zip(first).collect();
        for (at, column) in open.kept.iter().zip(whole) {
            tried[*at].1 = column;
        }
        self.leader = tried[best].0.clone();
        self.steps.push(Step { axis: open.axis, tried, best });
    }

    /// The settings that lead, and how they came to.
    pub(super) fn end(self) -> (Candidate, Vec<Step>) {
        (self.leader, self.steps)
    }
}

/// The better half of the candidates, the first among them in any case, in their order.
fn better_half(columns: &[Column], slack: f64) -> Vec<usize> {
    let mut kept = ranking(columns, slack);
    kept.truncate(columns.len().div_ceil(2));
    if !kept.contains(&0) {
        kept.pop();
        kept.push(0);
    }
    kept.sort_unstable();
    kept
}

/// The candidates from the best: those whose subject is there as often as with the best, but for `slack`, by how much of
/// the place they keep; behind them the others by their subjects; at the end those that failed where another did not. Of
/// equals the earlier one. Means are over the pictures that all have figures of that did not fail.
fn ranking(columns: &[Column], slack: f64) -> Vec<usize> {
    let length = columns.iter().map(Vec::len).max().unwrap_or_default();
    let some = |at: usize| columns.iter().any(|column| column[at].is_some());
    let failed = |column: &Column| (0..length).any(|at| some(at) && column[at].is_none());
    let whole: Vec<bool> = columns.iter().map(|column| !failed(column)).collect();
    let shared: Vec<usize> = (0..length).filter(|at| some(*at)).collect();
    let means: Vec<Option<Figures>> =
        columns.iter().zip(&whole).map(|(column, whole)| whole.then(|| mean(column, &shared)).flatten()).collect();
    let best = means.iter().flatten().map(|mean| mean.subject).fold(f64::NEG_INFINITY, f64::max);
    let key = |at: usize| match means[at] {
        Some(mean) if mean.subject >= best - slack - 1e-9 => (0, -mean.place, 0.0),
        Some(mean) => (1, -mean.subject, -mean.place),
        None => (2, 0.0, 0.0),
    };
    let mut order: Vec<usize> = (0..columns.len()).collect();
    order.sort_by(|a, b| {
        let ((a, x, y), (b, u, v)) = (key(*a), key(*b));
        a.cmp(&b).then(x.total_cmp(&u)).then(y.total_cmp(&v))
    });
    order
}

/// The mean over some of a column's pictures.
fn mean(column: &Column, at: &[usize]) -> Option<Figures> {
    let figures: Vec<Figures> = at.iter().filter_map(|at| column[*at]).collect();
    let count = figures.len() as f64;
    let of = |value: fn(&Figures) -> f64| figures.iter().map(value).sum::<f64>() / count;
    (!figures.is_empty())
        .then(|| Figures { subject: of(|figures| figures.subject), place: of(|figures| figures.place) })
}

#[cfg(test)]
mod tests;
