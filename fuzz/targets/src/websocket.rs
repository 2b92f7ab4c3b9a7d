//! A WebSocket from the first byte of its request: the real transport, on a socket of this machine.
//!
//! `h` and then the bytes of a request, and of what follows it. Or anything else, and then messages after a good request: bytes
//! up to a [`MARK`] are sent as they are, the byte behind one says what those behind it are, see [`frame`].

mod answer;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use broker_core::local::{EngineSettings, LocalEngine};
use broker_core::session::SessionSettings;
use broker_core::transport::{Broker, Transport as _};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use transport_ws::{ListenConfig, WsConfig, WsTransport};

use crate::MARK;
use crate::session::storage::InMemory;

/// The longest line.
const MAX_LINE: usize = 300;

/// Turns of the scheduler without a byte after which the server has said all that it has to say for now.
const QUIET_TURNS: usize = 100;

/// How long anything may take: a hang is the only failure that this finds.
const PATIENCE: Duration = Duration::from_secs(60);

const REQUEST: &[u8] = b"GET /ws HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// Runs one input.
pub fn run(data: &[u8]) {
    let Some((form, rest)) = data.split_first() else { return };
    // Whoever sends frames of his own making may have any code sent back to him.
    let (sent, own_close) = if *form == b'h' { (rest.to_vec(), true) } else { conversation(rest) };
    // The sockets are looked at each time, not only when there is nothing else to do.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().event_interval(1).build();
    let runtime = runtime.expect("there is a thread");
    let received = runtime.block_on(async { tokio::time::timeout(PATIENCE, exchange(&sent)).await });
    let received = received.expect("the server ends the connection").expect("the sockets of this machine work");
    answer::check(&received, own_close);
}

/// The bytes that a client sends, and whether it closes the connection itself.
fn conversation(data: &[u8]) -> (Vec<u8>, bool) {
    let mut pieces = data.split(|byte| *byte == MARK);
    let mut sent = REQUEST.to_vec();
    let raw = pieces.next().unwrap_or_default();
    sent.extend_from_slice(raw);
    let mut own_close = !raw.is_empty();
    for piece in pieces {
        let Some((kind, payload)) = piece.split_first() else { continue };
        own_close |= matches!(kind, b'x' | b'r');
        frame(*kind, payload, &mut sent);
    }
    (sent, own_close)
}

/// Appends a frame: `t` is text and `T` its first part, `c` and `C` go on with it, `b` is binary, `p` a ping, `o` a pong, `x` closes,
/// `u` has no mask, `v` a reserved bit; `r` is no frame but bytes.
fn frame(kind: u8, payload: &[u8], sent: &mut Vec<u8>) {
    const FIN: u8 = 0x80;
    let first = match kind {
        b't' | b'u' => FIN | 1,
        b'T' => 1,
        b'c' => FIN,
        b'C' => 0,
        b'b' => FIN | 2,
        b'p' => FIN | 9,
        b'o' => FIN | 10,
        b'x' => FIN | 8,
        b'v' => FIN | 0x41,
        _ => return sent.extend_from_slice(payload),
    };
    sent.push(first);
    let mask = if kind == b'u' { 0 } else { 0x80 };
    match payload.len() {
        len @ 0..126 => sent.push(mask | len as u8),
        len => {
            let len = u16::try_from(len).unwrap_or(u16::MAX);
            sent.push(mask | 126);
            sent.extend_from_slice(&len.to_be_bytes());
        }
    }
    if mask != 0 {
        // Masked with nothing, so that an input can be read.
        sent.extend_from_slice(&[0; 4]);
    }
    sent.extend_from_slice(payload);
}

/// Sends all of it, and returns what came back until the server ended the connection.
async fn exchange(sent: &[u8]) -> io::Result<Vec<u8>> {
    let mut config = WsConfig { ping_interval: None, ..WsConfig::default() };
    config.listen = ListenConfig::new(SocketAddr::from((address(), 0)).to_string());
    let transport = WsTransport::bind(config).await.map_err(io::Error::other)?;
    let mut client = TcpStream::connect(transport.local_addr()).await?;
    let settings = EngineSettings { max_topics: 20, max_subscriptions: 20, ..EngineSettings::default() };
    let engine = LocalEngine::open(Arc::new(InMemory::new((0, 0))), settings).await;
    let (engine, _) = engine.expect("there is nothing to recover");
    let session = SessionSettings { max_line_bytes: MAX_LINE, ..SessionSettings::default() };
    let broker = Broker { engine: Arc::new(engine), session: Arc::new(session) };
    let shutdown = CancellationToken::new();
    let server = tokio::spawn(Box::new(transport).serve(broker, shutdown.clone()));

    let mut received = Vec::new();
    let (mut left, mut quiet) = (sent, 0);
    while quiet < QUIET_TURNS {
        quiet += 1;
        if !left.is_empty() {
            match client.try_write(left) {
                Ok(written) => (left, quiet) = (&left[written..], 0),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // The server has ended the connection: it need not listen to the rest.
                Err(_) => left = &[],
            }
        }
        if read(&client, &mut received)? == Some(false) {
            quiet = 0;
        }
        tokio::task::yield_now().await;
    }
    let _it_may_be_gone = client.shutdown().await;
    while read(&client, &mut received)? != Some(true) {
        client.readable().await?;
    }
    shutdown.cancel();
    server.await.expect("the server does not panic").map_err(io::Error::other)?;
    Ok(received)
}

/// Reads what is there: `None` if nothing is, else whether it was the end.
fn read(client: &TcpStream, received: &mut Vec<u8>) -> io::Result<Option<bool>> {
    let mut buffer = [0; 4096];
    match client.try_read(&mut buffer) {
        Ok(0) => Ok(Some(true)),
        Ok(read) => {
            received.extend_from_slice(&buffer[..read]);
            Ok(Some(false))
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(Some(true)),
        Err(error) => Err(error),
    }
}

/// Another address of this machine each time: of one, the ports would be used up by connections that have just ended.
fn address() -> Ipv4Addr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // Several processes may run at once; they begin somewhere else.
    let number = NEXT.fetch_add(1, Ordering::Relaxed).wrapping_add(std::process::id().wrapping_mul(0x0001_0003));
    let [_, a, b, c] = number.to_be_bytes();
    Ipv4Addr::new(127, a, b, c.clamp(1, 254))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conversation_is_answered_to_its_end() {
        let (sent, own_close) = conversation(b"\x10Tsub a\x10p\x10c x\npub a {\"id\":\"1\"}\x10tquit");
        assert!(!own_close);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().event_interval(1).build().unwrap();
        let received = runtime.block_on(exchange(&sent)).unwrap();
        let text = String::from_utf8_lossy(&received);
        for part in ["HTTP/1.1 101", "successfully subscribed to topic a", r#""msg":null,"id":"1"}"#, "bye"] {
            assert!(text.contains(part), "{text}");
        }
        answer::check(&received, false);
    }
}
