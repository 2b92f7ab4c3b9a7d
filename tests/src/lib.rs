//! Starts the real `herald` and talks to it over real sockets.
//!
//! [`TestBroker`] is a process with a directory of its own, which can be killed and restarted. [`Telnet`] is a client that sees every
//! line as it arrives. [`campaign`] repeatedly loads and crashes a broker and checks every event against its history; the program
//! `crash-campaign` runs it as well. Tests wait for conditions and never for the clock: [`PATIENCE`] only bounds how long a failure
//! takes.

#![expect(clippy::unwrap_used, clippy::missing_panics_doc, reason = "a test fails if its harness fails")]

mod binary;
mod broker;
pub mod campaign;
mod certificate;
mod mongod;
mod number_feed;
pub mod power_cut;
mod publisher;
mod telnet;
mod web_socket;

use std::time::Duration;

pub use binary::herald;
pub use broker::{TestBroker, resident_kb};
pub use certificate::Authority;
pub use mongod::{Mongod, ReplicaSet};
pub use number_feed::NumberFeed;
pub use publisher::TestPublisher;
pub use telnet::{Telnet, id_of};
pub use web_socket::{WebSocketClient, http, socket};

/// How long a test waits for an expected condition.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A command that publishes an event with this id and priority.
#[must_use]
pub fn publish(topic: &str, id: &str, priority: i32) -> String {
    format!("pub {topic} {{\"id\":\"{id}\",\"priority\":{priority},\"msg\":\"m\"}}")
}

/// The line that delivers an event of [`publish`].
#[must_use]
pub fn delivery(topic: &str, id: &str, priority: i32) -> String {
    format!("{{\"topic\":\"{topic}\",\"priority\":{priority},\"msg\":\"m\",\"id\":\"{id}\"}}")
}

/// The line that delivers an event of [`publish`] again.
#[must_use]
pub fn redelivery(topic: &str, id: &str, priority: i32, times: u32) -> String {
    format!("{{\"topic\":\"{topic}\",\"priority\":{priority},\"msg\":\"m\",\"id\":\"{id}\",\"redelivered\":{times}}}")
}

/// Whether a line matches a document's, in which `…` stands for any text.
#[must_use]
pub fn is_as_written(line: &str, written: &str) -> bool {
    let mut parts = written.split('…');
    let Some(mut rest) = line.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}
