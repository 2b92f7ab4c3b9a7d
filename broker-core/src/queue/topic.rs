//! A topic and its subscriptions: the pure state machine that a shard drives.
//!
//! [`recovery`] rebuilds it after a restart; [`figures`] is what it says of itself.

mod figures;
mod recovery;

use std::collections::HashMap;

use slab::Slab;

use super::log::{Log, Released, Times};
use super::memory::Memory;
use super::subscription::{Candidate, ClientId, Hold, Subscription};
use crate::engine::Refusal;
use crate::event::{EventKey, Millis, NewEvent, Payload, Seq};
use crate::name::{IdKey, SubscriptionName, TopicName};
use crate::policy::{DuplicateId, TopicPolicy};
use crate::storage::{Holder, Mutation, Place, StoredEvent};

/// A subscription within its topic. Used again after the subscription is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SubscriptionId(pub(crate) usize);

/// A consumer within its subscription. Used again after it is detached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ConsumerId(pub(crate) u32);

/// What [`Topic::publish`] did.
#[derive(Debug)]
pub struct Publication {
    /// What is to be stored; `None` where no subscription is there to hold the event.
    pub stored: Option<StoredEvent>,
    /// Events that it replaced, to be forgotten in the same batch.
    pub replaces: Vec<EventKey>,
    /// Whether it replaced a waiting event in any subscription.
    pub replaced: bool,
}

/// What [`Topic::acknowledge`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acknowledged {
    /// It was in flight on the consumer.
    InFlight,
    /// It waited.
    Waiting,
    /// Nothing of that id is in flight here or waiting.
    NotFound,
}

/// What [`Topic::next`] found.
#[derive(Debug)]
pub enum Next {
    /// An event has been put in flight.
    Delivery {
        /// The client that gets it.
        client: ClientId,
        /// What it gets.
        payload: Payload,
        /// How often it was delivered before.
        redelivered: u32,
    },
    /// Payloads have to be read before the next delivery; the subscription waits until [`Topic::loaded`].
    Load(Vec<(EventKey, Place)>),
    /// Nothing is deliverable, or nobody can take it.
    Nothing,
}

/// The most payloads read together. Enough that reading a backlog back is sequential, little enough to stay in the budget.
const LOAD: usize = 512;

/// After so many bytes no more payloads are read together.
const LOAD_BYTES: usize = 1 << 20;

/// An event bus with its own order: events of one name, and the subscriptions that hold them.
///
/// Pure: it neither reads a clock nor does I/O. Whoever drives it gives it `now`, stores what it says is to be stored, tells
/// it when that is written and when it is safe, and asks for deliveries.
#[derive(Debug)]
pub struct Topic {
    name: TopicName,
    policy: TopicPolicy,
    log: Log,
    subscriptions: Slab<Subscription>,
    named: HashMap<SubscriptionName, usize>,
    /// Ended subscriptions that still have to let go of what they held, each with the latest event that it held.
    leaving: Vec<(Subscription, Seq)>,
    /// Events and their bytes stored since the start, for the counts of subscriptions.
    stored: (u64, u64),
    published: u64,
    /// Subscriptions with something to store.
    dirty: Vec<usize>,
}

impl Topic {
    /// A topic without events or subscriptions.
    #[must_use]
    pub fn new(name: TopicName, policy: TopicPolicy) -> Self {
        Self {
            name,
            policy,
            log: Log::default(),
            subscriptions: Slab::new(),
            named: HashMap::new(),
            leaving: Vec::new(),
            stored: (0, 0),
            published: 0,
            dirty: Vec::new(),
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &TopicName {
        &self.name
    }

    /// What its events cost in memory.
    #[must_use]
    pub fn memory(&self) -> Memory {
        self.log.memory()
    }

    /// Whether it has neither subscriptions nor events.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.subscriptions.is_empty() && self.leaving.is_empty() && self.log.live == 0
    }

    // ---- Publishing ----

    /// Takes an event in. It is not delivered before [`Topic::set_visible`] says so.
    ///
    /// # Errors
    /// [`Refusal::DuplicateId`] and [`Refusal::Full`] by the topic's policy; nothing has changed then.
    pub fn publish(&mut self, event: &NewEvent, now: Millis) -> Result<Publication, Refusal> {
        if self.subscriptions.is_empty() {
            self.published += 1;
            return Ok(Publication { stored: None, replaces: Vec::new(), replaced: false });
        }
        let duplicates = match self.policy.duplicate_id {
            DuplicateId::Keep => Vec::new(),
            DuplicateId::Replace => self.log.find_id(event.id),
            DuplicateId::Reject => {
                let held = |key| self.subscriptions.iter().any(|(_, sub)| sub.hold(key, event.id) != Hold::None);
                if self.log.find_id(event.id).into_iter().any(held) {
                    return Err(Refusal::DuplicateId);
                }
                Vec::new()
            }
        };
        self.check_limits(event, &duplicates, (0, 0))?;
        let mut replaced = false;
        for key in &duplicates {
            replaced |= self.withdraw(*key, event.id);
        }
        self.published += 1;
        let key = EventKey { priority: event.priority, seq: Seq(self.log.last_seq.0 + 1) };
        let ttl = [event.ttl_ms, self.policy.ttl_ms].into_iter().filter(|ttl| *ttl > 0).min();
        let expires_at = ttl.map(|ttl| now.plus(ttl));
        let due_at = (event.delay_ms > 0).then(|| now.after_delay(event.delay_ms));
        let times = (expires_at.is_some() || due_at.is_some()).then_some(Times { expires_at, due_at });
        let holders = u32::try_from(self.subscriptions.len()).expect("subscriptions are far fewer than 2^32");
        let payload = event.payload.clone();
        self.log.insert(key, event.id, holders, now, times, payload.len(), Some(payload.clone()));
        self.log.await_visibility(key);
        self.stored.0 += 1;
        self.stored.1 += payload.len() as u64;
        let stored = StoredEvent { topic: self.name.clone(), key, published_at: now, expires_at, due_at, payload };
        Ok(Publication { stored: Some(stored), replaces: duplicates, replaced })
    }

    /// Whether there would be room for `event` after `count` others of `bytes` bytes.
    ///
    /// # Errors
    /// [`Refusal::Full`] if there would not.
    pub fn check_room(&self, event: &NewEvent, count: u64, bytes: u64) -> Result<(), Refusal> {
        let duplicates = match self.policy.duplicate_id {
            DuplicateId::Replace => self.log.find_id(event.id),
            DuplicateId::Reject | DuplicateId::Keep => Vec::new(),
        };
        self.check_limits(event, &duplicates, (count, bytes))
    }

    fn check_limits(&self, event: &NewEvent, duplicates: &[EventKey], ahead: (u64, u64)) -> Result<(), Refusal> {
        let (most, most_bytes) = (self.policy.max_waiting, self.policy.max_waiting_bytes);
        if most == 0 && most_bytes == 0 {
            return Ok(());
        }
        for (_, sub) in &self.subscriptions {
            let unsettled = self.unsettled(sub);
            let (mut count, mut bytes) = (unsettled.0 + ahead.0, unsettled.1 + ahead.1);
            for key in duplicates.iter().filter(|key| sub.hold(**key, event.id) == Hold::Waiting) {
                count -= 1;
                bytes -= self.log.get(*key).map_or(0, |entry| u64::from(entry.len));
            }
            let name = sub.name.as_ref().map_or_else(|| "of a connection".to_owned(), |name| format!("\"{name}\""));
            let limit = if most > 0 && count >= most {
                format!("{most} events wait in subscription {name}")
            } else if most_bytes > 0 && bytes + event.payload.len() as u64 > most_bytes {
                format!("{bytes} of {most_bytes} bytes wait in subscription {name}")
            } else {
                continue;
            };
            return Err(Refusal::Full { topic: self.name.clone(), limit });
        }
        Ok(())
    }

    /// Takes an event out for all who do not have it in flight. Returns whether it waited anywhere.
    fn withdraw(&mut self, key: EventKey, id: IdKey) -> bool {
        let len = self.log.get(key).map_or(0, |entry| u64::from(entry.len));
        let mut in_flight = 0;
        let mut waited = false;
        for (_, sub) in &mut self.subscriptions {
            match sub.hold(key, id) {
                Hold::InFlight => in_flight += 1,
                Hold::Waiting => {
                    sub.withdraw_waiting(key, len);
                    waited = true;
                }
                Hold::None => {}
            }
        }
        self.log.withdraw(key, in_flight);
        waited
    }

    /// The storage has written the event at `place`.
    pub fn set_place(&mut self, key: EventKey, place: Place) {
        self.log.set_place(key, place);
    }

    /// Events up to `seq` are as safe as their confirmation promises, and can be delivered.
    pub fn set_visible(&mut self, seq: Seq) {
        self.log.set_visible(seq);
    }

    /// The sequence of the oldest event that is not visible yet.
    #[must_use]
    pub fn next_invisible(&self) -> Option<Seq> {
        self.log.next_pending()
    }

    /// The sequence of the latest event.
    #[must_use]
    pub fn last_seq(&self) -> Seq {
        self.log.last_seq
    }

    /// Drops payloads from memory that can be read back, least urgent first, until `bytes` are free. Returns what it freed.
    pub fn evict(&mut self, bytes: usize) -> usize {
        self.log.evict(bytes)
    }

    // ---- Subscriptions ----

    /// The subscription called `name`.
    #[must_use]
    pub fn find(&self, name: &SubscriptionName) -> Option<SubscriptionId> {
        self.named.get(name).copied().map(SubscriptionId)
    }

    /// Makes a subscription that gets the events published from now on. A named one has to be stored, see the mutation.
    pub fn subscribe(&mut self, name: Option<SubscriptionName>) -> (SubscriptionId, Option<Mutation>) {
        let since = self.log.last_seq;
        let at = self.subscriptions.insert(Subscription::new(name.clone(), since, self.stored));
        let mutation = name.map(|name| {
            self.named.insert(name.clone(), at);
            Mutation::Subscribe { topic: self.name.clone(), subscription: name, since }
        });
        (SubscriptionId(at), mutation)
    }

    /// Whether the subscription is there.
    #[must_use]
    pub fn has(&self, sub: SubscriptionId) -> bool {
        self.subscriptions.contains(sub.0)
    }

    /// Whether a subscription has a consumer that can take more.
    #[must_use]
    pub fn is_hungry(&self, sub: SubscriptionId) -> bool {
        self.subscriptions.get(sub.0).is_some_and(Subscription::is_hungry)
    }

    /// The subscriptions with a consumer that can take more.
    #[must_use]
    pub fn hungry(&self) -> Vec<SubscriptionId> {
        self.subscriptions.iter().filter(|(_, sub)| sub.is_hungry()).map(|(at, _)| SubscriptionId(at)).collect()
    }

    /// All its subscriptions.
    #[must_use]
    pub fn subscription_ids(&self) -> Vec<SubscriptionId> {
        self.subscriptions.iter().map(|(at, _)| SubscriptionId(at)).collect()
    }

    /// How many subscriptions it has.
    #[must_use]
    pub fn subscriptions(&self) -> usize {
        self.subscriptions.len()
    }

    /// Whether the subscription has a name, and so outlives its consumers.
    #[must_use]
    pub fn is_durable(&self, sub: SubscriptionId) -> bool {
        self.subscriptions[sub.0].name.is_some()
    }

    /// Its name.
    #[must_use]
    pub fn subscription_name(&self, sub: SubscriptionId) -> Option<&SubscriptionName> {
        self.subscriptions[sub.0].name.as_ref()
    }

    /// Attaches a consumer with so many events in flight at the most.
    pub fn attach(&mut self, sub: SubscriptionId, client: ClientId, prefetch: u16) -> ConsumerId {
        ConsumerId(self.subscriptions[sub.0].attach(client, prefetch))
    }

    /// Changes how many events a consumer may have in flight; fewer recalls nothing.
    pub fn set_prefetch(&mut self, sub: SubscriptionId, consumer: ConsumerId, prefetch: u16) {
        self.subscriptions[sub.0].set_prefetch(consumer.0, prefetch);
    }

    /// Gives back what a consumer has in flight and lets go of it.
    pub fn detach(&mut self, sub: SubscriptionId, consumer: ConsumerId, now: Millis) {
        let subscription = &mut self.subscriptions[sub.0];
        while let Some(flight) = subscription.first_flight_of(consumer.0) {
            subscription.requeue_flight(&mut self.log, flight, None, now);
        }
        subscription.remove_consumer(consumer.0);
        self.dirty.push(sub.0);
    }

    /// Removes a subscription with all that it holds. Returns the clients that were attached, and for a named one what is to
    /// be stored. What it held is let go of by [`Topic::drain_leaving`], so that a long queue stops nobody.
    pub fn remove(&mut self, sub: SubscriptionId, now: Millis) -> (Vec<ClientId>, Option<Mutation>) {
        let consumers: Vec<usize> = self.subscriptions[sub.0].consumers.iter().map(|(at, _)| at).collect();
        let mut clients = Vec::with_capacity(consumers.len());
        for at in consumers {
            clients.push(self.subscriptions[sub.0].consumers[at].client);
            self.detach(sub, ConsumerId(u32::try_from(at).expect("it was a u32")), now);
        }
        let mut subscription = self.subscriptions.remove(sub.0);
        subscription.to_store = super::subscription::ToStore::default();
        self.dirty.retain(|at| *at != sub.0);
        let mutation = subscription.name.take().map(|name| {
            self.named.remove(&name);
            Mutation::Unsubscribe { topic: self.name.clone(), subscription: name }
        });
        self.leaving.push((subscription, self.log.last_seq));
        (clients, mutation)
    }

    /// Lets ended subscriptions let go of up to `most` events. Returns whether there is more to do.
    pub fn drain_leaving(&mut self, most: usize) -> bool {
        let mut left = most;
        while left > 0 {
            let Some((subscription, until)) = self.leaving.last_mut() else { return false };
            left = subscription.drain(&mut self.log, *until, left);
            if left > 0 {
                self.leaving.pop();
            }
        }
        !self.leaving.is_empty()
    }

    // ---- Delivering and settling ----

    fn one_flight_an_id(&self) -> bool {
        self.policy.duplicate_id != DuplicateId::Keep
    }

    fn candidate(&mut self, sub: SubscriptionId, now: Millis) -> Option<Candidate> {
        let one_flight_an_id = self.one_flight_an_id();
        let subscription = &mut self.subscriptions[sub.0];
        let candidate = subscription.candidate(&mut self.log, now, one_flight_an_id);
        if !subscription.to_store.settled.is_empty() {
            self.dirty.push(sub.0);
        }
        candidate
    }

    /// Whether something could be delivered now to a consumer with room.
    pub fn is_deliverable(&mut self, sub: SubscriptionId, now: Millis) -> bool {
        self.candidate(sub, now).is_some()
    }

    /// Puts the next event in flight on the consumer whose turn it is, among those whose client `has_room`. A client that
    /// has not loses its turn until [`Topic::resume`].
    pub fn next(&mut self, sub: SubscriptionId, now: Millis, mut has_room: impl FnMut(ClientId) -> bool) -> Next {
        if self.subscriptions[sub.0].loading {
            return Next::Nothing;
        }
        let consumer = loop {
            let subscription = &mut self.subscriptions[sub.0];
            let Some(consumer) = subscription.next_consumer() else { return Next::Nothing };
            if has_room(subscription.consumers[consumer as usize].client) {
                break consumer;
            }
        };
        let Some(candidate) = self.candidate(sub, now) else {
            self.subscriptions[sub.0].return_turn(consumer);
            return Next::Nothing;
        };
        let subscription = &mut self.subscriptions[sub.0];
        let Some(payload) = self.log.payload(candidate.key).cloned() else {
            subscription.return_turn(consumer);
            subscription.loading = true;
            let upcoming = subscription.upcoming(&self.log, candidate.key, LOAD);
            let absent = upcoming.into_iter().filter(|key| self.log.payload(*key).is_none());
            let mut bytes = 0;
            let located = absent.filter_map(|key| {
                let entry = self.log.get(key)?;
                Some((key, entry.place()?, entry.len as usize))
            });
            let bounded = located.take_while(|(.., len)| {
                let fits = bytes < LOAD_BYTES;
                bytes += len;
                fits
            });
            return Next::Load(bounded.map(|(key, place, _)| (key, place)).collect());
        };
        let client = subscription.consumers[consumer as usize].client;
        let redelivered = subscription.take(candidate, consumer, now, self.policy.ack_timeout_ms);
        subscription.enter_ring(consumer as usize);
        Next::Delivery { client, payload, redelivered }
    }

    /// Takes payloads that were read for a subscription; what could not be read (`None`) although it is where it was read is lost
    /// and is dropped everywhere. Returns how many were.
    pub fn loaded(&mut self, sub: Option<SubscriptionId>, payloads: Vec<(EventKey, Place, Option<Payload>)>) -> usize {
        if let Some(subscription) = sub.and_then(|sub| self.subscriptions.get_mut(sub.0)) {
            subscription.loading = false;
        }
        let mut lost = 0;
        for (key, place, payload) in payloads {
            match payload {
                Some(payload) => self.log.set_payload(key, payload),
                None => lost += usize::from(self.drop_unreadable(key, place)),
            }
        }
        lost
    }

    fn drop_unreadable(&mut self, key: EventKey, place: Place) -> bool {
        // One that the storage has moved meanwhile is looked for again where it is now; for one that was replaced nobody waits.
        let entry = self.log.get(key).filter(|entry| !entry.withdrawn() && entry.place() == Some(place));
        let Some(id) = entry.map(|entry| entry.id) else { return false };
        for (at, sub) in &mut self.subscriptions {
            if sub.hold(key, id) == Hold::Waiting {
                sub.settle_waiting(&mut self.log, key);
                sub.counters.dropped += 1;
                self.dirty.push(at);
            }
        }
        true
    }

    /// A client can take more again.
    pub fn resume(&mut self, sub: SubscriptionId, consumer: ConsumerId) {
        self.subscriptions[sub.0].enter_ring(consumer.0 as usize);
    }

    /// Whether the event `seq` is not visible yet.
    #[must_use]
    pub fn is_invisible(&self, seq: Seq) -> bool {
        seq > self.log.visible
    }

    /// Settles an event that is in flight on `consumer`, or that waits.
    pub fn acknowledge(&mut self, sub: SubscriptionId, consumer: ConsumerId, id: IdKey) -> Acknowledged {
        let subscription = &mut self.subscriptions[sub.0];
        if let Some(flight) = subscription.flights.find(id, consumer.0) {
            subscription.acknowledge_flight(&mut self.log, flight);
            self.dirty.push(sub.0);
            return Acknowledged::InFlight;
        }
        if subscription.flights.contains(id) {
            return Acknowledged::NotFound;
        }
        let waiting = self.log.find_id(id).into_iter().filter(|key| subscription.hold(*key, id) == Hold::Waiting);
        let Some(key) = waiting.min_by_key(|key| subscription.late_order(*key)) else {
            return Acknowledged::NotFound;
        };
        subscription.settle_waiting(&mut self.log, key);
        subscription.counters.acknowledged += 1;
        self.dirty.push(sub.0);
        Acknowledged::Waiting
    }

    /// Settles all that is in flight on `consumer`. Returns how many events that were.
    pub fn acknowledge_all(&mut self, sub: SubscriptionId, consumer: ConsumerId) -> usize {
        let subscription = &mut self.subscriptions[sub.0];
        let mut count = 0;
        while let Some(flight) = subscription.first_flight_of(consumer.0) {
            subscription.acknowledge_flight(&mut self.log, flight);
            count += 1;
        }
        self.dirty.push(sub.0);
        count
    }

    /// Gives back an event that is in flight on `consumer`, to be delivered again after `delay_ms`. Returns whether it was.
    pub fn requeue(
        &mut self,
        sub: SubscriptionId,
        consumer: ConsumerId,
        id: IdKey,
        delay_ms: u64,
        now: Millis,
    ) -> bool {
        let subscription = &mut self.subscriptions[sub.0];
        let Some(flight) = subscription.flights.find(id, consumer.0) else { return false };
        let due = (delay_ms > 0).then(|| now.after_delay(delay_ms));
        subscription.requeue_flight(&mut self.log, flight, due, now);
        self.dirty.push(sub.0);
        true
    }

    /// Starts the time-out of an event in flight on `consumer` again. Returns whether it was.
    pub fn touch(&mut self, sub: SubscriptionId, consumer: ConsumerId, id: IdKey, now: Millis) -> bool {
        let subscription = &mut self.subscriptions[sub.0];
        let Some(flight) = subscription.flights.find(id, consumer.0) else { return false };
        let timeout = self.policy.ack_timeout_ms;
        subscription.flights.set_deadline(flight, (timeout > 0).then(|| now.plus(timeout)));
        true
    }

    /// How many events a consumer has in flight.
    #[must_use]
    pub fn in_flight_of(&self, sub: SubscriptionId, consumer: ConsumerId) -> u32 {
        self.subscriptions[sub.0].in_flight_of(consumer.0)
    }

    /// Gives back what has been in flight for too long.
    pub fn take_back_overdue(&mut self, sub: SubscriptionId, now: Millis) {
        let subscription = &mut self.subscriptions[sub.0];
        while let Some((_, flight)) = subscription.flights.next_deadline().filter(|(at, _)| *at <= now) {
            subscription.requeue_flight(&mut self.log, flight, None, now);
            self.dirty.push(sub.0);
        }
    }

    /// Makes what was delayed until now deliverable.
    pub fn promote(&mut self, sub: SubscriptionId, now: Millis) {
        self.subscriptions[sub.0].promote(now);
    }

    /// When a subscription changes by the passing of time alone.
    #[must_use]
    pub fn next_change(&self, sub: SubscriptionId) -> Option<Millis> {
        self.subscriptions.get(sub.0)?.next_change()
    }

    // ---- What the storage is told ----

    /// Moves what has changed since the last call into `mutations`.
    pub fn drain_changes(&mut self, mutations: &mut Vec<Mutation>) {
        self.dirty.sort_unstable();
        self.dirty.dedup();
        for at in self.dirty.drain(..) {
            let Some(sub) = self.subscriptions.get_mut(at) else { continue };
            let Some(name) = &sub.name else { continue };
            let (topic, subscription) = (&self.name, name);
            // What came back and was settled in the same turn is settled: the order of these two matters.
            if !sub.to_store.requeued.is_empty() {
                let events = std::mem::take(&mut sub.to_store.requeued);
                mutations.push(Mutation::Requeue { topic: topic.clone(), subscription: subscription.clone(), events });
            }
            if !sub.to_store.settled.is_empty() {
                let events = std::mem::take(&mut sub.to_store.settled);
                mutations.push(Mutation::Settle { topic: topic.clone(), subscription: subscription.clone(), events });
            }
        }
        for Released { key, place } in self.log.released.drain(..) {
            mutations.push(Mutation::Release { topic: self.name.clone(), key, place });
        }
    }

    /// Whether there is anything for [`Topic::take_released`].
    #[must_use]
    pub fn has_released(&self) -> bool {
        !self.log.released.is_empty()
    }

    /// What has been freed since the last call, where [`Topic::drain_changes`] is not used: during recovery.
    pub fn take_released(&mut self) -> impl Iterator<Item = Released> + '_ {
        self.log.released.drain(..)
    }

    /// If the event still waits and is still at `place`: who holds it, for [`Mutation::Rewrite`].
    #[must_use]
    pub fn holders(&self, key: EventKey, place: Place) -> Option<Vec<Holder>> {
        let entry = self.log.get(key).filter(|entry| !entry.withdrawn() && entry.place() == Some(place))?;
        let held = self.subscriptions.iter().filter(|(_, sub)| sub.hold(key, entry.id) != Hold::None);
        let holders = held.filter_map(|(_, sub)| {
            let (deliveries, due_at) = sub.held_state(key, entry.id);
            Some(Holder { subscription: sub.name.clone()?, deliveries, due_at })
        });
        Some(holders.collect())
    }
}

#[cfg(test)]
impl Topic {
    /// For tests that look inside.
    pub(super) fn inside(&self) -> (&Log, &Slab<Subscription>) {
        (&self.log, &self.subscriptions)
    }
}
