//! What goes by itself, in slices so that it stops nobody: events that waited for too long, and what is let go of as a whole.

use super::{SubscriptionId, Topic};
use crate::event::{Millis, Seq};
use crate::name::SubscriptionName;
use crate::queue::subscription::{Hold, Subscription};

/// Letters of one topic that may be on their way at a time before no more events expire into them.
const EXPIRING: usize = 4096;

/// A backlog that is let go of.
#[derive(Debug)]
pub(super) struct Leaving {
    /// What is left of the subscription that had it.
    pub(super) subscription: Subscription,
    /// The latest event in it.
    pub(super) until: Seq,
    /// The durable subscription that goes on without it: the storage has to be told.
    pub(super) tells: Option<SubscriptionName>,
    /// The purge that it is for.
    pub(super) ticket: Option<u64>,
}

impl Topic {
    // ---- What is let go of ----

    /// Takes all that waits in a subscription from it, what has just been published included; what is in flight stays. Returns how
    /// many events that are. They go with [`Topic::drain_leaving`], and when they have, [`Topic::take_purged`] names `ticket`.
    pub fn purge(&mut self, sub: SubscriptionId, ticket: u64) -> u64 {
        let last = self.log.last_seq;
        let unsettled = self.unsettled(&self.subscriptions[sub.0]);
        let subscription = &mut self.subscriptions[sub.0];
        let (ghost, (count, _)) = subscription.hand_over(&self.log, last, unsettled);
        let tells = subscription.name.clone();
        self.with_letters.remove(&sub.0);
        self.leaving.push_back(Leaving { subscription: ghost, until: last, tells, ticket: Some(ticket) });
        count
    }

    /// Purges that have come to their end since the last call.
    pub fn take_purged(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.purged)
    }

    /// Lets ended subscriptions and purges let go of up to `most` events. Returns whether there is more to do.
    pub fn drain_leaving(&mut self, most: usize) -> bool {
        let mut left = most;
        while left > 0 {
            let Some(leaving) = self.leaving.front_mut() else { return false };
            let mut settled = Vec::new();
            left = leaving.subscription.drain(&mut self.log, leaving.until, left, &mut settled);
            if let Some(name) = leaving.tells.as_ref().filter(|_| !settled.is_empty()) {
                self.told.push((name.clone(), settled));
            }
            if left > 0 {
                self.purged.extend(leaving.ticket);
                self.leaving.pop_front();
            }
        }
        !self.leaving.is_empty()
    }

    // ---- What has waited for too long ----

    /// Settles events that have waited for too long, or makes dead letters of them; about `most` holds on events are looked at.
    pub fn expire(&mut self, now: Millis, most: usize) {
        let rules = self.rules();
        let mut left = most;
        let mut room = if rules.expired_to_dead_letter { self.room_for_expired() } else { usize::MAX };
        while left > 0 && room > 0 {
            let Some(key) = self.log.pop_expiry(now) else { return };
            left -= 1;
            let Some(entry) = self.log.get(key).filter(|entry| !entry.withdrawn()) else { continue };
            let id = entry.id;
            let Some(expires_at) = self.log.times(key.seq).and_then(|times| times.expires_at) else { continue };
            let mut again: Option<Millis> = None;
            for (at, sub) in &mut self.subscriptions {
                left = left.saturating_sub(1);
                // What is in flight is looked at again when it comes back; what is on its way has left already.
                if sub.hold(key, id) != Hold::Waiting || sub.is_letter(key) {
                    continue;
                }
                let until = sub.waits_until(key, expires_at);
                if until <= now {
                    sub.expire(&mut self.log, key, rules);
                    room = room.saturating_sub(usize::from(rules.expired_to_dead_letter));
                    self.dirty.push(at);
                    if sub.has_unsent() {
                        self.with_letters.insert(at);
                    }
                } else {
                    again = Some(again.map_or(until, |again| again.min(until)));
                }
            }
            if let Some(at) = again {
                self.log.look_at_again(key, at);
            }
        }
    }

    // ---- What comes due ----

    /// Counts events whose delays have come to their ends as delayed no more, `most` of them at the most. A subscription that is
    /// consumed finds them by itself; this is for the others.
    pub fn come_due(&mut self, now: Millis, most: usize) {
        for _ in 0..most {
            let Some(key) = self.log.pop_due(now) else { return };
            for (_, sub) in &mut self.subscriptions {
                sub.come_due(key);
            }
        }
    }

    /// How many events may become letters by expiring before some have gone.
    fn room_for_expired(&self) -> usize {
        if self.with_letters.is_empty() && !self.burying {
            return EXPIRING;
        }
        EXPIRING.saturating_sub(self.subscriptions.iter().map(|(_, sub)| sub.letters()).sum())
    }

    /// When something of the topic, not of one subscription, changes by the passing of time alone.
    #[must_use]
    pub fn next_own_change(&self) -> Option<Millis> {
        let waits = self.rules().expired_to_dead_letter && self.room_for_expired() == 0;
        let expiry = self.log.next_expiry().filter(|_| !waits);
        let letters = self.dead_full.as_ref().filter(|_| !self.burying && !self.with_letters.is_empty());
        expiry.into_iter().chain(letters.map(|(until, _)| *until)).chain(self.log.next_due()).min()
    }
}
