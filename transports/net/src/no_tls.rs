//! The stand-in for TLS in a build without it: a certificate that cannot be loaded.

use std::convert::Infallible;

use broker_core::transport::{InForce, Reload, ReloadError};

use crate::config::TlsFiles;

/// A server's certificate and key. There is none in a build without TLS.
#[derive(Debug)]
pub struct Tls(Infallible);

/// Why a certificate cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// This build has no TLS.
    #[error("this build has no TLS: rebuild with --features tls, or remove the table")]
    NotBuilt,
}

impl Tls {
    /// Reads nothing.
    ///
    /// # Errors
    /// [`TlsError::NotBuilt`], always.
    pub fn load(_files: TlsFiles) -> Result<Self, TlsError> {
        Err(TlsError::NotBuilt)
    }

    /// There is no value to call it on.
    pub(crate) fn never<T>(&self) -> T {
        match self.0 {}
    }
}

impl Reload for Tls {
    fn read(&self) -> Result<InForce, ReloadError> {
        self.never()
    }
}
