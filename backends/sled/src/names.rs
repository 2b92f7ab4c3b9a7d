//! Names, and the numbers that stand for them in keys. All of them are in memory: there are as many as the configuration allows
//! topics and subscriptions.

use std::collections::HashMap;

use broker_core::name::{SubscriptionName, TopicName};

use crate::record::Numbers;

/// A topic.
#[derive(Debug, Default)]
pub(crate) struct Topic {
    pub(crate) number: u32,
    pub(crate) last_seq: u64,
    /// Its durable subscriptions.
    pub(crate) subscriptions: HashMap<SubscriptionName, Subscription>,
    /// Whether it is in the list of those whose `last_seq` is to be stored.
    pub(crate) dirty: bool,
}

/// A subscription.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Subscription {
    pub(crate) number: u32,
    /// It holds the events with a sequence above this one.
    pub(crate) since: u64,
}

/// A source.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Source {
    pub(crate) number: u32,
    /// In how many parts, beyond its first value, its cursor is stored.
    pub(crate) parts: u16,
}

/// What the writer knows of names.
#[derive(Debug, Default)]
pub(crate) struct Names {
    /// The number of the latest group of batches.
    pub(crate) group: u64,
    /// To be given out next.
    pub(crate) numbers: Numbers,
    pub(crate) topics: HashMap<TopicName, Topic>,
    pub(crate) sources: HashMap<String, Source>,
    /// Topics whose `last_seq` is not stored as it is.
    pub(crate) dirty: Vec<TopicName>,
    /// Whether any event was ever stored in parts; while none was, releasing one need not look for them.
    pub(crate) has_parts: bool,
}

impl Names {
    /// Takes note that the topic has used a sequence.
    pub(crate) fn used(&mut self, topic: &TopicName, seq: u64) {
        if self.topics.get(topic).is_some_and(|topic| topic.last_seq < seq) {
            self.set_last_seq(topic, seq);
        }
    }

    /// Sets a topic's latest sequence, and sees to it that it is stored.
    pub(crate) fn set_last_seq(&mut self, name: &TopicName, seq: u64) {
        let Some(topic) = self.topics.get_mut(name) else { return };
        topic.last_seq = seq;
        if !std::mem::replace(&mut topic.dirty, true) {
            self.dirty.push(name.clone());
        }
    }
}
