//! gRPC over TCP: only for clients with a certificate of the right authority, and with the role that
//! it is given.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::{fs, net::TcpListener, path::Path, sync::Arc};

use dataplane::{
    director::Director,
    endpoint::Endpoints,
    flow::{FlowTable, HashKey, Pages, TableConfig},
    stats::Stats,
};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, IsCa, KeyPair,
};
use tokio::sync::watch;
use tonic::{
    Code,
    service::Routes,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};
use xvs_control::{
    access::{Access, Grant, Grantee, Role, audit::Audit},
    config::Tls,
    engine::Engine,
    proto::v1::{
        GetInfoRequest, SetSettingRequest, Setting, ZeroCountersRequest,
        diagnostics_service_client::DiagnosticsServiceClient,
        load_balancer_service_client::LoadBalancerServiceClient,
    },
    server::{self, ServeError, listen},
};

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Authority {
    let mut params = CertificateParams::new(vec![]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// Certificate and key in PEM, signed by `authority`.
fn identity(authority: &Authority) -> (String, String) {
    named(authority, &["localhost"])
}

/// The same with these DNS names.
fn named(authority: &Authority, names: &[&str]) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.distinguished_name = DistinguishedName::new();
    (params.signed_by(&key, authority).unwrap().pem(), key.serialize_pem())
}

fn write(folder: &Path, name: &str, text: &str) -> std::path::PathBuf {
    let path = folder.join(name);
    fs::write(&path, text).unwrap();
    path
}

/// What a box without workers serves, where, and at which port.
fn box_without_workers() -> (Routes, TcpListener, u16) {
    let stats = Stats::new(1, 16);
    let director = Director::new(Arc::new(Endpoints::new(16)), stats.clone());
    let table =
        TableConfig { pages: Pages::Small, ..TableConfig::new(1024, 1, HashKey::from_seed(1)) };
    let table = Arc::new(FlowTable::new(&table).unwrap());
    let engine = Arc::new(Engine::new(director, stats, table));
    let (_, routes) = server::routes(&engine);
    let listener = listen::bind_tcp("127.0.0.1:0".parse().unwrap()).unwrap();
    let port = listener.local_addr().unwrap().port();
    (routes, listener, port)
}

async fn connect(
    port: u16,
    tls: Option<ClientTlsConfig>,
) -> Result<DiagnosticsServiceClient<Channel>, Box<dyn std::error::Error>> {
    let scheme = if tls.is_some() { "https" } else { "http" };
    let mut endpoint = Endpoint::from_shared(format!("{scheme}://localhost:{port}"))?;
    if let Some(tls) = tls {
        endpoint = endpoint.tls_config(tls)?;
    }
    let mut client = DiagnosticsServiceClient::new(endpoint.connect().await?);
    // With TLS 1.3 the server's refusal of a client shows only with the first request.
    client.get_info(GetInfoRequest {}).await?;
    Ok(client)
}

#[tokio::test]
async fn only_clients_with_the_right_certificate_are_served() {
    let (ours, others) = (authority(), authority());
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = identity(&ours);
    let files = Tls {
        certificate: write(folder.path(), "server.pem", &certificate),
        key: write(folder.path(), "server.key", &key),
        client_ca: write(folder.path(), "clients.pem", &ours.pem()),
    };
    let (routes, listener, port) = box_without_workers();
    let (_stop, stopped) = watch::channel(false);
    let tls = Some(server::tls(&files).unwrap());
    tokio::spawn(server::serve_tcp(listener, tls, routes, stopped));

    let trusting = || ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ours.pem()));
    let with = |(certificate, key): (String, String)| {
        trusting().identity(Identity::from_pem(certificate, key))
    };
    connect(port, Some(with(identity(&ours)))).await.unwrap();
    assert!(connect(port, Some(with(identity(&others)))).await.is_err(), "a stranger is served");
    assert!(connect(port, Some(trusting())).await.is_err(), "served without a certificate");
    assert!(connect(port, None).await.is_err(), "served without TLS");
}

/// A box over TLS whose callers have roles by their certificates' names.
async fn box_with_roles(ours: &Authority, folder: &Path) -> (u16, watch::Sender<bool>) {
    let (certificate, key) = identity(ours);
    let files = Tls {
        certificate: write(folder, "server.pem", &certificate),
        key: write(folder, "server.key", &key),
        client_ca: write(folder, "clients.pem", &ours.pem()),
    };
    let grant = |name: &str, role| Grant { to: Grantee::Certificate(name.to_owned()), role };
    let grants = vec![
        grant("reader.example", Role::Read),
        grant("operator.example", Role::Operate),
        grant("admin.example", Role::Administer),
    ];
    let access = Access::new(grants, Audit::to_file(&folder.join("audit.log")).unwrap());
    let (routes, listener, port) = box_without_workers();
    let (stop, stopped) = watch::channel(false);
    let service = server::Service { routes, access };
    let tls = Some(server::tls(&files).unwrap());
    tokio::spawn(server::serve_tcp(listener, tls, service, stopped));
    (port, stop)
}

#[tokio::test]
async fn a_certificate_may_do_what_its_role_allows_and_every_attempt_is_recorded() {
    let ours = authority();
    let folder = tempfile::tempdir().unwrap();
    let (port, _stop) = box_with_roles(&ours, folder.path()).await;
    let channel = async |name: &str| {
        let (certificate, key) = named(&ours, &[name]);
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(ours.pem()))
            .identity(Identity::from_pem(certificate, key));
        let endpoint = Endpoint::from_shared(format!("https://localhost:{port}")).unwrap();
        endpoint.tls_config(tls).unwrap().connect().await.unwrap()
    };
    let look = async |name: &str| {
        let mut client = DiagnosticsServiceClient::new(channel(name).await);
        client.get_info(GetInfoRequest {}).await.map(drop).map_err(|status| status.code())
    };
    let zero = async |name: &str| {
        let mut client = LoadBalancerServiceClient::new(channel(name).await);
        let request = ZeroCountersRequest { service: None };
        client.zero_counters(request).await.map(drop)
    };
    let set = async |name: &str| {
        let mut client = LoadBalancerServiceClient::new(channel(name).await);
        let setting = Setting { name: "no_such_setting".to_owned(), value: "1".to_owned() };
        let request = SetSettingRequest { setting: Some(setting) };
        client.set_setting(request).await.map(drop)
    };
    for name in ["reader.example", "operator.example", "admin.example"] {
        assert_eq!(look(name).await, Ok(()), "{name}");
    }
    assert_eq!(look("stranger.example").await, Err(Code::PermissionDenied));
    let refused = zero("reader.example").await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    let said = "ZeroCounters needs the role operate, which certificate reader.example has not";
    assert_eq!(refused.message(), said);
    zero("operator.example").await.unwrap();
    assert_eq!(set("operator.example").await.unwrap_err().code(), Code::PermissionDenied);
    assert_eq!(set("admin.example").await.unwrap_err().code(), Code::InvalidArgument);

    let log = fs::read_to_string(folder.path().join("audit.log")).unwrap();
    let lines: Vec<serde_json::Value> =
        log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let told: Vec<_> = lines
        .iter()
        .map(|line| ["caller", "method", "outcome"].map(|name| line[name].as_str().unwrap()))
        .collect();
    let [looked, zeroed] = ["DiagnosticsService/GetInfo", "LoadBalancerService/ZeroCounters"]
        .map(|method| format!("xvs.v1.{method}"));
    assert_eq!(told[0], ["certificate stranger.example", &looked, "PermissionDenied"]);
    assert_eq!(told[1], ["certificate reader.example", &zeroed, "PermissionDenied"]);
    assert_eq!(told[2], ["certificate operator.example", &zeroed, "ok"]);
    assert_eq!(lines[4]["outcome"], "InvalidArgument");
    assert_eq!(lines[4]["request"]["setting"]["name"], "no_such_setting");
    assert_eq!(lines.len(), 5);
}

#[test]
fn a_missing_file_is_named() {
    let missing = Path::new("/nonexistent/server.pem").to_owned();
    let files =
        Tls { certificate: missing.clone(), key: missing.clone(), client_ca: missing.clone() };
    let error = server::tls(&files).unwrap_err();
    assert!(matches!(error, ServeError::Pem { .. }));
    assert!(error.to_string().starts_with("/nonexistent/server.pem: No such file"), "{error}");
}
