//! Recovery: replays names, then events in order, then settlements and redeliveries, then cursors, one row at a time.
//!
//! Recovery reads every table completely, so it finds every unreadable page now rather than during operation. Checksums of rows
//! do not reveal a row that its page no longer lists. So SQLite checks its structure first, which takes about a third of the
//! time.

use std::collections::{BTreeMap, HashMap};

use backend_embedded::{Subscription, Topic, Topics};
use broker_core::event::{EventKey, Priority, Seq};
use broker_core::name::{SubscriptionName, TopicName};
use broker_core::settings::OnDamage;
use broker_core::storage::{Mutation, Place, Recovery, RecoveryReport, Redelivery, StorageError, StorageErrorKind};
use rusqlite::{Connection, Row};

use crate::error::SqliteError;
use crate::row::RedeliveryRow;
use crate::storage::SqliteDatabase;
use crate::{connection, directory, reads, row, wal};

/// The most settlements in one mutation.
const PAGE: usize = 1024;

/// The distance that a topic's sequence skips ahead if its row is damaged: more than can have been used since the latest stored
/// event.
pub(crate) const LEAP: u64 = 1 << 40;

/// The most reports of damaged structure: one flipped bit can cause several.
const MOST_REPORTED: usize = 10;

/// Opens the database and replays its contents.
pub(crate) fn recover(
    shared: &SqliteDatabase,
    recovery: &mut dyn Recovery,
) -> Result<(RecoveryReport, Topics<i64>, Connection), StorageError> {
    let path = directory::database(&shared.config.path);
    let reserve = shared.state.reserve();
    let mut replay = Replay {
        shared,
        recovery,
        report: RecoveryReport::default(),
        known: Topics::default(),
        topics: HashMap::new(),
        subscriptions: HashMap::new(),
    };
    replay.log()?;
    let writing = || connection::writing(&path, &shared.config, reserve.bytes()).map_err(StorageError::from);
    let connection = writing().or_else(|error| match error.kind() {
        // An exhausted quota only shows when SQLite writes.
        StorageErrorKind::Full => {
            reserve.give_back();
            writing()
        }
        _ => Err(error),
    })?;
    durable_files::sync_dir(&durable_files::SystemFiles, &shared.config.path)?;
    replay.structure(&connection)?;
    replay.topics(&connection)?;
    replay.subscriptions(&connection)?;
    replay.events(&connection)?;
    replay.settled(&connection)?;
    replay.requeued(&connection)?;
    replay.cursors(&connection)?;
    replay.report.bytes = std::fs::metadata(&path).map_or(0, |metadata| metadata.len());
    let Replay { report, known, .. } = replay;
    Ok((report, known, connection))
}

struct Replay<'r> {
    shared: &'r SqliteDatabase,
    recovery: &'r mut dyn Recovery,
    report: RecoveryReport,
    /// By name, for the writing thread.
    known: Topics<i64>,
    topics: HashMap<i64, TopicName>,
    subscriptions: HashMap<i64, SubscriptionName>,
}

/// Settlements or redeliveries that become one mutation for each topic and subscription.
type Page<T> = BTreeMap<(i64, i64), Vec<T>>;

impl Replay<'_> {
    fn trouble(&self, source: rusqlite::Error) -> StorageError {
        let path = &self.shared.readers.path;
        match source {
            // The queries are constants, so only a damaged schema makes SQLite reject them.
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
        self.go_on(place, what)
    }

    /// Goes on after damage, or not, as `storage.on_damage` says.
    fn go_on(&self, place: String, what: &str) -> Result<(), StorageError> {
        match self.shared.config.on_damage {
            OnDamage::Serve => Ok(()),
            OnDamage::Stop => {
                let (path, what) = (self.shared.readers.path.clone(), what.to_owned());
                Err(SqliteError::Damaged { path, place, what }.into())
            }
        }
    }

    /// Calls `take` with each row of a query.
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
                // One column of this row is damaged; the other rows are intact.
                Err(Taken::Row(error)) if reads::is_bad_value(&error) => {
                    self.damage(format!("a row of {table}"), &error.to_string())?;
                }
                Err(Taken::Row(source)) => return Err(self.trouble(source)),
                Err(Taken::Refused(error)) => return Err(error),
            }
        }
        Ok(())
    }

    /// Puts SQLite's log right, before SQLite drops what is behind its first damage.
    fn log(&mut self) -> Result<(), StorageError> {
        let dir = &self.shared.config.path;
        let Some(log) = wal::look(dir, self.shared.config.durability)? else { return Ok(()) };
        if log.incomplete() > 0 {
            tracing::warn!(
                path = %log.path().display(),
                transactions = log.incomplete(),
                "the log ends with transactions that are not complete, as after a power cut: they are left out"
            );
        }
        if !log.is_damaged() {
            return Ok(());
        }
        for wal::Damage { byte, what, .. } in log.damages() {
            self.report.damaged += 1;
            let place = format!("byte {byte} of the log");
            self.shared.state.mended(&place, &what);
            self.go_on(place, &what)?;
        }
        let kept = log.mend(dir).or_else(|error| {
            // The new log needs as much space as the old one has.
            self.shared.state.reserve().give_back();
            log.mend(dir).map_err(|_| error)
        })?;
        tracing::error!(kept = %kept.display(), "the log was damaged and is put right: it is kept as it was");
        Ok(())
    }

    /// Checks SQLite's structure, that is, its pages and their lists of rows.
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

    /// Replays topics. A damaged row is still used where the worst outcome is a repeated delivery.
    fn topics(&mut self, connection: &Connection) -> Result<(), StorageError> {
        let query = "select topic_id, name, last_seq, crc,
            (select max(seq) from events e where e.topic_id = topics.topic_id) from topics order by topic_id";
        self.each(connection, "topics", query, |replay, row| {
            let (id, text, last_seq, crc): (i64, String, i64, i64) =
                (row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?);
            // A failure here is damage to an event's row, not to this one.
            let latest = row.get::<_, Option<i64>>(4).ok().flatten().map_or(0, i64::unsigned_abs);
            let sound = crc == row::topic_crc(id, &text, last_seq);
            if !sound {
                replay.damage(format!("topic {text}"), "its checksum does not match")?;
            }
            let Ok(name) = TopicName::new(&text) else {
                replay.damage(format!("topic number {id}"), "its name is invalid")?;
                return Ok(());
            };
            let stored = if sound { last_seq.unsigned_abs() } else { 0 };
            replay.known.insert(name.clone(), Topic::new(id, stored));
            replay.known.used(&name, if sound { latest } else { latest.saturating_add(LEAP) });
            let last_seq = replay.known.get(&name).map_or(0, |topic| topic.last_seq);
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
                replay.damage(format!("subscription {text}"), "its name is invalid, or its topic is lost")?;
                return Ok(());
            };
            // Delivering everything again is better than skipping an event.
            let since = if sound { since.unsigned_abs() } else { 0 };
            if let Some(topic) = replay.known.get_mut(&topic) {
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
            // A damaged page may list a row twice, or in the wrong place.
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

    /// Replays settlements. A damaged one is skipped, so its event is delivered again rather than lost.
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
        let mut page: Page<Redelivery> = Page::new();
        let mut gathered = 0;
        self.each(connection, "requeued", query, |replay, row| {
            let (topic_id, seq, subscription_id): (i64, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
            let (deliveries, due_at, grace_ms): (i64, Option<i64>, i64) = (row.get(3)?, row.get(4)?, row.get(5)?);
            let columns = RedeliveryRow { topic_id, seq, subscription_id, deliveries, due_at, grace_ms };
            if row.get::<_, i64>(6)? != columns.crc() {
                replay.damage(
                    format!("the count of event {seq} of topic number {topic_id}"),
                    "its checksum does not match",
                )?;
                return Ok(());
            }
            let deliveries = u32::try_from(deliveries).unwrap_or(u32::MAX);
            let event = Redelivery {
                key: key(row.get(7)?, seq),
                deliveries,
                due_at: due_at.map(row::millis),
                grace_ms: row::millis(grace_ms).0,
            };
            page.entry((topic_id, subscription_id)).or_default().push(event);
            gathered += 1;
            if gathered % PAGE == 0 {
                replay.hand_back_redeliveries(&mut page)?;
            }
            Ok(())
        })?;
        self.hand_back_redeliveries(&mut page)
    }

    fn hand_back_redeliveries(&mut self, page: &mut Page<Redelivery>) -> Result<(), StorageError> {
        for (of, events) in std::mem::take(page) {
            if let Some((topic, subscription)) = self.named(of) {
                self.hand_back(Mutation::Redeliver { topic, subscription, events })?;
            }
        }
        Ok(())
    }

    /// The names for a row's numbers. `None` for a row of a removed subscription, which stays until its event is released.
    fn named(&self, (topic, subscription): (i64, i64)) -> Option<(TopicName, SubscriptionName)> {
        Some((self.topics.get(&topic)?.clone(), self.subscriptions.get(&subscription)?.clone()))
    }

    /// Replays cursors. A damaged one is skipped, so its source starts where it is configured to, and may publish events again.
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
    // A priority out of range belongs to a damaged event, which was not replayed.
    EventKey { priority: Priority(i32::try_from(priority).unwrap_or_default()), seq: row::seq(seq) }
}

/// The reason why a row was not replayed.
enum Taken {
    /// SQLite cannot read the row.
    Row(rusqlite::Error),
    /// The engine, or `storage.on_damage = "stop"`, ends the recovery.
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
