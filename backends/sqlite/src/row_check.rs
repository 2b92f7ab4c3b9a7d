//! Checks single rows for `herald fsck`: whether a row is as it was written, and how a repair treats one that is not.

use std::collections::HashMap;

use broker_core::name::{SubscriptionName, TopicName};
use rusqlite::types::{Value, ValueRef};
use rusqlite::{Connection, Row};

use crate::recovery::LEAP;
use crate::row::{self, EventRow, RedeliveryRow};

/// A table and its columns, of which the first `key` are its primary key.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) name: &'static str,
    pub(crate) columns: &'static [&'static str],
    pub(crate) key: usize,
}

/// The tables in the order of checking: the check of a row depends on the rows of earlier tables.
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

/// The columns of a row. Text that is not UTF-8 becomes a blob, a type that no table of this storage uses.
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

/// The result of checking a row.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Verdict {
    /// The row is as it was written.
    Good,
    /// The row is damaged, and a repair removes it.
    Out(&'static str),
    /// The row is damaged, and a repair replaces it with this corrected one.
    Mended(&'static str, Vec<Value>),
}

/// Checks rows, in the order of [`TABLES`].
#[derive(Debug, Default)]
pub(crate) struct RowChecker {
    topics: HashMap<i64, TopicName>,
    /// The number of each name. The same row may be read twice; two rows with one name are damage.
    names: HashMap<String, i64>,
    subscriptions: HashMap<(i64, String), i64>,
}

const TYPES: &str = "its columns have the wrong types";
const CHECKSUM: &str = "its checksum does not match";

impl RowChecker {
    /// Describes a row in a report.
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

    /// Checks a row of a table. `connection` reads the other rows that a check depends on.
    pub(crate) fn check(&mut self, connection: &Connection, table: &Table, values: &[Value]) -> Verdict {
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
            ("requeued", _) => match RedeliveryRow::of_values(values) {
                Some((redelivery, crc)) if redelivery.crc() == crc => Verdict::Good,
                Some(_) => Verdict::Out(CHECKSUM),
                None => Verdict::Out(TYPES),
            },
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
        let Ok(name) = TopicName::new(text) else { return Verdict::Out("its name is invalid") };
        if *self.names.entry(text.to_owned()).or_insert(id) != id {
            return Verdict::Out("its name exists twice");
        }
        self.topics.insert(id, name);
        if crc == row::topic_crc(id, text, last_seq) {
            return Verdict::Good;
        }
        // As in recovery, the topic skips ahead, beyond any sequence that can have been used.
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
            return Verdict::Out("its name is invalid");
        }
        if *self.subscriptions.entry((of, text.to_owned())).or_insert(id) != id {
            return Verdict::Out("its name exists twice");
        }
        if crc == row::subscription_crc(id, of, text, since) {
            return Verdict::Good;
        }
        // As in recovery, delivering everything again is better than skipping an event.
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

/// Whether a row's checksum matches, regardless of other rows.
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
        ("requeued", _) => RedeliveryRow::of_values(values).is_some_and(|(redelivery, crc)| redelivery.crc() == crc),
        ("cursors", [Text(source), Text(value), Integer(crc)]) => *crc == row::cursor_crc(source, value),
        _ => false,
    }
}

impl RedeliveryRow {
    /// The redelivery in the columns of a row, with its checksum; `None` if their types are wrong.
    fn of_values(values: &[Value]) -> Option<(Self, i64)> {
        use Value::Integer;
        let [
            Integer(topic_id),
            Integer(seq),
            Integer(subscription_id),
            Integer(deliveries),
            due,
            Integer(grace_ms),
            Integer(crc),
        ] = values
        else {
            return None;
        };
        let due_at = match due {
            Value::Null => None,
            Integer(due) => Some(*due),
            _ => return None,
        };
        let (topic_id, seq, subscription_id) = (*topic_id, *seq, *subscription_id);
        let (deliveries, grace_ms) = (*deliveries, *grace_ms);
        Some((Self { topic_id, seq, subscription_id, deliveries, due_at, grace_ms }, *crc))
    }
}

impl<'r> EventRow<'r> {
    /// The event in the columns of a row, with its checksum; `None` if their types are wrong.
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

/// Describes what is lost with a row.
pub(crate) fn loss(table: &Table, verdict: &Verdict) -> &'static str {
    match (table.name, verdict) {
        ("topics", Verdict::Mended(..)) => "nothing: its sequences skip ahead by 2^40, so that none is used twice",
        ("topics", _) => "the topic, with its subscriptions and events",
        ("subscriptions", Verdict::Mended(..)) => {
            "nothing: it starts at the oldest stored event, so events may be delivered again"
        }
        ("subscriptions", _) => "the subscription, and its hold on events",
        ("events", _) => "this event, for every subscription that holds it",
        ("settled", _) => "the event's settlement by the subscription: it is delivered again",
        ("requeued", _) => "the event's delivery count and delay: it is delivered as if for the first time",
        _ => "the source's position: it starts where it is configured to, and may publish events again",
    }
}
