//! What the synthetic engine measures: what can be said of a picture without a network or libtorch, by the definitions of
//! docs/evaluation.md. So runs that measure and accept can be tried on a fleet without a model.

use std::collections::BTreeMap;

use diorama_core::measure::{MeasureError, Measurer, Subject};

/// Measures brightness and coverage.
#[derive(Debug, Default)]
pub struct SyntheticMeasurer;

impl Measurer for SyntheticMeasurer {
    fn measures(&self) -> &[&'static str] {
        &["coverage", "luma_mean", "luma_deviation"]
    }

    fn networks(&self) -> BTreeMap<String, String> {
        BTreeMap::new()
    }

    fn measure(&mut self, subject: &Subject, wanted: &[String]) -> Result<BTreeMap<String, f64>, MeasureError> {
        let brightness: Vec<f64> = subject
            .picture
            .data
            .chunks_exact(3)
            .map(|pixel| 0.299 * f64::from(pixel[0]) + 0.587 * f64::from(pixel[1]) + 0.114 * f64::from(pixel[2]))
            .collect();
        let mean = |values: &mut dyn Iterator<Item = f64>| values.sum::<f64>() / brightness.len().max(1) as f64;
        let luma = mean(&mut brightness.iter().copied());
        let deviation = mean(&mut brightness.iter().map(|value| (value - luma).powi(2))).sqrt();
        let all = [("coverage", subject.coverage), ("luma_mean", Some(luma)), ("luma_deviation", Some(deviation))];
        let wanted = all.into_iter().filter(|(name, _)| wanted.iter().any(|wanted| wanted == name));
        Ok(wanted.filter_map(|(name, value)| Some((name.to_owned(), value?))).collect())
    }
}

#[cfg(test)]
mod tests {
    use diorama_core::picture::Rgb8;

    use super::*;

    #[test]
    fn brightness_is_that_of_rec_601_and_only_what_is_wanted_is_said() {
        let picture = Rgb8 { width: 2, height: 1, data: vec![0, 0, 0, 255, 255, 255] };
        let subject = Subject { picture, reference: None, region: None, prompt: None, coverage: None };
        let wanted = ["luma_mean", "luma_deviation", "coverage"].map(str::to_owned);
        let measures = SyntheticMeasurer.measure(&subject, &wanted).unwrap();
        assert_eq!(measures.keys().collect::<Vec<_>>(), ["luma_deviation", "luma_mean"], "there is no mask");
        assert!(measures.values().all(|value| (value - 127.5).abs() < 1e-9), "{measures:?}");
        assert_eq!(SyntheticMeasurer.measure(&subject, &wanted[..1]).unwrap().len(), 1);
    }
}
