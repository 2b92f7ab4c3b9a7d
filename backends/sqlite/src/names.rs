//! Names, and the numbers that stand for them in rows. All of them are in memory: there are as many as the configuration allows
//! topics and subscriptions.

use std::collections::HashMap;

use broker_core::name::{SubscriptionName, TopicName};

/// A topic.
#[derive(Debug, Default)]
pub(crate) struct Topic {
    pub(crate) id: i64,
    pub(crate) last_seq: u64,
    /// Its durable subscriptions.
    pub(crate) subscriptions: HashMap<SubscriptionName, Subscription>,
    /// Whether it is in the list of those whose `last_seq` is to be stored.
    pub(crate) dirty: bool,
}

/// A subscription.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Subscription {
    pub(crate) id: i64,
    /// It holds the events with a sequence above this one.
    pub(crate) since: u64,
}

/// What the writer knows of names.
#[derive(Debug, Default)]
pub(crate) struct Names {
    pub(crate) topics: HashMap<TopicName, Topic>,
    /// Topics whose `last_seq` is not stored as it is.
    dirty: Vec<TopicName>,
}

impl Names {
    /// Takes note that the topic has used a sequence.
    pub(crate) fn used(&mut self, name: &TopicName, seq: u64) {
        if let Some(topic) = self.topics.get_mut(name)
            && topic.last_seq < seq
        {
            topic.last_seq = seq;
            if !std::mem::replace(&mut topic.dirty, true) {
                self.dirty.push(name.clone());
            }
        }
    }

    /// The topics whose latest sequence is to be stored; it is taken as done.
    pub(crate) fn take_dirty(&mut self) -> Vec<(TopicName, i64, u64)> {
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
