//! A client's socket, in the clear or within TLS.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_rustls::server::TlsStream;

use crate::tls::Tls;

/// A client's socket, in the clear or within TLS, which knows how many bytes have gone through it.
#[derive(Debug)]
pub struct Stream(Inner);

#[derive(Debug)]
enum Inner {
    Plain(Counted),
    Tls(Box<TlsStream<Counted>>),
}

impl Stream {
    /// Takes a socket, and does the handshake if there is TLS. The caller bounds its time.
    pub(crate) async fn accept(socket: TcpStream, tls: Option<&Tls>) -> io::Result<Self> {
        let socket = Counted { socket, received: 0, sent: 0 };
        Ok(Self(match tls {
            None => Inner::Plain(socket),
            Some(tls) => Inner::Tls(Box::new(tls.acceptor().accept(socket).await?)),
        }))
    }

    fn counted(&self) -> &Counted {
        match &self.0 {
            Inner::Plain(socket) => socket,
            Inner::Tls(stream) => stream.get_ref().0,
        }
    }

    /// Whether there may be something to read, so that no buffer is needed until then. Of TLS only reading can tell.
    pub(crate) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &self.0 {
            Inner::Plain(stream) => stream.socket.poll_read_ready(cx),
            Inner::Tls(_) => Poll::Ready(Ok(())),
        }
    }

    /// Bytes that the operating system has taken so far: whether a slow client takes anything at all.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.counted().sent
    }

    /// Bytes that have come so far, those of TLS itself included.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.counted().received
    }
}

/// Ends the stream so that what was written arrives: closing a socket with unread input resets the connection, and takes away
/// what the client has not read yet. A client that goes on sending is listened to for a moment, until it is quiet for `quiet`.
pub async fn linger(stream: &mut Stream, quiet: Duration) {
    const AT_MOST: Duration = Duration::from_secs(1);
    // A flood is not swallowed as fast as it comes.
    const PAUSE: Duration = Duration::from_millis(1);
    let listen = async {
        stream.shutdown().await?;
        let mut ignored = [0; 8192];
        while let Ok(read) = timeout(quiet, stream.read(&mut ignored)).await {
            if read? == 0 {
                break;
            }
            sleep(PAUSE).await;
        }
        io::Result::Ok(())
    };
    let _client_gone_or_still_sending = timeout(AT_MOST, listen).await;
}

#[derive(Debug)]
struct Counted {
    socket: TcpStream,
    received: u64,
    sent: u64,
}

impl Counted {
    fn count(&mut self, sent: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(bytes)) = sent {
            self.sent += bytes as u64;
        }
        sent
    }
}

impl AsyncRead for Counted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.socket).poll_read(cx, buffer);
        self.received += (buffer.filled().len() - before) as u64;
        read
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let sent = Pin::new(&mut self.socket).poll_write(cx, bytes);
        self.count(sent)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let sent = Pin::new(&mut self.socket).poll_write_vectored(cx, pieces);
        self.count(sent)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

/// Calls the method of whichever stream it is.
macro_rules! either {
    ($stream:expr, $inner:ident => $call:expr) => {
        match &mut $stream.get_mut().0 {
            Inner::Plain(stream) => {
                let $inner = Pin::new(stream);
                $call
            }
            Inner::Tls(stream) => {
                let $inner = Pin::new(&mut **stream);
                $call
            }
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match either!(self, stream => stream.poll_read(cx, buffer)) {
            // TLS that ends without saying so. What is cut off is at most a line without its end, and that is not executed.
            Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => Poll::Ready(Ok(())),
            read => read,
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        either!(self, stream => stream.poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        either!(self, stream => stream.poll_write_vectored(cx, pieces))
    }

    fn is_write_vectored(&self) -> bool {
        match &self.0 {
            Inner::Plain(stream) => stream.is_write_vectored(),
            Inner::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => stream.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => stream.poll_shutdown(cx))
    }
}
