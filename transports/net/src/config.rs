//! What every listener is told.

use std::path::PathBuf;
use std::time::Duration;

/// Where to listen, and what a connection may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenConfig {
    /// `host:port`; port 0 takes a free one.
    pub listen: String,
    /// Connections that may be open at once, at least 1.
    pub max_connections: usize,
    /// Time without anything said in either direction after which a connection is closed; `None`: for ever.
    pub idle_timeout: Option<Duration>,
    /// Time that a client may take none of what is written to it.
    pub write_timeout: Duration,
    /// Time for everything that comes before the greeting: TLS, an HTTP upgrade.
    pub handshake_timeout: Duration,
    /// TLS, if there is any.
    pub tls: Option<TlsFiles>,
}

/// The files of a server's certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate chain, the server's own first; PEM.
    pub cert: PathBuf,
    /// Its private key; PEM.
    pub key: PathBuf,
}

impl ListenConfig {
    /// The defaults, for this address.
    #[must_use]
    pub fn new(listen: impl Into<String>) -> Self {
        Self {
            listen: listen.into(),
            max_connections: 10_000,
            idle_timeout: None,
            write_timeout: Duration::from_secs(30),
            handshake_timeout: Duration::from_secs(10),
            tls: None,
        }
    }
}
