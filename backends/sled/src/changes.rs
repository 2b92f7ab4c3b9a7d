//! Turns a group of batches into one sled batch.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use backend_embedded::{Subscription, Topic};
use broker_core::event::{EventKey, Millis, Priority, Seq};
use broker_core::name::{SubscriptionName, TopicName};
use broker_core::storage::{Holder, Mutation, Redelivery, StoredEvent};
use sled::Batch;

use crate::keys;
use crate::names::{Names, Source};
use crate::record::{self, Exception, PART_BYTES};

/// The changes of a group, in the order of its mutations: a later one overrides an earlier one.
pub(crate) struct Changes<'w> {
    tree: &'w sled::Tree,
    names: &'w mut Names,
    batch: Batch,
    /// The exceptions set or removed by the group, so that its later mutations see them.
    exceptions: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    /// The events added by the group, with the number of their parts, or removed by it.
    events: HashMap<(u32, u64), Option<u16>>,
    /// New topics with their numbers and forgotten topics, in order, for the reading threads.
    topic_ids: Vec<(TopicName, Option<u32>)>,
    /// Whether the group removes anything.
    pub(crate) removes: bool,
}

impl<'w> Changes<'w> {
    pub(crate) fn new(tree: &'w sled::Tree, names: &'w mut Names) -> Self {
        Self {
            tree,
            names,
            batch: Batch::default(),
            exceptions: BTreeMap::new(),
            events: HashMap::new(),
            topic_ids: Vec::new(),
            removes: false,
        }
    }

    /// Returns the changes as one sled batch, the new and forgotten topics, and whether anything is removed.
    pub(crate) fn finish(mut self) -> (Batch, Vec<(TopicName, Option<u32>)>, bool) {
        for (key, value) in std::mem::take(&mut self.exceptions) {
            match value {
                Some(value) => self.batch.insert(key, value),
                None => self.batch.remove(key),
            }
        }
        self.names.group += 1;
        self.put(&keys::group(), &record::encode_number(self.names.group));
        for (_, number, last_seq) in self.names.topics.take_dirty() {
            self.put_twice(&keys::last_seq(number), &record::encode_number(last_seq));
        }
        (self.batch, self.topic_ids, self.removes)
    }

    /// Adds a mutation to the group.
    pub(crate) fn add(&mut self, mutation: &Mutation) -> sled::Result<()> {
        match mutation {
            Mutation::Topic { topic, last_seq: Seq(0) } => self.forget(topic)?,
            Mutation::Topic { topic, last_seq } => {
                self.topic(topic);
                self.names.topics.used(topic, last_seq.0);
            }
            Mutation::Subscribe { topic, subscription, since } => self.subscribe(topic, subscription, since.0),
            Mutation::Unsubscribe { topic, subscription } => self.unsubscribe(topic, subscription),
            Mutation::Publish(event) => drop(self.publish(event)),
            Mutation::Rewrite { event, holders } => self.rewrite(event, holders)?,
            Mutation::Settle { topic, subscription, events } => {
                if let Some((topic, subscription)) = self.find(topic, subscription) {
                    for key in events {
                        if key.seq.0 > subscription.since && self.has(topic, key.seq.0)? {
                            self.set(topic, subscription, *key, Exception::Settled { priority: key.priority });
                        }
                    }
                }
            }
            Mutation::Redeliver { topic, subscription, events } => {
                if let Some((topic, subscription)) = self.find(topic, subscription) {
                    for redelivery in events {
                        self.redeliver(topic, subscription, *redelivery)?;
                    }
                }
            }
            Mutation::Forget { topic, events } => {
                for key in events {
                    self.remove(topic, *key)?;
                }
            }
            Mutation::Release { topic, key, .. } => self.remove(topic, *key)?,
            Mutation::Cursor { source, value } => self.cursor(source, value),
        }
        Ok(())
    }

    fn put(&mut self, key: &[u8], body: &[u8]) {
        self.batch.insert(key, record::seal(key, body));
    }

    fn put_twice(&mut self, key: &[u8], body: &[u8]) {
        self.put(key, body);
        self.put(&keys::copy(key), body);
    }

    /// Stores a record that may need several values. Returns the number of values beyond the first.
    fn put_long(&mut self, key: &[u8], body: &[u8]) -> u16 {
        let mut first = u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes().to_vec();
        let (head, mut rest) = body.split_at(body.len().min(PART_BYTES));
        first.extend_from_slice(head);
        self.put(key, &first);
        let mut parts = 0;
        while !rest.is_empty() {
            let (part, more) = rest.split_at(rest.len().min(PART_BYTES));
            self.put(&keys::part(key, parts), part);
            parts += 1;
            rest = more;
        }
        parts
    }

    // ---- Names ----

    fn put_numbers(&mut self) {
        self.put_twice(&keys::numbers(), &record::encode_numbers(self.names.numbers));
    }

    fn topic(&mut self, name: &TopicName) -> u32 {
        if let Some(topic) = self.names.topics.get(name) {
            return topic.id;
        }
        let number = self.names.numbers.topic;
        self.names.numbers.topic += 1;
        self.put_numbers();
        self.names.topics.insert(name.clone(), Topic::new(number, 0));
        // Stored from the start: a topic without this record must have lost it.
        self.names.topics.set_last_seq(name, 0);
        self.topic_ids.push((name.clone(), Some(number)));
        self.put_twice(&keys::topic(number), &record::encode_named(name.as_str(), 0));
        number
    }

    /// Removes a topic without subscriptions, with all its remaining records.
    fn forget(&mut self, name: &TopicName) -> sled::Result<()> {
        let Some(number) =
            self.names.topics.get(name).filter(|topic| topic.subscriptions.is_empty()).map(|topic| topic.id)
        else {
            return Ok(());
        };
        let stored: Vec<_> = self.tree.scan_prefix(keys::events(number)).keys().collect::<sled::Result<_>>()?;
        let stored = stored.iter().filter_map(|key| keys::seq_of(key));
        let of_this_group = self.events.iter().filter(|((topic, _), there)| *topic == number && there.is_some());
        let seqs: BTreeSet<u64> = stored.chain(of_this_group.map(|((_, seq), _)| *seq)).collect();
        for seq in seqs {
            self.remove(name, EventKey { priority: Priority(0), seq: Seq(seq) })?;
        }
        for key in [keys::topic(number), keys::last_seq(number)] {
            self.batch.remove(keys::copy(&key));
            self.batch.remove(key);
        }
        self.names.topics.forget(name);
        self.topic_ids.push((name.clone(), None));
        self.removes = true;
        Ok(())
    }

    fn find(&self, topic: &TopicName, subscription: &SubscriptionName) -> Option<(u32, Subscription<u32>)> {
        let topic = self.names.topics.get(topic)?;
        Some((topic.id, *topic.subscriptions.get(subscription)?))
    }

    fn subscribe(&mut self, topic: &TopicName, name: &SubscriptionName, since: u64) {
        let topic_number = self.topic(topic);
        self.names.topics.used(topic, since);
        if self.find(topic, name).is_some() {
            return;
        }
        let number = self.names.numbers.subscription;
        self.names.numbers.subscription += 1;
        self.put_numbers();
        if let Some(topic) = self.names.topics.get_mut(topic) {
            topic.subscriptions.insert(name.clone(), Subscription { id: number, since });
        }
        self.put_twice(&keys::subscription(topic_number, number), &record::encode_named(name.as_str(), since));
    }

    /// Removes a subscription. Its settlements stay until their events are released.
    fn unsubscribe(&mut self, topic: &TopicName, name: &SubscriptionName) {
        let Some(topic) = self.names.topics.get_mut(topic) else { return };
        let Some(subscription) = topic.subscriptions.remove(name) else { return };
        let key = keys::subscription(topic.id, subscription.id);
        self.batch.remove(keys::copy(&key));
        self.batch.remove(key);
    }

    fn cursor(&mut self, name: &str, value: &str) {
        let known = self.names.sources.get(name).copied();
        let source = known.unwrap_or_else(|| {
            let number = self.names.numbers.source;
            self.names.numbers.source += 1;
            self.put_numbers();
            Source { number, parts: 0 }
        });
        let key = keys::source(source.number);
        let body = record::encode_cursor(name, value);
        let mut parts = 0;
        for key in [key.clone(), keys::copy(&key)] {
            parts = self.put_long(&key, &body);
            (parts..source.parts).for_each(|part| self.batch.remove(keys::part(&key, part)));
        }
        self.names.sources.insert(name.to_owned(), Source { parts, ..source });
    }

    // ---- Events ----

    /// Whether the event exists at this point of the group.
    fn has(&self, topic: u32, seq: u64) -> sled::Result<bool> {
        match self.events.get(&(topic, seq)) {
            Some(there) => Ok(there.is_some()),
            None => self.tree.contains_key(keys::event(topic, seq)),
        }
    }

    fn publish(&mut self, event: &StoredEvent) -> u32 {
        let topic = self.topic(&event.topic);
        let seq = event.key.seq.0;
        self.names.topics.used(&event.topic, seq);
        let parts = self.put_long(&keys::event(topic, seq), &record::encode_event(event));
        self.names.has_parts |= parts > 0;
        self.events.insert((topic, seq), Some(parts));
        topic
    }

    fn rewrite(&mut self, event: &StoredEvent, holders: &[Holder]) -> sled::Result<()> {
        let key = event.key;
        let topic = self.topic(&event.topic);
        self.remove(&event.topic, key)?;
        self.publish(event);
        let Some(known) = self.names.topics.get(&event.topic) else { return Ok(()) };
        let older = known.subscriptions.iter().filter(|(_, subscription)| subscription.since < key.seq.0);
        let state = |name: &SubscriptionName| match holders.iter().find(|holder| holder.subscription == *name) {
            None => Some(Exception::Settled { priority: key.priority }),
            Some(Holder { deliveries: 0, due_at: None, grace_ms: 0, .. }) => None,
            Some(holder) => Some(redelivery(key.priority, holder.deliveries, holder.due_at, holder.grace_ms)),
        };
        let exceptions: Vec<_> = older.filter_map(|(name, sub)| Some((*sub, state(name)?))).collect();
        exceptions.into_iter().for_each(|(subscription, exception)| self.set(topic, subscription, key, exception));
        Ok(())
    }

    fn set(&mut self, topic: u32, subscription: Subscription<u32>, key: EventKey, exception: Exception) {
        let at = keys::exception(topic, key.seq.0, subscription.id);
        let value = record::seal(&at, &record::encode_exception(exception));
        self.exceptions.insert(at, Some(value));
    }

    /// Stores a redelivery, unless the event is settled: a settlement is final.
    fn redeliver(&mut self, topic: u32, subscription: Subscription<u32>, event: Redelivery) -> sled::Result<()> {
        let seq = event.key.seq.0;
        if seq <= subscription.since || !self.has(topic, seq)? {
            return Ok(());
        }
        let at = keys::exception(topic, seq, subscription.id);
        let settled = |value: &[u8]| {
            let body = record::unseal(&at, value).ok();
            matches!(body.and_then(record::decode_exception), Some(Exception::Settled { .. }))
        };
        let is_settled = match self.exceptions.get(&at) {
            Some(value) => value.as_deref().is_some_and(settled),
            None => self.tree.get(&at)?.is_some_and(|value| settled(&value)),
        };
        if !is_settled {
            let Redelivery { key, deliveries, due_at, grace_ms } = event;
            self.set(topic, subscription, key, redelivery(key.priority, deliveries, due_at, grace_ms));
        }
        Ok(())
    }

    /// Removes an event and every record about it.
    fn remove(&mut self, topic: &TopicName, key: EventKey) -> sled::Result<()> {
        let Some(topic) = self.names.topics.get(topic).map(|topic| topic.id) else { return Ok(()) };
        let seq = key.seq.0;
        let at = keys::event(topic, seq);
        let prefix = keys::exceptions(topic, seq);
        let of_this_group = self.exceptions.range(prefix.clone()..).map(|(key, _)| key);
        let of_this_group: Vec<_> = of_this_group.take_while(|key| key.starts_with(&prefix)).cloned().collect();
        for key in of_this_group {
            self.exceptions.remove(&key);
        }
        for key in self.tree.scan_prefix(&prefix).keys() {
            self.exceptions.insert(key?.to_vec(), None);
        }
        if self.names.has_parts {
            for key in self.tree.scan_prefix(keys::parts(&at)).keys() {
                self.batch.remove(key?);
            }
        }
        if let Some(Some(parts)) = self.events.insert((topic, seq), None) {
            (0..parts).for_each(|part| self.batch.remove(keys::part(&at, part)));
        }
        self.batch.remove(at);
        self.removes = true;
        Ok(())
    }
}

fn redelivery(priority: Priority, deliveries: u32, due_at: Option<Millis>, grace_ms: u64) -> Exception {
    Exception::Redelivery { priority, deliveries, due_at, grace_ms }
}
