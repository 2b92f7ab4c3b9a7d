//! Lines as they are: the bytes of a stream.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Poll, ready};
use std::time::Duration;

use broker_core::session::Session;
use broker_core::session::output::Output;
use bytes::{Buf as _, BytesMut};
use tokio::io::AsyncWriteExt as _;
use tokio::time::timeout;
use tokio_util::io::poll_read_buf;

use crate::ended::Ended;
use crate::stream::{Stream, linger};
use crate::wire::Wire;

/// Bytes read at a time. The buffer lives only while there is something to read, so that idle connections cost none.
const READ: usize = 64 * 1024;

/// Lines as they are, for telnet and the like.
#[derive(Debug)]
pub struct Lines(pub Stream);

impl Wire for Lines {
    async fn receive(&mut self, session: &mut Session) -> Result<(), Ended> {
        let read = poll_fn(|cx| {
            let mut input = BytesMut::with_capacity(READ);
            let read = ready!(poll_read_buf(Pin::new(&mut self.0), cx, &mut input));
            Poll::Ready(read.map(|_| input))
        });
        let mut input = read.await.map_err(Ended::Socket)?;
        if input.is_empty() {
            session.end_of_input();
        } else {
            session.input(&mut input);
        }
        Ok(())
    }

    async fn send(&mut self, output: &mut Output, limit: Duration) -> Result<(), Ended> {
        // The limit is for each step: a slow client that takes what it gets is none that does not read.
        while output.has_remaining() {
            in_time(limit, self.0.write_buf(output)).await?;
        }
        // TLS has a buffer of its own.
        loop {
            let before = self.0.sent();
            match in_time(limit, self.0.flush()).await {
                Err(Ended::NotReading(_)) if self.0.sent() != before => {}
                flushed => return flushed,
            }
        }
    }

    async fn close(mut self, why: &Ended) {
        match why {
            Ended::Socket(_) | Ended::NotReading(_) => {}
            // It has been told something it did not ask for, and may be busy asking.
            Ended::Full(_) => linger(&mut self.0, Duration::from_secs(1)).await,
            _ => linger(&mut self.0, Duration::from_millis(50)).await,
        }
    }
}

async fn in_time<T>(limit: Duration, step: impl Future<Output = io::Result<T>>) -> Result<T, Ended> {
    match timeout(limit, step).await {
        Ok(done) => done.map_err(Ended::Socket),
        Err(_elapsed) => Err(Ended::NotReading(limit)),
    }
}
