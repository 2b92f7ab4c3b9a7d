//! `pub`: which events it replaces, and what happens when there is no room.

use broker_core::policy::{DuplicateId, Overflow};
use serde_json::Value;

use super::{Checked, Held, Model, is_dead_letter_topic};
use crate::seen::{Expect, Seen};

/// Malformed events. The generator uses the same list.
pub(crate) const BAD_EVENTS: [&str; 12] = [
    "{",
    "[1]",
    "7",
    r#"{"id":"1"} x"#,
    r#"{"id":""}"#,
    r#"{"id":"a b"}"#,
    r#"{"id":1.5}"#,
    r#"{"id":"1","id":"1"}"#,
    r#"{"id":"1","priority":1.5}"#,
    r#"{"id":"1","priority":2147483648}"#,
    r#"{"id":"1","priority":"3"}"#,
    r#"{"id":"1","ttl_ms":-1}"#,
];

/// Whether a full subscription keeps the new event.
enum Room {
    /// Another event is dropped.
    Made,
    /// The new event is the least urgent, and is dropped.
    None,
}

impl Model {
    pub(super) fn publish(&mut self, connection: usize, name: &str, json: &str, seen: &mut Seen) -> Checked {
        if BAD_EVENTS.contains(&json) {
            return seen.reply(connection, &Expect::Begins("error: event is not of an accepted format: ".to_owned()));
        }
        let event: Value = serde_json::from_str(json).map_err(|error| format!("{json}: {error}"))?;
        let id = match &event["id"] {
            Value::Null => seen.assigned_id(connection),
            Value::String(id) => id.clone(),
            number => number.to_string(),
        };
        let number = |key: &str| event[key].as_u64().unwrap_or(0);
        let (ttl, delay) = (number("ttl_ms"), number("delay_ms"));
        let policy = self.policy(name);
        let ttl = [ttl, policy.ttl_ms].into_iter().filter(|ttl| *ttl > 0).min();
        let confirm = self.connections[connection].as_ref().is_some_and(|options| options.confirm);
        let confirmation = |word: &str, level: &str| Expect::line(format!("{word} {name} {id}{level}"));
        if is_dead_letter_topic(name) {
            self.keep_letters(name);
        }
        let now = self.now;
        let topic = self.topics.entry(name.to_owned()).or_default();

        let holds_it = topic.all().any(|subscription| subscription.events.iter().any(|held| held.id == id));
        if policy.duplicate_id == DuplicateId::Reject && holds_it {
            return seen.reply(connection, &Expect::line(format!("error: duplicate id {id}")));
        }
        let replaces = |held: &Held| policy.duplicate_id == DuplicateId::Replace && held.waits() && held.id == id;
        let priority = event["priority"].as_i64().unwrap_or(0);

        // The full subscriptions, and for each whether the new event is the one to drop.
        let mut rooms: Vec<(usize, Room)> = Vec::new();
        for (at, subscription) in topic.subscriptions.iter().enumerate() {
            let Some(subscription) = subscription else { continue };
            let unsettled = subscription.events.iter().filter(|held| !replaces(held)).count() as u64;
            if policy.max_waiting == 0 || unsettled < policy.max_waiting {
                continue;
            }
            if policy.overflow == Overflow::Reject {
                return seen.reply(connection, &Expect::Begins(format!("error: topic {name} is full: ")));
            }
            let waiting = subscription.events.iter().filter(|held| held.waits() && !replaces(held));
            let lowest = waiting.map(|held| held.priority).min();
            let room = if lowest.is_some_and(|lowest| lowest <= priority) { Room::Made } else { Room::None };
            rooms.push((at, room));
        }
        topic.published += 1;
        let is_dropped = policy.overflow == Overflow::DropLowest
            && !rooms.is_empty()
            && rooms.len() == topic.all().count()
            && rooms.iter().all(|(_, room)| matches!(room, Room::None));
        if is_dropped {
            topic.subscriptions.iter_mut().flatten().for_each(|subscription| subscription.counters.dropped += 1);
            return if confirm { seen.reply(connection, &confirmation("dropped", "")) } else { Ok(()) };
        }

        let mut replaced = false;
        topic.sequence += 1;
        let held = Held {
            sequence: topic.sequence,
            id: id.clone(),
            priority,
            msg: event["msg"].to_string(),
            published: now,
            expires: ttl.map(|ttl| now + ttl),
            // The current millisecond counts only once it is over, so the event is never early.
            due: if delay > 0 { now + delay + 1 } else { 0 },
            flown: 0,
            deliveries: 0,
            order: 0,
            flight: None,
            replaced: false,
            origin: None,
            dead: String::new(),
        };
        for subscription in topic.subscriptions.iter_mut().flatten() {
            let before = subscription.events.len();
            subscription.events.retain(|held| !replaces(held));
            replaced |= subscription.events.len() < before;
            if policy.duplicate_id == DuplicateId::Replace {
                subscription.events.iter_mut().filter(|held| held.id == id).for_each(|held| held.replaced = true);
            }
            subscription.events.push(held.clone());
        }
        for (at, room) in rooms {
            let events = &self.subscription(name, at).events;
            let goes = match room {
                Room::None => events.len() - 1,
                Room::Made => {
                    let waiting = events.iter().enumerate().filter(|(_, held)| held.waits());
                    let lowest = waiting.min_by_key(|(_, held)| (held.priority, held.sequence));
                    lowest.map(|(at, _)| at).ok_or("a full subscription makes room of what waits")?
                }
            };
            if policy.overflow == Overflow::DeadLetter {
                self.die(name, at, goes, "overflow", None);
            } else {
                let subscription = self.subscription(name, at);
                subscription.events.remove(goes);
                subscription.counters.dropped += 1;
            }
        }
        if confirm {
            seen.reply(connection, &confirmation(if replaced { "replaced" } else { "published" }, " synced"))?;
        }
        self.settle(seen)
    }
}
