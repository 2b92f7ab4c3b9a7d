//! `[transports.tcp]`.

use std::sync::Arc;

use async_trait::async_trait;
use broker_core::settings::{Key, Plugin, TransportConfig, read};
use broker_core::transport::{Transport, TransportError};
use serde::Deserialize;
use transport_net::{ListenConfig, listener_keys};

use crate::TcpTransport;

/// The plugin, for the registry.
pub const PLUGIN: Plugin<dyn TransportConfig> = Plugin {
    doc: "The line protocol over TCP: telnet, nc, the client crate.",
    keys: KEYS,
    configure: |values| Ok(Arc::new(read::<TcpConfig>(values)?)),
};

const KEYS: &[Key] = &listener_keys("127.0.0.1:8000");

/// The settings: the line protocol over TCP has none besides its listener's.
#[derive(Debug, Deserialize)]
#[serde(transparent)]
struct TcpConfig(ListenConfig);

#[async_trait]
impl TransportConfig for TcpConfig {
    fn max_connections(&self) -> usize {
        self.0.max_connections
    }

    fn is_encrypted(&self) -> bool {
        self.0.tls.is_some()
    }

    fn check_files(&self) -> Result<(), TransportError> {
        self.0.load_tls("tcp").map(drop)
    }

    async fn bind(&self) -> Result<Box<dyn Transport>, TransportError> {
        Ok(Box::new(TcpTransport::bind(self.0.clone()).await?))
    }
}

#[cfg(test)]
mod tests {
    use broker_core::settings::defaults;

    use super::*;

    #[test]
    fn the_keys_and_the_configuration_agree() {
        let config = (PLUGIN.configure)(&defaults(KEYS)).unwrap();
        assert_eq!((config.max_connections(), config.is_encrypted()), (10_000, false));
        assert_eq!(format!("{config:?}"), format!("TcpConfig({:?})", ListenConfig::new("127.0.0.1:8000")));
    }
}
