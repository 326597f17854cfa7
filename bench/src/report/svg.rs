//! Drawings as SVG, with colours by CSS class so that one drawing serves light and dark.
//!
//! Written by hand and not with plotters: its SVG has colours for one background, and no
//! classes; charming draws with a megabyte of JavaScript. What is needed is little: lines over a
//! logarithmic axis, and bars with whiskers.

use std::fmt::Write as _;

/// Width of every drawing, in user units.
const WIDTH: f64 = 760.0;

/// One value with its spread.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Value {
    pub(super) median: f64,
    pub(super) min: f64,
    pub(super) max: f64,
}

impl Value {
    /// Of samples; `None` without any.
    pub(super) fn of(samples: &[f64]) -> Option<Self> {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (first, last) = (*sorted.first()?, *sorted.last()?);
        let middle = sorted.len() / 2;
        let below = if sorted.len().is_multiple_of(2) { middle - 1 } else { middle };
        let median = (sorted[below] + sorted[middle]) / 2.0;
        Some(Self { median, min: first, max: last })
    }
}

/// A line over a logarithmic axis.
#[derive(Clone, Debug)]
pub(super) struct Series {
    pub(super) name: String,
    /// The CSS class that colours it: `s0` to `s4`.
    pub(super) class: &'static str,
    pub(super) points: Vec<(f64, Value)>,
}

/// A bar.
#[derive(Clone, Debug)]
pub(super) struct Bar {
    pub(super) name: String,
    /// Whether it is ours.
    pub(super) ours: bool,
    pub(super) value: Value,
}

/// Text that can stand in SVG and HTML.
pub(super) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// A number with as many digits as its size deserves.
pub(super) fn number(value: f64) -> String {
    let digits = match value.abs() {
        v if v >= 1000.0 => return grouped(value),
        v if v >= 100.0 => 0,
        v if v >= 10.0 => 1,
        _ => 2,
    };
    format!("{value:.digits$}")
}

/// A whole number with commas between thousands.
fn grouped(value: f64) -> String {
    let plain = format!("{value:.0}");
    let mut out = String::new();
    for (at, digit) in plain.chars().enumerate() {
        if at > 0 && (plain.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A count of flows as people say it.
pub(super) fn count(value: f64) -> String {
    match value {
        v if v >= 1e6 => format!("{:.0} M", v / 1e6),
        v if v >= 1e3 => format!("{:.0} k", v / 1e3),
        v => format!("{v:.0}"),
    }
}

/// Ticks of a linear axis from 0: at most six, at round numbers; the last is the axis's end.
fn ticks(max: f64) -> Vec<f64> {
    let rough = (max / 5.0).max(f64::MIN_POSITIVE);
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 2.5, 5.0, 10.0].map(|m| m * power).into_iter().find(|s| *s >= rough);
    let step = step.unwrap_or(power * 10.0);
    let mut out = vec![0.0];
    while out[out.len() - 1] < max {
        out.push(step * out.len() as f64);
    }
    out
}

/// Lines over a logarithmic axis; empty without points.
pub(super) fn lines(title: &str, x_name: &str, y_name: &str, series: &[Series]) -> String {
    const LEFT: f64 = 56.0;
    const RIGHT: f64 = 190.0;
    const TOP: f64 = 34.0;
    const HEIGHT: f64 = 360.0;
    let points = || series.iter().flat_map(|series| &series.points);
    let (bottom, right) = (HEIGHT - 46.0, WIDTH - RIGHT);
    let least = points().map(|(x, _)| x.log10()).fold(f64::INFINITY, f64::min);
    let most = points().map(|(x, _)| x.log10()).fold(f64::NEG_INFINITY, f64::max);
    if points().next().is_none() {
        return String::new();
    }
    let ticks = ticks(points().map(|(_, value)| value.max).fold(0.0, f64::max));
    let end = ticks[ticks.len() - 1];
    let x = |value: f64| {
        LEFT + 12.0 + (value.log10() - least) / (most - least).max(1e-9) * (right - LEFT - 24.0)
    };
    let y = |value: f64| bottom - value / end * (bottom - TOP);
    let mut out = opened(HEIGHT, title);
    for tick in &ticks {
        let at = y(*tick);
        line(&mut out, "grid", (LEFT, at), (right, at));
        let said = if end >= 5.0 { grouped(*tick) } else { format!("{tick:.1}") };
        text(&mut out, "tick end", (LEFT - 8.0, at + 4.0), &said);
    }
    let mut places: Vec<f64> = points().map(|(x, _)| *x).collect();
    places.sort_by(f64::total_cmp);
    places.dedup();
    for place in places {
        text(&mut out, "tick middle", (x(place), bottom + 20.0), &count(place));
    }
    text(&mut out, "name", (LEFT - 44.0, 18.0), y_name);
    text(&mut out, "name middle", ((LEFT + right) / 2.0, HEIGHT - 6.0), x_name);
    let mut labels = Vec::new();
    for Series { name, class, points } in series {
        let path: Vec<_> = points
            .iter()
            .map(|(at, value)| format!("{:.1},{:.1}", x(*at), y(value.median)))
            .collect();
        write!(out, "<polyline class=\"line {class}\" points=\"{}\"/>", path.join(" ")).ok();
        for (at, value) in points {
            line(
                &mut out,
                &format!("whisker {class}"),
                (x(*at), y(value.min)),
                (x(*at), y(value.max)),
            );
            write!(
                out,
                "<circle class=\"dot {class}\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"4\"><title>{}, {}: \
                 {} ({} to {})</title></circle>",
                x(*at),
                y(value.median),
                escaped(name),
                count(*at),
                number(value.median),
                number(value.min),
                number(value.max)
            )
            .ok();
        }
        if let Some((at, value)) = points.last() {
            labels.push((y(value.median), x(*at), *class, name, value.median));
        }
    }
    label(&mut out, labels, right);
    out.push_str("</svg>");
    out
}

/// Writes names beside the ends of lines, apart from each other.
fn label(out: &mut String, mut labels: Vec<(f64, f64, &str, &String, f64)>, right: f64) {
    labels.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut lowest = f64::NEG_INFINITY;
    for (at, x, class, name, value) in labels {
        let placed = at.max(lowest + 17.0);
        lowest = placed;
        line(out, &format!("lead {class}"), (x + 7.0, at), (right + 4.0, placed));
        let said = format!("{name}, {}", number(value));
        text(out, &format!("label {class}"), (right + 9.0, placed + 4.0), &said);
    }
}

/// Horizontal bars with whiskers.
pub(super) fn bars(title: &str, unit: &str, bars: &[Bar]) -> String {
    const LEFT: f64 = 236.0;
    const RIGHT: f64 = 186.0;
    const STEP: f64 = 30.0;
    let height = 26.0 + STEP * bars.len() as f64 + 8.0;
    let most = bars.iter().map(|bar| bar.value.max).fold(0.0, f64::max).max(f64::MIN_POSITIVE);
    let x = |value: f64| LEFT + value / most * (WIDTH - LEFT - RIGHT);
    let mut out = opened(height, title);
    text(&mut out, "name", (LEFT, 14.0), unit);
    for (row, bar) in bars.iter().enumerate() {
        let y = 26.0 + STEP * row as f64;
        let class = if bar.ours { "ours" } else { "peer" };
        let strong = if bar.ours { "bar-name strong" } else { "bar-name" };
        text(&mut out, &format!("{strong} end"), (LEFT - 10.0, y + 15.0), &bar.name);
        let Value { median, min, max } = bar.value;
        write!(
            out,
            "<rect class=\"bar {class}\" x=\"{LEFT}\" y=\"{y}\" width=\"{:.1}\" height=\"21\" \
             rx=\"3\"><title>{}: {} ({} to {})</title></rect>",
            x(median) - LEFT,
            escaped(&bar.name),
            number(median),
            number(min),
            number(max)
        )
        .ok();
        let middle = y + 10.5;
        line(&mut out, "spread", (x(min), middle), (x(max), middle));
        for end in [min, max] {
            line(&mut out, "spread", (x(end), middle - 4.0), (x(end), middle + 4.0));
        }
        let said = format!("{}  ({} to {})", number(median), number(min), number(max));
        text(&mut out, "value", (x(max) + 8.0, y + 15.0), &said);
    }
    out.push_str("</svg>");
    out
}

fn opened(height: f64, title: &str) -> String {
    let title = escaped(title);
    format!(
        "<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{title}\"><title>{title}</title>"
    )
}

fn line(out: &mut String, class: &str, from: (f64, f64), to: (f64, f64)) {
    let ((x1, y1), (x2, y2)) = (from, to);
    let ends = format!("x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\"");
    out.push_str(&format!("<line class=\"{class}\" {ends}/>"));
}

fn text(out: &mut String, class: &str, at: (f64, f64), said: &str) {
    let (x, y) = at;
    let said = escaped(said);
    out.push_str(&format!("<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\">{said}</text>"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_reach_the_greatest_value_in_round_steps() {
        assert_eq!(ticks(94.0), [0.0, 20.0, 40.0, 60.0, 80.0, 100.0]);
        assert_eq!(ticks(0.9), [0.0, 0.2, 0.4, 0.6000000000000001, 0.8, 1.0]);
        assert!(ticks(0.0).len() <= 2);
    }

    #[test]
    fn the_median_lies_between_least_and_greatest() {
        let value = Value::of(&[3.0, 1.0, 2.0, 10.0]).unwrap();
        assert_eq!(value, Value { median: 2.5, min: 1.0, max: 10.0 });
        assert_eq!(Value::of(&[]), None);
    }

    #[test]
    fn numbers_are_short_and_names_cannot_break_out() {
        let said = [0.256, 12.34, 345.6, 14_484.2].map(number);
        assert_eq!(said, ["0.26", "12.3", "346", "14,484"]);
        let value = Value { median: 1.0, min: 1.0, max: 1.0 };
        let drawn = bars("<b>", "x", &[Bar { name: "a<b".into(), ours: true, value }]);
        assert!(drawn.contains("a&lt;b") && !drawn.contains("<b>"), "{drawn}");
    }

    #[test]
    fn every_point_is_drawn_with_its_spread() {
        let value = |median| Value { median, min: median - 1.0, max: median + 1.0 };
        let points = vec![(1e3, value(40.0)), (1e6, value(48.0))];
        let drawn = lines("t", "x", "y", &[Series { name: "nat".into(), class: "s0", points }]);
        assert_eq!(drawn.matches("<circle").count(), 2);
        assert_eq!(drawn.matches("class=\"whisker s0\"").count(), 2);
        assert!(drawn.contains("40.0 (39.0 to 41.0)"), "{drawn}");
        assert!(lines("t", "x", "y", &[]).is_empty());
    }
}
