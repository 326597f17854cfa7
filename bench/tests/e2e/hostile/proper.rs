//! Certificates and clients by the book: those that must be served, those with a certificate of somebody
//! else's authority, and one with a role who asks for more than there is room for.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use control::proto::v1::{
    ApplyRequest, PlanRequest, Setting, load_balancer_service_client::LoadBalancerServiceClient,
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, Stream,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName},
};

use super::attack::{OPENING, Way};

type Authority = CertifiedIssuer<'static, KeyPair>;

/// Requests at a time on a connection of the greedy one, and octets of each: near what one may have.
const GREEDY: (usize, usize) = (24, 3_900_000);

/// What the daemon trusts, and two clients: of its own authority and of another.
pub(super) struct Certificates {
    pub(super) ours: Arc<ClientConfig>,
    pub(super) others: Arc<ClientConfig>,
}

fn authority() -> Authority {
    let mut params = CertificateParams::new(vec![]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

impl Certificates {
    /// Makes them, and writes the daemon's into a folder: `server.pem`, `server.key`, `clients.pem`.
    pub(super) fn write(folder: &Path) -> Self {
        let (ours, others) = (authority(), authority());
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let certificate = certificate.signed_by(&key, &ours).unwrap();
        for (name, text) in [
            ("server.pem", certificate.pem()),
            ("server.key", key.serialize_pem()),
            ("clients.pem", ours.pem()),
        ] {
            fs::write(folder.join(name), text).unwrap();
        }
        let client = |signer| Arc::new(client(&ours, signer));
        Self { ours: client(&ours), others: client(&others) }
    }
}

/// A client that trusts `trusted` and has a certificate of `signer`.
fn client(trusted: &Authority, signer: &Authority) -> ClientConfig {
    let key = KeyPair::generate().unwrap();
    let own = CertificateParams::new(vec!["client.example".to_owned()]).unwrap();
    let own = own.signed_by(&key, signer).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(trusted.der().to_vec())).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let ring = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(ring).with_safe_default_protocol_versions();
    let config = config.unwrap().with_root_certificates(roots);
    let mut config = config.with_client_auth_cert(vec![own.der().clone()], key).unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    config
}

/// Whether the daemon greets a client over TLS by HTTP/2's settings.
///
/// # Errors
///
/// It cannot be reached, or refuses the client.
pub(super) fn greeted(config: &Arc<ClientConfig>, at: SocketAddr) -> io::Result<()> {
    let mut wire = Way::Tcp(at).connect()?;
    let name = ServerName::try_from("localhost").unwrap();
    let connection = ClientConnection::new(Arc::clone(config), name);
    let mut connection = connection.map_err(io::Error::other)?;
    let mut stream = Stream::new(&mut connection, &mut wire);
    stream.write_all(OPENING)?;
    stream.read_exact(&mut [0; 9])
}

/// Handshakes with a certificate that the daemon must refuse; gives back how many it refused.
pub(super) fn strange(config: &Arc<ClientConfig>, at: SocketAddr, stop: &AtomicBool) -> usize {
    let mut refused = 0;
    while !stop.load(Relaxed) {
        assert!(greeted(config, at).is_err(), "somebody else's certificate is taken");
        refused += 1;
        thread::sleep(Duration::from_millis(2));
    }
    refused
}

/// Asks for as much as it may at a time, over and over, on the calling thread alone; gives back how
/// often it was answered and how often there was no room.
pub(super) fn greedy(socket: &Path, stop: &AtomicBool) -> (usize, usize) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let address = format!("unix://{}", socket.display());
    let (mut answered, mut refused) = (0, 0);
    runtime.block_on(async {
        while !stop.load(Relaxed) {
            // It has a place only as long as it is not taken by others of its kind.
            let Ok(client) = LoadBalancerServiceClient::connect(address.clone()).await else {
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            };
            let setting = Setting { name: "n".repeat(GREEDY.1), value: String::new() };
            let apply = ApplyRequest { settings: vec![setting], ..ApplyRequest::default() };
            let calls = (0..GREEDY.0).map(|_| {
                let (mut client, apply) = (client.clone(), apply.clone());
                tokio::spawn(async move { client.plan(PlanRequest { apply: Some(apply) }).await })
            });
            for call in calls.collect::<Vec<_>>() {
                let status = call.await.unwrap().unwrap_err();
                let is_refused = status.code() == tonic::Code::ResourceExhausted;
                refused += usize::from(is_refused);
                answered += usize::from(!is_refused);
            }
        }
    });
    (answered, refused)
}
