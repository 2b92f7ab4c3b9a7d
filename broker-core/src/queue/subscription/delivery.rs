//! A subscription's deliveries and how they end.

use super::consumers::{ClientId, ConsumerId};
use super::{Candidate, Rules, Subscription};
use crate::event::{EventKey, Millis};
use crate::letter::Reason;
use crate::name::IdKey;
use crate::queue::flights::{Flight, FlightId, NewFlight};
use crate::queue::lane::Entry;
use crate::queue::log::Log;
use crate::storage::Redelivery;

impl Subscription {
    // ---- Consumers ----

    pub(in crate::queue) fn attach(&mut self, client: ClientId, prefetch: u16) -> ConsumerId {
        self.consumers.attach(client, prefetch)
    }

    pub(in crate::queue) fn set_prefetch(&mut self, consumer: ConsumerId, prefetch: u16) {
        self.consumers.set_prefetch(consumer, prefetch);
    }

    /// Removes a consumer. Its events in flight come back.
    pub(in crate::queue) fn detach(&mut self, log: &mut Log, consumer: ConsumerId, now: Millis, rules: Rules) {
        while let Some(flight) = self.first_flight_of(consumer) {
            self.nack_flight(log, flight, None, now, rules);
        }
        self.consumers.remove(consumer);
    }

    pub(in crate::queue) fn consumer_ids(&self) -> Vec<ConsumerId> {
        self.consumers.ids()
    }

    pub(in crate::queue) fn consumers(&self) -> usize {
        self.consumers.len()
    }

    #[inline]
    pub(in crate::queue) fn client(&self, consumer: ConsumerId) -> ClientId {
        self.consumers.client(consumer)
    }

    /// Whether `consumer` still belongs to `client`.
    pub(in crate::queue) fn is_consumer_of(&self, consumer: ConsumerId, client: ClientId) -> bool {
        self.consumers.is_of(consumer, client)
    }

    // ---- Turns ----

    /// Whether a consumer can take more.
    #[inline]
    pub(in crate::queue) fn is_hungry(&self) -> bool {
        self.consumers.want_more() && !self.loading
    }

    /// Takes the turn of the next consumer. `None` if no consumer can take more, or while a payload is being read.
    #[inline]
    pub(in crate::queue) fn next_consumer(&mut self) -> Option<ConsumerId> {
        if self.loading { None } else { self.consumers.next() }
    }

    /// Returns the turn to a consumer for which there was no event.
    pub(in crate::queue) fn return_turn(&mut self, consumer: ConsumerId) {
        self.consumers.return_turn(consumer);
    }

    /// Lets a consumer wait for its next turn.
    #[inline]
    pub(in crate::queue) fn enter_ring(&mut self, consumer: ConsumerId) {
        self.consumers.enter_ring(consumer);
    }

    /// Sets whether a payload is being read; until it is, nothing is delivered.
    pub(in crate::queue) fn set_loading(&mut self, loading: bool) {
        self.loading = loading;
    }

    // ---- Flights ----

    pub(in crate::queue) fn in_flight(&self) -> usize {
        self.flights.len()
    }

    pub(in crate::queue) fn in_flight_of(&self, consumer: ConsumerId) -> u32 {
        self.consumers.flights(consumer).len
    }

    pub(in crate::queue) fn first_flight_of(&self, consumer: ConsumerId) -> Option<FlightId> {
        self.flights.first(self.consumers.flights(consumer))
    }

    /// The flight of `id` on `consumer`; of several, the one delivered first.
    pub(in crate::queue) fn find_flight(&self, id: IdKey, consumer: ConsumerId) -> Option<FlightId> {
        self.flights.find(id, consumer)
    }

    /// Whether an event of `id` is in flight on any consumer.
    pub(in crate::queue) fn is_in_flight(&self, id: IdKey) -> bool {
        self.flights.contains(id)
    }

    /// Puts the candidate in flight on a consumer. Returns the number of earlier deliveries.
    pub(in crate::queue) fn deliver(
        &mut self,
        log: &Log,
        candidate: Candidate,
        consumer: ConsumerId,
        now: Millis,
        rules: Rules,
    ) -> u32 {
        let Candidate { key, id, history, fresh } = candidate;
        if fresh {
            self.leave_lane(log, key);
        } else {
            self.aside.remove(key);
        }
        let deadline = rules.deadline(now);
        self.consumers.note_delivery(consumer, id);
        let list = self.consumers.flights_mut(consumer);
        self.flights.insert(list, NewFlight { key, id, history, consumer, since: now, deadline });
        self.note_delivery(id, key, rules);
        self.counters.delivered += 1;
        self.counters.redelivered += u64::from(history.deliveries > 0);
        history.deliveries
    }

    /// Restarts the timeout of a flight.
    pub(in crate::queue) fn touch(&mut self, flight: FlightId, now: Millis, rules: Rules) {
        self.flights.set_deadline(flight, rules.deadline(now));
    }

    /// Ends a flight and settles its event.
    pub(in crate::queue) fn acknowledge_flight(&mut self, log: &mut Log, at: FlightId) {
        let flight = self.land(at);
        self.settle(log, flight.key);
        self.consumers.event_is_acknowledged(flight.key);
        self.aside.unblock(flight.id);
        self.consumers.enter_ring(flight.consumer);
        self.counters.acknowledged += 1;
    }

    /// Ends a flight and returns its event to the queue. The event is dropped if it has been replaced since its delivery, and becomes a dead
    /// letter if it has reached the maximum of deliveries.
    pub(in crate::queue) fn nack_flight(
        &mut self,
        log: &mut Log,
        at: FlightId,
        due: Option<Millis>,
        now: Millis,
        rules: Rules,
    ) {
        let flight = self.land(at);
        self.come_back(log, &flight, due, now, rules);
        self.aside.unblock(flight.id);
        self.consumers.enter_ring(flight.consumer);
    }

    /// Takes back up to `most` flights whose deadline has passed. Their consumers may still acknowledge them, see
    /// [`Subscription::take_acknowledged`].
    pub(in crate::queue) fn take_back_overdue(&mut self, log: &mut Log, most: usize, now: Millis, rules: Rules) {
        for _ in 0..most {
            let Some((_, at)) = self.flights.next_deadline().filter(|(deadline, _)| *deadline <= now) else { return };
            let flight = self.flights.get(at);
            self.consumers.remember_late(flight.consumer, flight.id, flight.key);
            self.nack_flight(log, at, None, now, rules);
        }
    }

    /// Whether a delivery of `id` was taken back from the consumer as overdue and its event acknowledged since. Each is found only once.
    pub(in crate::queue) fn take_acknowledged(&mut self, consumer: ConsumerId, id: IdKey) -> bool {
        self.consumers.take_acknowledged(consumer, id)
    }

    /// Records that an acknowledgement of `id` settles nothing. Returns whether it is a repeat: no event of this id was
    /// delivered to the consumer since the previous one.
    pub(in crate::queue) fn refuse(&mut self, consumer: ConsumerId, id: IdKey) -> bool {
        if !self.is_in_flight(id) {
            self.consumers.forget_all_late(consumer, id);
        }
        self.consumers.refuse(consumer, id)
    }

    /// Ends a flight.
    #[inline]
    pub(super) fn land(&mut self, at: FlightId) -> Flight {
        let consumer = self.flights.get(at).consumer;
        self.flights.remove(self.consumers.flights_mut(consumer), at)
    }

    fn come_back(&mut self, log: &mut Log, flight: &Flight, due_at: Option<Millis>, now: Millis, rules: Rules) {
        let key = flight.key;
        if log.get(key).is_none_or(Entry::withdrawn) {
            return self.settle(log, key);
        }
        let history = flight.history_at(now);
        let expires = log.recheck_expiry(key, history.grace_ms);
        self.aside.insert(key, history, due_at.filter(|due| *due > now));
        // Without a time to live the time in flight is not needed, and the record is shorter without it.
        let grace_ms = if expires { history.grace_ms } else { 0 };
        self.unstored.come_back(Redelivery { key, deliveries: history.deliveries, due_at, grace_ms });
        if rules.is_exhausted(history) {
            self.bury(log, key, Reason::MaxDeliveries);
        }
    }

    /// The time of publication of the oldest unsettled event.
    pub(in crate::queue) fn oldest(&self, log: &Log) -> Option<Millis> {
        let flights = self.flights.iter().map(|flight| flight.key);
        let beside = self.aside.oldest().into_iter().chain(self.letters.oldest());
        let lanes = log.priorities().filter_map(|priority| {
            let entries = log.iter_after(priority, self.positions.of(priority));
            let mut keys = entries.map(|entry| EventKey { priority, seq: entry.seq });
            keys.find(|key| !self.positions.is_settled_ahead(*key))
        });
        let oldest = flights.chain(beside).chain(lanes).min_by_key(|key| key.seq)?;
        log.get(oldest).map(Entry::published_at)
    }
}
