//! A topic as the protocol describes it, with no thought of speed: lists that are searched from their beginning.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::IDS;
use crate::policy::{DuplicateId, TopicPolicy};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Settled {
    InFlight,
    Waiting,
    NotFound,
}

/// An event as it is published.
#[derive(Debug, Clone, Copy)]
pub(super) struct Published {
    pub(super) id: u8,
    pub(super) priority: i32,
    pub(super) ttl_ms: u64,
    pub(super) delay_ms: u64,
    pub(super) bytes: u64,
}

#[derive(Debug, Clone)]
struct Event {
    number: u64,
    seq: u64,
    id: u8,
    priority: i32,
    bytes: u64,
    at: u64,
    /// It has waited too long from then on.
    expires: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting,
    InFlight { client: u64, since: u64, deadline: u64 },
}

/// A subscription's hold on an event.
#[derive(Debug, Clone)]
struct Held {
    seq: u64,
    state: State,
    deliveries: u32,
    due: u64,
    /// Milliseconds that it was in flight: its time to live does not run then.
    flown: u64,
    /// What the storage knows of the count and of when it is due.
    stored: (u32, u64),
    /// Which delivery of the subscription its latest was, since the start.
    order: u64,
    /// Replaced while it was in flight.
    withdrawn: bool,
}

#[derive(Debug, Clone)]
struct Consumer {
    prefetch: u16,
    /// Its client had no room when it was asked.
    skipped: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counters {
    pub(super) delivered: u64,
    pub(super) acknowledged: u64,
    pub(super) redelivered: u64,
    pub(super) expired: u64,
    pub(super) dropped: u64,
}

#[derive(Debug, Clone)]
struct Subscription {
    name: Option<String>,
    since: u64,
    held: Vec<Held>,
    consumers: BTreeMap<u64, Consumer>,
    counters: Counters,
}

/// What `stats` says of a subscription; `waiting` with what is delayed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Figures {
    pub(super) waiting: u64,
    pub(super) in_flight: u64,
    pub(super) connections: usize,
    pub(super) oldest: u64,
    pub(super) counters: Counters,
}

/// What a storage that keeps state would know of a durable subscription.
#[derive(Debug, Clone)]
pub(super) struct Kept {
    pub(super) name: String,
    pub(super) since: u64,
    /// Sequence, deliveries, due.
    pub(super) held: Vec<(u64, u32, u64)>,
}

#[derive(Debug, Clone)]
pub(super) struct Model {
    policy: TopicPolicy,
    events: Vec<Event>,
    /// Removed ones stay as `None`, so that an index means the same for ever.
    subs: Vec<Option<Subscription>>,
    pub(super) visible: u64,
    pub(super) last_seq: u64,
    pub(super) published: u64,
    orders: u64,
}

impl Model {
    pub(super) fn new(policy: TopicPolicy) -> Self {
        Self { policy, events: Vec::new(), subs: Vec::new(), visible: 0, last_seq: 0, published: 0, orders: 0 }
    }

    fn event(&self, seq: u64) -> &Event {
        self.events.iter().find(|event| event.seq == seq).unwrap()
    }

    pub(super) fn number(&self, seq: u64) -> u64 {
        self.event(seq).number
    }

    fn sub(&self, at: usize) -> &Subscription {
        self.subs[at].as_ref().unwrap()
    }

    fn sub_mut(&mut self, at: usize) -> &mut Subscription {
        self.subs[at].as_mut().unwrap()
    }

    /// `Err`: refused. Else whether it is stored, the events that it takes the place of, and whether one of them waited.
    pub(super) fn publish(&mut self, event: Published, now: u64) -> Result<(bool, BTreeSet<u64>, bool), ()> {
        if self.subs.iter().flatten().next().is_none() {
            self.published += 1;
            return Ok((false, BTreeSet::new(), false));
        }
        let same = |held: &Held| self.event(held.seq).id == event.id;
        let replace = self.policy.duplicate_id == DuplicateId::Replace;
        if self.policy.duplicate_id == DuplicateId::Reject
            && self.subs.iter().flatten().any(|sub| sub.held.iter().any(same))
        {
            return Err(());
        }
        let goes = |held: &Held| replace && same(held) && held.state == State::Waiting;
        let (most, most_bytes) = (self.policy.max_waiting, self.policy.max_waiting_bytes);
        for sub in self.subs.iter().flatten() {
            let stays: Vec<_> = sub.held.iter().filter(|held| !goes(held)).collect();
            let bytes: u64 = stays.iter().map(|held| self.event(held.seq).bytes).sum();
            if most > 0 && stays.len() as u64 >= most || most_bytes > 0 && bytes + event.bytes > most_bytes {
                return Err(());
            }
        }
        let of_id: BTreeSet<u64> = self.events.iter().filter(|other| other.id == event.id).map(|e| e.seq).collect();
        let (mut gone, mut replaced) = (BTreeSet::new(), false);
        for sub in self.subs.iter_mut().flatten().filter(|_| replace) {
            for held in sub.held.iter_mut().filter(|held| of_id.contains(&held.seq) && !held.withdrawn) {
                gone.insert(held.seq);
                replaced |= held.state == State::Waiting;
                held.withdrawn = true;
            }
            sub.held.retain(|held| !(held.withdrawn && held.state == State::Waiting));
        }
        let due = if event.delay_ms > 0 { now + event.delay_ms + 1 } else { 0 };
        let ttl = [event.ttl_ms, self.policy.ttl_ms].into_iter().filter(|ttl| *ttl > 0).min();
        let seq = self.last_seq + 1;
        self.events.push(Event {
            number: self.published,
            seq,
            id: event.id,
            priority: event.priority,
            bytes: event.bytes,
            at: now,
            expires: ttl.map(|ttl| now + ttl),
        });
        for sub in self.subs.iter_mut().flatten() {
            let (state, stored) = (State::Waiting, (0, due));
            sub.held.push(Held { seq, state, deliveries: 0, due, flown: 0, stored, order: 0, withdrawn: false });
        }
        self.last_seq = seq;
        self.published += 1;
        Ok((true, gone, replaced))
    }

    pub(super) fn subscribe(&mut self, name: Option<String>) -> usize {
        let since = self.last_seq;
        let (held, consumers, counters) = (Vec::new(), BTreeMap::new(), Counters::default());
        self.subs.push(Some(Subscription { name, since, held, consumers, counters }));
        self.subs.len() - 1
    }

    pub(super) fn find(&self, name: &str) -> Option<usize> {
        self.subs.iter().position(|sub| sub.as_ref().is_some_and(|sub| sub.name.as_deref() == Some(name)))
    }

    pub(super) fn attach(&mut self, at: usize, client: u64, prefetch: u16) {
        self.sub_mut(at).consumers.insert(client, Consumer { prefetch, skipped: false });
    }

    pub(super) fn set_prefetch(&mut self, at: usize, client: u64, prefetch: u16) {
        self.sub_mut(at).consumers.get_mut(&client).unwrap().prefetch = prefetch;
        self.resume(at, client);
    }

    /// The client had no room.
    pub(super) fn skip(&mut self, at: usize, client: u64) {
        self.sub_mut(at).consumers.get_mut(&client).unwrap().skipped = true;
    }

    /// The consumer gets its turn again, if it can take more.
    pub(super) fn resume(&mut self, at: usize, client: u64) {
        let in_flight = self.in_flight_of(at, client);
        if let Some(consumer) = self.sub_mut(at).consumers.get_mut(&client)
            && in_flight < usize::from(consumer.prefetch)
        {
            consumer.skipped = false;
        }
    }

    pub(super) fn detach(&mut self, at: usize, client: u64, now: u64) {
        self.sub_mut(at).consumers.remove(&client);
        self.give_back(at, |held| on(held.state, client), 0, now);
    }

    pub(super) fn remove(&mut self, at: usize) {
        self.subs[at] = None;
    }

    pub(super) fn in_flight_of(&self, at: usize, client: u64) -> usize {
        self.sub(at).held.iter().filter(|held| on(held.state, client)).count()
    }

    /// Clients that can take another event and have not been skipped.
    pub(super) fn eligible(&self, at: usize) -> Vec<u64> {
        let can = |(client, consumer): (&u64, &Consumer)| {
            let room = self.in_flight_of(at, *client) < usize::from(consumer.prefetch);
            (room && !consumer.skipped).then_some(*client)
        };
        self.sub(at).consumers.iter().filter_map(can).collect()
    }

    fn in_delivery_order(&self, seq: u64) -> (Reverse<i32>, u64) {
        (Reverse(self.event(seq).priority), seq)
    }

    /// The next event and how often it has been delivered. What would be next and has waited for too long is dropped.
    pub(super) fn candidate(&mut self, at: usize, now: u64) -> Option<(u64, u32)> {
        loop {
            let sub = self.sub(at);
            let flies = |id| sub.held.iter().any(|held| held.state != State::Waiting && self.event(held.seq).id == id);
            let deliverable = sub.held.iter().filter(|held| {
                held.state == State::Waiting
                    && held.seq <= self.visible
                    && held.due <= now
                    && (self.policy.duplicate_id == DuplicateId::Keep || !flies(self.event(held.seq).id))
            });
            let next = deliverable.min_by_key(|held| self.in_delivery_order(held.seq))?;
            let (seq, deliveries) = (next.seq, next.deliveries);
            if self.event(seq).expires.is_none_or(|expires| expires + next.flown > now) {
                return Some((seq, deliveries));
            }
            let sub = self.sub_mut(at);
            sub.held.retain(|held| held.seq != seq);
            sub.counters.expired += 1;
        }
    }

    pub(super) fn deliver(&mut self, at: usize, client: u64, seq: u64, now: u64) {
        self.orders += 1;
        let (order, timeout) = (self.orders, self.policy.ack_timeout_ms);
        let deadline = if timeout > 0 { now + timeout } else { u64::MAX };
        assert!(self.eligible(at).contains(&client), "it could take nothing");
        let sub = self.sub_mut(at);
        let held = sub.held.iter_mut().find(|held| held.seq == seq).unwrap();
        held.state = State::InFlight { client, since: now, deadline };
        held.order = order;
        sub.counters.delivered += 1;
        sub.counters.redelivered += u64::from(held.deliveries > 0);
        held.deliveries += 1;
    }

    /// The flight of an id on a client that was delivered first.
    fn flight(&self, at: usize, client: u64, id: u8) -> Option<u64> {
        let flights = self.sub(at).held.iter().filter_map(|held| match held.state {
            State::InFlight { client: other, .. } if other == client && self.event(held.seq).id == id => {
                Some((held.order, held.seq))
            }
            _ => None,
        });
        flights.min().map(|(_, seq)| seq)
    }

    /// For a pick that is even, the id of an event that is in flight on the client, if there is one; else the pick itself.
    pub(super) fn id_in_flight(&self, at: usize, client: u64, pick: u8) -> u8 {
        let flights: Vec<&Held> = self.sub(at).held.iter().filter(|held| on(held.state, client)).collect();
        let usual = pick.is_multiple_of(2) && !flights.is_empty();
        if usual { self.event(flights[usize::from(pick / 2) % flights.len()].seq).id } else { pick / 2 % IDS }
    }

    pub(super) fn acknowledge(&mut self, at: usize, client: u64, id: u8) -> Settled {
        let (settled, seq) = if let Some(seq) = self.flight(at, client, id) {
            (Settled::InFlight, seq)
        } else {
            let of_id: Vec<&Held> = self.sub(at).held.iter().filter(|held| self.event(held.seq).id == id).collect();
            if of_id.iter().any(|held| held.state != State::Waiting) {
                return Settled::NotFound;
            }
            let order = |held: &&&Held| (held.deliveries == 0, held.order, self.in_delivery_order(held.seq));
            let Some(held) = of_id.iter().min_by_key(order) else { return Settled::NotFound };
            (Settled::Waiting, held.seq)
        };
        let sub = self.sub_mut(at);
        sub.held.retain(|held| held.seq != seq);
        sub.counters.acknowledged += 1;
        if settled == Settled::InFlight {
            self.resume(at, client);
        }
        settled
    }

    pub(super) fn acknowledge_all(&mut self, at: usize, client: u64) -> usize {
        let sub = self.sub_mut(at);
        let before = sub.held.len();
        sub.held.retain(|held| !on(held.state, client));
        let count = before - sub.held.len();
        sub.counters.acknowledged += count as u64;
        if count > 0 {
            self.resume(at, client);
        }
        count
    }

    pub(super) fn requeue(&mut self, at: usize, client: u64, id: u8, due: u64, now: u64) -> bool {
        let Some(seq) = self.flight(at, client, id) else { return false };
        self.give_back(at, |held| held.seq == seq, due, now);
        true
    }

    pub(super) fn touch(&mut self, at: usize, client: u64, id: u8, now: u64) -> bool {
        let Some(seq) = self.flight(at, client, id) else { return false };
        let timeout = self.policy.ack_timeout_ms;
        let held = self.sub_mut(at).held.iter_mut().find(|held| held.seq == seq).unwrap();
        if let State::InFlight { deadline, .. } = &mut held.state {
            *deadline = if timeout > 0 { now + timeout } else { u64::MAX };
        }
        true
    }

    pub(super) fn take_back_overdue(&mut self, at: usize, now: u64) {
        let overdue = |held: &Held| matches!(held.state, State::InFlight { deadline, .. } if deadline <= now);
        self.give_back(at, overdue, 0, now);
    }

    /// Flights that come back; what was replaced meanwhile does not.
    fn give_back(&mut self, at: usize, which: impl Fn(&Held) -> bool, due: u64, now: u64) {
        let sub = self.sub_mut(at);
        let mut clients = Vec::new();
        for held in sub.held.iter_mut().filter(|held| which(held)) {
            let State::InFlight { client, since, .. } = held.state else { continue };
            clients.push(client);
            held.state = State::Waiting;
            held.flown += now - since;
            held.due = due;
            held.stored = (held.deliveries, due);
        }
        sub.held.retain(|held| !(held.withdrawn && held.state == State::Waiting));
        for client in clients {
            self.resume(at, client);
        }
    }

    /// The event cannot be read any more: it is dropped wherever it waits.
    pub(super) fn lose(&mut self, seq: u64) {
        for sub in self.subs.iter_mut().flatten() {
            let before = sub.held.len();
            sub.held.retain(|held| !(held.seq == seq && held.state == State::Waiting));
            sub.counters.dropped += (before - sub.held.len()) as u64;
        }
    }

    pub(super) fn figures(&self, at: usize) -> Figures {
        let sub = self.sub(at);
        let in_flight = sub.held.iter().filter(|held| held.state != State::Waiting).count();
        Figures {
            waiting: (sub.held.len() - in_flight) as u64,
            in_flight: in_flight as u64,
            connections: sub.consumers.len(),
            oldest: sub.held.iter().map(|held| held.seq).min().map_or(0, |seq| self.event(seq).at),
            counters: sub.counters,
        }
    }

    /// When time alone changes something of a subscription that has nothing to deliver now.
    pub(super) fn next_change(&self, at: usize, now: u64) -> Option<u64> {
        let times = self.sub(at).held.iter().filter_map(|held| match held.state {
            State::InFlight { deadline, .. } => (deadline != u64::MAX).then_some(deadline),
            State::Waiting => (held.due > now && held.seq <= self.visible).then_some(held.due),
        });
        times.min()
    }

    /// Whether the subscription waits for the event or (`true`) has it in flight; the latter also if it was replaced.
    pub(super) fn hold(&self, at: usize, seq: u64) -> Option<bool> {
        let held = self.sub(at).held.iter().find(|held| held.seq == seq)?;
        Some(held.state != State::Waiting)
    }

    pub(super) fn needs(&self, seq: u64) -> bool {
        self.subs.iter().flatten().any(|sub| sub.held.iter().any(|held| held.seq == seq))
    }

    /// Whether a newer event of its id has taken the event's place.
    pub(super) fn is_replaced(&self, seq: u64) -> bool {
        self.subs.iter().flatten().any(|sub| sub.held.iter().any(|held| held.seq == seq && held.withdrawn))
    }

    /// What a storage knows of each durable subscription: what is in flight is not counted.
    pub(super) fn kept(&self) -> Vec<Kept> {
        let durable = self.subs.iter().flatten().filter_map(|sub| {
            let held = sub.held.iter().filter(|held| !held.withdrawn);
            let held = held.map(|held| (held.seq, held.stored.0, held.stored.1)).collect();
            Some(Kept { name: sub.name.clone()?, since: sub.since, held })
        });
        durable.collect()
    }

    /// What is in flight comes back with what the storage knows of it; what belongs to connections is gone.
    pub(super) fn crash(&mut self, policy: TopicPolicy) {
        for slot in &mut self.subs {
            if slot.as_ref().is_some_and(|sub| sub.name.is_none()) {
                *slot = None;
            }
            let Some(sub) = slot else { continue };
            sub.consumers.clear();
            sub.counters = Counters::default();
            sub.held.retain(|held| !held.withdrawn);
            for held in &mut sub.held {
                held.state = State::Waiting;
                (held.flown, held.order) = (0, 0);
                (held.deliveries, held.due) = held.stored;
            }
        }
        self.policy = policy;
        self.visible = self.last_seq;
    }
}

fn on(state: State, client: u64) -> bool {
    matches!(state, State::InFlight { client: other, .. } if other == client)
}
