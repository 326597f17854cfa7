//! The configuration of the daemon: a TOML file, refused whole if anything in it is wrong.
//!
//! Four steps: the text is TOML; it has the fields that there are ([`file`]); their values make
//! sense (`check`); and IPVS's rules take them together (`ipvs`). A message names the field by its path, says
//! what is wrong and, for a misspelt name, what probably was meant.

mod check;
mod file;
mod health;
mod ipvs;
mod schema;

use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use dataplane::director::spec::{
    LocalPool, MarkRule, RealSpec, ServiceKey, ServiceSpec, TimeoutSpec,
};

use self::check::ENDPOINTS_MAX;
pub(crate) use self::ipvs::scratch;
pub use self::schema::schema;
use crate::{
    access::Grant,
    engine::health::Policies,
    field::{self, FieldError},
    health::policy::Policy,
};

/// Everything the daemon is told.
#[derive(Clone, Debug)]
pub struct Config {
    /// What is fixed at the start.
    pub daemon: Daemon,
    /// The interfaces, in the order of the file; their places number the devices.
    pub interfaces: Vec<Interface>,
    /// Where gRPC listens.
    pub api: Api,
    /// Where metrics and the status page are served; `None`: nowhere.
    pub http: Option<Http>,
    /// Where metrics are pushed to; `None`: nowhere.
    pub otlp: Option<Otlp>,
    /// What can be changed while the daemon runs.
    pub desired: Desired,
}

/// What is fixed at the start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Daemon {
    /// How many workers; `None`: one for each receive queue of the first interface.
    pub workers: Option<u16>,
    /// CPU of each worker; `None`: the first CPUs the daemon may run on. Empty: not pinned.
    pub cpus: Option<Vec<u16>>,
    /// How many flows fit.
    pub flows: u32,
    /// How many services and real servers fit together.
    pub endpoints: u32,
    /// How long an idle worker spins before it sleeps, in microseconds.
    pub spin_us: u32,
    /// Answers of its own that each worker sends per second at most.
    pub answers_per_second: u32,
    /// Where changes are written before they are answered; `None`: nowhere.
    pub journal: Option<PathBuf>,
}

/// An interface that the workers receive from and send to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// How to attach to it.
    pub mode: Mode,
}

/// How to attach to an interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// AF_XDP in native mode, else in generic mode, else a raw socket.
    #[default]
    Auto,
    /// AF_XDP with the driver's XDP.
    Native,
    /// AF_XDP with the kernel's generic XDP.
    Generic,
    /// An AF_PACKET socket.
    Raw,
}

impl Mode {
    /// All modes by name.
    pub const ALL: [(&str, Self); 4] = [
        ("auto", Self::Auto),
        ("native", Self::Native),
        ("generic", Self::Generic),
        ("raw", Self::Raw),
    ];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Native => "native",
            Self::Generic => "generic",
            Self::Raw => "raw",
        }
    }
}

/// Where gRPC listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Api {
    /// The unix socket, mode 0600.
    pub socket: PathBuf,
    /// Where changes are recorded besides the daemon's log.
    pub audit: Option<PathBuf>,
    /// Who may do what; empty: whoever gets through administers.
    pub grants: Vec<Grant>,
    /// TCP as well, if asked for.
    pub tcp: Option<Tcp>,
}

/// Metrics and the status page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Http {
    /// Where to listen.
    pub listen: SocketAddr,
    /// Names under which the page may be asked for, besides addresses and localhost.
    pub names: Vec<String>,
}

/// A collector of OpenTelemetry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Otlp {
    /// Where it listens for gRPC: `http://HOST:PORT`.
    pub endpoint: String,
    /// From one export to the next: 1 s to one hour.
    pub interval: Duration,
}

/// gRPC over TCP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tcp {
    /// Where to listen.
    pub listen: SocketAddr,
    /// TLS; `None` only after `insecure = true`.
    pub tls: Option<Tls>,
}

/// PEM files of a TLS server that asks its clients for a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// Our certificate chain.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// The authority that signs clients' certificates.
    pub client_ca: PathBuf,
}

/// What can be changed while the daemon runs, in one step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// All services with their real servers in the order in which they are added.
    pub services: Vec<(ServiceSpec, Vec<RealSpec>)>,
    /// Full NAT's local addresses and ports, if the file names some.
    pub locals: Option<LocalPool>,
    /// Time-outs; 0 keeps a value.
    pub timeouts: Option<TimeoutSpec>,
    /// Settings to change, by sysctl name; others stay as they are.
    pub settings: Vec<(String, u32)>,
    /// The rules that give packets their firewall marks, first to last; `None` leaves them.
    pub mark_rules: Option<Vec<MarkRule>>,
    /// How the real servers of services are checked, those of others not at all; `None` leaves
    /// that as it is.
    pub policies: Option<Policies>,
}

impl Desired {
    /// How a service's real servers are checked, if at all.
    pub fn policy(&self, key: &ServiceKey) -> Option<&Policy> {
        self.policies.as_ref()?.get(key)
    }
}

/// Why a configuration was refused. One line each.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{path}: {source}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The text is not TOML.
    #[error("line {line}: {message}")]
    Syntax {
        /// Counted from 1.
        line: usize,
        /// What is wrong there.
        message: String,
    },
    /// A field is unknown or its value is refused.
    #[error(transparent)]
    Field(#[from] FieldError),
}

impl Default for Config {
    /// What an empty file says.
    fn default() -> Self {
        check::config(file::File::default()).expect("an empty file is valid; a test holds it")
    }
}

impl Config {
    /// Reads and checks a file for a daemon that somebody else started: whether it has room for the
    /// services only that daemon can say.
    ///
    /// # Errors
    ///
    /// It cannot be read, or something in it is wrong.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        Self::judge(&text, Some(ENDPOINTS_MAX))
    }

    /// Checks a text.
    ///
    /// # Errors
    ///
    /// Something in it is wrong.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        Self::judge(text, None)
    }

    /// Checks a text; `room` says for how many services and real servers there is room, unless that is
    /// the text's own affair.
    fn judge(text: &str, room: Option<u32>) -> Result<Self, ConfigError> {
        let syntax = |error: &toml::de::Error| ConfigError::Syntax {
            line: line_of(text, error.span().map_or(0, |span| span.start)),
            message: one_line(error.message()),
        };
        let document = toml::Deserializer::parse(text).map_err(|error| syntax(&error))?;
        let file: file::File = serde_path_to_error::deserialize(document)
            .map_err(|error| refused(&error.path().to_string(), error.inner().message()))?;
        let config = check::config(file)?;
        ipvs::check(&config.desired, room.unwrap_or(config.daemon.endpoints))?;
        Ok(config)
    }
}

/// Makes one of our messages of serde's: it names a field that is unknown or missing in backticks,
/// followed by those that are expected.
fn refused(path: &str, message: &str) -> FieldError {
    let mut names = message.split('`').skip(1).step_by(2);
    let name = names.next().unwrap_or_default();
    if message.starts_with("unknown field") {
        return FieldError::new(path, field::unknown("field", name, names));
    }
    if message.starts_with("missing field") {
        let path = if path == "." { name.to_owned() } else { format!("{path}.{name}") };
        return FieldError::missing(path);
    }
    FieldError::new(path, one_line(message))
}

fn line_of(text: &str, offset: usize) -> usize {
    1 + text.bytes().take(offset).filter(|&octet| octet == b'\n').count()
}

fn one_line(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        Config::parse(text).unwrap_err().to_string()
    }

    #[test]
    fn an_empty_file_is_a_box_that_does_nothing() {
        let config = Config::parse("").unwrap();
        assert!(config.interfaces.is_empty() && config.desired.services.is_empty());
        assert_eq!(config.api.socket, Path::new("/run/xvs/xvsd.sock"));
        assert_eq!(config.api.tcp, None);
        assert_eq!(config.daemon.flows, 1 << 20);
    }

    #[test]
    fn a_file_that_is_no_toml_is_refused_with_its_line() {
        assert!(error("[daemon]\nworkers = = 2\n").starts_with("line 2: "));
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let error = Config::load(Path::new("/nonexistent/xvs.toml")).unwrap_err().to_string();
        assert!(error.starts_with("/nonexistent/xvs.toml: No such file"), "{error}");
    }
}
