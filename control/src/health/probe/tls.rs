//! TLS to a real server. The clients' sides of it are made once and kept for a minute, so that new
//! authorities are read without a restart.

use std::{
    collections::HashMap,
    fs::File,
    io::BufReader,
    path::Path,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        self, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
        client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        crypto::{self, CryptoProvider},
        pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject as _},
    },
};

use super::{Stream, connect::words};
use crate::health::policy::TlsPolicy;

/// How long a client's side is used before its authorities are read anew.
const FRESH: Duration = Duration::from_secs(60);

/// Clients' sides kept; beyond that all are made anew.
const KEPT: usize = 256;

type Kept = HashMap<(TlsPolicy, &'static [u8]), (Instant, Arc<ClientConfig>)>;

/// Clients' sides.
#[derive(Debug, Default)]
pub(super) struct Cache(Mutex<Kept>);

impl Cache {
    /// Speaks TLS over `stream`.
    pub(super) async fn connect<S: Stream>(
        &self,
        stream: S,
        policy: &TlsPolicy,
        name: &str,
        protocol: &'static [u8],
    ) -> Result<TlsStream<S>, String> {
        let config = self.config(policy, protocol)?;
        let name = ServerName::try_from(name.to_owned())
            .map_err(|error| format!("TLS: `{name}`: {error}"))?;
        let connected = TlsConnector::from(config).connect(name, stream).await;
        connected.map_err(|error| format!("TLS: {}", words(&error)))
    }

    fn config(
        &self,
        policy: &TlsPolicy,
        protocol: &'static [u8],
    ) -> Result<Arc<ClientConfig>, String> {
        let mut kept = self.0.lock().expect("nothing panics under the lock");
        let name = (policy.clone(), protocol);
        if let Some((made, config)) = kept.get(&name)
            && made.elapsed() < FRESH
        {
            return Ok(Arc::clone(config));
        }
        let config = Arc::new(client(policy, protocol)?);
        if kept.len() >= KEPT {
            kept.clear();
        }
        kept.insert(name, (Instant::now(), Arc::clone(&config)));
        Ok(config)
    }
}

fn client(policy: &TlsPolicy, protocol: &[u8]) -> Result<ClientConfig, String> {
    let provider = Arc::new(crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("TLS: {error}"))?;
    let mut config = match policy {
        TlsPolicy::Authority(path) => builder.with_root_certificates(roots(path)?),
        TlsPolicy::Any => {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        }
    }
    .with_no_client_auth();
    config.alpn_protocols = vec![protocol.to_vec()];
    Ok(config)
}

fn roots(path: &Path) -> Result<RootCertStore, String> {
    let error = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let file = File::open(path).map_err(|e| error(&words(&e)))?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_reader_iter(BufReader::new(file)) {
        let certificate = certificate.map_err(|e| error(&e))?;
        roots.add(certificate).map_err(|e| error(&e))?;
    }
    if roots.is_empty() {
        return Err(error(&"has no certificate"));
    }
    Ok(roots)
}

/// Takes any certificate, as long as the server proves that it has its key.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.0.signature_verification_algorithms;
        crypto::verify_tls12_signature(message, certificate, signed, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.0.signature_verification_algorithms;
        crypto::verify_tls13_signature(message, certificate, signed, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
