//! Events of a subscription that are on their way to another topic: dead letters, and letters on their way back.
//!
//! Such an event stays held until the other topic has stored it; that batch also says that it is settled here, so a crash leaves
//! one of both. Until somebody is asked to take it (it is *unsent*) it waits like others, but is not delivered: it can still be
//! acknowledged, replaced or purged. From then on it is neither here nor there, and only the answer decides.

use super::super::flights::Flight;
use super::super::lane::Entry;
use super::super::log::Log;
use super::{Exception, Rules, Standing, Subscription};
use crate::event::{EventKey, Millis};
use crate::letter::Reason;
use crate::storage::Requeued;

/// What is remembered of an event on its way.
#[derive(Debug, Clone, Copy)]
pub(in crate::queue) struct Letter {
    pub(in crate::queue) deliveries: u32,
    pub(super) order: u64,
    pub(super) grace_ms: u64,
    /// Why it is dead; `None`: it is a dead letter that goes back to where it came from.
    pub(in crate::queue) reason: Option<Reason>,
    /// How it stood in the queue, if it had left its lane.
    standing: Option<Standing>,
    /// Its bytes, if it counts as an overflow.
    overflow: Option<u32>,
}

impl Subscription {
    /// How many events are on their way.
    pub(in crate::queue) fn letters(&self) -> usize {
        self.letters.len()
    }

    /// Letters that wait to be sent.
    pub(in crate::queue) fn has_unsent(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// What an overflow has put on its way, and its bytes.
    pub(in crate::queue) fn overflowing(&self) -> (u64, u64) {
        self.overflowing
    }

    /// When the letter would be due if it were still in the queue.
    pub(super) fn due_of(letter: &Letter) -> Option<Millis> {
        if let Some(Standing::Delayed(due)) = letter.standing { Some(due) } else { None }
    }

    /// Whether the event is one of those.
    pub(in crate::queue) fn is_overflow(&self, key: EventKey) -> bool {
        self.letters.get(&key).is_some_and(|letter| letter.overflow.is_some())
    }

    /// Whether the event is on its way already.
    pub(in crate::queue) fn is_letter(&self, key: EventKey) -> bool {
        self.letters.contains_key(&key)
    }

    /// Whether somebody has been asked to take the event.
    pub(in crate::queue) fn is_moving(&self, key: EventKey) -> bool {
        self.letters.contains_key(&key) && !self.unsent.contains(&key)
    }

    /// An event that waits becomes a dead letter.
    pub(in crate::queue) fn bury(&mut self, log: &Log, key: EventKey, reason: Reason) {
        self.leave_undue(log, key);
        self.pass_first(log, key);
        let exception = self.drop_exception(key);
        let (deliveries, order, grace_ms) = exception.map_or((0, 0, 0), |e| (e.deliveries, e.order, e.grace_ms));
        let overflow = (reason == Reason::Overflow).then(|| log.get(key).map_or(0, |entry| entry.len));
        if let Some(len) = overflow {
            self.overflowing.0 += 1;
            self.overflowing.1 += u64::from(len);
        }
        let (reason, standing) = (Some(reason), exception.map(|exception| exception.standing));
        self.letters.insert(key, Letter { deliveries, order, grace_ms, reason, standing, overflow });
        self.unsent.insert(key);
    }

    /// An event in flight becomes a dead letter because its consumer gives it up. It goes on counting as that consumer's until it
    /// has gone, so that the answer comes before the next delivery.
    pub(in crate::queue) fn give_up(&mut self, at: u32, now: Millis) -> Flight {
        let consumer = self.flights.get(at).consumer as usize;
        let flight = self.flights.remove(&mut self.consumers[consumer].flights, at);
        self.consumers[consumer].giving_up += 1;
        let grace_ms = flight.grace_ms.saturating_add(now.since(flight.since));
        let Flight { key, deliveries, order, .. } = flight;
        let reason = Some(Reason::Terminated);
        self.letters.insert(key, Letter { deliveries, order, grace_ms, reason, standing: None, overflow: None });
        self.unblock(flight.id);
        flight
    }

    /// The consumer's prefetch is free again.
    pub(in crate::queue) fn gave_up(&mut self, consumer: u32) {
        if let Some(entry) = self.consumers.get_mut(consumer as usize) {
            entry.giving_up = entry.giving_up.saturating_sub(1);
            self.enter_ring(consumer as usize);
        }
    }

    /// What was given up stays in flight where it was: there is no room for it among the dead letters.
    pub(in crate::queue) fn keep_in_flight(&mut self, log: &mut Log, flight: &Flight, now: Millis, rules: Rules) {
        let Some(letter) = self.letters.remove(&flight.key) else { return };
        let Flight { key, id, deliveries, consumer, .. } = *flight;
        let deadline = (rules.ack_timeout_ms > 0).then(|| now.plus(rules.ack_timeout_ms));
        let list = &mut self.consumers[consumer as usize].flights;
        self.flights.insert(list, key, id, deliveries, consumer, now, letter.grace_ms, deadline);
        // An event that has been replaced meanwhile is held by those who have it in flight, as before.
        debug_assert!(log.get(key).is_some(), "what is held is in the log");
    }

    /// What was given up comes back: it has not gone, and its consumer has.
    pub(in crate::queue) fn come_back_given_up(&mut self, log: &mut Log, flight: &Flight, now: Millis) {
        let Some(letter) = self.letters.remove(&flight.key) else { return };
        self.return_letter(log, flight.key, letter, now);
    }

    /// The unsent letters that are next, at most so many; they count as sent from now on.
    pub(in crate::queue) fn send_letters(&mut self, most: usize) -> Vec<(EventKey, Letter)> {
        let keys: Vec<EventKey> = self.unsent.iter().copied().take(most).collect();
        let mut letters = Vec::with_capacity(keys.len());
        for key in keys {
            self.unsent.remove(&key);
            letters.extend(self.letters.get(&key).map(|letter| (key, *letter)));
        }
        letters
    }

    /// The other topic has stored the event, and that it is settled here.
    pub(in crate::queue) fn letter_has_gone(&mut self, log: &mut Log, key: EventKey) {
        if self.remove_letter(key).is_none() {
            return;
        }
        self.counters.dead_lettered += 1;
        let len = log.settle(key);
        self.settled.0 += 1;
        self.settled.1 += len;
        self.forget_ahead(log, key);
    }

    /// The event cannot be read: it is gone, here too.
    pub(in crate::queue) fn letter_is_lost(&mut self, log: &mut Log, key: EventKey) {
        if self.remove_letter(key).is_some() {
            self.counters.dropped += 1;
            self.count_settled(log, key);
            self.forget_ahead(log, key);
        }
    }

    /// There was no room for the dead letter: it will be tried again.
    pub(in crate::queue) fn keep_letter(&mut self, log: &mut Log, key: EventKey) {
        if !self.letters.contains_key(&key) {
            return;
        }
        if log.get(key).is_none_or(Entry::withdrawn) {
            // Replaced meanwhile: the successor stands for it.
            self.remove_letter(key);
            self.count_settled(log, key);
        } else {
            self.unsent.insert(key);
        }
    }

    // ---- Back to where it came from ----

    /// A waiting dead letter is on its way back.
    pub(in crate::queue) fn set_moving(&mut self, log: &Log, key: EventKey) {
        self.leave_undue(log, key);
        let exception = self.drop_exception(key);
        let (deliveries, order, grace_ms) = exception.map_or((0, 0, 0), |e| (e.deliveries, e.order, e.grace_ms));
        let standing = exception.map(|exception| exception.standing);
        self.letters.insert(key, Letter { deliveries, order, grace_ms, reason: None, standing, overflow: None });
    }

    /// It stays where it was.
    pub(in crate::queue) fn stays(&mut self, log: &mut Log, key: EventKey, now: Millis) {
        let Some(letter) = self.letters.remove(&key) else { return };
        if log.get(key).is_none_or(Entry::withdrawn) {
            return self.count_settled(log, key);
        }
        if letter.standing.is_none() && key.seq > self.position(key.priority) {
            // It has not been passed meanwhile: it stands in its lane as before.
            if let Some(at) = log.times(key.seq).and_then(|times| times.expires_at) {
                log.look_at_again(key, at);
            }
            if log.is_undue(key) {
                self.enter_undue();
            }
            return;
        }
        self.return_letter(log, key, letter, now);
    }

    /// It is gone from the topic, for all subscriptions; returns whether it was on its way here.
    pub(in crate::queue) fn letter_is_withdrawn(&mut self, key: EventKey, len: u64) -> bool {
        let held = self.remove_letter(key).is_some();
        if held {
            self.settled.0 += 1;
            self.settled.1 += len;
        }
        held
    }

    // ---- Parts ----

    /// Takes an unsent letter out.
    pub(super) fn drop_letter(&mut self, key: EventKey) {
        if !self.letters.is_empty() {
            self.remove_letter(key);
        }
    }

    fn remove_letter(&mut self, key: EventKey) -> Option<Letter> {
        let letter = self.letters.remove(&key)?;
        self.unsent.remove(&key);
        if let Some(len) = letter.overflow {
            self.overflowing.0 -= 1;
            self.overflowing.1 -= u64::from(len);
        }
        Some(letter)
    }

    /// Puts an event that was on its way back into the queue.
    fn return_letter(&mut self, log: &mut Log, key: EventKey, letter: Letter, now: Millis) {
        let Some(entry) = log.get(key).filter(|entry| !entry.withdrawn()) else {
            return self.count_settled(log, key);
        };
        let expires_at = if entry.timed() { log.times(key.seq).and_then(|times| times.expires_at) } else { None };
        let Letter { deliveries, order, grace_ms, standing, .. } = letter;
        let due_at = match standing {
            Some(Standing::Delayed(due)) if due > now => Some(due),
            _ => None,
        };
        if let Some(at) = expires_at {
            log.look_at_again(key, at.plus(grace_ms));
        }
        let standing = due_at.map_or(Standing::Ready, Standing::Delayed);
        self.set_aside(key, Exception { deliveries, order, grace_ms, standing });
        if self.name.is_some() && deliveries > 0 {
            let grace_ms = if expires_at.is_some() { grace_ms } else { 0 };
            self.to_store.requeued.push(Requeued { key, deliveries, due_at, grace_ms });
        }
    }

    /// After an event was settled on its way: others may hold it still, in a lane that this subscription has not come to.
    fn forget_ahead(&mut self, log: &Log, key: EventKey) {
        if key.seq > self.position(key.priority) && log.get(key).is_some() {
            self.settled_ahead.insert(key);
        }
    }
}
