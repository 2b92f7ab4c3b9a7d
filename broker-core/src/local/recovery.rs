//! Rebuilds the queues from what a storage hands back.

use std::collections::HashMap;

use crate::name::{IdKey, TopicName};
use crate::policy::Policies;
use crate::queue::{Memory, Released, Topic};
use crate::storage::{Mutation, Place, Recovery, StorageError};

/// What came of recovery: each shard's topics, and the cursors.
pub(super) struct Recovered {
    pub(super) shards: Vec<Vec<Topic>>,
    pub(super) cursors: HashMap<String, String>,
    /// What the storage has to be told that it can free.
    pub(super) released: Vec<Mutation>,
}

pub(super) struct Recoverer {
    shards: Vec<HashMap<TopicName, Topic>>,
    /// What each shard's events cost in memory; payloads are kept while the budget of a shard has room.
    memory: Vec<Memory>,
    budget: usize,
    policies: Policies,
    cursors: HashMap<String, String>,
    released: Vec<(TopicName, Released)>,
}

impl Recoverer {
    pub(super) fn new(shards: usize, policies: Policies, budget: usize) -> Self {
        Self {
            shards: std::iter::repeat_with(HashMap::new).take(shards).collect(),
            memory: vec![Memory::default(); shards],
            budget,
            policies,
            cursors: HashMap::new(),
            released: Vec::new(),
        }
    }

    pub(super) fn finish(self) -> Recovered {
        let finish = |mut topic: Topic| {
            topic.finish_recovery();
            topic
        };
        let shards = self.shards.into_iter().map(|topics| topics.into_values().map(finish).collect()).collect();
        let released = self.released.into_iter();
        let released =
            released.map(|(topic, Released { key, place })| Mutation::Release { topic, key, place }).collect();
        Recovered { shards, cursors: self.cursors, released }
    }

    /// Does something with a topic, making it if it is new, and keeps the count of what is in memory.
    fn with(&mut self, name: &TopicName, f: impl FnOnce(&mut Topic, bool)) {
        let shard = name.shard(self.shards.len());
        let topics = &mut self.shards[shard];
        if !topics.contains_key(name) {
            topics.insert(name.clone(), Topic::new(name.clone(), self.policies.of(name)));
        }
        let Some(topic) = topics.get_mut(name) else { return };
        let before = topic.memory();
        let memory = self.memory[shard];
        f(topic, memory.payloads < memory.room_for_payloads(self.budget));
        let memory = &mut self.memory[shard];
        memory.change(before, topic.memory());
        self.released.extend(topic.take_released().map(|released| (name.clone(), released)));
        memory.stay_within(self.budget, |excess| {
            let largest = topics.values_mut().max_by_key(|topic| topic.memory().payloads);
            largest.map_or(0, |topic| topic.evict(excess))
        });
    }
}

impl Recovery for Recoverer {
    fn replay(&mut self, mutation: Mutation, place: Place) -> Result<(), StorageError> {
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
            Mutation::Cursor { source, value } => {
                self.cursors.insert(source, value);
            }
            Mutation::Release { .. } => {}
        }
        Ok(())
    }

    fn take_released(&mut self) -> Vec<Place> {
        self.released.drain(..).map(|(_, released)| released.place).collect()
    }
}
