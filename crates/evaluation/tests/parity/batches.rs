//! What is measured of a picture does not depend on which others the networks see with it, but for rounding.

use diorama_core::picture::{Gray8, Rgb8};
use diorama_diffusion::device::Device;
use diorama_evaluation::evaluator::{BATCH, Evaluator, Subject};
use diorama_evaluation::networks::{Clip, Dino, Lpips, Networks, Trunk};
use tch::Tensor;

use crate::golden::{Golden, assert_close, assert_near};

fn networks(golden: &Golden) -> Networks {
    let lpips = |name: &str, trunk| Lpips::load(golden.folder(name).path(), trunk, Device::CPU).unwrap();
    Networks {
        lpips: vec![lpips("lpips-alex", Trunk::Alex), lpips("lpips-squeeze", Trunk::Squeeze)],
        dino: Some(Dino::load(golden.folder("dino").path(), Device::CPU).unwrap()),
        ..Networks::none()
    }
}

/// More pictures than a batch, of two sizes, some with a region.
fn subjects(golden: &Golden) -> Vec<Subject> {
    let turned = |picture: &Rgb8, by: usize| {
        let mut data = picture.data.clone();
        data.rotate_left(3 * by);
        Rgb8 { data, ..picture.clone() }
    };
    let subject = |n: usize| {
        let reference = golden.picture(if n.is_multiple_of(3) { 2 } else { 0 });
        let (width, height) = (reference.width, reference.height);
        let left = (0..width * height).map(|at| if at % width < width / 2 { 255 } else { 0 }).collect();
        Subject {
            picture: turned(&reference, 5 * n + 1),
            reference: Some(reference),
            region: (n % 2 == 1).then_some(Gray8 { width, height, data: left }),
            prompt: None,
            coverage: None,
        }
    };
    (0..BATCH + 3).map(subject).collect()
}

#[test]
fn a_pictures_measures_are_the_same_alone_and_among_others() {
    let golden = Golden::read();
    let mut evaluator = Evaluator::new(networks(&golden));
    let subjects = subjects(&golden);
    let tasks: Vec<&[Subject]> = subjects.chunks(2).collect();
    let together: Vec<_> = evaluator.measure_tasks(&tasks).unwrap().into_iter().flatten().collect();
    assert_eq!(together.len(), subjects.len());
    for (subject, together) in subjects.iter().zip(together) {
        let alone = evaluator.measure(std::slice::from_ref(subject)).unwrap().remove(0);
        let names = |measures: &std::collections::BTreeMap<String, f64>| measures.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&alone.measures), names(&together.measures));
        assert_eq!(alone.measures.contains_key("pie_lpips"), subject.region.is_some());
        assert!(alone.measures["lpips_alex"] > 0.0 && alone.measures["structure_distance"] > 0.0);
        for (name, value) in &alone.measures {
            assert_near(together.measures[name], *value, 1e-5, name);
        }
    }
}

#[test]
fn a_pictures_direction_is_the_same_alone_and_among_others() {
    let golden = Golden::read();
    let clip = Clip::towers(golden.folder("clip").path(), Device::CPU).unwrap();
    let prepared = [0, 1, 2].map(|n| clip.prepare(&golden.picture(n)).unwrap());
    let together = clip.pictures(&Tensor::stack(&prepared, 0)).unwrap();
    for (at, prepared) in prepared.iter().enumerate() {
        let alone = clip.pictures(&prepared.unsqueeze(0)).unwrap();
        assert_close(&together.get(at as i64).unsqueeze(0), &alone, 1e-5, "direction");
    }
}
