//! The HTTP upgrade request, and which pages may connect.

use std::io::{Read as _, Write as _};
use std::time::{Duration, Instant};

use herald_tests::{PATIENCE, WebSocketClient, http, socket};

use crate::broker;

const UPGRADE: &str = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

#[test]
fn a_wrong_request_is_answered_with_the_reason() {
    let (_broker, addr) = broker("");
    let get = |head: &str| http(addr, &format!("{head}\r\n\r\n"));
    let answer = get("GET /ws HTTP/1.1\r\nHost: h");
    assert!(answer.starts_with("HTTP/1.1 426 Upgrade Required\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n\r\nthis is a WebSocket: connect to it with ws:// or wss://\n"), "{answer}");
    let answer = get("GET / HTTP/1.1\r\nHost: h");
    assert!(answer.ends_with("\r\n\r\nthere is nothing here: the WebSocket is at /ws\n"), "{answer}");
    let answer = get("sub t");
    assert!(answer.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{answer}");
    let answer = get(&format!("GET /ws HTTP/1.1\r\nCookie: {}", "x".repeat(9000)));
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    let answer = get(&format!("GET /ws?v=1 HTTP/1.1\r\nHost: h\r\n{}", UPGRADE.trim_end()));
    assert!(answer.starts_with("HTTP/1.1 101 Switching Protocols\r\n"), "{answer}");
    assert!(!answer.to_lowercase().contains("extensions"), "no compression: {answer}");
}

#[test]
fn a_page_of_another_host_is_refused_unless_it_is_listed() {
    let (_broker, addr) = broker("allowed_origins = [\"https://app.example\"]\n");
    let connect = |origin| WebSocketClient::connect_as(addr, origin).map(drop);
    assert_eq!(connect(None), Ok(()));
    assert_eq!(connect(Some("http://127.0.0.1:3000")), Ok(()));
    assert_eq!(connect(Some("https://app.example")), Ok(()));
    for origin in ["https://evil.example", "null", "http://127.0.0.1.evil.example", "http://app.example"] {
        let error = connect(Some(origin)).unwrap_err();
        assert!(error.contains("403"), "{origin}: {error}");
    }
}

#[test]
fn the_path_is_the_configured_one() {
    let (_broker, addr) = broker("path = \"/herald/socket\"\n");
    let request = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: h\r\n{UPGRADE}\r\n");
    assert!(http(addr, &request("/ws")).starts_with("HTTP/1.1 404 Not Found\r\n"));
    assert!(http(addr, &request("/herald/socket")).starts_with("HTTP/1.1 101 "));
}

#[test]
fn a_request_in_single_bytes_is_accepted_and_an_unfinished_one_times_out() {
    let (_broker, addr) = broker("handshake_timeout_ms = 1500\n");
    let mut stream = socket(addr);
    for byte in format!("GET /ws HTTP/1.1\r\nHost: h\r\n{UPGRADE}\r\n").bytes() {
        stream.write_all(&[byte]).unwrap();
    }
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 101");

    let mut slow = socket(addr);
    let began = Instant::now();
    slow.write_all(b"GET /ws HTTP/1.1\r\n").unwrap();
    let mut nothing = Vec::new();
    let _reset_or_end = slow.read_to_end(&mut nothing);
    assert!(nothing.is_empty());
    assert!((Duration::from_millis(1400)..PATIENCE).contains(&began.elapsed()), "{:?}", began.elapsed());
}
