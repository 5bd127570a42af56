//! Plots as SVG: a measure's mean by scene or category, a bar a series, with its interval.

use std::fmt::Write;

use diorama_core::measure::Better;

use super::tables::{labelled, measure, number, shown};
use super::{Preset, Summaries};
use crate::report::summary::BySeries;

/// Colours that people with any colour vision tell apart (Okabe and Ito).
pub(super) const COLOURS: [&str; 7] = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#7F7F7F"];
/// More groups of a kind than can be read in one plot.
const MOST_GROUPS: usize = 60;

const LEFT: f64 = 190.0;
const WIDTH: f64 = 560.0;
const BAR: f64 = 13.0;
const GAP: f64 = 12.0;

/// Name and text of each.
pub(super) fn all(summaries: &Summaries, preset: Preset) -> Vec<(String, String)> {
    let mut plots = Vec::new();
    for (kind, groups) in
        summaries.groups.iter().filter(|(kind, groups)| **kind != "prompt" && groups.len() <= MOST_GROUPS)
    {
        let judged = |name: &&str| measure(name).is_some_and(|measure| measure.better != Better::Neither);
        for name in shown(summaries, preset).into_iter().filter(judged) {
            let groups: Vec<(&str, &BySeries)> =
                groups.iter().filter_map(|(group, measures)| Some((group.as_str(), measures.get(name)?))).collect();
            if !groups.is_empty() {
                plots.push((
                    format!("{name}-by-{kind}"),
                    bars(&format!("{} by {kind}", labelled(name)), &groups, &summaries.series),
                ));
            }
        }
    }
    plots
}

fn bars(title: &str, groups: &[(&str, &BySeries)], series: &[String]) -> String {
    let (low, high) = range(groups);
    let x = |value: f64| LEFT + (value - low) / (high - low) * WIDTH;
    let group_height = BAR * series.len() as f64 + GAP;
    let top = 56.0 + 18.0 * series.len() as f64;
    let bottom = top + group_height * groups.len() as f64;
    let (width, height) = (LEFT + WIDTH + 70.0, bottom + 34.0);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" \
         font-family=\"system-ui, sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"16\" y=\"26\" font-size=\"16\">{}</text>\n",
        escaped(title)
    );
    for (at, name) in series.iter().enumerate() {
        let y = 42.0 + 18.0 * at as f64;
        let colour = COLOURS[at % COLOURS.len()];
        let _ = writeln!(
            svg,
            "<rect x=\"16\" y=\"{y}\" width=\"12\" height=\"12\" fill=\"{colour}\"/><text x=\"34\" y=\"{}\">{}</text>",
            y + 10.5,
            escaped(name)
        );
    }
    for tick in ticks(low, high) {
        let _ = writeln!(
            svg,
            "<line x1=\"{0:.1}\" x2=\"{0:.1}\" y1=\"{top}\" y2=\"{bottom}\" stroke=\"#ddd\"/><text x=\"{0:.1}\" y=\"{1}\" \
             text-anchor=\"middle\" fill=\"#555\">{2}</text>",
            x(tick),
            bottom + 18.0,
            plain(tick, high - low)
        );
    }
    for (at, (group, all)) in groups.iter().enumerate() {
        let y = top + GAP / 2.0 + group_height * at as f64;
        let middle = y + BAR * series.len() as f64 / 2.0 + 4.0;
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{middle}\" text-anchor=\"end\">{}</text>",
            LEFT - 10.0,
            escaped(&shortened(group))
        );
        for (index, name) in series.iter().enumerate() {
            let Some(summary) = all.get(name) else { continue };
            let (y, zero) = (y + BAR * index as f64, x(0.0_f64.clamp(low, high)));
            let (from, to) = (zero.min(x(summary.mean)), zero.max(x(summary.mean)));
            let centre = y + BAR / 2.0;
            let _ = writeln!(
                svg,
                "<rect x=\"{from:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{}\" fill=\"{}\"><title>{}: {} [{}, {}], n {}</title></rect>\
                 <line x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{centre:.1}\" y2=\"{centre:.1}\" stroke=\"#222\"/>",
                to - from,
                BAR - 2.0,
                COLOURS[index % COLOURS.len()],
                escaped(name),
                number(summary.mean),
                number(summary.low),
                number(summary.high),
                summary.count,
                x(summary.low),
                x(summary.high)
            );
        }
    }
    svg.push_str("</svg>\n");
    svg
}

/// From 0, or from below the smallest value where there are negative ones, to above the largest.
fn range(groups: &[(&str, &BySeries)]) -> (f64, f64) {
    let all = || groups.iter().flat_map(|(_, all)| all.values());
    let low = all().map(|summary| summary.low).fold(0.0, f64::min);
    let high = all().map(|summary| summary.high).fold(0.0, f64::max);
    if high > low { (low, high) } else { (low, low + 1.0) }
}

/// Round numbers, about five.
fn ticks(low: f64, high: f64) -> Vec<f64> {
    let rough = (high - low) / 5.0;
    let magnitude = 10.0_f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|factor| factor * magnitude).find(|step| *step >= rough);
    let step = step.unwrap_or(magnitude);
    let first = (low / step).ceil() as i64;
    (first..first + 12).map(|at| at as f64 * step).take_while(|tick| *tick <= high).collect()
}

/// A tick as it is read: as many digits as the steps have.
fn plain(tick: f64, width: f64) -> String {
    let digits = (1.0 - (width / 5.0).log10().floor()).clamp(0.0, 6.0) as usize;
    let text = format!("{tick:.digits$}");
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

/// As much of a name as has room.
pub(super) fn shortened(text: &str) -> String {
    match text.chars().count() {
        0..=26 => text.to_owned(),
        _ => text.chars().take(25).chain(['…']).collect(),
    }
}

/// Text that cannot become markup.
pub(super) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            // XML knows no other control characters.
            c if c.is_control() && !matches!(c, '\t' | '\n' | '\r') => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}
