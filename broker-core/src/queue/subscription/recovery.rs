//! Rebuilds a subscription after a restart.
//!
//! During the replay, every settled event is kept in `settled_ahead` and no position moves, because records may come in an order in which
//! an event is settled before an older one. [`Subscription::finish_recovery`] turns the collected events into positions.

use super::Subscription;
use crate::event::EventKey;
use crate::queue::history::History;
use crate::queue::log::Log;
use crate::storage::Redelivery;
use crate::tally::Tally;

impl Subscription {
    /// Restores a settlement. Returns whether the subscription held the event before.
    pub(in crate::queue) fn restore_settled(&mut self, key: EventKey) -> bool {
        self.aside.remove(key);
        self.positions.restore_settled(key)
    }

    /// Forgets an event that is no longer in the log.
    pub(in crate::queue) fn restore_freed(&mut self, key: EventKey) {
        self.positions.restore_freed(key);
        self.aside.remove(key);
    }

    /// Restores an event that came back to the queue.
    pub(in crate::queue) fn restore_redelivery(&mut self, event: Redelivery) {
        self.aside.remove(event.key);
        let history = History { deliveries: event.deliveries, order: 0, grace_ms: event.grace_ms };
        self.aside.insert(event.key, history, event.due_at);
    }

    /// Forgets the events for which `gone` returns true, because they are no longer in the log.
    pub(in crate::queue) fn forget_where(&mut self, gone: impl Fn(EventKey) -> bool) {
        self.positions.forget_where(&gone);
        self.aside.remove_where(gone);
    }

    pub(in crate::queue) fn is_settled_ahead(&self, key: EventKey) -> bool {
        self.positions.is_settled_ahead(key)
    }

    /// Turns the collected events into positions. `before` counts the events of the log that are older than the subscription.
    pub(in crate::queue) fn finish_recovery(&mut self, log: &Log, before: Tally) {
        self.account = super::Account::open(before);
        for key in self.positions.settled_ahead() {
            self.account.was_settled(Tally::one(log.get(key).map_or(0, |entry| u64::from(entry.len))));
        }
        self.positions.finish_recovery(log);
        self.delayed_in_lanes = log.delayed().filter(|key| self.is_in_lane(*key)).count() as u64;
    }
}
