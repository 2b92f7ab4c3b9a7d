//! Moving a subscription's events to another topic: to the dead letters, or from there back to where they came from.
//!
//! No record changes two topics, so a move has two phases. The event stays held here until the other topic has stored it,
//! and the batch that stores it there also settles it here:
//!
//! ```text
//!   waiting, or in flight
//!      | bury, give_up, send_back
//!      v
//!   letter, unsent  -- acknowledged, replaced, purged -->  as any event that waits
//!      | send_next
//!      v
//!   letter, sent    -- gone   the batch is stored: settled here, held there
//!                   -- kept   no room there: unsent again, or back in flight
//!                   -- lost   its payload cannot be read: settled here
//! ```
//!
//! A crash before the batch is stored leaves the event here, a crash after it there; the event is never in both or in neither. While a
//! letter is sent, nothing else may be decided about it, because the batch that settles it may be on its way to the disk.

use super::consumers::{ClientId, ConsumerId};
use super::letters::Letter;
use super::{Rules, Subscription};
use crate::event::{EventKey, Millis};
use crate::letter::Reason;
use crate::queue::flights::{Flight, FlightId, NewFlight};
use crate::queue::history::History;
use crate::queue::lane::Entry;
use crate::queue::log::Log;
use crate::storage::Redelivery;
use crate::tally::Tally;

impl Subscription {
    /// The number of letters, sent or not.
    pub(in crate::queue) fn letters(&self) -> usize {
        self.letters.len()
    }

    /// Whether there are unsent letters.
    pub(in crate::queue) fn has_unsent(&self) -> bool {
        self.letters.has_unsent()
    }

    /// The events that made room for others and have not left yet.
    pub(in crate::queue) fn overflow(&self) -> Tally {
        self.letters.overflow()
    }

    /// Whether the event is a letter that makes room for others.
    pub(in crate::queue) fn is_overflow(&self, key: EventKey) -> bool {
        self.letters.is_overflow(key)
    }

    /// Whether the event is a letter, sent or not.
    pub(in crate::queue) fn is_letter(&self, key: EventKey) -> bool {
        self.letters.contains(key)
    }

    /// Whether another topic has been asked to take the event.
    pub(in crate::queue) fn is_moving(&self, key: EventKey) -> bool {
        self.letters.is_sent(key)
    }

    // ---- Becoming a letter ----

    /// Makes a dead letter of a waiting event.
    pub(in crate::queue) fn bury(&mut self, log: &Log, key: EventKey, reason: Reason) {
        self.positions_pass(log, key);
        let letter = Letter::new(Some(reason), self.aside.remove(key));
        let len = || log.get(key).map_or(0, |entry| entry.len);
        let letter = if reason == Reason::Overflow { letter.making_room(len()) } else { letter };
        self.letters.insert_unsent(key, letter);
    }

    fn positions_pass(&mut self, log: &Log, key: EventKey) {
        self.leave_delayed(log, key);
        self.positions.advance_if_first(log, key);
    }

    /// Makes a dead letter of an event in flight that its consumer terminates. The letter counts as sent, and uses the consumer's
    /// prefetch until [`Subscription::end_termination`], so that the answer comes before the next delivery.
    pub(in crate::queue) fn terminate(&mut self, at: FlightId, now: Millis) -> Flight {
        let flight = self.land(at);
        self.consumers.begin_leaving(flight.consumer);
        let letter = Letter::new(Some(Reason::Terminated), None).with_history(flight.history_at(now));
        self.letters.insert_sent(flight.key, letter);
        self.aside.unblock(flight.id);
        flight
    }

    /// Frees the prefetch of a terminated event.
    pub(in crate::queue) fn end_termination(&mut self, consumer: ConsumerId, client: ClientId) {
        if self.consumers.is_of(consumer, client) {
            self.consumers.end_leaving(consumer);
        }
    }

    /// Makes a letter of a waiting dead letter that moves back to where it came from.
    pub(in crate::queue) fn send_back(&mut self, log: &Log, key: EventKey) {
        self.leave_delayed(log, key);
        let letter = Letter::new(None, self.aside.remove(key));
        self.letters.insert_sent(key, letter);
    }

    /// Returns the next unsent letter and marks it as sent.
    pub(in crate::queue) fn send_next(&mut self) -> Option<(EventKey, Letter)> {
        self.letters.send_next()
    }

    // ---- Answers ----

    /// Handles the outcome that the other topic has stored the event. The same batch settles it here, so nothing more is stored.
    pub(in crate::queue) fn letter_has_gone(&mut self, log: &mut Log, key: EventKey) {
        if self.letters.remove(key).is_none() {
            return;
        }
        self.counters.dead_lettered += 1;
        self.account.settle(Tally::one(log.settle(key)));
        self.settle_ahead_of_others(log, key);
    }

    /// Handles the outcome that the event's payload cannot be read: the event is settled here.
    pub(in crate::queue) fn letter_is_lost(&mut self, log: &mut Log, key: EventKey) {
        if self.letters.remove(key).is_some() {
            self.counters.dropped += 1;
            self.settle(log, key);
            self.settle_ahead_of_others(log, key);
        }
    }

    /// Handles the outcome that the other topic has no room for the dead letter, which is sent again later.
    pub(in crate::queue) fn keep_letter(&mut self, log: &mut Log, key: EventKey) {
        if !self.letters.contains(key) {
            return;
        }
        if log.get(key).is_none_or(Entry::withdrawn) {
            // The event was replaced after it was sent; its successor stays.
            self.letters.remove(key);
            self.settle(log, key);
        } else {
            self.letters.set_unsent(key);
        }
    }

    /// Handles the outcome that the other topic has no room for an event terminated by a consumer, which keeps it in flight.
    pub(in crate::queue) fn keep_in_flight(&mut self, log: &Log, flight: &Flight, now: Millis, rules: Rules) {
        let Some(letter) = self.letters.remove(flight.key) else { return };
        let Flight { key, id, consumer, .. } = *flight;
        // It is still the same delivery, which counts once.
        let history = History { deliveries: letter.history.deliveries - 1, ..letter.history };
        let list = self.consumers.flights_mut(consumer);
        let deadline = rules.deadline(now);
        self.flights.insert(list, NewFlight { key, id, history, consumer, since: now, deadline });
        self.note_delivery(id, key, rules);
        // If the event was replaced, it is still held by the subscriptions that have it in flight.
        debug_assert!(log.get(key).is_some(), "a held event is in the log");
    }

    /// Handles the outcome that the other topic has no room for an event whose consumer has terminated it and left: it comes back.
    /// It becomes a dead letter for another reason if that was its last delivery.
    pub(in crate::queue) fn return_terminated(&mut self, log: &mut Log, flight: &Flight, now: Millis, rules: Rules) {
        let Some(letter) = self.letters.remove(flight.key) else { return };
        self.return_to_queue(log, flight.key, letter, now);
        if rules.is_exhausted(letter.history) && self.aside.contains(flight.key) {
            self.bury(log, flight.key, Reason::MaxDeliveries);
        }
    }

    /// Handles the outcome that a dead letter could not move back: it stays where it was.
    pub(in crate::queue) fn letter_stays(&mut self, log: &mut Log, key: EventKey, now: Millis) {
        let Some(letter) = self.letters.remove(key) else { return };
        if log.get(key).is_none_or(Entry::withdrawn) {
            return self.settle(log, key);
        }
        if letter.standing.is_none() && !self.positions.has_passed(key) {
            // No position has passed the event, so it waits in its lane as before.
            log.recheck_expiry(key, 0);
            if log.is_delayed(key) {
                self.enter_delayed();
            }
            return;
        }
        self.return_to_queue(log, key, letter, now);
    }

    /// Handles the outcome that a dead letter has moved back and is withdrawn from the topic. Returns whether it was a letter here.
    pub(in crate::queue) fn letter_is_withdrawn(&mut self, key: EventKey, len: u64) -> bool {
        let was_held = self.letters.remove(key).is_some();
        if was_held {
            self.account.settle(Tally::one(len));
        }
        was_held
    }

    // ---- Helpers ----

    /// Returns a letter's event to the queue.
    fn return_to_queue(&mut self, log: &mut Log, key: EventKey, letter: Letter, now: Millis) {
        if log.get(key).is_none_or(Entry::withdrawn) {
            return self.settle(log, key);
        }
        let due_at = letter.due_at().filter(|due| *due > now);
        let History { deliveries, grace_ms, .. } = letter.history;
        let expires = log.recheck_expiry(key, grace_ms);
        self.aside.insert(key, letter.history, due_at);
        if deliveries > 0 {
            let grace_ms = if expires { grace_ms } else { 0 };
            self.unstored.come_back(Redelivery { key, deliveries, due_at, grace_ms });
        }
    }

    /// Remembers a settled letter's event if other subscriptions still hold it beyond this one's position.
    fn settle_ahead_of_others(&mut self, log: &Log, key: EventKey) {
        if log.get(key).is_some() {
            self.positions.settle(key);
        }
    }
}
