//! Which keys of a `scheduler_config.json` belong to which class of diffusers (0.42.1, the parameters of its
//! constructors).

use super::config::SchedulerKind;

/// Keys of each class that we run.
const COMMON: [&str; 9] = [
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "prediction_type",
    "timestep_spacing",
    "steps_offset",
    "rescale_betas_zero_snr",
];

/// Keys of DDPM, DDIM, Euler and DPM-Solver++ that not all of them have. What only belongs to `thresholding` or to
/// dynamic shifting is left out: both must be off.
const OF_DDPM: [&str; 5] = ["variance_type", "clip_sample", "clip_sample_range", "thresholding", "predict_epsilon"];
const OF_DDIM: [&str; 5] = ["clip_sample", "clip_sample_range", "set_alpha_to_one", "thresholding", "predict_epsilon"];
const OF_EULER: [&str; 9] = [
    "interpolation_type",
    "use_karras_sigmas",
    "use_exponential_sigmas",
    "use_beta_sigmas",
    "sigma_min",
    "sigma_max",
    "timestep_type",
    "final_sigmas_type",
    "predict_epsilon",
];
const OF_DPMPP: [&str; 18] = [
    "solver_order",
    "thresholding",
    "algorithm_type",
    "solver_type",
    "lower_order_final",
    "euler_at_final",
    "use_karras_sigmas",
    "use_exponential_sigmas",
    "use_beta_sigmas",
    "use_lu_lambdas",
    "use_flow_sigmas",
    "final_sigmas_type",
    "lambda_min_clipped",
    "variance_type",
    "use_dynamic_shifting",
    // No parameters of its constructor, but read where a file has them.
    "sigma_min",
    "sigma_max",
    "predict_epsilon",
];

/// Keys of classes that we do not run, and those that change nothing of one that we do.
const OF_OTHERS: &str = "\
    accepted_index base_image_seq_len base_shift clip_denoised correct_steps corrector_k corrector_order \
    corrector_selection corrector_selection_tau corrector_steps disable_corrector dynamic_thresholding_ratio eps eta \
    final_step_size_scale flow_shift gamma invert_sigmas max_image_seq_len max_shift noise_mode noise_sampler_seed \
    num_inference_steps original_inference_steps predict_x0 predictor_order prev_sample rho s s_churn s_max s_min s_noise \
    sample_max_value sampling_eps scale_factors scaler schedule_mode scheduler_type shift shift_terminal sigma_data \
    sigma_schedule skip_prk_steps snr snr_shift_scale solver_p stochastic_sampling tail_step_multiplier tail_steps \
    tau_func tensor_format time_shift_type timestep_scaling timestep_values tsr_k tsr_sigma \
    upscale_mode";

/// Classes that step over the discrete betas of Stable Diffusion, whatever their solver: another of them may stand in.
pub(super) const BETA_CLASSES: [&str; 22] = [
    "DDIMInverseScheduler",
    "DDIMParallelScheduler",
    "DDIMScheduler",
    "DDPMParallelScheduler",
    "DDPMScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepInverseScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSDEScheduler",
    "DPMSolverSinglestepScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "LCMScheduler",
    "LMSDiscreteScheduler",
    "PNDMScheduler",
    "RePaintScheduler",
    "SASolverScheduler",
    "TCDScheduler",
    "UniPCMultistepScheduler",
];

/// Whether the class has the key, and its value counts.
pub(super) fn is_key_of(kind: SchedulerKind, key: &str) -> bool {
    let own: &[&str] = match kind {
        SchedulerKind::Ddpm => &OF_DDPM,
        SchedulerKind::Ddim => &OF_DDIM,
        SchedulerKind::Euler => &OF_EULER,
        SchedulerKind::DpmppTwoM => &OF_DPMPP,
    };
    COMMON.contains(&key) || own.contains(&key)
}

/// Whether some class of diffusers has the key, or its files say so of themselves.
pub(super) fn is_known(key: &str) -> bool {
    let kinds = [SchedulerKind::Ddpm, SchedulerKind::Ddim, SchedulerKind::Euler, SchedulerKind::DpmppTwoM];
    key.starts_with('_')
        || kinds.into_iter().any(|kind| is_key_of(kind, key))
        || OF_OTHERS.split_whitespace().any(|other| other == key)
}
