//! Events whose content is determined by their ids, and the subscriptions that receive them.

/// A durable subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Queue {
    pub(crate) topic: &'static str,
    pub(crate) name: &'static str,
}

/// The topic under load.
pub(crate) const TOPIC: &str = "t";
/// The topic whose large events make the storages clean up.
pub(crate) const BULK: &str = "bulk";

/// A subscription shared by several connections.
pub(crate) const SHARED: Queue = Queue { topic: TOPIC, name: "shared" };
/// A subscription with a single consumer.
pub(crate) const SINGLE: Queue = Queue { topic: TOPIC, name: "single" };
/// A subscription created in the middle of the campaign.
pub(crate) const LATE: Queue = Queue { topic: TOPIC, name: "late" };
/// A subscription created and removed between rounds.
pub(crate) const PASSING: Queue = Queue { topic: TOPIC, name: "passing" };
/// A subscription that accumulates large events and is sometimes drained.
pub(crate) const HOARD: Queue = Queue { topic: BULK, name: "hoard" };

/// A delivered event.
pub(crate) struct Event {
    pub(crate) id: String,
    pub(crate) priority: i32,
    pub(crate) redelivered: u64,
    pub(crate) line: String,
}

impl Event {
    /// Parses a line; `None` if it is not a delivery.
    pub(crate) fn parse(line: &str) -> Option<Self> {
        let json: serde_json::Value = serde_json::from_str(line).ok()?;
        let json = json.as_object()?;
        Some(Self {
            id: json.get("id")?.as_str()?.to_owned(),
            priority: json.get("priority")?.as_i64()?.try_into().ok()?,
            redelivered: json.get("redelivered").and_then(serde_json::Value::as_u64).unwrap_or(0),
            line: line.to_owned(),
        })
    }
}

/// The line in which the event with this id must be delivered.
pub(crate) fn delivery(topic: &str, id: &str, priority: i32, redelivered: u64) -> String {
    let times = if redelivered > 0 { format!(",\"redelivered\":{redelivered}") } else { String::new() };
    format!("{{\"topic\":\"{topic}\",\"priority\":{priority},\"msg\":{},\"id\":\"{id}\"{times}}}", message(topic, id))
}

/// The command that publishes it.
pub(crate) fn publication(topic: &str, id: &str, priority: i32, delay_ms: u64) -> String {
    let delay = if delay_ms > 0 { format!(",\"delay_ms\":{delay_ms}") } else { String::new() };
    format!("pub {topic} {{\"id\":\"{id}\",\"priority\":{priority},\"msg\":{}{delay}}}\n", message(topic, id))
}

/// The message of the event with this id, so that a reader can verify it. Its length varies from a few bytes to several KiB, more than
/// a page of any storage; bulk messages have several hundred KiB.
fn message(topic: &str, id: &str) -> String {
    let number = id.bytes().fold(7_usize, |number, byte| number.wrapping_mul(31).wrapping_add(byte.into()));
    if topic == BULK {
        return format!("\"{id} {}\"", "bulk ".repeat(50_000 + number % 50_000));
    }
    let text = format!("{id} \\u00e9 é ☃ ").repeat(1 + number % 150);
    format!("{{ \"of\" : \"{text}\", \"number\":{number}.0e0}}")
}
