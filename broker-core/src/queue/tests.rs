//! The topic against a naive model of it, in random sequences of operations, with a crash at the end of each.

mod model;

use std::collections::{HashMap, HashSet};

use proptest::prelude::*;

use super::{Acknowledged, ClientId, ConsumerId, Next, SubscriptionId, Topic};
use crate::event::{EventKey, Millis, NewEvent, Payload, Priority, Seq};
use crate::name::{IdKey, SubscriptionName, TopicName};
use crate::policy::{DuplicateId, TopicPolicy};
use crate::storage::{Mutation, Place};
use model::{Model, Settled};

/// What happens to a topic. Numbers pick among what is there.
#[derive(Debug, Clone)]
enum Step {
    Publish {
        id: u8,
        priority: i32,
        delay_ms: u64,
    },
    Subscribe {
        name: Option<u8>,
        prefetch: u16,
    },
    Detach(u8),
    Remove(u8),
    /// Delivers to a subscription until it has no more.
    Deliver(u8),
    Acknowledge {
        at: u8,
        id: u8,
    },
    AcknowledgeAll(u8),
    Requeue {
        at: u8,
        id: u8,
        delay_ms: u64,
    },
    Touch {
        at: u8,
        id: u8,
    },
    /// Events up to one of the invisible ones become visible.
    Show(u8),
    Pass(u64),
    Evict,
    /// The storage moves an event; `true`: its old record is gone then.
    Move(u8, bool),
    Drain,
}

fn step() -> impl Strategy<Value = Step> {
    let id = 0..6_u8;
    prop_oneof![
        8 => (id.clone(), prop_oneof![0..3_i32, any::<i32>()], prop_oneof![4 => Just(0), 1 => 1..50_u64])
            .prop_map(|(id, priority, delay_ms)| Step::Publish { id, priority, delay_ms }),
        3 => (proptest::option::of(0..3_u8), 1..4_u16).prop_map(|(name, prefetch)| Step::Subscribe { name, prefetch }),
        1 => any::<u8>().prop_map(Step::Detach),
        1 => any::<u8>().prop_map(Step::Remove),
        6 => any::<u8>().prop_map(Step::Deliver),
        6 => (any::<u8>(), id.clone()).prop_map(|(at, id)| Step::Acknowledge { at, id }),
        1 => any::<u8>().prop_map(Step::AcknowledgeAll),
        3 => (any::<u8>(), id.clone(), prop_oneof![Just(0), 1..50_u64])
            .prop_map(|(at, id, delay_ms)| Step::Requeue { at, id, delay_ms }),
        1 => (any::<u8>(), id).prop_map(|(at, id)| Step::Touch { at, id }),
        6 => any::<u8>().prop_map(Step::Show),
        2 => (1..40_u64).prop_map(Step::Pass),
        1 => Just(Step::Evict),
        1 => (any::<u8>(), any::<bool>()).prop_map(|(at, gone)| Step::Move(at, gone)),
        1 => Just(Step::Drain),
    ]
}

fn policy() -> impl Strategy<Value = TopicPolicy> {
    let duplicate_id = prop_oneof![
        3 => Just(DuplicateId::Replace),
        1 => Just(DuplicateId::Reject),
        1 => Just(DuplicateId::Keep)
    ];
    (duplicate_id, prop_oneof![2 => Just(0), 1 => 10..60_u64], prop_oneof![3 => Just(0), 1 => 1..8_u64]).prop_map(
        |(duplicate_id, ack_timeout_ms, max_waiting)| TopicPolicy {
            duplicate_id,
            ack_timeout_ms,
            max_waiting,
            ..TopicPolicy::default()
        },
    )
}

/// A consumer, in the topic and in the model.
#[derive(Debug, Clone, Copy)]
struct Attached {
    sub: SubscriptionId,
    consumer: ConsumerId,
    client: ClientId,
    in_model: usize,
}

/// The topic, the model, and what a storage would have.
struct Run {
    topic: Topic,
    model: Model,
    policy: TopicPolicy,
    now: Millis,
    attached: Vec<Attached>,
    clients: u64,
    log: Vec<(Mutation, Place)>,
    payloads: HashMap<EventKey, Payload>,
    places: HashMap<EventKey, Place>,
    next_place: u64,
    released: HashSet<EventKey>,
    invisible: Vec<Seq>,
}

fn event(id: u8, priority: i32, delay_ms: u64, number: u64) -> NewEvent {
    let name = format!("id-{id}");
    let payload = Payload::encode("t", Priority(priority), &number.to_string(), &name);
    NewEvent { id: IdKey::of(&name), priority: Priority(priority), ttl_ms: 0, delay_ms, payload }
}

/// The number that was published as the message.
fn number(payload: &Payload) -> u64 {
    let json: serde_json::Value = serde_json::from_slice(payload.bytes()).unwrap();
    json["msg"].as_u64().unwrap()
}

impl Run {
    fn new(policy: TopicPolicy) -> Self {
        Self {
            topic: Topic::new(TopicName::new("t").unwrap(), policy.clone()),
            model: Model::new(policy.clone()),
            policy,
            now: Millis(1_000),
            attached: Vec::new(),
            clients: 0,
            log: Vec::new(),
            payloads: HashMap::new(),
            places: HashMap::new(),
            next_place: 0,
            released: HashSet::new(),
            invisible: Vec::new(),
        }
    }

    fn place(&mut self) -> Place {
        self.next_place += 1;
        Place(self.next_place)
    }

    fn pick(&self, at: u8) -> Option<Attached> {
        (!self.attached.is_empty()).then(|| self.attached[usize::from(at) % self.attached.len()])
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Publish { id, priority, delay_ms } => self.publish(id, priority, delay_ms),
            Step::Subscribe { name, prefetch } => self.subscribe(name, prefetch),
            Step::Detach(at) => {
                if let Some(attached) = self.pick(at) {
                    self.detach(attached);
                }
            }
            Step::Remove(at) => {
                if let Some(attached) = self.pick(at) {
                    self.remove(attached.sub, attached.in_model);
                }
            }
            Step::Deliver(at) => {
                if let Some(attached) = self.pick(at) {
                    while self.deliver(attached.sub, attached.in_model) {}
                }
            }
            Step::Acknowledge { at, id } => {
                if let Some(attached) = self.pick(at) {
                    let got = self.topic.acknowledge(attached.sub, attached.consumer, IdKey::of(&format!("id-{id}")));
                    let expected = match self.model.acknowledge(attached.in_model, attached.client.0, id) {
                        Settled::InFlight => Acknowledged::InFlight,
                        Settled::Waiting => Acknowledged::Waiting,
                        Settled::NotFound => Acknowledged::NotFound,
                    };
                    assert_eq!(got, expected);
                }
            }
            Step::AcknowledgeAll(at) => {
                if let Some(attached) = self.pick(at) {
                    let got = self.topic.acknowledge_all(attached.sub, attached.consumer);
                    assert_eq!(got, self.model.acknowledge_all(attached.in_model, attached.client.0));
                }
            }
            Step::Requeue { at, id, delay_ms } => {
                if let Some(attached) = self.pick(at) {
                    let key = IdKey::of(&format!("id-{id}"));
                    let got = self.topic.requeue(attached.sub, attached.consumer, key, delay_ms, self.now);
                    let due = if delay_ms > 0 { self.now.0 + delay_ms + 1 } else { 0 };
                    assert_eq!(got, self.model.requeue(attached.in_model, attached.client.0, id, due));
                }
            }
            Step::Touch { at, id } => {
                if let Some(attached) = self.pick(at) {
                    let key = IdKey::of(&format!("id-{id}"));
                    let got = self.topic.touch(attached.sub, attached.consumer, key, self.now);
                    assert_eq!(got, self.model.touch(attached.in_model, attached.client.0, id, self.now.0));
                }
            }
            Step::Show(at) => {
                if !self.invisible.is_empty() {
                    let count = usize::from(at) % self.invisible.len() + 1;
                    let seq = self.invisible.drain(..count).next_back().expect("at least one");
                    self.topic.set_visible(seq);
                    self.model.visible = seq.0;
                }
            }
            Step::Pass(ms) => {
                self.now = self.now.plus(ms);
                for attached in self.attached.clone() {
                    self.topic.take_back_overdue(attached.sub, self.now);
                    self.topic.promote(attached.sub, self.now);
                }
                self.model.pass(self.now.0);
            }
            Step::Evict => {
                self.topic.evict(usize::MAX);
            }
            Step::Move(at, old_is_gone) => self.move_event(at, old_is_gone),
            Step::Drain => while self.topic.drain_leaving(3) {},
        }
        self.store();
        self.compare();
    }

    fn publish(&mut self, id: u8, priority: i32, delay_ms: u64) {
        let number = self.model.published;
        let event = event(id, priority, delay_ms, number);
        let expected = self.model.publish(id, priority, self.now.0, delay_ms);
        match self.topic.publish(&event, self.now) {
            Err(refusal) => assert!(expected.is_err(), "{refusal}"),
            Ok(publication) => {
                let (stored, replaced) = expected.expect("the model takes it too");
                assert_eq!((publication.stored.is_some(), publication.replaced), (stored, replaced));
                let Some(stored) = publication.stored else { return };
                self.model.name_last(stored.key.seq.0);
                if !publication.replaces.is_empty() {
                    let topic = stored.topic.clone();
                    self.log.push((Mutation::Forget { topic, events: publication.replaces }, Place(0)));
                }
                let place = self.place();
                self.places.insert(stored.key, place);
                self.payloads.insert(stored.key, stored.payload.clone());
                self.invisible.push(stored.key.seq);
                let key = stored.key;
                self.log.push((Mutation::Publish(stored), place));
                self.topic.set_place(key, place);
            }
        }
    }

    fn subscribe(&mut self, name: Option<u8>, prefetch: u16) {
        let name = name.map(|name| SubscriptionName::new(&format!("s{name}")).unwrap());
        let found = name.as_ref().and_then(|name| self.topic.find(name));
        let sub = found.unwrap_or_else(|| {
            let (sub, mutation) = self.topic.subscribe(name.clone());
            self.log.extend(mutation.map(|mutation| (mutation, Place(0))));
            sub
        });
        let in_model = self.model.subscribe(name.as_ref().map(|name| name.as_str().to_owned()));
        self.clients += 1;
        let client = ClientId(self.clients);
        let consumer = self.topic.attach(sub, client, prefetch);
        self.model.attach(in_model, client.0, prefetch);
        self.attached.push(Attached { sub, consumer, client, in_model });
    }

    fn detach(&mut self, attached: Attached) {
        if self.topic.is_durable(attached.sub) {
            self.topic.detach(attached.sub, attached.consumer, self.now);
            self.model.detach(attached.in_model, attached.client.0);
            self.attached.retain(|other| other.client != attached.client);
        } else {
            self.remove(attached.sub, attached.in_model);
        }
    }

    fn remove(&mut self, sub: SubscriptionId, in_model: usize) {
        self.store();
        let (mut clients, mutation) = self.topic.remove(sub, self.now);
        self.log.extend(mutation.map(|mutation| (mutation, Place(0))));
        let mut expected: Vec<ClientId> =
            self.attached.iter().filter(|other| other.in_model == in_model).map(|other| other.client).collect();
        clients.sort_unstable();
        expected.sort_unstable();
        assert_eq!(clients, expected);
        self.model.remove(in_model);
        self.attached.retain(|other| other.in_model != in_model);
    }

    fn deliver(&mut self, sub: SubscriptionId, in_model: usize) -> bool {
        let expected = self.model.candidate(in_model, self.now.0);
        loop {
            match self.topic.next(sub, self.now, |_| true) {
                Next::Load(keys) => {
                    assert!(!keys.is_empty());
                    let read = keys.into_iter().map(|(key, place)| {
                        assert_eq!(self.places.get(&key), Some(&place));
                        (key, place, self.payloads.get(&key).cloned())
                    });
                    let read = read.collect();
                    assert_eq!(self.topic.loaded(Some(sub), read), 0);
                }
                Next::Nothing => {
                    assert!(expected.is_none() || !self.model.has_room(in_model), "{expected:?} was due");
                    return false;
                }
                Next::Delivery { client, payload, redelivered } => {
                    let (seq, deliveries) = expected.expect("the model has something too");
                    assert_eq!((number(&payload), redelivered), (self.model.number(seq), deliveries));
                    self.model.deliver(in_model, client.0, seq, self.now.0);
                    return true;
                }
            }
        }
    }

    fn move_event(&mut self, at: u8, old_is_gone: bool) {
        let mut keys: Vec<EventKey> = self.places.keys().copied().collect();
        keys.sort_unstable();
        if keys.is_empty() {
            return;
        }
        let key = keys[usize::from(at) % keys.len()];
        let old = self.places[&key];
        let Some(holders) = self.topic.holders(key, old) else { return };
        let is_old = |(mutation, place): &(Mutation, Place)| {
            *place == old && matches!(mutation, Mutation::Publish(_) | Mutation::Rewrite { .. })
        };
        let (record, _) = self.log.iter().find(|record| is_old(record)).cloned().expect("it was stored");
        let (Mutation::Publish(event) | Mutation::Rewrite { event, .. }) = record else { return };
        if old_is_gone {
            self.log.retain(|record| !is_old(record));
        }
        let place = self.place();
        self.log.push((Mutation::Rewrite { event, holders }, place));
        self.places.insert(key, place);
        self.topic.set_place(key, place);
    }

    /// Takes what the storage is to be told.
    fn store(&mut self) {
        let mut mutations = Vec::new();
        self.topic.drain_changes(&mut mutations);
        for mutation in mutations {
            match mutation {
                Mutation::Release { key, place, .. } => {
                    // The old place of one that was moved is released as well.
                    if self.places.get(&key) == Some(&place) {
                        assert!(self.released.insert(key), "{key:?} was released twice");
                        assert!(!self.model.needs(key.seq.0), "{key:?} is still needed");
                        self.places.remove(&key);
                    }
                }
                other => self.log.push((other, Place(0))),
            }
        }
    }

    fn compare(&mut self) {
        let stats = self.topic.stats(self.now);
        let (mut waiting, mut in_flight) = (0, 0);
        for sub in &stats.subscriptions {
            waiting += sub.waiting + sub.delayed;
            in_flight += sub.in_flight;
        }
        assert_eq!((waiting, in_flight), self.model.counts());
        for attached in self.attached.clone() {
            let expected = self.model.candidate(attached.in_model, self.now.0).is_some();
            assert_eq!(self.topic.is_deliverable(attached.sub, self.now), expected);
            let flights = self.topic.in_flight_of(attached.sub, attached.consumer) as usize;
            assert_eq!(flights, self.model.in_flight_of(attached.in_model, attached.client.0));
        }
    }

    /// What a broker finds that is started after this one was killed.
    fn crash(self) -> Self {
        let mut topic = Topic::new(TopicName::new("t").unwrap(), self.policy.clone());
        for (mutation, place) in &self.log {
            match mutation.clone() {
                Mutation::Subscribe { subscription, since, .. } => topic.restore_subscription(subscription, since),
                Mutation::Unsubscribe { subscription, .. } => topic.restore_unsubscribed(&subscription),
                Mutation::Publish(event) => {
                    let id = IdKey::of(&event.payload.id());
                    topic.restore_event(&event, id, *place, None, place.0 % 2 == 0);
                }
                Mutation::Rewrite { event, holders } => {
                    let id = IdKey::of(&event.payload.id());
                    topic.restore_event(&event, id, *place, Some(&holders), place.0 % 2 == 0);
                }
                Mutation::Settle { subscription, events, .. } => {
                    events.into_iter().for_each(|key| topic.restore_settled(&subscription, key));
                }
                Mutation::Requeue { subscription, events, .. } => {
                    events.into_iter().for_each(|requeued| topic.restore_requeued(&subscription, requeued));
                }
                Mutation::Forget { events, .. } => events.into_iter().for_each(|key| topic.restore_forgotten(key)),
                Mutation::Topic { .. } | Mutation::Release { .. } | Mutation::Cursor { .. } => {}
            }
        }
        topic.finish_recovery();
        let _what_is_not_needed = topic.take_released().count();
        let mut model = self.model;
        model.crash(topic.last_seq().0);
        Self { topic, model, attached: Vec::new(), invisible: Vec::new(), ..self }
    }

    /// Everything that is left is delivered in the model's order and acknowledged; then nothing is left.
    fn finish(mut self) {
        self.topic.set_visible(self.topic.last_seq());
        self.model.visible = u64::MAX;
        self.now = self.now.plus(1_000_000);
        for attached in self.attached.clone() {
            self.topic.take_back_overdue(attached.sub, self.now);
        }
        self.model.pass(self.now.0);
        for name in 0..3 {
            let name = SubscriptionName::new(&format!("s{name}")).unwrap();
            if self.topic.find(&name).is_some() {
                self.subscribe(Some(name.as_str()[1..].parse().unwrap()), 3);
            }
        }
        for attached in self.attached.clone() {
            loop {
                let count = self.topic.acknowledge_all(attached.sub, attached.consumer);
                assert_eq!(count, self.model.acknowledge_all(attached.in_model, attached.client.0));
                let mut delivered = false;
                while self.deliver(attached.sub, attached.in_model) {
                    delivered = true;
                }
                if count == 0 && !delivered {
                    break;
                }
            }
        }
        while let Some(attached) = self.pick(0) {
            self.remove(attached.sub, attached.in_model);
        }
        while self.topic.drain_leaving(2) {}
        self.store();
        assert!(self.topic.is_idle());
        assert_eq!(self.topic.cached(), 0);
        assert!(self.places.is_empty(), "never released: {:?}", self.places);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn a_topic_behaves_as_its_model(policy in policy(), steps in proptest::collection::vec(step(), 0..120)) {
        let mut run = Run::new(policy);
        steps.iter().for_each(|step| run.step(step));
        run.finish();
    }

    #[test]
    fn a_topic_that_was_killed_goes_on_as_its_model(
        policy in policy(),
        before in proptest::collection::vec(step(), 0..80),
        after in proptest::collection::vec(step(), 0..40),
    ) {
        let mut run = Run::new(policy);
        before.iter().for_each(|step| run.step(step));
        // A turn that is not finished is not in the log, so everything that is must be consistent.
        let mut run = run.crash();
        run.places = run.log_places();
        run.released.clear();
        run.compare();
        after.iter().for_each(|step| run.step(step));
        let mut run = run.crash();
        run.places = run.log_places();
        run.released.clear();
        run.compare();
        run.finish();
    }
}

impl Run {
    /// Where events are after a restart, for those that are still needed.
    fn log_places(&self) -> HashMap<EventKey, Place> {
        let mut places = HashMap::new();
        for (mutation, place) in &self.log {
            if let Mutation::Publish(event) | Mutation::Rewrite { event, .. } = mutation
                && self.model.needs(event.key.seq.0)
            {
                places.insert(event.key, *place);
            }
        }
        places
    }
}

#[test]
fn ten_thousand_subscriptions_at_different_positions_cost_an_event_once() {
    let mut topic = Topic::new(TopicName::new("t").unwrap(), TopicPolicy::default());
    let subs: Vec<_> = (0..10_000)
        .map(|n| {
            let (sub, _) = topic.subscribe(None);
            (sub, topic.attach(sub, ClientId(n), 1))
        })
        .collect();
    for n in 0..200 {
        let stored = topic.publish(&event((n % 250) as u8, n, 0, n as u64), Millis(0)).unwrap().stored.unwrap();
        topic.set_place(stored.key, Place(n as u64));
    }
    topic.set_visible(topic.last_seq());
    let before = topic.cached();
    for (at, (sub, consumer)) in subs.iter().enumerate() {
        for _ in 0..at % 200 {
            assert!(matches!(topic.next(*sub, Millis(0), |_| true), Next::Delivery { .. }));
            topic.acknowledge_all(*sub, *consumer);
        }
    }
    assert_eq!(topic.cached(), before, "payloads are there once");
    let mut mutations = Vec::new();
    topic.drain_changes(&mut mutations);
    assert!(mutations.is_empty(), "nobody has settled an event that others hold");
}
