//! What a run asks to be measured, read and checked before anything starts.

use std::collections::BTreeMap;

use super::acceptance::{Acceptance, Condition};
use super::catalogue::{MEASURES, Measure, by_name};
use crate::outcome::{ErrorCode, TaskError};
use crate::range::{ACCEPT_TRIES, CONDITION_BYTES};
use crate::settings::Method;
use crate::task::Task;

/// What a run asks for.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Asked {
    /// The measures, each once, in the order of [`MEASURES`]: those that were named, those of the condition, and `outside`
    /// beside every measure of the background, which says how much of the picture that was.
    pub measures: Vec<String>,
    /// What is accepted.
    pub accept: Option<Acceptance>,
}

impl Asked {
    /// Reads the names of measures, and the condition with how often a picture that fails it is made again.
    ///
    /// # Errors
    /// A sentence for whoever asked: an unknown measure, one of sets, a condition that does not parse, with its place.
    pub fn read(measures: &[String], condition: Option<&str>, tries: u32) -> Result<Self, String> {
        let accept = condition.map(|text| acceptance(text, tries)).transpose()?;
        let mut names = Vec::new();
        for name in measures {
            names.push(by_name(name).map_err(|problem| format!("measures: {problem}"))?.name);
        }
        names.extend(accept.iter().flat_map(|accept| accept.condition.expression().measures()));
        if names.iter().any(|name| matches!(*name, "psnr" | "ssim" | "mse")) {
            names.push("outside");
        }
        let asked = MEASURES.iter().filter(|measure| names.contains(&measure.name));
        Ok(Self { measures: asked.map(|measure| measure.name.to_owned()).collect(), accept })
    }

    /// How often a picture is made again at most.
    pub fn tries(&self) -> u32 {
        self.accept.as_ref().map_or(0, |accept| accept.tries)
    }
}

fn acceptance(text: &str, tries: u32) -> Result<Acceptance, String> {
    if text.len() > CONDITION_BYTES {
        return Err(format!("accept has {} bytes; a condition has at most {CONDITION_BYTES}", text.len()));
    }
    if !ACCEPT_TRIES.contains(f64::from(tries)) {
        return Err(format!("accept_tries is out of range; it must be {ACCEPT_TRIES}"));
    }
    let condition: Condition = text.parse().map_err(|error| format!("accept:\n{error}"))?;
    Ok(Acceptance { condition, tries })
}

/// Refuses a task whose picture cannot have one of these measures, because its row lacks what that needs.
pub fn check_task(measures: &[String], task: &Task) -> Result<(), TaskError> {
    let known = MEASURES.iter().filter(|measure| measures.iter().any(|name| name == measure.name));
    let lacking = known.filter_map(|measure| Some((measure, lack(measure, task)?)));
    let lacking: Vec<String> =
        lacking.map(|(measure, lack)| format!("{} cannot be measured: {lack}", measure.name)).collect();
    if lacking.is_empty() {
        return Ok(());
    }
    Err(TaskError::permanent(ErrorCode::InvalidSettings, lacking.join("; ")))
}

/// Of these networks, those that measures of these names need.
pub fn needed_networks(measures: &[String], there: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let known = measures.iter().filter_map(|name| by_name(name).ok());
    let named = known.filter_map(|measure| there.get_key_value(measure.needs.network?));
    named.map(|(name, sha256)| (name.clone(), sha256.clone())).collect()
}

/// Why measures of these names cannot be taken where they are not known, or their networks are not there.
pub fn missing(names: &[&str]) -> String {
    let why = |name: &&str| match by_name(name).map(|measure| measure.needs.network) {
        Ok(Some(network)) => format!("{name} needs the network {network}, which is not there"),
        Ok(None) => format!("{name} is not measured by this engine"),
        Err(_) => format!("{name} is not known to this version"),
    };
    names.iter().map(why).collect::<Vec<_>>().join("; ")
}

/// What a task lacks for a measure.
fn lack(measure: &Measure, task: &Task) -> Option<&'static str> {
    let method = task.settings.method.unwrap_or(Method::AbsGradSam);
    if measure.needs.reference && (task.reference.is_none() || method == Method::Txt2img) {
        return Some("it compares with the reference, and this row's method uses none");
    }
    if measure.needs.region && task.region.is_none() {
        return Some("it needs to know where the subject may be, but the row has no region");
    }
    if measure.needs.mask && method != Method::AbsGradSam {
        return Some("it is of the mask, and this row's method has none");
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{CustomId, Seed, TaskIndex};
    use crate::settings::Settings;
    use crate::task::Reference;

    fn read(measures: &[&str], accept: Option<&str>) -> Result<Asked, String> {
        let measures: Vec<String> = measures.iter().map(|name| (*name).to_owned()).collect();
        Asked::read(&measures, accept, 3)
    }

    #[test]
    fn what_a_condition_names_is_measured_too_each_once_in_the_tables_order() {
        let asked = read(&["coverage", "clip", "coverage"], Some("psnr > 20 and clip > 26")).unwrap();
        assert_eq!(asked.measures, ["psnr", "clip", "coverage", "outside"]);
        assert_eq!((asked.tries(), read(&[], None).unwrap()), (3, Asked::default()));
    }

    #[test]
    fn what_cannot_be_asked_is_refused_with_what_is_near_and_where() {
        let nothing: &[&str] = &[];
        for (measures, accept, expected) in [
            (&["cilp"][..], None, "measures: cilp is not a measure; did you mean clip?"),
            (&["lpips"][..], None, "did you mean lpips_alex, lpips_vgg or lpips_squeeze?"),
            (&["fid"][..], None, "fid is a measure of sets"),
            (nothing, Some("clip >"), "a number was expected"),
            (nothing, Some("kid < 3"), "kid is a measure of sets"),
            (nothing, Some("zebra < 3"), "zebra is not a measure; they are psnr, ssim"),
        ] {
            let refused = read(measures, accept).unwrap_err();
            assert!(refused.contains(expected), "{refused}");
        }
        assert!(Asked::read(&[], Some("clip > 1"), 99).unwrap_err().contains("accept_tries is out of range"));
        let long = format!("clip > 1{}", " ".repeat(CONDITION_BYTES));
        assert!(read(&[], Some(&long)).unwrap_err().contains("at most 4096"));
    }

    #[test]
    fn a_row_must_have_what_a_measure_needs() {
        let task = |method: Option<Method>, reference: bool, region: bool| Task {
            index: TaskIndex(0),
            custom_id: CustomId::new("a").unwrap(),
            reference: reference.then(|| Reference::File("a.png".to_owned())),
            region: region.then(|| Reference::File("b.png".to_owned())),
            prompt: "a duck".to_owned(),
            subjects: None,
            seed: Seed::new(0).unwrap(),
            settings: Settings { method, ..Settings::default() },
            extra: Default::default(),
        };
        let refusal = |measure: &str, task: Task| {
            check_task(&[measure.to_owned()], &task).err().map(|error| error.message).unwrap_or_default()
        };
        assert_eq!(refusal("psnr", task(None, true, false)), "");
        assert_eq!(refusal("luma_mean", task(Some(Method::Txt2img), false, false)), "");
        assert_eq!(refusal("clip_inside", task(None, true, true)), "");
        assert!(refusal("psnr", task(Some(Method::Txt2img), true, false)).contains("psnr cannot be measured"));
        assert!(refusal("clip_inside", task(None, true, false)).contains("no region"));
        assert!(refusal("coverage", task(Some(Method::Img2img), true, false)).contains("the mask"));
    }
}
