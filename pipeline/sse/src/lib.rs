//! A client for Server-Sent Events by the WHATWG HTML standard (section "Server-sent events"), and a source on top of it.
//!
//! The client reads one URL indefinitely. It reconnects with `Last-Event-ID` after every interruption, waits as long as the server
//! asks and longer while the server keeps failing, and stops only where a retry cannot help. It never reads ahead: the socket
//! is read when the caller asks for an item, so a slow consumer slows the server down.
//!
//! # Modules, in the order in which an event passes through them
//!
//! | module | responsibility |
//! | --- | --- |
//! | [`SseConfig`] | the URL, its limits and timeouts; checked by [`SseClient::new`] |
//! | [`SseClient`] | the state machine: connecting, open, waiting, stopped ([`SseState`]) |
//! | `http`, `tls` | set up the HTTP client: headers, proxy, certificates |
//! | `response` | decides the reaction to a response |
//! | `backoff`, `deadline` | the wait before the next connection; the limit on silence |
//! | `resume` | the id to resume after |
//! | [`Parser`] | turns bytes into [`SseItem`]s; pure, and independent of everything above |
//! | `ids`, `cursor` | derives the ids of events; the position that the broker stores |
//! | [`SseSource`] | publishes the events of a client, by a [`Mapping`](pipeline_source::mapping::Mapping) |
//!
//! # Guarantees
//!
//! - [`SseClient::next`] and [`SseClient::next_batch`] can be dropped at any await and lose nothing.
//! - [`ParserLimits`] bounds the memory, whatever the server sends.
//! - A URL's credentials and query, and the values of configured headers, never appear in a log, a state or a `Debug`.

mod backoff;
mod client;
mod config;
mod cursor;
mod deadline;
mod event;
mod http;
mod ids;
mod parser;
mod plugin;
mod response;
mod resume;
mod selection;
mod source;
mod state;
mod tls;

pub use client::SseClient;
pub use config::{OnClientError, ParserLimits, ProxyChoice, SseConfig, SseConfigError, TlsFiles};
pub use event::{Oversize, Oversized, SseEvent, SseItem};
pub use parser::Parser;
pub use plugin::PLUGIN;
pub use selection::Selection;
pub use source::SseSource;
pub use state::{SseState, Stopped, WaitReason};
