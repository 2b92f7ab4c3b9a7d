//! The state that a storage must remember. Applied to the mutations that were submitted, it gives what is expected; applied to
//! those handed back, what is there.

use std::collections::{BTreeMap, BTreeSet};

use crate::event::Millis;
use crate::name::TopicName;
use crate::storage::{Holder, Mutation, Place, Recovery, StorageError, StoredEvent};

/// A subscription's state of an event: deliveries made, the time it is due, and the time it was in flight.
type Hold = (u32, Option<Millis>, u64);

/// An event and its holders, the durable subscriptions that it waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// The event.
    pub event: StoredEvent,
    /// The state for each holder.
    pub holders: BTreeMap<String, Hold>,
}

impl Held {
    fn forget(&mut self, subscription: &str) {
        let _whether_it_held_it = self.holders.remove(subscription);
    }
}

/// A topic.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TopicModel {
    /// The highest sequence used.
    pub last_seq: u64,
    /// The durable subscriptions, each with the sequence that it starts after.
    pub subscriptions: BTreeMap<String, u64>,
    /// The events, by sequence.
    pub events: BTreeMap<u64, Held>,
}

/// The whole state.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Model {
    /// By name.
    pub topics: BTreeMap<String, TopicModel>,
    /// By source.
    pub cursors: BTreeMap<String, String>,
    /// The places of events, where they are known.
    pub places: BTreeMap<(String, u64), Place>,
    /// The latest `Publish` of each topic. Those must be handed back in order; a `Rewrite` may come at any time.
    handed_back: BTreeMap<String, u64>,
}

impl Model {
    /// Applies a mutation that was submitted or handed back.
    pub fn apply(&mut self, mutation: &Mutation) {
        match mutation {
            Mutation::Topic { topic, last_seq } if last_seq.0 == 0 => {
                let is_left = |known: &TopicModel| {
                    !known.subscriptions.is_empty() || known.events.values().any(|held| !held.holders.is_empty())
                };
                if !self.topics.get(topic.as_str()).is_some_and(is_left) {
                    self.topics.remove(topic.as_str());
                    self.handed_back.remove(topic.as_str());
                }
            }
            Mutation::Topic { topic, last_seq } => self.topic(topic).used(last_seq.0),
            Mutation::Subscribe { topic, subscription, since } => {
                let topic = self.topic(topic);
                topic.used(since.0);
                topic.subscriptions.entry(subscription.to_string()).or_insert(since.0);
            }
            Mutation::Unsubscribe { topic, subscription } => {
                let topic = self.topic(topic);
                topic.subscriptions.remove(subscription.as_str());
                topic.events.values_mut().for_each(|held| held.forget(subscription.as_str()));
            }
            Mutation::Publish(event) => self.topic(&event.topic).publish(event),
            Mutation::Rewrite { event, holders } => self.topic(&event.topic).rewrite(event, holders),
            Mutation::Settle { topic, subscription, events } => {
                for key in events {
                    if let Some(held) = self.topic(topic).events.get_mut(&key.seq.0) {
                        held.holders.remove(subscription.as_str());
                    }
                }
            }
            Mutation::Redeliver { topic, subscription, events } => {
                for redelivery in events {
                    let held = self.topic(topic).events.get_mut(&redelivery.key.seq.0);
                    if let Some(hold) = held.and_then(|held| held.holders.get_mut(subscription.as_str())) {
                        *hold = (redelivery.deliveries, redelivery.due_at, redelivery.grace_ms);
                    }
                }
            }
            Mutation::Forget { topic, events } => {
                for key in events {
                    self.topic(topic).events.remove(&key.seq.0);
                }
            }
            Mutation::Release { .. } => {}
            Mutation::Cursor { source, value } => {
                self.cursors.insert(source.clone(), value.clone());
            }
        }
    }

    fn topic(&mut self, name: &TopicName) -> &mut TopicModel {
        self.topics.entry(name.to_string()).or_default()
    }

    /// The state without what a storage may keep or drop: events without holders, and topics that were always empty.
    #[must_use]
    pub fn needed(&self) -> Self {
        let mut needed = Self { places: BTreeMap::new(), handed_back: BTreeMap::new(), ..self.clone() };
        needed.topics.retain(|_, topic| {
            topic.events.retain(|_, held| !held.holders.is_empty());
            *topic != TopicModel::default()
        });
        needed
    }

    /// Panics with the difference, if there is one.
    pub fn assert_same(&self, found: &Self, when: &str) {
        let (expected, found) = (self.needed(), found.needed());
        assert_eq!(expected.cursors, found.cursors, "{when}: cursors");
        let names: BTreeSet<_> = expected.topics.keys().chain(found.topics.keys()).collect();
        for name in names {
            let (Some(expected), Some(found)) = (expected.topics.get(name), found.topics.get(name)) else {
                let there = found.topics.contains_key(name);
                panic!("{when}: topic {name} is {}", if there { "there and was never used" } else { "gone" });
            };
            assert_eq!(expected.last_seq, found.last_seq, "{when}: the latest sequence of {name}");
            assert_eq!(expected.subscriptions, found.subscriptions, "{when}: the subscriptions of {name}");
            let seqs: BTreeSet<_> = expected.events.keys().chain(found.events.keys()).collect();
            for seq in seqs {
                let (expected, found) = (expected.events.get(seq), found.events.get(seq));
                assert!(expected == found, "{when}: event {seq} of {name}: expected {expected:?}, found {found:?}");
            }
        }
    }
}

impl TopicModel {
    fn used(&mut self, seq: u64) {
        self.last_seq = self.last_seq.max(seq);
    }

    fn publish(&mut self, event: &StoredEvent) {
        let seq = event.key.seq.0;
        self.used(seq);
        let since_before = self.subscriptions.iter().filter(|(_, since)| **since < seq);
        let holders = since_before.map(|(name, _)| (name.clone(), (0, None, 0))).collect();
        self.events.insert(seq, Held { event: event.clone(), holders });
    }

    fn rewrite(&mut self, event: &StoredEvent, holders: &[Holder]) {
        self.used(event.key.seq.0);
        let subscriptions = &self.subscriptions;
        let known = holders.iter().filter(|holder| subscriptions.contains_key(holder.subscription.as_str()));
        let hold = |holder: &Holder| (holder.deliveries, holder.due_at, holder.grace_ms);
        let holders = known.map(|holder| (holder.subscription.to_string(), hold(holder)));
        self.events.insert(event.key.seq.0, Held { event: event.clone(), holders: holders.collect() });
    }
}

impl Recovery for Model {
    fn replay(&mut self, mutation: Mutation, place: Place) -> Result<(), StorageError> {
        if let Mutation::Publish(event) | Mutation::Rewrite { event, .. } = &mutation {
            self.places.insert((event.topic.to_string(), event.key.seq.0), place);
        }
        if let Mutation::Publish(event) = &mutation {
            let seq = event.key.seq.0;
            if let Some(before) = self.handed_back.insert(event.topic.to_string(), seq) {
                assert!(
                    before < seq,
                    "events come in the order of their sequence: {seq} of {} after {before}",
                    event.topic
                );
            }
        }
        self.apply(&mutation);
        Ok(())
    }
}
