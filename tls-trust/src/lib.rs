//! Whom a TLS client trusts that is given certificates: Herald's own client (`--ca`, `ca`), and the sources that read over HTTPS.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_name;
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, RootCertStore, SignatureScheme};

/// A verifier that trusts what the given certificates signed, and a given certificate itself where exactly that one is presented.
///
/// # Errors
/// When there is no certificate, or one cannot be used as an authority.
pub fn trusting(given: Vec<CertificateDer<'static>>) -> Result<Arc<dyn ServerCertVerifier>, rustls::Error> {
    let mut roots = RootCertStore::empty();
    for certificate in &given {
        roots.add(certificate.clone())?;
    }
    let by_authority = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::new(ring::default_provider()))
        .build()
        .map_err(|error| rustls::Error::General(error.to_string()))?;
    Ok(Arc::new(GivenCertificates { by_authority, given }))
}

/// The verifier of [`trusting`].
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
