//! One connection: dialled, greeted, and then bytes both ways.
//!
//! Everything else in this crate is about lines. What carries the bytes is [`dial`]'s business.

use std::future::{Future as _, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf as _, BytesMut};
use serde::Serialize;
use tokio::io::{AsyncReadExt as _, AsyncWrite as _};
use tokio::time::{Instant, timeout};

use crate::config::ClientConfig;
use crate::dial::{Io, dial};
use crate::error::{Error, excerpt};
use crate::lines::LineBuffer;
use crate::reply::{self, Reply, ServerInfo};

/// Beyond so many bytes waiting to be written, the tasks encode no more: what is not encoded can still be batched.
pub(crate) const WRITE_BYTES: usize = 256 * 1024;

/// The session options asked for with `hello`.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Hello {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) prefetch: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) replies: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) confirm: Option<bool>,
}

/// A connection after a good `hello`. Dropping it closes the socket.
pub(crate) struct Link {
    io: Box<dyn Io>,
    lines: LineBuffer,
    out: BytesMut,
    needs_flush: bool,
    write_error: Option<io::Error>,
    last_heard: Instant,
    server: ServerInfo,
}

impl Link {
    /// Dials, waits for the greeting, says `hello` and takes the answer, all within the connect timeout.
    pub(crate) async fn open(config: &ClientConfig, hello: &Hello) -> Result<Self, Error> {
        let after = config.connect_timeout;
        match timeout(after, Self::handshake(config, hello)).await {
            Ok(result) => result,
            Err(_) if config.address.is_plain() => {
                Err(Error::Timeout { what: "the connection attempt (the port may speak TLS)", after })
            }
            Err(_) => Err(Error::Timeout { what: "the connection attempt", after }),
        }
    }

    async fn handshake(config: &ClientConfig, hello: &Hello) -> Result<Self, Error> {
        let mut link = Self {
            io: dial(config).await?,
            lines: LineBuffer::new(config.max_line_bytes),
            out: BytesMut::new(),
            needs_flush: false,
            write_error: None,
            last_heard: Instant::now(),
            server: ServerInfo {
                server: String::new(),
                version: String::new(),
                protocol: 1,
                session: String::new(),
                max_line_bytes: reply::default_max_line_bytes(),
                max_output_line_bytes: None,
            },
        };
        let greeting = match link.read_line().await {
            Ok(greeting) => greeting,
            Err(Error::Protocol(text)) if config.address.is_plain() => {
                return Err(Error::Protocol(format!("{text}; the port may speak TLS")));
            }
            Err(Error::Lost { source: None }) if config.address.is_plain() => {
                let text = "no greeting came; the port may speak TLS";
                let source = Arc::new(io::Error::new(io::ErrorKind::InvalidData, text));
                return Err(Error::Unreachable { address: config.address.clone(), source });
            }
            Err(error) => return Err(error),
        };
        if greeting != reply::GREETING {
            return Err(match greeting.strip_prefix("error: ") {
                Some(reason) => reply::handshake_error(reason),
                None => Error::Protocol(format!("expected the broker's greeting, got \"{}\"", excerpt(&greeting))),
            });
        }
        // A full server greets, says so and closes. Where its words are here already they are read before anything is
        // written: a write to a closed socket can cost what has not been read.
        if let Some(line) = link.lines.next_line()? {
            return Err(match line.strip_prefix("error: ") {
                Some(reason) => reply::handshake_error(reason),
                None => Error::Protocol(format!("an answer before the question: \"{}\"", excerpt(line))),
            });
        }
        link.queue_hello(config, hello)?;
        let answer = link.read_line().await?;
        link.server = reply::parse_hello(&answer)?;
        link.lines.set_limit(link.server.longest_line(config.max_line_bytes));
        Ok(link)
    }

    fn queue_hello(&mut self, config: &ClientConfig, hello: &Hello) -> Result<(), Error> {
        #[derive(Serialize)]
        struct Full<'a> {
            #[serde(skip_serializing_if = "Option::is_none")]
            client: Option<&'a str>,
            #[serde(skip_serializing_if = "Option::is_none")]
            token: Option<&'a str>,
            #[serde(flatten)]
            hello: &'a Hello,
        }
        let full = Full {
            client: config.name.as_deref(),
            token: config.token.as_ref().map(super::config::Token::reveal),
            hello,
        };
        let json = serde_json::to_string(&full)
            .map_err(|error| Error::Invalid(format!("hello cannot be written as JSON: {error}")))?;
        self.queue("hello ");
        self.queue(&json);
        self.queue("\n");
        Ok(())
    }

    /// The broker's description of itself.
    pub(crate) fn server(&self) -> &ServerInfo {
        &self.server
    }

    /// The longest line that is taken from the broker.
    pub(crate) fn max_line_bytes(&self) -> usize {
        self.lines.limit()
    }

    /// When bytes last came in. What goes out says nothing: the operating system takes bytes for a dead peer, too.
    pub(crate) fn last_heard(&self) -> Instant {
        self.last_heard
    }

    /// Adds text to what [`Link::progress`] writes. The caller sees to the line end.
    pub(crate) fn queue(&mut self, text: &str) {
        self.queue_bytes(text.as_bytes());
    }

    pub(crate) fn queue_bytes(&mut self, bytes: &[u8]) {
        if self.write_error.is_none() {
            self.out.extend_from_slice(bytes);
        }
    }

    /// The buffer itself, for what is composed in place.
    pub(crate) fn out(&mut self) -> &mut BytesMut {
        &mut self.out
    }

    /// Whether there is something to write.
    pub(crate) fn has_output(&self) -> bool {
        !self.out.is_empty() || self.needs_flush
    }

    /// Whether more should be encoded now.
    pub(crate) fn has_room(&self) -> bool {
        self.out.len() < WRITE_BYTES
    }

    /// The next line that has been read already.
    pub(crate) fn next_line(&mut self) -> Result<Option<&str>, Error> {
        self.lines.next_line()
    }

    /// Writes what is queued and, if `read`, reads; returns after some of either. Take all of [`Link::next_line`]
    /// before it. Cancel-safe: what was written has left the buffer, what was read is in it.
    ///
    /// Both directions go on at once, in one future: a broker that cannot get rid of its replies stops reading, so a
    /// client that does not read while it writes would stop both for good.
    ///
    /// # Errors
    /// [`Error::Lost`] at the end of the stream. A failed write is reported once there is nothing left to read, which
    /// is often the reason for it.
    pub(crate) async fn progress(&mut self, read: bool) -> Result<(), Error> {
        poll_fn(|cx| self.poll_progress(cx, read)).await
    }

    fn poll_progress(&mut self, cx: &mut Context<'_>, read: bool) -> Poll<Result<(), Error>> {
        let mut progressed = false;
        if let Err(error) = self.poll_output(cx, &mut progressed) {
            if !read {
                return Poll::Ready(Err(Error::lost(error)));
            }
            self.out.clear();
            self.needs_flush = false;
            self.write_error = Some(error);
        }
        if read && let Poll::Ready(result) = pin!(self.io.read_buf(self.lines.space())).poll(cx) {
            match result {
                Ok(0) => {
                    let source = self.write_error.take().map(Arc::new);
                    return Poll::Ready(Err(Error::Lost { source }));
                }
                Ok(_) => {
                    self.last_heard = Instant::now();
                    progressed = true;
                }
                Err(error) => {
                    return Poll::Ready(Err(Error::lost(self.write_error.take().unwrap_or(error))));
                }
            }
        }
        if progressed { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    fn poll_output(&mut self, cx: &mut Context<'_>, progressed: &mut bool) -> io::Result<()> {
        while !self.out.is_empty() {
            match Pin::new(&mut self.io).poll_write(cx, &self.out) {
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(written)) => {
                    self.out.advance(written);
                    self.needs_flush = true;
                    *progressed = true;
                }
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending => return Ok(()),
            }
        }
        if self.needs_flush
            && let Poll::Ready(result) = Pin::new(&mut self.io).poll_flush(cx)
        {
            result?;
            self.needs_flush = false;
            *progressed = true;
        }
        Ok(())
    }

    /// Writes what is queued and waits for the next line. Cancel-safe.
    pub(crate) async fn read_line(&mut self) -> Result<String, Error> {
        loop {
            if let Some(line) = self.lines.next_line()? {
                return Ok(line.to_owned());
            }
            self.progress(true).await?;
        }
    }

    /// Says `quit` and waits for the end of the stream. The caller bounds the time.
    pub(crate) async fn quit(mut self) {
        self.queue("quit\n");
        loop {
            match self.next_line() {
                Ok(Some(line)) if Reply::parse(line) == Reply::Bye => return,
                Ok(Some(_)) => continue,
                Ok(None) => {}
                Err(_) => return,
            }
            if self.progress(true).await.is_err() {
                return;
            }
        }
    }
}
