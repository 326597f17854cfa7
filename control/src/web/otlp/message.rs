//! The metrics as messages of OTLP: what only grows as monotonic cumulative sums, all else as gauges.
//!
//! Names are those of the list, without the `_total` that Prometheus wants; labels become attributes, and
//! one that is empty is left out. Source: OpenTelemetry protocol 1.x, metrics/v1/metrics.proto.

use std::time::{SystemTime, UNIX_EPOCH};

use opentelemetry_proto::tonic::{
    collector::metrics::v1::ExportMetricsServiceRequest,
    common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value},
    metrics::v1::{
        AggregationTemporality, Gauge, Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, Sum,
        metric::Data, number_data_point::Value,
    },
    resource::v1::Resource,
};

use crate::web::{
    catalog::{self, Kind, METRICS},
    view::View,
};

/// Samples in one message at most: below 1 MiB, where collectors take 4.
const POINTS_MAX: usize = 4000;

/// What says which box this is.
pub(super) fn resource(host: &str) -> Resource {
    let attributes = vec![
        attribute("service.name", "xvsd"),
        attribute("service.version", env!("CARGO_PKG_VERSION")),
        attribute("host.name", host),
    ];
    Resource { attributes, ..Resource::default() }
}

/// Gives `send` all metrics of a moment in messages of bounded size, until it wants no more.
pub(super) fn messages(
    view: &View,
    now: SystemTime,
    resource: &Resource,
    send: &mut dyn FnMut(ExportMetricsServiceRequest) -> bool,
) {
    let times = Times { start: nanos(view.started_at), now: nanos(now) };
    let (mut batch, mut room) = (Vec::new(), POINTS_MAX);
    for metric in METRICS {
        let mut points = points(metric, view, times);
        while !points.is_empty() {
            let rest = points.split_off(points.len().min(room));
            room -= points.len();
            batch.push(message(metric, std::mem::replace(&mut points, rest)));
            if room == 0 {
                if !send(request(resource, std::mem::take(&mut batch))) {
                    return;
                }
                room = POINTS_MAX;
            }
        }
    }
    if !batch.is_empty() {
        send(request(resource, batch));
    }
}

/// Since when is counted, and when it is.
#[derive(Clone, Copy, Debug)]
struct Times {
    start: u64,
    now: u64,
}

/// Nanoseconds since 1970: 0 before, and in 2554 no more.
fn nanos(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

fn points(metric: &catalog::Metric, view: &View, times: Times) -> Vec<NumberDataPoint> {
    let start_time_unix_nano = match metric.kind {
        Kind::Counter => times.start,
        Kind::Gauge => 0,
    };
    let mut points = Vec::new();
    (metric.read)(view, &mut |values, number| {
        let labels = metric.labels.iter().zip(values).filter(|(_, value)| !value.is_empty());
        points.push(NumberDataPoint {
            attributes: labels.map(|(name, value)| attribute(name, value)).collect(),
            start_time_unix_nano,
            time_unix_nano: times.now,
            value: Some(Value::AsDouble(number)),
            ..NumberDataPoint::default()
        });
    });
    points
}

fn message(metric: &catalog::Metric, data_points: Vec<NumberDataPoint>) -> Metric {
    let data = match metric.kind {
        Kind::Counter => Data::Sum(Sum {
            data_points,
            aggregation_temporality: AggregationTemporality::Cumulative.into(),
            is_monotonic: true,
        }),
        Kind::Gauge => Data::Gauge(Gauge { data_points }),
    };
    Metric {
        name: metric.name.to_owned(),
        description: metric.help.to_owned(),
        data: Some(data),
        ..Metric::default()
    }
}

fn request(resource: &Resource, metrics: Vec<Metric>) -> ExportMetricsServiceRequest {
    let scope = InstrumentationScope {
        name: "xvs".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..InstrumentationScope::default()
    };
    let scope_metrics = ScopeMetrics { scope: Some(scope), metrics, ..ScopeMetrics::default() };
    let resource_metrics = ResourceMetrics {
        resource: Some(resource.clone()),
        scope_metrics: vec![scope_metrics],
        ..ResourceMetrics::default()
    };
    ExportMetricsServiceRequest { resource_metrics: vec![resource_metrics] }
}

fn attribute(key: &str, value: &str) -> KeyValue {
    let value = AnyValue { value: Some(any_value::Value::StringValue(value.to_owned())) };
    KeyValue { key: key.to_owned(), value: Some(value), ..KeyValue::default() }
}
