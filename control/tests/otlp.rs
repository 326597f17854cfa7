//! Metrics by OTLP, as a collector gets them: the same names, values and labels as `/metrics` shows, and
//! nothing that a collector which is slow or away does to the daemon.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    time::{Duration, UNIX_EPOCH},
};

use dataplane::{
    director::Director,
    endpoint::Endpoints,
    flow::{FlowTable, HashKey, Pages, TableConfig},
    stats::Stats,
};
use opentelemetry_proto::tonic::{
    collector::metrics::v1::{
        ExportMetricsPartialSuccess, ExportMetricsServiceRequest, ExportMetricsServiceResponse,
        metrics_service_server::{MetricsService, MetricsServiceServer},
    },
    common::v1::{KeyValue, any_value},
    metrics::v1::{
        AggregationTemporality, Metric, NumberDataPoint, metric::Data, number_data_point::Value,
    },
};
use tokio::{
    runtime::Runtime,
    sync::{mpsc, watch},
    task::JoinHandle,
    time::timeout,
};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, transport::Server};
use xvs_control::{
    config::{Config, Otlp},
    engine::Engine,
    web,
};

/// How long anything may take, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Samples in one message at most.
const POINTS_MAX: usize = 4000;

/// A collector: hands on what it gets.
struct Collector {
    got: mpsc::UnboundedSender<ExportMetricsServiceRequest>,
    /// Samples that it says it rejects.
    rejects: i64,
}

#[tonic::async_trait]
impl MetricsService for Collector {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        // Nobody looks any more at the end of a test.
        self.got.send(request.into_inner()).ok();
        let partial_success = Some(ExportMetricsPartialSuccess {
            rejected_data_points: self.rejects,
            error_message: "too old".to_owned(),
        });
        Ok(Response::new(ExportMetricsServiceResponse { partial_success }))
    }
}

/// A running collector, on a runtime of its own, so that its connections end with it.
struct Running {
    at: SocketAddr,
    got: mpsc::UnboundedReceiver<ExportMetricsServiceRequest>,
    runtime: Option<Runtime>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.runtime.take().unwrap().shutdown_background();
    }
}

impl Running {
    /// Listens at a port, or at a free one.
    fn start(port: u16, rejects: i64) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let at = listener.local_addr().unwrap();
        let (sender, got) = mpsc::unbounded_channel();
        let service = MetricsServiceServer::new(Collector { got: sender, rejects });
        let runtime = Runtime::new().unwrap();
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            let incoming = TcpListenerStream::new(listener);
            Server::builder().add_service(service).serve_with_incoming(incoming).await.unwrap();
        });
        Self { at, got, runtime: Some(runtime) }
    }

    async fn next(&mut self) -> ExportMetricsServiceRequest {
        timeout(PATIENCE, self.got.recv()).await.unwrap().unwrap()
    }
}

/// A box without workers, with so many services of three real servers each.
fn engine(services: usize) -> Arc<Engine> {
    let stats = Stats::new(1, 4096);
    let director = Director::new(Arc::new(Endpoints::new(4096)), stats.clone());
    let table =
        TableConfig { pages: Pages::Small, ..TableConfig::new(1024, 1, HashKey::from_seed(1)) };
    let table = Arc::new(FlowTable::new(&table).unwrap());
    let engine = Arc::new(Engine::new(director, stats, table));
    let mut text = String::new();
    for port in 1..=services {
        text +=
            &format!("[[service]]\nprotocol = \"tcp\"\naddress = \"10.0.0.1\"\nport = {port}\n");
        for real in 1..=3 {
            text += &format!("[[service.real]]\naddress = \"10.2.0.{real}\"\nweight = {real}\n");
        }
    }
    engine.lock().apply(&Config::parse(&text).unwrap().desired, None).unwrap();
    engine
}

/// Exports an engine's metrics every 50 ms, until the sender is dropped.
fn export(engine: &Arc<Engine>, at: SocketAddr) -> (watch::Sender<bool>, JoinHandle<()>) {
    let (stop, stopped) = watch::channel(false);
    let config = Otlp { endpoint: format!("http://{at}"), interval: Duration::from_millis(50) };
    let export = web::otlp::export(config, Arc::clone(engine), stopped);
    (stop, tokio::spawn(async move { export.await.unwrap() }))
}

/// The metrics of a message, which has one resource and one scope.
fn metrics(message: &ExportMetricsServiceRequest) -> &[Metric] {
    let [resource] = &message.resource_metrics[..] else { panic!("one resource") };
    let [scope] = &resource.scope_metrics[..] else { panic!("one scope") };
    &scope.metrics
}

fn points(metric: &Metric) -> &[NumberDataPoint] {
    match metric.data.as_ref().unwrap() {
        Data::Sum(sum) => &sum.data_points,
        Data::Gauge(gauge) => &gauge.data_points,
        other => panic!("{}: {other:?}", metric.name),
    }
}

fn text(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |pair: &KeyValue| match pair.value.as_ref().unwrap().value.as_ref().unwrap() {
        any_value::Value::StringValue(text) => (pair.key.clone(), text.clone()),
        other => panic!("{other:?}"),
    };
    attributes.iter().map(text).collect()
}

/// Every sample as a line of Prometheus' format, but for labels that are empty.
fn lines(metric: &Metric) -> Vec<String> {
    let suffix = if matches!(metric.data, Some(Data::Sum(_))) { "_total" } else { "" };
    let line = |point: &NumberDataPoint| {
        let labels: Vec<_> = point
            .attributes
            .iter()
            .map(|pair| {
                let (name, value) = text(std::slice::from_ref(pair)).pop_first().unwrap();
                format!("{name}=\"{value}\"")
            })
            .collect();
        let labels =
            if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        let Some(Value::AsDouble(value)) = point.value else { panic!("{point:?}") };
        format!("{}{suffix}{labels} {value}", metric.name)
    };
    points(metric).iter().map(line).collect()
}

/// What `/metrics` shows, but for comments and for labels that are empty.
async fn shown(engine: &Arc<Engine>) -> Vec<String> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let at = listener.local_addr().unwrap();
    let (_stop, stopped) = watch::channel(false);
    tokio::spawn(web::serve(listener, Arc::clone(engine), Vec::new(), stopped));
    let ask = move || {
        let mut stream = TcpStream::connect(at).unwrap();
        let request = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        stream.write_all(request).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    let answer = tokio::task::spawn_blocking(ask).await.unwrap();
    let body = answer.split_once("\r\n\r\n").unwrap().1;
    let samples = body.lines().filter(|line| !line.starts_with('#'));
    samples.map(|line| line.replace(",local_mark=\"\"", "")).collect()
}

#[tokio::test]
async fn a_collector_gets_what_prometheus_is_shown() {
    let engine = engine(2);
    let mut collector = Running::start(0, 0);
    let (_stop, _) = export(&engine, collector.at);
    let message = collector.next().await;
    let mut exported: Vec<_> = metrics(&message).iter().flat_map(lines).collect();
    let mut shown = shown(&engine).await;
    exported.sort();
    shown.sort();
    assert_eq!(exported, shown);
    assert!(exported.iter().any(|line| line.starts_with("node_ipvs_backend_weight{proto=\"TCP\"")));

    let resource = message.resource_metrics[0].resource.as_ref().unwrap();
    let said = text(&resource.attributes);
    assert_eq!((said["service.name"].as_str(), said.len()), ("xvsd", 3));
    assert_eq!(said["service.version"], env!("CARGO_PKG_VERSION"));
    assert!(!said["host.name"].is_empty());
}

#[tokio::test]
async fn counters_are_cumulative_sums_since_the_start_and_the_rest_gauges() {
    let engine = engine(1);
    let mut collector = Running::start(0, 0);
    let (_stop, _) = export(&engine, collector.at);
    let (first, second) = (collector.next().await, collector.next().await);
    let started = engine.info().started_at.duration_since(UNIX_EPOCH).unwrap().as_nanos();
    let (mut sums, mut gauges) = (0, 0);
    for metric in metrics(&first) {
        assert!(!metric.description.is_empty() && !metric.name.ends_with("_total"));
        let start = match metric.data.as_ref().unwrap() {
            Data::Sum(sum) => {
                assert!(sum.is_monotonic, "{}", metric.name);
                let temporality = sum.aggregation_temporality();
                assert_eq!(temporality, AggregationTemporality::Cumulative, "{}", metric.name);
                sums += 1;
                started
            }
            _ => {
                gauges += 1;
                0
            }
        };
        for point in points(metric) {
            assert_eq!(u128::from(point.start_time_unix_nano), start, "{}", metric.name);
            assert!(u128::from(point.time_unix_nano) >= started, "{}", metric.name);
        }
    }
    assert!(sums > 10 && gauges > 10, "{sums} sums, {gauges} gauges");
    let time = |message: &ExportMetricsServiceRequest| {
        points(&metrics(message)[0]).first().unwrap().time_unix_nano
    };
    assert!(time(&second) > time(&first));
}

#[tokio::test]
async fn many_samples_come_in_several_messages() {
    let engine = engine(500);
    let mut collector = Running::start(0, 0);
    let (_stop, _) = export(&engine, collector.at);
    let mut shown = shown(&engine).await;
    let (mut exported, mut messages) = (Vec::new(), 0);
    while exported.len() < shown.len() {
        let message = collector.next().await;
        let samples: usize = metrics(&message).iter().map(|metric| points(metric).len()).sum();
        assert!(samples <= POINTS_MAX, "{samples} in one message");
        exported.extend(metrics(&message).iter().flat_map(lines));
        messages += 1;
    }
    exported.sort();
    shown.sort();
    assert_eq!(exported.len(), shown.len());
    assert!(exported == shown, "all of it, and nothing twice");
    assert!(messages > 3, "{messages} messages");
}

/// What the daemon's log says.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, octets: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(octets)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Log {
    /// Its lines with these words.
    fn count(&self, words: &str) -> usize {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        text.lines().filter(|line| line.contains("otlp: ") && line.contains(words)).count()
    }

    async fn wait(&self, words: &str) {
        let look = async {
            while self.count(words) == 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(PATIENCE, look).await.unwrap();
    }
}

#[tokio::test]
async fn the_log_says_once_that_a_collector_is_away_and_once_that_it_is_back() {
    let log = Log::default();
    let writer = log.clone();
    let make = move || writer.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(make).finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let engine = engine(1);
    let mut collector = Running::start(0, 3);
    let at = collector.at;
    let (stop, task) = export(&engine, at);
    collector.next().await;
    log.wait("rejects 3 samples: too old").await;
    drop(collector);
    log.wait("metrics are not exported until it is back").await;
    // It is asked again meanwhile, and nothing more is said.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let mut collector = Running::start(at.port(), 0);
    collector.next().await;
    log.wait("is back").await;
    collector.next().await;
    for words in ["until it is back", "is back,", "rejects"] {
        assert_eq!(log.count(words), 1, "{words}");
    }
    drop(stop);
    timeout(PATIENCE, task).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_collector_that_never_answers_holds_nothing_up() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let engine = engine(500);
    let (stop, task) = export(&engine, silent.local_addr().unwrap());
    tokio::time::sleep(Duration::from_millis(200)).await;
    let desired = Config::parse("").unwrap().desired;
    engine.lock().apply(&desired, None).unwrap();
    drop(stop);
    timeout(PATIENCE, task).await.unwrap().unwrap();
}
