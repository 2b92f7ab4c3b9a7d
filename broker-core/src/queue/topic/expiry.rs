//! The effects of time on events: expiry, and the end of delays. Both are processed in slices.
//!
//! Each event with a time to live has one check scheduled in the log, for all subscriptions. Time in flight does not count towards the time
//! to live, so the check may find that the event may wait longer in some subscriptions; then another check is scheduled.

use super::Topic;
use crate::event::Millis;
use crate::queue::subscription::Hold;

/// The most letters of one topic that expiry leaves unsent or under way. Further events expire after some have left.
const EXPIRING: usize = 4096;

impl Topic {
    /// Removes expired events, or makes dead letters of them. Examines up to about `most` pairs of an event and a subscription.
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
            let mut next_check: Option<Millis> = None;
            for (at, sub) in self.subscriptions.iter_mut() {
                left = left.saturating_sub(1);
                // An event in flight is checked again when it comes back; a letter has already left.
                if sub.hold(key, id) != Hold::Waiting || sub.is_letter(key) {
                    continue;
                }
                let until = sub.waits_until(key, expires_at);
                if until <= now {
                    sub.expire(&mut self.log, key, rules);
                    room = room.saturating_sub(usize::from(rules.expired_to_dead_letter));
                    self.changed.push(at);
                    if sub.has_unsent() {
                        self.outbox.add(at);
                    }
                } else {
                    next_check = Some(next_check.map_or(until, |at| at.min(until)));
                }
            }
            if let Some(at) = next_check {
                self.log.check_expiry(key, at);
            }
        }
    }

    /// Counts events that have come due as delayed no more. A subscription that is consumed finds them by itself; this is for those that
    /// are not. Looks at up to about `most` holds of subscriptions on events.
    pub fn come_due(&mut self, now: Millis, most: usize) {
        let mut left = most;
        while left > 0 {
            let Some(key) = self.log.pop_due(now) else { return };
            self.subscriptions.values_mut().for_each(|sub| sub.come_due(key));
            left = left.saturating_sub(1 + self.subscriptions.len());
        }
    }

    /// The number of events that may become letters by expiring until some have left.
    fn room_for_expired(&self) -> usize {
        if self.outbox.is_idle() {
            return EXPIRING;
        }
        EXPIRING.saturating_sub(self.subscriptions.values().map(|sub| sub.letters()).sum())
    }

    /// The time of the topic's own next change that depends on time alone, apart from its subscriptions.
    #[must_use]
    pub fn next_own_change(&self) -> Option<Millis> {
        let waits = self.rules().expired_to_dead_letter && self.room_for_expired() == 0;
        let expiry = self.log.next_expiry().filter(|_| !waits);
        expiry.into_iter().chain(self.outbox.retry_at()).chain(self.log.next_due()).min()
    }
}
