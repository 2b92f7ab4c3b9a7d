//! Starts the real `herald` and talks to it over real sockets.
//!
//! [`TestBroker`] is a process with a directory of its own, which can be killed and started again; [`Telnet`] is a client that
//! sees every line as it comes. [`campaign`] loads and crashes one over and over and holds every event against its history; it is a
//! program as well, `crash-campaign`. Tests wait for conditions and never for the clock: [`PATIENCE`] only bounds how soon a failure
//! shows.

#![expect(clippy::unwrap_used, clippy::missing_panics_doc, reason = "what a test cannot go on without fails it")]

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

/// How long a test waits for what must happen.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A command that publishes an event with this id and priority.
#[must_use]
pub fn publish(topic: &str, id: &str, priority: i32) -> String {
    format!("pub {topic} {{\"id\":\"{id}\",\"priority\":{priority},\"msg\":\"m\"}}")
}

/// The line in which such an event is delivered.
#[must_use]
pub fn delivery(topic: &str, id: &str, priority: i32) -> String {
    format!("{{\"topic\":\"{topic}\",\"priority\":{priority},\"msg\":\"m\",\"id\":\"{id}\"}}")
}

/// The same, delivered before.
#[must_use]
pub fn redelivery(topic: &str, id: &str, priority: i32, times: u32) -> String {
    format!("{{\"topic\":\"{topic}\",\"priority\":{priority},\"msg\":\"m\",\"id\":\"{id}\",\"redelivered\":{times}}}")
}
