//! The WebSocket transport against a real client, and against malicious clients.

#![allow(clippy::unwrap_used, reason = "a step that fails must fail the test")]

mod closing;
mod hostile;
mod messages;
mod requests;

use std::net::SocketAddr;

use herald_tests::{TestBroker, WebSocketClient};

/// A broker with TCP and WebSocket; `more` is appended to `[transports.ws]`.
fn broker(more: &str) -> (TestBroker, SocketAddr) {
    let broker = TestBroker::start(&format!("[transports.tcp]\n[transports.ws]\nlisten = \"127.0.0.1:0\"\n{more}"));
    let addr = broker.addr_of("ws");
    (broker, addr)
}

fn client(more: &str) -> (TestBroker, WebSocketClient) {
    let (broker, addr) = broker(more);
    (broker, WebSocketClient::connect(addr))
}
