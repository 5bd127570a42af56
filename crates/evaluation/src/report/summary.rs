//! Rows to numbers: each measure of each series, whole and by prompt, scene and category; and each series against the
//! first one, task by task.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use diorama_core::measure::MEASURES;
use serde::Serialize;

use crate::error::{Error, Result};
use crate::row::{RegionKind, Row};
use crate::run::Evaluation;
use crate::statistics::Summary;

/// Where there are more groups of a kind, each says nothing.
const MOST_GROUPS: usize = 1000;

/// What rows are filed under.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Group {
    /// The prompt.
    Prompt,
    /// The scene.
    Scene,
    /// The category.
    Category,
}

impl Group {
    /// Every one.
    pub const ALL: [Self; 3] = [Self::Prompt, Self::Scene, Self::Category];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Prompt => "prompt",
            Self::Scene => "scene",
            Self::Category => "category",
        }
    }
}

/// A series against the first one: differences of the tasks that both have.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// The series.
    pub series: String,
    /// What it is compared with.
    pub with: String,
    /// Series less the other, by measure.
    pub differences: BTreeMap<String, Summary>,
}

/// A measure's summaries by series.
pub(super) type BySeries = BTreeMap<String, Summary>;

/// What is said of all rows.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Summaries {
    /// The series in order.
    pub series: Vec<String>,
    /// The measures that any row has, in the order of tables.
    pub measures: Vec<&'static str>,
    /// By measure and series.
    pub whole: BTreeMap<String, BySeries>,
    /// By what rows are filed under, group, measure and series. A kind that has only one
    /// group, or more than 1000, is left out.
    pub groups: BTreeMap<&'static str, BTreeMap<String, BTreeMap<String, BySeries>>>,
    /// Of every series but the first.
    pub comparisons: Vec<Comparison>,
    /// Rows by where their background measures looked.
    pub regions: BTreeMap<&'static str, u64>,
    /// Rows by note.
    pub notes: BTreeMap<String, u64>,
    /// Pictures that have the same perceptual hash as another in their series.
    pub duplicates: u64,
}

/// The values of one series: 8 bytes a measure and row.
#[derive(Default)]
struct Columns {
    tasks: HashMap<String, usize>,
    groups: [Vec<Option<u32>>; 3],
    values: BTreeMap<String, Vec<f64>>,
}

/// Names by number.
#[derive(Default)]
struct Names {
    numbers: HashMap<String, u32>,
    names: Vec<String>,
}

impl Summaries {
    /// Of the rows in a file.
    pub fn of(path: &Path, evaluation: &Evaluation) -> Result<Self> {
        let mut summaries = Self { series: evaluation.series.clone(), ..Self::default() };
        let mut columns: BTreeMap<String, Columns> = BTreeMap::new();
        let mut names: [Names; 3] = Default::default();
        let mut hashes: BTreeMap<String, HashMap<String, u64>> = BTreeMap::new();
        for row in rows(path)? {
            let row = row?;
            summaries.count(&row);
            if let Some(hash) = &row.phash {
                *hashes.entry(row.series.clone()).or_default().entry(hash.clone()).or_default() += 1;
            }
            columns.entry(row.series.clone()).or_default().add(row, &mut names);
        }
        summaries.duplicates = hashes.values().flat_map(HashMap::values).map(|count| count - 1).sum();
        let known = |name: &str| columns.values().any(|columns| columns.values.contains_key(name));
        summaries.measures = MEASURES.iter().map(|measure| measure.name).filter(|name| known(name)).collect();
        for measure in summaries.measures.clone() {
            let by_series = |(series, columns): (&String, &Columns)| {
                Some((series.clone(), Summary::of(&columns.present(measure, |_| true))?))
            };
            summaries.whole.insert(measure.to_owned(), columns.iter().filter_map(by_series).collect());
        }
        let some = |names: &Names| (2..=MOST_GROUPS).contains(&names.names.len());
        for (kind, names) in Group::ALL.into_iter().zip(&names).filter(|(_, names)| some(names)) {
            summaries.groups.insert(kind.name(), grouped(kind as usize, names, &columns, &summaries.measures));
        }
        summaries.comparisons = comparisons(&summaries.series, &columns);
        Ok(summaries)
    }

    fn count(&mut self, row: &Row) {
        if row.measures.contains_key("psnr") {
            let kind = match row.region {
                RegionKind::Whole => "whole",
                RegionKind::Given => "given",
                RegionKind::Common => "common",
            };
            *self.regions.entry(kind).or_default() += 1;
        }
        for note in row.notes.iter().chain(&row.problem) {
            // A hundred thousand files that are gone are a hundred thousand notes: what they have in common is counted.
            let known = self.notes.len() < 50 || self.notes.contains_key(note);
            let note = if known { note.as_str() } else { "other notes" };
            *self.notes.entry(note.to_owned()).or_default() += 1;
        }
    }
}

impl Columns {
    fn add(&mut self, row: Row, names: &mut [Names; 3]) {
        let at = self.tasks.len();
        for (name, value) in row.measures {
            let column = self.values.entry(name).or_default();
            column.resize(at, f64::NAN);
            column.push(value);
        }
        let named = [row.prompt, row.scene, row.category];
        for ((group, names), name) in self.groups.iter_mut().zip(names).zip(named) {
            group.push(name.map(|name| names.number(name)));
        }
        self.tasks.insert(row.custom_id, at);
    }

    /// The value of a measure at a place; `None` where it was not taken.
    fn value(&self, measure: &str, at: usize) -> Option<f64> {
        self.values.get(measure)?.get(at).copied().filter(|value| !value.is_nan())
    }

    fn present(&self, measure: &str, wanted: impl Fn(usize) -> bool) -> Vec<f64> {
        (0..self.tasks.len()).filter(|at| wanted(*at)).filter_map(|at| self.value(measure, at)).collect()
    }
}

impl Names {
    fn number(&mut self, name: String) -> u32 {
        let next = self.names.len() as u32;
        *self.numbers.entry(name.clone()).or_insert_with(|| {
            self.names.push(name);
            next
        })
    }
}

/// By group, measure and series.
fn grouped(
    kind: usize,
    names: &Names,
    columns: &BTreeMap<String, Columns>,
    measures: &[&'static str],
) -> BTreeMap<String, BTreeMap<String, BySeries>> {
    // One pass a series and measure, not one a group: there may be as many prompts as rows.
    let mut all: BTreeMap<String, BTreeMap<String, BySeries>> = BTreeMap::new();
    for (series, columns) in columns {
        for measure in measures {
            let mut values: BTreeMap<u32, Vec<f64>> = BTreeMap::new();
            for (at, group) in columns.groups[kind].iter().enumerate() {
                if let (Some(group), Some(value)) = (group, columns.value(measure, at)) {
                    values.entry(*group).or_default().push(value);
                }
            }
            for (group, values) in values {
                let Some(summary) = Summary::of(&values) else { continue };
                let group = all.entry(names.names[group as usize].clone()).or_default();
                group.entry((*measure).to_owned()).or_default().insert(series.clone(), summary);
            }
        }
    }
    all
}

fn comparisons(series: &[String], columns: &BTreeMap<String, Columns>) -> Vec<Comparison> {
    let Some((first, others)) = series.split_first() else { return Vec::new() };
    let Some(base) = columns.get(first) else { return Vec::new() };
    let compare = |name: &String| {
        let columns = columns.get(name)?;
        let differences = MEASURES.iter().filter_map(|measure| {
            let mut both: Vec<(usize, f64)> = columns
                .tasks
                .iter()
                .filter_map(|(id, at)| {
                    let other = *base.tasks.get(id)?;
                    Some((other, columns.value(measure.name, *at)? - base.value(measure.name, other)?))
                })
                .collect();
            // In the first series' order, so that the interval is the same each time.
            both.sort_by_key(|(at, _)| *at);
            let differences: Vec<f64> = both.into_iter().map(|(_, difference)| difference).collect();
            Some((measure.name.to_owned(), Summary::of(&differences)?))
        });
        Some(Comparison { series: name.clone(), with: first.clone(), differences: differences.collect() })
    };
    others.iter().filter_map(compare).collect()
}

/// The rows of a file, one at a time.
///
/// # Errors
/// [`Error::Input`] where the file cannot be read, or a line is no row.
pub fn rows(path: &Path) -> Result<impl Iterator<Item = Result<Row>>> {
    let file = File::open(path).map_err(|error| Error::input(path, format!("cannot be opened: {error}")))?;
    let path = path.to_owned();
    Ok(BufReader::new(file).lines().enumerate().map(move |(at, line)| {
        let fail = |error: String| Error::input(&path, format!("line {}: {error}", at + 1));
        serde_json::from_str(&line.map_err(|error| fail(error.to_string()))?).map_err(|error| fail(error.to_string()))
    }))
}
