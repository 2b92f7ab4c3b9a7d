//! Our own client for Server-Sent Events, by the rules of the WHATWG HTML standard (section "Server-sent events").
//!
//! It reads one URL for ever: it reconnects with `Last-Event-ID` after every interruption, waits as long as the server
//! asks and longer where the server keeps failing, and stops only where trying again cannot help. It refuses to read
//! ahead: the socket is read when the caller asks for an item, so a slow consumer slows the server down.
//!
//! # The modules, in the order an event travels
//!
//! - [`SseConfig`] says what to read and how patiently, and is checked by [`SseClient::new`];
//! - [`SseClient`] is the state machine: connecting, open, waiting, stopped ([`SseState`]);
//! - `response` judges what a server answered, `backoff` says how long to wait, `resume` which id to come back with,
//!   `deadline` when a silence has lasted too long;
//! - [`SseSource`] publishes what a client reads, by a [`Mapping`](crate::mapping::Mapping);
//! - [`Parser`] turns bytes into [`SseItem`]s; it is pure and does not know of any of the above.
//!
//! # What others may rely on
//!
//! - [`SseClient::next`] and [`SseClient::next_batch`] can be dropped at any await and lose nothing.
//! - Memory is bounded by [`ParserLimits`], whatever the server sends.
//! - Neither a URL's credentials or query nor a configured header's value gets into a log, a state or a `Debug`.

mod backoff;
mod client;
mod config;
mod deadline;
mod event;
mod parser;
mod response;
mod resume;
mod selection;
mod source;
mod state;

pub use client::SseClient;
pub use config::{ParserLimits, SseConfig, SseConfigError};
pub use event::{Oversize, Oversized, SseEvent, SseItem};
pub use parser::Parser;
pub use selection::Selection;
pub use source::SseSource;
pub use state::{SseState, Stopped, WaitReason};
