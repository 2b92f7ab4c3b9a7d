//! Subscriptions coming and going, and clients with them.

use super::super::turn::TopicAt;
use super::{Attachment, Shard};
use crate::engine::{Outcome, Refusal, Slot};
use crate::event::Seq;
use crate::name::{SubscriptionName, TopicName};
use crate::queue::{ClientId, SubscriptionId};
use crate::storage::{Mutation, Storage};

impl<S: Storage + ?Sized> Shard<S> {
    pub(super) fn subscribe(
        &mut self,
        client: ClientId,
        slot: Slot,
        name: TopicName,
        subscription: Option<SubscriptionName>,
        prefetch: u16,
    ) {
        let outcome = match self.try_subscribe(client, &name, subscription, prefetch) {
            Ok(attached) => {
                self.effects.outbox.outcome(client, slot, Outcome::Subscribed);
                if let Some((at, sub)) = attached {
                    self.pump(at, sub);
                }
                return;
            }
            Err(refusal) => Outcome::Refused(refusal),
        };
        self.effects.outbox.outcome(client, slot, outcome);
    }

    pub(super) fn try_subscribe(
        &mut self,
        client: ClientId,
        name: &TopicName,
        subscription: Option<SubscriptionName>,
        prefetch: u16,
    ) -> Result<Option<(TopicAt, SubscriptionId)>, Refusal> {
        let at = self.topic(name)?;
        let Some(topic) = self.topics[at].as_mut() else { return Err(Refusal::UnknownTopic(name.clone())) };
        let Some(state) = self.clients.get_mut(&client) else { return Ok(None) };
        if let Some(attachment) = state.attachments.get(&at) {
            let attached_to = topic.subscription_name(attachment.sub);
            if attached_to == subscription.as_ref() {
                return Ok(None);
            }
            return Err(Refusal::AlreadySubscribed { topic: name.clone(), name: attached_to.cloned() });
        }
        let sub = match subscription.as_ref().and_then(|subscription| topic.find(subscription)) {
            Some(sub) => sub,
            None => {
                let too_many = |most| Refusal::TooMany(format!("there are {most} subscriptions already"));
                self.shared.subscriptions.take().map_err(too_many)?;
                let (sub, mutation) = topic.subscribe(subscription);
                self.mutations.extend(mutation);
                sub
            }
        };
        let consumer = topic.attach(sub, client, prefetch);
        state.attachments.insert(at, Attachment { sub, consumer, published: Seq(0) });
        Ok(Some((at, sub)))
    }

    pub(super) fn unsubscribe(
        &mut self,
        client: ClientId,
        name: &TopicName,
        subscription: Option<&SubscriptionName>,
    ) -> Outcome {
        let Some(at) = self.by_name.get(name).copied() else { return Outcome::Unsubscribed };
        let sub = match subscription {
            Some(subscription) => self.topics[at].as_ref().and_then(|topic| topic.find(subscription)),
            None => self.attachment(client, name).map(|(_, attachment)| attachment.sub),
        };
        if let Some(sub) = sub {
            self.remove_subscription(at, sub, Some(client));
        }
        Outcome::Unsubscribed
    }

    /// Removes a subscription; whoever is attached to it and did not ask for that is told.
    pub(super) fn remove_subscription(&mut self, at: TopicAt, sub: SubscriptionId, by: Option<ClientId>) {
        // Changes name the subscription by its place, which may be used again.
        if let Some(topic) = &mut self.topics[at] {
            topic.drain_changes(&mut self.mutations);
        }
        let Some((clients, mutation)) = self.with(at, |topic, now| topic.remove(sub, now)) else { return };
        self.shared.subscriptions.give_back();
        self.unschedule(at, sub);
        for client in clients {
            let Some(state) = self.clients.get_mut(&client) else { continue };
            state.attachments.remove(&at);
            if let Some(Mutation::Unsubscribe { topic, subscription }) =
                mutation.as_ref().filter(|_| by != Some(client))
            {
                self.effects.outbox.removed(client, topic.clone(), subscription.clone());
            }
        }
        self.mutations.extend(mutation);
        if !self.leaving.contains(&at) {
            self.leaving.push(at);
        }
    }

    pub(super) fn detach(&mut self, client: ClientId, name: &TopicName) -> Outcome {
        if let Some((at, attachment)) = self.attachment(client, name) {
            self.let_go(client, at, attachment);
        }
        Outcome::Detached
    }

    /// Ends one attachment: the events in flight come back, and a nameless subscription ends.
    pub(super) fn let_go(&mut self, client: ClientId, at: TopicAt, attachment: Attachment) {
        let Attachment { sub, consumer, .. } = attachment;
        let durable = self.topics[at].as_ref().is_some_and(|topic| topic.is_durable(sub));
        if durable {
            if let Some(state) = self.clients.get_mut(&client) {
                state.attachments.remove(&at);
            }
            self.with(at, |topic, now| topic.detach(sub, consumer, now));
            self.pump(at, sub);
        } else {
            self.remove_subscription(at, sub, Some(client));
        }
    }

    pub(super) fn give_back(&mut self, client: ClientId) {
        for (at, attachment) in self.attachments(client) {
            self.let_go(client, at, attachment);
        }
    }

    pub(super) fn disconnect(&mut self, client: ClientId) {
        self.give_back(client);
        self.clients.remove(&client);
    }
}
