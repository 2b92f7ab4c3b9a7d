//! Herald's line protocol over TCP.
//!
//! [`TcpTransport`] accepts ([`listener`](self), with the limit on connections); each connection is one task that moves bytes
//! between its socket and a session (`connection`). What the bytes mean is the session's business, in `broker-core`.

mod config;
mod connection;
mod listener;

pub use config::TcpConfig;
pub use listener::TcpTransport;
