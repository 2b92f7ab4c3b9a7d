//! A group of batches as one change of the tree.

use std::collections::{BTreeMap, HashMap};

use broker_core::event::{EventKey, Millis, Priority};
use broker_core::name::{SubscriptionName, TopicName};
use broker_core::storage::{Holder, Mutation, Requeued, StoredEvent};
use sled::Batch;

use crate::keys;
use crate::names::{Names, Source, Subscription, Topic};
use crate::record::{self, Exception, PART_BYTES};

/// What a group changes, in the order of its mutations: the later one stands.
pub(crate) struct Changes<'w> {
    tree: &'w sled::Tree,
    names: &'w mut Names,
    batch: Batch,
    /// Exceptions that the group sets or removes; here so that what comes later in the group sees them.
    exceptions: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    /// Events that the group adds, with the number of their parts, and those that it removes.
    events: HashMap<(u32, u64), Option<u16>>,
    /// Topics that are new in it, for those who read.
    pub(crate) new_topics: Vec<(TopicName, u32)>,
    /// Whether it takes anything out.
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
            new_topics: Vec::new(),
            removes: false,
        }
    }

    /// The whole as one sled batch.
    pub(crate) fn finish(mut self) -> (Batch, Vec<(TopicName, u32)>, bool) {
        for (key, value) in std::mem::take(&mut self.exceptions) {
            match value {
                Some(value) => self.batch.insert(key, value),
                None => self.batch.remove(key),
            }
        }
        self.names.group += 1;
        self.put(&keys::group(), &record::encode_number(self.names.group));
        for name in std::mem::take(&mut self.names.dirty) {
            let Some(topic) = self.names.topics.get_mut(&name) else { continue };
            topic.dirty = false;
            let (number, last_seq) = (topic.number, topic.last_seq);
            self.put_twice(&keys::last_seq(number), &record::encode_number(last_seq));
        }
        (self.batch, self.new_topics, self.removes)
    }

    /// Adds one mutation.
    pub(crate) fn add(&mut self, mutation: &Mutation) -> sled::Result<()> {
        match mutation {
            Mutation::Topic { topic, last_seq } => {
                self.topic(topic);
                self.names.used(topic, last_seq.0);
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
            Mutation::Requeue { topic, subscription, events } => {
                if let Some((topic, subscription)) = self.find(topic, subscription) {
                    for requeued in events {
                        self.requeue(topic, subscription, *requeued)?;
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

    /// Puts a record that may be long, in as many values as it needs. Returns how many there are beyond the first.
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
            return topic.number;
        }
        let number = self.names.numbers.topic;
        self.names.numbers.topic += 1;
        self.put_numbers();
        self.names.topics.insert(name.clone(), Topic { number, ..Topic::default() });
        // Stored from the start: a topic without this record is one that has lost it.
        self.names.set_last_seq(name, 0);
        self.new_topics.push((name.clone(), number));
        self.put_twice(&keys::topic(number), &record::encode_named(name.as_str(), 0));
        number
    }

    fn find(&self, topic: &TopicName, subscription: &SubscriptionName) -> Option<(u32, Subscription)> {
        let topic = self.names.topics.get(topic)?;
        Some((topic.number, *topic.subscriptions.get(subscription)?))
    }

    fn subscribe(&mut self, topic: &TopicName, name: &SubscriptionName, since: u64) {
        let topic_number = self.topic(topic);
        self.names.used(topic, since);
        if self.find(topic, name).is_some() {
            return;
        }
        let number = self.names.numbers.subscription;
        self.names.numbers.subscription += 1;
        self.put_numbers();
        if let Some(topic) = self.names.topics.get_mut(topic) {
            topic.subscriptions.insert(name.clone(), Subscription { number, since });
        }
        self.put_twice(&keys::subscription(topic_number, number), &record::encode_named(name.as_str(), since));
    }

    /// What the subscription has done with events that others hold goes with those.
    fn unsubscribe(&mut self, topic: &TopicName, name: &SubscriptionName) {
        let Some(topic) = self.names.topics.get_mut(topic) else { return };
        let Some(subscription) = topic.subscriptions.remove(name) else { return };
        let key = keys::subscription(topic.number, subscription.number);
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

    /// Whether the event is there, as of this point of the group.
    fn has(&self, topic: u32, seq: u64) -> sled::Result<bool> {
        match self.events.get(&(topic, seq)) {
            Some(there) => Ok(there.is_some()),
            None => self.tree.contains_key(keys::event(topic, seq)),
        }
    }

    fn publish(&mut self, event: &StoredEvent) -> u32 {
        let topic = self.topic(&event.topic);
        let seq = event.key.seq.0;
        self.names.used(&event.topic, seq);
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
            Some(holder) => Some(requeued(key.priority, holder.deliveries, holder.due_at, holder.grace_ms)),
        };
        let exceptions: Vec<_> = older.filter_map(|(name, sub)| Some((*sub, state(name)?))).collect();
        exceptions.into_iter().for_each(|(subscription, exception)| self.set(topic, subscription, key, exception));
        Ok(())
    }

    fn set(&mut self, topic: u32, subscription: Subscription, key: EventKey, exception: Exception) {
        let at = keys::exception(topic, key.seq.0, subscription.number);
        let value = record::seal(&at, &record::encode_exception(exception));
        self.exceptions.insert(at, Some(value));
    }

    /// What is settled stays settled.
    fn requeue(&mut self, topic: u32, subscription: Subscription, event: Requeued) -> sled::Result<()> {
        let seq = event.key.seq.0;
        if seq <= subscription.since || !self.has(topic, seq)? {
            return Ok(());
        }
        let at = keys::exception(topic, seq, subscription.number);
        let settled = |value: &[u8]| {
            let body = record::unseal(&at, value).ok();
            matches!(body.and_then(record::decode_exception), Some(Exception::Settled { .. }))
        };
        let is_settled = match self.exceptions.get(&at) {
            Some(value) => value.as_deref().is_some_and(settled),
            None => self.tree.get(&at)?.is_some_and(|value| settled(&value)),
        };
        if !is_settled {
            let Requeued { key, deliveries, due_at, grace_ms } = event;
            self.set(topic, subscription, key, requeued(key.priority, deliveries, due_at, grace_ms));
        }
        Ok(())
    }

    /// Takes out an event and all that is known of it.
    fn remove(&mut self, topic: &TopicName, key: EventKey) -> sled::Result<()> {
        let Some(topic) = self.names.topics.get(topic).map(|topic| topic.number) else { return Ok(()) };
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

fn requeued(priority: Priority, deliveries: u32, due_at: Option<Millis>, grace_ms: u64) -> Exception {
    Exception::Requeued { priority, deliveries, due_at, grace_ms }
}
