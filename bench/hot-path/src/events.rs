//! The events: as in `herald bench`, JSON documents of 256 bytes with priorities from 0 to 6.

use broker_core::event::{EventKey, Millis, NewEvent, Payload, Priority, Seq};
use broker_core::name::{IdKey, TopicName};
use broker_core::storage::StoredEvent;
use bytes::BytesMut;

/// The topic's name.
pub(crate) const TOPIC: &str = "bench";

const EVENT_BYTES: usize = 256;

pub(crate) fn topic() -> TopicName {
    TopicName::new(TOPIC).expect("a good name")
}

/// The id of the event `n`.
pub(crate) fn id(n: usize) -> String {
    format!("{n:08}")
}

/// The priority of event `n`, pseudo-random.
pub(crate) fn priority(n: usize) -> Priority {
    let spread = (n as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33;
    Priority((spread % 7) as i32)
}

/// A message that brings the whole document to [`EVENT_BYTES`].
pub(crate) fn msg() -> String {
    let frame = Payload::encode(TOPIC, Priority(0), "\"\"", &id(0)).len();
    format!("\"{}\"", "x".repeat(EVENT_BYTES - frame))
}

/// The lines that publish these events.
pub(crate) fn publish_lines(events: impl Iterator<Item = usize>) -> BytesMut {
    let msg = msg();
    let line = |n| format!("pub {TOPIC} {{\"id\":\"{}\",\"priority\":{},\"msg\":{msg}}}\r\n", id(n), priority(n).0);
    BytesMut::from(events.map(line).collect::<String>().as_str())
}

/// One `ack` line for each event.
pub(crate) fn ack_lines(ids: impl Iterator<Item = String>) -> BytesMut {
    BytesMut::from(ids.map(|id| format!("ack {TOPIC} {id}\r\n")).collect::<String>().as_str())
}

/// The event `n`, as a session creates it.
pub(crate) fn event(n: usize, msg: &str) -> NewEvent {
    let (id, priority) = (id(n), priority(n));
    let payload = Payload::encode(TOPIC, priority, msg, &id);
    NewEvent { id: IdKey::of(&id), priority, ttl_ms: 0, delay_ms: 0, payload }
}

/// The position of the event `n` in its topic.
pub(crate) fn key(n: usize) -> EventKey {
    EventKey { priority: priority(n), seq: Seq(n as u64 + 1) }
}

/// The event `n`, as a topic stores it.
pub(crate) fn stored(n: usize, topic: &TopicName, msg: &str) -> StoredEvent {
    let payload = event(n, msg).payload;
    StoredEvent { topic: topic.clone(), key: key(n), published_at: NOW, expires_at: None, due_at: None, payload }
}

/// The fixed time passed wherever the broker needs one.
pub(crate) const NOW: Millis = Millis(1_700_000_000_000);
