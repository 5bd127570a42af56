//! What each measure of a picture is called, which way it is better and what it needs. docs/evaluation.md defines them.

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
    /// What it needs.
    #[serde(skip)]
    pub needs: Needs,
}

/// What a measure needs besides the picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Needs {
    /// The network, by the name of its folder.
    pub network: Option<&'static str>,
    /// The reference.
    pub reference: bool,
    /// Where the subject may be.
    pub region: bool,
    /// The mask that the picture's method found.
    pub mask: bool,
}

/// Measures of a set of pictures, which no single one has.
const OF_SETS: [&str; 4] = ["fid", "clean_fid", "kid", "cmmd"];

/// How alike two names must be for one to be meant by the other (Jaro-Winkler).
const ALIKE: f64 = 0.8;

const fn measure(name: &'static str, better: Better, unit: &'static str, about: &'static str) -> Measure {
    Measure { name, better, unit, about, needs: Needs { network: None, reference: false, region: false, mask: false } }
}

impl Measure {
    const fn by(mut self, network: &'static str) -> Self {
        self.needs.network = Some(network);
        self
    }

    const fn to_reference(mut self) -> Self {
        self.needs.reference = true;
        self
    }

    const fn of_region(mut self) -> Self {
        self.needs.region = true;
        self
    }

    const fn of_mask(mut self) -> Self {
        self.needs.mask = true;
        self
    }
}

/// The measure of this name.
///
/// # Errors
/// A sentence that says which name may be meant.
pub fn by_name(name: &str) -> Result<&'static Measure, String> {
    MEASURES.iter().find(|measure| measure.name == name).ok_or_else(|| unknown(name))
}

fn unknown(name: &str) -> String {
    if OF_SETS.contains(&name) {
        return format!("{name} is a measure of sets, and no single picture has it; diorama eval computes it of a run");
    }
    let names = || MEASURES.iter().map(|measure| measure.name);
    let longer: Vec<&str> = names().filter(|known| !name.is_empty() && known.starts_with(name)).collect();
    let likeness = |known: &str| strsim::jaro_winkler(&name.to_ascii_lowercase(), known);
    let alike = names().map(|known| (likeness(known), known)).filter(|(likeness, _)| *likeness >= ALIKE);
    // Of equal ones, the first in the table.
    let nearest = alike.reduce(|best, next| if next.0 > best.0 { next } else { best }).map(|(_, known)| known);
    let meant = if longer.is_empty() { nearest.into_iter().collect() } else { longer };
    match meant.split_last() {
        None => format!("{name} is not a measure; they are {}", names().collect::<Vec<_>>().join(", ")),
        Some((last, [])) => format!("{name} is not a measure; did you mean {last}?"),
        Some((last, others)) => format!("{name} is not a measure; did you mean {} or {last}?", others.join(", ")),
    }
}

/// Every measure of a picture, in the order of tables.
pub const MEASURES: &[Measure] = &[
    measure("psnr", Better::High, "dB", "against the reference, mean over the background alone").to_reference(),
    measure("ssim", Better::High, "", "structural similarity of windows wholly in the background").to_reference(),
    measure("mse", Better::Low, "", "mean squared difference in the background, values in [0, 1]").to_reference(),
    measure("lpips_alex", Better::Low, "", "LPIPS of the whole picture, AlexNet").by("lpips-alex").to_reference(),
    measure("lpips_vgg", Better::Low, "", "LPIPS of the whole picture, VGG16").by("lpips-vgg").to_reference(),
    measure("lpips_squeeze", Better::Low, "", "LPIPS of the whole picture, SqueezeNet")
        .by("lpips-squeeze")
        .to_reference(),
    measure("clip", Better::High, "", "CLIPScore of picture and prompt, 0 to 100").by("clip"),
    measure("clip_inside", Better::High, "", "CLIPScore of the region alone, black around it").by("clip").of_region(),
    measure("structure_distance", Better::Low, "", "DINO's self-similarity against the reference's")
        .by("dino")
        .to_reference(),
    measure("pair_feature_distance_64", Better::Low, "", "the paper's \"FID\" of a pair")
        .by("inception")
        .to_reference(),
    measure("judge_right", Better::High, "", "the judge sees the shape and colour that the prompt names").by("judge"),
    measure("judge_object", Better::High, "", "the judge sees an object").by("judge"),
    measure("judge_scene", Better::High, "", "the judge sees the scene that the prompt names").by("judge"),
    measure("pie_psnr", Better::High, "dB", "PIE-Bench's: region black, mean over the whole picture")
        .to_reference()
        .of_region(),
    measure("pie_ssim", Better::High, "", "PIE-Bench's: region black, mean over the whole picture")
        .to_reference()
        .of_region(),
    measure("pie_mse", Better::Low, "", "PIE-Bench's: region black, mean over the whole picture")
        .to_reference()
        .of_region(),
    measure("pie_lpips", Better::Low, "", "PIE-Bench's: region black, SqueezeNet")
        .by("lpips-squeeze")
        .to_reference()
        .of_region(),
    measure("coverage", Better::Neither, "", "share of the picture that its mask covers").of_mask(),
    measure("outside", Better::Neither, "", "share of the picture that the background measures look at").to_reference(),
    measure("luma_mean", Better::Neither, "", "mean brightness, 0 to 255"),
    measure("luma_deviation", Better::Neither, "", "standard deviation of brightness"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_nearly_a_measures_suggests_it() {
        for (name, expected) in [
            ("cilp", "did you mean clip?"),
            ("CLIP", "did you mean clip?"),
            ("coverge", "did you mean coverage?"),
            ("judge", "did you mean judge_right, judge_object or judge_scene?"),
            ("lpisp_vgg", "did you mean lpips_vgg?"),
            ("clean_fid", "is a measure of sets"),
            ("", "they are psnr, ssim"),
            ("quality", "they are psnr, ssim"),
        ] {
            let refused = by_name(name).unwrap_err();
            assert!(refused.contains(expected), "{name}: {refused}");
        }
        assert!(MEASURES.iter().all(|measure| by_name(measure.name).is_ok_and(|known| known.name == measure.name)));
    }
}
