//! Scores of every kind against brute force: one backward pass of autograd through diffusers' own UNet for each element
//! of its output.

use diorama_diffusion::kernels::Kernels;
use diorama_diffusion::method::score::ScoredRow;
use diorama_diffusion::method::{Estimator, Score, Scorer};
use diorama_diffusion::model::unet::{TextContext, Unet};
use tch::{Device, Kind, Tensor};

use crate::golden::{Golden, assert_close, configurations, error, settings};

struct Scored {
    g: Golden,
    unet: Unet,
    scorer: Scorer,
    tokens: Vec<i64>,
    timestep: f64,
}

impl Scored {
    fn new(g: Golden) -> Self {
        let unet = Unet::load(&g.model.join("unet"), g.variant(), Kind::Float, Device::Cpu, &Kernels::none()).unwrap();
        let scorer = Scorer::new(&unet).unwrap();
        let facts = &g.facts["scores"];
        let tokens = facts["tokens"].as_array().unwrap().iter().map(|token| token.as_i64().unwrap()).collect();
        let timestep = facts["timestep"].as_f64().unwrap();
        Self { unet, scorer, tokens, timestep, g }
    }

    fn text(&self, rows: i64) -> TextContext {
        self.unet.prepare_text(&self.g.tensors.get("hidden").narrow(0, 0, rows)).unwrap()
    }

    fn layer(&self, key: &str) -> String {
        self.g.facts["scores"][key].as_str().unwrap().to_owned()
    }

    /// Scores of each row and token, `[rows, tokens, 4, h, w]`.
    fn scores(&self, score: Score, layer: &str, probes: u32, rows: i64) -> (Tensor, Estimator) {
        let mut settings = settings(&self.g, "ddim");
        settings.score = score;
        settings.probes = probes;
        settings.layers = vec![self.layer(layer)];
        let sample = self.g.tensors.get("unet.sample").narrow(0, 0, rows);
        let elements = sample.size()[1..].iter().product();
        let plan = self.scorer.plan(&self.unet, &settings, elements).unwrap();
        let text = self.text(rows);
        let mut tap = plan.tap();
        let output = tch::no_grad(|| self.unet.forward(&sample, self.timestep, &text, &mut tap)).unwrap();
        let empty = self.g.facts["empty"].as_i64().unwrap();
        let empty = self.unet.prepare_text(&self.g.tensors.get("hidden").narrow(0, empty, 1)).unwrap();
        let unconditional = tch::no_grad(|| {
            let empty = empty.copies(0, rows).unwrap();
            self.unet.forward(&sample, self.timestep, &empty, &mut Default::default()).unwrap()
        });
        let subjects: Vec<&[i64]> = self.tokens.iter().map(std::slice::from_ref).collect();
        let scores: Vec<Tensor> = (0..rows)
            .map(|row| {
                let scored = ScoredRow {
                    unet: &self.unet,
                    tap: &tap,
                    row,
                    input: &sample.narrow(0, row, 1),
                    timestep: self.timestep,
                    text: &text.copies(row, 1).unwrap(),
                    conditional: &output.get(row),
                    unconditional: Some(&unconditional.get(row)),
                    seed: 11,
                };
                tch::no_grad(|| Tensor::stack(&self.scorer.scores(&plan, &scored, &subjects).unwrap(), 0))
            })
            .collect();
        (Tensor::stack(&scores, 0), plan.estimator)
    }
}

fn scored() -> impl Iterator<Item = Scored> {
    configurations().map(Scored::new)
}

#[test]
fn the_closed_form_equals_brute_force_for_every_token_alone_and_in_a_batch() {
    let mut checked = 0;
    for s in scored() {
        if s.unet.closed_form_tail().is_none() {
            continue;
        }
        for (score, form) in [(Score::AbsGrad, "abs"), (Score::ReluGrad, "relu")] {
            let what = format!("{} {form}", s.g.name);
            let (one, estimator) = s.scores(score, "last_layer", 1, 1);
            assert_eq!(estimator, Estimator::ClosedForm, "{what}");
            assert_close(&one.get(0), s.g.tensors.get(&format!("score.last.f64.{form}")), 1e-5, &what);
            let (batch, _) = s.scores(score, "last_layer", 1, 3);
            assert_close(&batch, s.g.tensors.get(&format!("score.last.batch.{form}")), 1e-5, &what);
        }
        let what = format!("{} mixed", s.g.name);
        let (mixed, estimator) = s.scores(Score::MixedReluGrad, "last_layer", 1, 3);
        assert_eq!(estimator, Estimator::ClosedForm, "{what}");
        assert_close(&mixed, s.g.tensors.get("score.last.mixed"), 1e-5, &what);
        checked += 1;
    }
    assert!(checked >= 4, "only {checked} configurations have a closed form");
}

#[test]
fn reverse_mode_equals_brute_force_at_layers_without_a_closed_form() {
    let mut at_the_last_layer = 0;
    for s in scored() {
        let mut layers = vec![
            ("down_layer", "down", Score::AbsGrad, "abs"),
            ("mid_layer", "mid", Score::ReluGrad, "relu"),
            ("mid_layer", "mid", Score::MixedReluGrad, "mixed"),
        ];
        if s.unet.closed_form_tail().is_none() {
            layers.push(("last_layer", "last.f64", Score::AbsGrad, "abs"));
            at_the_last_layer += 1;
        }
        for (layer, name, score, form) in layers {
            let what = format!("{} {name} {form}", s.g.name);
            let (scores, estimator) = s.scores(score, layer, 4096, 1);
            assert_eq!(estimator, Estimator::ReverseMode, "{what}");
            assert_close(&scores.get(0), s.g.tensors.get(&format!("score.{name}.{form}")), 1e-4, &what);
        }
    }
    assert!(at_the_last_layer > 0, "no configuration ends without attention");
}

#[test]
#[allow(clippy::print_stderr, reason = "docs/method.md shows the errors; --nocapture prints them")]
fn random_signs_estimate_the_l2_form_and_more_of_them_estimate_it_better() {
    // A mean of K squares of nearly normal numbers is off by sqrt(2/K) of itself, its root by half as much.
    let deviation = |s: &Scored, layer: &str, name: &str, probes: u32| {
        let (scores, estimator) = s.scores(Score::AbsGrad, layer, probes, 1);
        assert_eq!(estimator, Estimator::RandomSigns(probes));
        let expected = s.g.tensors.get(&format!("score.{name}.l2"));
        let difference = scores.get(0).to_kind(Kind::Double) - expected.to_kind(Kind::Double);
        (difference.square().sum(Kind::Double) / expected.to_kind(Kind::Double).square().sum(Kind::Double))
            .sqrt()
            .double_value(&[])
    };
    for s in scored() {
        for (layer, name) in [("down_layer", "down"), ("mid_layer", "mid")] {
            let (few, many) = (deviation(&s, layer, name, 8), deviation(&s, layer, name, 64));
            let what = format!("{} {name}: {few:.3} with 8 probes, {many:.3} with 64", s.g.name);
            eprintln!("{what}");
            // sqrt(1/(2·64)) is 0.088. A layer of one position has so few signs that both have seen them all: what is left is
            // the error of the differences.
            assert!(many < 0.13 && (many < few || few < 0.02), "{what}");
        }
    }
}

#[test]
fn attention_and_guidance_difference_are_what_they_say() {
    for s in scored() {
        let (attention, _) = s.scores(Score::Attention, "last_layer", 1, 3);
        let expected = s.g.tensors.get("score.last.attention").unsqueeze(2).expand_as(&attention);
        assert_close(&attention, &expected, 1e-5, s.g.name);
        let (difference, _) = s.scores(Score::GuidanceDifference, "last_layer", 1, 3);
        let expected = s.g.tensors.get("score.guidance-difference");
        // The same for every token.
        assert!(error(&difference.select(1, 0), expected) < 1e-4, "{}", s.g.name);
        assert!(difference.select(1, 0).equal(&difference.select(1, 2)));
    }
}
