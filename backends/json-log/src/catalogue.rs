//! The catalogue at the start of every segment: topics, durable subscriptions and cursors. Their own records are spread over older
//! segments, which may have been freed.

use std::collections::HashMap;

use broker_core::event::Seq;
use broker_core::name::{SubscriptionName, TopicName};
use broker_core::storage::Mutation;
use broker_core::table::Table;

use crate::format::{CatalogueLine, encode_catalogue_line};

/// The topics with their last sequence, the durable subscriptions, and the cursors of sources.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Catalogue {
    topics: Table<TopicName, TopicState>,
    cursors: HashMap<String, String>,
    subscriptions: usize,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct TopicState {
    last_seq: Seq,
    subscriptions: HashMap<SubscriptionName, Seq>,
}

impl Catalogue {
    /// The highest sequence that `topic` has used.
    pub(crate) fn last_seq(&self, topic: &TopicName) -> Seq {
        self.topics.get(topic).map_or(Seq(0), |state| state.last_seq)
    }

    /// Whether it holds this durable subscription, created at `since`.
    pub(crate) fn has(&self, topic: &TopicName, subscription: &SubscriptionName, since: Seq) -> bool {
        self.topics.get(topic).is_some_and(|state| state.subscriptions.get(subscription) == Some(&since))
    }

    /// Applies a mutation.
    pub(crate) fn apply(&mut self, mutation: &Mutation) {
        match mutation {
            Mutation::Publish(event) | Mutation::Rewrite { event, .. } => {
                let state = self.topic(&event.topic);
                state.last_seq = state.last_seq.max(event.key.seq);
            }
            Mutation::Topic { topic, last_seq: Seq(0) } => {
                if self.topics.get(topic).is_some_and(|state| state.subscriptions.is_empty()) {
                    self.topics.remove(topic);
                }
            }
            Mutation::Topic { topic, last_seq } => {
                let state = self.topic(topic);
                state.last_seq = state.last_seq.max(*last_seq);
            }
            Mutation::Subscribe { topic, subscription, since } => {
                let state = self.topic(topic);
                state.last_seq = state.last_seq.max(*since);
                if state.subscriptions.insert(subscription.clone(), *since).is_none() {
                    self.subscriptions += 1;
                }
            }
            Mutation::Unsubscribe { topic, subscription } => {
                if let Some(state) = self.topics.get_mut(topic)
                    && state.subscriptions.remove(subscription).is_some()
                {
                    self.subscriptions -= 1;
                }
            }
            Mutation::Cursor { source, value } => match self.cursors.get_mut(source) {
                Some(known) => known.clone_from(value),
                None => {
                    self.cursors.insert(source.clone(), value.clone());
                }
            },
            Mutation::Settle { .. }
            | Mutation::Redeliver { .. }
            | Mutation::Forget { .. }
            | Mutation::Release { .. } => {}
        }
    }

    fn topic(&mut self, topic: &TopicName) -> &mut TopicState {
        // `entry` would clone the name for every event.
        if !self.topics.contains_key(topic) {
            self.topics.insert(topic.clone(), TopicState::default());
        }
        self.topics.get_mut(topic).expect("it was put there if it was missing")
    }

    /// The number of its lines.
    pub(crate) fn lines(&self) -> u64 {
        (self.topics.len() + 2 * self.subscriptions + self.cursors.len()) as u64
    }

    /// Appends its lines: each topic before its subscriptions, and all subscriptions once more at the end. The oldest segment may
    /// hold the only record of a subscription, and a single damaged line must not lose every event waiting for it.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        let mut left = self.lines();
        let mut push = |line: CatalogueLine<'_>| {
            left -= 1;
            encode_catalogue_line(out, line, left);
        };
        for (topic, state) in &self.topics {
            push(CatalogueLine::Topic { topic, last_seq: state.last_seq });
            for (subscription, since) in &state.subscriptions {
                push(CatalogueLine::Subscription { topic, subscription, since: *since });
            }
        }
        for (source, value) in &self.cursors {
            push(CatalogueLine::Cursor { source, value });
        }
        for (topic, state) in &self.topics {
            for (subscription, since) in &state.subscriptions {
                push(CatalogueLine::Subscription { topic, subscription, since: *since });
            }
        }
    }

    /// The mutations that turn this state into `recorded`; empty unless records were lost. If `recorded` is `complete`, anything
    /// missing from it was removed; otherwise its own lines may be lost, so nothing is removed.
    ///
    /// Topics missing from `recorded` are forgotten last, because the records that removed their subscriptions may be lost as well.
    pub(crate) fn differences(&self, recorded: &Self, complete: bool) -> Vec<Mutation> {
        let mut out = Vec::new();
        for (topic, state) in &recorded.topics {
            if self.topics.get(topic).is_none_or(|known| known.last_seq < state.last_seq) {
                out.push(Mutation::Topic { topic: topic.clone(), last_seq: state.last_seq });
            }
        }
        let since_of = |catalogue: &Self, topic: &TopicName, subscription: &SubscriptionName| {
            catalogue.topics.get(topic).and_then(|state| state.subscriptions.get(subscription)).copied()
        };
        for (topic, state) in &self.topics {
            for (subscription, since) in &state.subscriptions {
                let (topic, subscription) = (topic.clone(), subscription.clone());
                match since_of(recorded, &topic, &subscription) {
                    Some(recorded) if recorded == *since => {}
                    None if !complete => {}
                    // Removed, and perhaps created again: the record of its removal was lost.
                    _ => out.push(Mutation::Unsubscribe { topic, subscription }),
                }
            }
        }
        for (topic, state) in &recorded.topics {
            for (subscription, since) in &state.subscriptions {
                if since_of(self, topic, subscription) != Some(*since) {
                    let (topic, subscription) = (topic.clone(), subscription.clone());
                    out.push(Mutation::Subscribe { topic, subscription, since: *since });
                }
            }
        }
        let forgotten = self.topics.keys().filter(|topic| !recorded.topics.contains_key(*topic));
        out.extend(forgotten.filter(|_| complete).map(|topic| Mutation::forgotten(topic.clone())));
        for (source, value) in &recorded.cursors {
            if self.cursors.get(source) != Some(value) {
                out.push(Mutation::Cursor { source: source.clone(), value: value.clone() });
            }
        }
        out
    }
}
