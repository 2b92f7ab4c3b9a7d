//! The broker that a client talks to, and errors in the words of the command line.

use std::io;
use std::path::PathBuf;

use transport_client::{Address, ClientConfig, Error, Scheme};

use super::exit::UsageError;
use crate::logging;
use crate::validate::LogFormat;

/// The address of a broker without configuration: the first transport of this build.
pub(super) const DEFAULT_SERVER: &str =
    if cfg!(all(feature = "ws", not(feature = "tcp"))) { "ws://127.0.0.1:8001/ws" } else { "127.0.0.1:8000" };

/// The options of every command that talks to a running broker.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Remote {
    /// The broker: host:port, tcp://, tls://, ws:// or wss://
    #[arg(long, value_name = "ADDR", env = "HERALD_SERVER", default_value = DEFAULT_SERVER)]
    server: String,
    /// The authentication token
    #[arg(long, value_name = "TOKEN", env = "HERALD_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// With tls:// and wss://, trust the certificates in this PEM file instead of the system's
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
}

impl Remote {
    /// The client's settings. Starts logging too, so that reconnects are visible.
    pub(super) fn config(&self, name: &str) -> anyhow::Result<ClientConfig> {
        // An empty variable is how some shells unset one.
        let server = if self.server.is_empty() { DEFAULT_SERVER } else { &self.server };
        let address: Address = server.parse().map_err(|error: Error| UsageError(format!("--server: {error}")))?;
        logging::start("warn", LogFormat::Text)?;
        let mut config = ClientConfig::new(address).name(name);
        if let Some(token) = self.token.as_ref().filter(|token| !token.is_empty()) {
            config = config.token(token.as_str());
        }
        if let Some(path) = &self.ca {
            let pem = std::fs::read(path)
                .map_err(|error| UsageError(format!("--ca: {} cannot be read: {error}", path.display())))?;
            config = config.authorities(pem);
        }
        Ok(config)
    }
}

/// Rewords an error of the client for the command line.
pub(super) fn explain(error: Error) -> anyhow::Error {
    match error {
        Error::Unreachable { address, source } => {
            let reason = reason(&source);
            let hint = match source.kind() {
                io::ErrorKind::ConnectionRefused => "; is it running? start one with: herald serve",
                // An untrusted certificate is reported with this kind.
                io::ErrorKind::InvalidData => "; --ca FILE trusts the certificates in a file",
                _ => "; another one is named with --server or HERALD_SERVER",
            };
            anyhow::anyhow!("cannot reach a broker at {}: {reason}{hint}", short(&address))
        }
        Error::Auth { reason } => anyhow::anyhow!("{reason}; the token is given with --token or HERALD_TOKEN"),
        Error::Invalid(text) => UsageError(text).into(),
        Error::Unsupported { .. } => UsageError(error.to_string()).into(),
        error => error.into(),
    }
}

/// The address as people write it: the scheme is left out for plain TCP.
fn short(address: &Address) -> String {
    let shown = address.to_string();
    match address.scheme() {
        Scheme::Tcp => shown.trim_start_matches("tcp://").to_owned(),
        _ => shown,
    }
}

fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused | io::ErrorKind::TimedOut | io::ErrorKind::ConnectionReset => {
            error.kind().to_string()
        }
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_broker_that_is_not_there_is_said_so_with_what_to_do() {
        let error = Error::Unreachable {
            address: Address::default(),
            source: Arc::new(io::Error::from(io::ErrorKind::ConnectionRefused)),
        };
        assert_eq!(
            explain(error).to_string(),
            "cannot reach a broker at 127.0.0.1:8000: connection refused; is it running? start one with: herald serve"
        );
    }
}
