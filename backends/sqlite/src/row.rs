//! Conversion of numbers, and the checksums of rows.

use broker_core::event::{EventKey, Millis, Payload, Priority, Seq};
use broker_core::name::TopicName;
use broker_core::storage::StoredEvent;

/// An integer for SQLite, whose integers are signed. A larger number can only be the end of time, or a sequence that is never
/// reached, so it becomes the largest integer.
pub(crate) fn integer(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A sequence.
pub(crate) fn seq(integer: i64) -> Seq {
    Seq(integer.unsigned_abs())
}

/// A time; the largest integer is the end of time.
pub(crate) fn millis(integer: i64) -> Millis {
    Millis(if integer == i64::MAX { u64::MAX } else { integer.unsigned_abs() })
}

/// The columns of an event.
#[derive(Debug, Clone, Copy)]
pub(crate) struct EventRow<'r> {
    pub(crate) topic_id: i64,
    pub(crate) seq: i64,
    pub(crate) priority: i64,
    pub(crate) published_at: i64,
    pub(crate) expires_at: Option<i64>,
    pub(crate) due_at: Option<i64>,
    pub(crate) insert_at: i64,
    pub(crate) payload: &'r str,
}

impl<'r> EventRow<'r> {
    /// The row of an event. `None` if the payload is not text.
    pub(crate) fn of(topic_id: i64, event: &'r StoredEvent) -> Option<Self> {
        Some(Self {
            topic_id,
            seq: integer(event.key.seq.0),
            priority: i64::from(event.key.priority.0),
            published_at: integer(event.published_at.0),
            expires_at: event.expires_at.map(|at| integer(at.0)),
            due_at: event.due_at.map(|at| integer(at.0)),
            insert_at: i64::from(event.payload.insert_at()),
            payload: std::str::from_utf8(event.payload.bytes()).ok()?,
        })
    }

    pub(crate) fn crc(&self) -> i64 {
        let mut crc = Crc::new("events");
        for number in [self.topic_id, self.seq, self.priority, self.published_at, self.insert_at] {
            crc.integer(number);
        }
        crc.optional(self.expires_at);
        crc.optional(self.due_at);
        crc.text(self.payload);
        crc.finish()
    }

    /// The event in the row. `topic` is the name for the row's topic number.
    pub(crate) fn event(&self, topic: &TopicName) -> Option<StoredEvent> {
        Some(StoredEvent {
            topic: topic.clone(),
            key: EventKey { priority: Priority(i32::try_from(self.priority).ok()?), seq: seq(self.seq) },
            published_at: millis(self.published_at),
            expires_at: self.expires_at.map(millis),
            due_at: self.due_at.map(millis),
            payload: Payload::from_parts(self.payload.as_bytes(), u32::try_from(self.insert_at).ok()?)?,
        })
    }
}

/// The checksum of a topic's row.
pub(crate) fn topic_crc(topic_id: i64, name: &str, last_seq: i64) -> i64 {
    let mut crc = Crc::new("topics");
    crc.integer(topic_id);
    crc.text(name);
    crc.integer(last_seq);
    crc.finish()
}

/// The checksum of a subscription's row.
pub(crate) fn subscription_crc(subscription_id: i64, topic_id: i64, name: &str, since: i64) -> i64 {
    let mut crc = Crc::new("subscriptions");
    crc.integer(subscription_id);
    crc.integer(topic_id);
    crc.text(name);
    crc.integer(since);
    crc.finish()
}

/// The checksum of a row of `settled`.
pub(crate) fn settled_crc(topic_id: i64, seq: i64, subscription_id: i64) -> i64 {
    let mut crc = Crc::new("settled");
    [topic_id, seq, subscription_id].into_iter().for_each(|number| crc.integer(number));
    crc.finish()
}

/// The columns of a row of `requeued`: the redelivery of an event to a subscription.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RedeliveryRow {
    pub(crate) topic_id: i64,
    pub(crate) seq: i64,
    pub(crate) subscription_id: i64,
    pub(crate) deliveries: i64,
    pub(crate) due_at: Option<i64>,
    pub(crate) grace_ms: i64,
}

impl RedeliveryRow {
    pub(crate) fn crc(&self) -> i64 {
        let mut crc = Crc::new("requeued");
        for number in [self.topic_id, self.seq, self.subscription_id, self.deliveries] {
            crc.integer(number);
        }
        crc.optional(self.due_at);
        crc.integer(self.grace_ms);
        crc.finish()
    }
}

/// The checksum of a cursor's row.
pub(crate) fn cursor_crc(source: &str, value: &str) -> i64 {
    let mut crc = Crc::new("cursors");
    crc.text(source);
    crc.text(value);
    crc.finish()
}

/// A CRC-32 over the table's name and the columns of a row. The length of each text precedes it, so that columns stay distinct.
struct Crc(crc32fast::Hasher);

impl Crc {
    fn new(table: &str) -> Self {
        let mut crc = Self(crc32fast::Hasher::new());
        crc.text(table);
        crc
    }

    fn integer(&mut self, number: i64) {
        self.0.update(&number.to_le_bytes());
    }

    fn optional(&mut self, number: Option<i64>) {
        self.0.update(&[u8::from(number.is_some())]);
        number.into_iter().for_each(|number| self.integer(number));
    }

    fn text(&mut self, text: &str) {
        self.integer(text.len() as i64);
        self.0.update(text.as_bytes());
    }

    fn finish(self) -> i64 {
        i64::from(self.0.finalize())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_sequences_are_what_they_were() {
        for number in [0, 1, 1 << 53, i64::MAX as u64 - 1, u64::MAX] {
            assert_eq!(millis(integer(number)), Millis(number));
        }
        assert_eq!(seq(integer(1 << 62)), Seq(1 << 62));
    }

    #[test]
    fn a_changed_column_changes_the_checksum() {
        let payload = Payload::encode("t", Priority(1), "1", "id");
        let event = StoredEvent {
            topic: TopicName::new("t").unwrap(),
            key: EventKey { priority: Priority(1), seq: Seq(2) },
            published_at: Millis(3),
            expires_at: None,
            due_at: Some(Millis(4)),
            payload,
        };
        let row = EventRow::of(5, &event).unwrap();
        assert_eq!(row.event(&event.topic), Some(event.clone()));
        let changed = [
            EventRow { topic_id: 6, ..row },
            EventRow { seq: 3, ..row },
            EventRow { priority: 0, ..row },
            EventRow { published_at: 4, ..row },
            EventRow { expires_at: Some(4), due_at: None, ..row },
            EventRow { due_at: None, ..row },
            EventRow { insert_at: 0, ..row },
            EventRow { payload: "{}", ..row },
        ];
        let mut crcs: Vec<_> = changed.iter().chain([&row]).map(EventRow::crc).collect();
        crcs.sort_unstable();
        crcs.dedup();
        assert_eq!(crcs.len(), changed.len() + 1);
        assert_ne!(settled_crc(1, 2, 3), settled_crc(1, 3, 2));
        let redelivery =
            RedeliveryRow { topic_id: 1, seq: 2, subscription_id: 3, deliveries: 4, due_at: None, grace_ms: 0 };
        assert_ne!(redelivery.crc(), RedeliveryRow { due_at: Some(0), ..redelivery }.crc());
        assert_ne!(redelivery.crc(), RedeliveryRow { grace_ms: 1, ..redelivery }.crc());
        assert_ne!(cursor_crc("a", "bc"), cursor_crc("ab", "c"));
        assert_ne!(topic_crc(1, "a", 2), topic_crc(1, "a", 3));
        assert_ne!(subscription_crc(1, 2, "a", 3), subscription_crc(1, 2, "a", 4));
    }
}
