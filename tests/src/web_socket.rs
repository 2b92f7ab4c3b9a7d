//! A WebSocket client that sees every message as it arrives.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::error::Error;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Message, WebSocket, client};

use crate::PATIENCE;

/// A WebSocket connection to a broker.
pub struct WebSocketClient {
    socket: WebSocket<TcpStream>,
}

/// Connects a socket to a broker, without sending anything.
#[must_use]
pub fn socket(addr: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// Sends a raw request and returns the answer; for an upgrade, only its head.
#[must_use]
pub fn http(addr: SocketAddr, request: &str) -> String {
    let mut stream = socket(addr);
    stream.write_all(request.as_bytes()).unwrap();
    let (mut answer, mut byte) = (Vec::new(), [0]);
    while stream.read_exact(&mut byte).is_ok() {
        answer.push(byte[0]);
        if answer.starts_with(b"HTTP/1.1 101") && answer.ends_with(b"\r\n\r\n") {
            break;
        }
    }
    String::from_utf8(answer).unwrap()
}

impl WebSocketClient {
    /// Connects to `/ws` and receives the greeting.
    #[must_use]
    pub fn connect(addr: SocketAddr) -> Self {
        let mut socket = Self::connect_as(addr, None).unwrap();
        socket.expect("Successfully connected to message_broker");
        socket
    }

    /// Connects like a page of `origin`.
    ///
    /// # Errors
    /// When the broker refuses the connection.
    pub fn connect_as(addr: SocketAddr, origin: Option<&str>) -> Result<Self, String> {
        let mut request = format!("ws://{addr}/ws").into_client_request().unwrap();
        if let Some(origin) = origin {
            request.headers_mut().insert("origin", origin.parse().unwrap());
        }
        match client(request, socket(addr)) {
            Ok((socket, _)) => Ok(Self { socket }),
            Err(error) => Err(error.to_string()),
        }
    }

    /// The socket, for bytes that no client would send.
    pub fn stream(&mut self) -> &mut TcpStream {
        self.socket.get_mut()
    }

    /// Sends a text message.
    pub fn send(&mut self, text: &str) {
        self.send_message(Message::text(text));
    }

    /// Sends a message of any kind.
    pub fn send_message(&mut self, message: Message) {
        self.socket.send(message).unwrap();
    }

    /// The next text message. Answers pings.
    ///
    /// # Errors
    /// When the broker has closed the connection, with the code and the reason if it sent them.
    pub fn message(&mut self) -> Result<String, Option<CloseFrame>> {
        loop {
            match self.socket.read() {
                Ok(Message::Text(text)) => return Ok(text.to_string()),
                Ok(Message::Close(frame)) => return Err(frame),
                Ok(Message::Ping(_) | Message::Pong(_)) => {}
                Ok(other) => panic!("the broker sent {other:?}"),
                Err(Error::Io(error)) if error.kind() == std::io::ErrorKind::WouldBlock => panic!("nothing comes"),
                Err(_gone) => return Err(None),
            }
        }
    }

    /// Receives the next message, which must be this one.
    #[track_caller]
    pub fn expect(&mut self, text: &str) {
        assert_eq!(self.message().as_deref(), Ok(text));
    }

    /// Sends a message that must be answered with this one.
    #[track_caller]
    pub fn asks(&mut self, text: &str, answer: &str) {
        self.send(text);
        assert_eq!(self.message().as_deref(), Ok(answer), "the answer to {text:?}");
    }

    /// Receives messages until the broker closes the connection; returns them with the code and the reason.
    #[must_use]
    pub fn closed(&mut self) -> (Vec<String>, Option<(u16, String)>) {
        let mut messages = Vec::new();
        loop {
            match self.message() {
                Ok(message) => messages.push(message),
                Err(frame) => return (messages, frame.map(|frame| (frame.code.into(), frame.reason.to_string()))),
            }
        }
    }

    /// The wire format of a masked frame: `first` is its first byte, and the mask is zero.
    #[must_use]
    pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![first];
        match u16::try_from(payload.len()) {
            Ok(length @ 0..126) => frame.push(0x80 | u8::try_from(length).unwrap()),
            Ok(length) => {
                frame.push(0x80 | 126);
                frame.extend(length.to_be_bytes());
            }
            Err(_) => {
                frame.push(0x80 | 127);
                frame.extend((payload.len() as u64).to_be_bytes());
            }
        }
        frame.extend([0; 4]);
        frame.extend(payload);
        frame
    }
}
