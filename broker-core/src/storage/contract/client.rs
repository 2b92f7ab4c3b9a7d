//! A client of an engine over the storage. It uses a link, as a session does.

use std::collections::VecDeque;
use std::sync::Arc;

use super::ContractBackend;
use super::bench::{PATIENCE, open_patiently, subscription, topic};
use crate::engine::{Delivery, Engine, Found, Link, LinkEvent, Op, Outcome, Request, Slot};
use crate::event::{NewEvent, Payload, Priority};
use crate::local::{EngineSettings, LocalEngine};
use crate::name::{IdKey, TopicName};

/// An event to publish.
#[must_use]
pub fn new_event(topic_name: &str, id: &str, priority: i32, bytes: usize) -> (TopicName, NewEvent) {
    let msg = format!("\"{}\"", "m".repeat(bytes));
    let payload = Payload::encode(topic_name, Priority(priority), &msg, id);
    let event = NewEvent { id: IdKey::of(id), priority: Priority(priority), ttl_ms: 0, delay_ms: 0, payload };
    (topic(topic_name), event)
}

/// Opens an engine over the storage in `dir`. Returns both.
pub async fn open_engine<B: ContractBackend>(
    dir: &std::path::Path,
    memory_budget_bytes: usize,
) -> (LocalEngine<B::Storage>, Arc<B::Storage>) {
    let storage = Arc::new(tokio::task::block_in_place(|| open_patiently::<B>(dir)));
    let settings = EngineSettings { shards: 2, memory_budget_bytes, ..EngineSettings::default() };
    let (engine, report) = LocalEngine::open(Arc::clone(&storage), settings).await.expect("it recovers");
    assert_eq!((report.damaged, report.torn_bytes), (0, 0), "nothing is damaged");
    (engine, storage)
}

/// Ends an engine without closing it, as far as one process can: waits until its tasks have released the storage, then drops
/// it.
pub async fn drop_engine<B: ContractBackend>(engine: LocalEngine<B::Storage>, mut storage: Arc<B::Storage>) {
    drop(engine);
    let released = async {
        loop {
            match Arc::try_unwrap(storage) {
                Ok(storage) => return tokio::task::block_in_place(|| drop(storage)),
                Err(shared) => storage = shared,
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, released).await.expect("the engine releases its storage");
}

/// A link, and the deliveries received on it.
pub struct Client {
    link: Link,
    slot: Slot,
    outcomes: VecDeque<(Slot, Outcome)>,
    deliveries: VecDeque<Delivery>,
}

impl Client {
    /// Connects to the engine.
    pub fn new(engine: &dyn Engine) -> Self {
        Self {
            link: engine.connect("contract".into()),
            slot: 0,
            outcomes: VecDeque::new(),
            deliveries: VecDeque::new(),
        }
    }

    /// Sends one request and returns its outcome. Deliveries that arrive before it are kept.
    pub async fn ask(&mut self, op: Op) -> Outcome {
        self.slot += 1;
        self.link.requests.send(vec![Request { slot: self.slot, op }]).await.expect("the engine is there");
        loop {
            if let Some((slot, outcome)) = self.outcomes.pop_front() {
                assert_eq!(slot, self.slot, "outcomes come in the order of the requests");
                return outcome;
            }
            self.take_event().await;
        }
    }

    /// Attaches to a durable subscription.
    pub async fn subscribe(&mut self, topic_name: &str, name: &str, prefetch: u16) {
        let op = Op::Subscribe { topic: topic(topic_name), name: Some(subscription(name)), prefetch };
        assert_eq!(self.ask(op).await, Outcome::Subscribed);
    }

    /// Acknowledges one event.
    pub async fn ack(&mut self, topic_name: &str, id: &str) {
        let outcome = self.ask(Op::Ack { topic: topic(topic_name), ids: vec![IdKey::of(id)] }).await;
        assert!(
            matches!(&outcome, Outcome::Acknowledged { found, .. } if found == &[Found::Settled]),
            "{id}: {outcome:?}"
        );
    }

    /// Acknowledges everything delivered, after waiting for at least one delivery. Returns the ids in the order of delivery.
    pub async fn drain_some(&mut self, topic_name: &str) -> Vec<String> {
        let first = self.delivery().await;
        let ids: Vec<_> = std::iter::once(first).chain(self.deliveries.drain(..)).map(id_of).collect();
        let keys = ids.iter().map(|id| IdKey::of(id)).collect();
        let outcome = self.ask(Op::Ack { topic: topic(topic_name), ids: keys }).await;
        let all = matches!(&outcome, Outcome::Acknowledged { found, .. } if found.iter().all(|found| *found == Found::Settled));
        assert!(all, "{outcome:?}");
        ids
    }

    /// The next delivery.
    pub async fn delivery(&mut self) -> Delivery {
        while self.deliveries.is_empty() {
            self.take_event().await;
        }
        self.deliveries.pop_front().expect("not empty")
    }

    /// The next delivery of a topic. Those of other topics are kept.
    pub async fn delivery_of(&mut self, topic_name: &str) -> Delivery {
        let start = format!("{{\"topic\":\"{topic_name}\"");
        loop {
            let at = self.deliveries.iter().position(|delivery| delivery.payload.bytes().starts_with(start.as_bytes()));
            if let Some(delivery) = at.and_then(|at| self.deliveries.remove(at)) {
                return delivery;
            }
            self.take_event().await;
        }
    }

    /// The numbers of events that wait in a subscription, delayed ones included, and that are in flight.
    pub async fn waiting(&mut self, topic_name: &str) -> (u64, u64) {
        match self.ask(Op::Stats(Some(topic(topic_name)))).await {
            Outcome::Stats(stats) => {
                let of = |s: &crate::engine::SubscriptionStats| (s.waiting + s.delayed, s.in_flight);
                stats.topics[0].subscriptions.iter().map(of).fold((0, 0), |sum, more| (sum.0 + more.0, sum.1 + more.1))
            }
            other => panic!("stats were asked for: {other:?}"),
        }
    }

    async fn take_event(&mut self) {
        let events = tokio::time::timeout(PATIENCE, self.link.events.recv()).await;
        for event in events.expect("something comes").expect("the engine is there") {
            match event {
                LinkEvent::Outcomes(outcomes) => self.outcomes.extend(outcomes),
                LinkEvent::Deliveries(deliveries) => {
                    let cost = deliveries.iter().map(Delivery::cost).sum();
                    if self.link.gauge.written(cost) {
                        let resume = vec![Request { slot: self.slot, op: Op::Resume }];
                        self.link.requests.send(resume).await.expect("the engine is there");
                    }
                    self.deliveries.extend(deliveries);
                }
                LinkEvent::Removed { .. } => panic!("no subscription is removed here"),
            }
        }
    }
}

/// A delivered event's id.
#[must_use]
pub fn id_of(delivery: Delivery) -> String {
    delivery.payload.id().into_owned()
}
