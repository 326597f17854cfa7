//! gRPC over TCP: only for clients with a certificate of the right authority.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::{fs, path::Path, sync::Arc};

use dataplane::{
    director::Director,
    endpoint::Endpoints,
    flow::{FlowTable, HashKey, Pages, TableConfig},
    stats::Stats,
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::sync::watch;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use xvs_control::{
    config::Tls,
    engine::Engine,
    proto::v1::{GetInfoRequest, diagnostics_service_client::DiagnosticsServiceClient},
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
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    (params.signed_by(&key, authority).unwrap().pem(), key.serialize_pem())
}

fn write(folder: &Path, name: &str, text: &str) -> std::path::PathBuf {
    let path = folder.join(name);
    fs::write(&path, text).unwrap();
    path
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
    let stats = Stats::new(1, 16);
    let director = Director::new(Arc::new(Endpoints::new(16)), stats.clone());
    let table =
        TableConfig { pages: Pages::Small, ..TableConfig::new(1024, 1, HashKey::from_seed(1)) };
    let table = Arc::new(FlowTable::new(&table).unwrap());
    let engine = Arc::new(Engine::new(director, stats, table));
    let (_, routes) = server::routes(&engine);
    let listener = listen::bind_tcp("127.0.0.1:0".parse().unwrap()).unwrap();
    let port = listener.local_addr().unwrap().port();
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

#[test]
fn a_missing_file_is_named() {
    let missing = Path::new("/nonexistent/server.pem").to_owned();
    let files =
        Tls { certificate: missing.clone(), key: missing.clone(), client_ca: missing.clone() };
    let error = server::tls(&files).unwrap_err();
    assert!(matches!(error, ServeError::Pem { .. }));
    assert!(error.to_string().starts_with("/nonexistent/server.pem: No such file"), "{error}");
}
