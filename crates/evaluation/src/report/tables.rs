//! Tables: Markdown to read, CSV to go on with, LaTeX to print.

use std::fmt::Write;

use diorama_core::measure::{Better, MEASURES, Measure};

use super::{Preset, Summaries};
use crate::run::Evaluation;
use crate::statistics::Summary;

/// The paper's two measures, then those that stand in for them where only the bundled judge can look.
const PAPER: [&str; 5] = ["pair_feature_distance_64", "clip", "psnr", "judge_right", "judge_scene"];

/// The measure of a name.
pub(super) fn measure(name: &str) -> Option<&'static Measure> {
    MEASURES.iter().find(|measure| measure.name == name)
}

/// The measures that a preset shows, of those that there are.
pub(super) fn shown(summaries: &Summaries, preset: Preset) -> Vec<&'static str> {
    match preset {
        Preset::All => summaries.measures.clone(),
        Preset::Paper => PAPER.into_iter().filter(|name| summaries.measures.contains(name)).collect(),
    }
}

pub(super) fn markdown(summaries: &Summaries, evaluation: &Evaluation, preset: Preset) -> String {
    let mut text = String::new();
    match preset {
        Preset::All => measures_by_series(&mut text, summaries),
        Preset::Paper => paper(&mut text, summaries),
    }
    comparisons(&mut text, summaries);
    sets(&mut text, evaluation);
    remarks(&mut text, summaries, evaluation);
    text
}

fn measures_by_series(text: &mut String, summaries: &Summaries) {
    let _ = writeln!(text, "Mean [95 % interval], n pictures.\n");
    header(text, "measure", summaries.series.iter().map(String::as_str));
    for name in &summaries.measures {
        let _ = write!(text, "| {} |", labelled(name));
        for series in &summaries.series {
            let _ = write!(
                text,
                " {} |",
                summaries.whole.get(*name).and_then(|all| all.get(series)).map_or_else(String::new, cell)
            );
        }
        text.push('\n');
    }
}

/// The paper's table: a row a model, mean and median.
fn paper(text: &mut String, summaries: &Summaries) {
    let shown = shown(summaries, Preset::Paper);
    for name in ["pair_feature_distance_64", "clip"].into_iter().filter(|name| !shown.contains(name)) {
        let needs = if name == "clip" { "clip" } else { "inception" };
        let _ = writeln!(
            text,
            "{name} is absent: the network {needs} was not given (diorama doctor --eval says where to get it)."
        );
    }
    let columns = shown.iter().flat_map(|name| [format!("{} mean", labelled(name)), "median".to_owned()]);
    let columns: Vec<String> = columns.collect();
    text.push('\n');
    header(text, "model", columns.iter().map(String::as_str));
    for series in &summaries.series {
        let _ = write!(text, "| {series} |");
        for name in &shown {
            match summaries.whole.get(*name).and_then(|all| all.get(series)) {
                Some(summary) => {
                    let _ = write!(text, " {} | {} |", cell(summary), number(summary.median));
                }
                None => text.push_str("  |  |"),
            }
        }
        text.push('\n');
    }
    for (kind, groups) in &summaries.groups {
        if *kind == "prompt" {
            continue;
        }
        for name in &shown {
            let _ = writeln!(text, "\n{} by {kind}, mean:\n", labelled(name));
            header(text, kind, summaries.series.iter().map(String::as_str));
            for (group, measures) in groups {
                let _ = write!(text, "| {group} |");
                for series in &summaries.series {
                    let summary = measures.get(*name).and_then(|all| all.get(series));
                    let _ = write!(text, " {} |", summary.map_or_else(String::new, |summary| number(summary.mean)));
                }
                text.push('\n');
            }
        }
    }
}

fn comparisons(text: &mut String, summaries: &Summaries) {
    let Some(first) = summaries.comparisons.first() else { return };
    let _ = writeln!(
        text,
        "\nDifference from {}, task by task: mean [95 % interval]; bold if the interval excludes 0.\n",
        first.with
    );
    header(text, "measure", summaries.comparisons.iter().map(|comparison| comparison.series.as_str()));
    for name in &summaries.measures {
        let all: Vec<_> = summaries.comparisons.iter().map(|comparison| comparison.differences.get(*name)).collect();
        if all.iter().all(Option::is_none) {
            continue;
        }
        let _ = write!(text, "| {} |", labelled(name));
        for summary in all {
            let difference =
                summary.map_or_else(String::new, |summary| match summary.low > 0.0 || summary.high < 0.0 {
                    true => format!("**{}** {}", signed(summary.mean), interval(summary)),
                    false => format!("{} {}", signed(summary.mean), interval(summary)),
                });
            let _ = write!(text, " {difference} |");
        }
        text.push('\n');
    }
}

fn sets(text: &mut String, evaluation: &Evaluation) {
    if evaluation.sets.is_empty() {
        return;
    }
    text.push_str("\nAgainst the set of the references:\n\n");
    header(text, "series", ["pictures", "references", "FID", "clean-FID", "KID", "CMMD"].into_iter());
    for (series, sets) in &evaluation.sets {
        let value = |value: Option<f64>| value.map_or_else(String::new, number);
        let kid = sets.kid.map_or_else(String::new, |kid| format!("{:.5} ± {:.5}", kid.mean, kid.deviation));
        let (fid, clean, cmmd) = (value(sets.fid), value(sets.clean_fid), value(sets.cmmd));
        let _ =
            writeln!(text, "| {series} | {} | {} | {fid} | {clean} | {kid} | {cmmd} |", sets.pictures, sets.references);
    }
    if evaluation.sets.values().any(|sets| sets.fid.is_some() && sets.pictures.min(sets.references) < 2048) {
        text.push_str(
            "\nFewer pictures than features (2048): FID is biased upwards, and compares only with FID of as many.\n",
        );
    }
}

fn remarks(text: &mut String, summaries: &Summaries, evaluation: &Evaluation) {
    let mut say = |line: String| {
        let _ = writeln!(text, "\n{line}");
    };
    if let Some(whole) = summaries.regions.get("whole") {
        say(format!(
            "{whole} pictures were compared with their references as a whole, the subject included: without a region, \
             psnr, ssim and mse say how much changed, not how well the place was preserved (--region)."
        ));
    }
    if let Some(common) = summaries.regions.get("common") {
        say(format!(
            "The background of {common} pictures is everything outside the objects that the judge sees in any picture \
             of the task."
        ));
    }
    for (source, failed) in &evaluation.failed {
        say(format!(
            "{source}: {} tasks have no picture: {}.",
            failed.len(),
            some(failed.iter().map(|(id, code)| format!("{id} ({code})")))
        ));
    }
    for (source, ids) in &evaluation.unpaired {
        say(format!(
            "{source} lacks {} tasks that another folder has; they are left out of comparisons: {}.",
            ids.len(),
            some(ids.iter().cloned())
        ));
    }
    if evaluation.near_duplicates > 0 {
        say(format!("{} pictures nearly repeat an earlier one of their series.", evaluation.near_duplicates));
    }
    if evaluation.problems > 0 {
        say(format!("{} pictures could not be measured.", evaluation.problems));
    }
    for (note, count) in &summaries.notes {
        say(format!("{count} × {note}"));
    }
    if summaries.duplicates > 0 {
        say(format!("{} pictures have the same perceptual hash as another in their series.", summaries.duplicates));
    }
}

/// The first few, and how many more.
fn some(mut all: impl ExactSizeIterator<Item = String>) -> String {
    let first: Vec<String> = all.by_ref().take(5).collect();
    match all.len() {
        0 => first.join(", "),
        rest => format!("{} and {rest} more", first.join(", ")),
    }
}

/// Every summary, one a line.
pub(super) fn csv(summaries: &Summaries) -> String {
    let mut text = String::from("by,group,series,measure,count,mean,median,low,high\n");
    let mut add = |by: &str, group: &str, measure: &str, series: &str, s: &Summary| {
        let (by, group, series, measure) = (quoted(by), quoted(group), quoted(series), quoted(measure));
        let (count, mean, median, low, high) = (s.count, s.mean, s.median, s.low, s.high);
        let _ = writeln!(text, "{by},{group},{series},{measure},{count},{mean},{median},{low},{high}");
    };
    for (measure, all) in &summaries.whole {
        all.iter().for_each(|(series, summary)| add("all", "", measure, series, summary));
    }
    for (kind, groups) in &summaries.groups {
        for (group, measures) in groups {
            for (measure, all) in measures {
                all.iter().for_each(|(series, summary)| add(kind, group, measure, series, summary));
            }
        }
    }
    for comparison in &summaries.comparisons {
        let by = format!("difference from {}", comparison.with);
        comparison.differences.iter().for_each(|(measure, summary)| add(&by, "", measure, &comparison.series, summary));
    }
    text
}

fn quoted(text: &str) -> String {
    match text.contains([',', '"', '\n']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text.to_owned(),
    }
}

/// A row a series; mean and median, the best mean bold. Needs the package booktabs.
pub(super) fn latex(summaries: &Summaries, preset: Preset) -> String {
    let shown = shown(summaries, preset);
    let mut text = format!("\\begin{{tabular}}{{l{}}}\n\\toprule\n & ", "rr".repeat(shown.len()));
    let heads = shown.iter().map(|name| format!("\\multicolumn{{2}}{{c}}{{{}}}", escaped(&labelled(name))));
    text.push_str(&heads.collect::<Vec<_>>().join(" & "));
    text.push_str(" \\\\\n & ");
    text.push_str(&vec!["mean & median"; shown.len()].join(" & "));
    text.push_str(" \\\\\n\\midrule\n");
    for series in &summaries.series {
        text.push_str(&escaped(series));
        for name in &shown {
            let all = summaries.whole.get(*name);
            match all.and_then(|all| all.get(series)) {
                None => text.push_str(" & & "),
                Some(summary) => {
                    let best = all.is_some_and(|all| is_best(name, summary.mean, all.values()));
                    let mean = number(summary.mean);
                    let mean = if best { format!("\\textbf{{{mean}}}") } else { mean };
                    let _ = write!(text, " & {mean} & {}", number(summary.median));
                }
            }
        }
        text.push_str(" \\\\\n");
    }
    text.push_str("\\bottomrule\n\\end{tabular}\n");
    text
}

fn is_best<'a>(name: &str, mean: f64, mut all: impl Iterator<Item = &'a Summary>) -> bool {
    match measure(name).map(|measure| measure.better) {
        Some(Better::High) => all.all(|other| other.mean <= mean),
        Some(Better::Low) => all.all(|other| other.mean >= mean),
        _ => false,
    }
}

fn escaped(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\textbackslash{}"),
            '~' => out.push_str("\\textasciitilde{}"),
            '^' => out.push_str("\\textasciicircum{}"),
            '↑' => out.push_str("$\\uparrow$"),
            '↓' => out.push_str("$\\downarrow$"),
            '&' | '%' | '$' | '#' | '_' | '{' | '}' => {
                out.push('\\');
                out.push(c);
            }
            c => out.push(c),
        }
    }
    out
}

fn header<'a>(text: &mut String, first: &str, columns: impl Iterator<Item = &'a str>) {
    let columns: Vec<&str> = columns.collect();
    let _ = writeln!(text, "| {first} | {} |\n|---|{}", columns.join(" | "), "---|".repeat(columns.len()));
}

/// `psnr (dB) ↑`.
pub(super) fn labelled(name: &str) -> String {
    let Some(measure) = measure(name) else { return name.to_owned() };
    let unit = if measure.unit.is_empty() { String::new() } else { format!(" ({})", measure.unit) };
    let arrow = match measure.better {
        Better::High => " ↑",
        Better::Low => " ↓",
        Better::Neither => "",
    };
    format!("{name}{unit}{arrow}")
}

fn cell(summary: &Summary) -> String {
    format!("{} {}, n {}", number(summary.mean), interval(summary), summary.count)
}

fn interval(summary: &Summary) -> String {
    format!("[{}, {}]", number(summary.low), number(summary.high))
}

/// Four digits that count.
pub(super) fn number(value: f64) -> String {
    let digits = match value.abs() {
        size if size >= 1000.0 => 0,
        size if size >= 100.0 => 1,
        size if size >= 10.0 => 2,
        size if size >= 0.1 || size == 0.0 => 3,
        _ => 5,
    };
    format!("{value:.digits$}")
}

fn signed(value: f64) -> String {
    if value > 0.0 { format!("+{}", number(value)) } else { number(value) }
}
