//! The consumers of a subscription, and whose turn it is.

use std::collections::VecDeque;

use slab::Slab;

use super::late::{Late, LateEvents, Refused};
use crate::event::EventKey;
use crate::name::IdKey;
use crate::queue::flights::FlightList;

/// Identifies a client within an engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientId(pub u64);

/// Identifies a consumer within its subscription. Reused after it is detached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ConsumerId(pub(crate) u32);

impl ConsumerId {
    fn at(self) -> usize {
        self.0 as usize
    }
}

#[derive(Debug)]
struct Consumer {
    client: ClientId,
    prefetch: u16,
    flights: FlightList,
    /// The number of events that the consumer has terminated and that have not left yet. They still use its prefetch.
    leaving: u32,
    /// Whether the consumer is in the ring.
    in_ring: bool,
    /// The deliveries that were taken back as overdue, which may still be acknowledged.
    late: Late,
    /// The acknowledgements that were answered with `no_event_error`.
    refused: Refused,
}

impl Consumer {
    fn has_room(&self) -> bool {
        self.flights.len + self.leaving < u32::from(self.prefetch)
    }
}

/// The consumers of a subscription, and the ring in which they take turns.
///
/// Invariants:
/// - A consumer is in the ring at most once; `in_ring` tells whether it is.
/// - A consumer with room is in the ring, unless its turn has been taken: the delivery ends with [`Consumers::enter_ring`] or
///   [`Consumers::return_turn`], and a client without room regains its turn with `resume`.
/// - The ring may hold a consumer without room, which is dropped when its turn comes.
#[derive(Debug, Default)]
pub(super) struct Consumers {
    consumers: Slab<Consumer>,
    ring: VecDeque<ConsumerId>,
    /// The events of all overdue deliveries.
    late: LateEvents,
}

impl Consumers {
    pub(super) fn len(&self) -> usize {
        self.consumers.len()
    }

    pub(super) fn ids(&self) -> Vec<ConsumerId> {
        self.consumers.iter().map(|(at, _)| id_of(at)).collect()
    }

    pub(super) fn attach(&mut self, client: ClientId, prefetch: u16) -> ConsumerId {
        let consumer = id_of(self.consumers.insert(Consumer {
            client,
            prefetch: prefetch.max(1),
            flights: FlightList::default(),
            leaving: 0,
            in_ring: false,
            late: Late::default(),
            refused: Refused::default(),
        }));
        self.enter_ring(consumer);
        consumer
    }

    /// Removes a consumer that has nothing in flight.
    pub(super) fn remove(&mut self, consumer: ConsumerId) {
        let gone = self.consumers.remove(consumer.at());
        gone.late.into_events().for_each(|key| self.late.release(key));
        // The slab reuses the place, so a turn left in the ring would go to the next consumer.
        self.ring.retain(|other| *other != consumer);
    }

    pub(super) fn set_prefetch(&mut self, consumer: ConsumerId, prefetch: u16) {
        self.consumers[consumer.at()].prefetch = prefetch.max(1);
        self.enter_ring(consumer);
    }

    #[inline]
    pub(super) fn client(&self, consumer: ConsumerId) -> ClientId {
        self.consumers[consumer.at()].client
    }

    /// Whether `consumer` still belongs to `client`; its place may have been reused.
    pub(super) fn is_of(&self, consumer: ConsumerId, client: ClientId) -> bool {
        self.consumers.get(consumer.at()).is_some_and(|other| other.client == client)
    }

    /// The flights of a consumer.
    #[inline]
    pub(super) fn flights(&self, consumer: ConsumerId) -> &FlightList {
        &self.consumers[consumer.at()].flights
    }

    #[inline]
    pub(super) fn flights_mut(&mut self, consumer: ConsumerId) -> &mut FlightList {
        &mut self.consumers[consumer.at()].flights
    }

    // ---- Turns ----

    /// Appends a consumer with room to the ring, unless it is already in it.
    #[inline]
    pub(super) fn enter_ring(&mut self, consumer: ConsumerId) {
        let entry = &mut self.consumers[consumer.at()];
        if !entry.in_ring && entry.has_room() {
            entry.in_ring = true;
            self.ring.push_back(consumer);
        }
    }

    /// Whether any consumer waits for its turn.
    #[inline]
    pub(super) fn want_more(&self) -> bool {
        !self.ring.is_empty()
    }

    /// Removes and returns the consumer whose turn it is.
    #[inline]
    pub(super) fn next(&mut self) -> Option<ConsumerId> {
        while let Some(id) = self.ring.pop_front() {
            if let Some(consumer) = self.consumers.get_mut(id.at()) {
                consumer.in_ring = false;
                if consumer.has_room() {
                    return Some(id);
                }
            }
        }
        None
    }

    /// Returns the turn to a consumer for which there was no event.
    pub(super) fn return_turn(&mut self, consumer: ConsumerId) {
        if let Some(entry) = self.consumers.get_mut(consumer.at())
            && !entry.in_ring
        {
            entry.in_ring = true;
            self.ring.push_front(consumer);
        }
    }

    // ---- Terminated and overdue deliveries ----

    /// Counts an event terminated by a consumer, which uses its prefetch until it has left.
    pub(super) fn begin_leaving(&mut self, consumer: ConsumerId) {
        self.consumers[consumer.at()].leaving += 1;
    }

    /// Frees the prefetch of a terminated event that has left or come back.
    pub(super) fn end_leaving(&mut self, consumer: ConsumerId) {
        if let Some(entry) = self.consumers.get_mut(consumer.at()) {
            entry.leaving = entry.leaving.saturating_sub(1);
            self.enter_ring(consumer);
        }
    }

    /// Remembers a delivery taken back as overdue.
    pub(super) fn remember_late(&mut self, consumer: ConsumerId, id: IdKey, key: EventKey) {
        self.consumers[consumer.at()].late.insert(&mut self.late, id, key);
    }

    /// Records that an event was acknowledged, so that its overdue deliveries may be acknowledged, too.
    #[inline]
    pub(super) fn event_is_acknowledged(&mut self, key: EventKey) {
        self.late.acknowledge(key);
    }

    /// Forgets an overdue delivery of `key`, which the consumer acknowledged while the event still waited.
    pub(super) fn forget_late(&mut self, consumer: ConsumerId, id: IdKey, key: EventKey) {
        self.consumers[consumer.at()].late.take(&mut self.late, id, |other, _| other == key);
    }

    /// Whether a delivery of `id` was taken back from the consumer as overdue and its event acknowledged since. Each is found only once.
    pub(super) fn take_acknowledged(&mut self, consumer: ConsumerId, id: IdKey) -> bool {
        self.consumers[consumer.at()].late.take(&mut self.late, id, |_, is_acknowledged| is_acknowledged)
    }

    /// Forgets the overdue deliveries of `id`, whose events are gone.
    pub(super) fn forget_all_late(&mut self, consumer: ConsumerId, id: IdKey) {
        while self.consumers[consumer.at()].late.take(&mut self.late, id, |_, _| true) {}
    }

    /// Records that an acknowledgement of `id` settles nothing. Returns whether it is a repeat: no event of this id was delivered to the
    /// consumer since the previous one.
    pub(super) fn refuse(&mut self, consumer: ConsumerId, id: IdKey) -> bool {
        self.consumers[consumer.at()].refused.is_repeat(id)
    }

    /// Records a delivery of `id` to the consumer.
    #[inline]
    pub(super) fn note_delivery(&mut self, consumer: ConsumerId, id: IdKey) {
        self.consumers[consumer.at()].refused.forget(id);
    }
}

fn id_of(at: usize) -> ConsumerId {
    ConsumerId(u32::try_from(at).expect("connections are far fewer than 2^32"))
}

#[cfg(test)]
impl Consumers {
    /// Panics if an invariant does not hold.
    pub(super) fn check(&self) {
        for (at, consumer) in &self.consumers {
            let turns = self.ring.iter().filter(|id| id.at() == at).count();
            assert_eq!(turns, usize::from(consumer.in_ring), "consumer {at}");
        }
        assert!(self.ring.iter().all(|id| self.consumers.contains(id.at())), "{:?}", self.ring);
        self.late.check(self.consumers.iter().map(|(_, consumer)| &consumer.late));
    }
}
