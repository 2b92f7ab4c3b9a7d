//! A model of the engine: all state in maps under one lock, with mutations applied as the storage contract specifies.

use std::collections::{BTreeMap, HashMap};
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use backend_json_log::{JsonLogConfig, JsonLogStorage};
use broker_core::event::{EventKey, Millis, Payload, Priority, Seq};
use broker_core::name::{SubscriptionName, TopicName};
use broker_core::storage::*;

pub fn topic(name: &str) -> TopicName {
    TopicName::new(name).unwrap()
}

pub fn subscription(name: &str) -> SubscriptionName {
    SubscriptionName::new(name).unwrap()
}

/// An event whose payload depends only on the arguments.
pub fn event(of: &str, priority: i32, seq: u64, size: usize) -> StoredEvent {
    let msg = format!("\"{}\"", "x".repeat(size));
    StoredEvent {
        topic: topic(of),
        key: EventKey { priority: Priority(priority), seq: Seq(seq) },
        published_at: Millis(1_700_000_000_000 + seq),
        expires_at: seq.is_multiple_of(3).then_some(Millis(1_800_000_000_000)),
        due_at: seq.is_multiple_of(5).then_some(Millis(1_700_000_500_000)),
        payload: Payload::encode(of, Priority(priority), &msg, &format!("id-{seq}")),
    }
}

/// A subscription's hold on an event: deliveries, due time, time in flight.
type Hold = (u32, Option<Millis>, u64);

/// The state that must survive.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct State {
    pub topics: BTreeMap<TopicName, Seq>,
    pub subscriptions: BTreeMap<(TopicName, SubscriptionName), Seq>,
    pub events: BTreeMap<(TopicName, Seq), (StoredEvent, BTreeMap<SubscriptionName, Hold>)>,
    pub cursors: BTreeMap<String, String>,
}

impl State {
    fn used(&mut self, topic: &TopicName, seq: Seq) {
        let last = self.topics.entry(topic.clone()).or_default();
        *last = (*last).max(seq);
    }

    /// Applies a mutation and returns the keys of the events left without a holder.
    pub fn apply(&mut self, mutation: &Mutation) -> Vec<(TopicName, EventKey)> {
        let mut dead = Vec::new();
        match mutation.clone() {
            Mutation::Topic { topic, last_seq } => self.used(&topic, last_seq),
            Mutation::Subscribe { topic, subscription, since } => {
                self.used(&topic, since);
                self.subscriptions.insert((topic, subscription), since);
            }
            Mutation::Unsubscribe { topic, subscription } => {
                self.subscriptions.remove(&(topic.clone(), subscription.clone()));
                let keys: Vec<_> = self.events.values().filter(|(e, _)| e.topic == topic).map(|(e, _)| e.key).collect();
                for key in keys {
                    self.settle(&topic, &subscription, key, &mut dead);
                }
            }
            Mutation::Publish(event) => {
                self.used(&event.topic, event.key.seq);
                let holds = self
                    .subscriptions
                    .iter()
                    .filter(|((topic, _), since)| *topic == event.topic && **since < event.key.seq)
                    .map(|((_, subscription), _)| (subscription.clone(), (0, None, 0)));
                let holds: BTreeMap<_, _> = holds.collect();
                if holds.is_empty() {
                    dead.push((event.topic, event.key));
                } else {
                    self.events.insert((event.topic.clone(), event.key.seq), (event, holds));
                }
            }
            Mutation::Rewrite { event, holders } => {
                self.used(&event.topic, event.key.seq);
                let hold = |h: Holder| (h.subscription, (h.deliveries, h.due_at, h.grace_ms));
                let holds = holders.into_iter().map(hold).collect();
                self.events.insert((event.topic.clone(), event.key.seq), (event, holds));
            }
            Mutation::Settle { topic, subscription, events } => {
                for key in events {
                    self.settle(&topic, &subscription, key, &mut dead);
                }
            }
            Mutation::Redeliver { topic, subscription, events } => {
                for Redelivery { key, deliveries, due_at, grace_ms } in events {
                    if let Some((_, holds)) = self.events.get_mut(&(topic.clone(), key.seq))
                        && let Some(hold) = holds.get_mut(&subscription)
                    {
                        *hold = (deliveries, due_at, grace_ms);
                    }
                }
            }
            Mutation::Forget { topic, events } => {
                for key in events {
                    if self.events.remove(&(topic.clone(), key.seq)).is_some() {
                        dead.push((topic.clone(), key));
                    }
                }
            }
            Mutation::Release { .. } => {}
            Mutation::Cursor { source, value } => {
                self.cursors.insert(source, value);
            }
        }
        dead
    }

    fn settle(
        &mut self,
        topic: &TopicName,
        subscription: &SubscriptionName,
        key: EventKey,
        dead: &mut Vec<(TopicName, EventKey)>,
    ) {
        let at = (topic.clone(), key.seq);
        if let Some((_, holds)) = self.events.get_mut(&at) {
            holds.remove(subscription);
            if holds.is_empty() {
                self.events.remove(&at);
                dead.push((topic.clone(), key));
            }
        }
    }
}

/// The result of recovery: the state, the places of events, and the places that are not live.
#[derive(Debug, Default)]
pub struct Replayed {
    pub state: State,
    pub places: HashMap<(TopicName, Seq), Place>,
    releases: Vec<Mutation>,
    pub mutations: Vec<Mutation>,
}

impl Replayed {
    fn bury(&mut self, dead: Vec<(TopicName, EventKey)>) {
        for (topic, key) in dead {
            if let Some(place) = self.places.remove(&(topic.clone(), key.seq)) {
                self.releases.push(Mutation::Release { topic, key, place });
            }
        }
    }
}

impl Recovery for Replayed {
    fn replay(&mut self, mutation: Mutation, place: Place) -> Result<(), StorageError> {
        if let Mutation::Publish(event) | Mutation::Rewrite { event, .. } = &mutation {
            let at = (event.topic.clone(), event.key.seq);
            if let Some(older) = self.places.insert(at, place) {
                self.releases.push(Mutation::Release { topic: event.topic.clone(), key: event.key, place: older });
            }
        }
        let dead = self.state.apply(&mutation);
        self.bury(dead);
        self.mutations.push(mutation);
        Ok(())
    }
}

struct Inner {
    state: State,
    places: HashMap<(TopicName, Seq), Place>,
    /// The releases to submit with the next batch.
    releases: Vec<Mutation>,
    /// The state after each batch that was submitted.
    history: Vec<State>,
}

impl Inner {
    /// Applies mutations to the state and appends the resulting releases.
    fn apply(&mut self, mut mutations: Vec<Mutation>) -> Batch {
        for n in 0..mutations.len() {
            for (topic, key) in self.state.apply(&mutations[n]) {
                // An event whose place is still unknown is released once it is known.
                if let Some(place) = self.places.remove(&(topic.clone(), key.seq)) {
                    mutations.push(Mutation::Release { topic, key, place });
                }
            }
        }
        mutations.append(&mut self.releases);
        Batch { mutations }
    }

    fn note(&mut self, keys: Vec<(TopicName, EventKey)>, places: Vec<Place>) {
        assert_eq!(keys.len(), places.len(), "a place for each event");
        for ((topic, key), place) in keys.into_iter().zip(places) {
            let at = (topic.clone(), key.seq);
            if self.state.events.contains_key(&at) {
                self.places.insert(at, place);
            } else {
                self.releases.push(Mutation::Release { topic, key, place });
            }
        }
    }
}

/// The engine.
#[derive(Clone)]
pub struct Engine {
    pub storage: Arc<JsonLogStorage>,
    inner: Arc<Mutex<Inner>>,
    pub report: RecoveryReport,
}

fn keys_of(batch: &Batch) -> Vec<(TopicName, EventKey)> {
    let key = |mutation: &Mutation| match mutation {
        Mutation::Publish(event) | Mutation::Rewrite { event, .. } => Some((event.topic.clone(), event.key)),
        _ => None,
    };
    batch.mutations.iter().filter_map(key).collect()
}

impl Engine {
    pub fn open(config: JsonLogConfig) -> Result<Self, StorageError> {
        Self::over(JsonLogStorage::open(config)?)
    }

    pub fn over(storage: JsonLogStorage) -> Result<Self, StorageError> {
        let mut replayed = Replayed::default();
        let report = storage.recover(&mut replayed)?;
        let Replayed { state, places, releases, .. } = replayed;
        let inner = Inner { history: vec![state.clone()], state, places, releases };
        let engine = Self { storage: Arc::new(storage), inner: Arc::new(Mutex::new(inner)), report };
        engine.storage.start(Arc::new(Mover(Arc::downgrade(&engine.storage), engine.inner.clone())));
        Ok(engine)
    }

    pub fn state(&self) -> State {
        self.inner.lock().unwrap().state.clone()
    }

    /// The state after each batch, beginning with the recovered state.
    pub fn history(&self) -> Vec<State> {
        self.inner.lock().unwrap().history.clone()
    }

    /// Submits a batch with the resulting releases, and waits until it is written.
    pub fn submit(&self, mutations: Vec<Mutation>) -> Result<Stage<()>, StorageError> {
        let (keys, commit) = {
            let mut inner = self.inner.lock().unwrap();
            let batch = inner.apply(mutations);
            let state = inner.state.clone();
            inner.history.push(state);
            (keys_of(&batch), self.storage.submit(batch))
        };
        let places = super::block_on(commit.written)?;
        self.inner.lock().unwrap().note(keys, places);
        Ok(commit.durable)
    }

    /// Submits a batch and waits until it is durable.
    pub fn commit(&self, mutations: Vec<Mutation>) -> Result<(), StorageError> {
        let durable = self.submit(mutations)?;
        super::block_on(durable)
    }

    /// Reads every waiting event and compares it with the published one.
    pub fn check_payloads(&self) {
        let mut keys = Vec::new();
        let mut expected = Vec::new();
        {
            let inner = self.inner.lock().unwrap();
            for ((topic, seq), (event, _)) in &inner.state.events {
                let place = inner.places[&(topic.clone(), *seq)];
                keys.push(ReadKey { topic: topic.clone(), key: event.key, place });
                expected.push(Some(event.payload.clone()));
            }
        }
        let got = super::block_on(self.storage.read(keys)).unwrap();
        assert_eq!(got, expected);
    }

    pub fn place(&self, of: &str, seq: u64) -> Place {
        self.inner.lock().unwrap().places[&(topic(of), Seq(seq))]
    }

    pub fn close(&self) -> Result<(), StorageError> {
        super::block_on(self.storage.close())
    }
}

/// Moves events as the engine's shards would.
struct Mover(std::sync::Weak<JsonLogStorage>, Arc<Mutex<Inner>>);

impl Janitor for Mover {
    fn rewrite(
        &self,
        events: Vec<(StoredEvent, Place)>,
    ) -> Pin<Box<dyn Future<Output = Result<(), StorageError>> + Send + 'static>> {
        let Some(storage) = self.0.upgrade() else { return Box::pin(async { Err(StorageError::closed()) }) };
        let shared = self.1.clone();
        let (keys, commit) = {
            let mut inner = shared.lock().unwrap();
            let mut mutations = Vec::new();
            for (event, place) in events {
                let at = (event.topic.clone(), event.key.seq);
                if inner.places.get(&at) != Some(&place) {
                    continue;
                }
                let Some((_, holds)) = inner.state.events.get(&at) else { continue };
                let holder = |(subscription, (deliveries, due_at, grace_ms)): (&SubscriptionName, &Hold)| Holder {
                    subscription: subscription.clone(),
                    deliveries: *deliveries,
                    due_at: *due_at,
                    grace_ms: *grace_ms,
                };
                mutations.push(Mutation::Rewrite { holders: holds.iter().map(holder).collect(), event });
            }
            let batch = inner.apply(mutations);
            (keys_of(&batch), storage.submit(batch))
        };
        Box::pin(async move {
            let places = commit.written.await?;
            shared.lock().unwrap().note(keys, places);
            commit.durable.await
        })
    }
}
