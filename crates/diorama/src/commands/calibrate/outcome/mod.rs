//! What a calibration says: its table, and the file of settings beside the model.

use std::fs;
use std::path::Path;

use diorama_core::settings::Score;
use diorama_evaluation::statistics::Summary;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::goal::Goal;
use super::rows::unwritable;
use super::search::{Allotment, Candidate, Column, Figures, Step};
use super::space::{Axis, Space};
use crate::exit::Failure;

/// Settings that are compared at the end, on pictures that the search did not see.
pub(super) struct Finalist {
    pub(super) name: &'static str,
    pub(super) column: Column,
}

/// Everything that was measured.
pub(super) struct Outcome {
    pub(super) goal: Goal,
    pub(super) allotment: Allotment,
    /// Rows of either half.
    pub(super) rows: [usize; 2],
    /// Pictures that the figures are of.
    pub(super) pictures: usize,
    pub(super) steps: Vec<Step>,
    /// Those in force first, then what was found, where that is something else, then the others.
    pub(super) finalists: Vec<Finalist>,
    pub(super) found: Candidate,
    pub(super) in_force: Candidate,
}

/// The differences of two columns, picture by picture.
#[derive(Debug, Clone, Copy, serde::Serialize)]
pub(super) struct Difference {
    pub(super) subject: Summary,
    pub(super) place: Summary,
}

impl Difference {
    /// `None` where no picture has figures of both.
    pub(super) fn of(column: &Column, less: &Column) -> Option<Self> {
        let both: Vec<(Figures, Figures)> = column.iter().zip(less).filter_map(|(a, b)| Some(((*a)?, (*b)?))).collect();
        let of = |value: fn(&Figures) -> f64| {
            Summary::of(&both.iter().map(|(a, b)| value(a) - value(b)).collect::<Vec<f64>>())
        };
        Some(Self { subject: of(|figures| figures.subject)?, place: of(|figures| figures.place)? })
    }

    /// Whether settings with these differences from those in force are at least as good: neither the subject nor the
    /// place has lost; or the subject, which comes first, is there clearly more often.
    fn is_as_good(&self, slack: f64) -> bool {
        (self.subject.mean >= 0.0 && self.place.mean >= 0.0) || self.subject.mean > slack
    }
}

impl Outcome {
    /// Whether what was found takes the place of what is in force: not where it is the same, failed on a picture, or is
    /// not as good on pictures that the search did not see.
    pub(super) fn replaces(&self) -> bool {
        let [in_force, found, ..] = self.finalists.as_slice() else { return false };
        let whole =
            found.column.iter().zip(&in_force.column).all(|(found, in_force)| found.is_some() || in_force.is_none());
        self.found != self.in_force
            && whole
            && Difference::of(&found.column, &in_force.column)
                .is_some_and(|difference| difference.is_as_good(self.goal.subject.slack()))
    }

    /// What comes of it, in a sentence.
    pub(super) fn verdict(&self) -> &'static str {
        if self.found == self.in_force {
            "nothing better than the settings in force was found; they stay:"
        } else if self.replaces() {
            "what was found is at least as good on pictures that the search did not see; written to:"
        } else {
            "what was found is not as good on pictures that the search did not see; the settings in force stay:"
        }
    }

    /// For people.
    pub(super) fn table(&self, space: &Space) -> String {
        let mut text = format!(
            "subject: {}, place: PSNR in dB {}\nsearched on {} pictures of {} rows, confirmed on {} pictures of {} other \
             rows; {} pictures in all\n\n{:<44} {:>8} {:>8} {:>7}  place less the first's (95 %)\n",
            self.goal.subject.measure(),
            self.goal.place.words(),
            self.allotment.search,
            self.rows[0].min(self.allotment.search),
            self.allotment.confirm,
            self.rows[1].min(self.allotment.confirm),
            self.pictures,
            "",
            "pictures",
            "subject",
            "place",
        );
        for step in &self.steps {
            for (at, (candidate, column)) in step.tried.iter().enumerate() {
                let name = described(step.axis, candidate, space);
                let first = &step.tried[0].1[..column.len()].to_vec();
                text += &line(&name, column, (at > 0).then_some(first), if at == step.best { " ←" } else { "" });
            }
            text.push('\n');
        }
        text += "on the pictures that were held back:\n";
        let first = self.finalists.first().map(|first| &first.column);
        for (at, finalist) in self.finalists.iter().enumerate() {
            text += &line(finalist.name, &finalist.column, first.filter(|_| at > 0), "");
        }
        text
    }

    /// For programs, and for the file.
    pub(super) fn json(&self, space: &Space) -> Value {
        let figures = |column: &Column| {
            let of =
                |value: fn(&Figures) -> f64| Summary::of(&column.iter().flatten().map(value).collect::<Vec<f64>>());
            json!({ "subject": of(|figures| figures.subject), "place": of(|figures| figures.place) })
        };
        let tried = |step: &Step| {
            let one = |(at, (candidate, column)): (usize, &(Candidate, Column))| {
                let mut one = json!({ "settings": candidate, "figures": figures(column) });
                if at == step.best {
                    one["best"] = true.into();
                }
                one
            };
            json!({ "axis": step.axis, "tried": step.tried.iter().enumerate().map(one).collect::<Vec<_>>() })
        };
        let first = self.finalists.first().map(|first| &first.column);
        let finalist = |finalist: &Finalist| {
            let less = first.and_then(|first| Difference::of(&finalist.column, first));
            json!({ "name": finalist.name, "figures": figures(&finalist.column), "less_in_force": less })
        };
        json!({
            "subject": self.goal.subject.measure(), "place": self.goal.place, "timesteps": space.timesteps,
            "pictures": self.pictures, "searched_on": self.allotment.search, "confirmed_on": self.allotment.confirm,
            "search": self.steps.iter().map(tried).collect::<Vec<_>>(),
            "confirmed": self.finalists.iter().map(finalist).collect::<Vec<_>>(),
            "found": self.found, "replaced": self.replaces(),
        })
    }
}

fn line(name: &str, column: &Column, first: Option<&Column>, mark: &str) -> String {
    let figures: Vec<&Figures> = column.iter().flatten().collect();
    let count = figures.len().max(1) as f64;
    let mean = |value: fn(&Figures) -> f64| figures.iter().map(|figures| value(figures)).sum::<f64>() / count;
    if figures.is_empty() {
        return format!("{name:<44} {:>8}\n", "failed");
    }
    let difference = first
        .and_then(|first| Difference::of(column, first))
        .map(|Difference { place, .. }| format!("  {:+.2} ({:+.2} to {:+.2})", place.mean, place.low, place.high));
    format!(
        "{name:<44} {:>8} {:>8.3} {:>7.2}{}{mark}\n",
        figures.len(),
        mean(|figures| figures.subject),
        mean(|figures| figures.place),
        difference.unwrap_or_default()
    )
}

/// What an axis varies of a candidate.
fn described(axis: Axis, candidate: &Candidate, space: &Space) -> String {
    match (axis, candidate.score, candidate.layers.as_slice()) {
        (Axis::Score, Score::GuidanceDifference, _) => candidate.score.to_string(),
        (Axis::Score, score, [layer]) => format!("{score}, {}", short(layer)),
        (Axis::Score, score, layers) => {
            let block = layers.first().map(|layer| short(layer)).unwrap_or_default();
            format!("{score}, {block} and {} more", layers.len().saturating_sub(1))
        }
        (Axis::Threshold, ..) => format!("threshold {}", candidate.threshold),
        (Axis::EditSteps, ..) => {
            let steps: Vec<String> = candidate.edit_steps.iter().map(u32::to_string).collect();
            format!("edit steps {} of {}", steps.join(", "), space.timesteps)
        }
    }
}

/// `up_blocks.2.attentions.1.transformer_blocks.0.attn2` says no more than `up_blocks.2.attentions.1`, but in models with
/// several transformer blocks.
fn short(layer: &str) -> String {
    layer.replace(".transformer_blocks.0.attn2", "")
}

/// What stands in a file of settings already; nothing where there is none.
///
/// # Errors
/// Where it is no object of JSON: it would be lost.
pub(super) fn standing(path: &Path) -> Result<Map<String, Value>, Failure> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Map::new()),
        Err(error) => return Err(Failure::permanent(anyhow::anyhow!("{} cannot be read: {error}", path.display()))),
    };
    serde_json::from_str(&text).map_err(|error| {
        let problem = format!("{} holds no object of JSON ({error}); choose another file with --out", path.display());
        Failure::permanent(anyhow::anyhow!(problem))
    })
}

/// Writes the settings into a file as a whole; what else stands in it stays.
pub(super) fn write(
    path: &Path,
    mut standing: Map<String, Value>,
    outcome: &Outcome,
    space: &Space,
    conditions: Map<String, Value>,
) -> Result<(), Failure> {
    if outcome.replaces() {
        let found = &outcome.found;
        standing.insert("score".into(), json!(found.score));
        standing.insert("layers".into(), json!(found.layers));
        standing.insert("threshold".into(), json!(found.threshold));
        standing.insert("edit_fractions".into(), json!(space.shares(&found.edit_steps)));
    }
    let arguments = std::env::args().skip(1).collect::<Vec<_>>().join(" ");
    let mut calibration = conditions;
    calibration.insert("at".into(), Timestamp::now().to_string().into());
    calibration.insert("command".into(), format!("diorama {arguments}").into());
    calibration.extend(outcome.json(space).as_object().cloned().unwrap_or_default());
    standing.insert("calibration".into(), calibration.into());
    let draft = path.with_extension("json.part");
    let text = format!("{:#}\n", Value::Object(standing));
    fs::write(&draft, text).and_then(|()| fs::rename(&draft, path)).map_err(|error| unwritable(path, error))
}

#[cfg(test)]
mod tests;
