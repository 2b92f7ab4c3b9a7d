//! TLS, and whom to trust.

use std::io;
use std::sync::{Arc, OnceLock};

use rustls::WantsVerifier;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls_platform_verifier::BuilderVerifierExt as _;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::config::ClientConfig;
use crate::dial::Io;
use crate::error::Error;

/// Performs the handshake, and checks the server's certificate.
pub(crate) async fn connect(config: &ClientConfig, io: Box<dyn Io>) -> Result<TlsStream<Box<dyn Io>>, Error> {
    let address = &config.address;
    let name = ServerName::try_from(address.host().to_owned())
        .map_err(|_| Error::Invalid(format!("{:?} is no name that a certificate could have", address.host())))?;
    let settings = match &config.authorities {
        Some(pem) => trusting(pem)?,
        None => trusting_the_system()?,
    };
    let unreachable = |source: io::Error| {
        let is_text = source
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<rustls::Error>())
            .is_some_and(|error| matches!(error, rustls::Error::InvalidMessage(_)));
        let is_cut = matches!(source.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset);
        let source = if is_text || is_cut {
            io::Error::new(source.kind(), format!("the TLS handshake failed: {source}; the port may speak plain text"))
        } else {
            source
        };
        Error::Unreachable { address: address.clone(), source: Arc::new(source) }
    };
    TlsConnector::from(settings).connect(name, io).await.map_err(unreachable)
}

fn trusting(pem: &[u8]) -> Result<Arc<rustls::ClientConfig>, Error> {
    let unusable = |error: &dyn std::fmt::Display| {
        Error::Invalid(format!(
            "the certificate authorities cannot be used, which should be certificates as PEM: {error}"
        ))
    };
    let read = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    let given = read.map_err(|error| unusable(&error))?;
    if given.is_empty() {
        return Err(unusable(&"there is none"));
    }
    let verifier = tls_trust::trusting(given).map_err(|error| unusable(&error))?;
    // "dangerous": the verifier is ours. It adds one case to rustls's own, described in `tls-trust`.
    Ok(Arc::new(builder()?.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth()))
}

/// Reading the system's roots takes a while, and they are the same for every connection.
fn trusting_the_system() -> Result<Arc<rustls::ClientConfig>, Error> {
    static SETTINGS: OnceLock<Arc<rustls::ClientConfig>> = OnceLock::new();
    if let Some(settings) = SETTINGS.get() {
        return Ok(Arc::clone(settings));
    }
    let unusable = |error: rustls::Error| {
        Error::Invalid(format!("the operating system's certificate authorities cannot be used: {error}"))
    };
    let settings = Arc::new(builder()?.with_platform_verifier().map_err(unusable)?.with_no_client_auth());
    Ok(Arc::clone(SETTINGS.get_or_init(|| settings)))
}

fn builder() -> Result<rustls::ConfigBuilder<rustls::ClientConfig, WantsVerifier>, Error> {
    // By name and not by a process-wide default, which whoever comes first would choose.
    rustls::ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::Invalid(format!("TLS cannot be used: {error}")))
}
