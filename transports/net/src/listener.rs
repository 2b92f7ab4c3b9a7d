//! The accept loop: the limit on connections, and patience with errors that pass.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use broker_core::Backoff;
use broker_core::protocol::foreign::Foreign;
use broker_core::protocol::reply;
use broker_core::session::output::Output;
use broker_core::transport::{Broker, Reload, TransportError};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpSocket, TcpStream, lookup_host};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::ListenConfig;
use crate::connection;
use crate::ended::Ended;
use crate::stream::Stream;
use crate::tls::Tls;
use crate::wire::{OpenError, Protocol, Wire as _};

/// The most connections that the kernel queues before they are accepted, so that a burst of clients causes no errors.
const BACKLOG: u32 = 4096;

/// The most clients that are told at the same time that the server is full; further ones are just closed.
const TELLING: usize = 64;

/// The time limit for telling one, its handshake included.
const TELLING_TIME: Duration = Duration::from_secs(3);

/// The first and the longest pause after a failed accept. Running out of file descriptors passes as connections end.
const ACCEPT_AGAIN: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// The silence after which the kernel probes whether the other side is still there.
const KEEP_ALIVE: Duration = Duration::from_secs(60);

/// A bound port.
#[derive(Debug)]
pub struct Listener {
    tcp: TcpListener,
    addr: SocketAddr,
    shared: Arc<Shared>,
}

/// The state that all connections of a listener share.
#[derive(Debug)]
struct Shared {
    transport: &'static str,
    config: ListenConfig,
    tls: Option<Arc<Tls>>,
}

impl Listener {
    /// Binds the port, and reads the certificate if there is to be TLS. `transport` is the name in the configuration.
    ///
    /// # Errors
    /// When the address cannot be resolved or bound: in use, not permitted, not of this machine; or the certificate not used.
    pub async fn bind(transport: &'static str, config: ListenConfig) -> Result<Self, TransportError> {
        let tls = config.load_tls(transport)?;
        let failed = |error: io::Error| {
            let hint = match error.kind() {
                io::ErrorKind::AddrInUse => &*format!(
                    ": the port is in use; stop what listens there or choose another transports.{transport}.listen"
                ),
                io::ErrorKind::PermissionDenied => ": ports below 1024 need a privilege; choose a higher one",
                io::ErrorKind::AddrNotAvailable => ": the address is none of this machine's",
                _ => "",
            };
            let reason = format!("cannot listen on {}{hint}", config.listen);
            TransportError { transport, reason, cause: Some(Box::new(error)) }
        };
        let mut result = Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
        for addr in lookup_host(&config.listen).await.map_err(&failed)? {
            result = listen(addr);
            if result.is_ok() {
                break;
            }
        }
        let tcp = result.map_err(&failed)?;
        let addr = tcp.local_addr().map_err(&failed)?;
        Ok(Self { tcp, addr, shared: Arc::new(Shared { transport, config, tls: tls.map(Arc::new) }) })
    }

    /// The address that it is bound to, with the port that was taken.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    /// The handle that reloads the certificate while the listener serves; `None` without TLS.
    #[must_use]
    pub fn reload(&self) -> Option<Arc<dyn Reload>> {
        self.shared.tls.clone().map(|tls| tls as Arc<dyn Reload>)
    }

    /// Serves clients that speak `protocol` until `shutdown`, and returns when all connections have ended. Dropping it ends
    /// them as well.
    pub async fn serve(self, protocol: impl Protocol, broker: Broker, shutdown: CancellationToken) {
        let Self { tcp, shared, .. } = self;
        let protocol = Arc::new(protocol);
        let connections = TaskTracker::new();
        let stop_now = CancellationToken::new();
        let _stop_when_dropped = stop_now.clone().drop_guard();
        let telling = Arc::new(Semaphore::new(TELLING));
        let mut backoff = Backoff::new(ACCEPT_AGAIN.0, ACCEPT_AGAIN.1);
        loop {
            let accepted = tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                accepted = tcp.accept() => accepted,
            };
            let (socket, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    if !is_about_one_connection(&error) {
                        tracing::warn!(%error, "accepting connections failed; trying again");
                        tokio::select! {
                            () = shutdown.cancelled() => break,
                            () = tokio::time::sleep(backoff.next_delay()) => {}
                        }
                    }
                    continue;
                }
            };
            backoff.reset();
            prepare(&socket);
            let (shared, protocol) = (Arc::clone(&shared), Arc::clone(&protocol));
            if connections.len() >= shared.config.max_connections {
                tracing::debug!(%peer, limit = shared.config.max_connections, "the server is full");
                if let Ok(permit) = Arc::clone(&telling).try_acquire_owned() {
                    tokio::spawn(async move {
                        let _client_gone_or_slow = timeout(TELLING_TIME, tell_full(&shared, &*protocol, socket)).await;
                        drop(permit);
                    });
                }
                continue;
            }
            let (broker, shutdown, stop_now) = (broker.clone(), shutdown.clone(), stop_now.clone());
            connections.spawn(async move {
                tokio::select! {
                    () = stop_now.cancelled() => {}
                    () = serve_one(&shared, &*protocol, socket, peer, broker, shutdown) => {}
                }
            });
        }
        drop(tcp);
        connections.close();
        connections.wait().await;
    }
}

async fn serve_one<P: Protocol>(
    shared: &Shared,
    protocol: &P,
    socket: TcpStream,
    peer: SocketAddr,
    broker: Broker,
    shutdown: CancellationToken,
) {
    let transport = shared.transport;
    let limit = shared.config.handshake_timeout;
    let opened = tokio::select! {
        biased;
        () = shutdown.cancelled() => return,
        opened = timeout(limit, open(shared, protocol, socket)) => opened,
    };
    match opened {
        Ok(Ok(wire)) => {
            let ended = connection::run(wire, peer, broker, &shared.config, shutdown).await;
            match ended {
                Ended::Foreign(foreign) => warn_of(foreign, transport, peer),
                ended => tracing::debug!(transport, %peer, %ended, "connection ended"),
            }
        }
        Ok(Err(OpenError::Foreign(foreign))) => warn_of(foreign, transport, peer),
        Ok(Err(error)) => tracing::debug!(transport, %peer, %error, "no connection came of it"),
        Err(_elapsed) => {
            let limit_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
            tracing::debug!(transport, %peer, limit_ms, "the handshake took too long");
        }
    }
}

fn warn_of(foreign: Foreign, transport: &'static str, peer: SocketAddr) {
    match foreign {
        Foreign::Http => {
            tracing::warn!(%transport, %peer, "HTTP request refused: this port speaks the line protocol");
        }
        Foreign::Tls => tracing::warn!(%transport, %peer, "TLS hello refused: this port speaks plain text"),
    }
}

async fn open<P: Protocol>(shared: &Shared, protocol: &P, socket: TcpStream) -> Result<P::Wire, OpenError> {
    let patience = shared.config.handshake_timeout * 3 / 4;
    let stream = Stream::accept(socket, shared.tls.as_deref(), patience).await?;
    protocol.open(stream).await
}

/// Greets, says that the server is full, and closes.
async fn tell_full(shared: &Shared, protocol: &impl Protocol, socket: TcpStream) {
    let limit = shared.config.max_connections;
    let Ok(mut wire) = open(shared, protocol, socket).await else { return };
    let mut output = Output::default();
    reply::line(output.text(), reply::GREETING);
    reply::server_full(output.text(), limit);
    if wire.send(&mut output, TELLING_TIME).await.is_ok() {
        wire.close(&Ended::Full(limit)).await;
    }
}

fn listen(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = if addr.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // A restart must not wait for connections of the last run to time out.
    socket.set_reuseaddr(true)?;
    socket.bind(addr)?;
    socket.listen(BACKLOG)
}

/// Errors that say something about a client that has gone before it was accepted.
fn is_about_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted)
}

/// Without TCP_NODELAY a client that acknowledges one by one gets 25 events a second. Neither option is worth refusing a
/// client for.
fn prepare(socket: &TcpStream) {
    let keep_alive = TcpKeepalive::new().with_time(KEEP_ALIVE);
    let options = SockRef::from(socket);
    let set = socket
        .set_nodelay(true)
        .and_then(|()| options.set_tcp_keepalive(&keep_alive))
        // Telnet's interrupt ends with an urgent byte. Out of line it would be missing, and cost the line behind it.
        .and_then(|()| options.set_out_of_band_inline(true));
    if let Err(error) = set {
        tracing::debug!(%error, "a socket option could not be set");
    }
}
