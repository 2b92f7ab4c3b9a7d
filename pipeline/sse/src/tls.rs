//! The TLS settings of the HTTP client: the crypto provider by name, the trusted authorities, the client's certificate.

use std::path::Path;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls_platform_verifier::BuilderVerifierExt as _;

use super::config::{SseConfigError, TlsFiles};

/// Reads the files, or the operating system's roots, which blocks for some milliseconds.
pub(crate) fn settings(files: &TlsFiles) -> Result<ClientConfig, SseConfigError> {
    // By name and not by a process-wide default, which whoever comes first would choose.
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(SseConfigError::Tls)?;
    let builder = match &files.ca {
        None => builder.with_platform_verifier().map_err(SseConfigError::Tls)?,
        Some(path) => {
            let verifier = tls_trust::trusting(certificates("ca", path)?).map_err(SseConfigError::Tls)?;
            // "dangerous": the verifier is ours. It adds one case to rustls's own, described in `tls-trust`.
            builder.dangerous().with_custom_certificate_verifier(verifier)
        }
    };
    let mut settings = match &files.client {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let chain = certificates("client_cert", certificate)?;
            let key = PrivateKeyDer::from_pem_file(key).map_err(|source| unusable("client_key", key, source))?;
            builder.with_client_auth_cert(chain, key).map_err(SseConfigError::Tls)?
        }
    };
    // reqwest sets these for the settings that it makes itself only.
    settings.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(settings)
}

/// The certificates in a file, at least one.
fn certificates(key: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, SseConfigError> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match read {
        Ok(certificates) if certificates.is_empty() => Err(unusable(key, path, pem::Error::NoItemsFound)),
        Ok(certificates) => Ok(certificates),
        Err(source) => Err(unusable(key, path, source)),
    }
}

fn unusable(key: &'static str, path: &Path, source: pem::Error) -> SseConfigError {
    SseConfigError::TlsFile { key, path: path.to_owned(), source }
}
