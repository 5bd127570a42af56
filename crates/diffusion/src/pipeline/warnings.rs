//! What the user should know of a picture: that its prompt was cut, that a mask can hardly be right. Each begins with a code
//! that stays, and its words depend on settings, subjects and steps alone, so that the same warning of many pictures can
//! be counted.

use super::request::{Edit, Prompt};
use crate::method::{Score, Settings};

/// Masks that cover less of the picture, or more, were bad in 12 of 12 and 97 of 101 cases, those that cover more of the
/// border in 97 of 99 (docs/method.md, "Masks that can hardly be right").
const SMALL: f64 = 0.03;
const LARGE: f64 = 0.8;
const BORDER: f64 = 0.6;
/// Masks of two words for one object had an IoU of at least 0.58; those of two things 0.12 in the median.
const ALIKE: f64 = 0.55;

/// The warnings of a picture.
pub(super) fn warnings(prompt: &Prompt, settings: &Settings, edits: &[Edit]) -> Vec<String> {
    let mut warnings = Vec::new();
    if let Some(seen) = &prompt.truncated_to {
        warnings.push(format!(
            "prompt_truncated: the prompt is longer than the text encoder reads: what follows {:?} has no effect",
            seen.chars().rev().take(40).collect::<Vec<_>>().into_iter().rev().collect::<String>()
        ));
    }
    for edit in edits {
        warnings.extend(of_extent(edit));
        if edit.coverage > 0.0 && edit.coverage < 1.0 {
            warnings.extend(of_subjects(prompt, settings, edit));
        }
    }
    warnings
}

/// What the whole mask of an edit shows.
fn of_extent(edit: &Edit) -> Option<String> {
    let step = edit.step;
    let percent = |share: f64| share * 100.0;
    if edit.coverage == 0.0 {
        Some(format!(
            "mask_empty: the mask of edit step {step} is empty: the whole picture was put back to the reference; lower \
             threshold"
        ))
    } else if edit.coverage == 1.0 {
        Some(format!(
            "mask_full: the mask of edit step {step} covers everything: nothing was put back; raise threshold or lower \
             dilation"
        ))
    } else if edit.extent.covered < SMALL {
        Some(format!(
            "mask_small: the mask of edit step {step} covers less than {} % of the picture: the subject is probably not in \
             it; lower threshold, or choose other layers",
            percent(SMALL)
        ))
    } else if edit.extent.covered > LARGE {
        Some(format!(
            "mask_large: the mask of edit step {step} covers more than {} % of the picture: unless the subject does, the \
             place is lost; raise threshold, or choose other layers",
            percent(LARGE)
        ))
    } else if edit.extent.border > BORDER {
        Some(format!(
            "mask_border: the mask of edit step {step} covers more than {} % of the picture's border: it is probably the \
             place rather than the subject; choose other layers or another score",
            percent(BORDER)
        ))
    } else {
        None
    }
}

/// What the masks of several subjects show beside each other.
fn of_subjects(prompt: &Prompt, settings: &Settings, edit: &Edit) -> Vec<String> {
    let (step, several) = (edit.step, prompt.subjects.len() > 1);
    let name = |at: usize| prompt.subjects.get(at).map(|subject| subject.text.as_str()).unwrap_or_default();
    let empty = edit.subject_coverage.iter().enumerate().filter(|(_, coverage)| several && **coverage == 0.0);
    let mut warnings: Vec<String> = empty
        .map(|(at, _)| {
            format!(
                "mask_without_subject: the mask of {:?} is empty at edit step {step}, and the reference is put back where \
                 it may be; lower threshold, or name it by another word of the prompt",
                name(at)
            )
        })
        .collect();
    // The guidance difference names no token: every subject has the same mask, and is meant to.
    let alike = edit.most_alike.filter(|(.., alike)| *alike > ALIKE && settings.score != Score::GuidanceDifference);
    if let Some((a, b, _)) = alike {
        warnings.push(format!(
            "mask_shared: the masks of {:?} and {:?} are nearly the same at edit step {step}: the model does not tell them \
             apart, and one of them may be missing; if they are one thing, name it once",
            name(a),
            name(b)
        ));
    }
    warnings
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind, Tensor};

    use super::super::request::Subject;
    use super::*;
    use crate::method::Estimator;
    use crate::method::extent::{Extent, most_alike};
    use crate::method::mask;

    fn coverage(mask: &Tensor) -> f64 {
        mask::coverage(&mask.unsqueeze(0)).unwrap().double_value(&[0])
    }

    /// An edit of masks of 8×8 positions; each says which it covers.
    fn edit(masks: &[&dyn Fn(usize, usize) -> bool]) -> Edit {
        let mask = |covers: &dyn Fn(usize, usize) -> bool| {
            let bits: Vec<bool> = (0..64).map(|at| covers(at % 8, at / 8)).collect();
            Tensor::from_slice(&bits).view([1, 8, 8])
        };
        let masks: Vec<Tensor> = masks.iter().map(|covers| mask(*covers)).collect();
        let nothing = || Tensor::zeros([1], (Kind::Float, Device::Cpu));
        let union = masks.iter().skip(1).fold(masks[0].shallow_clone(), |all, mask| all.logical_or(mask));
        Edit {
            step: 5,
            timestep: 1.0,
            estimator: Estimator::Direct,
            scores: Vec::new(),
            subject_coverage: masks.iter().map(coverage).collect(),
            coverage: coverage(&union),
            extent: Extent::of(&union).unwrap(),
            most_alike: most_alike(&masks).unwrap(),
            before: nothing(),
            after: nothing(),
            mask: union,
        }
    }

    fn codes(score: Score, masks: &[&dyn Fn(usize, usize) -> bool]) -> Vec<String> {
        let subjects = ["gull", "rock"].map(|text| Subject { text: text.to_owned(), positions: vec![1] });
        let subjects = subjects.into_iter().take(masks.len()).collect();
        let prompt = Prompt { ids: Vec::new(), truncated_to: None, subjects };
        let said = warnings(&prompt, &Settings { score, ..Settings::example() }, &[edit(masks)]);
        said.iter().map(|warning| warning.split(':').next().unwrap().to_owned()).collect()
    }

    #[test]
    fn a_mask_that_can_hardly_be_right_is_told_by_its_code_and_one_that_can_is_not() {
        let middle = |x: usize, y: usize| (2..6).contains(&x) && (2..6).contains(&y);
        let left = |x: usize, _: usize| x < 4;
        let one = |x: usize, y: usize| (x, y) == (3, 3);
        let frame = |x: usize, y: usize| !middle(x, y);
        let most = |_: usize, y: usize| y > 0;
        let (nothing, all) = (|_: usize, _: usize| false, |_: usize, _: usize| true);
        type Covers<'a> = &'a dyn Fn(usize, usize) -> bool;
        let cases: [(Covers<'_>, Option<&str>); 7] = [
            (&nothing, Some("mask_empty")),
            (&all, Some("mask_full")),
            (&one, Some("mask_small")),
            (&most, Some("mask_large")),
            (&frame, Some("mask_border")),
            (&middle, None),
            (&left, None),
        ];
        for (mask, code) in cases {
            assert_eq!(codes(Score::AbsGrad, &[mask]).first().map(String::as_str), code);
        }
    }

    #[test]
    fn subjects_that_share_a_mask_or_have_none_are_told_apart_from_those_that_touch() {
        let within = |y: usize| (2..6).contains(&y);
        let (left, right) = (|x: usize, y: usize| within(y) && x < 3, |x: usize, y: usize| within(y) && x > 4);
        let wider = |x: usize, y: usize| within(y) && x < 4;
        let touching = |x: usize, y: usize| within(y) && (2..6).contains(&x);
        let nothing = |_: usize, _: usize| false;
        assert_eq!(codes(Score::AbsGrad, &[&left, &right]), [""; 0]);
        assert_eq!(codes(Score::AbsGrad, &[&left, &touching]), [""; 0]);
        assert_eq!(codes(Score::AbsGrad, &[&left, &wider]), ["mask_shared"]);
        assert_eq!(codes(Score::AbsGrad, &[&left, &nothing]), ["mask_without_subject"]);
        assert_eq!(codes(Score::GuidanceDifference, &[&left, &left]), [""; 0], "it has one mask for all on purpose");
    }
}
