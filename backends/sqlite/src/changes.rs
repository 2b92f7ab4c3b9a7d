//! Turns a group of batches into statements of one transaction, in the order of their mutations.

use std::collections::HashSet;
use std::path::Path;

use backend_embedded::{Subscription, Topic, Topics};
use broker_core::event::{EventKey, Seq};
use broker_core::name::{SubscriptionName, TopicName};
use broker_core::storage::{Batch, Holder, Mutation, Redelivery, StoredEvent};
use rusqlite::{Connection, Params, params};

use crate::error::SqliteError;
use crate::row::{self, EventRow, RedeliveryRow, integer};

/// Writes the mutations of a group into an open transaction.
pub(crate) struct Changes<'w> {
    connection: &'w Connection,
    path: &'w Path,
    topics: &'w mut Topics<i64>,
    /// The latest id of a topic. Ids are never reused: if a group forgets a topic and creates one of the same name, its mutations for
    /// the old topic do not apply to the new one.
    last_id: &'w mut i64,
    /// Events that the group releases. Its other mutations of these events need not be written.
    released: HashSet<(i64, i64)>,
    /// New topics with their ids, and forgotten topics, in order. The reading threads look ids up there.
    pub(crate) topic_ids: Vec<(TopicName, Option<i64>)>,
}

impl<'w> Changes<'w> {
    pub(crate) fn new(
        connection: &'w Connection,
        path: &'w Path,
        topics: &'w mut Topics<i64>,
        last_id: &'w mut i64,
    ) -> Self {
        Self { connection, path, topics, last_id, released: HashSet::new(), topic_ids: Vec::new() }
    }

    /// Writes `batches`.
    pub(crate) fn write<'b>(&mut self, batches: impl Iterator<Item = &'b Batch> + Clone) -> Result<(), SqliteError> {
        for mutation in batches.clone().flat_map(|batch| &batch.mutations) {
            if let Mutation::Release { topic, key, .. } = mutation
                && let Some(topic) = self.topics.get(topic)
            {
                self.released.insert((topic.id, integer(key.seq.0)));
            }
        }
        batches.flat_map(|batch| &batch.mutations).try_for_each(|mutation| self.add(mutation))?;
        for (name, topic_id, last_seq) in self.topics.take_dirty() {
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
            Mutation::Topic { topic, last_seq: Seq(0) } => self.forget(topic)?,
            Mutation::Topic { topic, last_seq } => {
                self.topic(topic)?;
                self.topics.used(topic, last_seq.0);
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
            Mutation::Redeliver { topic, subscription, events } => {
                if let Some((topic, subscription)) = self.find(topic, subscription) {
                    for event in events.iter().filter(|event| event.key.seq.0 > subscription.since) {
                        self.redeliver(topic, subscription.id, event)?;
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
        if let Some(topic) = self.topics.get(name) {
            return Ok(topic.id);
        }
        let id = *self.last_id + 1;
        let crc = row::topic_crc(id, name.as_str(), 0);
        self.execute("insert into topics values (?1, ?2, 0, ?3)", params![id, name.as_str(), crc])?;
        *self.last_id = id;
        self.topics.insert(name.clone(), Topic::new(id, 0));
        self.topic_ids.push((name.clone(), Some(id)));
        Ok(id)
    }

    /// Deletes a topic without subscriptions, and all of its remaining rows.
    fn forget(&mut self, name: &TopicName) -> Result<(), SqliteError> {
        let Some(id) = self.topics.forget(name) else { return Ok(()) };
        for table in ["events", "settled", "requeued", "topics"] {
            self.execute(&format!("delete from {table} where topic_id = ?1"), [id])?;
        }
        self.topic_ids.push((name.clone(), None));
        Ok(())
    }

    fn find(&self, topic: &TopicName, subscription: &SubscriptionName) -> Option<(i64, Subscription<i64>)> {
        let topic = self.topics.get(topic)?;
        Some((topic.id, *topic.subscriptions.get(subscription)?))
    }

    fn subscribe(&mut self, topic: &TopicName, name: &SubscriptionName, since: u64) -> Result<(), SqliteError> {
        let topic_id = self.topic(topic)?;
        self.topics.used(topic, since);
        if self.find(topic, name).is_some() {
            return Ok(());
        }
        let from = integer(since);
        let statement = "insert into subscriptions (topic_id, name, since, crc) values (?1, ?2, ?3, 0)";
        self.execute(statement, params![topic_id, name.as_str(), from])?;
        let id = self.connection.last_insert_rowid();
        let crc = row::subscription_crc(id, topic_id, name.as_str(), from);
        self.execute("update subscriptions set crc = ?2 where subscription_id = ?1", [id, crc])?;
        if let Some(topic) = self.topics.get_mut(topic) {
            topic.subscriptions.insert(name.clone(), Subscription { id, since });
        }
        Ok(())
    }

    /// Removes a subscription. Its settlements stay until their events are released.
    fn unsubscribe(&mut self, topic: &TopicName, name: &SubscriptionName) -> Result<(), SqliteError> {
        let Some(topic) = self.topics.get_mut(topic) else { return Ok(()) };
        let Some(subscription) = topic.subscriptions.remove(name) else { return Ok(()) };
        self.execute("delete from subscriptions where subscription_id = ?1", [subscription.id]).map(drop)
    }

    // ---- Events ----

    fn publish(&mut self, event: &StoredEvent) -> Result<i64, SqliteError> {
        let topic_id = self.topic(&event.topic)?;
        self.topics.used(&event.topic, event.key.seq.0);
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
        let Some(topic) = self.topics.get(&event.topic) else { return Ok(()) };
        let seq = event.key.seq.0;
        let older = topic.subscriptions.iter().filter(|(_, subscription)| subscription.since < seq);
        for (name, subscription) in older {
            match holders.iter().find(|holder| holder.subscription == *name) {
                None => self.settle(topic_id, subscription.id, integer(seq))?,
                Some(Holder { deliveries: 0, due_at: None, grace_ms: 0, .. }) => {}
                Some(Holder { deliveries, due_at, grace_ms, .. }) => {
                    let (key, deliveries, due_at, grace_ms) = (event.key, *deliveries, *due_at, *grace_ms);
                    let redelivery = Redelivery { key, deliveries, due_at, grace_ms };
                    self.redeliver(topic_id, subscription.id, &redelivery)?;
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

    fn redeliver(&self, topic_id: i64, subscription_id: i64, event: &Redelivery) -> Result<(), SqliteError> {
        let seq = integer(event.key.seq.0);
        if self.released.contains(&(topic_id, seq)) {
            return Ok(());
        }
        let (deliveries, due_at) = (i64::from(event.deliveries), event.due_at.map(|at| integer(at.0)));
        let grace_ms = integer(event.grace_ms);
        let crc = RedeliveryRow { topic_id, seq, subscription_id, deliveries, due_at, grace_ms }.crc();
        let statement = "insert or replace into requeued select ?1, ?2, ?3, ?4, ?5, ?6, ?7
            where exists (select 1 from events where topic_id = ?1 and seq = ?2)";
        self.execute(statement, params![topic_id, seq, subscription_id, deliveries, due_at, grace_ms, crc]).map(drop)
    }

    /// Deletes an event and every row about it.
    fn remove(&self, topic: &TopicName, key: EventKey) -> Result<(), SqliteError> {
        let Some(topic) = self.topics.get(topic) else { return Ok(()) };
        let of = [topic.id, integer(key.seq.0)];
        self.execute("delete from events where topic_id = ?1 and seq = ?2", of)?;
        self.execute("delete from settled where topic_id = ?1 and seq = ?2", of)?;
        self.execute("delete from requeued where topic_id = ?1 and seq = ?2", of).map(drop)
    }
}
