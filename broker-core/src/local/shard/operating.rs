//! What an operator does to a subscription: looking at what waits in it, and dropping it.
//!
//! Whether a client may do it is decided before its request comes here.

use std::sync::Arc;

use super::super::turn::TopicAt;
use super::Shard;
use super::letters::{Done, read};
use crate::engine::{Delivery, Outcome, Refusal, Slot, Unavailable};
use crate::name::{SubscriptionName, TopicName};
use crate::queue::{ClientId, SubscriptionId};
use crate::storage::{Storage, StorageError};

/// Bytes of events after which a look at what waits ends: ten of the largest, with some room.
const PEEK_BYTES: usize = 16 << 20;

/// Subscriptions that a usage error names.
const NAMED: usize = 20;

impl<S: Storage + ?Sized> Shard<S> {
    pub(super) fn peek(
        &mut self,
        client: ClientId,
        slot: Slot,
        name: &TopicName,
        subscription: Option<&SubscriptionName>,
        most: usize,
    ) {
        let (at, sub) = match self.target(client, name, subscription, "peek <topic> [<subscription>] [<n>]") {
            Ok(target) => target,
            Err(refusal) => return self.effects.outbox.outcome(client, slot, Outcome::Refused(refusal)),
        };
        let peeked = self.with(at, |topic, now| topic.peek(sub, most, PEEK_BYTES, now)).unwrap_or_default();
        let absent = peeked.iter().filter(|event| event.payload.is_none());
        let absent: Vec<_> = absent.filter_map(|event| Some((event.key, event.place?))).collect();
        let storage = Arc::clone(&self.storage);
        let name = name.clone();
        let errand = async move {
            let read = read(&*storage, &name, absent).await;
            let deliveries = read.ok_or_else(StorageError::closed).map(|read| {
                let delivery = |event: crate::queue::Peeked| {
                    let payload = event.payload.or_else(|| read.get(&event.key).cloned())?;
                    Some(Delivery { payload, redelivered: event.redelivered })
                };
                peeked.into_iter().filter_map(delivery).collect()
            });
            Done::Peeked { client, slot, deliveries }
        };
        self.errands.push(Box::pin(errand));
    }

    pub(super) fn peeked(&mut self, client: ClientId, slot: Slot, deliveries: Result<Vec<Delivery>, StorageError>) {
        let outcome = match deliveries {
            Ok(deliveries) => Outcome::Peeked(deliveries),
            Err(error) => Outcome::Refused(Refusal::Unavailable(Unavailable(Arc::from(error.to_string())))),
        };
        self.effects.outbox.outcome(client, slot, outcome);
    }

    pub(super) fn purge(
        &mut self,
        client: ClientId,
        slot: Slot,
        name: &TopicName,
        subscription: Option<&SubscriptionName>,
    ) {
        let (at, sub) = match self.target(client, name, subscription, "purge <topic> [<subscription>]") {
            Ok(target) => target,
            Err(refusal) => return self.effects.outbox.outcome(client, slot, Outcome::Refused(refusal)),
        };
        self.purges_made += 1;
        let ticket = self.purges_made;
        let count = self.with(at, |topic, _| topic.purge(sub, ticket)).unwrap_or(0);
        self.purges.insert(ticket, (client, slot, count));
        if !self.leaving.contains(&at) {
            self.leaving.push(at);
        }
        self.schedule(at, sub);
    }

    /// Which subscription a request is about: the named one; else the client's own; else the topic's only one.
    fn target(
        &self,
        client: ClientId,
        name: &TopicName,
        subscription: Option<&SubscriptionName>,
        usage: &'static str,
    ) -> Result<(TopicAt, SubscriptionId), Refusal> {
        let found = self.by_name.get(name).copied();
        let Some((at, topic)) = found.and_then(|at| Some((at, self.topics[at].as_ref()?))) else {
            return Err(Refusal::NoSuchTopic(name.clone()));
        };
        if let Some(subscription) = subscription {
            let no_such = || Refusal::NoSuchSubscription { topic: name.clone(), name: subscription.clone() };
            return topic.find(subscription).map(|sub| (at, sub)).ok_or_else(no_such);
        }
        let own = self.attachment(client, name).map(|(_, attachment)| attachment.sub);
        if let Some(sub) = own.or_else(|| topic.only_subscription()) {
            return Ok((at, sub));
        }
        let names = topic.subscription_names();
        let nameless = topic.subscriptions() - names.len();
        let topics = if topic.subscriptions() == 0 {
            format!("topic {name} has no subscription")
        } else {
            let mut listed = names.iter().take(NAMED).map(|name| format!("\"{name}\"")).collect::<Vec<_>>();
            if names.len() > NAMED {
                listed.push(format!("{} more", names.len() - NAMED));
            }
            if nameless > 0 {
                listed.push(format!("{nameless} without a name"));
            }
            format!("topic {name} has the subscriptions {}", listed.join(", "))
        };
        Err(Refusal::WhichSubscription { usage, topics })
    }
}
