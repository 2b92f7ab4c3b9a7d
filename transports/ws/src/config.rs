//! The settings of the WebSocket transport.

use std::time::Duration;

use transport_net::ListenConfig;

/// What `[transports.ws]` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WsConfig {
    /// Where to listen, and what a connection may take.
    pub listen: ListenConfig,
    /// The path of the WebSocket, beginning with `/`. Default: `/ws`.
    pub path: String,
    /// Origins that pages may come from besides those of the same host, as browsers send them: `https://app.example`, or `null`;
    /// `*` is all. Default: none.
    pub allowed_origins: Vec<String>,
    /// A client that was silent for so long is pinged, and disconnected if it does not answer for as long again. `None`: never.
    /// Default: 30 s.
    pub ping_interval: Option<Duration>,
}

impl Default for WsConfig {
    fn default() -> Self {
        Self {
            listen: ListenConfig::new("127.0.0.1:8001"),
            path: "/ws".into(),
            allowed_origins: Vec::new(),
            ping_interval: Some(Duration::from_secs(30)),
        }
    }
}
