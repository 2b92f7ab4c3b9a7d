//! Accepts connections, limits their number, and can abort all of them.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// The pause after a failed accept. The missing resource, such as a file descriptor, returns when a connection ends; retrying at once
/// would only busy the processor.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Accepts as many connections as there are permits; further ones wait in the kernel's queue.
#[derive(Debug)]
pub(super) struct LimitedListener {
    inner: TcpListener,
    permits: Arc<Semaphore>,
    abort: CancellationToken,
}

impl LimitedListener {
    /// Serves at most `max_connections` at a time, and fails all their input and output once `abort` is cancelled. Otherwise a
    /// client that does not read would delay shutdown indefinitely.
    pub(super) fn new(inner: TcpListener, max_connections: usize, abort: CancellationToken) -> Self {
        Self { inner, permits: Arc::new(Semaphore::new(max_connections)), abort }
    }
}

impl axum::serve::Listener for LimitedListener {
    type Io = AbortableStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (AbortableStream, SocketAddr) {
        let permit = Arc::clone(&self.permits).acquire_owned().await.expect("nothing closes this semaphore");
        loop {
            match self.inner.accept().await {
                Ok((inner, addr)) => {
                    // A single tweet must not wait for the TCP acknowledgement of the one before.
                    if let Err(error) = inner.set_nodelay(true) {
                        tracing::debug!(%addr, %error, "cannot set TCP_NODELAY");
                    }
                    let aborted = Box::pin(self.abort.clone().cancelled_owned());
                    let stream = AbortableStream { inner, aborted, _permit: permit };
                    return (stream, addr);
                }
                // The client left before it was accepted; the listener is fine.
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::ConnectionAborted
                            | io::ErrorKind::ConnectionReset
                            | io::ErrorKind::ConnectionRefused
                    ) => {}
                Err(error) => {
                    tracing::warn!(%error, "accepting a feed connection failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }
}

/// A connection that fails once its token is cancelled.
#[derive(Debug)]
pub(super) struct AbortableStream {
    inner: TcpStream,
    aborted: Pin<Box<WaitForCancellationFutureOwned>>,
    _permit: OwnedSemaphorePermit,
}

impl AbortableStream {
    /// Fails if the connection is aborted, else arranges for the task to be woken when it is. One task drives both directions
    /// of a connection, so one future with one waker is enough.
    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.aborted.as_mut().poll(cx) {
            Poll::Ready(()) => Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the feed has stopped")),
            Poll::Pending => Ok(()),
        }
    }
}

impl AsyncRead for AbortableStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl AsyncWrite for AbortableStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
