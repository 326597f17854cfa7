//! The gRPC server: where it listens, and what it serves.
//!
//! Every listener serves the same: the API, the standard health service and reflection.

mod bounded;
pub mod listen;

use std::{
    fs, io, net::TcpListener, os::unix::net::UnixListener, path::PathBuf, sync::Arc, time::Duration,
};

use tokio::sync::watch;
use tokio_stream::wrappers::{TcpListenerStream, UnixListenerStream};
use tonic::{
    service::{Routes, RoutesBuilder},
    transport::{Certificate, Identity, Server, ServerTlsConfig},
};
use tonic_health::server::HealthReporter;

use self::bounded::{GREETING, admitted, bounded};
use crate::{
    access::{Access, GuardLayer},
    config::Tls,
    engine::Engine,
    proto::{
        DESCRIPTORS,
        v1::{
            diagnostics_service_server::DiagnosticsServiceServer,
            health_check_service_server::HealthCheckServiceServer,
            load_balancer_service_server::LoadBalancerServiceServer,
            operations_service_server::OperationsServiceServer,
        },
    },
    rpc::{Diagnostics, HealthChecks, LoadBalancer, Operations},
};

/// Requests that one connection may have at a time.
const STREAMS_MAX: u32 = 64;

/// Octets of a request's head at most.
const HEAD_MAX: u32 = 16 << 10;

/// Octets of a request, and of all requests of a connection, that may wait to be read.
const STREAM_WINDOW: u32 = 64 << 10;
const CONNECTION_WINDOW: u32 = 128 << 10;

/// How long a client may be silent before it is asked whether it is there, and how long it may
/// take to answer.
const SILENCE: Duration = Duration::from_secs(20);

/// Why the server could not be made or ended.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// A PEM file cannot be read.
    #[error("{path}: {source}", path = path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The transport failed.
    #[error("gRPC: {0}")]
    Transport(#[from] tonic::transport::Error),
    /// A listener could not be handed to the runtime.
    #[error("gRPC: {0}")]
    Listener(#[from] io::Error),
}

/// Everything that is served. The health of the daemon as a whole, the empty service name, is the
/// caller's to report.
pub fn routes(engine: &Arc<Engine>) -> (HealthReporter, Routes) {
    let (reporter, health) = tonic_health::server::health_reporter();
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .expect("the descriptors were made by the same build");
    let mut routes = RoutesBuilder::default();
    routes
        .add_service(LoadBalancerServiceServer::new(LoadBalancer::new(Arc::clone(engine))))
        .add_service(DiagnosticsServiceServer::new(Diagnostics::new(Arc::clone(engine))))
        .add_service(OperationsServiceServer::new(Operations::new(Arc::clone(engine))))
        .add_service(HealthCheckServiceServer::new(HealthChecks::new(Arc::clone(engine))))
        .add_service(health)
        .add_service(reflection);
    (reporter, routes.routes())
}

/// What is served, and to whom.
#[derive(Clone, Debug)]
pub struct Service {
    /// Every method.
    pub routes: Routes,
    /// Who may call it.
    pub access: Arc<Access>,
}

impl From<Routes> for Service {
    /// Everything to everybody who gets through.
    fn from(routes: Routes) -> Self {
        Self { routes, access: Arc::default() }
    }
}

/// Serves on a unix socket until `stop` says so.
///
/// # Errors
///
/// The transport failed.
pub async fn serve_unix(
    listener: UnixListener,
    service: impl Into<Service>,
    stop: watch::Receiver<bool>,
) -> Result<(), ServeError> {
    let listener = tokio::net::UnixListener::from_std(listener)?;
    let Service { routes, access } = service.into();
    let incoming = admitted(UnixListenerStream::new(listener), Arc::clone(&access));
    let server = builder().layer(GuardLayer(access)).add_routes(routes);
    Ok(server.serve_with_incoming_shutdown(incoming, stopped(stop)).await?)
}

/// Serves on a TCP address until `stop` says so; with TLS only to clients with a certificate.
///
/// # Errors
///
/// A PEM file cannot be read or is none, or the transport failed.
pub async fn serve_tcp(
    listener: TcpListener,
    tls: Option<ServerTlsConfig>,
    service: impl Into<Service>,
    stop: watch::Receiver<bool>,
) -> Result<(), ServeError> {
    let Service { routes, access } = service.into();
    let mut server = builder();
    if let Some(tls) = tls {
        server = server.tls_config(tls)?;
    }
    let incoming = bounded(TcpListenerStream::new(tokio::net::TcpListener::from_std(listener)?));
    let server = server.layer(GuardLayer(access)).add_routes(routes);
    Ok(server.serve_with_incoming_shutdown(incoming, stopped(stop)).await?)
}

/// A server with bounds: what a client may keep open, and for how long in silence.
fn builder() -> Server {
    Server::builder()
        .max_concurrent_streams(STREAMS_MAX)
        .http2_max_header_list_size(HEAD_MAX)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .http2_keepalive_interval(Some(SILENCE))
        .http2_keepalive_timeout(Some(SILENCE))
}

/// Reads the PEM files.
///
/// # Errors
///
/// One cannot be read.
pub fn tls(files: &Tls) -> Result<ServerTlsConfig, ServeError> {
    let read = |path: &PathBuf| {
        fs::read(path).map_err(|source| ServeError::Pem { path: path.clone(), source })
    };
    let identity = Identity::from_pem(read(&files.certificate)?, read(&files.key)?);
    let clients = Certificate::from_pem(read(&files.client_ca)?);
    Ok(ServerTlsConfig::new().identity(identity).client_ca_root(clients).timeout(GREETING))
}

async fn stopped(mut stop: watch::Receiver<bool>) {
    // An error means that the sender is gone, which is a stop too.
    if stop.wait_for(|stop| *stop).await.is_err() {
        tracing::debug!("nobody is left to say stop");
    }
}
