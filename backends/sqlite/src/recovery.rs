//! Handing everything back: names, then events in order, then what was done with them, then cursors; one row at a time.
//!
//! Every table is read from one end to the other, so damage in a page that cannot be read shows here and not later. What the rows'
//! checksums cannot show is a row that is not found any more, because the page's list of its rows is damaged: for that
//! SQLite checks its structure first, which takes about a third of the time.

use std::collections::{BTreeMap, HashMap};

use backend_embedded::OnDamage;
use broker_core::event::{EventKey, Priority, Seq};
use broker_core::name::{SubscriptionName, TopicName};
use broker_core::storage::{Mutation, Place, Recovery, RecoveryReport, Requeued, StorageError};
use rusqlite::{Connection, Row};

use crate::error::SqliteError;
use crate::names::{Names, Subscription, Topic};
use crate::shared::Shared;
use crate::{connection, directory, reads, row};

/// Settlements handed back together.
const PAGE: usize = 1024;

/// How far a topic's sequence goes ahead if its row does not check: further than it can have been used since the latest event
/// that is left.
pub(crate) const LEAP: u64 = 1 << 40;

/// Reports of damaged structure; one bit can cause several.
const MOST_REPORTED: usize = 10;

/// Opens the database and hands back what is in it.
pub(crate) fn recover(
    shared: &Shared,
    recovery: &mut dyn Recovery,
) -> Result<(RecoveryReport, Names, Connection), StorageError> {
    let path = directory::database(&shared.config.path);
    let connection = connection::writing(&path, &shared.config)?;
    backend_embedded::sync_dir(&shared.config.path)?;
    let mut replay = Replay {
        shared,
        recovery,
        report: RecoveryReport::default(),
        names: Names::default(),
        topics: HashMap::new(),
        subscriptions: HashMap::new(),
    };
    replay.structure(&connection)?;
    replay.topics(&connection)?;
    replay.subscriptions(&connection)?;
    replay.events(&connection)?;
    replay.settled(&connection)?;
    replay.requeued(&connection)?;
    replay.cursors(&connection)?;
    replay.report.bytes = std::fs::metadata(&path).map_or(0, |metadata| metadata.len());
    let Replay { report, names, .. } = replay;
    Ok((report, names, connection))
}

struct Replay<'r> {
    shared: &'r Shared,
    recovery: &'r mut dyn Recovery,
    report: RecoveryReport,
    names: Names,
    topics: HashMap<i64, TopicName>,
    subscriptions: HashMap<i64, SubscriptionName>,
}

/// What is gathered for a page: by topic and subscription.
type Page<T> = BTreeMap<(i64, i64), Vec<T>>;

impl Replay<'_> {
    fn trouble(&self, source: rusqlite::Error) -> StorageError {
        let path = &self.shared.readers.path;
        match source {
            // What is asked for is fixed, so it is the description of the tables that is not as it was written.
            rusqlite::Error::SqlInputError { .. } => SqliteError::Corrupt { path: path.clone(), source }.into(),
            _ => SqliteError::sqlite("read", path, source).into(),
        }
    }

    fn hand_back(&mut self, mutation: Mutation) -> Result<(), StorageError> {
        self.report.records += 1;
        self.recovery.replay(mutation, Place::default())
    }

    fn damage(&mut self, place: String, what: &str) -> Result<(), StorageError> {
        self.report.damaged += 1;
        self.shared.state.damage(&place, what);
        match self.shared.config.on_damage {
            OnDamage::Serve => Ok(()),
            OnDamage::Stop => {
                let (path, what) = (self.shared.readers.path.clone(), what.to_owned());
                Err(SqliteError::Damaged { path, place, what }.into())
            }
        }
    }

    /// Does something with each row of a query.
    fn each(
        &mut self,
        connection: &Connection,
        table: &str,
        query: &str,
        mut take: impl FnMut(&mut Self, &Row<'_>) -> Result<(), Taken>,
    ) -> Result<(), StorageError> {
        let mut statement = connection.prepare(query).map_err(|source| self.trouble(source))?;
        let mut rows = statement.query(()).map_err(|source| self.trouble(source))?;
        while let Some(row) = rows.next().map_err(|source| self.trouble(source))? {
            match take(self, row) {
                Ok(()) => {}
                // Its page says that there is something else where this column is; the other rows are none the worse for it.
                Err(Taken::Row(error)) if reads::is_bad_value(&error) => {
                    self.damage(format!("a row of {table}"), &error.to_string())?;
                }
                Err(Taken::Row(source)) => return Err(self.trouble(source)),
                Err(Taken::Refused(error)) => return Err(error),
            }
        }
        Ok(())
    }

    /// Reports what is wrong with pages and their lists of rows.
    fn structure(&mut self, connection: &Connection) -> Result<(), StorageError> {
        let query = format!("pragma quick_check({MOST_REPORTED})");
        self.each(connection, "the check", &query, |replay, row| {
            let found: String = row.get(0)?;
            if found != "ok" {
                replay.damage("its structure".to_owned(), &found)?;
            }
            Ok(())
        })
    }

    /// A row that does not check is taken as it stands where that can only cost a delivery too many.
    fn topics(&mut self, connection: &Connection) -> Result<(), StorageError> {
        let query = "select topic_id, name, last_seq, crc,
            (select max(seq) from events e where e.topic_id = topics.topic_id) from topics order by topic_id";
        self.each(connection, "topics", query, |replay, row| {
            let (id, text, last_seq, crc): (i64, String, i64, i64) =
                (row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?);
            // If it is none, an event's row is damaged, and not this one.
            let latest = row.get::<_, Option<i64>>(4).ok().flatten().map_or(0, i64::unsigned_abs);
            let sound = crc == row::topic_crc(id, &text, last_seq);
            if !sound {
                replay.damage(format!("topic {text}"), "its checksum does not match")?;
            }
            let Ok(name) = TopicName::new(&text) else {
                replay.damage(format!("topic number {id}"), "its name is none")?;
                return Ok(());
            };
            let stored = if sound { last_seq.unsigned_abs() } else { 0 };
            replay.names.topics.insert(name.clone(), Topic { id, last_seq: stored, ..Topic::default() });
            replay.names.used(&name, if sound { latest } else { latest.saturating_add(LEAP) });
            let last_seq = replay.names.topics.get(&name).map_or(0, |topic| topic.last_seq);
            replay.topics.insert(id, name.clone());
            replay.hand_back(Mutation::Topic { topic: name, last_seq: Seq(last_seq) })?;
            Ok(())
        })
    }

    fn subscriptions(&mut self, connection: &Connection) -> Result<(), StorageError> {
        let query = "select subscription_id, topic_id, name, since, crc from subscriptions order by subscription_id";
        self.each(connection, "subscriptions", query, |replay, row| {
            let (id, topic_id): (i64, i64) = (row.get(0)?, row.get(1)?);
            let (text, since, crc): (String, i64, i64) = (row.get(2)?, row.get(3)?, row.get(4)?);
            let sound = crc == row::subscription_crc(id, topic_id, &text, since);
            if !sound {
                replay.damage(format!("subscription {text}"), "its checksum does not match")?;
            }
            let topic = replay.topics.get(&topic_id).cloned();
            let (Ok(subscription), Some(topic)) = (SubscriptionName::new(&text), topic) else {
                replay.damage(format!("subscription {text}"), "its name or its topic is none")?;
                return Ok(());
            };
            // Better all that is there once more than one event too few.
            let since = if sound { since.unsigned_abs() } else { 0 };
            if let Some(topic) = replay.names.topics.get_mut(&topic) {
                topic.subscriptions.insert(subscription.clone(), Subscription { id, since });
            }
            replay.subscriptions.insert(id, subscription.clone());
            replay.hand_back(Mutation::Subscribe { topic, subscription, since: Seq(since) })?;
            Ok(())
        })
    }

    fn events(&mut self, connection: &Connection) -> Result<(), StorageError> {
        let query = format!("select {} from events order by topic_id, seq", reads::COLUMNS);
        let mut last = (i64::MIN, i64::MIN);
        self.each(connection, "events", &query, |replay, row| {
            let (topic_id, seq): (i64, i64) = (row.get(0)?, row.get(1)?);
            // A page that is damaged may list a row twice, or where it does not belong.
            if (topic_id, seq) <= last {
                replay.damage(format!("event {seq} of topic number {topic_id}"), "it is listed out of order")?;
                return Ok(());
            }
            last = (topic_id, seq);
            let Some(topic) = replay.topics.get(&topic_id) else {
                replay.damage(format!("event {seq} of topic number {topic_id}"), "its topic is lost")?;
                return Ok(());
            };
            match reads::event(row, topic)? {
                Ok(event) => replay.hand_back(Mutation::Publish(event))?,
                Err(what) => replay.damage(reads::describe(topic.as_str(), seq.unsigned_abs()), what)?,
            }
            Ok(())
        })
    }

    /// A settlement that does not check is left out: then the event is delivered again rather than skipped.
    fn settled(&mut self, connection: &Connection) -> Result<(), StorageError> {
        let query = "select topic_id, seq, subscription_id, x.crc, priority
            from settled x join events using (topic_id, seq) order by topic_id, seq";
        let mut page: Page<EventKey> = Page::new();
        let mut gathered = 0;
        self.each(connection, "settled", query, |replay, row| {
            let (topic_id, seq, subscription_id): (i64, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
            if row.get::<_, i64>(3)? != row::settled_crc(topic_id, seq, subscription_id) {
                replay.damage(
                    format!("a settlement of event {seq} of topic number {topic_id}"),
                    "its checksum does not match",
                )?;
                return Ok(());
            }
            page.entry((topic_id, subscription_id)).or_default().push(key(row.get(4)?, seq));
            gathered += 1;
            if gathered % PAGE == 0 {
                replay.hand_back_settled(&mut page)?;
            }
            Ok(())
        })?;
        self.hand_back_settled(&mut page)
    }

    fn hand_back_settled(&mut self, page: &mut Page<EventKey>) -> Result<(), StorageError> {
        for (of, events) in std::mem::take(page) {
            if let Some((topic, subscription)) = self.named(of) {
                self.hand_back(Mutation::Settle { topic, subscription, events })?;
            }
        }
        Ok(())
    }

    fn requeued(&mut self, connection: &Connection) -> Result<(), StorageError> {
        let query = "select topic_id, seq, subscription_id, deliveries, x.due_at, x.grace_ms, x.crc, priority
            from requeued x join events using (topic_id, seq) order by topic_id, seq";
        let mut page: Page<Requeued> = Page::new();
        let mut gathered = 0;
        self.each(connection, "requeued", query, |replay, row| {
            let (topic_id, seq, subscription_id): (i64, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
            let (deliveries, due_at, grace): (i64, Option<i64>, i64) = (row.get(3)?, row.get(4)?, row.get(5)?);
            if row.get::<_, i64>(6)? != row::requeued_crc(topic_id, seq, subscription_id, deliveries, due_at, grace) {
                replay.damage(
                    format!("the count of event {seq} of topic number {topic_id}"),
                    "its checksum does not match",
                )?;
                return Ok(());
            }
            let deliveries = u32::try_from(deliveries).unwrap_or(u32::MAX);
            let event = Requeued {
                key: key(row.get(7)?, seq),
                deliveries,
                due_at: due_at.map(row::millis),
                grace_ms: row::millis(grace).0,
            };
            page.entry((topic_id, subscription_id)).or_default().push(event);
            gathered += 1;
            if gathered % PAGE == 0 {
                replay.hand_back_requeued(&mut page)?;
            }
            Ok(())
        })?;
        self.hand_back_requeued(&mut page)
    }

    fn hand_back_requeued(&mut self, page: &mut Page<Requeued>) -> Result<(), StorageError> {
        for (of, events) in std::mem::take(page) {
            if let Some((topic, subscription)) = self.named(of) {
                self.hand_back(Mutation::Requeue { topic, subscription, events })?;
            }
        }
        Ok(())
    }

    /// `None` for what a removed subscription has left: it goes with its events.
    fn named(&self, (topic, subscription): (i64, i64)) -> Option<(TopicName, SubscriptionName)> {
        Some((self.topics.get(&topic)?.clone(), self.subscriptions.get(&subscription)?.clone()))
    }

    /// A cursor that does not check is left out: its source begins where it is configured to, and may repeat itself.
    fn cursors(&mut self, connection: &Connection) -> Result<(), StorageError> {
        self.each(connection, "cursors", "select source, value, crc from cursors order by source", |replay, row| {
            let (source, value, crc): (String, String, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
            if crc == row::cursor_crc(&source, &value) {
                replay.hand_back(Mutation::Cursor { source, value })?;
            } else {
                replay.damage(format!("the cursor of source {source}"), "its checksum does not match")?;
            }
            Ok(())
        })
    }
}

fn key(priority: i64, seq: i64) -> EventKey {
    // One out of range is on an event that does not check and was not handed back.
    EventKey { priority: Priority(i32::try_from(priority).unwrap_or_default()), seq: row::seq(seq) }
}

/// Why a row was not taken.
enum Taken {
    /// SQLite cannot read it.
    Row(rusqlite::Error),
    /// Whoever it was handed back to, or the configuration, says to stop.
    Refused(StorageError),
}

impl From<rusqlite::Error> for Taken {
    fn from(error: rusqlite::Error) -> Self {
        Self::Row(error)
    }
}

impl From<StorageError> for Taken {
    fn from(error: StorageError) -> Self {
        Self::Refused(error)
    }
}
