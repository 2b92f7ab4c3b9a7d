//! One shard's part of recovery: applies records to topics.

use std::sync::PoisonError;
use std::sync::mpsc::Receiver;

use super::AllReleased;
use crate::event::Seq;
use crate::local::topics::{TopicAt, TopicTable};
use crate::name::{IdKey, TopicName};
use crate::policy::Policies;
use crate::queue::Topic;
use crate::storage::{Mutation, Place};

pub(super) struct Worker {
    topics: TopicTable,
    /// The topic of the latest record. Most records concern the same topic as the one before.
    latest: Option<TopicAt>,
    policies: Policies,
    released: AllReleased,
}

impl Worker {
    pub(super) fn new(policies: Policies, budget: usize, released: AllReleased) -> Self {
        Self { topics: TopicTable::new(budget), latest: None, policies, released }
    }

    /// Applies batches until their sender is dropped. Returns the topics, and the names of the empty ones, which are forgotten.
    pub(super) fn run(mut self, inbox: &Receiver<Vec<(Mutation, Place)>>) -> (TopicTable, Vec<TopicName>) {
        for batch in inbox {
            for (mutation, place) in batch {
                self.apply(mutation, place);
            }
        }
        for at in self.topics.places() {
            self.topics.change(at, Topic::finish_recovery);
        }
        let forgotten = self.topics.forget();
        self.topics.reclaim();
        (self.topics, forgotten)
    }

    fn apply(&mut self, mutation: Mutation, place: Place) {
        match mutation {
            Mutation::Topic { topic, last_seq: Seq(0) } => self.forget(&topic),
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
            Mutation::Redeliver { topic, subscription, events } => self.with(&topic, |topic, _| {
                events.into_iter().for_each(|redelivery| topic.restore_redelivery(&subscription, redelivery));
            }),
            Mutation::Forget { topic, events } => self.with(&topic, |topic, _| {
                events.into_iter().for_each(|key| topic.restore_forgotten(key));
            }),
            Mutation::Cursor { .. } | Mutation::Release { .. } => {}
        }
    }

    /// Forgets an empty topic. A later topic of the same name starts from scratch.
    fn forget(&mut self, name: &TopicName) {
        let Some(at) = self.topics.find(name) else { return };
        if self.topics.forget_at(at) {
            // During recovery no commit, read or errand refers to its place.
            self.topics.reclaim();
            self.latest = None;
        }
    }

    /// Applies `f` to a topic, creating it if missing, with whether payloads may be kept in memory. Collects the events that
    /// the topic releases, and stays within the memory budget.
    fn with(&mut self, name: &TopicName, f: impl FnOnce(&mut Topic, bool)) {
        let at = match self.latest.filter(|at| self.topics.is_still(*at, name)).or_else(|| self.topics.find(name)) {
            Some(at) => at,
            None => self.topics.insert(Topic::new(name.clone(), self.policies.of(name))),
        };
        self.latest = Some(at);
        let (keep, released) = (self.topics.has_room_for_payloads(), &self.released);
        self.topics.change(at, |topic| {
            f(topic, keep);
            if topic.has_released() {
                let mut released = released.lock().unwrap_or_else(PoisonError::into_inner);
                released.extend(topic.take_released().map(|one| (name.clone(), one)));
            }
        });
        self.topics.stay_in_budget();
    }
}
