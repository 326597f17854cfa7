//! Where the daemon is, and how to get there.

use std::{env, fs, path::PathBuf, time::Duration};

use dataplane::ipvsadm::Refusal;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use super::{FAILED, SOCKET, USAGE};

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(5);

/// The address of a daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// A unix socket.
    Unix(PathBuf),
    /// An `https:` or `http:` address.
    Tcp(String),
}

impl Target {
    /// What `--server` says, else XVS_SERVER, else the usual socket.
    ///
    /// # Errors
    ///
    /// It is no address.
    pub(super) fn choose(server: Option<&str>) -> Result<Self, Refusal> {
        let variable = env::var("XVS_SERVER").ok().filter(|server| !server.is_empty());
        Self::parse(server.or(variable.as_deref()).unwrap_or(SOCKET))
    }

    fn parse(text: &str) -> Result<Self, Refusal> {
        if let Some(path) = text.strip_prefix("unix:") {
            return Ok(Self::Unix(path.strip_prefix("//").unwrap_or(path).into()));
        }
        if text.starts_with('/') {
            return Ok(Self::Unix(text.into()));
        }
        if text.starts_with("https://") || text.starts_with("http://") {
            return Ok(Self::Tcp(text.to_owned()));
        }
        let message = format!(
            "xvsadm: server `{text}' is neither unix:PATH nor https://HOST:PORT nor http://HOST:PORT"
        );
        Err(Refusal { message, exit: USAGE })
    }

    /// Connects.
    ///
    /// # Errors
    ///
    /// Nobody is there, or somebody else.
    pub(super) async fn connect(&self) -> Result<Channel, Refusal> {
        let connected = match self {
            Self::Unix(path) => {
                let path = path.clone();
                // The address is never used: the connector knows the way.
                let endpoint =
                    Endpoint::from_static("http://xvsd.invalid").connect_timeout(CONNECT);
                let connector = tower::service_fn(move |_| {
                    let path = path.clone();
                    async move { UnixStream::connect(path).await.map(TokioIo::new) }
                });
                endpoint.connect_with_connector(connector).await
            }
            Self::Tcp(address) => {
                let endpoint = Endpoint::from_shared(address.clone())
                    .map_err(|error| self.unreachable(&error))?
                    .connect_timeout(CONNECT);
                let endpoint = if address.starts_with("https:") {
                    endpoint.tls_config(tls()?).map_err(|error| self.unreachable(&error))?
                } else {
                    endpoint
                };
                endpoint.connect().await
            }
        };
        connected.map_err(|error| self.unreachable(&error))
    }

    /// The daemon cannot be reached; says the innermost reason, the outer ones say nothing.
    pub(super) fn unreachable(&self, error: &dyn std::error::Error) -> Refusal {
        let mut innermost = error;
        while let Some(source) = innermost.source() {
            innermost = source;
        }
        let server = match self {
            Self::Unix(path) => format!("unix:{}", path.display()),
            Self::Tcp(address) => address.clone(),
        };
        Refusal {
            message: format!("xvsadm: cannot reach xvsd at {server}: {innermost}"),
            exit: FAILED,
        }
    }
}

/// TLS with the files that XVS_CA, XVS_CERT and XVS_KEY name.
fn tls() -> Result<ClientTlsConfig, Refusal> {
    let mut tls = ClientTlsConfig::new();
    if let Some(authority) = file("XVS_CA")? {
        tls = tls.ca_certificate(Certificate::from_pem(authority));
    }
    match (file("XVS_CERT")?, file("XVS_KEY")?) {
        (Some(certificate), Some(key)) => {
            tls = tls.identity(Identity::from_pem(certificate, key));
        }
        (None, None) => {}
        _ => {
            let message = "xvsadm: XVS_CERT and XVS_KEY must be set together".to_owned();
            return Err(Refusal { message, exit: USAGE });
        }
    }
    Ok(tls)
}

/// The content of the file that an environment variable names.
fn file(variable: &str) -> Result<Option<Vec<u8>>, Refusal> {
    let Some(path) = env::var_os(variable).filter(|path| !path.is_empty()) else {
        return Ok(None);
    };
    fs::read(&path).map(Some).map_err(|error| {
        let message = format!("xvsadm: {variable}: {}: {error}", path.display());
        Refusal { message, exit: USAGE }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_a_socket_or_a_web_address() {
        for text in ["unix:/a/b", "unix:///a/b", "/a/b"] {
            assert_eq!(Target::parse(text), Ok(Target::Unix("/a/b".into())), "{text}");
        }
        let tcp = "https://lb:8443";
        assert_eq!(Target::parse(tcp), Ok(Target::Tcp(tcp.to_owned())));
        assert_eq!(Target::parse("lb:8443").unwrap_err().exit, USAGE);
    }
}
