//! Puts a broker under load and says what it did: throughput, latency, the server's CPU and memory. What is counted is verified
//! first: every event exactly once in each subscription, in order.
//!
//! | to find | look in |
//! | --- | --- |
//! | the events that are published, and how they are known again | [`event`] |
//! | what a server and its protocol look like from here | [`target`] |
//! | Herald as such a server | [`herald`] |
//! | a server's process: its start, end, CPU, memory | [`process`] |
//! | the loop that publishes and consumes | [`driver`], over [`connection`] |
//! | exactly once, and in order | [`verify`] |
//! | the five workloads | [`workload`] |
//! | what connections cost that do nothing | [`idle`] |
//! | how cost grows with topics, publishers, sizes, backlogs | [`growth`] |
//! | their results, as JSON and as a chart | [`report`], [`plot`] |
//!
//! # What others may rely on
//!
//! - One thread, one loop over raw sockets, whatever the protocol: on a small machine the load must not cost more than the server,
//!   and every server is loaded by the same code.
//! - A number is reported only with the durability at which it was reached, and with whether what it counts was verified.
//! - Latency under a fixed rate runs from the moment at which an event was to be sent, not from when it was.

pub mod connection;
pub mod driver;
pub mod event;
pub mod growth;
pub mod herald;
pub mod idle;
pub mod plot;
pub mod process;
pub mod report;
pub mod target;
pub mod verify;
pub mod workload;

use std::io;

/// Why a run came to nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file, a socket or a process failed.
    #[error("{what}")]
    Io {
        /// What was being done.
        what: String,
        /// What came of it.
        #[source]
        source: io::Error,
    },
    /// The server did not start.
    #[error("{server} did not start: {reason}")]
    Start {
        /// Its name.
        server: String,
        /// What it said, or how it ended.
        reason: String,
    },
    /// The server said what nobody expected.
    #[error("unexpected answer: {0}")]
    Protocol(String),
    /// Nothing moved for a long time.
    #[error(
        "nothing has happened for {seconds} s: {confirmed} of {published} events confirmed, {delivered} of {expected} delivered"
    )]
    Stalled {
        /// How long nothing has happened.
        seconds: u64,
        /// Events sent.
        published: u64,
        /// Of them confirmed.
        confirmed: u64,
        /// Deliveries received.
        delivered: u64,
        /// Deliveries to come in all.
        expected: u64,
    },
    /// Somebody wanted it to end.
    #[error("interrupted")]
    Interrupted,
    /// The options do not fit together.
    #[error("{0}")]
    Options(String),
}

impl Error {
    /// An I/O error and what it happened to.
    pub fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { what: what.into(), source }
    }

    /// A line that was not expected, cut.
    #[must_use]
    pub fn unexpected(line: &[u8]) -> Self {
        Self::Protocol(String::from_utf8_lossy(&line[..line.len().min(200)]).trim_end().to_owned())
    }
}
