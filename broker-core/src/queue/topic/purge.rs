//! Removing and purging subscriptions: their events are settled in slices, so that a long queue does not block other topics.

use super::{SubscriptionId, Topic};
use crate::event::Millis;
use crate::queue::subscription::ClientId;
use crate::storage::Mutation;

impl Topic {
    /// Removes a subscription with all its events. Returns the attached clients, and for a durable subscription the mutation
    /// to store. [`Topic::settle_backlogs`] settles the events.
    pub fn remove(&mut self, sub: SubscriptionId, now: Millis) -> (Vec<ClientId>, Option<Mutation>) {
        let rules = self.rules();
        let subscription = &mut self.subscriptions[sub];
        let consumers = subscription.consumer_ids();
        let clients = consumers.iter().map(|consumer| subscription.client(*consumer)).collect();
        for consumer in consumers {
            subscription.detach(&mut self.log, consumer, now, rules);
        }
        let subscription = self.subscriptions.remove(sub);
        self.changed.retain(|other| *other != sub);
        self.outbox.remove(sub);
        let unsubscribe = |name| Mutation::Unsubscribe { topic: self.name.clone(), subscription: Clone::clone(name) };
        let mutation = subscription.name().map(unsubscribe);
        let last = self.log.last_seq;
        self.backlogs.push_removed(subscription.end(&mut self.log, last));
        (clients, mutation)
    }

    /// Drops all waiting events of a subscription, including those just published. Events in flight stay. Returns the number of dropped
    /// events. [`Topic::settle_backlogs`] settles them, and after the last one [`Topic::take_purged`] returns `ticket`.
    pub fn purge(&mut self, sub: SubscriptionId, ticket: u64) -> u64 {
        let subscription = &mut self.subscriptions[sub];
        let (backlog, size) = subscription.purge(&self.log, self.log.last_seq, self.stored);
        self.backlogs.push_purged(backlog, subscription.name().cloned(), ticket);
        self.outbox.remove(sub);
        size.events
    }

    /// The purges completed since the last call.
    pub fn take_purged(&mut self) -> Vec<u64> {
        self.backlogs.take_purged()
    }

    /// Settles up to `most` events left by removed and purged subscriptions. Returns whether there are more.
    pub fn settle_backlogs(&mut self, most: usize) -> bool {
        self.backlogs.drain(&mut self.log, most)
    }
}
