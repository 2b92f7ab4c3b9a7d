//! Deliveries: making events visible, choosing the next one, and reading payloads back for it.

use std::sync::Arc;

use super::Shard;
use super::clients::Attachment;
use super::errands::{READ_RETRY, read_keys};
use crate::engine::Delivery;
use crate::event::{EventKey, Payload, Seq};
use crate::local::topics::TopicAt;
use crate::queue::{ClientId, Next, SubscriptionId, Topic};
use crate::storage::{Place, Storage, StorageError};

/// Payloads that were read for a subscription.
pub(super) struct Loaded {
    at: TopicAt,
    sub: SubscriptionId,
    payloads: Result<Vec<(EventKey, Place, Option<Payload>)>, StorageError>,
}

impl<S: Storage + ?Sized> Shard<S> {
    /// Makes a topic's events up to `seq` visible, one at a time in the order they were published, and delivers after each. A
    /// waiting consumer receives the first event of a batch, as it would if commits took no time, and not the most urgent one.
    pub(super) fn show(&mut self, at: TopicAt, seq: Seq) {
        let Some(topic) = self.queues.topics.get(at) else { return };
        let all = topic.hungry();
        let mut hungry = all.clone();
        while !hungry.is_empty()
            && let Some(next) = self.queues.topics.get(at).and_then(Topic::next_invisible).filter(|next| *next < seq)
        {
            self.queues.topics.change(at, |topic| topic.set_visible(next));
            for sub in &hungry {
                self.deliver_next(at, *sub);
            }
            if let Some(topic) = self.queues.topics.get(at) {
                hungry.retain(|sub| topic.is_hungry(*sub));
            }
        }
        self.queues.topics.change(at, |topic| topic.set_visible(seq));
        for sub in all {
            self.pump(at, sub);
        }
    }

    /// Delivers the events of a subscription for as long as there are events and consumers that can take them.
    pub(super) fn pump(&mut self, at: TopicAt, sub: SubscriptionId) {
        while self.deliver_next(at, sub) {}
        self.queues.turn.touch(at);
        self.queues.schedule(at, sub);
    }

    /// Delivers the next event of a subscription. Returns false if there is none or no consumer can take it.
    fn deliver_next(&mut self, at: TopicAt, sub: SubscriptionId) -> bool {
        if self.closing || self.shared.failure().is_some() {
            return false;
        }
        let (now, clients) = (self.queues.turn.now(), &mut self.clients);
        let next = self.queues.topics.change(at, |topic| topic.next(sub, now, |client| clients.has_room(client, at)));
        match next {
            Some(Next::Delivery { client, payload, redelivered }) => {
                let delivery = Delivery { payload, redelivered };
                if !self.idle.is_empty() {
                    self.answer_before_delivery(client, at, sub);
                }
                self.clients.count(client, delivery.cost());
                self.queues.turn.deliver(client, delivery);
                true
            }
            Some(Next::Load(keys)) => {
                self.load(at, sub, keys);
                false
            }
            Some(Next::Nothing) | None => false,
        }
    }

    /// Serves a client whose output has room again, for as long as it has.
    pub(super) fn resume(&mut self, client: ClientId) {
        // A topic that still has too much is marked again and comes last; each is visited once.
        for _ in 0..self.clients.unserved(client) {
            let Some(at) = self.clients.next_unserved(client) else { return };
            // The client may have left the topic.
            let Some(Attachment { sub, consumer, .. }) = self.clients.attachment(client, at) else { continue };
            self.queues.with(at, |topic, _| topic.resume(sub, consumer));
            self.pump(at, sub);
        }
    }

    // ---- Reading back ----

    /// Reads payloads that are not in memory. The subscription delivers nothing until they have arrived.
    fn load(&self, at: TopicAt, sub: SubscriptionId, keys: Vec<(EventKey, Place)>) {
        let Some(topic) = self.queues.topics.get(at) else { return };
        let name = topic.name().clone();
        let storage = Arc::clone(&self.storage);
        self.errands.load(async move {
            let payloads = storage.read(read_keys(&name, &keys)).await;
            if payloads.is_err() {
                tokio::time::sleep(READ_RETRY).await;
            }
            let payloads = payloads.map(|payloads| {
                keys.into_iter().zip(payloads).map(|((key, place), payload)| (key, place, payload)).collect()
            });
            Loaded { at, sub, payloads }
        });
    }

    /// Takes in payloads that were read and continues to deliver. After a failed read the subscription asks for them again.
    pub(super) fn loaded(&mut self, loaded: Loaded) {
        let Loaded { at, sub, payloads } = loaded;
        let payloads = payloads.unwrap_or_else(|error| {
            tracing::warn!(%error, "read failed, retrying");
            Vec::new()
        });
        let lost = self.queues.with(at, |topic, _| topic.loaded(Some(sub), payloads)).unwrap_or(0);
        if lost > 0 {
            let topic = self.queues.topics.get(at).map(Topic::name);
            tracing::error!(?topic, lost, "events dropped: their records are damaged");
        }
        if self.queues.topics.get(at).is_some_and(|topic| topic.has(sub)) {
            self.pump(at, sub);
        }
    }
}
