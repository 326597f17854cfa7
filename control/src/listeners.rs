//! Everything that the daemon listens to, taken before anything else is begun.

use std::{net::TcpListener, sync::Arc};

use tonic::transport::ServerTlsConfig;

use crate::{
    access::{Access, audit::Audit},
    config::Config,
    daemon::DaemonError,
    server::{
        self,
        listen::{self, ListenError, UnixSocket},
    },
};

/// Where gRPC and HTTP listen, and who may ask.
#[derive(Debug)]
pub(crate) struct Listeners {
    pub(crate) unix: UnixSocket,
    pub(crate) tcp: Option<(TcpListener, Option<ServerTlsConfig>)>,
    pub(crate) access: Arc<Access>,
    /// With the names that it is asked by.
    pub(crate) http: Option<(TcpListener, Vec<String>)>,
}

impl Listeners {
    /// Takes all of it, or nothing.
    ///
    /// # Errors
    ///
    /// An address or file cannot be had, or a certificate cannot be read.
    pub(crate) fn bind(config: &Config) -> Result<Self, DaemonError> {
        let tcp = match &config.api.tcp {
            Some(tcp) => {
                let tls = tcp.tls.as_ref().map(server::tls).transpose()?;
                if tls.is_none() {
                    tracing::warn!("{}: anybody who gets there commands the box", tcp.listen);
                }
                Some((listen::bind_tcp(tcp.listen)?, tls))
            }
            None => None,
        };
        let http = match &config.http {
            Some(http) => Some((listen::bind_tcp(http.listen)?, http.names.clone())),
            None => None,
        };
        let audit = match &config.api.audit {
            Some(path) => Audit::to_file(path)
                .map_err(|source| ListenError::File { path: path.clone(), source })?,
            None => Audit::default(),
        };
        let access = Access::new(config.api.grants.clone(), audit);
        // Who gets through is asked for a role; without roles only the owner gets through.
        let mode = if config.api.grants.is_empty() { 0o600 } else { 0o666 };
        let unix = UnixSocket::bind_for(&config.api.socket, mode)?;
        Ok(Self { unix, tcp, access, http })
    }
}
