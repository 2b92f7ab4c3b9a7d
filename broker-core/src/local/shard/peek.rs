//! Peeking, and finding the subscription that an operator's request means.
//!
//! Whether the client may do it has been checked before its request arrives here.

use std::sync::Arc;

use super::Shard;
use super::errands::{Done, read};
use crate::engine::{Delivery, Outcome, Refusal, Unavailable};
use crate::event::EventKey;
use crate::local::topics::TopicAt;
use crate::local::turn::ReplyTo;
use crate::name::{SubscriptionName, TopicName};
use crate::queue::{ClientId, Page, Peeked, SubscriptionId, Topic};
use crate::storage::{Storage, StorageError};

/// Bytes of events after which one answer to a peek ends; the session asks for the next when its client has taken this one.
const PEEK_BYTES: usize = 128 << 10;

/// Subscriptions that a usage error lists.
const LISTED: usize = 20;

/// The events of a peek, with payloads that had to be read.
pub(super) struct PeekResult {
    to: ReplyTo,
    deliveries: Result<Vec<Delivery>, StorageError>,
    next: Option<EventKey>,
}

impl<S: Storage + ?Sized> Shard<S> {
    /// Answers with waiting events of a subscription, without delivering them.
    pub(super) fn peek(
        &mut self,
        to: ReplyTo,
        name: &TopicName,
        subscription: Option<&SubscriptionName>,
        most: usize,
        after: Option<EventKey>,
    ) {
        let (at, sub) = match self.target(
            to.client,
            name,
            subscription,
            "peek <topic> [<subscription>] [<n>] [after <position>]",
        ) {
            Ok(target) => target,
            Err(refusal) => return self.refuse(to, refusal),
        };
        let Page { events: peeked, next } =
            self.queues.with(at, |topic, now| topic.peek(sub, most, PEEK_BYTES, now, after)).unwrap_or_default();
        let absent = peeked.iter().filter(|event| event.payload.is_none());
        let absent: Vec<_> = absent.filter_map(|event| Some((event.key, event.place?))).collect();
        let storage = Arc::clone(&self.storage);
        let name = name.clone();
        self.errands.run(async move {
            let read = read(&*storage, &name, absent).await;
            let deliveries = read.ok_or_else(StorageError::closed).map(|read| {
                let delivery = |event: Peeked| {
                    let payload = event.payload.or_else(|| read.get(&event.key).cloned())?;
                    Some(Delivery { payload, redelivered: event.redelivered })
                };
                peeked.into_iter().filter_map(delivery).collect()
            });
            Done::Peeked(PeekResult { to, deliveries, next })
        });
    }

    pub(super) fn peeked(&mut self, result: PeekResult) {
        match result.deliveries {
            Ok(deliveries) => {
                self.queues.turn.reply(result.to, Outcome::Peeked { deliveries, next: result.next });
            }
            Err(error) => {
                self.refuse(result.to, Refusal::Unavailable(Unavailable(Arc::from(error.to_string()))));
            }
        }
    }

    /// The subscription that a request means: the named one, else the one the client is attached to, else the topic's only one.
    pub(super) fn target(
        &self,
        client: ClientId,
        name: &TopicName,
        subscription: Option<&SubscriptionName>,
        usage: &'static str,
    ) -> Result<(TopicAt, SubscriptionId), Refusal> {
        let found = self.queues.topics.find(name);
        let Some((at, topic)) = found.and_then(|at| Some((at, self.queues.topics.get(at)?))) else {
            return Err(Refusal::NoSuchTopic(name.clone()));
        };
        if let Some(subscription) = subscription {
            let no_such = || Refusal::NoSuchSubscription { topic: name.clone(), name: subscription.clone() };
            return topic.find(subscription).map(|sub| (at, sub)).ok_or_else(no_such);
        }
        let attached = self.clients.attachment(client, at).map(|attachment| attachment.sub);
        let sub = attached.or_else(|| topic.only_subscription());
        sub.map(|sub| (at, sub)).ok_or_else(|| Refusal::WhichSubscription { usage, topics: list(topic) })
    }
}

/// The subscriptions of a topic in words.
fn list(topic: &Topic) -> String {
    let (name, names) = (topic.name(), topic.subscription_names());
    if topic.subscriptions() == 0 {
        return format!("topic {name} has no subscription");
    }
    let nameless = topic.subscriptions() - names.len();
    let mut listed = names.iter().take(LISTED).map(|name| format!("\"{name}\"")).collect::<Vec<_>>();
    if names.len() > LISTED {
        listed.push(format!("{} more", names.len() - LISTED));
    }
    if nameless > 0 {
        listed.push(format!("{nameless} without a name"));
    }
    format!("topic {name} has the subscriptions {}", listed.join(", "))
}
