//! The consumers of a subscription, and whose turn it is.

use super::{ClientId, Subscription};
use crate::name::IdKey;
use crate::queue::flights::FlightList;

use std::collections::VecDeque;

/// Overdue deliveries that are remembered of a consumer: as many as it can be late with before it is told that there is no such event.
const LATE: usize = 1024;

#[derive(Debug)]
pub(in crate::queue) struct Consumer {
    pub(in crate::queue) client: ClientId,
    pub(super) prefetch: u16,
    pub(super) flights: FlightList,
    /// Events that it has given up and that are not settled yet: they still take its prefetch.
    pub(super) giving_up: u32,
    /// In the ring of those that can take more.
    pub(super) in_ring: bool,
    /// Deliveries that were taken back from it for being overdue, the oldest first, each with how often: it may still acknowledge them.
    late: VecDeque<(IdKey, u32)>,
}

impl Consumer {
    pub(super) fn has_room(&self) -> bool {
        self.flights.len + self.giving_up < u32::from(self.prefetch)
    }

    /// A delivery is taken back from it.
    pub(super) fn is_late_with(&mut self, id: IdKey) {
        if let Some((_, count)) = self.late.iter_mut().find(|(other, _)| *other == id) {
            *count += 1;
            return;
        }
        if self.late.len() == LATE {
            self.late.pop_front();
        }
        self.late.push_back((id, 1));
    }

    /// It acknowledges something that it does not have in flight: whether it was late with it. Each delivery is answered once.
    pub(in crate::queue) fn forgive(&mut self, id: IdKey) -> bool {
        let Some(at) = self.late.iter().position(|(other, _)| *other == id) else { return false };
        self.late[at].1 -= 1;
        if self.late[at].1 == 0 {
            self.late.remove(at);
        }
        true
    }
}

impl Subscription {
    pub(in crate::queue) fn attach(&mut self, client: ClientId, prefetch: u16) -> u32 {
        let consumer = Consumer {
            client,
            prefetch: prefetch.max(1),
            flights: FlightList::default(),
            giving_up: 0,
            in_ring: false,
            late: VecDeque::new(),
        };
        let at = self.consumers.insert(consumer);
        self.enter_ring(at);
        u32::try_from(at).expect("connections are far fewer than 2^32")
    }

    pub(in crate::queue) fn set_prefetch(&mut self, consumer: u32, prefetch: u16) {
        self.consumers[consumer as usize].prefetch = prefetch.max(1);
        self.enter_ring(consumer as usize);
    }

    /// A flight is taken back for being overdue: its consumer may not know yet.
    pub(in crate::queue) fn is_overdue(&mut self, flight: u32) {
        let flight = self.flights.get(flight);
        let (consumer, id) = (flight.consumer as usize, flight.id);
        self.consumers[consumer].is_late_with(id);
    }

    pub(in crate::queue) fn in_flight_of(&self, consumer: u32) -> u32 {
        self.consumers[consumer as usize].flights.len
    }

    pub(in crate::queue) fn first_flight_of(&self, consumer: u32) -> Option<u32> {
        self.flights.first(&self.consumers[consumer as usize].flights)
    }

    /// Puts a consumer that can take more at the end of the ring, unless it is there.
    pub(in crate::queue) fn enter_ring(&mut self, consumer: usize) {
        let entry = &mut self.consumers[consumer];
        if !entry.in_ring && entry.has_room() {
            entry.in_ring = true;
            self.ring.push_back(u32::try_from(consumer).expect("connections are far fewer than 2^32"));
        }
    }

    /// Whether a consumer can take more.
    pub(in crate::queue) fn is_hungry(&self) -> bool {
        !self.ring.is_empty() && !self.loading
    }

    /// Takes the consumer whose turn it is out of the ring.
    pub(in crate::queue) fn next_consumer(&mut self) -> Option<u32> {
        while let Some(at) = self.ring.pop_front() {
            if let Some(consumer) = self.consumers.get_mut(at as usize) {
                consumer.in_ring = false;
                if consumer.has_room() {
                    return Some(at);
                }
            }
        }
        None
    }

    /// Gives the turn back to a consumer that could not be served for want of an event.
    pub(in crate::queue) fn return_turn(&mut self, consumer: u32) {
        if let Some(entry) = self.consumers.get_mut(consumer as usize)
            && !entry.in_ring
        {
            entry.in_ring = true;
            self.ring.push_front(consumer);
        }
    }

    pub(in crate::queue) fn remove_consumer(&mut self, consumer: u32) {
        self.consumers.remove(consumer as usize);
        // The slab uses its place again: a stale turn in the ring must not be taken for the next one's.
        self.ring.retain(|at| *at != consumer);
    }
}
