//! Mutations as statements of one transaction, in their order: the later one stands.

use std::collections::HashSet;
use std::path::Path;

use broker_core::event::EventKey;
use broker_core::name::{SubscriptionName, TopicName};
use broker_core::storage::{Batch, Holder, Mutation, Requeued, StoredEvent};
use rusqlite::{Connection, Params, params};

use crate::error::SqliteError;
use crate::names::{Names, Subscription, Topic};
use crate::row::{self, EventRow, integer};

/// Writes the mutations of a group into an open transaction.
pub(crate) struct Changes<'w> {
    connection: &'w Connection,
    path: &'w Path,
    names: &'w mut Names,
    /// Events that the group releases: what it does with them before need not be written.
    released: HashSet<(i64, i64)>,
    /// Topics that are new in it, for those who read.
    pub(crate) new_topics: Vec<(TopicName, i64)>,
}

impl<'w> Changes<'w> {
    pub(crate) fn new(connection: &'w Connection, path: &'w Path, names: &'w mut Names) -> Self {
        Self { connection, path, names, released: HashSet::new(), new_topics: Vec::new() }
    }

    /// Writes all of `batches`.
    pub(crate) fn write<'b>(&mut self, batches: impl Iterator<Item = &'b Batch> + Clone) -> Result<(), SqliteError> {
        for mutation in batches.clone().flat_map(|batch| &batch.mutations) {
            if let Mutation::Release { topic, key, .. } = mutation
                && let Some(topic) = self.names.topics.get(topic)
            {
                self.released.insert((topic.id, integer(key.seq.0)));
            }
        }
        batches.flat_map(|batch| &batch.mutations).try_for_each(|mutation| self.add(mutation))?;
        for (name, topic_id, last_seq) in self.names.take_dirty() {
            let last_seq = integer(last_seq);
            let crc = row::topic_crc(topic_id, name.as_str(), last_seq);
            let statement = "update topics set last_seq = ?2, crc = ?3 where topic_id = ?1";
            self.execute(statement, params![topic_id, last_seq, crc])?;
        }
        Ok(())
    }

    fn execute(&self, statement: &str, params: impl Params) -> Result<usize, SqliteError> {
        let done = self.connection.prepare_cached(statement).and_then(|mut statement| statement.execute(params));
        done.map_err(|source| SqliteError::sqlite("write to", self.path, source))
    }

    fn add(&mut self, mutation: &Mutation) -> Result<(), SqliteError> {
        match mutation {
            Mutation::Topic { topic, last_seq } => {
                self.topic(topic)?;
                self.names.used(topic, last_seq.0);
            }
            Mutation::Subscribe { topic, subscription, since } => self.subscribe(topic, subscription, since.0)?,
            Mutation::Unsubscribe { topic, subscription } => self.unsubscribe(topic, subscription)?,
            Mutation::Publish(event) => self.publish(event).map(drop)?,
            Mutation::Rewrite { event, holders } => self.rewrite(event, holders)?,
            Mutation::Settle { topic, subscription, events } => {
                if let Some((topic, subscription)) = self.find(topic, subscription) {
                    for key in events.iter().filter(|key| key.seq.0 > subscription.since) {
                        self.settle(topic, subscription.id, integer(key.seq.0))?;
                    }
                }
            }
            Mutation::Requeue { topic, subscription, events } => {
                if let Some((topic, subscription)) = self.find(topic, subscription) {
                    for event in events.iter().filter(|event| event.key.seq.0 > subscription.since) {
                        self.requeue(topic, subscription.id, event)?;
                    }
                }
            }
            Mutation::Forget { topic, events } => {
                for key in events {
                    self.remove(topic, *key)?;
                }
            }
            Mutation::Release { topic, key, .. } => self.remove(topic, *key)?,
            Mutation::Cursor { source, value } => {
                let crc = row::cursor_crc(source, value);
                self.execute("insert or replace into cursors values (?1, ?2, ?3)", params![source, value, crc])?;
            }
        }
        Ok(())
    }

    // ---- Names ----

    fn topic(&mut self, name: &TopicName) -> Result<i64, SqliteError> {
        if let Some(topic) = self.names.topics.get(name) {
            return Ok(topic.id);
        }
        // The checksum needs the number that the row gets.
        self.execute("insert into topics (name, last_seq, crc) values (?1, 0, 0)", [name.as_str()])?;
        let id = self.connection.last_insert_rowid();
        let crc = row::topic_crc(id, name.as_str(), 0);
        self.execute("update topics set crc = ?2 where topic_id = ?1", [id, crc])?;
        self.names.topics.insert(name.clone(), Topic { id, ..Topic::default() });
        self.new_topics.push((name.clone(), id));
        Ok(id)
    }

    fn find(&self, topic: &TopicName, subscription: &SubscriptionName) -> Option<(i64, Subscription)> {
        let topic = self.names.topics.get(topic)?;
        Some((topic.id, *topic.subscriptions.get(subscription)?))
    }

    fn subscribe(&mut self, topic: &TopicName, name: &SubscriptionName, since: u64) -> Result<(), SqliteError> {
        let topic_id = self.topic(topic)?;
        self.names.used(topic, since);
        if self.find(topic, name).is_some() {
            return Ok(());
        }
        let from = integer(since);
        let statement = "insert into subscriptions (topic_id, name, since, crc) values (?1, ?2, ?3, 0)";
        self.execute(statement, params![topic_id, name.as_str(), from])?;
        let id = self.connection.last_insert_rowid();
        let crc = row::subscription_crc(id, topic_id, name.as_str(), from);
        self.execute("update subscriptions set crc = ?2 where subscription_id = ?1", [id, crc])?;
        if let Some(topic) = self.names.topics.get_mut(topic) {
            topic.subscriptions.insert(name.clone(), Subscription { id, since });
        }
        Ok(())
    }

    /// What the subscription has done with events that others hold goes with those.
    fn unsubscribe(&mut self, topic: &TopicName, name: &SubscriptionName) -> Result<(), SqliteError> {
        let Some(topic) = self.names.topics.get_mut(topic) else { return Ok(()) };
        let Some(subscription) = topic.subscriptions.remove(name) else { return Ok(()) };
        self.execute("delete from subscriptions where subscription_id = ?1", [subscription.id]).map(drop)
    }

    // ---- Events ----

    fn publish(&mut self, event: &StoredEvent) -> Result<i64, SqliteError> {
        let topic_id = self.topic(&event.topic)?;
        self.names.used(&event.topic, event.key.seq.0);
        let not_text = || SqliteError::NotText { topic: event.topic.to_string(), seq: event.key.seq.0 };
        let row = EventRow::of(topic_id, event).ok_or_else(not_text)?;
        if !self.released.contains(&(topic_id, row.seq)) {
            self.execute(
                "insert or replace into events values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
                params![
                    row.topic_id,
                    row.seq,
                    row.priority,
                    row.published_at,
                    row.expires_at,
                    row.due_at,
                    row.insert_at,
                    row.payload,
                    row.crc()
                ],
            )?;
        }
        Ok(topic_id)
    }

    fn rewrite(&mut self, event: &StoredEvent, holders: &[Holder]) -> Result<(), SqliteError> {
        self.remove(&event.topic, event.key)?;
        let topic_id = self.publish(event)?;
        let Some(topic) = self.names.topics.get(&event.topic) else { return Ok(()) };
        let seq = event.key.seq.0;
        let older = topic.subscriptions.iter().filter(|(_, subscription)| subscription.since < seq);
        for (name, subscription) in older {
            match holders.iter().find(|holder| holder.subscription == *name) {
                None => self.settle(topic_id, subscription.id, integer(seq))?,
                Some(Holder { deliveries: 0, due_at: None, grace_ms: 0, .. }) => {}
                Some(Holder { deliveries, due_at, grace_ms, .. }) => {
                    let (key, deliveries, due_at, grace_ms) = (event.key, *deliveries, *due_at, *grace_ms);
                    let requeued = Requeued { key, deliveries, due_at, grace_ms };
                    self.requeue(topic_id, subscription.id, &requeued)?;
                }
            }
        }
        Ok(())
    }

    fn settle(&self, topic_id: i64, subscription_id: i64, seq: i64) -> Result<(), SqliteError> {
        if self.released.contains(&(topic_id, seq)) {
            return Ok(());
        }
        let crc = row::settled_crc(topic_id, seq, subscription_id);
        let statement = "insert or replace into settled select ?1, ?2, ?3, ?4
            where exists (select 1 from events where topic_id = ?1 and seq = ?2)";
        self.execute(statement, [topic_id, seq, subscription_id, crc]).map(drop)
    }

    fn requeue(&self, topic_id: i64, subscription_id: i64, event: &Requeued) -> Result<(), SqliteError> {
        let seq = integer(event.key.seq.0);
        if self.released.contains(&(topic_id, seq)) {
            return Ok(());
        }
        let (deliveries, due_at) = (i64::from(event.deliveries), event.due_at.map(|at| integer(at.0)));
        let grace_ms = integer(event.grace_ms);
        let crc = row::requeued_crc(topic_id, seq, subscription_id, deliveries, due_at, grace_ms);
        let statement = "insert or replace into requeued select ?1, ?2, ?3, ?4, ?5, ?6, ?7
            where exists (select 1 from events where topic_id = ?1 and seq = ?2)";
        self.execute(statement, params![topic_id, seq, subscription_id, deliveries, due_at, grace_ms, crc]).map(drop)
    }

    /// Takes out an event and all that is known of it.
    fn remove(&self, topic: &TopicName, key: EventKey) -> Result<(), SqliteError> {
        let Some(topic) = self.names.topics.get(topic) else { return Ok(()) };
        let of = [topic.id, integer(key.seq.0)];
        self.execute("delete from events where topic_id = ?1 and seq = ?2", of)?;
        self.execute("delete from settled where topic_id = ?1 and seq = ?2", of)?;
        self.execute("delete from requeued where topic_id = ?1 and seq = ?2", of).map(drop)
    }
}
