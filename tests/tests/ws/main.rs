//! The WebSocket transport against a real client, and against clients that mean no good.

#![allow(clippy::unwrap_used, reason = "what a test cannot go on without fails it")]

mod closing;
mod hostile;
mod messages;
mod requests;

use std::net::SocketAddr;

use herald_tests::{TestBroker, WebSocketClient};

/// A broker with TCP and WebSocket; `more` goes into `[transports.ws]` and what follows it.
fn broker(more: &str) -> (TestBroker, SocketAddr) {
    let broker = TestBroker::start(&format!("[transports.tcp]\n[transports.ws]\nlisten = \"127.0.0.1:0\"\n{more}"));
    let addr = broker.addr_of("ws");
    (broker, addr)
}

fn client(more: &str) -> (TestBroker, WebSocketClient) {
    let (broker, addr) = broker(more);
    (broker, WebSocketClient::connect(addr))
}
