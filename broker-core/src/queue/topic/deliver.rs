//! Deliveries: the next event for a consumer, and acknowledgements, nacks and timeouts of events in flight.

use super::{SubscriptionId, Topic};
use crate::event::{EventKey, Millis, Payload, Seq};
use crate::name::IdKey;
use crate::queue::subscription::{Candidate, ClientId, ConsumerId, Hold};
use crate::storage::Place;

/// The outcome of [`Topic::acknowledge`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acknowledged {
    /// The event was in flight on the consumer and is settled.
    InFlight,
    /// The event had come back and waited after a delivery, and is settled.
    Waiting,
    /// The event was already acknowledged, but a delivery of it had been taken back from the consumer; this acknowledges that one.
    Late,
    /// No event delivered under this id is in flight on the consumer or waiting.
    NotHeld,
    /// Like [`Acknowledged::NotHeld`], which was the previous answer, and no event of this id has been delivered to the consumer since.
    NoLongerHeld,
}

/// The outcome of [`Topic::next`].
#[derive(Debug)]
pub enum Next {
    /// An event was put in flight.
    Delivery {
        /// The client that receives it.
        client: ClientId,
        /// The event.
        payload: Payload,
        /// The number of earlier deliveries.
        redelivered: u32,
    },
    /// Payloads must be read before the next delivery. The subscription delivers nothing until [`Topic::loaded`].
    Load(Vec<(EventKey, Place)>),
    /// No event can be delivered, or no consumer can take one.
    Nothing,
}

/// The most payloads read together: enough to read a backlog sequentially, few enough to stay within the budget.
const LOAD: usize = 512;

/// The number of bytes after which no further payload is read with others.
const LOAD_BYTES: usize = 1 << 20;

impl Topic {
    fn candidate(&mut self, sub: SubscriptionId, now: Millis) -> Option<Candidate> {
        let rules = self.rules();
        let subscription = &mut self.subscriptions[sub];
        let candidate = subscription.candidate(&mut self.log, now, rules);
        if subscription.has_changes() {
            self.note_changed(sub);
        }
        candidate
    }

    /// Whether an event could be delivered now to a consumer with room. `None`: none was found yet, and another turn must continue
    /// the search.
    pub fn is_deliverable(&mut self, sub: SubscriptionId, now: Millis) -> Option<bool> {
        let found = self.candidate(sub, now).is_some();
        (found || !self.subscriptions[sub].is_unfinished()).then_some(found)
    }

    /// Puts the next event in flight on the consumer whose turn it is, among those whose client `has_room`. A client without room loses
    /// its turn until [`Topic::resume`].
    pub fn next(&mut self, sub: SubscriptionId, now: Millis, mut has_room: impl FnMut(ClientId) -> bool) -> Next {
        let subscription = &mut self.subscriptions[sub];
        let (consumer, client) = loop {
            let Some(consumer) = subscription.next_consumer() else { return Next::Nothing };
            let client = subscription.client(consumer);
            if has_room(client) {
                break (consumer, client);
            }
        };
        let candidate = self.candidate(sub, now);
        let rules = self.rules();
        let subscription = &mut self.subscriptions[sub];
        let Some(candidate) = candidate else {
            subscription.return_turn(consumer);
            return Next::Nothing;
        };
        let Some(payload) = self.log.payload(candidate.key).cloned() else {
            subscription.return_turn(consumer);
            subscription.set_loading(true);
            return Next::Load(self.payloads_to_read(sub, candidate.key));
        };
        let redelivered = subscription.deliver(&self.log, candidate, consumer, now, rules);
        subscription.enter_ring(consumer);
        if subscription.unrecorded() == 1 {
            self.delivered.push(sub);
        }
        Next::Delivery { client, payload, redelivered }
    }

    /// The next events from `key` on whose payloads are not in memory, with their places in the storage.
    fn payloads_to_read(&self, sub: SubscriptionId, key: EventKey) -> Vec<(EventKey, Place)> {
        let upcoming = self.subscriptions[sub].upcoming(&self.log, key, LOAD);
        let absent = upcoming.into_iter().filter(|key| self.log.payload(*key).is_none());
        let located = absent.filter_map(|key| {
            let entry = self.log.get(key)?;
            Some((key, entry.place()?, entry.len as usize))
        });
        let mut bytes = 0;
        let bounded = located.take_while(|(.., len)| {
            let fits = bytes < LOAD_BYTES;
            bytes += len;
            fits
        });
        bounded.map(|(key, place, _)| (key, place)).collect()
    }

    /// Accepts payloads read for a subscription. A payload that cannot be read (`None`) from the event's current place
    /// is lost, and the event is dropped wherever it waits. Returns the number of lost events.
    pub fn loaded(&mut self, sub: Option<SubscriptionId>, payloads: Vec<(EventKey, Place, Option<Payload>)>) -> usize {
        if let Some(subscription) = sub.and_then(|sub| self.subscriptions.get_mut(sub)) {
            subscription.set_loading(false);
        }
        let mut lost = 0;
        for (key, place, payload) in payloads {
            match payload {
                Some(payload) => self.log.set_payload(key, payload),
                None => lost += usize::from(self.drop_unreadable(key, place)),
            }
        }
        lost
    }

    fn drop_unreadable(&mut self, key: EventKey, place: Place) -> bool {
        // An event that the storage has moved is read again at its new place; one that was replaced waits nowhere.
        let entry = self.log.get(key).filter(|entry| !entry.withdrawn() && entry.place() == Some(place));
        let Some(id) = entry.map(|entry| entry.id) else { return false };
        for (at, sub) in self.subscriptions.iter_mut() {
            if sub.hold(key, id) == Hold::Waiting {
                sub.drop_unreadable(&mut self.log, key);
                self.changed.push(at);
            }
        }
        true
    }

    /// Resumes deliveries to a consumer whose client has room again.
    pub fn resume(&mut self, sub: SubscriptionId, consumer: ConsumerId) {
        self.subscriptions[sub].enter_ring(consumer);
    }

    /// Whether the event `seq` is not visible yet.
    #[must_use]
    pub fn is_invisible(&self, seq: Seq) -> bool {
        seq > self.log.visible
    }

    /// Settles an event in flight on `consumer`, or one that was delivered to the subscription, came back and waits.
    ///
    /// With a timeout, an event may be delivered twice to a slow client. The reference's clients acknowledge both deliveries, and repeat
    /// an acknowledgement that is answered with `no_event_error`. So the acknowledgement of a delivery that was taken back is answered as
    /// usual, once for each, if its event has been acknowledged since, and an acknowledgement is refused with `no_event_error` only once.
    pub fn acknowledge(&mut self, sub: SubscriptionId, consumer: ConsumerId, id: IdKey) -> Acknowledged {
        let subscription = &mut self.subscriptions[sub];
        if let Some(flight) = subscription.find_flight(id, consumer) {
            subscription.acknowledge_flight(&mut self.log, flight);
            self.changed.push(sub);
            return Acknowledged::InFlight;
        }
        if !subscription.is_in_flight(id) {
            let waiting = self.log.find_id(id).into_iter().filter(|key| subscription.hold(*key, id) == Hold::Waiting);
            if let Some((_, key)) = waiting.filter_map(|key| subscription.late_order(key)).min() {
                subscription.acknowledge_waiting(&mut self.log, consumer, id, key);
                self.changed.push(sub);
                return Acknowledged::Waiting;
            }
        }
        if subscription.take_acknowledged(consumer, id) {
            Acknowledged::Late
        } else if subscription.refuse(consumer, id) {
            Acknowledged::NoLongerHeld
        } else {
            Acknowledged::NotHeld
        }
    }

    /// Settles all events in flight on `consumer` and returns their number.
    pub fn acknowledge_all(&mut self, sub: SubscriptionId, consumer: ConsumerId) -> usize {
        let subscription = &mut self.subscriptions[sub];
        let mut count = 0;
        while let Some(flight) = subscription.first_flight_of(consumer) {
            subscription.acknowledge_flight(&mut self.log, flight);
            count += 1;
        }
        self.changed.push(sub);
        count
    }

    /// Gives back an event in flight on `consumer`, to be delivered again after `delay_ms`. Returns whether it was in flight.
    pub fn nack(&mut self, sub: SubscriptionId, consumer: ConsumerId, id: IdKey, delay_ms: u64, now: Millis) -> bool {
        let rules = self.rules();
        let subscription = &mut self.subscriptions[sub];
        let Some(flight) = subscription.find_flight(id, consumer) else { return false };
        let due = (delay_ms > 0).then(|| now.after_delay(delay_ms));
        subscription.nack_flight(&mut self.log, flight, due, now, rules);
        self.note_changed(sub);
        true
    }

    /// Restarts the timeout of an event in flight on `consumer`. Returns whether it was in flight.
    pub fn touch(&mut self, sub: SubscriptionId, consumer: ConsumerId, id: IdKey, now: Millis) -> bool {
        let rules = self.rules();
        let subscription = &mut self.subscriptions[sub];
        let Some(flight) = subscription.find_flight(id, consumer) else { return false };
        subscription.touch(flight, now, rules);
        true
    }

    /// The number of events in flight on a consumer.
    #[must_use]
    pub fn in_flight_of(&self, sub: SubscriptionId, consumer: ConsumerId) -> u32 {
        self.subscriptions[sub].in_flight_of(consumer)
    }

    /// Takes back up to `most` events whose deadline has passed.
    pub fn take_back_overdue(&mut self, sub: SubscriptionId, most: usize, now: Millis) {
        let rules = self.rules();
        if let Some(subscription) = self.subscriptions.get_mut(sub) {
            subscription.take_back_overdue(&mut self.log, most, now, rules);
            self.note_changed(sub);
        }
    }

    /// Makes dead letters of waiting events that have used up their deliveries. Examines up to `most`; [`Topic::next_change`] is in the past
    /// if there are more.
    pub fn bury_exhausted(&mut self, sub: SubscriptionId, most: usize, now: Millis) {
        let rules = self.rules();
        if let Some(subscription) = self.subscriptions.get_mut(sub) {
            subscription.bury_exhausted(&mut self.log, most, now, rules);
            self.note_changed(sub);
        }
    }

    /// Makes events deliverable that have come due.
    pub fn promote(&mut self, sub: SubscriptionId, now: Millis) {
        if let Some(subscription) = self.subscriptions.get_mut(sub) {
            subscription.promote(now);
        }
    }

    /// The time of a subscription's next change that depends on time alone.
    #[must_use]
    pub fn next_change(&self, sub: SubscriptionId) -> Option<Millis> {
        self.subscriptions.get(sub)?.next_change()
    }
}
