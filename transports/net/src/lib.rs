//! The common part of Herald's listeners, whatever protocol their clients speak.
//!
//! A transport says how a stream of bytes becomes lines and back ([`Protocol`], [`Wire`]); everything else is here, once.
//!
//! | to find | look in |
//! | --- | --- |
//! | binding, the accept loop, the limit on connections | [`Listener`] |
//! | one client: its session, its engine link, its time-outs | `connection` |
//! | when tokens are checked | `gate` |
//! | the part that a transport adds: lines on a stream | [`Protocol`], [`Wire`], [`Lines`] |
//! | a socket, in the clear or within TLS | [`Stream`] |
//! | the certificate, and its reload | [`Tls`] |
//!
//! This is a library and no plugin: transports depend on it, and it knows none of them.
//!
//! # What one client can cost
//!
//! Besides its session (see `broker-core`: at most one line, and some MiB of what is unanswered) a connection has no queue here.
//! A handshake has a time limit, and so has each step of writing. Connections beyond the limit are told so, at most 64 at a time.

mod config;
mod connection;
mod ended;
mod gate;
mod lines;
mod listener;
mod stream;
#[cfg(feature = "tls")]
mod tls;
#[cfg(not(feature = "tls"))]
#[path = "no_tls.rs"]
mod tls;
mod wire;

pub use config::{ListenConfig, TlsFiles, listener_keys};
pub use ended::Ended;
pub use lines::Lines;
pub use listener::Listener;
pub use stream::{Stream, linger};
pub use tls::{Tls, TlsError};
pub use wire::{OpenError, Protocol, Wire};
