//! The deliveries in flight in a subscription: found by id, listed by consumer in the order of delivery, ordered by deadline.

use std::collections::BTreeSet;

use hashbrown::HashTable;
use slab::Slab;

use super::history::History;
use super::subscription::ConsumerId;
use crate::event::{EventKey, Millis};
use crate::name::IdKey;

/// Identifies a flight within its subscription. Reused after the flight has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct FlightId(u32);

/// No flight: the end of a consumer's list.
const NONE: FlightId = FlightId(u32::MAX);

/// A delivery about to be made.
#[derive(Debug)]
pub(super) struct NewFlight {
    pub(super) key: EventKey,
    pub(super) id: IdKey,
    /// The deliveries before the new one.
    pub(super) history: History,
    pub(super) consumer: ConsumerId,
    pub(super) since: Millis,
    pub(super) deadline: Option<Millis>,
}

/// An unsettled delivery.
#[derive(Debug, Clone)]
pub(super) struct Flight {
    pub(super) key: EventKey,
    pub(super) id: IdKey,
    /// The deliveries of the event to this subscription, this one included.
    pub(super) history: History,
    pub(super) consumer: ConsumerId,
    pub(super) since: Millis,
    deadline: Option<Millis>,
    previous: FlightId,
    next: FlightId,
}

impl Flight {
    /// The event's history if the flight ended now.
    pub(super) fn history_at(&self, now: Millis) -> History {
        History { grace_ms: self.history.grace_ms.saturating_add(now.since(self.since)), ..self.history }
    }
}

/// The flights of one consumer, oldest first.
#[derive(Debug, Clone, Copy)]
pub(super) struct FlightList {
    first: FlightId,
    last: FlightId,
    pub(super) len: u32,
}

impl Default for FlightList {
    fn default() -> Self {
        Self { first: NONE, last: NONE, len: 0 }
    }
}

/// All flights of a subscription.
///
/// Invariant: each flight is in `by_id`, in its consumer's list, and in `deadlines` if it has a deadline.
#[derive(Debug, Default)]
pub(super) struct Flights {
    flights: Slab<Flight>,
    by_id: HashTable<FlightId>,
    deadlines: BTreeSet<(Millis, FlightId)>,
    /// The number of deliveries so far.
    made: u64,
}

impl Flights {
    pub(super) fn len(&self) -> usize {
        self.flights.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Flight> {
        self.flights.iter().map(|(_, flight)| flight)
    }

    /// Whether an event of `id` is in flight.
    #[inline]
    pub(super) fn contains(&self, id: IdKey) -> bool {
        !self.by_id.is_empty() && self.by_id.find(id.short(), |at| self.get(*at).id == id).is_some()
    }

    /// The flight of `key`, whose id is `id`.
    #[inline]
    pub(super) fn of(&self, id: IdKey, key: EventKey) -> Option<&Flight> {
        if self.by_id.is_empty() {
            return None;
        }
        self.by_id.iter_hash(id.short()).map(|at| self.get(*at)).find(|flight| flight.key == key)
    }

    /// The flight of `id` on `consumer`; if duplicates are kept, the one delivered first.
    #[inline]
    pub(super) fn find(&self, id: IdKey, consumer: ConsumerId) -> Option<FlightId> {
        let candidates = self.by_id.iter_hash(id.short()).copied().filter(|at| {
            let flight = self.get(*at);
            flight.id == id && flight.consumer == consumer
        });
        candidates.min_by_key(|at| self.get(*at).history.order)
    }

    /// The oldest flight of a consumer.
    #[inline]
    pub(super) fn first(&self, list: &FlightList) -> Option<FlightId> {
        (list.first != NONE).then_some(list.first)
    }

    /// Adds a delivery to the flights and to `list`, its consumer's list.
    #[inline]
    pub(super) fn insert(&mut self, list: &mut FlightList, new: NewFlight) {
        self.made += 1;
        let NewFlight { key, id, history, consumer, since, deadline } = new;
        let history = History { deliveries: history.deliveries.saturating_add(1), order: self.made, ..history };
        let (previous, next) = (list.last, NONE);
        let flight = Flight { key, id, history, consumer, since, deadline, previous, next };
        let at = u32::try_from(self.flights.insert(flight)).expect("prefetch bounds flights far below 2^32");
        let at = FlightId(at);
        if list.last == NONE {
            list.first = at;
        } else {
            self.flights[list.last.0 as usize].next = at;
        }
        list.last = at;
        list.len += 1;
        let flights = &self.flights;
        self.by_id.insert_unique(id.short(), at, |at| flights[at.0 as usize].id.short());
        if let Some(deadline) = deadline {
            self.deadlines.insert((deadline, at));
        }
    }

    /// Ends a flight; `list` is its consumer's list.
    #[inline]
    pub(super) fn remove(&mut self, list: &mut FlightList, at: FlightId) -> Flight {
        let flight = self.flights.remove(at.0 as usize);
        match self.by_id.find_entry(flight.id.short(), |other| *other == at) {
            Ok(entry) => {
                entry.remove();
            }
            Err(_absent) => debug_assert!(false, "every flight is found by its id"),
        }
        if flight.previous == NONE {
            list.first = flight.next;
        } else {
            self.flights[flight.previous.0 as usize].next = flight.next;
        }
        if flight.next == NONE {
            list.last = flight.previous;
        } else {
            self.flights[flight.next.0 as usize].previous = flight.previous;
        }
        list.len -= 1;
        if let Some(deadline) = flight.deadline {
            self.deadlines.remove(&(deadline, at));
        }
        flight
    }

    #[inline]
    pub(super) fn get(&self, at: FlightId) -> &Flight {
        &self.flights[at.0 as usize]
    }

    /// Sets the deadline of the flight; `None` for no deadline.
    pub(super) fn set_deadline(&mut self, at: FlightId, deadline: Option<Millis>) {
        let old = std::mem::replace(&mut self.flights[at.0 as usize].deadline, deadline);
        if let Some(old) = old {
            self.deadlines.remove(&(old, at));
        }
        if let Some(deadline) = deadline {
            self.deadlines.insert((deadline, at));
        }
    }

    /// The earliest deadline and its flight.
    pub(super) fn next_deadline(&self) -> Option<(Millis, FlightId)> {
        self.deadlines.first().copied()
    }
}
