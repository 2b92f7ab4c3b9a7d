//! Which broker a client talks to, and what to say if it cannot.

use std::io;
use std::path::PathBuf;

use transport_client::{Address, ClientConfig, Error, Scheme};

use super::exit::UsageError;
use crate::logging;
use crate::settings::LogFormat;

/// The options of everything that talks to a running broker.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Remote {
    /// The broker: host:port, tcp://, tls://, ws:// or wss://
    #[arg(long, value_name = "ADDR", env = "HERALD_SERVER", default_value = "127.0.0.1:8000")]
    server: String,
    /// The authentication token
    #[arg(long, value_name = "TOKEN", env = "HERALD_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// With tls:// and wss://, trust the certificates in this PEM file instead of the system's
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
}

impl Remote {
    /// The client's settings; begins to log, too, so that reconnects are seen.
    pub(super) fn config(&self, name: &str) -> anyhow::Result<ClientConfig> {
        // An empty variable is how some shells unset one.
        let address = match self.server.as_str() {
            "" => Address::default(),
            server => server.parse().map_err(|error: Error| UsageError(format!("--server: {error}")))?,
        };
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

/// An error of the client in the words of the command line.
pub(super) fn explain(error: Error) -> anyhow::Error {
    match error {
        Error::Unreachable { address, source } => {
            let reason = reason(&source);
            let hint = match source.kind() {
                io::ErrorKind::ConnectionRefused => "; is it running? start one with: herald serve",
                // What TLS says of a certificate.
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

/// As people write it: the scheme only where it is not the usual one.
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
