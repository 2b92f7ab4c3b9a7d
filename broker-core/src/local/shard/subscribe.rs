//! Subscribing and unsubscribing, attaching and detaching.

use super::Shard;
use super::clients::Attachment;
use super::timers::Timer;
use crate::engine::{Outcome, Refusal};
use crate::event::Seq;
use crate::local::topics::TopicAt;
use crate::local::turn::ReplyTo;
use crate::name::{SubscriptionName, TopicName};
use crate::queue::{ClientId, SubscriptionId};
use crate::storage::{Mutation, Storage};

impl<S: Storage + ?Sized> Shard<S> {
    /// Attaches a client to a subscription, which is created if it is new.
    pub(super) fn subscribe(
        &mut self,
        to: ReplyTo,
        topic: &TopicName,
        subscription: Option<SubscriptionName>,
        prefetch: u16,
    ) {
        match self.try_subscribe(to.client, topic, subscription, prefetch) {
            Ok(attached) => {
                self.queues.turn.reply(to, Outcome::Subscribed);
                if let Some((at, sub)) = attached {
                    self.pump(at, sub);
                }
            }
            Err(refusal) => self.refuse(to, refusal),
        }
    }

    /// Returns the subscription if the client has been attached to it now, `None` if it was attached already.
    fn try_subscribe(
        &mut self,
        client: ClientId,
        name: &TopicName,
        subscription: Option<SubscriptionName>,
        prefetch: u16,
    ) -> Result<Option<(TopicAt, SubscriptionId)>, Refusal> {
        let at = self.queues.find_or_create(name)?;
        let Some(topic) = self.queues.topics.get(at) else { return Err(Refusal::UnknownTopic(name.clone())) };
        if let Some(attachment) = self.clients.attachment(client, at) {
            let attached_to = topic.subscription_name(attachment.sub);
            if attached_to == subscription.as_ref() {
                return Ok(None);
            }
            return Err(Refusal::AlreadySubscribed { topic: name.clone(), name: attached_to.cloned() });
        }
        let found = subscription.as_ref().and_then(|subscription| topic.find(subscription));
        if found.is_none() {
            self.queues.admit_subscription()?;
        }
        let turn = &mut self.queues.turn;
        let attached = self.queues.topics.change(at, |topic| {
            let sub = found.unwrap_or_else(|| {
                let (sub, mutation) = topic.subscribe(subscription);
                mutation.into_iter().for_each(|mutation| turn.push(mutation));
                sub
            });
            (sub, topic.attach(sub, client, prefetch))
        });
        let Some((sub, consumer)) = attached else { return Ok(None) };
        self.clients.attach(client, Attachment { at, sub, consumer, published: Seq(0) });
        Ok(Some((at, sub)))
    }

    /// Removes the named subscription, or the one that the client is attached to.
    pub(super) fn unsubscribe(&mut self, to: ReplyTo, name: &TopicName, subscription: Option<&SubscriptionName>) {
        if let Some(at) = self.queues.topics.find(name) {
            let sub = match subscription {
                Some(subscription) => self.queues.topics.get(at).and_then(|topic| topic.find(subscription)),
                None => self.clients.attachment(to.client, at).map(|attachment| attachment.sub),
            };
            if let Some(sub) = sub {
                self.remove_subscription(at, sub, to.client);
            }
        }
        self.queues.turn.reply(to, Outcome::Unsubscribed);
    }

    /// Removes a subscription on behalf of the client `by`. The other clients attached to it are told.
    fn remove_subscription(&mut self, at: TopicAt, sub: SubscriptionId, by: ClientId) {
        self.queues.drain_changes(at);
        let Some((clients, mutation)) = self.queues.with(at, |topic, now| topic.remove(sub, now)) else { return };
        self.queues.dismiss_subscription();
        self.queues.timers.cancel(at, Timer::Subscription(sub));
        for client in clients {
            if !self.clients.contains(client) {
                continue;
            }
            self.clients.detach(client, at);
            if let Some(Mutation::Unsubscribe { topic, subscription }) = mutation.as_ref().filter(|_| by != client) {
                self.queues.turn.removed(client, topic.clone(), subscription.clone());
            }
        }
        if let Some(mutation) = mutation {
            self.queues.turn.push(mutation);
        }
        self.queues.draining.insert(at);
    }

    /// Detaches a client from its subscription of a topic.
    pub(super) fn detach(&mut self, to: ReplyTo, name: &TopicName) {
        if let Some(attachment) = self.attachment(to.client, name) {
            self.end_attachment(to.client, attachment);
        }
        self.queues.turn.reply(to, Outcome::Detached);
    }

    /// Ends one attachment: events in flight return to the queue, and a nameless subscription is removed.
    fn end_attachment(&mut self, client: ClientId, attachment: Attachment) {
        let Attachment { at, sub, consumer, .. } = attachment;
        if self.queues.topics.get(at).is_some_and(|topic| topic.is_durable(sub)) {
            self.clients.detach(client, at);
            self.queues.with(at, |topic, now| topic.detach(sub, consumer, now));
            self.pump(at, sub);
        } else {
            self.remove_subscription(at, sub, client);
        }
    }

    /// Ends all attachments of a client.
    pub(super) fn detach_all(&mut self, client: ClientId) {
        for attachment in self.clients.attachments(client) {
            self.end_attachment(client, attachment);
        }
    }

    /// Ends all attachments of a client and forgets it.
    pub(super) fn disconnect(&mut self, client: ClientId) {
        self.detach_all(client);
        self.parking.forget(client);
        self.clients.remove(client);
    }

    /// Changes the prefetch of all attachments of a client. Fewer recalls nothing that is in flight.
    pub(super) fn set_prefetch(&mut self, client: ClientId, prefetch: u16) {
        for Attachment { at, sub, consumer, .. } in self.clients.attachments(client) {
            self.queues.with(at, |topic, _| topic.set_prefetch(sub, consumer, prefetch));
            self.pump(at, sub);
        }
    }
}
