//! A WebSocket as a stream of bytes: each line is a message.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::tungstenite::error::{Error as WsError, ProtocolError};
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Bytes, Message};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use crate::config::ClientConfig;
use crate::dial::Io;
use crate::error::{Error, excerpt};
use crate::reply::MAX_LINE_BYTES;

/// A longer line is sent in fragments of so many bytes, so that the write buffer can have a limit.
const FRAGMENT: usize = 64 * 1024;

/// Bytes that are gathered before they are written.
const WRITE: usize = 64 * 1024;

/// The lines of a WebSocket, as bytes.
pub(crate) struct WebSocketIo {
    ws: WebSocketStream<Box<dyn Io>>,
    /// The unread rest of the last message.
    left: Bytes,
    /// The ending of its line is due after that.
    ending: bool,
    /// The first fragments of a line have been written.
    mid_line: bool,
}

/// Asks for a WebSocket.
pub(crate) async fn connect(config: &ClientConfig, io: Box<dyn Io>) -> Result<WebSocketIo, Error> {
    let address = &config.address;
    // How long a line may be is known after `hello`, and is kept to where lines are taken apart.
    let longest = config.max_line_bytes.max(MAX_LINE_BYTES);
    let limits = WebSocketConfig::default()
        .read_buffer_size(32 * 1024)
        .write_buffer_size(WRITE)
        .max_write_buffer_size(WRITE + FRAGMENT + 4096)
        .max_message_size(Some(longest))
        .max_frame_size(Some(longest));
    match client_async_with_config(address.to_string(), io, Some(limits)).await {
        Ok((ws, _)) => Ok(WebSocketIo { ws, left: Bytes::new(), ending: false, mid_line: false }),
        Err(WsError::Http(answer)) => {
            let body = answer.body().as_deref().map(String::from_utf8_lossy).unwrap_or_default();
            let (status, text) = (answer.status(), excerpt(body.trim()));
            Err(Error::Protocol(format!("asked for a WebSocket, the server answers {status}: {text}")))
        }
        Err(WsError::Io(error)) => Err(Error::Unreachable { address: address.clone(), source: Arc::new(error) }),
        Err(error) if address.is_plain() => {
            Err(Error::Protocol(format!("it is no WebSocket: {error}; the port may speak TLS")))
        }
        Err(error) => Err(Error::Protocol(format!("it is no WebSocket: {error}"))),
    }
}

fn failed(error: WsError) -> io::Error {
    match error {
        WsError::Io(error) => error,
        error => io::Error::new(io::ErrorKind::InvalidData, error),
    }
}

/// The end of the stream, or why the broker has ended it.
fn closed(frame: Option<CloseFrame>) -> io::Result<()> {
    match frame {
        Some(frame) if !matches!(frame.code, CloseCode::Normal | CloseCode::Away) => {
            let text = format!("the broker has closed the WebSocket: {} ({})", excerpt(&frame.reason), frame.code);
            Err(io::Error::new(io::ErrorKind::ConnectionAborted, text))
        }
        _ => Ok(()),
    }
}

impl AsyncRead for WebSocketIo {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        while buffer.remaining() > 0 {
            if !self.left.is_empty() {
                let count = self.left.len().min(buffer.remaining());
                buffer.put_slice(&self.left.split_to(count));
                continue;
            }
            if self.ending {
                buffer.put_slice(b"\n");
                self.ending = false;
                continue;
            }
            let message = match self.ws.poll_next_unpin(cx) {
                Poll::Ready(message) => message,
                Poll::Pending if buffer.filled().len() > before => break,
                Poll::Pending => return Poll::Pending,
            };
            match message {
                Some(Ok(Message::Text(text))) => {
                    self.left = text.into();
                    self.ending = true;
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                Some(Ok(Message::Binary(_))) => {
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "a binary message")));
                }
                // What was read already comes first; the stream stays at its end.
                _ if buffer.filled().len() > before => break,
                Some(Ok(Message::Close(frame))) => return Poll::Ready(closed(frame)),
                None | Some(Err(WsError::ConnectionClosed | WsError::AlreadyClosed)) => return Poll::Ready(Ok(())),
                Some(Err(WsError::Protocol(ProtocolError::ResetWithoutClosingHandshake))) => {
                    return Poll::Ready(Ok(()));
                }
                Some(Err(error)) => return Poll::Ready(Err(failed(error))),
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for WebSocketIo {
    /// Takes a line, or a part of one.
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.ws.poll_ready_unpin(cx)).map_err(failed)?;
        let window = &bytes[..bytes.len().min(FRAGMENT)];
        let (length, ends) = match memchr::memchr(b'\n', window) {
            Some(at) => (at, true),
            None => (window.len(), false),
        };
        let opcode = OpCode::Data(if self.mid_line { Data::Continue } else { Data::Text });
        let frame = Frame::message(Bytes::copy_from_slice(&window[..length]), opcode, ends);
        self.ws.start_send_unpin(Message::Frame(frame)).map_err(failed)?;
        self.mid_line = !ends;
        Poll::Ready(Ok(length + usize::from(ends)))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.ws.poll_flush_unpin(cx).map_err(failed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.ws.poll_close_unpin(cx).map_err(failed)
    }
}
