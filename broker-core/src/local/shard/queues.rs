//! The topics of a shard together with the turn that is changing them.
//!
//! Functions on [`Queues`] change topics and record what has to be stored and answered. They cannot reach clients, the storage or
//! other shards; these belong to [`Shard`](super::Shard).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::purge::Draining;
use super::timers::{Timer, Timers};
use crate::engine::Refusal;
use crate::event::Millis;
use crate::local::shared::Shared;
use crate::local::topics::{TopicAt, TopicTable};
use crate::local::turn::Turn;
use crate::name::TopicName;
use crate::policy::{Policies, TopicPolicy};
use crate::queue::{SubscriptionId, Topic};
use crate::storage::Mutation;

/// The topics of a shard, their timers and drains, and the turn that is changing them.
pub(super) struct Queues {
    pub(super) topics: TopicTable,
    pub(super) policies: Policies,
    pub(super) timers: Timers,
    pub(super) draining: Draining,
    pub(super) turn: Turn,
    /// This shard's share of the shared count of empty topics.
    reported: usize,
    /// Whether a topic was created beyond the limit, so that other shards have to forget some of theirs.
    pub(super) wants_room: bool,
    shared: Arc<Shared>,
}

impl Queues {
    pub(super) fn new(topics: TopicTable, shared: Arc<Shared>) -> Self {
        let mut turn = Turn::default();
        turn.begin(shared.clock.now());
        let (timers, draining) = (Timers::default(), Draining::default());
        let mut queues = Self {
            topics,
            policies: shared.policies(),
            timers,
            draining,
            turn,
            reported: 0,
            wants_room: false,
            shared,
        };
        for at in queues.topics.places() {
            // Events that recovery found to be settled are released with the first turn.
            queues.turn.touch(at);
            // Timers have to run although no consumer is attached yet.
            for sub in queues.topics.get(at).map(Topic::subscription_ids).unwrap_or_default() {
                queues.schedule(at, sub);
            }
        }
        queues
    }

    /// Applies `f` to the topic at `at`, with the time of the turn, and notes that the topic has changed.
    pub(super) fn with<T>(&mut self, at: TopicAt, f: impl FnOnce(&mut Topic, Millis) -> T) -> Option<T> {
        let now = self.turn.now();
        let result = self.topics.change(at, |topic| f(topic, now))?;
        self.turn.touch(at);
        Some(result)
    }

    /// Collects the changes that a topic has to store. This must happen before a subscription is removed, because its changes
    /// refer to it by place, and the place may be reused.
    pub(super) fn drain_changes(&mut self, at: TopicAt) {
        let turn = &mut self.turn;
        self.topics.change(at, |topic| turn.drain_changes(topic));
    }

    /// Adds the records of up to `most` deliveries of a topic to the turn. Returns the number of deliveries examined.
    pub(super) fn record_deliveries(&mut self, at: TopicAt, most: usize) -> usize {
        let turn = &mut self.turn;
        self.topics.change(at, |topic| turn.record_deliveries(topic, most)).unwrap_or(0)
    }

    /// Sets the timer of a subscription to its next change.
    pub(super) fn schedule(&mut self, at: TopicAt, sub: SubscriptionId) {
        let next = self.topics.get(at).and_then(|topic| topic.next_change(sub));
        self.timers.set(at, Timer::Subscription(sub), next);
    }

    /// Sets the timer of a topic as a whole to its next change.
    pub(super) fn schedule_topic(&mut self, at: TopicAt) {
        let next = self.topics.get(at).and_then(Topic::next_own_change);
        self.timers.set(at, Timer::Topic, next);
    }

    /// The name of the dead-letter topic of `topic`, if it can have one.
    pub(super) fn dead_letter_of(&self, topic: &TopicName) -> Option<TopicName> {
        self.policies.of(topic).dead_letter_of(topic)
    }

    /// The topic called `name`, created if its policy allows that.
    pub(super) fn find_or_create(&mut self, name: &TopicName) -> Result<TopicAt, Refusal> {
        if let Some(at) = self.topics.find(name) {
            return Ok(at);
        }
        if self.is_unknown(name) {
            return Err(Refusal::UnknownTopic(name.clone()));
        }
        self.create(name, self.policies.of(name))
    }

    /// Whether the topic does not exist and may not be created by using it.
    pub(super) fn is_unknown(&self, name: &TopicName) -> bool {
        let policies = &self.policies;
        self.topics.find(name).is_none() && !policies.of(name).auto_create && !policies.names(name)
    }

    /// Creates a topic that does not exist. At the limit, empty topics are forgotten: those of this shard at once, those of other
    /// shards soon. Until then they do not count.
    pub(super) fn create(&mut self, name: &TopicName, policy: TopicPolicy) -> Result<TopicAt, Refusal> {
        if self.shared.topics.take().is_err() {
            self.forget_topics();
            let elsewhere = self.shared.forgettable.load(Ordering::Relaxed);
            let too_many = |most| Refusal::TooMany(format!("there are {most} topics already"));
            self.shared.topics.take_beyond(elsewhere).map_err(too_many)?;
            self.wants_room = self.shared.topics.is_exceeded();
        }
        Ok(self.topics.insert(Topic::new(name.clone(), policy)))
    }

    /// Forgets the empty topics, in memory and in the storage.
    pub(super) fn forget_topics(&mut self) {
        for name in self.topics.forget() {
            self.shared.topics.give_back();
            self.turn.push(Mutation::forgotten(name));
        }
        self.report_forgettable();
    }

    /// Publishes the number of this shard's empty topics to the other shards.
    pub(super) fn report_forgettable(&mut self) {
        let now = self.topics.forgettable();
        if now >= self.reported {
            self.shared.forgettable.fetch_add(now - self.reported, Ordering::Relaxed);
        } else {
            self.shared.forgettable.fetch_sub(self.reported - now, Ordering::Relaxed);
        }
        self.reported = now;
    }

    /// The limit on the longest delivery of an event, in bytes.
    pub(super) fn max_output_line_bytes(&self) -> usize {
        self.shared.max_output_line_bytes
    }

    /// Counts one more subscription.
    pub(super) fn admit_subscription(&self) -> Result<(), Refusal> {
        let too_many = |most| Refusal::TooMany(format!("there are {most} subscriptions already"));
        self.shared.subscriptions.take().map_err(too_many)
    }

    /// Counts one subscription less.
    pub(super) fn dismiss_subscription(&self) {
        self.shared.subscriptions.give_back();
    }
}
