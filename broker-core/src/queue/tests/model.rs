//! A topic as the protocol describes it, with no thought of speed: lists that are searched from their beginning.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::super::subscription::Hold;
use super::IDS;
use crate::letter::Reason;
use crate::policy::{DuplicateId, Overflow, TopicPolicy};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Settled {
    InFlight,
    Waiting,
    Late,
    NotHeld,
    NoLongerHeld,
}

/// The outcome of a publish.
#[derive(Debug, Default)]
pub(super) struct Accepted {
    pub(super) stored: bool,
    /// The events that it takes the place of, and whether one of them waited.
    pub(super) gone: BTreeSet<u64>,
    pub(super) replaced: bool,
    pub(super) dropped: bool,
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
    InFlight {
        client: u64,
        since: u64,
        deadline: u64,
    },
    /// On its way to another topic; the client that gave it up, if one did.
    Moving {
        giver: Option<u64>,
    },
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
    /// The deliveries, due time and flight time that the storage has for it.
    stored: (u32, u64, u64),
    /// Which delivery of the subscription its latest was, since the start.
    order: u64,
    /// Replaced while it was in flight.
    withdrawn: bool,
    /// It is a dead letter, waiting to be sent or on its way.
    letter: Option<Reason>,
}

#[derive(Debug, Clone)]
struct Consumer {
    prefetch: u16,
    /// Its client had no room when it was asked.
    skipped: bool,
    giving_up: usize,
    /// Overdue deliveries: the event, its id, and whether it has been acknowledged since.
    late: Vec<(u64, u8, bool)>,
    /// Ids whose acknowledgement was refused, and of which nothing was delivered since.
    refused: BTreeSet<u8>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counters {
    pub(super) delivered: u64,
    pub(super) acknowledged: u64,
    pub(super) redelivered: u64,
    pub(super) expired: u64,
    pub(super) dropped: u64,
    pub(super) dead_lettered: u64,
}

#[derive(Debug, Clone)]
struct Subscription {
    name: Option<String>,
    since: u64,
    held: Vec<Held>,
    consumers: BTreeMap<u64, Consumer>,
    counters: Counters,
}

/// The statistics of a subscription; `waiting` includes delayed events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Figures {
    pub(super) waiting: u64,
    pub(super) in_flight: u64,
    pub(super) connections: usize,
    pub(super) oldest: u64,
    pub(super) counters: Counters,
}

/// The state of a durable subscription in a storage that keeps state.
#[derive(Debug, Clone)]
pub(super) struct Kept {
    pub(super) name: String,
    pub(super) since: u64,
    /// Sequence, deliveries, due, time in flight.
    pub(super) held: Vec<(u64, u32, u64, u64)>,
}

#[derive(Debug, Clone)]
pub(super) struct Model {
    policy: TopicPolicy,
    events: Vec<Event>,
    /// Removed ones stay as `None`, so that an index keeps its meaning.
    subs: Vec<Option<Subscription>>,
    pub(super) visible: u64,
    pub(super) last_seq: u64,
    pub(super) published: u64,
    orders: u64,
    dead_full: u64,
}

impl Model {
    pub(super) fn new(policy: TopicPolicy) -> Self {
        Self {
            policy,
            events: Vec::new(),
            subs: Vec::new(),
            visible: 0,
            last_seq: 0,
            published: 0,
            orders: 0,
            dead_full: 0,
        }
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

    /// `Err`: refused.
    pub(super) fn publish(&mut self, event: Published, now: u64) -> Result<Accepted, ()> {
        if self.subs.iter().flatten().next().is_none() {
            self.published += 1;
            return Ok(Accepted::default());
        }
        let same = |held: &Held| self.event(held.seq).id == event.id;
        let replace = self.policy.duplicate_id == DuplicateId::Replace;
        if self.policy.duplicate_id == DuplicateId::Reject
            && self.subs.iter().flatten().any(|sub| sub.held.iter().any(same))
        {
            return Err(());
        }
        let goes = |held: &Held| replace && same(held) && held.state == State::Waiting;
        let (most, most_bytes, overflow) =
            (self.policy.max_waiting, self.policy.max_waiting_bytes, self.policy.overflow);
        if overflow != Overflow::Reject && most_bytes > 0 && event.bytes > most_bytes {
            return Err(());
        }
        // The full ones, and whether the new event is the least urgent of what waits there.
        let mut full: Vec<(usize, bool)> = Vec::new();
        for (at, sub) in self.subs.iter().enumerate() {
            let Some(sub) = sub else { continue };
            let counts = |held: &&Held| !goes(held) && held.letter != Some(Reason::Overflow);
            let stays: Vec<_> = sub.held.iter().filter(counts).collect();
            let bytes: u64 = stays.iter().map(|held| self.event(held.seq).bytes).sum();
            if most > 0 && stays.len() as u64 >= most || most_bytes > 0 && bytes + event.bytes > most_bytes {
                if overflow == Overflow::Reject || overflow == Overflow::DeadLetter && self.dead_full > now {
                    return Err(());
                }
                let lowest = self.lowest(at, |held| !goes(held)).map(|seq| self.event(seq).priority);
                full.push((at, lowest.is_none_or(|lowest| lowest > event.priority)));
            }
        }
        let subs = self.subs.iter().flatten().count();
        if overflow == Overflow::DropLowest && full.len() == subs && full.iter().all(|(_, is_lowest)| *is_lowest) {
            self.published += 1;
            self.subs.iter_mut().flatten().for_each(|sub| sub.counters.dropped += 1);
            return Ok(Accepted { dropped: true, ..Accepted::default() });
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
        let number = self.published;
        let seq = self.insert(event, number, now);
        self.published += 1;
        for (at, is_lowest) in full {
            self.make_room(at, is_lowest.then_some(seq));
        }
        Ok(Accepted { stored: true, gone, replaced, dropped: false })
    }

    fn insert(&mut self, event: Published, number: u64, now: u64) -> u64 {
        let due = if event.delay_ms > 0 { now + event.delay_ms + 1 } else { 0 };
        let ttl = [event.ttl_ms, self.policy.ttl_ms].into_iter().filter(|ttl| *ttl > 0).min();
        let seq = self.last_seq + 1;
        self.events.push(Event {
            number,
            seq,
            id: event.id,
            priority: event.priority,
            bytes: event.bytes,
            at: now,
            expires: ttl.map(|ttl| now + ttl),
        });
        for sub in self.subs.iter_mut().flatten() {
            sub.held.push(Held {
                seq,
                state: State::Waiting,
                deliveries: 0,
                due,
                flown: 0,
                stored: (0, due, 0),
                order: 0,
                withdrawn: false,
                letter: None,
            });
        }
        self.last_seq = seq;
        seq
    }

    /// The least urgent of the waiting events, the oldest of several.
    fn lowest(&self, at: usize, which: impl Fn(&Held) -> bool) -> Option<u64> {
        let waits = |held: &&Held| held.state == State::Waiting && held.letter.is_none() && which(held);
        let waiting = self.sub(at).held.iter().filter(waits).map(|held| held.seq);
        waiting.min_by_key(|seq| (self.event(*seq).priority, *seq))
    }

    fn make_room(&mut self, at: usize, mut victim: Option<u64>) {
        let (most, most_bytes) = (self.policy.max_waiting, self.policy.max_waiting_bytes);
        for _ in 0..64 {
            let counts = |held: &&Held| held.letter != Some(Reason::Overflow);
            let held: Vec<_> = self.sub(at).held.iter().filter(counts).collect();
            let bytes: u64 = held.iter().map(|held| self.event(held.seq).bytes).sum();
            if !(most > 0 && held.len() as u64 > most || most_bytes > 0 && bytes > most_bytes) {
                return;
            }
            let Some(seq) = victim.take().or_else(|| self.lowest(at, |_| true)) else { return };
            let is_letter = self.policy.overflow == Overflow::DeadLetter;
            let sub = self.sub_mut(at);
            if is_letter {
                sub.held.iter_mut().find(|held| held.seq == seq).unwrap().letter = Some(Reason::Overflow);
            } else {
                sub.held.retain(|held| held.seq != seq);
                sub.counters.dropped += 1;
            }
        }
    }

    /// An event comes back to one subscription. Returns whether there is room for it.
    pub(super) fn revive(&mut self, at: usize, event: Published, number: u64, now: u64) -> bool {
        let (most, most_bytes) = (self.policy.max_waiting, self.policy.max_waiting_bytes);
        let there = |held: &&Held| self.event(held.seq).id == event.id && !held.withdrawn;
        if self.policy.duplicate_id != DuplicateId::Keep && self.sub(at).held.iter().any(|held| there(&held)) {
            return false;
        }
        let held = self.sub(at).held.iter().filter(|held| held.letter != Some(Reason::Overflow));
        let held: Vec<_> = held.collect();
        let bytes: u64 = held.iter().map(|held| self.event(held.seq).bytes).sum();
        if most > 0 && held.len() as u64 >= most || most_bytes > 0 && bytes + event.bytes > most_bytes {
            return false;
        }
        let seq = self.insert(event, number, now);
        for (other, sub) in self.subs.iter_mut().enumerate().filter(|(other, _)| *other != at) {
            let _ = other;
            if let Some(sub) = sub {
                sub.held.retain(|held| held.seq != seq);
            }
        }
        true
    }

    // ---- Letters ----

    /// The dead letters of a subscription that wait to be sent.
    pub(super) fn unsent(&self, at: usize) -> BTreeMap<u64, Reason> {
        let held = self.sub(at).held.iter().filter(|held| held.state == State::Waiting);
        held.filter_map(|held| Some((held.seq, held.letter?))).collect()
    }

    pub(super) fn send(&mut self, at: usize, seq: u64) {
        let held = self.sub_mut(at).held.iter_mut().find(|held| held.seq == seq).unwrap();
        assert_eq!(held.state, State::Waiting);
        held.state = State::Moving { giver: None };
    }

    pub(super) fn terminate(&mut self, at: usize, client: u64, id: u8, now: u64) -> bool {
        let Some(seq) = self.flight(at, client, id) else { return false };
        let sub = self.sub_mut(at);
        let held = sub.held.iter_mut().find(|held| held.seq == seq).unwrap();
        let State::InFlight { since, .. } = held.state else { unreachable!() };
        held.flown += now - since;
        held.state = State::Moving { giver: Some(client) };
        held.letter = Some(Reason::Terminated);
        sub.consumers.get_mut(&client).unwrap().giving_up += 1;
        true
    }

    /// `gone`: stored elsewhere; else `lost`, or it stays.
    pub(super) fn letter_done(&mut self, at: usize, seq: u64, gone: bool, lost: bool, now: u64) {
        let (timeout, most) = (self.policy.ack_timeout_ms, self.policy.max_deliveries);
        self.orders += 1;
        let order = self.orders;
        let timed = self.event(seq).expires.is_some();
        let sub = self.sub_mut(at);
        let Some(held) = sub.held.iter_mut().find(|held| held.seq == seq) else { return };
        let State::Moving { giver } = held.state else { panic!("{held:?} was not on its way") };
        let is_here = giver.is_some_and(|giver| sub.consumers.contains_key(&giver));
        if gone || lost {
            sub.held.retain(|held| held.seq != seq);
            sub.counters.dead_lettered += u64::from(gone);
            sub.counters.dropped += u64::from(!gone);
        } else if let Some(client) = giver.filter(|_| is_here) {
            held.letter = None;
            held.order = order;
            let deadline = if timeout > 0 { now + timeout } else { u64::MAX };
            held.state = State::InFlight { client, since: now, deadline };
        } else if held.withdrawn {
            sub.held.retain(|held| held.seq != seq);
        } else {
            held.state = State::Waiting;
            if giver.is_some() {
                held.letter = (most > 0 && held.deliveries >= most).then_some(Reason::MaxDeliveries);
                held.due = 0;
                held.stored = (held.deliveries, 0, if timed { held.flown } else { 0 });
            }
        }
        if let Some(client) = giver.filter(|_| is_here) {
            self.sub_mut(at).consumers.get_mut(&client).unwrap().giving_up -= 1;
            self.resume(at, client);
        }
    }

    pub(super) fn letters_done(&mut self, full: bool, now: u64) {
        self.dead_full = if full { now + 1000 } else { 0 };
    }

    // ---- Removal ----

    pub(super) fn purge(&mut self, at: usize) -> u64 {
        let sub = self.sub_mut(at);
        let before = sub.held.len();
        sub.held.retain(|held| held.state != State::Waiting);
        (before - sub.held.len()) as u64
    }

    /// Removes the events whose time to live has passed, or makes them dead letters.
    pub(super) fn expire(&mut self, now: u64) {
        let letters = self.policy.expired_to_dead_letter;
        let expired: BTreeMap<u64, u64> =
            self.events.iter().filter_map(|event| Some((event.seq, event.expires?))).collect();
        for sub in self.subs.iter_mut().flatten() {
            let is_late = |held: &Held| {
                held.state == State::Waiting
                    && held.letter.is_none()
                    && expired.get(&held.seq).is_some_and(|expires| expires + held.flown <= now)
            };
            for held in sub.held.iter_mut().filter(|held| is_late(held)) {
                sub.counters.expired += 1;
                held.letter = letters.then_some(Reason::Expired);
            }
            sub.held.retain(|held| !is_late(held));
        }
    }

    /// Whether the event is held, and each subscription that holds it has it waiting and not as a dead letter.
    pub(super) fn only_waits(&self, seq: u64) -> bool {
        let mut all = self.subs.iter().flatten().flat_map(|sub| &sub.held).filter(|held| held.seq == seq).peekable();
        all.peek().is_some() && all.all(|held| held.state == State::Waiting && held.letter.is_none())
    }

    /// Removes the event from all subscriptions.
    pub(super) fn forget(&mut self, seq: u64) {
        self.subs.iter_mut().flatten().for_each(|sub| sub.held.retain(|held| held.seq != seq));
    }

    /// The result of a peek at a subscription: sequences and deliveries.
    pub(super) fn peek(&self, at: usize, now: u64) -> Vec<(u64, u32)> {
        let most = self.policy.max_deliveries;
        let waits = |held: &&Held| {
            held.state == State::Waiting
                && held.letter.is_none()
                && held.seq <= self.visible
                && held.due <= now
                && self.event(held.seq).expires.is_none_or(|expires| expires + held.flown > now)
                && (most == 0 || held.deliveries < most)
        };
        let mut found: Vec<_> = self.sub(at).held.iter().filter(waits).collect();
        found.sort_by_key(|held| self.in_delivery_order(held.seq));
        found.iter().map(|held| (held.seq, held.deliveries)).collect()
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
        self.sub_mut(at).consumers.insert(
            client,
            Consumer { prefetch, skipped: false, giving_up: 0, late: Vec::new(), refused: BTreeSet::new() },
        );
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
        let in_flight = self.taken_by(at, client);
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

    /// The part of a client's prefetch that is in use.
    fn taken_by(&self, at: usize, client: u64) -> usize {
        let giving_up = self.sub(at).consumers.get(&client).map_or(0, |consumer| consumer.giving_up);
        self.in_flight_of(at, client) + giving_up
    }

    /// Clients that can take another event and have not been skipped.
    pub(super) fn eligible(&self, at: usize) -> Vec<u64> {
        let can = |(client, consumer): (&u64, &Consumer)| {
            let room = self.taken_by(at, *client) < usize::from(consumer.prefetch);
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
            let in_flight = |held: &Held| matches!(held.state, State::InFlight { .. });
            let flies = |id| sub.held.iter().any(|held| in_flight(held) && self.event(held.seq).id == id);
            let deliverable = sub.held.iter().filter(|held| {
                held.state == State::Waiting
                    && held.letter.is_none()
                    && held.seq <= self.visible
                    && held.due <= now
                    && (self.policy.duplicate_id == DuplicateId::Keep || !flies(self.event(held.seq).id))
            });
            let next = deliverable.min_by_key(|held| self.in_delivery_order(held.seq))?;
            let (seq, deliveries) = (next.seq, next.deliveries);
            let expired = self.event(seq).expires.is_some_and(|expires| expires + next.flown <= now);
            let most = self.policy.max_deliveries;
            if !expired && (most == 0 || deliveries < most) {
                return Some((seq, deliveries));
            }
            let to_letters = !expired || self.policy.expired_to_dead_letter;
            let sub = self.sub_mut(at);
            sub.counters.expired += u64::from(expired);
            if to_letters {
                let reason = if expired { Reason::Expired } else { Reason::MaxDeliveries };
                sub.held.iter_mut().find(|held| held.seq == seq).unwrap().letter = Some(reason);
            } else {
                sub.held.retain(|held| held.seq != seq);
            }
        }
    }

    pub(super) fn deliver(&mut self, at: usize, client: u64, seq: u64, now: u64) {
        self.orders += 1;
        let (order, timeout) = (self.orders, self.policy.ack_timeout_ms);
        let deadline = if timeout > 0 { now + timeout } else { u64::MAX };
        assert!(self.eligible(at).contains(&client), "it could take nothing");
        let id = self.event(seq).id;
        let sub = self.sub_mut(at);
        sub.consumers.get_mut(&client).unwrap().refused.remove(&id);
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
        let flight = self.flight(at, client, id);
        let of_id: Vec<&Held> = self.sub(at).held.iter().filter(|held| self.event(held.seq).id == id).collect();
        let flies = of_id.iter().any(|held| matches!(held.state, State::InFlight { .. }));
        let came_back = of_id.iter().filter(|held| held.state == State::Waiting && held.deliveries > 0 && !flies);
        let order = |held: &&&Held| (held.order, self.in_delivery_order(held.seq));
        let came_back = came_back.min_by_key(order).map(|held| held.seq);
        let Some(seq) = flight.or(came_back) else {
            let consumer = self.sub_mut(at).consumers.get_mut(&client).unwrap();
            if let Some(late) = consumer.late.iter().position(|(_, other, acknowledged)| *other == id && *acknowledged)
            {
                consumer.late.remove(late);
                return Settled::Late;
            }
            if !flies {
                consumer.late.retain(|(_, other, _)| *other != id);
            }
            return if consumer.refused.insert(id) { Settled::NotHeld } else { Settled::NoLongerHeld };
        };
        self.acknowledged(at, |held| held.seq == seq);
        if flight.is_some() {
            self.resume(at, client);
            return Settled::InFlight;
        }
        let late = &mut self.sub_mut(at).consumers.get_mut(&client).unwrap().late;
        if let Some(one) = late.iter().position(|(other, ..)| *other == seq) {
            late.remove(one);
        }
        Settled::Waiting
    }

    /// Removes events that are acknowledged. Returns how many that are.
    fn acknowledged(&mut self, at: usize, which: impl Fn(&Held) -> bool) -> usize {
        let sub = self.sub_mut(at);
        let gone: BTreeSet<u64> = sub.held.iter().filter(|held| which(held)).map(|held| held.seq).collect();
        sub.held.retain(|held| !gone.contains(&held.seq));
        sub.counters.acknowledged += gone.len() as u64;
        for (seq, _, acknowledged) in sub.consumers.values_mut().flat_map(|consumer| consumer.late.iter_mut()) {
            *acknowledged |= gone.contains(seq);
        }
        gone.len()
    }

    pub(super) fn acknowledge_all(&mut self, at: usize, client: u64) -> usize {
        let count = self.acknowledged(at, |held| on(held.state, client));
        if count > 0 {
            self.resume(at, client);
        }
        count
    }

    pub(super) fn nack(&mut self, at: usize, client: u64, id: u8, due: u64, now: u64) -> bool {
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
        let events: Vec<(u64, u8)> = self.events.iter().map(|event| (event.seq, event.id)).collect();
        let sub = self.sub_mut(at);
        for held in sub.held.iter().filter(|held| overdue(held)) {
            let State::InFlight { client, .. } = held.state else { continue };
            let id = events.iter().find(|(seq, _)| *seq == held.seq).unwrap().1;
            sub.consumers.get_mut(&client).unwrap().late.push((held.seq, id, false));
        }
        self.give_back(at, overdue, 0, now);
    }

    /// Returns flights to the queue; events that were replaced in between do not return.
    fn give_back(&mut self, at: usize, which: impl Fn(&Held) -> bool, due: u64, now: u64) {
        let most = self.policy.max_deliveries;
        let timed: BTreeSet<u64> =
            self.events.iter().filter(|event| event.expires.is_some()).map(|event| event.seq).collect();
        let sub = self.sub_mut(at);
        let mut clients = Vec::new();
        for held in sub.held.iter_mut().filter(|held| which(held)) {
            let State::InFlight { client, since, .. } = held.state else { continue };
            clients.push(client);
            held.state = State::Waiting;
            held.flown += now - since;
            held.due = due;
            held.stored = (held.deliveries, due, if timed.contains(&held.seq) { held.flown } else { 0 });
            if most > 0 && held.deliveries >= most {
                held.letter = Some(Reason::MaxDeliveries);
            }
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
        let in_flight = sub.held.iter().filter(|held| matches!(held.state, State::InFlight { .. })).count();
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
            State::Waiting if held.letter.is_some() => None,
            State::Waiting => (held.due > now && held.seq <= self.visible).then_some(held.due),
            State::Moving { .. } => None,
        });
        times.min()
    }

    /// How the subscription holds the event; what is in flight or on its way also if it was replaced.
    pub(super) fn hold(&self, at: usize, seq: u64) -> Hold {
        match self.sub(at).held.iter().find(|held| held.seq == seq).map(|held| held.state) {
            None => Hold::None,
            Some(State::Waiting) => Hold::Waiting,
            Some(State::InFlight { .. }) => Hold::InFlight,
            Some(State::Moving { .. }) => Hold::Moving,
        }
    }

    pub(super) fn needs(&self, seq: u64) -> bool {
        self.subs.iter().flatten().any(|sub| sub.held.iter().any(|held| held.seq == seq))
    }

    /// Whether a newer event of its id has taken the event's place.
    pub(super) fn is_replaced(&self, seq: u64) -> bool {
        self.subs.iter().flatten().any(|sub| sub.held.iter().any(|held| held.seq == seq && held.withdrawn))
    }

    /// Where the number of deliveries is limited, the storage has those in flight: all of them, or of one event.
    pub(super) fn record_deliveries(&mut self, seq: Option<u64>) {
        if self.policy.max_deliveries == 0 {
            return;
        }
        let timed: BTreeSet<u64> =
            self.events.iter().filter(|event| event.expires.is_some()).map(|event| event.seq).collect();
        for held in self.subs.iter_mut().flatten().flat_map(|sub| &mut sub.held) {
            let flies = matches!(held.state, State::InFlight { .. }) && !held.withdrawn;
            if flies && seq.is_none_or(|seq| held.seq == seq) {
                held.stored = (held.deliveries, 0, if timed.contains(&held.seq) { held.flown } else { 0 });
            }
        }
    }

    /// Makes letters of all waiting events that have used up their deliveries.
    pub(super) fn bury_exhausted(&mut self, at: usize, now: u64) {
        let (most, expiring) = (self.policy.max_deliveries, self.policy.expired_to_dead_letter);
        let expires: BTreeMap<u64, u64> =
            self.events.iter().filter_map(|event| Some((event.seq, event.expires?))).collect();
        let sub = self.sub_mut(at);
        let exhausted =
            |held: &Held| most > 0 && held.deliveries >= most && held.state == State::Waiting && held.letter.is_none();
        let expired = |held: &Held| expires.get(&held.seq).is_some_and(|at| at + held.flown <= now);
        for held in sub.held.iter_mut().filter(|held| exhausted(held)) {
            sub.counters.expired += u64::from(expired(held));
            if !expired(held) || expiring {
                held.letter = Some(if expired(held) { Reason::Expired } else { Reason::MaxDeliveries });
            }
        }
        sub.held.retain(|held| !(exhausted(held) && expired(held)));
    }

    /// The state of each durable subscription as a storage has it: deliveries in flight count where they are limited.
    pub(super) fn kept(&self) -> Vec<Kept> {
        let durable = self.subs.iter().flatten().filter_map(|sub| {
            let held = sub.held.iter().filter(|held| !held.withdrawn);
            let held = held.map(|held| (held.seq, held.stored.0, held.stored.1, held.stored.2)).collect();
            Some(Kept { name: sub.name.clone()?, since: sub.since, held })
        });
        durable.collect()
    }

    /// Restarts: events in flight come back as stored; subscriptions without a name are gone.
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
                (held.state, held.letter, held.order) = (State::Waiting, None, 0);
                (held.deliveries, held.due, held.flown) = held.stored;
            }
        }
        self.policy = policy;
        self.dead_full = 0;
        self.visible = self.last_seq;
    }
}

fn on(state: State, client: u64) -> bool {
    matches!(state, State::InFlight { client: other, .. } if other == client)
}
