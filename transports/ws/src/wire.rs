//! Messages to lines and back, pings, and the limits of both.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use broker_core::session::Session;
use broker_core::session::output::Output;
use bytes::{Buf as _, BytesMut};
use futures_util::{FutureExt as _, SinkExt as _, StreamExt as _};
use tokio::time::{Instant, Sleep, sleep_until, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::{Error, ProtocolError};
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Bytes, Message};
use transport_net::{Ended, Stream, Wire, linger};

use crate::closing;
use crate::config::WsConfig;

/// Bytes read at a time, which each connection keeps a buffer for.
const READ: usize = 8 * 1024;

/// Text of several messages that goes to the session together.
const GATHER: usize = 64 * 1024;

/// A longer line is sent in fragments of so many bytes, which its reader does not notice: a reply may have many MiB, and must fit
/// into the write buffer in parts.
const FRAGMENT: usize = 16 * 1024;

/// Bytes that are gathered before they are written.
const WRITE: usize = 16 * 1024;

/// The write buffer's limit: what is gathered, one frame more, and the odd pong. The crate's own default is no limit.
const MAX_WRITE: usize = WRITE + FRAGMENT + 4 * 1024;

/// How many bytes may come for each byte of the longest message before one is complete: fragments of one byte, which have a
/// header of six, still pass.
const OVERHEAD: u64 = 8;

/// Where messages are short, so many bytes may come all the same.
const MIN_OVERRUN: u64 = 64 * 1024;

/// Pings and pongs that a client may send within [`PINGS_TIME`]. Only the latest ping is answered, so more of them are no use.
const MAX_PINGS: u32 = 1000;
const PINGS_TIME: Duration = Duration::from_secs(10);

/// One WebSocket.
pub(crate) struct WsWire {
    socket: Socket,
    /// The first fragments of a line have been sent.
    mid_line: bool,
    /// Why the client will not be listened to any more.
    failure: Option<CloseFrame>,
    closed_by_peer: bool,
    pings: Option<Pings>,
}

/// The socket, and how much has come through it.
struct Socket {
    ws: WebSocketStream<Stream>,
    max_message_bytes: usize,
    /// [`Stream::received`] when the last message was complete, and what of it has been pings since.
    whole: u64,
    /// Pings and pongs, and since when they are counted.
    pings: (u32, Instant),
}

/// When to ask a silent client whether it is there.
struct Pings {
    interval: Duration,
    timer: Pin<Box<Sleep>>,
    heard: Instant,
    /// A ping was sent, and nothing has come since.
    asked: bool,
}

/// The outcome of waiting for a message.
enum Heard {
    Message(Option<Result<Message, Error>>),
    /// Fragments without end.
    Overrun,
}

impl Socket {
    /// The next message. Cancel-safe.
    async fn next(&mut self) -> Heard {
        poll_fn(|cx| match self.ws.poll_next_unpin(cx) {
            Poll::Ready(message) => Poll::Ready(Heard::Message(message)),
            Poll::Pending if self.overrun() => Poll::Ready(Heard::Overrun),
            Poll::Pending => Poll::Pending,
        })
        .await
    }

    /// Whether too much has come without a message being complete: one in a million fragments must not keep us busy for nothing.
    fn overrun(&self) -> bool {
        let limit = (self.max_message_bytes as u64).saturating_mul(OVERHEAD).max(MIN_OVERRUN);
        self.ws.get_ref().received().saturating_sub(self.whole) > limit
    }

    /// A message is complete.
    fn is_whole(&mut self) {
        self.whole = self.ws.get_ref().received();
    }

    /// Counts a ping or pong with so many bytes; false: there have been too many.
    fn count_ping(&mut self, bytes: usize) -> bool {
        const HEADER: u64 = 6;
        self.whole += bytes as u64 + HEADER;
        if self.pings.1.elapsed() >= PINGS_TIME {
            self.pings = (0, Instant::now());
        }
        self.pings.0 += 1;
        self.pings.0 <= MAX_PINGS
    }
}

impl WsWire {
    /// `early` came behind the request.
    pub(crate) async fn new(stream: Stream, early: BytesMut, config: &WsConfig, max_line_bytes: usize) -> Self {
        // The line's ending may be in the message.
        let max_message_bytes = max_line_bytes.saturating_add(2);
        let limits = WebSocketConfig::default()
            .read_buffer_size(READ)
            .write_buffer_size(WRITE)
            .max_write_buffer_size(MAX_WRITE)
            .max_message_size(Some(max_message_bytes))
            .max_frame_size(Some(max_message_bytes));
        let now = Instant::now();
        let whole = stream.received();
        let ws = WebSocketStream::from_partially_read(stream, early.into(), Role::Server, Some(limits)).await;
        let pings = config.ping_interval.map(|interval| Pings {
            interval,
            timer: Box::pin(sleep_until(now + interval)),
            heard: now,
            asked: false,
        });
        let socket = Socket { ws, max_message_bytes, whole, pings: (0, now) };
        Self { socket, mid_line: false, failure: None, closed_by_peer: false, pings }
    }

    /// Takes a message. Returns whether there is something for the session in it.
    fn take(&mut self, message: Option<Result<Message, Error>>, input: &mut BytesMut) -> bool {
        if let Some(pings) = &mut self.pings {
            pings.heard = Instant::now();
            pings.asked = false;
        }
        match message {
            Some(Ok(Message::Text(text))) => {
                input.extend_from_slice(text.as_bytes());
                // The message's end ends its last line.
                input.extend_from_slice(b"\n");
                self.socket.is_whole();
                return true;
            }
            Some(Ok(Message::Binary(_))) => {
                let frame = closing::frame(CloseCode::Unsupported, "binary messages are not understood: send text");
                self.failure = Some(frame);
            }
            Some(Ok(Message::Ping(payload) | Message::Pong(payload))) => {
                if !self.socket.count_ping(payload.len()) {
                    self.failure = Some(closing::frame(CloseCode::Policy, "too many pings"));
                }
            }
            // Only ever written.
            Some(Ok(Message::Frame(_))) => {}
            Some(Ok(Message::Close(_)))
            | None
            | Some(Err(
                Error::ConnectionClosed
                | Error::AlreadyClosed
                | Error::Protocol(ProtocolError::ResetWithoutClosingHandshake),
            )) => self.closed_by_peer = true,
            Some(Err(Error::Io(error))) => {
                tracing::debug!(%error, "the socket failed; what came before is done all the same");
                self.closed_by_peer = true;
            }
            Some(Err(error)) => self.failure = Some(closing::of_error(&error, self.socket.max_message_bytes)),
        }
        false
    }

    /// Asks a silent client whether it is there; false: it has been asked.
    fn ask(&mut self) -> bool {
        let Some(pings) = &mut self.pings else { return true };
        let now = Instant::now();
        let due = pings.heard + pings.interval;
        if !pings.asked && due > now {
            pings.timer.as_mut().reset(due);
            return true;
        }
        if pings.asked {
            return false;
        }
        pings.asked = true;
        pings.timer.as_mut().reset(now + pings.interval);
        // Where it cannot be written at once the client does not read, and will not answer in time either.
        if matches!(poll_fn(|cx| self.socket.ws.poll_ready_unpin(cx)).now_or_never(), Some(Ok(())))
            && self.socket.ws.start_send_unpin(Message::Ping(Bytes::new())).is_ok()
        {
            let _later_if_not_now = self.socket.ws.flush().now_or_never();
        }
        true
    }

    /// Waits until more can be written; each step of it may take `limit`.
    async fn progress(&mut self, limit: Duration, flush: bool) -> Result<(), Ended> {
        loop {
            let before = self.socket.ws.get_ref().sent();
            let step =
                poll_fn(
                    |cx| if flush { self.socket.ws.poll_flush_unpin(cx) } else { self.socket.ws.poll_ready_unpin(cx) },
                );
            match timeout(limit, step).await {
                Ok(done) => return done.or_else(|error| self.write_failed(error)),
                Err(_elapsed) if self.socket.ws.get_ref().sent() != before => {}
                Err(_elapsed) => return Err(Ended::NotReading(limit)),
            }
        }
    }

    /// A client that has closed gets nothing more; what it has sent is done all the same.
    fn write_failed(&mut self, error: Error) -> Result<(), Ended> {
        match error {
            Error::Io(error) => Err(Ended::Socket(error)),
            _ => {
                self.closed_by_peer = true;
                Ok(())
            }
        }
    }
}

impl Wire for WsWire {
    async fn receive(&mut self, session: &mut Session) -> Result<(), Ended> {
        let mut input = BytesMut::new();
        loop {
            let timer = async {
                match &mut self.pings {
                    Some(pings) => pings.timer.as_mut().await,
                    None => std::future::pending().await,
                }
            };
            let heard = tokio::select! {
                biased;
                heard = self.socket.next() => heard,
                () = timer => {
                    if !self.ask() {
                        self.failure = Some(closing::frame(CloseCode::Policy, "no answer to a ping"));
                        session.end_of_input();
                        return Ok(());
                    }
                    continue;
                }
            };
            let mut taken = match heard {
                Heard::Message(message) => self.take(message, &mut input),
                Heard::Overrun => {
                    self.failure = Some(closing::too_long(self.socket.max_message_bytes));
                    false
                }
            };
            // Messages that have arrived by now go to the session in one piece, so that they become one batch.
            while taken && input.len() < GATHER {
                match self.socket.ws.next().now_or_never() {
                    Some(message) => taken = self.take(message, &mut input),
                    None => break,
                }
            }
            let anything = !input.is_empty();
            if anything {
                session.input(&mut input);
            }
            // The replies to what came before are still due.
            if self.failure.is_some() || self.closed_by_peer {
                session.end_of_input();
                return Ok(());
            }
            if anything {
                return Ok(());
            }
        }
    }

    async fn send(&mut self, output: &mut Output, limit: Duration) -> Result<(), Ended> {
        while output.has_remaining() && !self.closed_by_peer {
            self.progress(limit, false).await?;
            let frame = next_frame(output, &mut self.mid_line);
            if let Err(error) = self.socket.ws.start_send_unpin(Message::Frame(frame)) {
                self.write_failed(error)?;
            }
        }
        if self.closed_by_peer {
            output.advance(output.remaining());
            return Ok(());
        }
        self.progress(limit, true).await
    }

    async fn close(mut self, why: &Ended) {
        const AT_MOST: Duration = Duration::from_secs(1);
        if matches!(why, Ended::Socket(_) | Ended::NotReading(_)) {
            return;
        }
        if !self.closed_by_peer {
            let frame = self.failure.take().unwrap_or_else(|| closing::of(why));
            tracing::debug!(code = u16::from(frame.code), reason = %frame.reason, "closing");
            let _it_may_be_gone = self.socket.ws.start_send_unpin(Message::Close(Some(frame)));
        }
        let _it_may_be_gone = timeout(AT_MOST, self.socket.ws.flush()).await;
        let quiet = if self.closed_by_peer { Duration::from_millis(50) } else { AT_MOST };
        linger(self.socket.ws.get_mut(), quiet).await;
    }
}

/// The next line of `output`, or a part of it.
fn next_frame(output: &mut Output, mid_line: &mut bool) -> Frame {
    let chunk = output.chunk();
    let window = &chunk[..chunk.len().min(FRAGMENT)];
    let (length, ending) = match memchr::memchr(b'\n', window) {
        Some(at) if window[..at].ends_with(b"\r") => (at - 1, 2),
        Some(at) => (at, 1),
        // A line's ending is not torn in two.
        None if window.len() > 1 && window.ends_with(b"\r") => (window.len() - 1, 0),
        None => (window.len(), 0),
    };
    let payload = output.copy_to_bytes(length);
    output.advance(ending);
    let opcode = OpCode::Data(if *mid_line { Data::Continue } else { Data::Text });
    *mid_line = ending == 0;
    Frame::message(payload, opcode, ending > 0)
}

#[cfg(test)]
mod tests {
    use broker_core::engine::Delivery;
    use broker_core::event::{Payload, Priority};

    use super::*;

    #[test]
    fn each_line_is_a_message_and_a_long_one_is_sent_in_fragments() {
        let mut output = Output::default();
        output.text().extend_from_slice(b"first\r\n\r\n");
        let message = format!("\"{}\"", "x".repeat(3 * FRAGMENT));
        let payload = Payload::encode("t", Priority(0), &message, "big");
        output.delivery(&Delivery { payload: payload.clone(), redelivered: 0 });
        // Its CR is the last byte of a fragment.
        let tricky = "y".repeat(FRAGMENT - 1);
        output.text().extend_from_slice(format!("{tricky}\r\nlast\r\n").as_bytes());
        let (mut lines, mut line, mut mid_line) = (Vec::new(), Vec::new(), false);
        while output.has_remaining() {
            let first = !mid_line;
            let frame = next_frame(&mut output, &mut mid_line);
            assert!(frame.payload().len() <= FRAGMENT);
            let data = if first { Data::Text } else { Data::Continue };
            assert_eq!(frame.header().opcode, OpCode::Data(data));
            line.extend_from_slice(frame.payload());
            if frame.header().is_final {
                lines.push(String::from_utf8(std::mem::take(&mut line)).unwrap());
            }
        }
        let big = String::from_utf8(payload.bytes().to_vec()).unwrap();
        assert_eq!(lines, ["first", "", &big, &tricky, "last"]);
        assert!(!mid_line);
    }
}
