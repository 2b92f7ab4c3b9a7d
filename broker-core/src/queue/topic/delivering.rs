//! Events on their way out, and what becomes of them.

use super::{ConsumerId, SubscriptionId, Topic};
use crate::event::{EventKey, Millis, Payload, Seq};
use crate::name::IdKey;
use crate::queue::subscription::{Candidate, ClientId, Hold};
use crate::storage::Place;

/// What [`Topic::acknowledge`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acknowledged {
    /// It was in flight on the consumer.
    InFlight,
    /// It waited.
    Waiting,
    /// It has been settled, and was taken back from the consumer before for being overdue: this acknowledges that delivery.
    Late,
    /// Nothing of that id is in flight here or waiting.
    NotFound,
}

/// What [`Topic::next`] found.
#[derive(Debug)]
pub enum Next {
    /// An event has been put in flight.
    Delivery {
        /// The client that gets it.
        client: ClientId,
        /// What it gets.
        payload: Payload,
        /// How often it was delivered before.
        redelivered: u32,
    },
    /// Payloads have to be read before the next delivery; the subscription waits until [`Topic::loaded`].
    Load(Vec<(EventKey, Place)>),
    /// Nothing is deliverable, or nobody can take it.
    Nothing,
}

/// The most payloads read together. Enough that reading a backlog back is sequential, little enough to stay in the budget.
const LOAD: usize = 512;

/// After so many bytes no more payloads are read together.
const LOAD_BYTES: usize = 1 << 20;

impl Topic {
    fn candidate(&mut self, sub: SubscriptionId, now: Millis) -> Option<Candidate> {
        let rules = self.rules();
        let subscription = &mut self.subscriptions[sub.0];
        let candidate = subscription.candidate(&mut self.log, now, rules);
        if !subscription.to_store.settled.is_empty() || subscription.has_unsent() {
            self.changed(sub.0);
        }
        candidate
    }

    /// Whether something could be delivered now to a consumer with room; `None`: nothing has been found yet, and there is more to
    /// look at in another turn.
    pub fn is_deliverable(&mut self, sub: SubscriptionId, now: Millis) -> Option<bool> {
        let found = self.candidate(sub, now).is_some();
        (found || !self.subscriptions[sub.0].is_unfinished()).then_some(found)
    }

    /// Puts the next event in flight on the consumer whose turn it is, among those whose client `has_room`. A client that
    /// has not loses its turn until [`Topic::resume`].
    pub fn next(&mut self, sub: SubscriptionId, now: Millis, mut has_room: impl FnMut(ClientId) -> bool) -> Next {
        if self.subscriptions[sub.0].loading {
            return Next::Nothing;
        }
        let consumer = loop {
            let subscription = &mut self.subscriptions[sub.0];
            let Some(consumer) = subscription.next_consumer() else { return Next::Nothing };
            if has_room(subscription.consumers[consumer as usize].client) {
                break consumer;
            }
        };
        let Some(candidate) = self.candidate(sub, now) else {
            self.subscriptions[sub.0].return_turn(consumer);
            return Next::Nothing;
        };
        let rules = self.rules();
        let subscription = &mut self.subscriptions[sub.0];
        let Some(payload) = self.log.payload(candidate.key).cloned() else {
            subscription.return_turn(consumer);
            subscription.loading = true;
            let upcoming = subscription.upcoming(&self.log, candidate.key, LOAD);
            let absent = upcoming.into_iter().filter(|key| self.log.payload(*key).is_none());
            let mut bytes = 0;
            let located = absent.filter_map(|key| {
                let entry = self.log.get(key)?;
                Some((key, entry.place()?, entry.len as usize))
            });
            let bounded = located.take_while(|(.., len)| {
                let fits = bytes < LOAD_BYTES;
                bytes += len;
                fits
            });
            return Next::Load(bounded.map(|(key, place, _)| (key, place)).collect());
        };
        let client = subscription.consumers[consumer as usize].client;
        let redelivered = subscription.take(&self.log, candidate, consumer, now, rules);
        subscription.enter_ring(consumer as usize);
        Next::Delivery { client, payload, redelivered }
    }

    /// Takes payloads that were read for a subscription; what could not be read (`None`) although it is where it was read is lost
    /// and is dropped everywhere. Returns how many were.
    pub fn loaded(&mut self, sub: Option<SubscriptionId>, payloads: Vec<(EventKey, Place, Option<Payload>)>) -> usize {
        if let Some(subscription) = sub.and_then(|sub| self.subscriptions.get_mut(sub.0)) {
            subscription.loading = false;
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
        // One that the storage has moved meanwhile is looked for again where it is now; for one that was replaced nobody waits.
        let entry = self.log.get(key).filter(|entry| !entry.withdrawn() && entry.place() == Some(place));
        let Some(id) = entry.map(|entry| entry.id) else { return false };
        for (at, sub) in &mut self.subscriptions {
            if sub.hold(key, id) == Hold::Waiting {
                sub.settle_waiting(&mut self.log, key);
                sub.counters.dropped += 1;
                self.dirty.push(at);
            }
        }
        true
    }

    /// A client can take more again.
    pub fn resume(&mut self, sub: SubscriptionId, consumer: ConsumerId) {
        self.subscriptions[sub.0].enter_ring(consumer.0 as usize);
    }

    /// Whether the event `seq` is not visible yet.
    #[must_use]
    pub fn is_invisible(&self, seq: Seq) -> bool {
        seq > self.log.visible
    }

    /// Settles an event that is in flight on `consumer`, or that waits.
    ///
    /// With a time-out, one event is delivered twice to a client that is slow, and the reference's clients acknowledge both
    /// deliveries, repeating what is answered with `no_event_error` for ever. So the acknowledgement of a delivery that was taken back
    /// is answered as usual, once for each, although its event is settled by then.
    pub fn acknowledge(&mut self, sub: SubscriptionId, consumer: ConsumerId, id: IdKey) -> Acknowledged {
        let subscription = &mut self.subscriptions[sub.0];
        if let Some(flight) = subscription.flights.find(id, consumer.0) {
            subscription.acknowledge_flight(&mut self.log, flight);
            self.dirty.push(sub.0);
            return Acknowledged::InFlight;
        }
        if subscription.flights.contains(id) {
            return Acknowledged::NotFound;
        }
        let was_late = subscription.consumers[consumer.0 as usize].forgive(id);
        let waiting = self.log.find_id(id).into_iter().filter(|key| subscription.hold(*key, id) == Hold::Waiting);
        let Some(key) = waiting.min_by_key(|key| subscription.late_order(*key)) else {
            return if was_late { Acknowledged::Late } else { Acknowledged::NotFound };
        };
        subscription.settle_waiting(&mut self.log, key);
        subscription.counters.acknowledged += 1;
        self.dirty.push(sub.0);
        Acknowledged::Waiting
    }

    /// Settles all that is in flight on `consumer`. Returns how many events that were.
    pub fn acknowledge_all(&mut self, sub: SubscriptionId, consumer: ConsumerId) -> usize {
        let subscription = &mut self.subscriptions[sub.0];
        let mut count = 0;
        while let Some(flight) = subscription.first_flight_of(consumer.0) {
            subscription.acknowledge_flight(&mut self.log, flight);
            count += 1;
        }
        self.dirty.push(sub.0);
        count
    }

    /// Gives back an event that is in flight on `consumer`, to be delivered again after `delay_ms`. Returns whether it was.
    pub fn requeue(
        &mut self,
        sub: SubscriptionId,
        consumer: ConsumerId,
        id: IdKey,
        delay_ms: u64,
        now: Millis,
    ) -> bool {
        let rules = self.rules();
        let subscription = &mut self.subscriptions[sub.0];
        let Some(flight) = subscription.flights.find(id, consumer.0) else { return false };
        let due = (delay_ms > 0).then(|| now.after_delay(delay_ms));
        subscription.requeue_flight(&mut self.log, flight, due, now, rules);
        self.changed(sub.0);
        true
    }

    /// Starts the time-out of an event in flight on `consumer` again. Returns whether it was.
    pub fn touch(&mut self, sub: SubscriptionId, consumer: ConsumerId, id: IdKey, now: Millis) -> bool {
        let subscription = &mut self.subscriptions[sub.0];
        let Some(flight) = subscription.flights.find(id, consumer.0) else { return false };
        let timeout = self.policy.ack_timeout_ms;
        subscription.flights.set_deadline(flight, (timeout > 0).then(|| now.plus(timeout)));
        true
    }

    /// How many events a consumer has in flight.
    #[must_use]
    pub fn in_flight_of(&self, sub: SubscriptionId, consumer: ConsumerId) -> u32 {
        self.subscriptions[sub.0].in_flight_of(consumer.0)
    }

    /// Gives back what has been in flight for too long.
    pub fn take_back_overdue(&mut self, sub: SubscriptionId, now: Millis) {
        let rules = self.rules();
        let Some(subscription) = self.subscriptions.get_mut(sub.0) else { return };
        while let Some((_, flight)) = subscription.flights.next_deadline().filter(|(at, _)| *at <= now) {
            subscription.is_overdue(flight);
            subscription.requeue_flight(&mut self.log, flight, None, now, rules);
        }
        self.changed(sub.0);
    }

    /// Makes what was delayed until now deliverable.
    pub fn promote(&mut self, sub: SubscriptionId, now: Millis) {
        if let Some(subscription) = self.subscriptions.get_mut(sub.0) {
            subscription.promote(now);
        }
    }

    /// When a subscription changes by the passing of time alone.
    #[must_use]
    pub fn next_change(&self, sub: SubscriptionId) -> Option<Millis> {
        self.subscriptions.get(sub.0)?.next_change()
    }
}
