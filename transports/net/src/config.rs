//! The settings that every listener has.

use std::path::PathBuf;
use std::time::Duration;

use broker_core::settings::listener::{
    HANDSHAKE_TIMEOUT_MS, IDLE_TIMEOUT_MS, LISTEN, MAX_CONNECTIONS, TLS, WRITE_TIMEOUT_MS,
};
use broker_core::settings::{Key, Preset, from_defaults, values};
use broker_core::transport::TransportError;
use serde::Deserialize;

use crate::tls::Tls;

/// The settings of a listener. Defaults and ranges are those of [`listener_keys`].
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct ListenConfig {
    /// `host:port`; port 0 takes a free one.
    pub listen: String,
    /// The most connections that may be open at a time, at least 1.
    pub max_connections: usize,
    /// Time without a byte in either direction after which a connection is closed; `None`: no limit.
    #[serde(rename = "idle_timeout_ms", deserialize_with = "values::milliseconds_or_unlimited")]
    pub idle_timeout: Option<Duration>,
    /// Time in which a client must take some of the output that waits for it.
    #[serde(rename = "write_timeout_ms", deserialize_with = "values::milliseconds")]
    pub write_timeout: Duration,
    /// The time limit for everything before the greeting: TLS, an HTTP upgrade.
    #[serde(rename = "handshake_timeout_ms", deserialize_with = "values::milliseconds")]
    pub handshake_timeout: Duration,
    /// The certificate, if connections are encrypted.
    pub tls: Option<TlsFiles>,
}

/// The files of a server's certificate.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsFiles {
    /// The certificate chain, the server's own first; PEM.
    pub cert: PathBuf,
    /// Its private key; PEM.
    pub key: PathBuf,
}

/// The keys of a [`ListenConfig`] that listens on `listen` by default.
#[must_use]
pub const fn listener_keys(listen: &'static str) -> [Key; 6] {
    [
        LISTEN.defaulting_to(Preset::Text(listen)),
        MAX_CONNECTIONS,
        IDLE_TIMEOUT_MS,
        WRITE_TIMEOUT_MS,
        HANDSHAKE_TIMEOUT_MS,
        TLS,
    ]
}

impl ListenConfig {
    /// The default settings, for this address.
    #[must_use]
    pub fn new(listen: impl Into<String>) -> Self {
        Self { listen: listen.into(), ..from_defaults(&[&listener_keys("")]) }
    }

    /// Reads the certificate, if TLS is configured. Blocks.
    ///
    /// # Errors
    /// When it cannot be used; the cause names the file.
    pub fn load_tls(&self, transport: &'static str) -> Result<Option<Tls>, TransportError> {
        self.tls.clone().map(Tls::load).transpose().map_err(|error| TransportError {
            transport,
            reason: "TLS cannot be offered".to_owned(),
            cause: Some(Box::new(error)),
        })
    }
}
