//! Delivery counts where `max_deliveries` is set: recorded during a delivery, and enforced on events that wait.
//!
//! An event that takes its consumer down comes back with its count when the connection ends. One that takes the broker down would never be
//! counted, and never become a dead letter. So each delivery of a durable subscription is noted, and recorded as if the event had come back;
//! what the event does next replaces the record.
//!
//! An event that waits can have used up its deliveries in two ways: its last delivery was cut off by a restart, or the maximum was lowered. No
//! consumer need be there to notice. A review, in slices, makes dead letters of such events.

use std::ops::Bound;

use super::{Rules, Subscription};
use crate::event::{EventKey, Millis};
use crate::letter::Reason;
use crate::name::IdKey;
use crate::queue::log::Log;
use crate::storage::Redelivery;

/// The search for waiting events that have used up their deliveries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Review {
    /// Nothing is to be examined.
    Done,
    /// The events that were set aside, from this one on in delivery order, are to be examined.
    From(Bound<EventKey>),
}

impl Subscription {
    /// Notes a delivery to be recorded, where the number of deliveries is limited.
    #[inline]
    pub(super) fn note_delivery(&mut self, id: IdKey, key: EventKey, rules: Rules) {
        if rules.max_deliveries > 0 {
            self.unstored.deliver(id, key);
        }
    }

    /// Takes up to `most` noted deliveries, and returns the records of those whose events are still in flight.
    pub(in crate::queue) fn deliveries_to_record(&mut self, log: &Log, most: usize) -> Vec<Redelivery> {
        let noted = self.unstored.take_delivered(most).into_iter();
        // The storage has forgotten an event that was replaced since its delivery.
        let in_flight = noted.filter_map(|(id, key)| self.flights.of(id, key)).filter(|flight| {
            let entry = log.get(flight.key);
            entry.is_some_and(|entry| !entry.withdrawn())
        });
        let records = in_flight.map(|flight| {
            let (key, history) = (flight.key, flight.history);
            let expires = log.times(key.seq).is_some_and(|times| times.expires_at.is_some());
            let grace_ms = if expires { history.grace_ms } else { 0 };
            Redelivery { key, deliveries: history.deliveries, due_at: None, grace_ms }
        });
        records.collect()
    }

    /// The number of deliveries that are noted and not recorded yet.
    #[inline]
    pub(in crate::queue) fn unrecorded(&self) -> usize {
        self.unstored.delivered()
    }

    /// Has all waiting events examined by [`Subscription::bury_exhausted`]. Only those that were delivered before can be concerned, and all
    /// of those are aside.
    pub(in crate::queue) fn review_deliveries(&mut self) {
        self.review = if self.aside.is_empty() { Review::Done } else { Review::From(Bound::Unbounded) };
    }

    /// Continues the review with up to `most` events: makes dead letters of those that have used up their deliveries.
    pub(in crate::queue) fn bury_exhausted(&mut self, log: &mut Log, most: usize, now: Millis, rules: Rules) {
        let Review::From(start) = self.review else { return };
        let (examined, exhausted) = self.aside.examine(start, most, |history| rules.is_exhausted(history));
        self.review = match examined {
            Some(last) => Review::From(Bound::Excluded(last)),
            None => Review::Done,
        };
        for key in exhausted {
            let expires_at = log.times(key.seq).and_then(|times| times.expires_at);
            if expires_at.is_some_and(|at| self.waits_until(key, at) <= now) {
                self.expire(log, key, rules);
            } else {
                self.bury(log, key, Reason::MaxDeliveries);
            }
        }
    }
}
