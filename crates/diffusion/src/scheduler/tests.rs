//! The numbers of `CASES` come from diffusers 0.42.1 on torch 2.11: for each case, `Class(**config)`,
//! `set_timesteps(steps)`, the cut of `get_timesteps(steps, strength)`, `add_noise` at the first timestep, then the
//! whole loop with `cos(3·input + i)` as the network and `sin(noise·(i+1))` as DDPM's variance noise.

use tch::Kind;

use super::*;

struct Case {
    kind: SchedulerKind,
    config: &'static str,
    steps: usize,
    strength: f64,
    /// The first two and the last two.
    timesteps: [f64; 4],
    init_noise_sigma: f64,
    /// After `add_noise` at the first timestep.
    noised: [f64; 4],
    /// That, after `scale_model_input`.
    scaled: [f64; 4],
    /// After step `len / 2`.
    mid: [f64; 4],
    end: [f64; 4],
}

const CASES: [Case; 15] = [
    Case {
        kind: SchedulerKind::Ddpm,
        config: r#""beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": false"#,
        steps: 50,
        strength: 0.9,
        timesteps: [980.0, 960.0, 20.0, 0.0],
        init_noise_sigma: 1.0,
        noised: [1.0571592, -0.66033286, 0.51132715, -1.9693898],
        scaled: [1.0571592, -0.66033286, 0.51132715, -1.9693898],
        mid: [6.6201172, -4.9963727, 8.1525259, -10.960756],
        end: [10.252881, -8.3538876, 14.520741, -16.684298],
    },
    Case {
        kind: SchedulerKind::Ddpm,
        config: r#""clip_sample": true, "clip_sample_range": 0.7, "variance_type": "fixed_small_log", "timestep_spacing": "trailing""#,
        steps: 7,
        strength: 1.0,
        timesteps: [999.0, 856.0, 285.0, 142.0],
        init_noise_sigma: 1.0,
        noised: [1.0031563, -0.50793093, 0.26270059, -1.9993244],
        scaled: [1.0031563, -0.50793093, 0.26270059, -1.9993244],
        mid: [-0.092987061, -1.5668298, 1.1925087, -0.4007991],
        end: [-0.48864415, -0.52882195, 0.69999999, -0.28468505],
    },
    Case {
        kind: SchedulerKind::Ddpm,
        config: r#""beta_schedule": "squaredcos_cap_v2", "variance_type": "fixed_large", "prediction_type": "sample", "timestep_spacing": "linspace""#,
        steps: 13,
        strength: 1.0,
        timesteps: [999.0, 916.0, 83.0, 0.0],
        init_noise_sigma: 1.0,
        noised: [1.0000247, -0.50006163, 0.25009856, -1.9999951],
        scaled: [1.0000247, -0.50006163, 0.25009856, -1.9999951],
        mid: [-0.57424343, -0.74005032, 0.92817199, -0.17719442],
        end: [-0.80539334, -0.99801761, -0.99998271, 0.68261904],
    },
    Case {
        kind: SchedulerKind::Ddim,
        config: r#""beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": false, "set_alpha_to_one": false, "steps_offset": 1"#,
        steps: 50,
        strength: 0.6,
        timesteps: [981.0, 961.0, 21.0, 1.0],
        init_noise_sigma: 1.0,
        noised: [1.1176654, -0.98293585, 1.0746098, -1.7688175],
        scaled: [1.1176654, -0.98293585, 1.0746098, -1.7688175],
        mid: [2.1020122, -1.919404, 2.0224319, -3.3540416],
        end: [2.6452265, -2.4651551, 2.5715046, -4.1804571],
    },
    Case {
        kind: SchedulerKind::Ddim,
        config: r#""beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": false, "prediction_type": "v_prediction", "rescale_betas_zero_snr": true, "timestep_spacing": "trailing""#,
        steps: 10,
        strength: 1.0,
        timesteps: [999.0, 899.0, 199.0, 99.0],
        init_noise_sigma: 1.0,
        noised: [1.0, -0.5, 0.25, -2.0],
        scaled: [1.0, -0.5, 0.25, -2.0],
        mid: [0.64836693, -0.51998007, 0.16323319, -1.9608521],
        end: [0.63089383, -1.0473119, -0.019058928, -1.8323773],
    },
    Case {
        kind: SchedulerKind::Ddim,
        config: r#""prediction_type": "sample""#,
        steps: 6,
        strength: 0.5,
        timesteps: [830.0, 664.0, 166.0, 0.0],
        init_noise_sigma: 1.0,
        noised: [1.1073345, -1.1200459, 1.3387935, -1.5916525],
        scaled: [1.1073345, -1.1200459, 1.3387935, -1.5916525],
        mid: [0.067709066, -0.85019279, -0.75454986, -0.2643632],
        end: [-0.59102654, 0.85222208, 0.96544534, 0.35590842],
    },
    Case {
        kind: SchedulerKind::Euler,
        config: r#""beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear""#,
        steps: 20,
        strength: 1.0,
        timesteps: [999.0, 946.42108, 52.578949, 0.0],
        init_noise_sigma: 14.614647,
        noised: [15.114647, -8.5573235, 5.6536617, -29.129293],
        scaled: [1.0317997, -0.58416474, 0.3859466, -1.988508],
        mid: [16.637821, -7.5028934, 5.0158095, -30.979059],
        end: [16.82819, -6.6873164, 4.8975959, -30.72484],
    },
    Case {
        kind: SchedulerKind::Euler,
        config: r#""beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1, "timestep_spacing": "leading", "final_sigmas_type": "sigma_min""#,
        steps: 30,
        strength: 0.8,
        timesteps: [958.0, 925.0, 34.0, 1.0],
        init_noise_sigma: 11.520334,
        noised: [4.7790017, -3.3895009, 3.0697503, -8.458003],
        scaled: [1.0875461, -0.77134067, 0.69857579, -1.9247677],
        mid: [4.8220444, -4.9178905, 3.1790359, -9.8481083],
        end: [4.776566, -4.9838777, 3.0476556, -9.8698387],
    },
    Case {
        kind: SchedulerKind::Euler,
        config: r#""beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "use_karras_sigmas": true, "prediction_type": "v_prediction", "final_sigmas_type": "sigma_min""#,
        steps: 12,
        strength: 1.0,
        timesteps: [999.0, 932.51154, 4.4822316, 0.0],
        init_noise_sigma: 14.614647,
        noised: [15.114647, -8.5573235, 5.6536617, -29.129293],
        scaled: [1.0317997, -0.58416474, 0.3859466, -1.988508],
        mid: [0.5259096, -0.47567844, -0.19288924, -2.4857097],
        end: [0.64589089, -0.79661047, -0.48525718, -2.299499],
    },
    Case {
        kind: SchedulerKind::Euler,
        config: r#""beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "timestep_type": "continuous", "prediction_type": "v_prediction", "rescale_betas_zero_snr": true, "timestep_spacing": "trailing""#,
        steps: 8,
        strength: 1.0,
        timesteps: [2.0794415, 0.65555632, -0.079687916, -0.2206372],
        init_noise_sigma: 4096.0,
        noised: [4096.5, -2049.25, 1026.0, -8191.8999],
        scaled: [1.0001221, -0.50030518, 0.25048828, -1.9999756],
        mid: [0.9147135, -1.301069, 0.47582659, -2.7259517],
        end: [0.18164878, -0.73265636, -0.49173638, -2.2901599],
    },
    Case {
        kind: SchedulerKind::DpmppTwoM,
        config: r#""beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear""#,
        steps: 20,
        strength: 0.75,
        timesteps: [999.0, 949.0, 100.0, 50.0],
        init_noise_sigma: 1.0,
        noised: [1.0902541, -0.78308386, 0.7187326, -1.9187557],
        scaled: [1.0902541, -0.78308386, 0.7187326, -1.9187557],
        mid: [2.7839346, -2.949177, 1.9236565, -5.8119178],
        end: [3.5622482, -5.0056176, 2.8727157, -7.4851656],
    },
    Case {
        kind: SchedulerKind::DpmppTwoM,
        config: r#""beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1, "timestep_spacing": "leading""#,
        steps: 10,
        strength: 1.0,
        timesteps: [901.0, 811.0, 181.0, 91.0],
        init_noise_sigma: 1.0,
        noised: [1.0521441, -0.64441431, 0.48492777, -1.9741116],
        scaled: [1.0521441, -0.64441431, 0.48492777, -1.9741116],
        mid: [8.9133558, -2.6754363, 3.3160462, -11.8002],
        end: [12.619188, -3.6999042, 5.0983448, -16.892256],
    },
    Case {
        kind: SchedulerKind::DpmppTwoM,
        config: r#""beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "solver_type": "heun", "prediction_type": "v_prediction", "final_sigmas_type": "sigma_min""#,
        steps: 16,
        strength: 1.0,
        timesteps: [999.0, 937.0, 125.0, 62.0],
        init_noise_sigma: 1.0,
        noised: [1.0317997, -0.58416474, 0.38594657, -1.9885079],
        scaled: [1.0317997, -0.58416474, 0.38594657, -1.9885079],
        mid: [1.0130426, -0.75386155, 0.3934488, -2.1181858],
        end: [0.13393307, -1.5353072, 1.2367213, -2.1022005],
    },
    Case {
        kind: SchedulerKind::DpmppTwoM,
        config: r#""beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "use_karras_sigmas": true, "prediction_type": "sample""#,
        steps: 11,
        strength: 0.8,
        timesteps: [999.0, 925.0, 5.0, 0.0],
        init_noise_sigma: 1.0,
        noised: [1.0950474, -0.80510539, 0.75672758, -1.9067549],
        scaled: [1.0950474, -0.80510539, 0.75672758, -1.9067549],
        mid: [-0.63900292, 0.039924502, -0.70155495, 0.30123705],
        end: [-0.49409968, -0.9960826, -0.51074392, 0.98130828],
    },
    Case {
        kind: SchedulerKind::DpmppTwoM,
        config: r#""beta_schedule": "squaredcos_cap_v2", "use_karras_sigmas": true, "solver_order": 1, "timestep_spacing": "trailing""#,
        steps: 9,
        strength: 1.0,
        timesteps: [998.0, 998.0, 362.0, 0.0],
        init_noise_sigma: 1.0,
        noised: [1.0000246, -0.50006157, 0.25009856, -1.999995],
        scaled: [1.0000246, -0.50006157, 0.25009856, -1.999995],
        mid: [370.93445, -64.687729, -127.19055, -663.25549],
        end: [27497.115, -4868.519, -9517.4434, -49335.051],
    },
];

fn class(kind: SchedulerKind) -> &'static str {
    match kind {
        SchedulerKind::Ddpm => "DDPMScheduler",
        SchedulerKind::Ddim => "DDIMScheduler",
        SchedulerKind::Euler => "EulerDiscreteScheduler",
        SchedulerKind::DpmppTwoM => "DPMSolverMultistepScheduler",
    }
}

fn load(class: &str, keys: &str) -> Result<SchedulerConfig> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("scheduler_config.json");
    let comma = if keys.is_empty() { "" } else { "," };
    std::fs::write(&path, format!("{{\"_class_name\": \"{class}\"{comma} {keys}}}")).unwrap();
    SchedulerConfig::load(&path)
}

fn tensor(values: [f64; 4]) -> Tensor {
    Tensor::from_slice(&values).to_kind(Kind::Float).view([1, 1, 2, 2])
}

fn original() -> Tensor {
    tensor([0.5, -1.25, 2.0, 0.1])
}

fn noise() -> Tensor {
    tensor([1.0, -0.5, 0.25, -2.0])
}

fn assert_close(ours: &Tensor, theirs: [f64; 4], what: &str) {
    let ours = Vec::<f64>::try_from(&ours.flatten(0, -1).to_kind(Kind::Double)).unwrap();
    let scale = theirs.iter().fold(1.0_f64, |max, value| max.max(value.abs()));
    for (our, their) in ours.iter().zip(theirs) {
        assert!((our - their).abs() <= 1e-5 * scale, "{what}: {ours:?}, diffusers {theirs:?}");
    }
}

fn run(scheduler: &mut Scheduler, mut each: impl FnMut(usize, &Tensor)) -> Tensor {
    let mut sample = scheduler.add_noise(&original(), &noise(), 0).unwrap();
    for i in 0..scheduler.timesteps().len() {
        let output = ((scheduler.scale_model_input(&sample, i).unwrap() * 3.0) + i as f64).cos();
        let variance = (noise() * (i + 1) as f64).sin();
        let variance = scheduler.needs_noise(i).then_some(&variance);
        sample = scheduler.step(&output, i, &sample, variance).unwrap();
        each(i, &sample);
    }
    sample
}

#[test]
fn every_scheduler_gives_what_diffusers_gives() {
    for case in &CASES {
        let what = format!("{:?} {} steps {}", case.kind, case.steps, case.config);
        let config = load(class(case.kind), case.config).unwrap();
        assert_eq!(config.kind().unwrap(), case.kind);
        let scheduler = Scheduler::new(&config, case.kind, case.steps).unwrap();
        let [first, second, .., last_but_one, last] = scheduler.timesteps() else { panic!("{what}") };
        for (our, their) in [*first, *second, *last_but_one, *last].into_iter().zip(case.timesteps) {
            assert!((our - their).abs() <= 1e-6 * their.abs().max(1.0), "{what}: timestep {our}, diffusers {their}");
        }
        assert_eq!(scheduler.timesteps().len(), case.steps, "{what}");
        let sigma = scheduler.init_noise_sigma();
        assert!((sigma - case.init_noise_sigma).abs() < 1e-6 * sigma, "{what}: {sigma}");

        let mut scheduler = Scheduler::truncated(&config, case.kind, case.steps, case.strength).unwrap();
        let noised = scheduler.add_noise(&original(), &noise(), 0).unwrap();
        assert_close(&noised, case.noised, &format!("{what}: noised"));
        assert_close(&scheduler.scale_model_input(&noised, 0).unwrap(), case.scaled, &format!("{what}: scaled"));
        let middle = scheduler.timesteps().len() / 2;
        let end = run(&mut scheduler, |i, sample| {
            if i == middle {
                assert_close(sample, case.mid, &format!("{what}: step {i}"));
            }
        });
        assert_close(&end, case.end, &format!("{what}: end"));
    }
}

#[test]
fn the_paper_preset_runs_45_steps_from_880_without_offset() {
    let config = load("PNDMScheduler", r#""beta_schedule": "scaled_linear", "steps_offset": 1"#).unwrap();
    let config = config.with_steps_offset(0).with_leading_spacing();
    let scheduler = Scheduler::new(&config, SchedulerKind::Ddpm, 50).unwrap();
    assert_eq!(scheduler.timesteps()[..2], [980.0, 960.0]);
    let scheduler = Scheduler::truncated(&config, SchedulerKind::Ddpm, 50, 0.9).unwrap();
    assert_eq!(scheduler.timesteps().len(), 45);
    let at = |i: usize| scheduler.timesteps()[i];
    assert_eq!([at(0), at(5), at(18), at(28), at(44)], [880.0, 780.0, 520.0, 320.0, 0.0]);
    assert!(scheduler.needs_noise(43) && !scheduler.needs_noise(44), "the last step draws no noise");
}

#[test]
fn the_pndm_configuration_of_stable_diffusion_1_runs_as_ddim() {
    let keys = r#""_diffusers_version": "0.6.0", "beta_end": 0.012, "beta_schedule": "scaled_linear",
        "beta_start": 0.00085, "num_train_timesteps": 1000, "set_alpha_to_one": false, "skip_prk_steps": true,
        "steps_offset": 1, "trained_betas": null, "clip_sample": false"#;
    let pndm = load("PNDMScheduler", keys).unwrap();
    assert_eq!(pndm.kind().unwrap(), SchedulerKind::Ddim);
    let end = run(&mut Scheduler::new(&pndm, SchedulerKind::Ddim, 20).unwrap(), |_, _| ());
    let ddim = load("DDIMScheduler", &keys.replace("\"skip_prk_steps\": true,", "")).unwrap();
    assert_eq!(end, run(&mut Scheduler::new(&ddim, SchedulerKind::Ddim, 20).unwrap(), |_, _| ()));
}

#[test]
fn strength_cuts_the_list_as_the_img2img_pipeline_does() {
    let config = load("DDIMScheduler", "").unwrap();
    for (strength, kept) in [(1.0, 10), (0.99, 9), (0.55, 5), (0.05, 0), (0.0, 0), (2.0, 10), (-1.0, 0), (f64::NAN, 0)]
    {
        let scheduler = Scheduler::truncated(&config, SchedulerKind::Ddim, 10, strength).unwrap();
        assert_eq!(scheduler.timesteps().len(), kept, "strength {strength}");
    }
}

#[test]
fn a_step_never_mixes_the_rows_of_a_batch() {
    for kind in [SchedulerKind::Ddpm, SchedulerKind::Ddim, SchedulerKind::Euler, SchedulerKind::DpmppTwoM] {
        let config = load(class(kind), "").unwrap();
        let pair = |a: &Tensor, b: &Tensor| Tensor::cat(&[a, b], 0);
        let mut alone = Scheduler::new(&config, kind, 5).unwrap();
        let mut both = Scheduler::new(&config, kind, 5).unwrap();
        let (mut one, mut two) = (original(), pair(&original(), &noise()));
        for i in 0..5 {
            one = alone.step(&one.cos(), i, &one, Some(&noise())).unwrap();
            two = both.step(&two.cos(), i, &two, Some(&pair(&noise(), &original()))).unwrap();
        }
        assert_eq!(two.get(0), one.get(0), "{kind:?}");
    }
}

#[test]
fn half_precision_keeps_its_kind_and_the_level() {
    let config = load("EulerDiscreteScheduler", "").unwrap();
    let mut scheduler = Scheduler::new(&config, SchedulerKind::Euler, 5).unwrap();
    let (sample, output) = (original().to_kind(Kind::BFloat16), noise().to_kind(Kind::BFloat16));
    let half = scheduler.step(&output, 0, &sample, None).unwrap();
    assert_eq!(half.kind(), Kind::BFloat16);
    let full = scheduler.step(&output.to_kind(Kind::Float), 0, &sample.to_kind(Kind::Float), None).unwrap();
    assert_eq!(half, full.to_kind(Kind::BFloat16));
}

#[test]
fn a_default_follows_the_class_that_runs_not_the_class_of_the_file() {
    let config = load("EulerDiscreteScheduler", "").unwrap();
    assert_eq!(Scheduler::new(&config, SchedulerKind::Ddim, 4).unwrap().timesteps(), [750.0, 500.0, 250.0, 0.0]);
    assert_eq!(Scheduler::new(&config, SchedulerKind::Euler, 4).unwrap().timesteps(), [999.0, 666.0, 333.0, 0.0]);
}

#[test]
fn an_unsupported_value_names_the_file_and_the_key() {
    for (class, keys, named) in [
        ("UniPCMultistepScheduler", "", "--scheduler"),
        ("FlowMatchEulerDiscreteScheduler", "", "FlowMatch"),
        ("DDIMScheduler", r#""thresholding": true"#, "thresholding"),
        ("DDIMScheduler", r#""beta_schedule": "sigmoid""#, "beta_schedule"),
        ("DDIMScheduler", r#""prediction_type": "flow_prediction""#, "prediction_type"),
        ("DDIMScheduler", r#""timestep_spacing": "AYS""#, "timestep_spacing"),
        ("DDPMScheduler", r#""variance_type": "learned_range""#, "variance_type"),
        ("DDPMScheduler", r#""num_train_timesteps": "many""#, "num_train_timesteps"),
        ("DDPMScheduler", r#""num_train_timesteps": 0"#, "num_train_timesteps"),
        ("DDPMScheduler", r#""trained_betas": [0.1, 0.2]"#, "trained_betas"),
        ("DDPMScheduler", r#""beta_end": 2"#, "beta_end"),
        ("EulerDiscreteScheduler", r#""use_beta_sigmas": true"#, "use_beta_sigmas"),
        ("EulerDiscreteScheduler", r#""interpolation_type": "log_linear""#, "interpolation_type"),
        ("DPMSolverMultistepScheduler", r#""algorithm_type": "sde-dpmsolver++""#, "algorithm_type"),
        ("DPMSolverMultistepScheduler", r#""solver_order": 3"#, "solver_order"),
        ("DPMSolverMultistepScheduler", r#""lambda_min_clipped": -5.1"#, "lambda_min_clipped"),
        ("DPMSolverMultistepScheduler", r#""new_trick": 1"#, "new_trick"),
    ] {
        let run = |config: SchedulerConfig| {
            config.check_noise()?;
            Scheduler::new(&config, config.kind()?, 4)
        };
        let message = load(class, keys).and_then(run).err().unwrap().to_string();
        assert!(message.contains("scheduler_config.json") && message.contains(named), "{keys}: {message}");
    }
    let message = load("DDIMScheduler", "oops").unwrap_err().to_string();
    assert!(message.contains("not a JSON object"), "{message}");
}

#[test]
fn pythons_minus_infinity_is_read() {
    let config = load("DPMSolverMultistepScheduler", r#""lambda_min_clipped": -Infinity, "variance_type": null"#);
    Scheduler::new(&config.unwrap(), SchedulerKind::DpmppTwoM, 4).unwrap();
}

#[test]
fn steps_that_do_not_fit_are_refused() {
    let config = load("DDIMScheduler", r#""steps_offset": 5"#).unwrap();
    for (kind, steps) in [
        (SchedulerKind::Ddim, 0),
        (SchedulerKind::Ddim, 1001),
        // The ratio is 2, so that the first timestep would be 1003.
        (SchedulerKind::Ddim, 500),
        (SchedulerKind::DpmppTwoM, 1000),
    ] {
        let error = Scheduler::new(&config, kind, steps).err().unwrap();
        assert!(matches!(error, Error::Setting { param: "steps", .. }), "{kind:?} {steps}: {error}");
    }
    let far = config.clone().with_steps_offset(usize::MAX);
    assert!(Scheduler::new(&far, SchedulerKind::Ddim, 4).is_err());
    let mut scheduler = Scheduler::new(&config, SchedulerKind::Ddim, 4).unwrap();
    assert!(scheduler.step(&noise(), 4, &original(), None).is_err());
    assert!(scheduler.add_noise(&original(), &noise(), 4).is_err());
}

#[test]
fn a_step_beyond_the_last_of_training_is_no_matter_where_strength_leaves_it_out() {
    // What the pipelines' offset of 1 makes of as many steps as were trained: 1000, 999 … 1.
    let config = load("DDIMScheduler", r#""steps_offset": 1"#).unwrap();
    for kind in [SchedulerKind::Ddpm, SchedulerKind::Ddim] {
        assert!(Scheduler::new(&config, kind, 1000).err().unwrap().to_string().contains("less strength"));
        let scheduler = Scheduler::truncated(&config, kind, 1000, 0.9).unwrap();
        assert_eq!((scheduler.timesteps()[0], scheduler.timesteps().len()), (900.0, 900));
    }
}

#[test]
fn what_the_pipelines_overrule_is_overruled_unless_the_file_is_read_as_it_stands() {
    for keys in ["", r#""steps_offset": 0, "clip_sample": true"#, r#""steps_offset": 7"#] {
        let config = load("DDIMScheduler", keys).unwrap().read_as(ConfigReading::Pipeline);
        let options = Options::read(&config, SchedulerKind::Ddim).unwrap();
        assert_eq!((options.steps_offset, options.clip_sample()), (1, None), "{keys}");
    }
    let config = load("DDIMScheduler", r#""steps_offset": 7, "clip_sample": true"#).unwrap();
    let options = Options::read(&config.read_as(ConfigReading::AsIs), SchedulerKind::Ddim).unwrap();
    assert_eq!((options.steps_offset, options.clip_sample()), (7, Some(1.0)));
}

#[test]
fn only_the_class_that_runs_is_checked_and_keys_of_others_are_passed_over() {
    // Left over from UniPC and from Euler, each with a value that its own class would change its path by.
    let keys = r#""predict_x0": true, "disable_corrector": [], "solver_p": null, "solver_order": 3,
        "use_beta_sigmas": true, "timestep_type": "continuous", "algorithm_type": "sde-dpmsolver++",
        "use_flow_sigmas": false, "shift_terminal": 0.1"#;
    for class in
        ["DEISMultistepScheduler", "UniPCMultistepScheduler", "EulerAncestralDiscreteScheduler", "LCMScheduler"]
    {
        let config = load(class, keys).unwrap();
        config.check_noise().unwrap();
        assert!(config.kind().unwrap_err().to_string().contains("--scheduler: ddpm, ddim, euler or dpmpp-2m"));
        for kind in [SchedulerKind::Ddim, SchedulerKind::Ddpm] {
            Scheduler::new(&config, kind, 4).unwrap();
        }
        let error = Scheduler::new(&config, SchedulerKind::DpmppTwoM, 4).err().unwrap().to_string();
        assert!(error.contains("name another with --scheduler"), "{error}");
    }
    let unknown = load("DDIMScheduler", r#""new_trick": 1"#).unwrap();
    assert!(Scheduler::new(&unknown, SchedulerKind::Ddim, 4).err().unwrap().to_string().contains("new_trick"));
}

#[test]
fn a_file_of_another_class_than_the_index_names_does_not_choose_a_scheduler() {
    let file = || load("EulerDiscreteScheduler", "").unwrap();
    let refused = file().named_by_index("DDIMScheduler".to_owned()).kind().unwrap_err().to_string();
    assert!(refused.contains("EulerDiscreteScheduler") && refused.contains("DDIMScheduler"), "{refused}");
    assert_eq!(file().named_by_index("EulerDiscreteScheduler".to_owned()).kind().unwrap(), SchedulerKind::Euler);
    // Both run as DDIM.
    let pndm = load("PNDMScheduler", "").unwrap().named_by_index("DDIMScheduler".to_owned());
    assert_eq!(pndm.kind().unwrap(), SchedulerKind::Ddim);
}

#[test]
fn numpys_extra_trailing_step_is_left_out() {
    // arange(1000, 0, -1000 / 61) has 62 values.
    let config = load("DDIMScheduler", r#""timestep_spacing": "trailing""#).unwrap();
    let scheduler = Scheduler::new(&config, SchedulerKind::Ddim, 61).unwrap();
    assert_eq!(scheduler.timesteps().len(), 61);
    assert_eq!(scheduler.timesteps()[60], 15.0);
}

#[test]
fn a_noise_that_is_needed_and_not_given_is_an_error() {
    let config = load("DDPMScheduler", "").unwrap();
    let mut scheduler = Scheduler::new(&config, SchedulerKind::Ddpm, 4).unwrap();
    assert!(scheduler.step(&noise(), 0, &original(), None).is_err());
    assert!(scheduler.step(&noise(), 3, &original(), None).is_ok());
}

#[test]
fn a_start_without_any_signal_is_refused_where_noise_is_predicted() {
    let zero_snr = r#""rescale_betas_zero_snr": true, "timestep_spacing": "trailing""#;
    let epsilon = load("DDIMScheduler", zero_snr).unwrap();
    assert!(matches!(Scheduler::new(&epsilon, SchedulerKind::Ddim, 4), Err(Error::Model { .. })));
    let velocity = load("DDIMScheduler", &format!(r#"{zero_snr}, "prediction_type": "v_prediction""#)).unwrap();
    Scheduler::new(&velocity, SchedulerKind::Ddim, 4).unwrap();
}
