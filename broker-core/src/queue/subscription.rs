//! A subscription: positions in the lanes of its topic, and the exceptions to them.
//!
//! What is next is the most urgent of: the event after the position in the most urgent lane that has one, and the most urgent
//! event that came back and is due. A subscription that waits costs nothing for each event that waits in it.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use slab::Slab;

use super::flights::{Flight, FlightList, Flights};
use super::lane::step;
use super::log::Log;
use crate::event::{EventKey, Millis, Priority, Seq};
use crate::name::{IdKey, SubscriptionName};
use crate::storage::Requeued;

/// Names a client within an engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientId(pub u64);

/// Where an event that has left the lanes' order stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// Can be delivered.
    Ready,
    /// Not before this time.
    Delayed(Millis),
    /// Not while another event of its id is in flight.
    Blocked,
}

#[derive(Debug, Clone, Copy)]
struct Exception {
    deliveries: u32,
    /// Deliveries of the subscription up to the latest of this event; 0 if there was none since the start.
    order: u64,
    grace_ms: u64,
    standing: Standing,
}

/// What a subscription has to do with an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hold {
    /// Nothing: it is older than the subscription, or settled.
    None,
    Waiting,
    InFlight,
}

#[derive(Debug)]
pub(super) struct Consumer {
    pub(super) client: ClientId,
    prefetch: u16,
    flights: FlightList,
    /// In the ring of those that can take more.
    in_ring: bool,
}

/// The event that is next, and what is known of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) key: EventKey,
    id: IdKey,
    deliveries: u32,
    grace_ms: u64,
    fresh: bool,
}

/// Counters since the start.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Counters {
    pub(super) delivered: u64,
    pub(super) acknowledged: u64,
    pub(super) redelivered: u64,
    pub(super) expired: u64,
    pub(super) dropped: u64,
}

#[derive(Debug)]
pub(super) struct Subscription {
    /// `None`: it belongs to its connection and is not stored.
    pub(super) name: Option<SubscriptionName>,
    /// It holds events after this.
    pub(super) since: Seq,
    /// Every event up to here that is in no lane of `lanes` has been taken.
    seen: Seq,
    /// The lanes that may have something, each with the latest event taken from it.
    lanes: BTreeMap<Priority, Seq>,
    ready: BTreeSet<EventKey>,
    delayed: BTreeSet<(Millis, EventKey)>,
    exceptions: HashMap<EventKey, Exception>,
    blocked: HashMap<IdKey, Vec<EventKey>>,
    /// Settled before the position came to them.
    settled_ahead: BTreeSet<EventKey>,
    pub(super) flights: Flights,
    pub(super) consumers: Slab<Consumer>,
    ring: VecDeque<u32>,
    /// Events (and their bytes) that the topic stored before this subscription, or that it had settled then.
    pub(super) base: (u64, u64),
    /// Events settled, and their bytes.
    pub(super) settled: (u64, u64),
    pub(super) counters: Counters,
    /// What the storage has to be told, if the subscription is durable.
    pub(super) to_store: ToStore,
    /// A payload is being read for it: it delivers nothing meanwhile, so that the order stands.
    pub(super) loading: bool,
    /// The lane that [`Subscription::drain`] has come to.
    draining: Option<Priority>,
}

/// Changes of a durable subscription that have not been handed to the storage.
#[derive(Debug, Default)]
pub(super) struct ToStore {
    pub(super) settled: Vec<EventKey>,
    pub(super) requeued: Vec<Requeued>,
}

impl Subscription {
    pub(super) fn new(name: Option<SubscriptionName>, since: Seq, base: (u64, u64)) -> Self {
        Self {
            name,
            since,
            seen: since,
            lanes: BTreeMap::new(),
            ready: BTreeSet::new(),
            delayed: BTreeSet::new(),
            exceptions: HashMap::new(),
            blocked: HashMap::new(),
            settled_ahead: BTreeSet::new(),
            flights: Flights::default(),
            consumers: Slab::new(),
            ring: VecDeque::new(),
            base,
            settled: (0, 0),
            counters: Counters::default(),
            to_store: ToStore::default(),
            loading: false,
            draining: None,
        }
    }

    // ---- What is next ----

    /// The next event that can be delivered now, after setting aside whatever stands before it and cannot.
    pub(super) fn candidate(&mut self, log: &mut Log, now: Millis, one_flight_an_id: bool) -> Option<Candidate> {
        self.look_at_new_lanes(log);
        self.promote(now);
        loop {
            let fresh = self.first_fresh(log);
            let key = match (self.ready.first().copied(), fresh) {
                (Some(ready), Some(fresh)) => ready.min(fresh),
                (Some(key), None) | (None, Some(key)) => key,
                (None, None) => return None,
            };
            let fresh = fresh == Some(key);
            if fresh && self.passes_over(key) {
                self.advance(key);
                continue;
            }
            let Some(entry) = log.get(key) else {
                // Nothing that is ready has been freed; should it be, it is not there to be delivered.
                debug_assert!(false, "an event that waits is in the log");
                self.drop_exception(key);
                continue;
            };
            let id = entry.id;
            let exception = self.exceptions.get(&key).copied();
            let grace_ms = exception.map_or(0, |exception| exception.grace_ms);
            let times = entry.timed().then(|| log.times(key.seq)).flatten();
            // Whether it has expired is asked last, of what could be delivered: the answer is the same however often this
            // looked at it before it was due, and after a restart.
            if let Some(due) = times.and_then(|times| times.due_at).filter(|due| fresh && *due > now) {
                self.advance(key);
                let standing = Standing::Delayed(due);
                self.set_aside(key, Exception { deliveries: 0, order: 0, grace_ms: 0, standing });
                continue;
            }
            if one_flight_an_id && self.flights.contains(id) {
                if fresh {
                    self.advance(key);
                }
                self.ready.remove(&key);
                let (deliveries, order) = exception.map_or((0, 0), |exception| (exception.deliveries, exception.order));
                self.set_aside(key, Exception { deliveries, order, grace_ms, standing: Standing::Blocked });
                self.blocked.entry(id).or_default().push(key);
                continue;
            }
            if times.and_then(|times| times.expires_at).is_some_and(|at| at.plus(grace_ms) <= now) {
                self.counters.expired += 1;
                self.settle_waiting(log, key);
                continue;
            }
            let deliveries = exception.map_or(0, |exception| exception.deliveries);
            return Some(Candidate { key, id, deliveries, grace_ms, fresh });
        }
    }

    /// Adds the lanes in which something has become visible since the last time.
    fn look_at_new_lanes(&mut self, log: &Log) {
        if self.seen < log.visible {
            for priority in log.changed_after(self.seen) {
                step();
                self.lanes.entry(priority).or_insert(self.seen);
            }
            self.seen = log.visible;
        }
    }

    /// The first event after the positions; lanes that have none are let go of until they change.
    fn first_fresh(&mut self, log: &Log) -> Option<EventKey> {
        while let Some((priority, position)) = self.lanes.last_key_value().map(|(p, s)| (*p, *s)) {
            step();
            match log.first_after(priority, position) {
                Some(entry) if entry.seq <= log.visible => return Some(EventKey { priority, seq: entry.seq }),
                _ => {
                    self.lanes.remove(&priority);
                    self.prune(priority, Seq(u64::MAX));
                }
            }
        }
        None
    }

    /// Whether an event in the lanes' order is not to be delivered from there.
    fn passes_over(&self, key: EventKey) -> bool {
        (!self.settled_ahead.is_empty() && self.settled_ahead.contains(&key))
            || (!self.exceptions.is_empty() && self.exceptions.contains_key(&key))
    }

    fn advance(&mut self, key: EventKey) {
        self.lanes.insert(key.priority, key.seq);
        self.prune(key.priority, key.seq);
    }

    /// Forgets what was settled ahead of a position that has passed it.
    fn prune(&mut self, priority: Priority, seq: Seq) {
        if self.settled_ahead.is_empty() {
            return;
        }
        // What is not visible yet stays ahead even of a lane that has been let go of.
        let seq = seq.min(self.seen);
        let passed = EventKey { priority, seq: Seq(0) }..=EventKey { priority, seq };
        let keys: Vec<EventKey> = self.settled_ahead.range(passed).copied().collect();
        for key in keys {
            self.settled_ahead.remove(&key);
        }
    }

    /// Moves what is due from the delayed to the ready.
    pub(super) fn promote(&mut self, now: Millis) {
        while let Some((_, key)) = self.delayed.first().copied().filter(|(due, _)| *due <= now) {
            self.delayed.pop_first();
            if let Some(exception) = self.exceptions.get_mut(&key) {
                exception.standing = Standing::Ready;
                self.ready.insert(key);
            }
        }
    }

    fn set_aside(&mut self, key: EventKey, exception: Exception) {
        match exception.standing {
            Standing::Ready => {
                self.ready.insert(key);
            }
            Standing::Delayed(due) => {
                self.delayed.insert((due, key));
            }
            Standing::Blocked => {}
        }
        self.exceptions.insert(key, exception);
    }

    /// Takes an event out of the exceptions.
    fn drop_exception(&mut self, key: EventKey) -> Option<Exception> {
        let exception = self.exceptions.remove(&key)?;
        match exception.standing {
            Standing::Ready => {
                self.ready.remove(&key);
            }
            Standing::Delayed(due) => {
                self.delayed.remove(&(due, key));
            }
            Standing::Blocked => self.blocked.retain(|_, keys| {
                keys.retain(|other| *other != key);
                !keys.is_empty()
            }),
        }
        Some(exception)
    }

    // ---- Deliveries ----

    /// Puts the candidate in flight on a consumer. Returns how often it had been delivered.
    pub(super) fn take(&mut self, candidate: Candidate, consumer: u32, now: Millis, ack_timeout_ms: u64) -> u32 {
        if candidate.fresh {
            self.advance(candidate.key);
        } else {
            self.drop_exception(candidate.key);
        }
        let deadline = (ack_timeout_ms > 0).then(|| now.plus(ack_timeout_ms));
        let deliveries = candidate.deliveries.saturating_add(1);
        let list = &mut self.consumers[consumer as usize].flights;
        let Candidate { key, id, grace_ms, .. } = candidate;
        self.flights.insert(list, key, id, deliveries, consumer, now, grace_ms, deadline);
        self.counters.delivered += 1;
        self.counters.redelivered += u64::from(candidate.deliveries > 0);
        candidate.deliveries
    }

    /// Ends a flight with its event settled.
    pub(super) fn acknowledge_flight(&mut self, log: &mut Log, at: u32) {
        let consumer = self.flights.get(at).consumer as usize;
        let flight = self.flights.remove(&mut self.consumers[consumer].flights, at);
        self.count_settled(log, flight.key);
        self.unblock(flight.id);
        self.enter_ring(consumer);
        self.counters.acknowledged += 1;
    }

    /// Ends a flight with its event back in the queue, or gone if it has been replaced meanwhile.
    pub(super) fn requeue_flight(&mut self, log: &mut Log, at: u32, due: Option<Millis>, now: Millis) {
        let consumer = self.flights.get(at).consumer as usize;
        let flight = self.flights.remove(&mut self.consumers[consumer].flights, at);
        if log.get(flight.key).is_none_or(super::lane::Entry::withdrawn) {
            self.count_settled(log, flight.key);
        } else {
            let standing = match due.filter(|due| *due > now) {
                Some(due) => Standing::Delayed(due),
                None => Standing::Ready,
            };
            let grace_ms = flight.grace_ms.saturating_add(now.since(flight.since));
            let Flight { deliveries, order, .. } = flight;
            self.set_aside(flight.key, Exception { deliveries, order, grace_ms, standing });
            if self.name.is_some() {
                self.to_store.requeued.push(Requeued { key: flight.key, deliveries, due_at: due });
            }
        }
        self.unblock(flight.id);
        self.enter_ring(consumer);
    }

    /// What waited for an id that was in flight can be delivered.
    fn unblock(&mut self, id: IdKey) {
        if self.blocked.is_empty() {
            return;
        }
        for key in self.blocked.remove(&id).unwrap_or_default() {
            if let Some(exception) = self.exceptions.get_mut(&key) {
                exception.standing = Standing::Ready;
                self.ready.insert(key);
            }
        }
    }

    fn count_settled(&mut self, log: &mut Log, key: EventKey) {
        let len = log.settle(key);
        self.settled.0 += 1;
        self.settled.1 += len;
        if self.name.is_some() {
            self.to_store.settled.push(key);
        }
    }

    // ---- What waits ----

    pub(super) fn hold(&self, key: EventKey, id: IdKey) -> Hold {
        if key.seq <= self.since {
            return Hold::None;
        }
        if self.exceptions.contains_key(&key) {
            return Hold::Waiting;
        }
        if self.flights.holds(id, key) {
            return Hold::InFlight;
        }
        if key.seq <= self.position(key.priority) || self.settled_ahead.contains(&key) {
            Hold::None
        } else {
            Hold::Waiting
        }
    }

    /// The latest event taken from a lane.
    fn position(&self, priority: Priority) -> Seq {
        self.lanes.get(&priority).copied().unwrap_or(self.seen)
    }

    /// Settles an event that waits.
    pub(super) fn settle_waiting(&mut self, log: &mut Log, key: EventKey) {
        self.leave_queue(key);
        self.count_settled(log, key);
        if log.get(key).is_none() {
            self.settled_ahead.remove(&key);
        } else if self.settled_ahead.len() > 2 * log.live + 1024 {
            // Others freed what this subscription had settled ahead, in lanes that it has not come to since.
            self.settled_ahead.retain(|key| log.get(*key).is_some());
        }
    }

    /// The event has been taken out of the topic: what waits here waits no more. The log counts its holders itself, and the
    /// storage is told once for all subscriptions.
    pub(super) fn withdraw_waiting(&mut self, key: EventKey, len: u64) {
        self.drop_exception(key);
        self.settled.0 += 1;
        self.settled.1 += len;
    }

    fn leave_queue(&mut self, key: EventKey) {
        self.drop_exception(key);
        if key.seq > self.position(key.priority) {
            self.settled_ahead.insert(key);
        }
    }

    /// How often an event that is held has been delivered, a delivery under way not counted, and when it is due.
    pub(super) fn held_state(&self, key: EventKey, id: IdKey) -> (u32, Option<Millis>) {
        match self.exceptions.get(&key) {
            Some(Exception { deliveries, standing: Standing::Delayed(due), .. }) => (*deliveries, Some(*due)),
            Some(Exception { deliveries, .. }) => (*deliveries, None),
            None => (self.flights.deliveries(id, key).map_or(0, |deliveries| deliveries - 1), None),
        }
    }

    /// Among those of one id that wait, the least is what a late acknowledgement means: the one that was delivered first, else
    /// the one that will be next.
    pub(super) fn late_order(&self, key: EventKey) -> (bool, u64, EventKey) {
        let delivered = self.exceptions.get(&key).filter(|exception| exception.deliveries > 0);
        (delivered.is_none(), delivered.map_or(0, |exception| exception.order), key)
    }

    pub(super) fn delayed_len(&self) -> usize {
        self.delayed.len()
    }

    /// When something changes by the passing of time alone.
    pub(super) fn next_change(&self) -> Option<Millis> {
        let delayed = self.delayed.first().map(|(due, _)| *due);
        let flight = self.flights.next_deadline().map(|(at, _)| at);
        delayed.into_iter().chain(flight).min()
    }

    /// Up to `most` events that will be next after `key`, itself included: what is worth reading together.
    pub(super) fn upcoming(&self, log: &Log, key: EventKey, most: usize) -> Vec<EventKey> {
        let mut keys = vec![key];
        keys.extend(self.ready.iter().copied().filter(|other| *other != key).take(most / 2));
        let position = self.position(key.priority).max(Seq(key.seq.0.saturating_sub(1)));
        let fresh = log.iter_after(key.priority, position).take_while(|entry| entry.seq <= log.visible);
        let fresh = fresh.map(|entry| EventKey { priority: key.priority, seq: entry.seq });
        keys.extend(fresh.filter(|other| *other != key).take(most));
        keys.truncate(most);
        keys
    }

    /// The oldest event that is not settled.
    pub(super) fn oldest(&self, log: &Log) -> Option<Millis> {
        let flights = self.flights.iter().map(|flight| flight.key);
        let exceptions = self.exceptions.keys().copied();
        let lanes = log.priorities().filter_map(|priority| {
            let mut entries = log.iter_after(priority, self.position(priority).max(self.since));
            entries
                .find(|entry| !self.settled_ahead.contains(&EventKey { priority, seq: entry.seq }))
                .map(|entry| EventKey { priority, seq: entry.seq })
        });
        let oldest = flights.chain(exceptions).chain(lanes).min_by_key(|key| key.seq)?;
        log.get(oldest).map(super::lane::Entry::published_at)
    }

    // ---- Consumers ----

    pub(super) fn attach(&mut self, client: ClientId, prefetch: u16) -> u32 {
        let consumer = Consumer { client, prefetch: prefetch.max(1), flights: FlightList::default(), in_ring: false };
        let at = self.consumers.insert(consumer);
        self.enter_ring(at);
        u32::try_from(at).expect("connections are far fewer than 2^32")
    }

    pub(super) fn set_prefetch(&mut self, consumer: u32, prefetch: u16) {
        self.consumers[consumer as usize].prefetch = prefetch.max(1);
        self.enter_ring(consumer as usize);
    }

    pub(super) fn in_flight_of(&self, consumer: u32) -> u32 {
        self.consumers[consumer as usize].flights.len
    }

    pub(super) fn first_flight_of(&self, consumer: u32) -> Option<u32> {
        self.flights.first(&self.consumers[consumer as usize].flights)
    }

    /// Puts a consumer that can take more at the end of the ring, unless it is there.
    pub(super) fn enter_ring(&mut self, consumer: usize) {
        let entry = &mut self.consumers[consumer];
        if !entry.in_ring && entry.flights.len < u32::from(entry.prefetch) {
            entry.in_ring = true;
            self.ring.push_back(u32::try_from(consumer).expect("connections are far fewer than 2^32"));
        }
    }

    /// Whether a consumer can take more.
    pub(super) fn is_hungry(&self) -> bool {
        !self.ring.is_empty() && !self.loading
    }

    /// Takes the consumer whose turn it is out of the ring.
    pub(super) fn next_consumer(&mut self) -> Option<u32> {
        while let Some(at) = self.ring.pop_front() {
            if let Some(consumer) = self.consumers.get_mut(at as usize) {
                consumer.in_ring = false;
                if consumer.flights.len < u32::from(consumer.prefetch) {
                    return Some(at);
                }
            }
        }
        None
    }

    /// Gives the turn back to a consumer that could not be served for want of an event.
    pub(super) fn return_turn(&mut self, consumer: u32) {
        if let Some(entry) = self.consumers.get_mut(consumer as usize)
            && !entry.in_ring
        {
            entry.in_ring = true;
            self.ring.push_front(consumer);
        }
    }

    pub(super) fn remove_consumer(&mut self, consumer: u32) {
        self.consumers.remove(consumer as usize);
        // The slab uses its place again: a stale turn in the ring must not be taken for the next one's.
        self.ring.retain(|at| *at != consumer);
    }

    // ---- Recovery ----

    pub(super) fn restore_settled(&mut self, key: EventKey) -> bool {
        self.drop_exception(key);
        key.seq > self.since && self.settled_ahead.insert(key)
    }

    pub(super) fn restore_freed(&mut self, key: EventKey) {
        self.settled_ahead.remove(&key);
        self.drop_exception(key);
    }

    pub(super) fn restore_requeued(&mut self, requeued: Requeued) {
        self.drop_exception(requeued.key);
        let standing = requeued.due_at.map_or(Standing::Ready, Standing::Delayed);
        let deliveries = requeued.deliveries;
        self.set_aside(requeued.key, Exception { deliveries, order: 0, grace_ms: 0, standing });
    }

    /// Forgets what `gone` says is no longer in the log.
    pub(super) fn forget_where(&mut self, gone: impl Fn(EventKey) -> bool) {
        self.settled_ahead.retain(|key| !gone(*key));
        let keys: Vec<EventKey> = self.exceptions.keys().copied().filter(|key| gone(*key)).collect();
        for key in keys {
            self.drop_exception(key);
        }
    }

    pub(super) fn is_settled_ahead(&self, key: EventKey) -> bool {
        self.settled_ahead.contains(&key)
    }

    /// Turns what recovery collected into positions.
    pub(super) fn finish_recovery(&mut self, log: &Log) {
        for key in &self.settled_ahead {
            self.base.0 += 1;
            self.base.1 += log.get(*key).map_or(0, |entry| u64::from(entry.len));
        }
        for priority in log.priorities() {
            let mut position = self.since;
            for entry in log.iter_after(priority, self.since) {
                if !self.settled_ahead.remove(&EventKey { priority, seq: entry.seq }) {
                    break;
                }
                position = entry.seq;
            }
            self.lanes.insert(priority, position);
        }
        self.seen = log.visible;
    }

    // ---- Leaving ----

    /// Settles up to `most` of what an ended subscription still holds. Returns how many of `most` are left over; if any are,
    /// it holds nothing more.
    pub(super) fn drain(&mut self, log: &mut Log, until: Seq, most: usize) -> usize {
        let mut left = most;
        let exceptions: Vec<EventKey> = self.exceptions.keys().copied().take(left).collect();
        for key in exceptions {
            self.leave_queue(key);
            // What has been replaced since is not held any more: the log counts only those who have it in flight.
            if log.get(key).is_some_and(|entry| !entry.withdrawn()) {
                log.settle(key);
            }
            left -= 1;
        }
        // Nothing new enters what it holds, so a lane that is done stays done.
        while let Some(priority) = self.draining.or_else(|| log.priorities().next()) {
            self.draining = Some(priority);
            let mut position = self.position(priority).max(self.since);
            loop {
                if left == 0 {
                    return 0;
                }
                let Some(seq) = log.first_after(priority, position).map(|entry| entry.seq) else { break };
                if seq > until {
                    break;
                }
                position = seq;
                self.lanes.insert(priority, seq);
                let key = EventKey { priority, seq };
                if !self.settled_ahead.remove(&key) {
                    log.settle(key);
                }
                left -= 1;
            }
            match log.priority_below(priority) {
                Some(below) => self.draining = Some(below),
                None => break,
            }
        }
        left
    }
}

#[cfg(test)]
impl Subscription {
    /// How many entries its collections have.
    pub(super) fn remembered(&self) -> usize {
        self.lanes.len()
            + self.ready.len()
            + self.delayed.len()
            + self.exceptions.len()
            + self.blocked.len()
            + self.settled_ahead.len()
            + self.flights.len()
    }
}
