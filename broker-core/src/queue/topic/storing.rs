//! What the storage is told.

use super::Topic;
use crate::event::EventKey;
use crate::queue::log::Released;
use crate::queue::subscription::Hold;
use crate::storage::{Holder, Mutation, Place};

impl Topic {
    /// Moves what has changed since the last call into `mutations`.
    pub fn drain_changes(&mut self, mutations: &mut Vec<Mutation>) {
        self.dirty.sort_unstable();
        self.dirty.dedup();
        for at in self.dirty.drain(..) {
            let Some(sub) = self.subscriptions.get_mut(at) else { continue };
            let Some(name) = &sub.name else { continue };
            let (topic, subscription) = (&self.name, name);
            // What came back and was settled in the same turn is settled: the order of these two matters.
            if !sub.to_store.requeued.is_empty() {
                let events = std::mem::take(&mut sub.to_store.requeued);
                mutations.push(Mutation::Requeue { topic: topic.clone(), subscription: subscription.clone(), events });
            }
            if !sub.to_store.settled.is_empty() {
                let events = std::mem::take(&mut sub.to_store.settled);
                mutations.push(Mutation::Settle { topic: topic.clone(), subscription: subscription.clone(), events });
            }
        }
        for (subscription, events) in self.told.drain(..) {
            mutations.push(Mutation::Settle { topic: self.name.clone(), subscription, events });
        }
        for Released { key, place } in self.log.released.drain(..) {
            mutations.push(Mutation::Release { topic: self.name.clone(), key, place });
        }
    }

    /// Whether there is anything for [`Topic::take_released`].
    #[must_use]
    pub fn has_released(&self) -> bool {
        !self.log.released.is_empty()
    }

    /// What has been freed since the last call, where [`Topic::drain_changes`] is not used: during recovery.
    pub fn take_released(&mut self) -> impl Iterator<Item = Released> + '_ {
        self.log.released.drain(..)
    }

    /// If the event still waits and is still at `place`: who holds it, for [`Mutation::Rewrite`].
    #[must_use]
    pub fn holders(&self, key: EventKey, place: Place) -> Option<Vec<Holder>> {
        let entry = self.log.get(key).filter(|entry| !entry.withdrawn() && entry.place() == Some(place))?;
        let expires = entry.timed() && self.log.times(key.seq).is_some_and(|times| times.expires_at.is_some());
        let held = self.subscriptions.iter().filter(|(_, sub)| sub.hold(key, entry.id) != Hold::None);
        let holders = held.filter_map(|(_, sub)| {
            let (deliveries, due_at, grace_ms) = sub.held_state(key, entry.id);
            let grace_ms = if expires { grace_ms } else { 0 };
            Some(Holder { subscription: sub.name.clone()?, deliveries, due_at, grace_ms })
        });
        Some(holders.collect())
    }
}
