//! Herald's line protocol over WebSocket, for browsers.
//!
//! A text message from the broker is one line; one to the broker holds one line or several. There is no subprotocol and no
//! compression. What the lines mean is the session's business, in `broker-core`; accepting, time-outs and TLS are in
//! [`transport_net`].
//!
//! | to find | look in |
//! | --- | --- |
//! | the settings | [`WsConfig`] |
//! | the HTTP request that begins a connection, and its refusals | `upgrade` |
//! | which pages may connect | `origin` |
//! | messages to lines and back, pings, limits | `wire` |
//! | what close codes say | `closing` |
//!
//! # What a client can cost
//!
//! A message may have as many bytes as a line (`max_line_bytes`, and two for the line's ending), however many fragments it
//! comes in; beyond it the connection is closed with 1009. The fragments themselves, empty ones above all, are limited by
//! the bytes that come before the message is complete. Of pings only the latest is answered, and there may be a thousand in ten
//! seconds. The request has 8 KiB and a time limit. What is written goes through a buffer of at most 36 KiB; for the rest of the
//! output the session has its limit.
//!
//! So an idle connection costs some 20 KiB, and one that means no good at most three times `max_line_bytes` (a message that is
//! not complete, one that is, and a line that is not) and what its session is allowed.

mod closing;
mod config;
mod origin;
mod upgrade;
mod wire;

use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use broker_core::transport::{Broker, Reload, Transport, TransportError};
use tokio_util::sync::CancellationToken;
use transport_net::{Listener, OpenError, Protocol, Stream};

pub use config::{PLUGIN, WsConfig};
pub use origin::check_origin;
pub use transport_net::{ListenConfig, TlsFiles};

/// The line protocol in WebSocket messages.
#[derive(Debug)]
pub struct WsTransport {
    listener: Listener,
    config: WsConfig,
}

impl WsTransport {
    /// Binds the port.
    ///
    /// # Errors
    /// When the address cannot be resolved or bound, or the certificate cannot be used.
    pub async fn bind(config: WsConfig) -> Result<Self, TransportError> {
        let listener = Listener::bind("ws", config.listen.clone()).await?;
        Ok(Self { listener, config })
    }

    /// The address that it listens on, with the port that was taken.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.listener.local_addr()
    }
}

#[async_trait]
impl Transport for WsTransport {
    fn name(&self) -> &'static str {
        "ws"
    }

    fn addr(&self) -> String {
        self.listener.local_addr().to_string()
    }

    fn reload(&self) -> Option<Arc<dyn Reload>> {
        self.listener.reload()
    }

    async fn serve(self: Box<Self>, broker: Broker, shutdown: CancellationToken) -> Result<(), TransportError> {
        let protocol = WebSocket { config: self.config, max_line_bytes: broker.session.max_line_bytes };
        self.listener.serve(protocol, broker, shutdown).await;
        Ok(())
    }
}

struct WebSocket {
    config: WsConfig,
    max_line_bytes: usize,
}

impl Protocol for WebSocket {
    type Wire = wire::WsWire;

    async fn open(&self, mut stream: Stream) -> Result<wire::WsWire, OpenError> {
        let early = upgrade::upgrade(&mut stream, &self.config).await?;
        Ok(wire::WsWire::new(stream, early, &self.config, self.max_line_bytes).await)
    }
}
