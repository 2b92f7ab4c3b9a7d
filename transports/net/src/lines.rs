//! Lines as they are: the bytes of a stream.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use broker_core::session::Session;
use broker_core::session::output::Output;
use bytes::{Buf as _, BytesMut};
use tokio::io::AsyncWrite as _;
use tokio::time::timeout;
use tokio_util::io::{poll_read_buf, poll_write_buf};

use crate::ended::Ended;
use crate::stream::{READ_NOW, Stream, linger};
use crate::wire::Wire;

/// Bytes read at a time. The buffer lives only while there is something to read, so that idle connections cost none.
const READ: usize = 64 * 1024;

/// The byte that telnet's commands begin with.
const IAC: u8 = 0xff;

/// Lines as they are, for telnet and the like.
#[derive(Debug)]
pub struct Lines {
    stream: Stream,
    /// There may be more to read, whatever the socket's readiness says.
    again: bool,
}

impl Wire for Lines {
    async fn receive(&mut self, session: &mut Session) -> Result<(), Ended> {
        let read = poll_fn(|cx| {
            if std::mem::take(&mut self.again) {
                match self.stream.read_now() {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    read => return Poll::Ready(read),
                }
            }
            ready!(self.stream.poll_readable(cx))?;
            let mut input = BytesMut::with_capacity(READ);
            let read = ready!(poll_read_buf(Pin::new(&mut self.stream), cx, &mut input));
            Poll::Ready(read.map(|_| input))
        });
        let mut input = read.await.map_err(Ended::Socket)?;
        // A read ends at the urgent mark of telnet's interrupt. Shorter than its buffer, it would be taken for the last one, and the
        // rest be left until more comes.
        self.again = memchr::memchr(IAC, &input).is_some() || input.len() == READ_NOW;
        if input.is_empty() {
            session.end_of_input();
        } else {
            session.input(&mut input);
        }
        Ok(())
    }

    async fn send(&mut self, output: &mut Output, limit: Duration) -> Result<(), Ended> {
        while output.has_remaining() {
            self.step(limit, |stream, cx| poll_write_buf(stream, cx, output)).await?;
        }
        // TLS has a buffer of its own.
        self.step(limit, |stream, cx| stream.poll_flush(cx)).await
    }

    async fn close(mut self, why: &Ended) {
        match why {
            Ended::Socket(_) | Ended::NotReading(_) => {}
            // It has been told something it did not ask for, and may be busy asking.
            Ended::Full(_) => linger(&mut self.stream, Duration::from_secs(1)).await,
            _ => linger(&mut self.stream, Duration::from_millis(50)).await,
        }
    }
}

impl Lines {
    /// The lines of a stream.
    #[must_use]
    pub fn new(stream: Stream) -> Self {
        Self { stream, again: false }
    }

    /// Runs a step that waits for the client to take bytes. The limit restarts whenever bytes get through: slow is allowed,
    /// stalled is not.
    async fn step<T>(
        &mut self,
        limit: Duration,
        mut poll: impl FnMut(Pin<&mut Stream>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Result<T, Ended> {
        loop {
            let before = self.stream.sent();
            match timeout(limit, poll_fn(|cx| poll(Pin::new(&mut self.stream), cx))).await {
                Ok(done) => return done.map_err(Ended::Socket),
                Err(_elapsed) if self.stream.sent() != before => {}
                Err(_elapsed) => return Err(Ended::NotReading(limit)),
            }
        }
    }
}
