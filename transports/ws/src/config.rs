//! `[transports.ws]`.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use broker_core::settings::key::DAY_MS;
use broker_core::settings::text::quoted;
use broker_core::settings::{
    Key, Plugin, Preset, Problem, Shape, TransportConfig, Values, from_defaults, read, values,
};
use broker_core::transport::{Transport, TransportError};
use serde::Deserialize;
use transport_net::{ListenConfig, listener_keys};

use crate::{WsTransport, check_origin};

/// The plugin, for the registry.
pub const PLUGIN: Plugin<dyn TransportConfig> =
    Plugin { doc: "The line protocol over WebSocket, for browsers.", keys: KEYS, configure };

const PATH: Key = Key::with_default("path", Shape::Text, Preset::Text("/ws"), "The path of the WebSocket.");
const ALLOWED_ORIGINS: Key = Key::with_default(
    "allowed_origins",
    Shape::Texts,
    Preset::Texts(&[]),
    "Origins (\"https://app.example\", \"null\", \"*\") that pages may connect from, besides those of the same host.",
);
const PING_INTERVAL_MS: Key = Key::with_default(
    "ping_interval_ms",
    Shape::Int(0, DAY_MS),
    Preset::Int(30_000),
    "Milliseconds of silence after which a client is pinged; one that does not answer for as long again is disconnected.\n\
     0: never.",
);

const KEYS: &[Key] = {
    let [listen, max_connections, idle_timeout, write_timeout, handshake_timeout, tls] =
        listener_keys("127.0.0.1:8001");
    &[
        listen,
        PATH,
        ALLOWED_ORIGINS,
        PING_INTERVAL_MS,
        max_connections,
        idle_timeout,
        write_timeout,
        handshake_timeout,
        tls,
    ]
};

/// The settings of the WebSocket transport. Defaults and ranges are those of its keys.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct WsConfig {
    /// The listener.
    #[serde(flatten)]
    pub listen: ListenConfig,
    /// The path of the WebSocket; it begins with `/`.
    pub path: String,
    /// Origins that pages may come from besides those of the same host, as browsers send them: `https://app.example`, or `null`;
    /// `*` is all.
    pub allowed_origins: Vec<String>,
    /// Silence after which a client is pinged; it is disconnected if it does not answer for as long again. `None`: never.
    #[serde(rename = "ping_interval_ms", deserialize_with = "values::milliseconds_or_unlimited")]
    pub ping_interval: Option<Duration>,
}

impl Default for WsConfig {
    fn default() -> Self {
        from_defaults(&[KEYS])
    }
}

fn configure(values: &Values) -> Result<Arc<dyn TransportConfig>, Vec<Problem>> {
    let config: WsConfig = read(values)?;
    let mut problems = Vec::new();
    let plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'?' | b'#');
    if !config.path.starts_with('/') || !config.path.bytes().all(plain) {
        let path = quoted(&config.path);
        problems.push(Problem::new(
            PATH.name,
            format!("{path} is no path: expected one such as \"/ws\", without \"?\" and \"#\""),
        ));
    }
    for origin in &config.allowed_origins {
        if let Err(expected) = check_origin(origin) {
            problems.push(Problem::new(ALLOWED_ORIGINS.name, format!("{}: {expected}", quoted(origin))));
        }
    }
    if problems.is_empty() { Ok(Arc::new(config)) } else { Err(problems) }
}

#[async_trait]
impl TransportConfig for WsConfig {
    fn max_connections(&self) -> usize {
        self.listen.max_connections
    }

    fn is_encrypted(&self) -> bool {
        self.listen.tls.is_some()
    }

    fn check_files(&self) -> Result<(), TransportError> {
        self.listen.load_tls("ws").map(drop)
    }

    async fn bind(&self) -> Result<Box<dyn Transport>, TransportError> {
        Ok(Box::new(WsTransport::bind(self.clone()).await?))
    }
}

#[cfg(test)]
mod tests {
    use broker_core::settings::defaults;

    use super::*;

    #[test]
    fn the_keys_and_the_configuration_agree() {
        let config = WsConfig::default();
        assert_eq!(config.listen, ListenConfig::new("127.0.0.1:8001"));
        assert_eq!((config.path.as_str(), config.ping_interval), ("/ws", Some(Duration::from_secs(30))));
        assert!(configure(&defaults(KEYS)).is_ok());
    }

    #[test]
    fn a_path_and_origins_that_cannot_be_served_are_problems() {
        let mut values = defaults(KEYS);
        values.insert("path".to_owned(), "ws?x".into());
        values.insert("allowed_origins".to_owned(), vec!["https://app.example", "app.example/"].into());
        let problems = configure(&values).unwrap_err();
        let keys: Vec<&str> = problems.iter().map(|problem| problem.key.as_str()).collect();
        assert_eq!(keys, ["path", "allowed_origins"], "{problems:?}");
    }
}
