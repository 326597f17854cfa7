//! The metrics pushed to a collector by OTLP over gRPC. Off unless the configuration names one.
//!
//! The rule: a collector that is slow or away costs nothing but its metrics. One export is on its way at a
//! time, in messages of bounded size made as they are sent; nothing is kept for later, since what counts is
//! cumulative. A collector that is away is asked ever more seldom, and the log has one line when it goes
//! and one when it is back.
//! Source: OpenTelemetry protocol 1.x, OTLP/gRPC.

mod message;

use std::{
    error::Error as _,
    fs,
    sync::Arc,
    time::{Duration, SystemTime},
};

use opentelemetry_proto::tonic::{
    collector::metrics::v1::{
        ExportMetricsServiceRequest, metrics_service_client::MetricsServiceClient,
    },
    resource::v1::Resource,
};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};
use tonic::{
    Status,
    transport::{Channel, Endpoint},
};

use super::{stopped, view::View};
use crate::{config::Otlp, engine::Engine, server::ServeError};

/// How long a connection, or the answer to a message, may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// The longest time from one try to the next while the collector is away, unless the interval is longer.
const AWAY_MAX: Duration = Duration::from_secs(300);

/// Messages that are made while another one is sent.
const AHEAD: usize = 1;

/// Exports until `stop` says so.
///
/// # Errors
///
/// The endpoint is no address of a collector.
pub async fn export(
    config: Otlp,
    engine: Arc<Engine>,
    mut stop: watch::Receiver<bool>,
) -> Result<(), ServeError> {
    let endpoint = Endpoint::from_shared(config.endpoint.clone())?;
    let channel = endpoint.connect_timeout(PATIENCE).timeout(PATIENCE).connect_lazy();
    let resource = Arc::new(message::resource(&host()));
    let exporter = Exporter { client: MetricsServiceClient::new(channel), engine, resource };
    tokio::select! {
        () = run(exporter, &config) => {}
        () = stopped(&mut stop) => {}
    }
    Ok(())
}

/// Exports again and again.
async fn run(mut exporter: Exporter, config: &Otlp) {
    let mut away = Away::default();
    let mut next = Instant::now();
    loop {
        sleep_until(next).await;
        let begun = Instant::now();
        match exporter.once().await {
            Ok(rejected) => away.answered(&config.endpoint, rejected),
            Err(status) => away.failed(&config.endpoint, &status),
        }
        // What took longer than the interval is followed at once by the next one.
        next = (begun + away.pause(config.interval)).max(Instant::now());
    }
}

/// What exports need.
struct Exporter {
    client: MetricsServiceClient<Channel>,
    engine: Arc<Engine>,
    resource: Arc<Resource>,
}

impl Exporter {
    /// Sends all metrics as they are now; gives back what the collector says it did not take.
    async fn once(&mut self) -> Result<Option<String>, Status> {
        let (sender, mut made) = mpsc::channel::<ExportMetricsServiceRequest>(AHEAD);
        let (engine, resource) = (Arc::clone(&self.engine), Arc::clone(&self.resource));
        // On a thread of its own: with many real servers it takes a while. It ends with the receiver.
        let maker = tokio::task::spawn_blocking(move || {
            let view = View::of(&engine);
            let mut send = |message| sender.blocking_send(message).is_ok();
            message::messages(&view, SystemTime::now(), &resource, &mut send);
        });
        let mut rejected = None;
        while let Some(message) = made.recv().await {
            let answer = self.client.export(message).await?.into_inner();
            let partly = answer.partial_success.filter(|partly| partly.rejected_data_points > 0);
            rejected = rejected.or_else(|| {
                partly.map(|p| format!("{} samples: {}", p.rejected_data_points, p.error_message))
            });
        }
        maker.await.map_err(|error| Status::internal(error.to_string()))?;
        Ok(rejected)
    }
}

/// Whether the collector answers, and what was said about that.
#[derive(Debug, Default)]
struct Away {
    /// Exports that failed, one after the other.
    failures: u32,
    /// The collector does not take everything.
    is_picky: bool,
}

impl Away {
    fn failed(&mut self, endpoint: &str, status: &Status) {
        if self.failures == 0 {
            let why = innermost(status);
            tracing::warn!("otlp: {endpoint}: {why}; metrics are not exported until it is back");
        }
        self.failures = self.failures.saturating_add(1);
    }

    fn answered(&mut self, endpoint: &str, rejected: Option<String>) {
        if self.failures > 0 {
            tracing::info!("otlp: {endpoint} is back, {} exports failed", self.failures);
            self.failures = 0;
        }
        if let Some(rejected) = &rejected
            && !self.is_picky
        {
            tracing::warn!("otlp: {endpoint} rejects {rejected}");
        }
        self.is_picky = rejected.is_some();
    }

    /// From the beginning of an export to that of the next: the interval, and twice as long after each
    /// that failed.
    fn pause(&self, interval: Duration) -> Duration {
        let doubled = interval.saturating_mul(1 << self.failures.min(16));
        doubled.min(AWAY_MAX.max(interval))
    }
}

/// What lies at the bottom of a failure: "Connection refused" and not "transport error".
fn innermost(status: &Status) -> String {
    let mut source = status.source();
    let mut said = status.message().to_owned();
    while let Some(error) = source {
        said = error.to_string();
        source = error.source();
    }
    said
}

/// The name of the box.
fn host() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collector_that_is_away_is_asked_ever_more_seldom() {
        let pauses = |seconds| {
            let interval = Duration::from_secs(seconds);
            [0, 1, 2, 3, 100].map(|failures| {
                let away = Away { failures, is_picky: false };
                away.pause(interval).as_secs()
            })
        };
        assert_eq!(pauses(10), [10, 20, 40, 80, 300]);
        assert_eq!(pauses(3600), [3600; 5]);
    }

    #[test]
    fn the_box_has_a_name() {
        assert!(!host().is_empty() && !host().contains('\n'));
    }
}
