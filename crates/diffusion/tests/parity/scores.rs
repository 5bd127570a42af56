//! Scores of every kind against brute force: one backward pass of autograd through diffusers' own UNet for each element
//! of its output.

use diorama_diffusion::kernels::Kernels;
use diorama_diffusion::method::score::{Plan, ScoredRows};
use diorama_diffusion::method::{Arithmetic, Estimator, Score, Scorer};
use diorama_diffusion::model::unet::{Tap, TextContext, Unet};
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
        Self::with(g, Kind::Float, Arithmetic::Cpu)
    }

    fn with(g: Golden, kind: Kind, arithmetic: Arithmetic) -> Self {
        let unet = Unet::load(&g.model.join("unet"), g.variant(), kind, Device::Cpu, &Kernels::none()).unwrap();
        let scorer = Scorer::new(&unet, arithmetic).unwrap();
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

    fn plan(&self, score: Score, layer: &str, probes: u32) -> Plan {
        let mut settings = settings(&self.g, "ddim");
        settings.score = score;
        settings.probes = probes;
        settings.layers = vec![self.layer(layer)];
        let elements = self.g.tensors.get("unet.sample").size()[1..].iter().product();
        self.scorer.plan(&self.unet, &settings, elements).unwrap()
    }

    /// Scores of each row and token, `[rows, tokens, 4, h, w]`.
    fn scores(&self, score: Score, layer: &str, probes: u32, rows: i64) -> (Tensor, Estimator) {
        let plan = self.plan(score, layer, probes);
        let subjects: Vec<&[i64]> = self.tokens.iter().map(std::slice::from_ref).collect();
        let subjects = vec![subjects; rows as usize];
        let scores: Vec<Tensor> = self.of_subjects(&plan, &subjects).iter().map(|row| Tensor::stack(row, 0)).collect();
        (Tensor::stack(&scores, 0), plan.estimator)
    }

    /// Scores of each row's subjects, all rows together.
    fn of_subjects(&self, plan: &Plan, subjects: &[Vec<&[i64]>]) -> Vec<Vec<Tensor>> {
        let rows = subjects.len() as i64;
        let sample = self.g.tensors.get("unet.sample").narrow(0, 0, rows);
        let text = self.text(rows);
        let mut tap = plan.tap();
        let output = tch::no_grad(|| self.unet.forward(&sample, self.timestep, &text, &mut tap)).unwrap();
        let empty = self.g.facts["empty"].as_i64().unwrap();
        let empty = self.unet.prepare_text(&self.g.tensors.get("hidden").narrow(0, empty, 1)).unwrap();
        let unconditional = tch::no_grad(|| {
            let empty = empty.copies(0, rows).unwrap();
            self.unet.forward(&sample, self.timestep, &empty, &mut Tap::default()).unwrap()
        });
        let scored = ScoredRows {
            unet: &self.unet,
            tap: &tap,
            first: 0,
            input: &sample,
            timestep: self.timestep,
            text: &|row| text.copies(row, 1),
            conditional: &output,
            unconditional: Some(&unconditional),
            seeds: &vec![11; rows as usize],
        };
        tch::no_grad(|| self.scorer.scores(plan, &scored, subjects).unwrap())
    }
}

fn scored() -> impl Iterator<Item = Scored> {
    configurations().map(Scored::new)
}

#[test]
fn the_closed_form_equals_brute_force_for_every_token_alone_and_in_a_batch() {
    for arithmetic in [Arithmetic::Cpu, Arithmetic::Gpu] {
        let mut checked = 0;
        for s in configurations().map(|g| Scored::with(g, Kind::Float, arithmetic)) {
            if s.unet.closed_form_tail().is_none() {
                continue;
            }
            for (score, form) in [(Score::AbsGrad, "abs"), (Score::ReluGrad, "relu")] {
                let what = format!("{} {form} {arithmetic:?}", s.g.name);
                let (one, estimator) = s.scores(score, "last_layer", 1, 1);
                assert_eq!(estimator, Estimator::ClosedForm, "{what}");
                assert_close(&one.get(0), s.g.tensors.get(&format!("score.last.f64.{form}")), 1e-5, &what);
                let (batch, _) = s.scores(score, "last_layer", 1, 3);
                assert_close(&batch, s.g.tensors.get(&format!("score.last.batch.{form}")), 1e-5, &what);
            }
            let what = format!("{} mixed {arithmetic:?}", s.g.name);
            let (mixed, estimator) = s.scores(Score::MixedReluGrad, "last_layer", 1, 3);
            assert_eq!(estimator, Estimator::ClosedForm, "{what}");
            assert_close(&mixed, s.g.tensors.get("score.last.mixed"), 1e-5, &what);
            checked += 1;
        }
        assert!(checked >= 4, "only {checked} configurations have a closed form");
    }
}

#[test]
fn rows_of_other_subjects_with_fewer_or_more_tokens_do_not_change_a_score() {
    for s in scored().filter(|s| s.unet.closed_form_tail().is_some()) {
        for score in [Score::AbsGrad, Score::MixedReluGrad, Score::Attention] {
            let plan = s.plan(score, "last_layer", 1);
            let (first, last) = (s.tokens[0], s.tokens[s.tokens.len() - 1]);
            let (pieces, one) = ([first, last], [last]);
            let alone = s.of_subjects(&plan, &[vec![&pieces], vec![&pieces], vec![&pieces]]);
            let mixed = s.of_subjects(&plan, &[vec![&one], vec![&pieces], vec![&one, &pieces]]);
            let what = format!("{} {score:?}", s.g.name);
            assert_eq!([1, 1, 2], [mixed[0].len(), mixed[1].len(), mixed[2].len()], "{what}");
            assert!(mixed[1][0].equal(&alone[1][0]) && mixed[2][1].equal(&alone[2][0]), "{what}");
        }
    }
}

#[test]
#[allow(clippy::print_stderr, reason = "docs/method.md shows the errors; --nocapture prints them")]
fn in_bfloat16_the_dense_products_of_a_gpu_cost_a_score_little_beside_the_network_s_own_rounding() {
    for name in ["sd1", "demo"] {
        let exact = Scored::new(Golden::read(name)).scores(Score::AbsGrad, "last_layer", 1, 3).0;
        let far = |arithmetic| {
            let s = Scored::with(Golden::read(name), Kind::BFloat16, arithmetic);
            let scores = s.scores(Score::AbsGrad, "last_layer", 1, 3).0;
            (scores - &exact).norm().double_value(&[]) / exact.norm().double_value(&[])
        };
        let (network, all) = (far(Arithmetic::Cpu), far(Arithmetic::Gpu));
        eprintln!("{name}: {network:.1e} by the network alone, {all:.1e} with the dense products too");
        assert!(all < 1.5 * network + 2e-3 && all < 0.05, "{name}: {network:.1e}, {all:.1e}");
    }
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
