//! Each scheduler against diffusers' class: timesteps, noising, input scaling and whole trajectories.

use diorama_diffusion::scheduler::{Scheduler, SchedulerConfig, SchedulerKind};
use serde_json::{Value, json};
use tch::Tensor;

use crate::golden::{self, Tensors};

fn kind(name: &str) -> SchedulerKind {
    match name {
        "ddpm" => SchedulerKind::Ddpm,
        "ddim" => SchedulerKind::Ddim,
        "euler" => SchedulerKind::Euler,
        "dpmpp-2m" => SchedulerKind::DpmppTwoM,
        other => panic!("the golden data names a scheduler {other:?}"),
    }
}

/// A scheduler from the case's configuration, read from a file as a model's is. The class that the file names must not
/// matter when another is run, so it names PNDM.
fn scheduler(case: &Value) -> Scheduler {
    let mut config = case["config"].clone();
    config["_class_name"] = json!("PNDMScheduler");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("scheduler_config.json");
    std::fs::write(&path, config.to_string()).unwrap();
    let config = SchedulerConfig::load(&path).unwrap();
    let steps = case["steps"].as_u64().unwrap() as usize;
    let kept = steps as f64 - case["begin"].as_f64().unwrap();
    // Half a step more, so that the division does not round below the step.
    let strength = (kept + 0.5) / steps as f64;
    Scheduler::truncated(&config, kind(case["scheduler"].as_str().unwrap()), steps, strength).unwrap()
}

#[test]
fn every_scheduler_walks_the_path_of_diffusers() {
    let tensors = Tensors::read("schedulers/schedulers.safetensors");
    let cases = golden::json("schedulers/schedulers.json");
    let (clean, noise) = (tensors.get("sample"), tensors.get("noise"));
    let mut failures = Vec::new();
    for case in cases.as_array().unwrap() {
        let label = case["label"].as_str().unwrap();
        let mut scheduler = scheduler(case);
        // A first level of σ = 4096 leaves float32 few digits for the sample that comes after it.
        let allowed = if label == "euler: rescaled betas, trailing, v" { 5e-5 } else { 2e-6 };
        let expected = |name: &str| tensors.get(&format!("{}.{name}", case["case"]));
        let timesteps: Vec<f64> = case["timesteps"].as_array().unwrap().iter().map(|t| t.as_f64().unwrap()).collect();
        if scheduler.timesteps() != timesteps {
            failures.push(format!("{label}: timesteps {:?}, not {timesteps:?}", scheduler.timesteps()));
            continue;
        }
        let sigma = case["init_noise_sigma"].as_f64().unwrap();
        if (scheduler.init_noise_sigma() / sigma - 1.0).abs() > 1e-6 {
            failures.push(format!("{label}: init_noise_sigma {}, not {sigma}", scheduler.init_noise_sigma()));
        }
        let mut sample = scheduler.add_noise(clean, noise, 0).unwrap();
        let (mut noised, mut scaled, mut trajectory) = (vec![], vec![], vec![]);
        let mut variance_noises = 0;
        for i in 0..timesteps.len() {
            noised.push(scheduler.add_noise(clean, noise, i).unwrap());
            scaled.push(scheduler.scale_model_input(&sample, i).unwrap());
            let variance = scheduler.needs_noise(i).then(|| {
                variance_noises += 1;
                tensors.get("variance_noises").get(variance_noises - 1)
            });
            let output = tensors.get("outputs").get(i as i64);
            sample = scheduler.step(&output, i, &sample, variance.as_ref()).unwrap();
            trajectory.push(sample.shallow_clone());
        }
        if case["variance_noises"] != json!(variance_noises) {
            failures.push(format!("{label}: drew {variance_noises} noises, not {}", case["variance_noises"]));
        }
        for (name, values) in [("noised", noised), ("scaled", scaled), ("trajectory", trajectory)] {
            let error = golden::error(&Tensor::cat(&values, 0), expected(name));
            if error > allowed {
                failures.push(format!("{label}: {name} differs by {error:.2e}"));
            }
        }
    }
    assert!(failures.is_empty(), "{} of {}:\n{}", failures.len(), cases.as_array().unwrap().len(), failures.join("\n"));
}
