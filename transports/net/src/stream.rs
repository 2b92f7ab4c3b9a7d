//! A client's socket, in the clear or within TLS.

use std::io::{self, IoSlice, Read as _};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
#[cfg(feature = "tls")]
use tokio_rustls::server::TlsStream;

use crate::tls::Tls;

/// Bytes that [`Stream::read_now`] reads at most. Whoever reads on is at a mark in a line that is typed.
pub(crate) const READ_NOW: usize = 4096;

/// A client's socket, in the clear or within TLS, which knows how many bytes have gone through it.
#[derive(Debug)]
pub struct Stream(Inner);

#[derive(Debug)]
enum Inner {
    Plain(Counted),
    #[cfg(feature = "tls")]
    Tls(Box<TlsStream<Counted>>),
}

impl Stream {
    /// Takes a socket, and does the handshake if there is TLS. The caller bounds its time; a client that has said nothing for
    /// `patience` is told that TLS is expected, since it may be waiting for a greeting.
    pub(crate) async fn accept(socket: TcpStream, tls: Option<&Tls>, patience: Duration) -> io::Result<Self> {
        if tls.is_some() && !begins_with_tls(&socket, patience).await? {
            let mut stream = Self(Inner::Plain(Counted { socket, received: 0, sent: 0 }));
            stream.write_all(b"error: this port speaks TLS\r\n").await?;
            linger(&mut stream, Duration::from_millis(50)).await;
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the client speaks plain text on a port with TLS"));
        }
        let socket = Counted { socket, received: 0, sent: 0 };
        Ok(Self(match tls {
            None => Inner::Plain(socket),
            #[cfg(feature = "tls")]
            Some(tls) => Inner::Tls(Box::new(tls.acceptor().accept(socket).await?)),
            #[cfg(not(feature = "tls"))]
            Some(tls) => tls.never(),
        }))
    }

    fn counted(&self) -> &Counted {
        match &self.0 {
            Inner::Plain(socket) => socket,
            #[cfg(feature = "tls")]
            Inner::Tls(stream) => stream.get_ref().0,
        }
    }

    /// Whether there may be something to read, so that no buffer is needed until then. Of TLS only reading can tell.
    pub(crate) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &self.0 {
            Inner::Plain(stream) => stream.socket.poll_read_ready(cx),
            #[cfg(feature = "tls")]
            Inner::Tls(_) => Poll::Ready(Ok(())),
        }
    }

    /// Reads what there is, without a look at the socket's readiness; empty at the end of the stream. TLS is left to its reads.
    pub(crate) fn read_now(&mut self) -> io::Result<BytesMut> {
        #[cfg_attr(
            not(feature = "tls"),
            expect(clippy::infallible_destructuring_match, reason = "a socket has one form then")
        )]
        let stream = match &mut self.0 {
            Inner::Plain(stream) => stream,
            #[cfg(feature = "tls")]
            Inner::Tls(_) => return Err(io::ErrorKind::WouldBlock.into()),
        };
        let mut input = BytesMut::zeroed(READ_NOW);
        let read = (&*SockRef::from(&stream.socket)).read(&mut input)?;
        stream.received += read as u64;
        input.truncate(read);
        Ok(input)
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

/// Whether a client's first byte is that of a TLS handshake. False also if none comes for `patience`.
async fn begins_with_tls(socket: &TcpStream, patience: Duration) -> io::Result<bool> {
    const HANDSHAKE: u8 = 0x16;
    let mut first = [HANDSHAKE];
    match timeout(patience, socket.peek(&mut first)).await {
        Ok(peeked) => peeked.map(|_or_the_end| first == [HANDSHAKE]),
        Err(_elapsed) => Ok(false),
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
            #[cfg(feature = "tls")]
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
            #[cfg(feature = "tls")]
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
