//! What each measure of a picture is called and which way it is better. docs/evaluation.md defines them.

/// Which way is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Better {
    /// More.
    High,
    /// Less.
    Low,
    /// Neither: it describes.
    Neither,
}

/// A measure of one picture.
#[derive(Debug, Clone, Copy, serde::Serialize)]
pub struct Measure {
    /// As it stands in rows.
    pub name: &'static str,
    /// Which way is better.
    pub better: Better,
    /// The unit, where there is one.
    pub unit: &'static str,
    /// In a few words.
    pub about: &'static str,
}

const fn measure(name: &'static str, better: Better, unit: &'static str, about: &'static str) -> Measure {
    Measure { name, better, unit, about }
}

/// Every measure of a picture, in the order of tables.
pub const MEASURES: &[Measure] = &[
    measure("psnr", Better::High, "dB", "against the reference, mean over the background alone"),
    measure("ssim", Better::High, "", "structural similarity of windows wholly in the background"),
    measure("mse", Better::Low, "", "mean squared difference in the background, values in [0, 1]"),
    measure("lpips_alex", Better::Low, "", "LPIPS of the whole picture, AlexNet"),
    measure("lpips_vgg", Better::Low, "", "LPIPS of the whole picture, VGG16"),
    measure("lpips_squeeze", Better::Low, "", "LPIPS of the whole picture, SqueezeNet"),
    measure("clip", Better::High, "", "CLIPScore of picture and prompt, 0 to 100"),
    measure("clip_inside", Better::High, "", "CLIPScore of the region alone, black around it"),
    measure("structure_distance", Better::Low, "", "DINO's self-similarity against the reference's"),
    measure("pair_feature_distance_64", Better::Low, "", "the paper's \"FID\" of a pair"),
    measure("judge_right", Better::High, "", "the judge sees the shape and colour that the prompt names"),
    measure("judge_object", Better::High, "", "the judge sees an object"),
    measure("judge_scene", Better::High, "", "the judge sees the scene that the prompt names"),
    measure("pie_psnr", Better::High, "dB", "PIE-Bench's: region black, mean over the whole picture"),
    measure("pie_ssim", Better::High, "", "PIE-Bench's: region black, mean over the whole picture"),
    measure("pie_mse", Better::Low, "", "PIE-Bench's: region black, mean over the whole picture"),
    measure("pie_lpips", Better::Low, "", "PIE-Bench's: region black, SqueezeNet"),
    measure("coverage", Better::Neither, "", "share of the picture that its mask covers"),
    measure("outside", Better::Neither, "", "share of the picture that the background measures look at"),
    measure("luma_mean", Better::Neither, "", "mean brightness, 0 to 255"),
    measure("luma_deviation", Better::Neither, "", "standard deviation of brightness"),
];
