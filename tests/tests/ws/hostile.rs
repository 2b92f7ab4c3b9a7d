//! Malicious clients, and what they cost the broker.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use herald_tests::{WebSocketClient, resident_kb};

use crate::broker;

/// Writes until the broker closes the connection, which happens long before `AT_MOST` bytes.
fn flood(mut stream: &TcpStream, piece: &[u8]) {
    const AT_MOST: usize = 1 << 30;
    let mut written = 0;
    loop {
        match stream.write(piece) {
            Ok(count) => written += count,
            Err(error) if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => return,
            Err(error) => panic!("{error}"),
        }
        assert!(written < AT_MOST, "the broker accepted {written} bytes");
    }
}

/// Floods a connection after sending `first`, and returns the close code and reason. On a busy machine a reset can overtake the code.
fn closed_after_flood(addr: SocketAddr, first: &[u8], piece: &[u8]) -> (u16, String) {
    for _ in 0..10 {
        let mut client = WebSocketClient::connect(addr);
        client.stream().write_all(first).unwrap();
        let stream = client.stream().try_clone().unwrap();
        let closed = std::thread::scope(|scope| {
            scope.spawn(|| flood(&stream, piece));
            client.closed().1
        });
        if let Some(closed) = closed {
            return closed;
        }
    }
    panic!("no close code arrived")
}

#[test]
fn a_message_in_a_million_fragments_ends_the_connection_and_costs_no_memory() {
    let (broker, addr) = broker("");
    let before = resident_kb(broker.pid());
    for fragment in [&b"x"[..], b""] {
        let first = WebSocketClient::frame(0x01, b"pub t ");
        let piece = WebSocketClient::frame(0x00, fragment).repeat(10_000);
        let closed = closed_after_flood(addr, &first, &piece);
        assert_eq!(closed, (1009, "message exceeds 1048578 bytes".to_owned()));
    }
    let grown = resident_kb(broker.pid()).saturating_sub(before);
    assert!(grown < 16 << 10, "{grown} KiB");
    WebSocketClient::connect(addr).asks("ping", "pong");
}

#[test]
fn a_flood_of_pings_ends_the_connection_and_costs_no_memory() {
    let (broker, addr) = broker("");
    let before = resident_kb(broker.pid());
    let piece = WebSocketClient::frame(0x89, &[b'p'; 125]).repeat(1000);
    assert_eq!(closed_after_flood(addr, b"", &piece), (1008, "too many pings".to_owned()));
    let grown = resident_kb(broker.pid()).saturating_sub(before);
    assert!(grown < 16 << 10, "{grown} KiB");
}

#[test]
fn a_client_that_never_reads_is_cut_off() {
    let (_broker, addr) = broker("write_timeout_ms = 300\n");
    let mut client = WebSocketClient::connect(addr);
    let piece = WebSocketClient::frame(0x81, "help\n".repeat(1000).as_bytes());
    flood(client.stream(), &piece);
}

#[test]
fn a_client_that_reads_slowly_but_steadily_is_not_cut_off() {
    let (_broker, addr) = broker("write_timeout_ms = 1500\n");
    let mut client = WebSocketClient::connect(addr);
    let mut stream = client.stream().try_clone().unwrap();
    let sending = std::thread::spawn(move || {
        for _ in 0..4 {
            stream.write_all(&WebSocketClient::frame(0x81, "help\n".repeat(1000).as_bytes())).unwrap();
        }
        stream.write_all(&WebSocketClient::frame(0x81, b"quit")).unwrap();
    });
    let (mut buffer, mut last, mut total) = (vec![0; 16 << 10], Vec::new(), 0);
    loop {
        let count = match client.stream().read(&mut buffer) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            count => count.unwrap(),
        };
        if count == 0 {
            break;
        }
        total += count;
        last.extend_from_slice(&buffer[..count]);
        last.drain(..last.len().saturating_sub(12));
        std::thread::sleep(Duration::from_millis(5));
    }
    sending.join().unwrap();
    // `bye`, and the close frame with 1000 and `bye`.
    assert_eq!(last, b"\x81\x03bye\x88\x05\x03\xe8bye", "cut off after {total} bytes");
}

#[test]
fn headers_that_announce_a_long_message_reserve_no_memory() {
    let (broker, addr) = broker("");
    let before = resident_kb(broker.pid());
    let clients: Vec<_> = (0..200)
        .map(|_| {
            let mut client = WebSocketClient::connect(addr);
            // Only the header of a frame of 1 MiB.
            client.stream().write_all(&[0x81, 0xff, 0, 0, 0, 0, 0, 0x10, 0, 0, 0, 0, 0, 0]).unwrap();
            client
        })
        .collect();
    WebSocketClient::connect(addr).asks("ping", "pong");
    let grown = resident_kb(broker.pid()).saturating_sub(before);
    assert!(grown < 32 << 10, "{grown} KiB for {} clients", clients.len());
}
