//! Herald's line protocol over TCP, for telnet, `nc` and the client crate.
//!
//! Lines travel unchanged, so this crate only names the protocol. [`transport_net`] accepts connections, drives the sessions and
//! enforces the limits. The session in `broker-core` interprets the bytes.

mod config;

use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use broker_core::transport::{Broker, Reload, Transport, TransportError};
pub use config::PLUGIN;
use tokio_util::sync::CancellationToken;
use transport_net::{Lines, Listener, OpenError, Protocol, Stream};
pub use transport_net::{ListenConfig, TlsFiles};

/// The line protocol on a TCP port.
#[derive(Debug)]
pub struct TcpTransport(Listener);

impl TcpTransport {
    /// Binds the port.
    ///
    /// # Errors
    /// When the address cannot be resolved or bound, or the certificate cannot be used.
    pub async fn bind(config: ListenConfig) -> Result<Self, TransportError> {
        Ok(Self(Listener::bind("tcp", config).await?))
    }

    /// The address it listens on, with the actual port.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.0.local_addr()
    }
}

#[async_trait]
impl Transport for TcpTransport {
    fn name(&self) -> &'static str {
        "tcp"
    }

    fn addr(&self) -> String {
        self.0.local_addr().to_string()
    }

    fn reload(&self) -> Option<Arc<dyn Reload>> {
        self.0.reload()
    }

    async fn serve(self: Box<Self>, broker: Broker, shutdown: CancellationToken) -> Result<(), TransportError> {
        self.0.serve(Unframed, broker, shutdown).await;
        Ok(())
    }
}

/// The protocol that passes lines through without any framing of its own.
struct Unframed;

impl Protocol for Unframed {
    type Wire = Lines;

    async fn open(&self, stream: Stream) -> Result<Lines, OpenError> {
        Ok(Lines::new(stream))
    }
}
