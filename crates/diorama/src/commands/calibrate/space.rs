//! What may be tried: the axes of the search, and the settings along each.

use diorama_core::settings::Score;
use serde::Serialize;
use strum::{Display, EnumString, VariantNames};

use super::search::Candidate;

/// What is varied together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Display, EnumString, VariantNames)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub(crate) enum Axis {
    /// Which score, of which layers.
    Score,
    /// k in `score > mean + k·std`.
    Threshold,
    /// Before which timesteps latents are replaced.
    EditSteps,
}

const THRESHOLDS: [f64; 5] = [0.0, 0.5, 1.0, 1.5, 2.0];

/// Shares of the timesteps that run: the paper's, then fewer, later and more edits.
const EDITS: [&[f64]; 6] = [
    &[5.0 / 45.0, 18.0 / 45.0, 28.0 / 45.0],
    &[0.2, 0.5, 0.85],
    &[0.2, 0.5, 0.95],
    &[0.5, 0.95],
    &[0.85],
    &[0.1, 0.3, 0.5, 0.7, 0.9],
];

/// The settings that there are for a model.
#[derive(Debug, Clone)]
pub(super) struct Space {
    /// Scores with the layers that they are taken from.
    pub(super) scores: Vec<(Score, Vec<String>)>,
    /// How many timesteps run.
    pub(super) timesteps: u32,
}

impl Space {
    /// The scores of a model with these cross-attention layers, in the order in which they run, of which `can` says
    /// whether they can be had: gradients of the last layer, where they are exact and cheap, and attention of the last
    /// layer and of each block's layers together.
    pub(super) fn of(layers: &[String], timesteps: u32, can: impl Fn(Score, &[String]) -> bool) -> Self {
        let last: Vec<String> = layers.last().cloned().into_iter().collect();
        let of_last = [Score::AbsGrad, Score::ReluGrad, Score::MixedReluGrad, Score::Attention];
        let mut scores: Vec<(Score, Vec<String>)> = of_last.into_iter().map(|score| (score, last.clone())).collect();
        scores.push((Score::GuidanceDifference, last));
        for block in blocks(layers) {
            let whole = (Score::Attention, block);
            if !scores.contains(&whole) {
                scores.push(whole);
            }
        }
        scores.retain(|(score, layers)| can(*score, layers));
        Self { scores, timesteps }
    }

    /// The options of an axis around the settings that lead, which come first.
    pub(super) fn options(&self, axis: Axis, leader: &Candidate) -> Vec<Candidate> {
        let mut options = vec![leader.clone()];
        let others: Vec<Candidate> = match axis {
            Axis::Score => {
                let with = |(score, layers): &(Score, Vec<String>)| Candidate {
                    score: *score,
                    layers: layers.clone(),
                    ..leader.clone()
                };
                self.scores.iter().map(with).collect()
            }
            Axis::Threshold => THRESHOLDS.map(|threshold| Candidate { threshold, ..leader.clone() }).to_vec(),
            Axis::EditSteps => {
                let with = |shares: &[f64]| Candidate { edit_steps: self.steps(shares), ..leader.clone() };
                EDITS.map(with).to_vec()
            }
        };
        for option in others.into_iter().filter(|option| !option.edit_steps.is_empty()) {
            // The guidance difference is taken from no layer: whichever stands beside it.
            let same = |known: &Candidate| match (known.score, option.score) {
                (Score::GuidanceDifference, Score::GuidanceDifference) => {
                    (known.threshold, &known.edit_steps) == (option.threshold, &option.edit_steps)
                }
                _ => *known == option,
            };
            if !options.iter().any(same) {
                options.push(option);
            }
        }
        options
    }

    /// Shares of the timesteps as their numbers, 1 to their count − 1.
    fn steps(&self, shares: &[f64]) -> Vec<u32> {
        let last = self.timesteps.saturating_sub(1);
        let step = |share: &f64| ((share * f64::from(self.timesteps)).round() as u32).clamp(1, last.max(1));
        let mut steps: Vec<u32> = shares.iter().map(step).filter(|step| *step <= last).collect();
        steps.sort_unstable();
        steps.dedup();
        steps
    }

    /// Numbers of timesteps as shares of them, as `diorama.json` has them.
    pub(super) fn shares(&self, steps: &[u32]) -> Vec<f64> {
        // Four digits are exact for a thousand steps, and read well.
        steps.iter().map(|step| (f64::from(*step) / f64::from(self.timesteps) * 1e4).round() / 1e4).collect()
    }
}

/// The layers of each block: what stands before `.attentions.` in their paths.
fn blocks(layers: &[String]) -> Vec<Vec<String>> {
    let mut blocks: Vec<(&str, Vec<String>)> = Vec::new();
    for layer in layers {
        let block = layer.split(".attentions.").next().unwrap_or(layer);
        match blocks.last_mut() {
            Some((name, known)) if *name == block => known.push(layer.clone()),
            _ => blocks.push((block, vec![layer.clone()])),
        }
    }
    blocks.into_iter().map(|(_, layers)| layers).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layers() -> Vec<String> {
        let paths = ["down_blocks.0.attentions.0.x", "mid_block.attentions.0.x", "up_blocks.2.attentions.0.x"];
        paths.into_iter().chain(["up_blocks.2.attentions.1.x"]).map(str::to_owned).collect()
    }

    fn leader() -> Candidate {
        let last = layers().pop().unwrap();
        Candidate { score: Score::AbsGrad, layers: vec![last], threshold: 0.7, edit_steps: vec![5, 18, 28] }
    }

    #[test]
    fn the_settings_that_lead_come_first_and_no_option_comes_twice() {
        let space = Space::of(&layers(), 45, |_, _| true);
        for (axis, count) in [(Axis::Score, 8), (Axis::Threshold, 6), (Axis::EditSteps, 6)] {
            let options = space.options(axis, &leader());
            assert_eq!((&options[0], options.len()), (&leader(), count), "{axis}");
            for (at, option) in options.iter().enumerate() {
                assert!(!options[..at].contains(option), "{axis}: {option:?}");
            }
        }
        let unguided = Space::of(&layers(), 45, |score, _| score != Score::GuidanceDifference);
        assert_eq!(unguided.options(Axis::Score, &leader()).len(), 7, "what cannot be had is left out");
    }

    #[test]
    fn edit_steps_survive_the_way_through_shares_of_any_schedule() {
        for timesteps in 2..=1000 {
            let space = Space::of(&layers(), timesteps, |_, _| true);
            for option in space.options(Axis::EditSteps, &Candidate { edit_steps: vec![1], ..leader() }) {
                assert!(option.edit_steps.iter().all(|step| (1..timesteps).contains(step)), "{timesteps} {option:?}");
                assert_eq!(space.steps(&space.shares(&option.edit_steps)), option.edit_steps, "{timesteps}");
            }
        }
    }
}
