//! The mutations for the storage, and the copies of events it can free.

use super::Topic;
use crate::event::EventKey;
use crate::queue::log::Released;
use crate::queue::subscription::Hold;
use crate::storage::{Holder, Mutation, Place};

impl Topic {
    /// Moves the changes since the last call into `mutations`.
    pub fn drain_changes(&mut self, mutations: &mut Vec<Mutation>) {
        self.changed.sort_unstable();
        self.changed.dedup();
        for id in self.changed.drain(..) {
            let Some(sub) = self.subscriptions.get_mut(id) else { continue };
            let (Some(name), unstored) = sub.unstored_mut() else { continue };
            // In this order, because an event that came back and was settled in the same turn is settled.
            let redelivered = unstored.take_redelivered();
            if !redelivered.is_empty() {
                let (topic, subscription) = (self.name.clone(), name.clone());
                mutations.push(Mutation::Redeliver { topic, subscription, events: redelivered });
            }
            let settled = unstored.take_settled();
            if !settled.is_empty() {
                let (topic, subscription) = (self.name.clone(), name.clone());
                mutations.push(Mutation::Settle { topic, subscription, events: settled });
            }
        }
        for (subscription, events) in self.backlogs.drain_settled() {
            mutations.push(Mutation::Settle { topic: self.name.clone(), subscription, events });
        }
        for Released { key, place } in self.log.released.drain(..) {
            mutations.push(Mutation::Release { topic: self.name.clone(), key, place });
        }
    }

    /// Whether deliveries have to be recorded, because the number of deliveries is limited.
    #[must_use]
    pub fn has_deliveries_to_record(&self) -> bool {
        !self.delivered.is_empty()
    }

    /// Moves the records of up to `most` deliveries into `mutations`. They must follow the changes of the same turn, because an event may have
    /// come back before it was delivered again. Returns the number of deliveries examined.
    pub fn record_deliveries(&mut self, most: usize, mutations: &mut Vec<Mutation>) -> usize {
        let mut left = most;
        while left > 0
            && let Some(id) = self.delivered.last().copied()
        {
            let Some(sub) = self.subscriptions.get_mut(id).filter(|sub| sub.unrecorded() > 0) else {
                self.delivered.pop();
                continue;
            };
            let before = sub.unrecorded();
            let events = sub.deliveries_to_record(&self.log, left);
            left -= before - sub.unrecorded();
            if let Some(subscription) = sub.name().cloned().filter(|_| !events.is_empty()) {
                mutations.push(Mutation::Redeliver { topic: self.name.clone(), subscription, events });
            }
        }
        most - left
    }

    /// Whether [`Topic::take_released`] would return anything.
    #[must_use]
    pub fn has_released(&self) -> bool {
        !self.log.released.is_empty()
    }

    /// The copies freed since the last call. Used in recovery instead of [`Topic::drain_changes`].
    pub fn take_released(&mut self) -> impl Iterator<Item = Released> + '_ {
        self.log.released.drain(..)
    }

    /// The durable subscriptions that hold an event, for [`Mutation::Rewrite`]. `None` if it is gone, has been replaced, or is no longer at
    /// `place`.
    #[must_use]
    pub fn holders(&self, key: EventKey, place: Place) -> Option<Vec<Holder>> {
        let entry = self.log.get(key).filter(|entry| !entry.withdrawn() && entry.place() == Some(place))?;
        let expires = entry.timed() && self.log.times(key.seq).is_some_and(|times| times.expires_at.is_some());
        let rules = self.rules();
        let held = self.subscriptions.values().filter(|sub| sub.hold(key, entry.id) != Hold::None);
        let holders = held.filter_map(|sub| {
            let (history, due_at) = sub.state_to_store(key, entry.id, rules);
            let grace_ms = if expires { history.grace_ms } else { 0 };
            Some(Holder { subscription: sub.name().cloned()?, deliveries: history.deliveries, due_at, grace_ms })
        });
        Some(holders.collect())
    }
}
