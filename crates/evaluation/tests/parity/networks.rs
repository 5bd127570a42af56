//! Each network against its original: 1e-5 on features, 1e-4 on measures.

use diorama_diffusion::device::Device;
use diorama_evaluation::evaluator::pair_distance;
use diorama_evaluation::measures::tensor;
use diorama_evaluation::networks::{Clip, Dino, Inception, Judge, Lpips, Resize, Trunk};
use tch::Kind;

use crate::golden::{Golden, assert_close, assert_near};

#[test]
fn inception_is_torch_fidelitys_and_the_pair_distance_torchmetrics_on_a_doubled_pair() {
    let golden = Golden::read();
    let inception = Inception::load(golden.folder("inception").path(), Device::CPU).unwrap();
    for n in [0, 2] {
        let features = inception.features(&golden.planes(n), Resize::Tf1).unwrap();
        assert_close(&features.first.get(0), golden.get(&format!("inception.{n}.64")), 1e-5, "64 features");
        assert_close(&features.last.get(0), golden.get(&format!("inception.{n}.2048")), 1e-5, "2048 features");
    }
    let clean = inception.features(&golden.planes(2), Resize::Clean).unwrap().last;
    assert_close(&clean.get(0), golden.get("inception.clean.2048"), 1e-5, "2048 features, clean-fid's resize");
    let distance = pair_distance(&inception, &golden.planes(0), &golden.planes(1)).unwrap();
    assert_near(distance, golden.number("/pair_distance"), 1e-4, "pair distance");
}

#[test]
fn clip_is_transformers_with_either_activation() {
    let golden = Golden::read();
    for name in ["clip", "clip-gelu"] {
        let clip = Clip::towers(golden.folder(name).path(), Device::CPU).unwrap();
        let prepared = clip.prepare(&golden.picture(2)).unwrap();
        assert_close(&prepared, golden.get(&format!("{name}.prepared")), 1e-6, "preprocessing");
        let squeezed = clip.prepare_squeezed(&tensor(&golden.picture(2)).unwrap()).unwrap();
        assert_close(&squeezed, golden.get(&format!("{name}.squeezed")), 1e-5, "CMMD's preprocessing");
        let picture = clip.pictures(&prepared.unsqueeze(0)).unwrap();
        assert_close(&picture, golden.get(&format!("{name}.picture")), 1e-5, "a picture's direction");
        let ids: Vec<i64> =
            golden.facts[name]["ids"].as_array().unwrap().iter().map(|id| id.as_i64().unwrap()).collect();
        let text = clip.tokens(&ids, golden.number(&format!("/{name}/end")) as usize).unwrap().unwrap();
        assert_close(&text, golden.get(&format!("{name}.text")), 1e-5, "a prompt's direction");
    }
}

#[test]
fn lpips_is_the_packages_on_every_trunk_and_0_for_equal_pictures() {
    let golden = Golden::read();
    for (name, trunk) in [("lpips-alex", Trunk::Alex), ("lpips-vgg", Trunk::Vgg), ("lpips-squeeze", Trunk::Squeeze)] {
        let lpips = Lpips::load(golden.folder(name).path(), trunk, Device::CPU).unwrap();
        let distance = lpips.distance(&golden.planes(0), &golden.planes(1)).unwrap();
        assert_near(distance[0], golden.number(&format!("/{name}/distance")), 1e-4, name);
        assert_eq!(lpips.distance(&golden.planes(0), &golden.planes(0)).unwrap(), [0.0]);
    }
}

#[test]
fn dino_is_transformers_vit_under_the_names_of_published_folders() {
    let golden = Golden::read();
    let dino = Dino::load(golden.folder("dino").path(), Device::CPU).unwrap();
    let [a, b] = [3, 0].map(|n| dino.self_similarity(&golden.planes(n).squeeze()).unwrap());
    assert_close(&a, golden.get("dino.similarity"), 1e-5, "self-similarity");
    assert_near(dino.distance(&a, &b).unwrap(), golden.number("/dino/distance"), 1e-4, "structure distance");
}

#[test]
fn the_judge_is_the_one_of_the_demo_models_scripts() {
    let golden = Golden::read();
    let folder = golden.folder("judge");
    let config = serde_json::json!({
        "model_type": "diorama_judge",
        "shapes": ["circle", "square", "triangle", "cross"],
        "colours": ["red", "orange", "yellow", "green", "blue", "purple", "pink", "white"],
        "places": ["on a beach", "in a desert", "in a forest", "in a meadow", "on a mountain", "in a city", "in space", "at sunset"],
    });
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let judge = Judge::load(folder.path(), Device::CPU).unwrap();
    let verdict = judge.look(&golden.planes(0)).unwrap().pop().unwrap();
    let seen = [verdict.shape, verdict.colour, verdict.scene];
    let expected = ["shape", "colour", "scene"].map(|what| golden.number(&format!("/judge/{what}")) as usize);
    assert_eq!(seen, expected);
    let mask = tch::Tensor::from_slice(&verdict.mask.data).view([64, 64]);
    let differing = mask.not_equal_tensor(golden.get("judge.mask")).sum(Kind::Int64).int64_value(&[]);
    assert!(differing <= 1, "{differing} pixels of the mask differ");
    let asked = judge.expected("A Red circle, on a beach").unwrap();
    assert_eq!((asked.colour, asked.shape, asked.scene), (0, 0, Some(0)));
    assert_eq!(judge.expected("a seagull on a beach"), None);
}
