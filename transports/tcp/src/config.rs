//! The settings of the TCP transport.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The table `[transports.tcp]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TcpConfig {
    /// Where to listen, `host:port`; port 0 takes a free one. Default: `127.0.0.1:8000`.
    pub listen: String,
    /// Connections that may be open at once, at least 1. Default: 10,000.
    pub max_connections: usize,
    /// Milliseconds without a byte in either direction after which a connection is closed; 0 (the default): none.
    pub idle_timeout_ms: u64,
    /// Milliseconds that a client may take to accept what is written to it, at least 1. Default: 30,000.
    pub write_timeout_ms: u64,
}

impl Default for TcpConfig {
    fn default() -> Self {
        Self { listen: "127.0.0.1:8000".into(), max_connections: 10_000, idle_timeout_ms: 0, write_timeout_ms: 30_000 }
    }
}

impl TcpConfig {
    /// Checks the values.
    ///
    /// # Errors
    /// For each value that cannot be used its key and what is expected.
    pub fn validate(&self) -> Result<(), Vec<(&'static str, String)>> {
        let mut problems = Vec::new();
        let port = self.listen.rsplit_once(':').map(|(host, port)| (host, port.parse::<u16>()));
        if !matches!(port, Some((host, Ok(_))) if !host.is_empty()) {
            problems.push(("listen", format!("{:?} is not host:port, such as 127.0.0.1:8000", self.listen)));
        }
        if self.max_connections == 0 {
            problems.push(("max_connections", "must be at least 1".into()));
        }
        if self.write_timeout_ms == 0 {
            problems.push((
                "write_timeout_ms",
                "must be at least 1: a client that never reads must not stay for ever".into(),
            ));
        }
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    pub(crate) fn write_timeout(&self) -> Duration {
        Duration::from_millis(self.write_timeout_ms)
    }

    /// How long a connection may be silent.
    pub(crate) fn idle_timeout(&self) -> Option<Duration> {
        (self.idle_timeout_ms > 0).then(|| Duration::from_millis(self.idle_timeout_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_that_cannot_be_used_is_named() {
        assert_eq!(TcpConfig::default().validate(), Ok(()));
        for listen in ["[::1]:0", "localhost:65535", "0.0.0.0:1"] {
            assert_eq!(TcpConfig { listen: listen.into(), ..TcpConfig::default() }.validate(), Ok(()), "{listen}");
        }
        for listen in ["", ":8000", "localhost", "localhost:", "localhost:65536", "localhost:x"] {
            let config =
                TcpConfig { listen: listen.into(), max_connections: 0, write_timeout_ms: 0, ..TcpConfig::default() };
            let keys: Vec<_> = config.validate().unwrap_err().into_iter().map(|(key, _)| key).collect();
            assert_eq!(keys, ["listen", "max_connections", "write_timeout_ms"], "{listen}");
        }
    }
}
