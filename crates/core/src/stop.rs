//! When a run whose tasks fail is paused, rather than burnt to its last row.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Outcomes from which a share says something; of a small run, a tenth of its tasks.
const ENOUGH: u64 = 100;

/// The failures that a run may have: `failed > 5%` of the tasks that have an outcome, or `failed > 100` of them.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum StopIf {
    /// More than so many percent, 0 to 100 (not included), of the tasks that have an outcome failed.
    Percent(f64),
    /// More than so many tasks failed.
    Tasks(u64),
}

impl StopIf {
    /// Whether `failed` of the `settled` outcomes that a run of `tasks` tasks has so far are too many. Tasks that failed
    /// and will be tried again count as failed.
    pub fn is_met(&self, failed: u64, settled: u64, tasks: u64) -> bool {
        match self {
            Self::Tasks(most) => failed > *most,
            Self::Percent(most) => {
                settled >= ENOUGH.min(tasks.div_ceil(10)).max(1) && failed as f64 * 100.0 > most * settled as f64
            }
        }
    }
}

impl fmt::Display for StopIf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Percent(most) => write!(f, "failed > {most}%"),
            Self::Tasks(most) => write!(f, "failed > {most}"),
        }
    }
}

impl FromStr for StopIf {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let shown: String = text.chars().take(80).collect();
        let wrong = || format!("{shown:?} is not a condition; write 'failed > 5%' or 'failed > 100'");
        let limit = text.trim().strip_prefix("failed").map(str::trim_start).and_then(|rest| rest.strip_prefix('>'));
        let limit = limit.map(str::trim).ok_or_else(wrong)?;
        match limit.strip_suffix('%').map(str::trim) {
            None => limit.parse().map(Self::Tasks).map_err(|_| wrong()),
            Some(percent) => match percent.parse::<f64>() {
                Ok(percent) if (0.0..100.0).contains(&percent) => Ok(Self::Percent(percent)),
                Ok(_) => {
                    Err(format!("{shown:?} names no share that can be passed; it must be 0% or more, and below 100%"))
                }
                Err(_) => Err(wrong()),
            },
        }
    }
}

impl TryFrom<String> for StopIf {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<StopIf> for String {
    fn from(stop: StopIf) -> Self {
        stop.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_is_read_as_it_is_written() {
        for (text, stop) in [
            ("failed > 5%", StopIf::Percent(5.0)),
            ("failed>0.5 %", StopIf::Percent(0.5)),
            (" failed  >  100 ", StopIf::Tasks(100)),
            ("failed > 0", StopIf::Tasks(0)),
        ] {
            let read: StopIf = text.parse().unwrap();
            assert_eq!(read, stop, "{text}");
            assert_eq!(read.to_string().parse(), Ok(stop), "{text}");
        }
        for text in [
            "",
            "5%",
            "failed",
            "failed > ",
            "failed < 5%",
            "failed > -1",
            "failed > 5.5",
            "failed > x%",
            "done > 5%",
            "failed > 5%%",
        ] {
            assert!(text.parse::<StopIf>().unwrap_err().contains("write 'failed > 5%'"), "{text}");
        }
        for text in ["failed > 100%", "failed > -1%", "failed > NaN%", "failed > inf%"] {
            assert!(text.parse::<StopIf>().unwrap_err().contains("below 100%"), "{text}");
        }
        assert!("x".repeat(10_000).parse::<StopIf>().unwrap_err().len() < 200);
    }

    #[test]
    fn a_share_is_judged_once_there_are_outcomes_enough_and_a_number_at_once() {
        let five = StopIf::Percent(5.0);
        assert!(!five.is_met(8, 8, 10_000), "the first shard says little");
        assert!(five.is_met(6, 100, 10_000) && !five.is_met(5, 100, 10_000));
        assert!(five.is_met(1, 4, 40) && !five.is_met(1, 3, 40), "a tenth of a small run");
        assert!(!five.is_met(0, 0, 1));
        assert!(StopIf::Tasks(3).is_met(4, 4, 10_000) && !StopIf::Tasks(3).is_met(3, 3, 10_000));
    }
}
