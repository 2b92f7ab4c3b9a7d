//! A topic as the protocol describes it, with no thought of speed: lists that are searched from their beginning.

use std::collections::HashMap;

use crate::policy::{DuplicateId, TopicPolicy};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Settled {
    InFlight,
    Waiting,
    NotFound,
}

#[derive(Debug, Clone)]
struct Event {
    number: u64,
    seq: u64,
    id: u8,
    priority: i32,
    due: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting,
    InFlight { client: u64, order: u64, deadline: u64 },
}

/// A subscription's hold on an event.
#[derive(Debug, Clone)]
struct Held {
    seq: u64,
    state: State,
    deliveries: u32,
    due: u64,
    /// What the storage knows of the two.
    stored: (u32, u64),
    /// Replaced while it was in flight.
    withdrawn: bool,
}

#[derive(Debug, Clone)]
struct Subscription {
    name: Option<String>,
    held: Vec<Held>,
    /// Consumers and how many events each may have in flight.
    consumers: HashMap<u64, u16>,
}

#[derive(Debug, Clone)]
pub(super) struct Model {
    policy: TopicPolicy,
    events: Vec<Event>,
    /// Removed ones stay as `None`, so that an index means the same for ever.
    subs: Vec<Option<Subscription>>,
    pub(super) visible: u64,
    pub(super) published: u64,
    orders: u64,
    now: u64,
}

impl Model {
    pub(super) fn new(policy: TopicPolicy) -> Self {
        Self { policy, events: Vec::new(), subs: Vec::new(), visible: 0, published: 0, orders: 0, now: 0 }
    }

    fn event(&self, seq: u64) -> &Event {
        self.events.iter().find(|event| event.seq == seq).unwrap()
    }

    pub(super) fn number(&self, seq: u64) -> u64 {
        self.event(seq).number
    }

    fn sub(&mut self, at: usize) -> &mut Subscription {
        self.subs[at].as_mut().unwrap()
    }

    /// `Err`: refused. Else whether it is stored, and whether it replaced.
    pub(super) fn publish(&mut self, id: u8, priority: i32, now: u64, delay_ms: u64) -> Result<(bool, bool), ()> {
        if self.subs.iter().flatten().next().is_none() {
            self.published += 1;
            return Ok((false, false));
        }
        let ids: HashMap<u64, u8> = self.events.iter().map(|event| (event.seq, event.id)).collect();
        let same = |held: &Held| ids[&held.seq] == id;
        let replace = self.policy.duplicate_id == DuplicateId::Replace;
        if self.policy.duplicate_id == DuplicateId::Reject
            && self.subs.iter().flatten().any(|sub| sub.held.iter().any(same))
        {
            return Err(());
        }
        let goes = |held: &Held| replace && same(held) && held.state == State::Waiting;
        let most = self.policy.max_waiting as usize;
        let full = |sub: &Subscription| sub.held.iter().filter(|held| !goes(held)).count() >= most;
        if most > 0 && self.subs.iter().flatten().any(full) {
            return Err(());
        }
        let mut replaced = false;
        for sub in self.subs.iter_mut().flatten() {
            let before = sub.held.len();
            sub.held.retain(|held| !goes(held));
            replaced |= sub.held.len() < before;
            if replace {
                sub.held.iter_mut().filter(|held| same(held)).for_each(|held| held.withdrawn = true);
            }
        }
        let due = if delay_ms > 0 { now + delay_ms + 1 } else { 0 };
        self.events.push(Event { number: self.published, seq: 0, id, priority, due });
        self.published += 1;
        Ok((true, replaced))
    }

    /// The event that was published last got this sequence.
    pub(super) fn name_last(&mut self, seq: u64) {
        let event = self.events.last_mut().unwrap();
        event.seq = seq;
        let due = event.due;
        for sub in self.subs.iter_mut().flatten() {
            let state = State::Waiting;
            sub.held.push(Held { seq, state, deliveries: 0, due, stored: (0, due), withdrawn: false });
        }
    }

    pub(super) fn subscribe(&mut self, name: Option<String>) -> usize {
        let is_it = |sub: &Option<Subscription>| sub.as_ref().is_some_and(|sub| sub.name == name);
        if name.is_some()
            && let Some(at) = self.subs.iter().position(is_it)
        {
            return at;
        }
        self.subs.push(Some(Subscription { name, held: Vec::new(), consumers: HashMap::new() }));
        self.subs.len() - 1
    }

    pub(super) fn attach(&mut self, at: usize, client: u64, prefetch: u16) {
        self.sub(at).consumers.insert(client, prefetch);
    }

    pub(super) fn detach(&mut self, at: usize, client: u64) {
        let sub = self.sub(at);
        sub.consumers.remove(&client);
        give_back(sub, |flight| matches!(flight, State::InFlight { client: other, .. } if other == client), 0);
    }

    pub(super) fn remove(&mut self, at: usize) {
        self.subs[at] = None;
    }

    fn in_flight(sub: &Subscription, client: u64) -> usize {
        let on = |held: &&Held| matches!(held.state, State::InFlight { client: other, .. } if other == client);
        sub.held.iter().filter(on).count()
    }

    pub(super) fn in_flight_of(&self, at: usize, client: u64) -> usize {
        Self::in_flight(self.subs[at].as_ref().unwrap(), client)
    }

    pub(super) fn has_room(&self, at: usize) -> bool {
        let sub = self.subs[at].as_ref().unwrap();
        sub.consumers.iter().any(|(client, prefetch)| Self::in_flight(sub, *client) < usize::from(*prefetch))
    }

    /// The next event and how often it has been delivered.
    pub(super) fn candidate(&self, at: usize, now: u64) -> Option<(u64, u32)> {
        let sub = self.subs[at].as_ref().unwrap();
        let flying = |id: u8| sub.held.iter().any(|held| held.state != State::Waiting && self.event(held.seq).id == id);
        let deliverable = sub.held.iter().filter(|held| {
            held.state == State::Waiting
                && held.seq <= self.visible
                && held.due <= now
                && (self.policy.duplicate_id == DuplicateId::Keep || !flying(self.event(held.seq).id))
        });
        let next = deliverable.min_by_key(|held| (std::cmp::Reverse(self.event(held.seq).priority), held.seq))?;
        Some((next.seq, next.deliveries))
    }

    pub(super) fn deliver(&mut self, at: usize, client: u64, seq: u64, now: u64) {
        self.orders += 1;
        let (order, timeout) = (self.orders, self.policy.ack_timeout_ms);
        let deadline = if timeout > 0 { now + timeout } else { u64::MAX };
        let sub = self.sub(at);
        assert!(Self::in_flight(sub, client) < usize::from(sub.consumers[&client]), "beyond the prefetch");
        let held = sub.held.iter_mut().find(|held| held.seq == seq).unwrap();
        held.state = State::InFlight { client, order, deadline };
        held.deliveries += 1;
    }

    /// The flight of an id on a client that was delivered first.
    fn flight(&self, at: usize, client: u64, id: u8) -> Option<u64> {
        let sub = self.subs[at].as_ref().unwrap();
        let flights = sub.held.iter().filter_map(|held| match held.state {
            State::InFlight { client: other, order, .. } if other == client && self.event(held.seq).id == id => {
                Some((order, held.seq))
            }
            _ => None,
        });
        flights.min().map(|(_, seq)| seq)
    }

    pub(super) fn acknowledge(&mut self, at: usize, client: u64, id: u8) -> Settled {
        if let Some(seq) = self.flight(at, client, id) {
            self.sub(at).held.retain(|held| held.seq != seq);
            return Settled::InFlight;
        }
        let sub = self.subs[at].as_ref().unwrap();
        let of_id: Vec<&Held> = sub.held.iter().filter(|held| self.event(held.seq).id == id).collect();
        if of_id.iter().any(|held| held.state != State::Waiting) {
            return Settled::NotFound;
        }
        let order = |held: &&&Held| (held.deliveries == 0, std::cmp::Reverse(self.event(held.seq).priority), held.seq);
        let Some(seq) = of_id.iter().min_by_key(order).map(|held| held.seq) else { return Settled::NotFound };
        self.sub(at).held.retain(|held| held.seq != seq);
        Settled::Waiting
    }

    pub(super) fn acknowledge_all(&mut self, at: usize, client: u64) -> usize {
        let sub = self.sub(at);
        let before = sub.held.len();
        sub.held.retain(|held| !matches!(held.state, State::InFlight { client: other, .. } if other == client));
        before - sub.held.len()
    }

    pub(super) fn requeue(&mut self, at: usize, client: u64, id: u8, due: u64) -> bool {
        let Some(seq) = self.flight(at, client, id) else { return false };
        let sub = self.sub(at);
        let held = sub.held.iter().find(|held| held.seq == seq).unwrap();
        let state = held.state;
        give_back(sub, |other| other == state, due);
        true
    }

    pub(super) fn touch(&mut self, at: usize, client: u64, id: u8, now: u64) -> bool {
        let Some(seq) = self.flight(at, client, id) else { return false };
        let timeout = self.policy.ack_timeout_ms;
        let held = self.sub(at).held.iter_mut().find(|held| held.seq == seq).unwrap();
        if let State::InFlight { deadline, .. } = &mut held.state {
            *deadline = if timeout > 0 { now + timeout } else { u64::MAX };
        }
        true
    }

    pub(super) fn pass(&mut self, now: u64) {
        self.now = now;
        for sub in self.subs.iter_mut().flatten() {
            give_back(sub, |state| matches!(state, State::InFlight { deadline, .. } if deadline <= now), 0);
        }
    }

    /// Waiting (delayed ones included) and in flight, over all subscriptions.
    pub(super) fn counts(&self) -> (u64, u64) {
        let held = self.subs.iter().flatten().flat_map(|sub| &sub.held);
        held.fold((0, 0), |(waiting, flying), held| match held.state {
            State::Waiting => (waiting + 1, flying),
            State::InFlight { .. } => (waiting, flying + 1),
        })
    }

    pub(super) fn needs(&self, seq: u64) -> bool {
        self.subs.iter().flatten().any(|sub| sub.held.iter().any(|held| held.seq == seq))
    }

    /// What is in flight comes back with what the storage knows of it; what belongs to connections is gone.
    pub(super) fn crash(&mut self, visible: u64) {
        for slot in &mut self.subs {
            if slot.as_ref().is_some_and(|sub| sub.name.is_none()) {
                *slot = None;
            }
            let Some(sub) = slot else { continue };
            sub.consumers.clear();
            sub.held.retain(|held| !held.withdrawn);
            for held in &mut sub.held {
                held.state = State::Waiting;
                (held.deliveries, held.due) = held.stored;
            }
        }
        self.visible = visible;
    }
}

/// Flights that come back; what was replaced meanwhile does not.
fn give_back(sub: &mut Subscription, which: impl Fn(State) -> bool, due: u64) {
    sub.held.retain(|held| !(which(held.state) && held.withdrawn));
    for held in sub.held.iter_mut().filter(|held| which(held.state)) {
        held.state = State::Waiting;
        held.due = due;
        held.stored = (held.deliveries, due);
    }
}
