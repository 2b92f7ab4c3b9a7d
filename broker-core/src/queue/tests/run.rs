//! A topic, the model of it, and a storage between crashes: steps are done to all of them, and they are compared.

mod letters;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use super::super::lane::cost;
use super::super::subscription::Hold;
use super::super::{Acknowledged, ClientId, ConsumerId, Next, Outgoing, SubscriptionId, Topic};
use super::model::{Accepted, Counters, Model, Published, Settled};
use super::{event_id, new_event, number};
use crate::event::{EventKey, Millis, Seq};
use crate::name::{IdKey, SubscriptionName, TopicName};
use crate::policy::TopicPolicy;
use crate::storage::{Holder, Mutation, Place, Redelivery, StoredEvent};

/// One step on a topic. Numbers pick among what exists.
#[derive(Debug, Clone)]
pub(super) enum Step {
    Publish {
        id: u8,
        priority: i32,
        ttl_ms: u64,
        delay_ms: u64,
        padding: u8,
    },
    Subscribe {
        name: Option<u8>,
        prefetch: u16,
    },
    Prefetch {
        at: u8,
        prefetch: u16,
    },
    Detach(u8),
    Remove(u8),
    /// Delivers to a subscription: at most so many events, and only to clients whose bit is set.
    Deliver {
        sub: u8,
        most: u8,
        room: u8,
    },
    Resume(u8),
    Acknowledge {
        at: u8,
        id: u8,
    },
    AcknowledgeAll(u8),
    Nack {
        at: u8,
        id: u8,
        delay_ms: u64,
    },
    Touch {
        at: u8,
        id: u8,
    },
    Pass(u64),
    /// A timer of a subscription has run out, or it is looked at early.
    Timer(u8),
    /// The turn ends: what is to be stored is handed over in one batch.
    Commit,
    /// So many of the batches are written.
    Write(u8),
    /// So many of the written events become visible.
    Show(u8),
    Evict(u8),
    /// A read comes back; `true`: its first event cannot be read.
    Read(bool),
    /// The storage moves an event; `true`: its old record is gone then.
    Move(u8, bool),
    Drain(u8),
    Look(u8),
    /// A consumer gives an event up.
    Terminate {
        at: u8,
        id: u8,
    },
    /// Letters are sent.
    Send,
    /// Letters that were sent have arrived, or (bits) have not, or are lost; whether the other topic is full.
    Arrive {
        stay: u8,
        lost: u8,
        full: bool,
    },
    /// Drops everything that waits in a subscription, so many events at a time.
    Purge(u8, u8),
    /// Removes events whose time to live has passed.
    Expire,
    /// An event comes back to one subscription.
    Revive {
        sub: u8,
        id: u8,
        priority: i32,
    },
    /// Some letters, picked by their bits, are on their way back elsewhere; whether they arrive.
    SendBack(u8, bool),
    Peek(u8),
}

/// How a run goes about its steps.
#[derive(Debug, Clone, Copy)]
pub(super) struct Manner {
    /// Every subscription is looked at after every step: that drops what has expired.
    pub(super) looks: bool,
    /// Whether published events are stored and visible at once.
    pub(super) at_once: bool,
}

/// How a storage hands back what it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Replay {
    /// Record by record.
    Log,
    /// Without the records that an event's move made unnecessary: those of the event before it.
    Cleaned,
    /// Topics, subscriptions, events, then what was settled and what came back.
    State,
}

#[derive(Debug, Clone, Copy)]
struct Attached {
    sub: SubscriptionId,
    consumer: ConsumerId,
    client: ClientId,
    in_model: usize,
}

#[derive(Debug, Clone)]
struct Record {
    mutation: Mutation,
    place: Place,
    /// A move: the place of the older record, if that is gone once this one is there.
    instead_of: Option<Place>,
}

pub(super) struct Run {
    pub(super) topic: Topic,
    pub(super) model: Model,
    policy: TopicPolicy,
    now: Millis,
    subs: Vec<(SubscriptionId, usize)>,
    attached: Vec<Attached>,
    clients: u64,
    /// The mutations of this turn, a move with the place that it stands for.
    turn: Vec<(Mutation, Option<Place>)>,
    /// The stored batches in order, and the model as it was after each.
    batches: Vec<Vec<Record>>,
    after: Vec<Model>,
    written: usize,
    /// Written and not visible.
    hidden: VecDeque<Seq>,
    next_place: u64,
    /// Every event that was ever stored, with its encoding.
    events: BTreeMap<EventKey, StoredEvent>,
    ids: HashMap<EventKey, IdKey>,
    /// Where each event is, as the topic was told.
    places: HashMap<EventKey, Place>,
    /// Copies that the topic has been told of since the start, and those that it has released.
    copies: BTreeSet<(u64, Place)>,
    released: BTreeSet<(u64, Place)>,
    damaged: BTreeSet<Place>,
    reads: Vec<(SubscriptionId, Vec<(EventKey, Place)>)>,
    loading: BTreeSet<SubscriptionId>,
    /// Letters under way, and those of subscriptions that have gone since.
    sent: VecDeque<Vec<(Outgoing, usize)>>,
    manner: Manner,
}

impl Run {
    pub(super) fn new(policy: TopicPolicy, manner: Manner) -> Self {
        Self {
            topic: Topic::new(TopicName::new("t").unwrap(), policy.clone()),
            model: Model::new(policy.clone()),
            policy,
            now: Millis(1_000),
            subs: Vec::new(),
            attached: Vec::new(),
            clients: 0,
            turn: Vec::new(),
            batches: Vec::new(),
            after: Vec::new(),
            written: 0,
            hidden: VecDeque::new(),
            next_place: 0,
            events: BTreeMap::new(),
            ids: HashMap::new(),
            places: HashMap::new(),
            copies: BTreeSet::new(),
            released: BTreeSet::new(),
            damaged: BTreeSet::new(),
            reads: Vec::new(),
            loading: BTreeSet::new(),
            sent: VecDeque::new(),
            manner,
        }
    }

    fn attachment(&self, at: u8) -> Option<Attached> {
        (!self.attached.is_empty()).then(|| self.attached[usize::from(at) % self.attached.len()])
    }

    fn sub(&self, at: u8) -> Option<(SubscriptionId, usize)> {
        (!self.subs.is_empty()).then(|| self.subs[usize::from(at) % self.subs.len()])
    }

    pub(super) fn step(&mut self, step: &Step) {
        match *step {
            Step::Publish { id, priority, ttl_ms, delay_ms, padding } => {
                self.publish(id, priority, ttl_ms, delay_ms, padding);
                if self.manner.at_once {
                    self.commit();
                    self.write(usize::MAX);
                    self.show(usize::MAX);
                }
            }
            Step::Subscribe { name, prefetch } => {
                let sub = self.subscribe(name);
                self.attach(sub, prefetch);
            }
            Step::Commit => self.commit(),
            Step::Write(count) => self.write(usize::from(count)),
            Step::Show(count) => self.show(usize::from(count)),
            Step::Pass(ms) => self.now = self.now.plus(ms),
            Step::Evict(share) => self.evict(share),
            Step::Read(damaged) => self.read(damaged),
            Step::Move(at, old_is_gone) => self.move_event(at, old_is_gone),
            Step::Drain(most) => {
                let live = self.topic.inside().0.live;
                self.topic.settle_backlogs(usize::from(most));
                let freed = live - self.topic.inside().0.live;
                assert!(freed <= usize::from(most), "{freed} freed in a slice of {most}");
            }
            Step::Send => self.send_letters(),
            Step::Arrive { stay, lost, full } => self.letters_arrive(stay, lost, full),
            Step::Expire => self.expire(),
            Step::Deliver { sub, .. }
            | Step::Timer(sub)
            | Step::Remove(sub)
            | Step::Look(sub)
            | Step::Purge(sub, _)
            | Step::Peek(sub)
            | Step::SendBack(sub, _)
            | Step::Revive { sub, .. } => {
                let Some((sub, in_model)) = self.sub(sub) else { return };
                match *step {
                    Step::Deliver { most, room, .. } => {
                        for _ in 0..most {
                            if !self.deliver(sub, in_model, room) {
                                break;
                            }
                        }
                    }
                    Step::Timer(_) => {
                        self.topic.take_back_overdue(sub, usize::MAX, self.now);
                        self.topic.promote(sub, self.now);
                        self.model.take_back_overdue(in_model, self.now.0);
                    }
                    Step::Look(_) => self.look(sub, in_model),
                    Step::Purge(_, slice) => self.purge(sub, in_model, usize::from(slice)),
                    Step::Peek(_) => self.peek(sub, in_model),
                    Step::SendBack(bits, arrives) => self.send_back(bits, arrives),
                    Step::Revive { id, priority, .. } => self.revive(sub, in_model, id, priority),
                    _ => self.remove(sub, in_model),
                }
            }
            Step::Prefetch { at, .. }
            | Step::Detach(at)
            | Step::Resume(at)
            | Step::Acknowledge { at, .. }
            | Step::AcknowledgeAll(at)
            | Step::Nack { at, .. }
            | Step::Terminate { at, .. }
            | Step::Touch { at, .. } => {
                if let Some(attached) = self.attachment(at) {
                    self.client_step(step, attached);
                }
            }
        }
        self.compare();
    }

    /// Runs a step of a client.
    fn client_step(&mut self, step: &Step, attached: Attached) {
        let Attached { sub, consumer, client, in_model } = attached;
        match *step {
            Step::Prefetch { prefetch, .. } => {
                self.topic.set_prefetch(sub, consumer, prefetch);
                self.model.set_prefetch(in_model, client.0, prefetch);
            }
            Step::Detach(_) => self.detach(attached),
            Step::Resume(_) => {
                self.topic.resume(sub, consumer);
                self.model.resume(in_model, client.0);
            }
            Step::Acknowledge { id, .. } => {
                let id = self.model.id_in_flight(in_model, client.0, id);
                let got = self.topic.acknowledge(sub, consumer, event_id(id));
                let expected = match self.model.acknowledge(in_model, client.0, id) {
                    Settled::InFlight => Acknowledged::InFlight,
                    Settled::Waiting => Acknowledged::Waiting,
                    Settled::Late => Acknowledged::Late,
                    Settled::NotHeld => Acknowledged::NotHeld,
                    Settled::NoLongerHeld => Acknowledged::NoLongerHeld,
                };
                assert_eq!(got, expected);
            }
            Step::AcknowledgeAll(_) => {
                let got = self.topic.acknowledge_all(sub, consumer);
                assert_eq!(got, self.model.acknowledge_all(in_model, client.0));
            }
            Step::Nack { id, delay_ms, .. } => {
                let id = self.model.id_in_flight(in_model, client.0, id);
                let got = self.topic.nack(sub, consumer, event_id(id), delay_ms, self.now);
                let due = if delay_ms > 0 { self.now.0 + delay_ms + 1 } else { 0 };
                assert_eq!(got, self.model.nack(in_model, client.0, id, due, self.now.0));
            }
            Step::Terminate { id, .. } => {
                let id = self.model.id_in_flight(in_model, client.0, id);
                let got = self.topic.terminate(sub, consumer, event_id(id), None, 0, self.now);
                assert_eq!(got, self.model.terminate(in_model, client.0, id, self.now.0));
            }
            Step::Touch { id, .. } => {
                let id = self.model.id_in_flight(in_model, client.0, id);
                let got = self.topic.touch(sub, consumer, event_id(id), self.now);
                assert_eq!(got, self.model.touch(in_model, client.0, id, self.now.0));
            }
            _ => {}
        }
    }

    fn publish(&mut self, id: u8, priority: i32, ttl_ms: u64, delay_ms: u64, padding: u8) {
        let mut event = new_event(id, priority, self.model.published, padding);
        (event.ttl_ms, event.delay_ms) = (ttl_ms, delay_ms);
        let published = Published { id, priority, ttl_ms, delay_ms, bytes: event.payload.len() as u64 };
        let expected = self.model.publish(published, self.now.0);
        let publication = match self.topic.publish(&event, self.now) {
            Err(refusal) => return assert!(expected.is_err(), "{refusal}"),
            Ok(publication) => publication,
        };
        let Accepted { stored, gone: replaces, replaced, dropped } = expected.expect("the model takes it too");
        let got = (publication.stored.is_some(), publication.replaced, publication.dropped);
        assert_eq!(got, (stored, replaced, dropped));
        let got: BTreeSet<u64> = publication.replaces.iter().map(|key| key.seq.0).collect();
        assert!(got.is_superset(&replaces), "{got:?} replaced instead of {replaces:?}");
        assert!(got.difference(&replaces).all(|seq| !self.model.needs(*seq)), "{got:?} instead of {replaces:?}");
        let Some(stored) = publication.stored else { return };
        assert_eq!(stored.key.seq.0, self.model.last_seq);
        assert_eq!(stored.payload, event.payload);
        if !publication.replaces.is_empty() {
            let topic = stored.topic.clone();
            self.turn.push((Mutation::Forget { topic, events: publication.replaces }, None));
        }
        self.ids.insert(stored.key, event.id);
        self.events.insert(stored.key, stored.clone());
        self.turn.push((Mutation::Publish(stored), None));
    }

    fn subscribe(&mut self, name: Option<u8>) -> (SubscriptionId, usize) {
        let name = name.map(|name| SubscriptionName::new(&format!("s{name}")).unwrap());
        let in_model = name.as_ref().and_then(|name| self.model.find(name.as_str()));
        let found = name.as_ref().and_then(|name| self.topic.find(name));
        assert_eq!(found.is_some(), in_model.is_some());
        if let (Some(sub), Some(in_model)) = (found, in_model) {
            return (sub, in_model);
        }
        let (sub, mutation) = self.topic.subscribe(name.clone());
        assert_eq!(mutation.is_some(), name.is_some());
        self.turn.extend(mutation.map(|mutation| (mutation, None)));
        let in_model = self.model.subscribe(name.map(|name| name.as_str().to_owned()));
        self.subs.push((sub, in_model));
        // A new one in the place of one that waited for a read does not wait.
        self.loading.remove(&sub);
        (sub, in_model)
    }

    fn attach(&mut self, (sub, in_model): (SubscriptionId, usize), prefetch: u16) {
        self.clients += 1;
        let client = ClientId(self.clients);
        let consumer = self.topic.attach(sub, client, prefetch);
        self.model.attach(in_model, client.0, prefetch);
        self.attached.push(Attached { sub, consumer, client, in_model });
    }

    fn detach(&mut self, attached: Attached) {
        if self.topic.is_durable(attached.sub) {
            self.topic.detach(attached.sub, attached.consumer, self.now);
            self.model.detach(attached.in_model, attached.client.0, self.now.0);
            self.attached.retain(|other| other.client != attached.client);
        } else {
            self.remove(attached.sub, attached.in_model);
        }
    }

    fn remove(&mut self, sub: SubscriptionId, in_model: usize) {
        let (mut clients, mutation) = self.topic.remove(sub, self.now);
        self.turn.extend(mutation.map(|mutation| (mutation, None)));
        let attached = self.attached.iter().filter(|other| other.in_model == in_model);
        let mut expected: Vec<ClientId> = attached.map(|other| other.client).collect();
        clients.sort_unstable();
        expected.sort_unstable();
        assert_eq!(clients, expected);
        self.model.remove(in_model);
        self.attached.retain(|other| other.in_model != in_model);
        self.subs.retain(|(_, other)| *other != in_model);
        assert!(!self.topic.has(sub));
    }

    /// Delivers one event, if there is one for a client that has room.
    fn deliver(&mut self, sub: SubscriptionId, in_model: usize, room: u8) -> bool {
        let mut asked = Vec::new();
        let has_room = |client: ClientId| room >> (client.0 % 8) & 1 == 1;
        let eligible = self.model.eligible(in_model);
        let got = self.topic.next(sub, self.now, |client| {
            asked.push(client);
            has_room(client)
        });
        assert!(asked.iter().all(|client| eligible.contains(&client.0)), "{asked:?} asked of {eligible:?}");
        asked.iter().filter(|client| !has_room(**client)).for_each(|client| self.model.skip(in_model, client.0));
        if self.loading.contains(&sub) {
            assert!(matches!(got, Next::Nothing), "{got:?} while a read is under way");
            assert!(asked.is_empty());
            return false;
        }
        if !eligible.iter().any(|client| has_room(ClientId(*client))) {
            assert!(matches!(got, Next::Nothing), "{got:?} for nobody");
            return false;
        }
        let expected = self.model.candidate(in_model, self.now.0);
        match got {
            Next::Nothing => {
                assert_eq!(expected, None, "it was due");
                let change = self.topic.next_change(sub).map(|at| at.0);
                assert_eq!(change, self.model.next_change(in_model, self.now.0));
                false
            }
            Next::Load(keys) => {
                let (seq, _) = expected.expect("the model has something too");
                assert_eq!(keys.first().map(|(key, _)| key.seq.0), Some(seq));
                let log = self.topic.inside().0;
                for (key, place) in &keys {
                    assert_eq!(self.places.get(key), Some(place));
                    assert!(log.payload(*key).is_none(), "{key:?} is in memory");
                }
                self.loading.insert(sub);
                self.reads.push((sub, keys));
                false
            }
            Next::Delivery { client, payload, redelivered } => {
                let (seq, deliveries) = expected.expect("the model has something too");
                assert_eq!((number(&payload), redelivered), (self.model.number(seq), deliveries));
                assert_eq!(asked.last(), Some(&client));
                assert!(has_room(client));
                self.model.deliver(in_model, client.0, seq, self.now.0);
                true
            }
        }
    }

    fn look(&mut self, sub: SubscriptionId, in_model: usize) {
        let expected = self.model.candidate(in_model, self.now.0).is_some();
        assert_eq!(self.topic.is_deliverable(sub, self.now), Some(expected));
    }

    fn evict(&mut self, share: u8) {
        let before = self.topic.memory().payloads;
        let wanted = before * usize::from(share) / 255 + 1;
        let freed = self.topic.evict(wanted);
        assert_eq!(before - self.topic.memory().payloads, freed);
        if freed < wanted {
            // What is left is in a chunk (here: a priority) whose latest event is not written.
            let log = self.topic.inside().0;
            for priority in log.priorities() {
                let kept = self.events.keys().filter(|key| key.priority == priority && log.get(**key).is_some());
                let kept: Vec<_> = kept.collect();
                let all_written = kept.iter().all(|key| self.places.contains_key(key));
                assert!(!all_written || kept.iter().all(|key| log.payload(**key).is_none()), "{priority:?} stays");
            }
        }
    }

    fn read(&mut self, damaged: bool) {
        if self.reads.is_empty() {
            return;
        }
        let (sub, keys) = self.reads.remove(0);
        if damaged {
            self.damaged.extend(keys.first().map(|(_, place)| *place));
        }
        let unreadable: Vec<_> = keys.iter().filter(|(_, place)| self.damaged.contains(place)).copied().collect();
        let payload = |key: &EventKey| self.events[key].payload.clone();
        let read = keys.iter().map(|(key, place)| {
            let payload = (!self.damaged.contains(place)).then(|| payload(key));
            (*key, *place, payload)
        });
        let read = read.collect();
        let lost = self.topic.loaded(Some(sub), read);
        self.loading.remove(&sub);
        assert!(lost <= unreadable.len());
        for (key, place) in unreadable {
            // One that was moved while it was read is read again where it is now.
            if self.places.get(&key) == Some(&place) {
                self.model.lose(key.seq.0);
            }
        }
    }

    /// The turn ends.
    fn commit(&mut self) {
        let mut mutations = Vec::new();
        self.topic.drain_changes(&mut mutations);
        // In slices, as the shard does it. Here the records are always in the batch of their turn.
        while self.topic.has_deliveries_to_record() {
            assert!(self.topic.record_deliveries(2, &mut mutations) <= 2);
        }
        self.model.record_deliveries(None);
        for mutation in mutations {
            match mutation {
                Mutation::Release { key, place, .. } => self.release(key, place),
                other => self.turn.push((other, None)),
            }
        }
        let records = std::mem::take(&mut self.turn).into_iter().map(|(mutation, instead_of)| {
            let is_event = matches!(mutation, Mutation::Publish(_) | Mutation::Rewrite { .. });
            self.next_place += u64::from(is_event);
            Record { mutation, place: Place(if is_event { self.next_place } else { 0 }), instead_of }
        });
        let records = records.collect();
        self.batches.push(records);
        self.after.push(self.model.clone());
    }

    fn release(&mut self, key: EventKey, place: Place) {
        assert!(self.copies.contains(&(key.seq.0, place)), "{key:?} is not at {place:?}");
        assert!(self.released.insert((key.seq.0, place)), "{key:?} was released twice");
        assert!(
            self.places.get(&key) != Some(&place) || !self.model.needs(key.seq.0),
            "{key:?} is released and still needed"
        );
    }

    fn write(&mut self, count: usize) {
        for _ in 0..count {
            let Some(batch) = self.batches.get(self.written) else { return };
            self.written += 1;
            for record in batch {
                if let Mutation::Publish(event) | Mutation::Rewrite { event, .. } = &record.mutation {
                    self.places.insert(event.key, record.place);
                    self.copies.insert((event.key.seq.0, record.place));
                    self.topic.set_place(event.key, record.place);
                }
                if let Mutation::Publish(event) = &record.mutation {
                    self.hidden.push_back(event.key.seq);
                }
            }
        }
    }

    fn show(&mut self, count: usize) {
        let count = count.min(self.hidden.len());
        if let Some(seq) = self.hidden.drain(..count).next_back() {
            assert!(self.topic.is_invisible(seq));
            self.topic.set_visible(seq);
            self.model.visible = seq.0;
        }
    }

    fn move_event(&mut self, at: u8, old_is_gone: bool) {
        let mut keys: Vec<EventKey> = self.places.keys().copied().collect();
        keys.sort_unstable();
        if keys.is_empty() {
            return;
        }
        let key = keys[usize::from(at) % keys.len()];
        let place = self.places[&key];
        if self.topic.is_moving(key) {
            // The storage has to wait until it has arrived.
            return;
        }
        assert_eq!(self.topic.holders(key, Place(u64::MAX)), None, "it is not there");
        let holders = self.topic.holders(key, place);
        if !self.model.needs(key.seq.0) || self.model.is_replaced(key.seq.0) {
            // No subscription holds it; one that is leaving may still be counted.
            return assert!(holders.is_none_or(|holders| holders.is_empty()));
        }
        let holders = holders.expect("the model needs it");
        let event = self.events[&key].clone();
        self.model.record_deliveries(Some(key.seq.0));
        let mut expected: Vec<(String, u32, Option<u64>, u64)> = Vec::new();
        for kept in self.model.kept() {
            let held = kept.held.iter().find(|(seq, ..)| *seq == key.seq.0);
            expected.extend(held.map(|(_, deliveries, due, grace)| {
                // When it is due by itself is stored with the event, and what is past says nothing.
                let own = event.due_at.map_or(0, |due| due.0);
                (kept.name.clone(), *deliveries, (*due > self.now.0 && *due != own).then_some(*due), *grace)
            }));
        }
        let mut got: Vec<(String, u32, Option<u64>, u64)> = Vec::new();
        for Holder { subscription, deliveries, due_at, grace_ms } in &holders {
            let due_at = due_at.filter(|due| *due > self.now && Some(*due) != event.due_at);
            got.push((subscription.as_str().to_owned(), *deliveries, due_at.map(|due| due.0), *grace_ms));
        }
        got.sort_unstable();
        expected.sort_unstable();
        // A delay that came to nothing, because the event was delivered since, is of no use any more.
        assert_eq!(got, expected);
        self.turn.push((Mutation::Rewrite { event, holders }, old_is_gone.then_some(place)));
    }

    pub(super) fn compare(&mut self) {
        let subs = self.subs.clone();
        if self.manner.looks {
            subs.iter().for_each(|(sub, in_model)| self.look(*sub, *in_model));
        }
        let stats = self.topic.stats(self.now);
        let summary = self.topic.summary();
        assert_eq!((summary.published, summary.subscriptions), (stats.published, subs.len()));
        assert_eq!(summary.waiting, stats.subscriptions.iter().map(|sub| sub.waiting).sum::<u64>());
        assert_eq!(summary.in_flight, stats.subscriptions.iter().map(|sub| sub.in_flight).sum::<u64>());
        let got = stats.subscriptions.iter().map(|sub| {
            let (delivered, acknowledged) = (sub.delivered, sub.acknowledged);
            let (redelivered, expired, dropped) = (sub.redelivered, sub.expired, sub.dropped);
            let dead_lettered = sub.dead_lettered;
            let counters = Counters { delivered, acknowledged, redelivered, expired, dropped, dead_lettered };
            let counts = (sub.waiting + sub.delayed, sub.in_flight, sub.connections, sub.oldest_ms);
            (sub.name.clone(), counts, format!("{counters:?}"))
        });
        let mut got: Vec<_> = got.collect();
        let mut expected: Vec<_> = subs
            .iter()
            .map(|(sub, in_model)| {
                let figures = self.model.figures(*in_model);
                let oldest = if figures.waiting + figures.in_flight > 0 { self.now.0 - figures.oldest } else { 0 };
                let counts = (figures.waiting, figures.in_flight, figures.connections, oldest);
                let name = self.topic.subscription_name(*sub).map(|name| name.as_str().to_owned());
                (name, counts, format!("{:?}", figures.counters))
            })
            .collect();
        got.sort_unstable();
        expected.sort_unstable();
        assert_eq!(got, expected);
        for attached in &self.attached {
            let flights = self.topic.in_flight_of(attached.sub, attached.consumer) as usize;
            assert_eq!(flights, self.model.in_flight_of(attached.in_model, attached.client.0));
        }
        let (log, inside) = self.topic.inside();
        for (sub, _) in &subs {
            inside[*sub].check(log);
        }
        self.compare_holds(&subs);
    }

    /// Compares, for each event, its holders, whether it is there, and the bytes of its payload in memory.
    fn compare_holds(&self, subs: &[(SubscriptionId, usize)]) {
        let (log, inside) = self.topic.inside();
        let (mut live, mut cached) = (0, 0);
        for key in self.events.keys() {
            let entry = log.get(*key);
            live += usize::from(entry.is_some());
            cached += log.payload(*key).map_or(0, cost);
            let withdrawn = entry.is_some_and(|entry| entry.withdrawn());
            let mut holders = 0;
            for (sub, in_model) in subs {
                let expected = self.model.hold(*in_model, key.seq.0);
                holders += u32::from(expected != Hold::None);
                if entry.is_none() || withdrawn && expected == Hold::None {
                    assert_eq!(expected, Hold::None, "{key:?} is gone");
                    continue;
                }
                let got = inside[*sub].hold(*key, self.ids[key]);
                assert_eq!(got, expected, "{key:?} in {sub:?}");
            }
            if let Some(entry) = entry {
                // Those who leave count until they have been drained.
                assert!(entry.holders >= holders && entry.holders > 0, "{key:?} has {} holders", entry.holders);
                assert!(!withdrawn || entry.holders == holders, "{key:?}, replaced, has {} holders", entry.holders);
            }
        }
        assert_eq!((log.live, self.topic.memory().payloads), (live, cached));
    }

    /// The run after a kill and a restart that lost the last `back` batches.
    pub(super) fn crash(mut self, back: usize, replay: Replay, keep: u8, policy: TopicPolicy) -> Self {
        self.commit();
        let cut = self.batches.len() - back % (self.batches.len() + 1);
        let mut model = cut.checked_sub(1).map_or_else(|| Model::new(self.policy.clone()), |at| self.after[at].clone());
        self.batches.truncate(cut);
        self.after.truncate(cut);
        self.written = cut;
        let records: Vec<Record> = self.batches.iter().flatten().cloned().collect();
        let stored: BTreeSet<EventKey> = records
            .iter()
            .filter_map(|record| match &record.mutation {
                Mutation::Publish(event) => Some(event.key),
                _ => None,
            })
            .collect();
        // What was not stored never was: its sequence is used again.
        self.events.retain(|key, _| stored.contains(key));
        self.ids.retain(|key, _| stored.contains(key));
        self.topic = Topic::new(TopicName::new("t").unwrap(), policy.clone());
        self.subs.clear();
        self.attached.clear();
        self.turn.clear();
        self.hidden.clear();
        self.places.clear();
        self.copies.clear();
        self.released.clear();
        self.reads.clear();
        self.loading.clear();
        self.sent.clear();
        self.policy = policy.clone();
        self.topic.restore_last_seq(Seq(model.last_seq));
        let records = match replay {
            Replay::Log => without_old_copies(records),
            Replay::Cleaned => cleaned(records),
            Replay::State => state(&model, &records),
        };
        for Record { mutation, place, .. } in records {
            self.replay(mutation, place, keep);
        }
        self.topic.finish_recovery();
        model.crash(policy);
        self.model = model;
        let released: Vec<_> = self.topic.take_released().collect();
        released.into_iter().for_each(|released| self.release(released.key, released.place));
        for kept in self.model.kept() {
            let name = SubscriptionName::new(&kept.name).unwrap();
            let sub = self.topic.find(&name).expect("it is durable");
            self.subs.push((sub, self.model.find(&kept.name).unwrap()));
        }
        for (sub, in_model) in self.subs.clone() {
            // Nobody consumes: only a review finds what has used up its deliveries.
            while self.topic.next_change(sub) == Some(Millis(0)) {
                self.topic.bury_exhausted(sub, 3, self.now);
            }
            self.model.bury_exhausted(in_model, self.now.0);
        }
        self.compare();
        self
    }

    fn replay(&mut self, mutation: Mutation, place: Place, keep: u8) {
        let topic = &mut self.topic;
        match mutation {
            Mutation::Subscribe { subscription, since, .. } => topic.restore_subscription(subscription, since),
            Mutation::Unsubscribe { subscription, .. } => topic.restore_unsubscribed(&subscription),
            Mutation::Publish(event) | Mutation::Rewrite { event, .. } if self.events[&event.key] != event => {
                panic!("{event:?} was changed");
            }
            Mutation::Publish(event) => {
                topic.restore_event(&event, self.ids[&event.key], place, None, keep >> (place.0 % 8) & 1 == 1);
                self.places.insert(event.key, place);
                self.copies.insert((event.key.seq.0, place));
            }
            Mutation::Rewrite { event, holders } => {
                let keep = keep >> (place.0 % 8) & 1 == 1;
                topic.restore_event(&event, self.ids[&event.key], place, Some(&holders), keep);
                self.places.insert(event.key, place);
                self.copies.insert((event.key.seq.0, place));
            }
            Mutation::Settle { subscription, events, .. } => {
                events.into_iter().for_each(|key| topic.restore_settled(&subscription, key));
            }
            Mutation::Redeliver { subscription, events, .. } => {
                events.into_iter().for_each(|redelivery| topic.restore_redelivery(&subscription, redelivery));
            }
            Mutation::Forget { events, .. } => events.into_iter().for_each(|key| topic.restore_forgotten(key)),
            Mutation::Topic { .. } | Mutation::Release { .. } | Mutation::Cursor { .. } => {}
        }
    }

    /// Everything that is left is delivered in the model's order and acknowledged; then nothing is left.
    pub(super) fn finish(mut self) {
        self.commit();
        self.write(usize::MAX);
        self.show(usize::MAX);
        for (sub, in_model) in self.subs.clone() {
            self.attach((sub, in_model), 2);
        }
        self.all_arrives();
        self.deliver_all();
        self.now = self.now.plus(1_000_000);
        self.all_arrives();
        for (sub, in_model) in self.subs.clone() {
            self.topic.take_back_overdue(sub, usize::MAX, self.now);
            self.model.take_back_overdue(in_model, self.now.0);
        }
        self.deliver_all();
        self.all_arrives();
        for (sub, in_model) in self.subs.clone() {
            assert_eq!(self.model.figures(in_model).waiting, 0);
            let remembered = self.topic.inside().1[sub].remembered();
            assert!(remembered <= 2 * self.events.len(), "{remembered} entries for nothing");
        }
        while let Some((sub, in_model)) = self.sub(0) {
            self.remove(sub, in_model);
        }
        while self.topic.settle_backlogs(2) {}
        self.commit();
        assert!(self.topic.is_idle());
        assert_eq!((self.topic.memory().payloads, self.topic.inside().0.remembered()), (0, 0));
        assert_eq!(self.released, self.copies, "each copy is released");
    }

    fn deliver_all(&mut self) {
        loop {
            let mut more = false;
            for attached in self.attached.clone() {
                let count = self.topic.acknowledge_all(attached.sub, attached.consumer);
                assert_eq!(count, self.model.acknowledge_all(attached.in_model, attached.client.0));
                self.topic.resume(attached.sub, attached.consumer);
                self.model.resume(attached.in_model, attached.client.0);
                while self.deliver(attached.sub, attached.in_model, u8::MAX) || !self.reads.is_empty() {
                    self.read(false);
                    more = true;
                }
                more |= count > 0;
            }
            more |= self.all_arrives();
            self.compare();
            if !more {
                return;
            }
        }
    }
}

/// The records without those of copies that were moved and are gone.
fn without_old_copies(records: Vec<Record>) -> Vec<Record> {
    let gone: BTreeSet<Place> = records.iter().filter_map(|record| record.instead_of).collect();
    let is_event = |mutation: &Mutation| matches!(mutation, Mutation::Publish(_) | Mutation::Rewrite { .. });
    records.into_iter().filter(|record| !(is_event(&record.mutation) && gone.contains(&record.place))).collect()
}

/// The same, and of what was moved also without what happened to it before.
fn cleaned(records: Vec<Record>) -> Vec<Record> {
    let mut moved = BTreeMap::new();
    for (at, record) in records.iter().enumerate() {
        if let Mutation::Rewrite { event, .. } = &record.mutation {
            moved.insert(event.key, at);
        }
    }
    let records = records.into_iter().enumerate().map(|(at, mut record)| {
        let stays = |key: &EventKey| moved.get(key).is_none_or(|moved| at >= *moved);
        match &mut record.mutation {
            Mutation::Settle { events, .. } => events.retain(stays),
            Mutation::Redeliver { events, .. } => events.retain(|redelivery| stays(&redelivery.key)),
            _ => {}
        }
        record
    });
    without_old_copies(records.collect())
}

/// The content of a storage that keeps state instead of a log.
fn state(model: &Model, records: &[Record]) -> Vec<Record> {
    let topic = TopicName::new("t").unwrap();
    let mut latest = BTreeMap::new();
    for record in records {
        if let Mutation::Publish(event) | Mutation::Rewrite { event, .. } = &record.mutation {
            latest.insert(event.key.seq, (event.clone(), record.place));
        }
    }
    let kept = model.kept();
    latest.retain(|seq, _| kept.iter().any(|kept| kept.held.iter().any(|(held, ..)| held == &seq.0)));
    let mut mutations = Vec::new();
    for sub in &kept {
        let subscription = SubscriptionName::new(&sub.name).unwrap();
        mutations.push((Mutation::Subscribe { topic: topic.clone(), subscription, since: Seq(sub.since) }, Place(0)));
    }
    for (event, place) in latest.values() {
        mutations.push((Mutation::Publish(event.clone()), *place));
    }
    for sub in &kept {
        let subscription = SubscriptionName::new(&sub.name).unwrap();
        let mut settled = Vec::new();
        let mut redeliveries = Vec::new();
        for (seq, (event, _)) in latest.range(Seq(sub.since + 1)..) {
            match sub.held.iter().find(|(held, ..)| *held == seq.0) {
                None => settled.push(event.key),
                Some((_, 0, ..)) => {}
                Some((_, deliveries, due, grace_ms)) => {
                    let due_at = (*due > 0).then_some(Millis(*due));
                    let (key, deliveries, grace_ms) = (event.key, *deliveries, *grace_ms);
                    redeliveries.push(Redelivery { key, deliveries, due_at, grace_ms });
                }
            }
        }
        let (topic, subscription) = (topic.clone(), subscription);
        mutations.push((
            Mutation::Settle { topic: topic.clone(), subscription: subscription.clone(), events: settled },
            Place(0),
        ));
        mutations.push((Mutation::Redeliver { topic, subscription, events: redeliveries }, Place(0)));
    }
    mutations.into_iter().map(|(mutation, place)| Record { mutation, place, instead_of: None }).collect()
}
