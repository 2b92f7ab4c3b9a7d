//! The contents of a storage without the payloads: a few tens of bytes per event.

use std::collections::{BTreeMap, HashMap};

use super::line::RedeliveryState;
use super::progress::{IMPORT_CURSOR, Progress};
use super::ranges::Ranges;
use crate::event::{EventKey, Millis, Priority, Seq};
use crate::name::{SubscriptionName, TopicName};
use crate::storage::{Holder, Mutation, Place, ReadKey, Recovery, Redelivery, StorageError, StoredEvent};

/// Collects what [`Storage::recover`](crate::storage::Storage::recover) hands back.
#[derive(Debug, Default)]
pub struct Index {
    /// The only topic to collect; `None`: everything.
    pub(super) only: Option<TopicName>,
    pub(super) topics: HashMap<TopicName, TopicIndex>,
    pub(super) cursors: BTreeMap<String, String>,
    import: Option<Progress>,
    released: Vec<Place>,
}

/// A topic.
#[derive(Debug, Default)]
pub(super) struct TopicIndex {
    pub(super) last_seq: u64,
    pub(super) subscriptions: BTreeMap<SubscriptionName, Subscription>,
    /// The events that are held, by sequence.
    pub(super) events: BTreeMap<u64, Entry>,
}

/// A subscription, as its differences from "holds every event after `since`".
#[derive(Debug, Default)]
pub(super) struct Subscription {
    pub(super) since: u64,
    settled: Ranges,
    redeliveries: BTreeMap<u64, RedeliveryState>,
}

/// An event.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) priority: Priority,
    pub(super) place: Place,
    pub(super) published_at: Millis,
    /// `expires_at` and `due_at`. Boxed, since most events have neither.
    times: Option<Box<(Option<Millis>, Option<Millis>)>>,
    pub(super) len: u32,
    /// The number of subscriptions that hold it.
    holders: u32,
}

impl Entry {
    pub(super) fn times(&self) -> (Option<Millis>, Option<Millis>) {
        self.times.as_deref().copied().unwrap_or_default()
    }
}

impl Subscription {
    fn holds(&self, seq: u64) -> bool {
        seq > self.since && !self.settled.contains(seq)
    }

    /// Settles an event. Returns whether the subscription held it.
    fn settle(&mut self, seq: u64) -> bool {
        self.redeliveries.remove(&seq);
        seq > self.since && self.settled.insert(seq)
    }
}

impl TopicIndex {
    fn used(&mut self, seq: Seq) {
        self.last_seq = self.last_seq.max(seq.0);
    }

    /// Adds an event, held by `holders`, or by every older subscription if that is `None`. Returns false if no subscription
    /// holds it.
    fn event(&mut self, event: &StoredEvent, place: Place, holders: Option<&[Holder]>) -> bool {
        let seq = event.key.seq.0;
        self.used(event.key.seq);
        if let Some(holders) = holders {
            let known: HashMap<_, _> = holders.iter().map(|holder| (&holder.subscription, holder)).collect();
            for (name, subscription) in &mut self.subscriptions {
                match known.get(name) {
                    Some(Holder { deliveries, due_at, grace_ms, .. })
                        if subscription.holds(seq) && (*deliveries > 0 || due_at.is_some()) =>
                    {
                        let (deliveries, due_at, grace_ms) = (*deliveries, *due_at, *grace_ms);
                        subscription.redeliveries.insert(seq, RedeliveryState { deliveries, due_at, grace_ms });
                    }
                    Some(_) => {}
                    None => drop(subscription.settle(seq)),
                }
            }
        }
        let held = self.subscriptions.values().filter(|subscription| subscription.holds(seq)).count();
        if held == 0 {
            self.events.remove(&seq);
            return false;
        }
        let times =
            (event.expires_at.is_some() || event.due_at.is_some()).then(|| Box::new((event.expires_at, event.due_at)));
        let entry = Entry {
            priority: event.key.priority,
            place,
            published_at: event.published_at,
            times,
            len: u32::try_from(event.payload.len()).unwrap_or(u32::MAX),
            holders: u32::try_from(held).unwrap_or(u32::MAX),
        };
        self.events.insert(seq, entry);
        true
    }

    /// Removes one holder of an event. Returns the event's place if that was the last one.
    fn release(&mut self, seq: u64) -> Option<Place> {
        let entry = self.events.get_mut(&seq)?;
        entry.holders = entry.holders.saturating_sub(1);
        if entry.holders > 0 {
            return None;
        }
        self.events.remove(&seq).map(|entry| entry.place)
    }

    fn unsubscribe(&mut self, name: &SubscriptionName) -> Vec<Place> {
        let Some(gone) = self.subscriptions.remove(name) else { return Vec::new() };
        let held: Vec<u64> = self.events.keys().copied().filter(|seq| gone.holds(*seq)).collect();
        held.into_iter().filter_map(|seq| self.release(seq)).collect()
    }

    /// The subscriptions that hold an event, by name, with the state of its redelivery to each, if any.
    pub(super) fn holders(&self, seq: u64) -> impl Iterator<Item = (&SubscriptionName, Option<RedeliveryState>)> {
        let holding = self.subscriptions.iter().filter(move |(_, subscription)| subscription.holds(seq));
        holding.map(move |(name, subscription)| (name, subscription.redeliveries.get(&seq).copied()))
    }

    /// The next events to read after the sequence `after`: at most `events` and `bytes`, but at least one if there is one.
    pub(super) fn page(&self, topic: &TopicName, after: u64, events: usize, bytes: usize) -> Vec<ReadKey> {
        let mut keys = Vec::new();
        let mut size = 0;
        let Some(from) = after.checked_add(1) else { return keys };
        for (seq, entry) in self.events.range(from..) {
            size += entry.len as usize;
            if !keys.is_empty() && (keys.len() == events || size > bytes) {
                break;
            }
            let key = EventKey { priority: entry.priority, seq: Seq(*seq) };
            keys.push(ReadKey { topic: topic.clone(), key, place: entry.place });
        }
        keys
    }
}

impl Index {
    /// Creates an index of one topic, or of everything.
    #[must_use]
    pub fn new(only: Option<TopicName>) -> Self {
        Self { only, ..Self::default() }
    }

    /// Whether the storage knows the topic.
    #[must_use]
    pub fn has_topic(&self, topic: &TopicName) -> bool {
        self.topics.contains_key(topic)
    }

    /// The number of events that are held.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.topics.values().map(|topic| topic.events.len() as u64).sum()
    }

    /// The progress of an unfinished import, if the storage holds one.
    #[must_use]
    pub fn unfinished_import(&self) -> Option<&Progress> {
        self.import.as_ref().filter(|progress| !progress.finished)
    }

    fn topic(&mut self, name: &TopicName) -> &mut TopicIndex {
        // Not `entry`: that would clone the name for every event.
        if !self.topics.contains_key(name) {
            self.topics.insert(name.clone(), TopicIndex::default());
        }
        self.topics.get_mut(name).expect("it was put there if it was missing")
    }

    fn is_wanted(&self, topic: &TopicName) -> bool {
        self.only.as_ref().is_none_or(|only| only == topic)
    }
}

impl Recovery for Index {
    fn replay(&mut self, mutation: Mutation, place: Place) -> Result<(), StorageError> {
        let wanted = match &mutation {
            Mutation::Topic { topic, .. }
            | Mutation::Subscribe { topic, .. }
            | Mutation::Unsubscribe { topic, .. }
            | Mutation::Settle { topic, .. }
            | Mutation::Redeliver { topic, .. }
            | Mutation::Forget { topic, .. }
            | Mutation::Release { topic, .. } => self.is_wanted(topic),
            Mutation::Publish(event) | Mutation::Rewrite { event, .. } => self.is_wanted(&event.topic),
            Mutation::Cursor { source, .. } => self.only.is_none() || source == IMPORT_CURSOR,
        };
        if !wanted {
            if matches!(mutation, Mutation::Publish(_) | Mutation::Rewrite { .. }) {
                self.released.push(place);
            }
            return Ok(());
        }
        match mutation {
            Mutation::Topic { topic, last_seq } if last_seq.0 == 0 => {
                if self
                    .topics
                    .get(&topic)
                    .is_some_and(|topic| topic.subscriptions.is_empty() && topic.events.is_empty())
                {
                    self.topics.remove(&topic);
                }
            }
            Mutation::Topic { topic, last_seq } => self.topic(&topic).used(last_seq),
            Mutation::Subscribe { topic, subscription, since } => {
                let topic = self.topic(&topic);
                topic.used(since);
                let new = || Subscription { since: since.0, ..Subscription::default() };
                topic.subscriptions.entry(subscription).or_insert_with(new);
            }
            Mutation::Unsubscribe { topic, subscription } => {
                let gone = self.topic(&topic).unsubscribe(&subscription);
                self.released.extend(gone);
            }
            Mutation::Publish(event) => {
                if !self.topic(&event.topic).event(&event, place, None) {
                    self.released.push(place);
                }
            }
            Mutation::Rewrite { event, holders } => {
                if !self.topic(&event.topic).event(&event, place, Some(&holders)) {
                    self.released.push(place);
                }
            }
            Mutation::Settle { topic, subscription, events } => {
                let topic = self.topic(&topic);
                let mut gone = Vec::new();
                for key in events {
                    let held = topic.events.contains_key(&key.seq.0)
                        && topic.subscriptions.get_mut(&subscription).is_some_and(|sub| sub.settle(key.seq.0));
                    if held {
                        gone.extend(topic.release(key.seq.0));
                    }
                }
                self.released.extend(gone);
            }
            Mutation::Redeliver { topic, subscription, events } => {
                let topic = self.topic(&topic);
                for event in events {
                    let seq = event.key.seq.0;
                    if topic.events.contains_key(&seq)
                        && let Some(subscription) = topic.subscriptions.get_mut(&subscription)
                        && subscription.holds(seq)
                    {
                        let Redelivery { deliveries, due_at, grace_ms, .. } = event;
                        subscription.redeliveries.insert(seq, RedeliveryState { deliveries, due_at, grace_ms });
                    }
                }
            }
            Mutation::Forget { topic, events } => {
                let topic = self.topic(&topic);
                let gone: Vec<_> = events.iter().filter_map(|key| topic.events.remove(&key.seq.0)).collect();
                self.released.extend(gone.into_iter().map(|entry| entry.place));
            }
            Mutation::Cursor { source, value } if source == IMPORT_CURSOR => {
                self.import = Some(Progress::parse(&value));
            }
            Mutation::Cursor { source, value } => drop(self.cursors.insert(source, value)),
            Mutation::Release { .. } => {}
        }
        Ok(())
    }

    fn take_released(&mut self) -> Vec<Place> {
        std::mem::take(&mut self.released)
    }
}
