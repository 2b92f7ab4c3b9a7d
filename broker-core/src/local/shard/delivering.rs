//! Events on their way out, payloads that have to be read first, and what happens by the passing of time.

use std::sync::Arc;
use std::time::Duration;

use super::super::turn::TopicAt;
use super::{Client, Shard};
use crate::engine::{Delivery, Outcome};
use crate::event::{EventKey, Millis, Payload, Seq};
use crate::queue::{Next, SubscriptionId};
use crate::storage::{Place, ReadKey, Storage, StorageError};

/// Events that ended subscriptions let go of between two turns, when there is nothing else to do.
pub(super) const DRAIN: usize = 4096;

/// The same when there is.
pub(super) const DRAIN_BESIDES: usize = 256;

/// Holds on events that are looked at for expiry between two turns.
const EXPIRE: usize = 1024;

/// Events that come due in one topic between two turns.
const DUE: usize = 1024;

/// Timers that are looked at between two turns.
const TIMERS: usize = 256;

/// Stands in the timers for the topic itself.
const OWN: SubscriptionId = SubscriptionId(usize::MAX);

/// How long after a failed read it is tried again.
pub(super) const READ_RETRY: Duration = Duration::from_millis(500);

/// Payloads that were read for a subscription.
pub(super) struct Loaded {
    topic: TopicAt,
    sub: SubscriptionId,
    payloads: Result<Vec<(EventKey, Place, Option<Payload>)>, StorageError>,
}

impl<S: Storage + ?Sized> Shard<S> {
    /// Makes a topic's events up to `seq` visible, one after the other as they were published: a consumer that waits gets the
    /// first of them, as if committing took no time, and not whichever of the batch is the most urgent.
    pub(super) fn show(&mut self, at: TopicAt, seq: Seq) {
        let Some(topic) = self.topics[at].as_mut() else { return };
        let all = topic.hungry();
        let mut hungry = all.clone();
        while !hungry.is_empty()
            && let Some(next) =
                self.topics[at].as_ref().and_then(|topic| topic.next_invisible()).filter(|next| *next < seq)
        {
            if let Some(topic) = &mut self.topics[at] {
                topic.set_visible(next);
            }
            for sub in &hungry {
                self.deliver_next(at, *sub);
            }
            if let Some(topic) = &self.topics[at] {
                hungry.retain(|sub| topic.is_hungry(*sub));
            }
        }
        if let Some(topic) = &mut self.topics[at] {
            topic.set_visible(seq);
        }
        for sub in all {
            self.pump(at, sub);
        }
    }

    /// Delivers whatever a subscription has for consumers that can take it.
    pub(super) fn pump(&mut self, at: TopicAt, sub: SubscriptionId) {
        while self.deliver_next(at, sub) {}
        self.touched.push(at);
        self.schedule(at, sub);
    }

    /// Delivers the next event of a subscription, if there is one and somebody to take it.
    pub(super) fn deliver_next(&mut self, at: TopicAt, sub: SubscriptionId) -> bool {
        if self.closing || self.shared.failure().is_some() {
            return false;
        }
        let Some(topic) = self.topics[at].as_mut() else { return false };
        let clients = &mut self.clients;
        let has_room = |client| {
            let Some(client): Option<&mut Client> = clients.get_mut(&client) else { return false };
            let has_room = client.gauge.has_room();
            if !has_room {
                client.unserved.push(at);
            }
            has_room
        };
        // Looking for the next event settles those that have expired.
        let before = topic.memory();
        let next = topic.next(sub, self.now, has_room);
        self.memory.change(before, topic.memory());
        match next {
            Next::Delivery { client, payload, redelivered } => {
                let delivery = Delivery { payload, redelivered };
                if !self.undecided.is_empty() {
                    self.answer_before_delivery(client, at, sub);
                }
                if let Some(state) = self.clients.get(&client) {
                    state.gauge.add(delivery.cost());
                }
                self.effects.outbox.delivery(client, delivery);
                true
            }
            Next::Load(keys) => {
                self.load(at, sub, keys);
                false
            }
            Next::Nothing => false,
        }
    }

    /// Reads payloads back for a subscription.
    pub(super) fn load(&mut self, at: TopicAt, sub: SubscriptionId, keys: Vec<(EventKey, Place)>) {
        let Some(topic) = &self.topics[at] else { return };
        let name = topic.name().clone();
        let storage = Arc::clone(&self.storage);
        self.loads.push(Box::pin(async move {
            let read =
                keys.iter().map(|(key, place)| ReadKey { topic: name.clone(), key: *key, place: *place }).collect();
            let payloads = storage.read(read).await;
            if payloads.is_err() {
                tokio::time::sleep(READ_RETRY).await;
            }
            let payloads = payloads.map(|payloads| {
                keys.into_iter().zip(payloads).map(|((key, place), payload)| (key, place, payload)).collect()
            });
            Loaded { topic: at, sub, payloads }
        }));
    }

    pub(super) fn loaded(&mut self, loaded: Loaded) {
        let payloads = match loaded.payloads {
            Ok(payloads) => payloads,
            Err(error) => {
                tracing::warn!(%error, "reading events back failed; trying again");
                Vec::new()
            }
        };
        let lost = self.with(loaded.topic, |topic, _| topic.loaded(Some(loaded.sub), payloads)).unwrap_or(0);
        if lost > 0 {
            let topic = self.topics[loaded.topic].as_ref().map(|topic| topic.name());
            tracing::error!(?topic, lost, "events whose records are damaged were dropped");
        }
        if self.topics[loaded.topic].as_ref().is_some_and(|topic| topic.has(loaded.sub)) {
            self.pump(loaded.topic, loaded.sub);
        }
    }

    pub(super) fn schedule(&mut self, at: TopicAt, sub: SubscriptionId) {
        let next = self.topics[at].as_ref().and_then(|topic| topic.next_change(sub));
        self.set_timer(at, sub, next);
    }

    /// The same for what changes in a topic as a whole.
    pub(super) fn schedule_own(&mut self, at: TopicAt) {
        let next = self.topics[at].as_ref().and_then(|topic| topic.next_own_change());
        self.set_timer(at, OWN, next);
    }

    fn set_timer(&mut self, at: TopicAt, sub: SubscriptionId, next: Option<Millis>) {
        if next.is_none() && self.timers.is_empty() {
            return;
        }
        let scheduled = self.timer_of.get(&(at, sub)).copied();
        if next == scheduled {
            return;
        }
        self.unschedule(at, sub);
        if let Some(next) = next {
            self.timers.insert((next, at, sub));
            self.timer_of.insert((at, sub), next);
        }
    }

    pub(super) fn unschedule(&mut self, at: TopicAt, sub: SubscriptionId) {
        if let Some(time) = self.timer_of.remove(&(at, sub)) {
            self.timers.remove(&(time, at, sub));
        }
    }

    /// Does what is due by now, a part of it if that is much: the rest has its turn when others have had theirs.
    pub(super) fn time_passed(&mut self) {
        let due = self.timers.iter().take_while(|(time, ..)| *time <= self.now).take(TIMERS);
        let due: Vec<_> = due.map(|(_, at, sub)| (*at, *sub)).collect();
        for (at, sub) in due {
            self.unschedule(at, sub);
            if sub == OWN {
                // What is left, and letters that are to be tried again, are seen to at the end of the turn.
                self.with(at, |topic, now| {
                    topic.expire(now, EXPIRE);
                    topic.come_due(now, DUE);
                });
                continue;
            }
            self.with(at, |topic, now| {
                topic.take_back_overdue(sub, now);
                topic.promote(sub, now);
            });
            self.pump(at, sub);
        }
    }

    pub(super) fn drain_leaving(&mut self, most: usize) {
        let Some(at) = self.leaving.pop() else { return };
        if self.with(at, |topic, _| topic.drain_leaving(most)).unwrap_or(false) {
            self.leaving.push(at);
        }
        let purged = self.topics[at].as_mut().map(|topic| topic.take_purged()).unwrap_or_default();
        for (client, slot, count) in purged.into_iter().filter_map(|ticket| self.purges.remove(&ticket)) {
            self.effects.outbox.outcome(client, slot, Outcome::Purged(count));
        }
    }
}
