//! A subscription: positions in the lanes of its topic, and the exceptions to them.
//!
//! What is next is the most urgent of: the event after the position in the most urgent lane that has one, and the most urgent
//! event that came back and is due. A subscription that waits costs nothing for each event that waits in it.
//!
//! | to find | look in |
//! | --- | --- |
//! | who holds what, what is least urgent, what is to be looked at | [`waiting`] |
//! | events on their way to another topic | [`letters`] |
//! | whose turn it is | [`consumers`] |
//! | letting go of a whole backlog in slices | [`leaving`] |
//! | the way back after a restart | [`recovery`] |

mod consumers;
mod leaving;
mod letters;
mod recovery;
mod waiting;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use slab::Slab;

use super::flights::{Flight, Flights};
use super::lane::step;
use super::log::Log;
use crate::event::{EventKey, Millis, Priority, Seq};
use crate::letter::Reason;
use crate::name::{IdKey, SubscriptionName};
use crate::storage::Requeued;
pub(super) use consumers::Consumer;
use letters::Letter;
pub(super) use waiting::Hold;

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

/// What the topic's policy says about delivering.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    /// Whether an event waits while another of its id is in flight.
    pub(super) one_flight_an_id: bool,
    /// Deliveries after which an event that comes back becomes a dead letter; 0: no limit.
    pub(super) max_deliveries: u32,
    /// Whether events that waited for too long become dead letters.
    pub(super) expired_to_dead_letter: bool,
    /// Milliseconds after which an unsettled delivery is taken back; 0: never.
    pub(super) ack_timeout_ms: u64,
}

/// Events that one search for the next sets aside at the most (not due yet, or expired). After a million of them the shard has
/// other things to do in between; [`Subscription::next_change`] says that there is more.
const SET_ASIDE: usize = 4096;

/// Events that become deliverable at once: a million may be due in the same millisecond, and the rest follows.
const PROMOTE: usize = 1024;

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
    pub(super) dead_lettered: u64,
}

#[derive(Debug)]
pub(super) struct Subscription {
    /// `None`: it belongs to its connection and is not stored.
    pub(super) name: Option<SubscriptionName>,
    /// Tells it from others that had or will have its place in the topic.
    pub(super) birth: u64,
    /// It holds events after this.
    pub(super) since: Seq,
    /// Every event up to here that is in no lane of `lanes` has been taken.
    seen: Seq,
    /// The lanes that may have something, each with the latest event taken from it.
    lanes: BTreeMap<Priority, Seq>,
    ready: BTreeSet<EventKey>,
    delayed: BTreeSet<(Millis, EventKey)>,
    /// Events that were published with a delay, are not due and have not been taken from their lanes.
    undue: u64,
    exceptions: BTreeMap<EventKey, Exception>,
    /// Events on their way to another topic.
    letters: BTreeMap<EventKey, Letter>,
    /// Those of them that nobody has been asked to take yet.
    unsent: BTreeSet<EventKey>,
    /// Letters that stand for an overflow, and their bytes: these do not count against the limit any more.
    overflowing: (u64, u64),
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
    /// The last search ended before it had found anything, see [`SET_ASIDE`] and [`PROMOTE`].
    unfinished: bool,
}

/// Changes of a durable subscription that have not been handed to the storage.
#[derive(Debug, Default)]
pub(super) struct ToStore {
    pub(super) settled: Vec<EventKey>,
    pub(super) requeued: Vec<Requeued>,
}

impl Subscription {
    pub(super) fn new(name: Option<SubscriptionName>, birth: u64, since: Seq, base: (u64, u64)) -> Self {
        Self {
            name,
            birth,
            since,
            seen: since,
            lanes: BTreeMap::new(),
            ready: BTreeSet::new(),
            delayed: BTreeSet::new(),
            undue: 0,
            exceptions: BTreeMap::new(),
            letters: BTreeMap::new(),
            unsent: BTreeSet::new(),
            overflowing: (0, 0),
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
            unfinished: false,
        }
    }

    // ---- What is next ----

    /// The next event that can be delivered now, after setting aside whatever stands before it and cannot.
    pub(super) fn candidate(&mut self, log: &mut Log, now: Millis, rules: Rules) -> Option<Candidate> {
        self.look_at_new_lanes(log);
        let more = self.promote(now);
        let mut left = SET_ASIDE;
        self.unfinished = false;
        loop {
            if left == 0 {
                self.unfinished = true;
                return None;
            }
            let fresh = self.first_fresh(log);
            let key = match (self.ready.first().copied(), fresh) {
                (Some(ready), Some(fresh)) => ready.min(fresh),
                (Some(key), None) | (None, Some(key)) => key,
                (None, None) => {
                    self.unfinished = more;
                    return None;
                }
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
                left -= 1;
                self.leave_undue(log, key);
                self.advance(key);
                let standing = Standing::Delayed(due);
                self.set_aside(key, Exception { deliveries: 0, order: 0, grace_ms: 0, standing });
                continue;
            }
            if rules.one_flight_an_id && self.flights.contains(id) {
                if fresh {
                    self.leave_undue(log, key);
                    self.advance(key);
                }
                self.ready.remove(&key);
                let (deliveries, order) = exception.map_or((0, 0), |exception| (exception.deliveries, exception.order));
                self.set_aside(key, Exception { deliveries, order, grace_ms, standing: Standing::Blocked });
                self.blocked.entry(id).or_default().push(key);
                continue;
            }
            if times.and_then(|times| times.expires_at).is_some_and(|at| at.plus(grace_ms) <= now) {
                left -= 1;
                self.expire(log, key, rules);
                continue;
            }
            let deliveries = exception.map_or(0, |exception| exception.deliveries);
            if rules.max_deliveries > 0 && deliveries >= rules.max_deliveries {
                // After a restart, or under a new policy: else it would not have come back to the queue.
                self.bury(log, key, Reason::MaxDeliveries);
                continue;
            }
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
        let mut last = self.lanes.last_key_value().map(|(p, s)| (*p, *s));
        while let Some((priority, position)) = last {
            step();
            match log.first_after(priority, position) {
                Some(entry) if entry.seq <= log.visible => return Some(EventKey { priority, seq: entry.seq }),
                _ if position > log.visible => {
                    // What was dropped before it was visible stays dropped.
                    last = self.lanes.range(..priority).next_back().map(|(p, s)| (*p, *s));
                }
                _ => {
                    self.lanes.remove(&priority);
                    self.prune(priority, Seq(u64::MAX));
                    last = self.lanes.range(..priority).next_back().map(|(p, s)| (*p, *s));
                }
            }
        }
        None
    }

    /// Whether an event in the lanes' order is not to be delivered from there.
    fn passes_over(&self, key: EventKey) -> bool {
        (!self.settled_ahead.is_empty() && self.settled_ahead.contains(&key))
            || (!self.exceptions.is_empty() && self.exceptions.contains_key(&key))
            || (!self.letters.is_empty() && self.letters.contains_key(&key))
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

    /// Moves what is due from the delayed to the ready, or the first of it if that is much. Returns whether there is more.
    pub(super) fn promote(&mut self, now: Millis) -> bool {
        for _ in 0..PROMOTE {
            let Some((_, key)) = self.delayed.first().copied().filter(|(due, _)| *due <= now) else { return false };
            self.delayed.pop_first();
            if let Some(exception) = self.exceptions.get_mut(&key) {
                exception.standing = Standing::Ready;
                self.ready.insert(key);
            }
        }
        self.delayed.first().is_some_and(|(due, _)| *due <= now)
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
    pub(super) fn take(&mut self, log: &Log, candidate: Candidate, consumer: u32, now: Millis, rules: Rules) -> u32 {
        if candidate.fresh {
            self.leave_undue(log, candidate.key);
            self.advance(candidate.key);
        } else {
            self.drop_exception(candidate.key);
        }
        let deadline = (rules.ack_timeout_ms > 0).then(|| now.plus(rules.ack_timeout_ms));
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

    /// Ends a flight with its event back in the queue; gone if it has been replaced meanwhile, a dead letter if it has come back
    /// often enough.
    pub(super) fn requeue_flight(&mut self, log: &mut Log, at: u32, due: Option<Millis>, now: Millis, rules: Rules) {
        let consumer = self.flights.get(at).consumer as usize;
        let flight = self.flights.remove(&mut self.consumers[consumer].flights, at);
        self.come_back(log, &flight, due, now, rules);
        self.unblock(flight.id);
        self.enter_ring(consumer);
    }

    fn come_back(&mut self, log: &mut Log, flight: &Flight, due: Option<Millis>, now: Millis, rules: Rules) {
        let Flight { key, deliveries, order, .. } = *flight;
        let Some(entry) = log.get(key).filter(|entry| !entry.withdrawn()) else {
            return self.count_settled(log, key);
        };
        let timed = entry.timed();
        let standing = match due.filter(|due| *due > now) {
            Some(due) => Standing::Delayed(due),
            None => Standing::Ready,
        };
        let grace_ms = flight.grace_ms.saturating_add(now.since(flight.since));
        let expires_at = if timed { log.times(key.seq).and_then(|times| times.expires_at) } else { None };
        if let Some(at) = expires_at {
            log.look_at_again(key, at.plus(grace_ms));
        }
        self.set_aside(key, Exception { deliveries, order, grace_ms, standing });
        if self.name.is_some() {
            // Without a time to live nobody asks for the time in flight, and the record is shorter.
            let grace_ms = if expires_at.is_some() { grace_ms } else { 0 };
            self.to_store.requeued.push(Requeued { key, deliveries, due_at: due, grace_ms });
        }
        if rules.max_deliveries > 0 && deliveries >= rules.max_deliveries {
            self.bury(log, key, Reason::MaxDeliveries);
        }
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

    /// What waits for others of its id can be delivered, if events of one id need not wait for each other any more.
    pub(super) fn unblock_all(&mut self) {
        for id in self.blocked.keys().copied().collect::<Vec<_>>() {
            self.unblock(id);
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
}

#[cfg(test)]
impl Subscription {
    /// How many entries its collections have.
    pub(super) fn remembered(&self) -> usize {
        self.lanes.len()
            + self.ready.len()
            + self.delayed.len()
            + self.exceptions.len()
            + self.letters.len()
            + self.unsent.len()
            + self.blocked.len()
            + self.settled_ahead.len()
            + self.flights.len()
    }
}
