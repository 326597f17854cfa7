//! The pages over HTTP, as curl and Prometheus see them, of an engine without workers.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::Arc,
    time::Duration,
};

use dataplane::{
    director::Director,
    endpoint::Endpoints,
    flow::{FlowTable, HashKey, Pages, TableConfig},
    stats::Stats,
};
use tokio::sync::watch;
use xvs_control::{config::Config, engine::Engine, web};

/// What is served, until it is dropped.
struct Site {
    at: SocketAddr,
    _runtime: tokio::runtime::Runtime,
    _stop: watch::Sender<bool>,
}

impl Site {
    /// Serves a box with the services of a file.
    fn of(services: &str) -> Self {
        let stats = Stats::new(1, 64);
        let director = Director::new(Arc::new(Endpoints::new(64)), stats.clone());
        let table =
            TableConfig { pages: Pages::Small, ..TableConfig::new(1024, 1, HashKey::from_seed(1)) };
        let table = Arc::new(FlowTable::new(&table).unwrap());
        let engine = Arc::new(Engine::new(director, stats, table));
        engine.lock().apply(&Config::parse(services).unwrap().desired, None).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let at = listener.local_addr().unwrap();
        let (stop, stopped) = watch::channel(false);
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.spawn(web::serve(listener, engine, Vec::new(), stopped));
        Self { at, _runtime: runtime, _stop: stop }
    }

    /// The answer to a request, head and body.
    fn ask(&self, request: &str) -> (String, String) {
        let mut stream = TcpStream::connect(self.at).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.to_ascii_lowercase(), body.to_owned())
    }

    fn get(&self, path: &str) -> (String, String) {
        self.ask(&format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"))
    }
}

const SERVICES: &str = r#"
[[service]]
protocol = "tcp"
address = "10.0.0.1"
port = 80
scheduler = "wlc"

[[service.real]]
address = "10.2.0.11"
weight = 3
"#;

#[test]
fn metrics_are_as_prometheus_reads_them() {
    let (head, body) = Site::of(SERVICES).get("/metrics");
    assert!(head.starts_with("http/1.1 200"), "{head}");
    assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
    let backend = "node_ipvs_backend_weight{proto=\"TCP\",local_address=\"10.0.0.1\",\
                   local_port=\"80\",local_mark=\"\",remote_address=\"10.2.0.11\",\
                   remote_port=\"80\"} 3\n";
    for line in [backend, "node_ipvs_connections_total 0\n", "xvs_flow_table_capacity 1024\n"] {
        assert!(body.contains(line), "no {line} in\n{body}");
    }
    for line in body.lines().filter(|line| !line.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').unwrap();
        assert!(value.parse::<f64>().is_ok(), "{line}");
        let name = name.split('{').next().unwrap();
        assert!(body.contains(&format!("# TYPE {name} ")), "{name} has no type");
    }
}

#[test]
fn the_page_takes_nothing_from_elsewhere_and_its_state_is_json() {
    let site = Site::of(SERVICES);
    let (head, page) = site.get("/");
    assert!(head.contains("content-type: text/html"), "{head}");
    assert!(head.contains("content-security-policy: default-src 'none'"), "{head}");
    assert!(!page.contains("http://") && !page.contains("https://"), "{page}");
    for file in ["/page.js", "/page.css"] {
        assert!(page.contains(&format!("\"{file}\"")));
        assert!(site.get(file).0.starts_with("http/1.1 200"), "{file}");
    }
    let (head, body) = site.get("/status.json");
    assert!(head.contains("content-type: application/json"), "{head}");
    let state: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(state["services"][0]["name"], "TCP 10.0.0.1:80");
    assert_eq!(state["services"][0]["reals"][0]["weight"], 3);
}

#[test]
fn a_packet_is_explained_or_the_query_is_refused() {
    let site = Site::of(SERVICES);
    let (head, body) = site.get("/explain?protocol=tcp&from=10.9.0.1:4711&to=10.0.0.1:80");
    assert!(head.starts_with("http/1.1 200"), "{head}");
    assert!(body.contains("service    TCP 10.0.0.1:80"), "{body}");
    let (head, body) = site.get("/explain?protocol=tcp&from=nobody&to=10.0.0.1:80");
    assert!(head.starts_with("http/1.1 400") && body.contains("from: `nobody`"), "{head} {body}");
}

#[test]
fn what_is_not_there_cannot_be_had_and_nothing_can_be_changed() {
    let site = Site::of("");
    let status = |request: &str| site.ask(request).0;
    assert!(site.get("/../etc/passwd").0.starts_with("http/1.1 404"));
    assert!(site.get("/ready").0.starts_with("http/1.1 200"));
    let post =
        "POST / HTTP/1.1\r\nHost: [::1]:80\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
    assert!(status(post).starts_with("http/1.1 405"));
    let foreign = "GET /status.json HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n";
    assert!(status(foreign).starts_with("http/1.1 421"));
    let garbage = "\x16\x03\x01 what\r\n\r\n";
    assert!(status(garbage).starts_with("http/1.1 400"));
    let long = format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "a".repeat(100_000));
    assert!(status(&long).starts_with("http/1.1 4"), "a head without end is cut off");
}
