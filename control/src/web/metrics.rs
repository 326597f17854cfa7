//! The metrics as text, as Prometheus reads it (exposition format 0.0.4).

use prometheus::{
    TextEncoder,
    proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType},
};

use super::{
    catalog::{self, Kind, METRICS},
    view::View,
};

/// What the text is, for the head of an answer.
pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// All metrics of the box at one moment.
pub(super) fn text(view: &View) -> String {
    let families: Vec<_> = METRICS.iter().map(|metric| family(metric, view)).collect();
    let mut out = String::new();
    for family in families.iter().filter(|family| !family.get_metric().is_empty()) {
        let encoded = TextEncoder::new().encode_utf8(std::slice::from_ref(family), &mut out);
        encoded.expect("a family with a name and samples, into a string");
    }
    out
}

fn family(metric: &catalog::Metric, view: &View) -> MetricFamily {
    let mut samples = Vec::new();
    (metric.read)(view, &mut |values, number| {
        debug_assert_eq!(values.len(), metric.labels.len(), "{}", metric.name);
        let pairs = metric.labels.iter().zip(values).map(|(name, value)| {
            let mut pair = LabelPair::default();
            pair.set_name((*name).to_owned());
            pair.set_value((*value).to_owned());
            pair
        });
        let mut sample = Metric::from_label(pairs.collect());
        match metric.kind {
            Kind::Counter => {
                let mut counter = Counter::default();
                counter.set_value(number);
                sample.set_counter(counter);
            }
            Kind::Gauge => {
                let mut gauge = Gauge::default();
                gauge.set_value(number);
                sample.set_gauge(gauge);
            }
        }
        samples.push(sample);
    });
    let mut family = MetricFamily::default();
    family.set_name(metric.shown_name());
    family.set_help(metric.help.to_owned());
    family.set_field_type(match metric.kind {
        Kind::Counter => MetricType::COUNTER,
        Kind::Gauge => MetricType::GAUGE,
    });
    family.set_metric(samples);
    family
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// The rows of the table in docs/metrics.md.
    fn rows() -> BTreeSet<String> {
        let page = include_str!("../../../docs/metrics.md");
        page.lines().filter(|line| line.starts_with("| `")).map(str::to_owned).collect()
    }

    #[test]
    fn the_page_has_every_metric_and_no_other() {
        let kind = |kind| if kind == Kind::Counter { "counter" } else { "gauge" };
        let wanted: BTreeSet<_> = METRICS
            .iter()
            .map(|metric| {
                let labels = metric.labels.join(", ");
                let (name, kind) = (metric.shown_name(), kind(metric.kind));
                format!("| `{name}` | {kind} | {labels} | {} |", metric.help)
            })
            .collect();
        let text: Vec<_> = wanted.iter().cloned().collect();
        assert_eq!(rows(), wanted, "\n{}", text.join("\n"));
    }

    #[test]
    fn no_name_is_given_twice() {
        let names: BTreeSet<_> = METRICS.iter().map(|metric| metric.name).collect();
        assert_eq!(names.len(), METRICS.len());
    }
}
