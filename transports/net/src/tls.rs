//! The server's certificate, and its reload.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use broker_core::transport::{InForce, Reload, ReloadError};
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

use crate::config::TlsFiles;

/// A server's certificate and key, which can be read again while connections come.
pub struct Tls {
    files: TlsFiles,
    /// Held only to clone what is in it. Connections that are open keep what they began with.
    current: Arc<RwLock<Arc<ServerConfig>>>,
}

/// Why a certificate cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file cannot be read, or is not a PEM file with the expected content.
    #[error("cannot use {}, which should be a PEM file with {expected}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The expected content.
        expected: &'static str,
        /// The cause.
        #[source]
        source: pem::Error,
    },
    /// The file has no certificate in it.
    #[error("{} has no certificate in it", .0.display())]
    NoCertificate(PathBuf),
    /// Certificate and key do not belong together, or are of an unsupported kind.
    #[error("cannot use the certificate {} with the key {}", files.cert.display(), files.key.display())]
    Unusable {
        /// The two files.
        files: TlsFiles,
        /// The cause.
        #[source]
        source: rustls::Error,
    },
}

impl Tls {
    /// Reads the files. Blocking, for the time it takes to read two small files.
    ///
    /// # Errors
    /// [`TlsError`], which names the file.
    pub fn load(files: TlsFiles) -> Result<Self, TlsError> {
        let current = Arc::new(RwLock::new(read(&files)?));
        Ok(Self { files, current })
    }

    /// An acceptor for the next connection, with the current certificate.
    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner)))
    }
}

impl Reload for Tls {
    fn read(&self) -> Result<InForce, ReloadError> {
        let new = read(&self.files).map_err(|error| ReloadError::new("TLS", error))?;
        let (current, cert) = (Arc::clone(&self.current), self.files.cert.clone());
        Ok(Box::new(move || {
            *current.write().unwrap_or_else(PoisonError::into_inner) = new;
            cert.display().to_string()
        }))
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("files", &self.files).finish_non_exhaustive()
    }
}

fn read(files: &TlsFiles) -> Result<Arc<ServerConfig>, TlsError> {
    let file = |path: &PathBuf, expected| {
        let path = path.clone();
        move |source| TlsError::File { path, expected, source }
    };
    let chain: Vec<_> = CertificateDer::pem_file_iter(&files.cert)
        .and_then(Iterator::collect)
        .map_err(file(&files.cert, "a certificate chain"))?;
    if chain.is_empty() {
        return Err(TlsError::NoCertificate(files.cert.clone()));
    }
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(file(&files.key, "a private key"))?;
    // By name and not by a process-wide default, which whoever comes first would choose.
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|config| config.with_no_client_auth().with_single_cert(chain, key))
        .map_err(|source| TlsError::Unusable { files: files.clone(), source })?;
    Ok(Arc::new(config))
}
