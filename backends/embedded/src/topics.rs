//! Topics and their subscriptions by name, with the ids that stand for them in keys and rows. All of them are held in memory;
//! the configured limits on topics and subscriptions bound their number.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

use broker_core::name::{SubscriptionName, TopicName};

/// A topic in the writing thread's table.
#[derive(Debug, Default)]
pub struct Topic<Id> {
    /// The id that stands for it in keys and rows.
    pub id: Id,
    /// The highest sequence ever used in it.
    pub last_seq: u64,
    /// Its subscriptions.
    pub subscriptions: HashMap<SubscriptionName, Subscription<Id>>,
    /// `last_seq` has changed and is not stored yet.
    dirty: bool,
}

impl<Id> Topic<Id> {
    /// A topic without subscriptions, whose stored sequence is `last_seq`.
    pub fn new(id: Id, last_seq: u64) -> Self {
        Self { id, last_seq, subscriptions: HashMap::new(), dirty: false }
    }
}

/// A subscription in the writing thread's table.
#[derive(Debug, Clone, Copy)]
pub struct Subscription<Id> {
    /// The id that stands for it in keys and rows.
    pub id: Id,
    /// The subscription receives events with a sequence above this one.
    pub since: u64,
}

/// The topics, owned by the writing thread.
#[derive(Debug, Default)]
pub struct Topics<Id> {
    topics: HashMap<TopicName, Topic<Id>>,
    /// The topics whose `last_seq` is stored with the next group.
    dirty: Vec<TopicName>,
}

impl<Id: Copy> Topics<Id> {
    /// The topic of this name.
    #[must_use]
    pub fn get(&self, name: &TopicName) -> Option<&Topic<Id>> {
        self.topics.get(name)
    }

    /// The topic of this name, to be changed.
    pub fn get_mut(&mut self, name: &TopicName) -> Option<&mut Topic<Id>> {
        self.topics.get_mut(name)
    }

    /// Adds a topic.
    pub fn insert(&mut self, name: TopicName, topic: Topic<Id>) {
        self.topics.insert(name, topic);
    }

    /// Removes a topic that has no subscriptions, and returns its id.
    pub fn forget(&mut self, name: &TopicName) -> Option<Id> {
        self.topics.get(name).filter(|topic| topic.subscriptions.is_empty())?;
        self.topics.remove(name).map(|topic| topic.id)
    }

    /// All topic names with their ids.
    pub fn ids(&self) -> impl Iterator<Item = (TopicName, Id)> {
        self.topics.iter().map(|(name, topic)| (name.clone(), topic.id))
    }

    /// Records that `seq` is used in a topic.
    pub fn used(&mut self, name: &TopicName, seq: u64) {
        if self.topics.get(name).is_some_and(|topic| topic.last_seq < seq) {
            self.set_last_seq(name, seq);
        }
    }

    /// Sets a topic's highest sequence, to be stored with the next group.
    pub fn set_last_seq(&mut self, name: &TopicName, seq: u64) {
        let Some(topic) = self.topics.get_mut(name) else { return };
        topic.last_seq = seq;
        if !std::mem::replace(&mut topic.dirty, true) {
            self.dirty.push(name.clone());
        }
    }

    /// Takes the topics whose highest sequence is not stored yet, with their ids and that sequence. They count as stored afterwards.
    pub fn take_dirty(&mut self) -> Vec<(TopicName, Id, u64)> {
        let mut dirty = Vec::with_capacity(self.dirty.len());
        for name in std::mem::take(&mut self.dirty) {
            if let Some(topic) = self.topics.get_mut(&name) {
                topic.dirty = false;
                dirty.push((name, topic.id, topic.last_seq));
            }
        }
        dirty
    }
}

/// The ids of topics, for reading threads. A new topic is added before its events count as written, so a reader that knows an event
/// also finds its topic.
#[derive(Debug, Default)]
pub struct TopicIds<Id>(RwLock<HashMap<TopicName, Id>>);

impl<Id: Copy> TopicIds<Id> {
    /// The id of a topic.
    pub fn get(&self, name: &TopicName) -> Option<Id> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(name).copied()
    }

    /// Adds topics, and removes those without an id, in order.
    pub fn apply(&self, changes: impl IntoIterator<Item = (TopicName, Option<Id>)>) {
        let mut changes = changes.into_iter().peekable();
        if changes.peek().is_none() {
            return;
        }
        let mut topics = self.0.write().unwrap_or_else(PoisonError::into_inner);
        for (name, id) in changes {
            match id {
                Some(id) => topics.insert(name, id),
                None => topics.remove(&name),
            };
        }
        // Many short-lived topics must not leave a large, empty table behind.
        if topics.capacity() > 64 && topics.len() < topics.capacity() / 8 {
            topics.shrink_to_fit();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sequence_is_stored_once_however_often_it_grows() {
        let name = TopicName::new("t").unwrap();
        let mut topics = Topics::default();
        topics.insert(name.clone(), Topic::new(7_u32, 3));
        topics.used(&name, 2);
        assert!(topics.take_dirty().is_empty(), "a lower sequence changes nothing");
        topics.used(&name, 5);
        topics.used(&name, 6);
        assert_eq!(topics.take_dirty(), [(name.clone(), 7, 6)]);
        assert!(topics.take_dirty().is_empty(), "it was stored");
    }
}
