//! The accept loop: the limit on connections, and patience with errors that pass.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use broker_core::protocol::reply;
use broker_core::transport::{Broker, Transport, TransportError};
use bytes::BytesMut;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream, lookup_host};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::TcpConfig;
use crate::connection;

/// Connections that the kernel may keep ready for us: a burst of clients is no error.
const BACKLOG: u32 = 4096;

/// Clients that are being told at the same time that the server is full; further ones are just closed.
const TELLING: usize = 64;

/// How long after an accept that failed the next one is tried: out of file descriptors passes when connections end.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// After so long without a byte the kernel asks whether the other side is still there.
const KEEP_ALIVE: Duration = Duration::from_secs(60);

/// The line protocol on a TCP port.
#[derive(Debug)]
pub struct TcpTransport {
    listener: TcpListener,
    addr: SocketAddr,
    config: TcpConfig,
}

impl TcpTransport {
    /// Binds the port.
    ///
    /// # Errors
    /// When the address cannot be resolved or bound: in use, not permitted, not of this machine.
    pub async fn bind(config: TcpConfig) -> Result<Self, TransportError> {
        let failed = |error: io::Error| {
            let hint = match error.kind() {
                io::ErrorKind::AddrInUse => {
                    ": the port is in use; stop what listens there or choose another transports.tcp.listen"
                }
                io::ErrorKind::PermissionDenied => ": ports below 1024 need a privilege; choose a higher one",
                io::ErrorKind::AddrNotAvailable => ": the address is none of this machine's",
                _ => "",
            };
            let reason = format!("cannot listen on {}{hint}", config.listen);
            TransportError { transport: "tcp", reason, cause: Some(Box::new(error)) }
        };
        let mut result = Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
        for addr in lookup_host(&config.listen).await.map_err(&failed)? {
            result = listen(addr);
            if result.is_ok() {
                break;
            }
        }
        let listener = result.map_err(&failed)?;
        let addr = listener.local_addr().map_err(&failed)?;
        Ok(Self { listener, addr, config })
    }

    /// The address that it listens on, with the port that was taken.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.addr
    }
}

fn listen(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = if addr.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // A restart must not wait for connections of the last run to time out.
    socket.set_reuseaddr(true)?;
    socket.bind(addr)?;
    socket.listen(BACKLOG)
}

#[async_trait]
impl Transport for TcpTransport {
    fn name(&self) -> &'static str {
        "tcp"
    }

    fn addr(&self) -> String {
        self.addr.to_string()
    }

    async fn serve(self: Box<Self>, broker: Broker, shutdown: CancellationToken) -> Result<(), TransportError> {
        let config = Arc::new(self.config);
        let connections = TaskTracker::new();
        // Dropping this future ends its connections as well.
        let stop_now = CancellationToken::new();
        let _stop_when_dropped = stop_now.clone().drop_guard();
        let telling = Arc::new(Semaphore::new(TELLING));
        loop {
            let accepted = tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                accepted = self.listener.accept() => accepted,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    if !is_about_one_connection(&error) {
                        tracing::warn!(%error, "accepting connections failed; trying again");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                    continue;
                }
            };
            if connections.len() >= config.max_connections {
                tracing::debug!(%peer, limit = config.max_connections, "the server is full");
                if let Ok(permit) = Arc::clone(&telling).try_acquire_owned() {
                    let limit = config.max_connections;
                    tokio::spawn(async move {
                        tell_full(stream, limit).await;
                        drop(permit);
                    });
                }
                continue;
            }
            prepare(&stream);
            let (broker, config) = (broker.clone(), Arc::clone(&config));
            let (shutdown, stop_now) = (shutdown.clone(), stop_now.clone());
            connections.spawn(async move {
                tokio::select! {
                    () = stop_now.cancelled() => {}
                    ended = connection::run(stream, peer, broker, &config, shutdown) => tracing::debug!(%peer, %ended, "connection ended"),
                }
            });
        }
        drop(self.listener);
        connections.close();
        connections.wait().await;
        Ok(())
    }
}

/// Errors that say something about a client that has gone before it was accepted.
fn is_about_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted)
}

/// Without TCP_NODELAY a client that acknowledges one by one gets 25 events a second. Neither option is worth refusing a
/// client for.
fn prepare(stream: &TcpStream) {
    let keep_alive = TcpKeepalive::new().with_time(KEEP_ALIVE);
    let set = stream.set_nodelay(true).and_then(|()| SockRef::from(stream).set_tcp_keepalive(&keep_alive));
    if let Err(error) = set {
        tracing::debug!(%error, "a socket option could not be set");
    }
}

/// Greets, says that the server is full, and closes so that the text arrives: what the client has sent already would
/// otherwise reset the connection.
async fn tell_full(mut stream: TcpStream, limit: usize) {
    let mut text = BytesMut::new();
    reply::line(&mut text, reply::GREETING);
    reply::server_full(&mut text, limit);
    let tell = async {
        stream.write_all(&text).await?;
        stream.shutdown().await?;
        let mut ignored = [0; 1024];
        while stream.read(&mut ignored).await? > 0 {}
        io::Result::Ok(())
    };
    let _client_gone_or_slow = tokio::time::timeout(Duration::from_secs(1), tell).await;
}
