//! What is in flight in a subscription: found by id, listed by consumer in the order of delivery, ordered by deadline.

use std::collections::BTreeSet;

use hashbrown::HashTable;
use slab::Slab;

use crate::event::{EventKey, Millis};
use crate::name::IdKey;

/// No flight: the end of a consumer's list.
const NONE: u32 = u32::MAX;

/// A delivery that is not settled.
#[derive(Debug, Clone)]
pub(super) struct Flight {
    pub(super) key: EventKey,
    pub(super) id: IdKey,
    /// Deliveries of the event to this subscription, this one included.
    pub(super) deliveries: u32,
    pub(super) consumer: u32,
    pub(super) since: Millis,
    /// Milliseconds in flight before, which its time to live does not count.
    pub(super) grace_ms: u64,
    deadline: Option<Millis>,
    /// Deliveries of the subscription up to this one.
    pub(super) order: u64,
    previous: u32,
    next: u32,
}

/// The flights of one consumer, oldest first.
#[derive(Debug, Clone, Copy)]
pub(super) struct FlightList {
    first: u32,
    last: u32,
    pub(super) len: u32,
}

impl Default for FlightList {
    fn default() -> Self {
        Self { first: NONE, last: NONE, len: 0 }
    }
}

/// All flights of a subscription.
#[derive(Debug, Default)]
pub(super) struct Flights {
    flights: Slab<Flight>,
    by_id: HashTable<u32>,
    deadlines: BTreeSet<(Millis, u32)>,
    made: u64,
}

impl Flights {
    pub(super) fn len(&self) -> usize {
        self.flights.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Flight> {
        self.flights.iter().map(|(_, flight)| flight)
    }

    pub(super) fn contains(&self, id: IdKey) -> bool {
        !self.by_id.is_empty() && self.by_id.find(id.short(), |at| self.flights[*at as usize].id == id).is_some()
    }

    /// Whether `key`, whose id is `id`, is in flight.
    pub(super) fn holds(&self, id: IdKey, key: EventKey) -> bool {
        self.state(id, key).is_some()
    }

    /// How often `key`, whose id is `id`, has been delivered and how long it was in flight before, if it is in flight.
    pub(super) fn state(&self, id: IdKey, key: EventKey) -> Option<(u32, u64)> {
        if self.by_id.is_empty() {
            return None;
        }
        let mut flights = self.by_id.iter_hash(id.short()).map(|at| &self.flights[*at as usize]);
        flights.find(|flight| flight.key == key).map(|flight| (flight.deliveries, flight.grace_ms))
    }

    /// The flight of `id` on `consumer`; of several (where duplicates are kept) the one delivered first.
    pub(super) fn find(&self, id: IdKey, consumer: u32) -> Option<u32> {
        let candidates = self.by_id.iter_hash(id.short()).copied().filter(|at| {
            let flight = &self.flights[*at as usize];
            flight.id == id && flight.consumer == consumer
        });
        candidates.min_by_key(|at| self.flights[*at as usize].order)
    }

    /// The oldest flight of a consumer.
    pub(super) fn first(&self, list: &FlightList) -> Option<u32> {
        (list.first != NONE).then_some(list.first)
    }

    #[expect(clippy::too_many_arguments, reason = "each is one field of the flight")]
    pub(super) fn insert(
        &mut self,
        list: &mut FlightList,
        key: EventKey,
        id: IdKey,
        deliveries: u32,
        consumer: u32,
        since: Millis,
        grace_ms: u64,
        deadline: Option<Millis>,
    ) {
        self.made += 1;
        let (order, previous, next) = (self.made, list.last, NONE);
        let flight = Flight { key, id, deliveries, consumer, since, grace_ms, deadline, order, previous, next };
        let at = u32::try_from(self.flights.insert(flight)).expect("prefetch bounds flights far below 2^32");
        if list.last == NONE {
            list.first = at;
        } else {
            self.flights[list.last as usize].next = at;
        }
        list.last = at;
        list.len += 1;
        let flights = &self.flights;
        self.by_id.insert_unique(id.short(), at, |at| flights[*at as usize].id.short());
        if let Some(deadline) = deadline {
            self.deadlines.insert((deadline, at));
        }
    }

    /// Takes a flight out of everything; `list` is that of its consumer.
    pub(super) fn remove(&mut self, list: &mut FlightList, at: u32) -> Flight {
        let flight = self.flights.remove(at as usize);
        match self.by_id.find_entry(flight.id.short(), |other| *other == at) {
            Ok(entry) => {
                entry.remove();
            }
            Err(_absent) => debug_assert!(false, "every flight is found by its id"),
        }
        if flight.previous == NONE {
            list.first = flight.next;
        } else {
            self.flights[flight.previous as usize].next = flight.next;
        }
        if flight.next == NONE {
            list.last = flight.previous;
        } else {
            self.flights[flight.next as usize].previous = flight.previous;
        }
        list.len -= 1;
        if let Some(deadline) = flight.deadline {
            self.deadlines.remove(&(deadline, at));
        }
        flight
    }

    pub(super) fn get(&self, at: u32) -> &Flight {
        &self.flights[at as usize]
    }

    /// Sets when the flight is taken back.
    pub(super) fn set_deadline(&mut self, at: u32, deadline: Option<Millis>) {
        let old = std::mem::replace(&mut self.flights[at as usize].deadline, deadline);
        if let Some(old) = old {
            self.deadlines.remove(&(old, at));
        }
        if let Some(deadline) = deadline {
            self.deadlines.insert((deadline, at));
        }
    }

    /// The earliest deadline and its flight.
    pub(super) fn next_deadline(&self) -> Option<(Millis, u32)> {
        self.deadlines.first().copied()
    }
}
