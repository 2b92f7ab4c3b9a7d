//! A test client, which records its output, and short forms for its requests.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::memory::MemoryStorage;
use crate::engine::{Engine, Found, Link, LinkEvent, Op, Outcome, Request, Slot};
use crate::event::{NewEvent, Payload, Priority};
use crate::local::{EngineSettings, LocalEngine};
use crate::name::{IdKey, SubscriptionName, TopicName};

pub(super) fn topic(name: &str) -> TopicName {
    TopicName::new(name).expect("a good name")
}

pub(super) fn sub(name: &str) -> Option<SubscriptionName> {
    Some(SubscriptionName::new(name).expect("a good name"))
}

pub(super) fn event(topic: &str, id: &str, priority: i32) -> NewEvent {
    let payload = Payload::encode(topic, Priority(priority), "\"m\"", id);
    NewEvent { id: IdKey::of(id), priority: Priority(priority), ttl_ms: 0, delay_ms: 0, payload }
}

pub(super) async fn engine(storage: &Arc<MemoryStorage>, settings: EngineSettings) -> LocalEngine<MemoryStorage> {
    LocalEngine::open(Arc::clone(storage), settings).await.expect("it recovers").0
}

pub(super) fn settings() -> EngineSettings {
    EngineSettings { shards: 3, ..EngineSettings::default() }
}

/// One item of a client's output.
#[derive(Debug, PartialEq)]
pub(super) enum Seen {
    Outcome(Slot, Outcome),
    Delivery(String, u32),
    Removed(String),
}

pub(super) struct Client {
    pub(super) link: Link,
    pub(super) slot: Slot,
    pub(super) seen: VecDeque<Seen>,
}

impl Client {
    pub(super) fn new(engine: &dyn Engine) -> Self {
        Self { link: engine.connect("test".into()), slot: 0, seen: VecDeque::new() }
    }

    pub(super) async fn send(&mut self, ops: Vec<Op>) {
        let requests = ops.into_iter().map(|op| {
            self.slot += 1;
            Request { slot: self.slot, op }
        });
        let batch = requests.collect();
        self.link.requests.send(batch).await.expect("the engine is there");
    }

    pub(super) async fn publish(&mut self, topic_name: &str, id: &str, priority: i32, confirm: bool) {
        let op = Op::Publish { topic: topic(topic_name), event: event(topic_name, id, priority), confirm };
        self.send(vec![op]).await;
    }

    pub(super) async fn subscribe(&mut self, topic_name: &str, name: Option<&str>, prefetch: u16) {
        let name = name.and_then(sub);
        self.send(vec![Op::Subscribe { topic: topic(topic_name), name, prefetch }]).await;
        assert_eq!(self.next().await, Seen::Outcome(self.slot, Outcome::Subscribed));
    }

    pub(super) fn take(&mut self, event: LinkEvent) {
        match event {
            LinkEvent::Outcomes(outcomes) => {
                self.seen.extend(outcomes.into_iter().map(|(slot, outcome)| Seen::Outcome(slot, outcome)));
            }
            LinkEvent::Deliveries(deliveries) => {
                for delivery in deliveries {
                    let _the_engine_does_not_wait = self.link.gauge.written(delivery.cost());
                    self.seen.push_back(Seen::Delivery(delivery.payload.id().into_owned(), delivery.redelivered));
                }
            }
            LinkEvent::Removed { subscription, .. } => self.seen.push_back(Seen::Removed(subscription.to_string())),
        }
    }

    pub(super) async fn next(&mut self) -> Seen {
        while self.seen.is_empty() {
            let event = tokio::time::timeout(Duration::from_secs(10), self.link.events.recv()).await;
            let event = event.expect("something comes within 10 s").expect("the engine is there");
            event.into_iter().for_each(|event| self.take(event));
        }
        self.seen.pop_front().expect("not empty")
    }

    pub(super) async fn delivery(&mut self) -> (String, u32) {
        match self.next().await {
            Seen::Delivery(id, redelivered) => (id, redelivered),
            other => panic!("expected a delivery, got {other:?}"),
        }
    }

    /// Sends a request and checks that nothing arrives before its answer.
    pub(super) async fn nothing_comes(&mut self) {
        self.send(vec![Op::Topics]).await;
        let next = self.next().await;
        assert!(matches!(next, Seen::Outcome(slot, Outcome::Topics(_)) if slot == self.slot), "{next:?}");
    }
}

impl Client {
    /// The next outcome. Deliveries before it are kept.
    pub(super) async fn next_outcome(&mut self) -> Outcome {
        let mut kept = Vec::new();
        let outcome = loop {
            match self.next().await {
                Seen::Outcome(_, outcome) => break outcome,
                other => kept.push(other),
            }
        };
        kept.into_iter().rev().for_each(|seen| self.seen.push_front(seen));
        outcome
    }
}

pub(super) fn ack(topic_name: &str, ids: &[&str]) -> Op {
    Op::Ack { topic: topic(topic_name), ids: ids.iter().map(|id| IdKey::of(id)).collect() }
}

pub(super) fn acknowledged(found: &[bool], idle: bool) -> Outcome {
    let found = found.iter().map(|found| if *found { Found::Settled } else { Found::NotHeld }).collect();
    Outcome::Acknowledged { found, idle }
}
