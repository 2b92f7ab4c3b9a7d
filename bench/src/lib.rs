//! Puts a broker under load and reports throughput, latency, and the server's CPU time and memory. Every count is verified
//! first: each event arrives exactly once in each subscription, in order.
//!
//! | to find | look in |
//! | --- | --- |
//! | the published events and how they are recognized | [`event`] |
//! | the interface to a server and its protocol | [`target`] |
//! | Herald as such a server | [`herald`] |
//! | a server's process: its start, end, CPU, memory | [`process`] |
//! | the loop that publishes and consumes | [`driver`], over [`connection`] |
//! | exactly once, and in order | [`verify`] |
//! | the five workloads | [`workload`] |
//! | the cost of idle connections | [`idle`] |
//! | the growth of cost with topics, publishers, sizes, backlogs | [`growth`] |
//! | their results, as JSON and as a chart | [`report`], [`plot`] |
//!
//! # Guarantees
//!
//! - One thread, one loop over raw sockets, whatever the protocol: on a small machine the load must not cost more than the server,
//!   and every server is loaded by the same code.
//! - A number is reported only together with the durability it was measured at and the result of its verification.
//! - Latency at a fixed rate counts from the scheduled send time of an event, not from the actual one.

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

/// The reason a run failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file, a socket or a process failed.
    #[error("{what}")]
    Io {
        /// The operation that failed.
        what: String,
        /// The underlying error.
        #[source]
        source: io::Error,
    },
    /// The server did not start.
    #[error("{server} did not start: {reason}")]
    Start {
        /// Its name.
        server: String,
        /// Its output, or its exit status.
        reason: String,
    },
    /// The server sent an unexpected answer.
    #[error("unexpected answer: {0}")]
    Protocol(String),
    /// The load made no progress for too long.
    #[error(
        "nothing has happened for {seconds} s: {confirmed} of {published} events confirmed, {delivered} of {expected} delivered"
    )]
    Stalled {
        /// The time since the last progress.
        seconds: u64,
        /// Events sent.
        published: u64,
        /// Events confirmed.
        confirmed: u64,
        /// Deliveries received.
        delivered: u64,
        /// Deliveries expected in total.
        expected: u64,
    },
    /// The run was cancelled.
    #[error("interrupted")]
    Interrupted,
    /// The options are inconsistent.
    #[error("{0}")]
    Options(String),
}

impl Error {
    /// Wraps an I/O error with the operation that failed.
    pub fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { what: what.into(), source }
    }

    /// An unexpected line, truncated.
    #[must_use]
    pub fn unexpected(line: &[u8]) -> Self {
        Self::Protocol(String::from_utf8_lossy(&line[..line.len().min(200)]).trim_end().to_owned())
    }
}
