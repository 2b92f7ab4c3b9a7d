//! A shard's part of recovery: its topics as they are rebuilt.

use std::sync::PoisonError;
use std::sync::mpsc::Receiver;

use super::AllReleased;
use crate::name::{IdKey, TopicName};
use crate::policy::Policies;
use crate::queue::{Memory, Topic};
use crate::storage::{Mutation, Place};
use crate::table::Table;

pub(super) struct Worker {
    topics: Vec<Topic>,
    by_name: Table<TopicName, usize>,
    /// The topic of the latest mutation: most are about the same as the one before.
    latest: usize,
    /// What the events cost in memory; payloads are kept while the budget has room.
    memory: Memory,
    budget: usize,
    policies: Policies,
    released: AllReleased,
}

impl Worker {
    pub(super) fn new(policies: Policies, budget: usize, released: AllReleased) -> Self {
        let (topics, by_name, memory) = (Vec::new(), Table::default(), Memory::default());
        Self { topics, by_name, latest: 0, memory, budget, policies, released }
    }

    /// Takes batches until there are no more. Returns the topics.
    pub(super) fn run(mut self, inbox: &Receiver<Vec<(Mutation, Place)>>) -> Vec<Topic> {
        for batch in inbox {
            for (mutation, place) in batch {
                self.apply(mutation, place);
            }
        }
        self.topics.iter_mut().for_each(Topic::finish_recovery);
        self.topics
    }

    fn apply(&mut self, mutation: Mutation, place: Place) {
        match mutation {
            Mutation::Topic { topic, last_seq } => self.with(&topic, |topic, _| topic.restore_last_seq(last_seq)),
            Mutation::Subscribe { topic, subscription, since } => {
                self.with(&topic, |topic, _| topic.restore_subscription(subscription, since));
            }
            Mutation::Unsubscribe { topic, subscription } => {
                self.with(&topic, |topic, _| topic.restore_unsubscribed(&subscription));
            }
            Mutation::Publish(event) => self.with(&event.topic, |topic, keep| {
                let id = IdKey::of(&event.payload.id());
                topic.restore_event(&event, id, place, None, keep);
            }),
            Mutation::Rewrite { event, holders } => self.with(&event.topic, |topic, keep| {
                let id = IdKey::of(&event.payload.id());
                topic.restore_event(&event, id, place, Some(&holders), keep);
            }),
            Mutation::Settle { topic, subscription, events } => self.with(&topic, |topic, _| {
                events.into_iter().for_each(|key| topic.restore_settled(&subscription, key));
            }),
            Mutation::Requeue { topic, subscription, events } => self.with(&topic, |topic, _| {
                events.into_iter().for_each(|requeued| topic.restore_requeued(&subscription, requeued));
            }),
            Mutation::Forget { topic, events } => self.with(&topic, |topic, _| {
                events.into_iter().for_each(|key| topic.restore_forgotten(key));
            }),
            Mutation::Cursor { .. } | Mutation::Release { .. } => {}
        }
    }

    /// Does something with a topic, making it if it is new, and keeps the count of what is in memory.
    fn with(&mut self, name: &TopicName, f: impl FnOnce(&mut Topic, bool)) {
        if self.topics.get(self.latest).is_none_or(|topic| topic.name() != name) {
            self.latest = *self.by_name.entry(name.clone()).or_insert_with(|| {
                self.topics.push(Topic::new(name.clone(), self.policies.of(name)));
                self.topics.len() - 1
            });
        }
        let topic = &mut self.topics[self.latest];
        let before = topic.memory();
        f(topic, self.memory.payloads < self.memory.room_for_payloads(self.budget));
        self.memory.change(before, topic.memory());
        if topic.has_released() {
            let mut released = self.released.lock().unwrap_or_else(PoisonError::into_inner);
            released.extend(topic.take_released().map(|released| (name.clone(), released)));
        }
        let topics = &mut self.topics;
        self.memory.stay_within(self.budget, |excess| {
            let largest = topics.iter_mut().max_by_key(|topic| topic.memory().payloads);
            largest.map_or(0, |topic| topic.evict(excess))
        });
    }
}
