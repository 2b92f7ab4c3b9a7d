//! TLS, and whom to trust.

use std::io;
use std::sync::{Arc, OnceLock};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_name;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, RootCertStore, SignatureScheme, WantsVerifier};
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
    let mut roots = RootCertStore::empty();
    let mut given = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|error| unusable(&error))?;
        roots.add(certificate.clone()).map_err(|error| unusable(&error))?;
        given.push(certificate);
    }
    if roots.is_empty() {
        return Err(unusable(&"there is none"));
    }
    let by_authority = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::new(ring::default_provider()))
        .build()
        .map_err(|error| unusable(&error))?;
    let verifier = Arc::new(GivenCertificates { by_authority, given });
    // "dangerous": the verifier is ours. It adds one case to rustls's own, described there.
    Ok(Arc::new(builder()?.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth()))
}

/// Trusts what the given certificates signed, and a given certificate itself where exactly that one is presented.
///
/// The second case is the self-signed certificate that `openssl req -x509` makes: it says of itself that it is an authority, and
/// often names no host, and rustls accepts neither of a server. Whoever presents it and proves to hold its key is who was
/// meant by handing it over. Its validity in time is checked as ever, and its names where it has any.
#[derive(Debug)]
struct GivenCertificates {
    by_authority: Arc<WebPkiServerVerifier>,
    given: Vec<CertificateDer<'static>>,
}

impl ServerCertVerifier for GivenCertificates {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let error = match self.by_authority.verify_server_cert(end_entity, intermediates, name, ocsp, now) {
            Err(rustls::Error::InvalidCertificate(error)) if self.given.contains(end_entity) => error,
            verified_or_not => return verified_or_not,
        };
        let of_its_name = if is_only_an_authority(&error) {
            // rustls checks the name last, so it has not been checked yet. The time has.
            verify_server_name(&ParsedCertificate::try_from(end_entity)?, name)
        } else {
            Err(rustls::Error::InvalidCertificate(error))
        };
        match of_its_name {
            Err(rustls::Error::InvalidCertificate(CertificateError::NotValidForNameContext { presented, .. }))
                if presented.is_empty() =>
            {
                Ok(ServerCertVerified::assertion())
            }
            of_its_name => of_its_name.map(|()| ServerCertVerified::assertion()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.by_authority.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.by_authority.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.by_authority.supported_verify_schemes()
    }
}

/// Whether all that is wrong with a certificate, its names aside, is that it is an authority's.
fn is_only_an_authority(error: &CertificateError) -> bool {
    let CertificateError::Other(other) = error else { return false };
    matches!(other.0.downcast_ref(), Some(webpki::Error::CaUsedAsEndEntity))
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
