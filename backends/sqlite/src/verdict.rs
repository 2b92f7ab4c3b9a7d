//! Whether a row is what was written, whatever its bytes have become; and what a repair makes of one that is not.

use std::collections::HashMap;

use broker_core::name::{SubscriptionName, TopicName};
use rusqlite::types::{Value, ValueRef};
use rusqlite::{Connection, Row};

use crate::recovery::LEAP;
use crate::row::{self, EventRow};

/// A table, with its columns; the first `key` of these are its key.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) name: &'static str,
    pub(crate) columns: &'static [&'static str],
    pub(crate) key: usize,
}

/// In the order in which they are to be read: what is judged by what comes before it.
pub(crate) const TABLES: [Table; 6] = [
    Table { name: "topics", columns: &["topic_id", "name", "last_seq", "crc"], key: 1 },
    Table { name: "subscriptions", columns: &["subscription_id", "topic_id", "name", "since", "crc"], key: 1 },
    Table {
        name: "events",
        columns: &[
            "topic_id",
            "seq",
            "priority",
            "published_at",
            "expires_at",
            "due_at",
            "insert_at",
            "payload",
            "crc",
        ],
        key: 2,
    },
    Table { name: "settled", columns: &["topic_id", "seq", "subscription_id", "crc"], key: 3 },
    Table {
        name: "requeued",
        columns: &["topic_id", "seq", "subscription_id", "deliveries", "due_at", "grace_ms", "crc"],
        key: 3,
    },
    Table { name: "cursors", columns: &["source", "value", "crc"], key: 1 },
];

/// The columns of a row; text that is not UTF-8 comes as a blob, which no table has.
pub(crate) fn values(table: &Table, row: &Row<'_>) -> rusqlite::Result<Vec<Value>> {
    let value = |at| {
        Ok(match row.get_ref(at)? {
            ValueRef::Text(bytes) => match std::str::from_utf8(bytes) {
                Ok(text) => Value::Text(text.to_owned()),
                Err(_) => Value::Blob(bytes.to_vec()),
            },
            ValueRef::Blob(bytes) => Value::Blob(bytes.to_vec()),
            ValueRef::Null => Value::Null,
            ValueRef::Integer(number) => Value::Integer(number),
            ValueRef::Real(number) => Value::Real(number),
        })
    };
    (0..table.columns.len()).map(value).collect()
}

/// What is to become of a row.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Verdict {
    /// It is what was written.
    Good,
    /// It is not, and goes.
    Out(&'static str),
    /// It is not, and what can be used of it stays: the same columns, put right.
    Mended(&'static str, Vec<Value>),
}

/// Judges rows, in the order of [`TABLES`].
#[derive(Debug, Default)]
pub(crate) struct Judge {
    topics: HashMap<i64, TopicName>,
    /// Each name's number: a row that is read twice is not there twice.
    names: HashMap<String, i64>,
    subscriptions: HashMap<(i64, String), i64>,
}

const TYPES: &str = "its columns are of other types than were written";
const CHECKSUM: &str = "its checksum does not match";

impl Judge {
    /// A row for people.
    pub(crate) fn describe(&self, table: &Table, row: &[Value]) -> String {
        use Value::{Integer, Text};
        let topic = |id: &i64| match self.topics.get(id) {
            Some(name) => format!("topic {name}"),
            None => format!("topic number {id}"),
        };
        match (table.name, row) {
            ("topics", [Integer(id), Text(name), ..]) => format!("topic {name} (number {id})"),
            ("subscriptions", [Integer(id), Integer(of), Text(name), ..]) => {
                format!("subscription {name} (number {id}) of {}", topic(of))
            }
            ("events", [Integer(of), Integer(seq), ..]) => format!("event {seq} of {}", topic(of)),
            ("settled", [Integer(of), Integer(seq), Integer(by), ..]) => {
                format!("the settlement of event {seq} of {} by subscription number {by}", topic(of))
            }
            ("requeued", [Integer(of), Integer(seq), Integer(by), ..]) => {
                format!("the delivery count of event {seq} of {} for subscription number {by}", topic(of))
            }
            ("cursors", [Text(source), ..]) => format!("the cursor of source {source}"),
            (name, row) => format!("a row of {name} with the key {:?}", &row[..table.key.min(row.len())]),
        }
    }

    /// Judges a row of a table. `connection`: for what depends on other rows.
    pub(crate) fn judge(&mut self, connection: &Connection, table: &Table, values: &[Value]) -> Verdict {
        use Value::{Integer, Text};
        match (table.name, values) {
            ("topics", [Integer(id), Text(name), Integer(last_seq), Integer(crc)]) => {
                self.topic(connection, *id, name, *last_seq, *crc)
            }
            ("subscriptions", [Integer(id), Integer(of), Text(name), Integer(since), Integer(crc)]) => {
                self.subscription(*id, *of, name, *since, *crc)
            }
            ("events", _) => self.event(values),
            ("settled", [Integer(of), Integer(seq), Integer(by), Integer(crc)]) => {
                if *crc == row::settled_crc(*of, *seq, *by) { Verdict::Good } else { Verdict::Out(CHECKSUM) }
            }
            (
                "requeued",
                [Integer(of), Integer(seq), Integer(by), Integer(deliveries), due, Integer(grace), Integer(crc)],
            ) => {
                let due = match due {
                    Value::Null => None,
                    Integer(due) => Some(*due),
                    _ => return Verdict::Out(TYPES),
                };
                let good = *crc == row::requeued_crc(*of, *seq, *by, *deliveries, due, *grace);
                if good { Verdict::Good } else { Verdict::Out(CHECKSUM) }
            }
            ("cursors", [Text(source), Text(value), Integer(crc)]) => {
                if *crc == row::cursor_crc(source, value) {
                    Verdict::Good
                } else {
                    Verdict::Out(CHECKSUM)
                }
            }
            _ => Verdict::Out(TYPES),
        }
    }

    fn topic(&mut self, connection: &Connection, id: i64, text: &str, last_seq: i64, crc: i64) -> Verdict {
        let Ok(name) = TopicName::new(text) else { return Verdict::Out("its name is none") };
        if *self.names.entry(text.to_owned()).or_insert(id) != id {
            return Verdict::Out("its name is there twice");
        }
        self.topics.insert(id, name);
        if crc == row::topic_crc(id, text, last_seq) {
            return Verdict::Good;
        }
        // As recovery does: its sequences go on further than they can have been used.
        let latest = connection
            .query_row("select max(seq) from events where topic_id = ?1", [id], |row| row.get::<_, Option<i64>>(0));
        let last_seq = latest.ok().flatten().unwrap_or_default().max(0).saturating_add(LEAP.cast_signed());
        let crc = row::topic_crc(id, text, last_seq);
        let mended =
            vec![Value::Integer(id), Value::Text(text.to_owned()), Value::Integer(last_seq), Value::Integer(crc)];
        Verdict::Mended(CHECKSUM, mended)
    }

    fn subscription(&mut self, id: i64, of: i64, text: &str, since: i64, crc: i64) -> Verdict {
        if !self.topics.contains_key(&of) {
            return Verdict::Out("its topic is lost");
        }
        if SubscriptionName::new(text).is_err() {
            return Verdict::Out("its name is none");
        }
        if *self.subscriptions.entry((of, text.to_owned())).or_insert(id) != id {
            return Verdict::Out("its name is there twice");
        }
        if crc == row::subscription_crc(id, of, text, since) {
            return Verdict::Good;
        }
        // As recovery does: better all that is there once more than one event too few.
        let crc = row::subscription_crc(id, of, text, 0);
        let [id, of, since, crc] = [id, of, 0, crc].map(Value::Integer);
        Verdict::Mended(CHECKSUM, vec![id, of, Value::Text(text.to_owned()), since, crc])
    }

    fn event(&self, values: &[Value]) -> Verdict {
        let Some((event, crc)) = EventRow::of_values(values) else { return Verdict::Out(TYPES) };
        let Some(topic) = self.topics.get(&event.topic_id) else { return Verdict::Out("its topic is lost") };
        match event.crc() == crc {
            false => Verdict::Out(CHECKSUM),
            true if event.event(topic).is_none() => Verdict::Out("it is not an event"),
            true => Verdict::Good,
        }
    }
}

/// Whether a row of a table has the checksum that it should have, whatever else there is.
pub(crate) fn checksum(table: &Table, values: &[Value]) -> bool {
    use Value::{Integer, Text};
    match (table.name, values) {
        ("topics", [Integer(id), Text(name), Integer(last_seq), Integer(crc)]) => {
            *crc == row::topic_crc(*id, name, *last_seq)
        }
        ("subscriptions", [Integer(id), Integer(of), Text(name), Integer(since), Integer(crc)]) => {
            *crc == row::subscription_crc(*id, *of, name, *since)
        }
        ("events", _) => EventRow::of_values(values).is_some_and(|(event, crc)| event.crc() == crc),
        ("settled", [Integer(of), Integer(seq), Integer(by), Integer(crc)]) => *crc == row::settled_crc(*of, *seq, *by),
        (
            "requeued",
            [Integer(of), Integer(seq), Integer(by), Integer(deliveries), due, Integer(grace), Integer(crc)],
        ) => {
            let due = match due {
                Integer(due) => Some(*due),
                _ => None,
            };
            *crc == row::requeued_crc(*of, *seq, *by, *deliveries, due, *grace)
        }
        ("cursors", [Text(source), Text(value), Integer(crc)]) => *crc == row::cursor_crc(source, value),
        _ => false,
    }
}

impl<'r> EventRow<'r> {
    /// The event in the columns of a row, with its checksum; `None`: they are of other types.
    fn of_values(values: &'r [Value]) -> Option<(Self, i64)> {
        use Value::{Integer, Null, Text};
        let optional = |value: &Value| match value {
            Null => Some(None),
            Integer(number) => Some(Some(*number)),
            _ => None,
        };
        let [
            Integer(topic_id),
            Integer(seq),
            Integer(priority),
            Integer(published_at),
            expires_at,
            due_at,
            Integer(insert_at),
            Text(payload),
            Integer(crc),
        ] = values
        else {
            return None;
        };
        let event = Self {
            topic_id: *topic_id,
            seq: *seq,
            priority: *priority,
            published_at: *published_at,
            expires_at: optional(expires_at)?,
            due_at: optional(due_at)?,
            insert_at: *insert_at,
            payload,
        };
        Some((event, *crc))
    }
}

/// What losing a row of a table means.
pub(crate) fn loss(table: &Table, verdict: &Verdict) -> &'static str {
    match (table.name, verdict) {
        ("topics", Verdict::Mended(..)) => "nothing: its sequences go on 2^40 further, so that none is used twice",
        ("topics", _) => "the topic, with its subscriptions and events",
        ("subscriptions", Verdict::Mended(..)) => {
            "nothing: it begins with the oldest event that is there, so something may be delivered again"
        }
        ("subscriptions", _) => "the subscription, and its hold on events",
        ("events", _) => "this event, for all who wait for it",
        ("settled", _) => "that the subscription is done with the event: it is delivered again",
        ("requeued", _) => "how often the event was delivered, and its delay: it is delivered as if for the first time",
        _ => "how far the source was read: it begins where it is configured to, and may repeat itself",
    }
}
