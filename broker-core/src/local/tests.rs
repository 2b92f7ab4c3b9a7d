//! The engine over a storage whose commits the tests control.

mod delays;
mod letters;
mod memory;
mod reopening;

use std::sync::Arc;
use std::time::Duration;

use memory::MemoryStorage;

use super::{EngineSettings, LocalEngine};
use crate::engine::{Cursor, Engine, Link, LinkEvent, Op, Outcome, Refusal, Request, Slot};
use crate::event::{NewEvent, Payload, Priority};
use crate::name::{IdKey, SubscriptionName, TopicName};
use crate::policy::{Policies, TopicPolicy};
use crate::storage::Mutation;

fn topic(name: &str) -> TopicName {
    TopicName::new(name).expect("a good name")
}

fn sub(name: &str) -> Option<SubscriptionName> {
    Some(SubscriptionName::new(name).expect("a good name"))
}

fn event(topic: &str, id: &str, priority: i32) -> NewEvent {
    let payload = Payload::encode(topic, Priority(priority), "\"m\"", id);
    NewEvent { id: IdKey::of(id), priority: Priority(priority), ttl_ms: 0, delay_ms: 0, payload }
}

async fn engine(storage: &Arc<MemoryStorage>, settings: EngineSettings) -> LocalEngine<MemoryStorage> {
    LocalEngine::open(Arc::clone(storage), settings).await.expect("it recovers").0
}

fn settings() -> EngineSettings {
    EngineSettings { shards: 3, ..EngineSettings::default() }
}

/// What a client of the tests has seen, in order.
#[derive(Debug, PartialEq)]
enum Seen {
    Outcome(Slot, Outcome),
    Delivery(String, u32),
    Removed(String),
}

struct Client {
    link: Link,
    slot: Slot,
    seen: std::collections::VecDeque<Seen>,
}

impl Client {
    fn new(engine: &dyn Engine) -> Self {
        Self { link: engine.connect("test".into()), slot: 0, seen: std::collections::VecDeque::new() }
    }

    async fn send(&mut self, ops: Vec<Op>) {
        let requests = ops.into_iter().map(|op| {
            self.slot += 1;
            Request { slot: self.slot, op }
        });
        let batch = requests.collect();
        self.link.requests.send(batch).await.expect("the engine is there");
    }

    async fn publish(&mut self, topic_name: &str, id: &str, priority: i32, confirm: bool) {
        let op = Op::Publish { topic: topic(topic_name), event: event(topic_name, id, priority), confirm };
        self.send(vec![op]).await;
    }

    async fn subscribe(&mut self, topic_name: &str, name: Option<&str>, prefetch: u16) {
        let name = name.and_then(sub);
        self.send(vec![Op::Subscribe { topic: topic(topic_name), name, prefetch }]).await;
        assert_eq!(self.next().await, Seen::Outcome(self.slot, Outcome::Subscribed));
    }

    fn take(&mut self, event: LinkEvent) {
        match event {
            LinkEvent::Outcomes(outcomes) => {
                self.seen.extend(outcomes.into_iter().map(|(slot, outcome)| Seen::Outcome(slot, outcome)));
            }
            LinkEvent::Deliveries(deliveries) => {
                for delivery in deliveries {
                    let _nobody_waits = self.link.gauge.written(delivery.cost());
                    self.seen.push_back(Seen::Delivery(delivery.payload.id().into_owned(), delivery.redelivered));
                }
            }
            LinkEvent::Removed { subscription, .. } => self.seen.push_back(Seen::Removed(subscription.to_string())),
        }
    }

    async fn next(&mut self) -> Seen {
        while self.seen.is_empty() {
            let event = tokio::time::timeout(Duration::from_secs(10), self.link.events.recv()).await;
            let event = event.expect("something comes within 10 s").expect("the engine is there");
            event.into_iter().for_each(|event| self.take(event));
        }
        self.seen.pop_front().expect("not empty")
    }

    async fn delivery(&mut self) -> (String, u32) {
        match self.next().await {
            Seen::Delivery(id, redelivered) => (id, redelivered),
            other => panic!("a delivery was due, not {other:?}"),
        }
    }

    /// Asks something and checks that nothing comes before the answer.
    async fn nothing_comes(&mut self) {
        self.send(vec![Op::Topics]).await;
        let next = self.next().await;
        assert!(matches!(next, Seen::Outcome(slot, Outcome::Topics(_)) if slot == self.slot), "{next:?}");
    }
}

fn ack(topic_name: &str, ids: &[&str]) -> Op {
    Op::Ack { topic: topic(topic_name), ids: ids.iter().map(|id| IdKey::of(id)).collect() }
}

fn acknowledged(found: &[bool], idle: bool) -> Outcome {
    Outcome::Acknowledged { found: found.to_vec(), idle }
}

#[tokio::test]
async fn events_come_by_urgency_and_one_at_a_time() {
    let engine = engine(&Arc::default(), settings()).await;
    let mut client = Client::new(&engine);
    client.subscribe("t", Some("s"), 1).await;
    for (id, priority) in [("a", 0), ("b", 5), ("c", 5), ("d", -1)] {
        client.publish("t", id, priority, false).await;
    }
    let mut order = Vec::new();
    let mut slots = Vec::new();
    while order.len() < 4 {
        match client.next().await {
            Seen::Delivery(id, 0) => {
                order.push(id.clone());
                // The first one may have gone out before the others were there.
                client.send(vec![ack("t", &[&id])]).await;
            }
            Seen::Outcome(slot, _) => slots.push(slot),
            other => panic!("{other:?}"),
        }
    }
    assert!(order[1..] == ["b", "c", "d"] || order == ["b", "c", "a", "d"], "{order:?}");
    assert!(slots.is_sorted(), "{slots:?}");
}

#[tokio::test]
async fn a_confirmation_and_a_delivery_wait_until_the_event_is_safe() {
    let storage = Arc::new(MemoryStorage::default());
    let engine = engine(&storage, settings()).await;
    let mut client = Client::new(&engine);
    client.subscribe("t", None, 1).await;
    storage.hold(false, true);
    client.publish("t", "a", 0, true).await;
    client.nothing_comes().await;
    storage.let_go();
    assert_eq!(client.next().await, Seen::Outcome(2, Outcome::Published { replaced: false }));
    assert_eq!(client.delivery().await, ("a".into(), 0));
}

#[tokio::test]
async fn an_acknowledgement_is_answered_when_it_is_written_and_not_before() {
    let storage = Arc::new(MemoryStorage::default());
    let engine = engine(&storage, settings()).await;
    let mut client = Client::new(&engine);
    client.subscribe("t", Some("s"), 1).await;
    client.publish("t", "a", 0, true).await;
    client.publish("t", "b", 0, true).await;
    for _ in 0..3 {
        client.next().await;
    }
    storage.hold(true, true);
    client.send(vec![ack("t", &["a"])]).await;
    let early = tokio::time::timeout(Duration::from_millis(50), client.next()).await;
    assert!(early.is_err(), "{early:?}");
    storage.let_written_go();
    assert_eq!(client.next().await, Seen::Outcome(4, acknowledged(&[true], false)));
    assert_eq!(client.delivery().await, ("b".into(), 0));
}

#[tokio::test]
async fn what_one_client_says_takes_effect_in_order_even_where_it_does_not_wait() {
    let engine = engine(&Arc::default(), settings()).await;
    let mut client = Client::new(&engine);
    let publish = |id: &str| Op::Publish { topic: topic("t"), event: event("t", id, 0), confirm: false };
    client
        .send(vec![
            Op::Subscribe { topic: topic("t"), name: None, prefetch: 1 },
            publish("a"),
            publish("b"),
            ack("t", &["a"]),
            Op::AckAll { topic: topic("t") },
            ack("t", &["b"]),
        ])
        .await;
    let mut seen = Vec::new();
    for _ in 0..8 {
        seen.push(client.next().await);
    }
    let published = || Outcome::Published { replaced: false };
    assert_eq!(
        seen,
        [
            Seen::Outcome(1, Outcome::Subscribed),
            Seen::Outcome(2, published()),
            Seen::Outcome(3, published()),
            Seen::Delivery("a".into(), 0),
            Seen::Outcome(4, acknowledged(&[true], false)),
            Seen::Delivery("b".into(), 0),
            Seen::Outcome(5, Outcome::AcknowledgedAll { count: 1, idle: true }),
            Seen::Outcome(6, acknowledged(&[false], false)),
        ]
    );
}

#[tokio::test]
async fn a_lost_connection_gives_back_what_it_had_and_a_kill_forgets_nothing_but_the_count() {
    let storage = Arc::new(MemoryStorage::default());
    let first = engine(&storage, settings()).await;
    let mut client = Client::new(&first);
    client.subscribe("t", Some("s"), 2).await;
    for id in ["a", "b", "c"] {
        client.publish("t", id, 0, false).await;
    }
    let mut deliveries = 0;
    while deliveries < 2 {
        deliveries += usize::from(matches!(client.next().await, Seen::Delivery(..)));
    }
    drop(client);
    let mut client = Client::new(&first);
    // The goodbye and the new subscription race; once it is through, everything is there.
    client.subscribe("t", Some("s"), 3).await;
    let mut came = [client.delivery().await, client.delivery().await, client.delivery().await];
    came.sort();
    assert_eq!(came, [("a".into(), 1), ("b".into(), 1), ("c".into(), 0)]);
    client.send(vec![ack("t", &["b"])]).await;
    let done = Seen::Outcome(client.slot, acknowledged(&[true], false));
    assert_eq!(client.next().await, done);

    let storage = Arc::new(storage.reopened());
    let second = engine(&storage, EngineSettings { shards: 2, ..settings() }).await;
    let mut client = Client::new(&second);
    client.subscribe("t", Some("s"), 3).await;
    assert_eq!(client.delivery().await, ("a".into(), 1));
    assert_eq!(client.delivery().await, ("c".into(), 0));
    client.nothing_comes().await;
}

#[tokio::test]
async fn connections_that_share_a_subscription_get_each_event_once_and_cannot_settle_each_others() {
    let engine = engine(&Arc::default(), settings()).await;
    let (mut one, mut two) = (Client::new(&engine), Client::new(&engine));
    one.subscribe("t", Some("s"), 1).await;
    two.subscribe("t", Some("s"), 1).await;
    let mut publisher = Client::new(&engine);
    publisher.publish("t", "a", 0, true).await;
    publisher.publish("t", "b", 0, true).await;
    let (a, b) = (one.delivery().await.0, two.delivery().await.0);
    assert_ne!(a, b);
    one.send(vec![ack("t", &[&b])]).await;
    assert_eq!(one.next().await, Seen::Outcome(one.slot, acknowledged(&[false], false)));
    one.send(vec![ack("t", &[&a])]).await;
    assert_eq!(one.next().await, Seen::Outcome(one.slot, acknowledged(&[true], true)));
    publisher.send(vec![Op::Unsubscribe { topic: topic("t"), name: sub("s") }]).await;
    assert_eq!(one.next().await, Seen::Removed("s".into()));
    assert_eq!(two.next().await, Seen::Removed("s".into()));
}

#[tokio::test]
async fn a_client_that_does_not_read_is_sent_no_more_than_its_gauge_allows() {
    let engine = engine(&Arc::default(), settings()).await;
    let mut client = Client::new(&engine);
    client.subscribe("t", Some("s"), u16::MAX).await;
    let mut publisher = Client::new(&engine);
    let big = "x".repeat(10_000);
    for n in 0..100 {
        let id = n.to_string();
        let payload = Payload::encode("t", Priority(0), &format!("\"{big}\""), &id);
        let event = NewEvent { id: IdKey::of(&id), priority: Priority(0), ttl_ms: 0, delay_ms: 0, payload };
        publisher.send(vec![Op::Publish { topic: topic("t"), event, confirm: true }]).await;
        publisher.next().await;
    }
    let mut got = 0;
    let mut cost = 0;
    while let Ok(events) = client.link.events.try_recv() {
        for event in events {
            if let LinkEvent::Deliveries(deliveries) = event {
                got += deliveries.len();
                cost += deliveries.iter().map(crate::engine::Delivery::cost).sum::<usize>();
            }
        }
    }
    assert_eq!(got, crate::engine::OUTPUT_LIMIT.div_ceil(cost / got), "the last one may go over the limit");
    assert!(client.link.gauge.written(cost), "the engine waits");
    client.send(vec![Op::Resume]).await;
    assert_eq!(client.delivery().await.0, got.to_string());
}

#[tokio::test]
async fn a_client_of_many_topics_is_served_them_in_turn_when_it_has_room_again() {
    const EACH: usize = 60;
    let engine = engine(&Arc::default(), EngineSettings { shards: 1, ..settings() }).await;
    let (mut client, mut publisher) = (Client::new(&engine), Client::new(&engine));
    let topics: Vec<String> = (0..5).map(|n| format!("t{n}")).collect();
    for name in &topics {
        client.subscribe(name, Some("s"), u16::MAX).await;
    }
    let big = format!("\"{}\"", "x".repeat(20_000));
    for name in &topics {
        for n in 0..EACH {
            let id = format!("{name}-{n}");
            let payload = Payload::encode(name, Priority(0), &big, &id);
            let event = NewEvent { id: IdKey::of(&id), priority: Priority(0), ttl_ms: 0, delay_ms: 0, payload };
            publisher.send(vec![Op::Publish { topic: topic(name), event, confirm: true }]).await;
            publisher.next().await;
        }
    }
    let mut got = [0; 5];
    while got.iter().sum::<usize>() < topics.len() * EACH {
        let events = tokio::time::timeout(Duration::from_secs(60), client.link.events.recv()).await;
        let mut cost = 0;
        for event in events.expect("more comes within 60 s").expect("the engine is there") {
            let LinkEvent::Deliveries(deliveries) = event else { continue };
            for delivery in deliveries {
                cost += delivery.cost();
                let at = topics.iter().position(|name| delivery.payload.id().starts_with(name.as_str()));
                got[at.expect("one of the topics")] += 1;
            }
        }
        let complete = got.contains(&EACH);
        assert!(!complete || got.iter().all(|count| *count > 0), "nobody waits for another to be done: {got:?}");
        if client.link.gauge.written(cost) {
            client.send(vec![Op::Resume]).await;
        }
    }
    assert_eq!(got, [EACH; 5]);
}

#[tokio::test]
async fn payloads_beyond_the_budget_are_read_back_in_order() {
    let storage = Arc::new(MemoryStorage::default());
    let tiny = EngineSettings { memory_budget_bytes: 600_000, shards: 1, ..EngineSettings::default() };
    let engine = engine(&storage, tiny).await;
    let mut client = Client::new(&engine);
    client
        .send(vec![Op::Subscribe { topic: topic("t"), name: sub("s"), prefetch: 1 }, Op::Detach { topic: topic("t") }])
        .await;
    client.next().await;
    client.next().await;
    let mut publisher = Client::new(&engine);
    for n in 0..3000 {
        publisher.publish("t", &format!("{n}"), n % 3, true).await;
    }
    for _ in 0..3000 {
        publisher.next().await;
    }
    client.subscribe("t", Some("s"), 100).await;
    let mut expected: Vec<i32> = (0..3000).collect();
    expected.sort_by_key(|n| (-(n % 3), *n));
    for n in expected {
        assert_eq!(client.delivery().await, (n.to_string(), 0));
        client.send(vec![ack("t", &[&n.to_string()])]).await;
        assert!(matches!(client.next_outcome().await, Outcome::Acknowledged { .. }));
    }
    assert!((4..=40).contains(&storage.reads()), "{} reads", storage.reads());
}

impl Client {
    /// The next outcome; deliveries that come before it are kept.
    async fn next_outcome(&mut self) -> Outcome {
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

#[tokio::test]
async fn a_batch_over_several_shards_is_one_with_its_cursor() {
    let storage = Arc::new(MemoryStorage::default());
    let first = engine(&storage, EngineSettings { shards: 8, ..EngineSettings::default() }).await;
    let names: Vec<String> = (0..20).map(|n| format!("t{n}")).collect();
    let mut client = Client::new(&first);
    for name in &names {
        client.subscribe(name, Some("s"), 1).await;
    }
    let events = names.iter().map(|name| (topic(name), event(name, "x", 0))).collect();
    let cursor = Cursor { source: "feed".into(), value: "17".into() };
    let outcomes = first.publish(events, Some(cursor)).await.expect("the storage works");
    assert_eq!(outcomes, vec![Outcome::Published { replaced: false }; 20]);
    let batch = storage.batches().into_iter().find(|batch| batch.iter().any(|m| matches!(m, Mutation::Cursor { .. })));
    let events = batch.expect("the cursor is stored").into_iter().filter(|m| matches!(m, Mutation::Publish(_))).count();
    assert_eq!(events, 20);
    for _ in 0..20 {
        client.delivery().await;
    }
    let second = engine(&Arc::new(storage.reopened()), settings()).await;
    assert_eq!(second.cursor("feed").await, Ok(Some("17".into())));
}

#[tokio::test]
async fn joint_batches_from_many_sources_at_once_do_not_wait_for_each_other() {
    let engine = Arc::new(engine(&Arc::default(), EngineSettings { shards: 4, ..EngineSettings::default() }).await);
    let publishers = (0..16).map(|source| {
        let engine = Arc::clone(&engine);
        tokio::spawn(async move {
            for n in 0..50 {
                let events = (0..8).map(|t| (topic(&format!("t{t}")), event(&format!("t{t}"), "x", 0))).collect();
                let cursor = Cursor { source: source.to_string(), value: n.to_string() };
                engine.publish(events, Some(cursor)).await.expect("the storage works");
            }
        })
    });
    let all = futures_util::future::join_all(publishers);
    for result in tokio::time::timeout(Duration::from_secs(30), all).await.expect("no deadlock") {
        result.expect("no panic");
    }
}

#[tokio::test]
async fn a_source_is_told_of_a_full_topic_before_its_cursor_moves() {
    let limit = TopicPolicy { max_waiting: 3, ..TopicPolicy::default() };
    let settings = EngineSettings { policies: Policies::new(vec![("*".into(), limit)]), ..settings() };
    let engine = engine(&Arc::default(), settings).await;
    let mut client = Client::new(&engine);
    client.subscribe("t", Some("s"), 1).await;
    let batch = |ids: &[&str]| ids.iter().map(|id| (topic("t"), event("t", id, 0))).collect::<Vec<_>>();
    let cursor = |value: &str| Some(Cursor { source: "feed".into(), value: value.into() });
    engine.publish(batch(&["a", "b"]), cursor("2")).await.expect("stored");
    let refused = engine.publish(batch(&["c", "d"]), cursor("4")).await.expect("answered");
    assert!(refused.iter().all(|outcome| matches!(outcome, Outcome::Refused(Refusal::Full { .. }))), "{refused:?}");
    assert_eq!(engine.cursor("feed").await, Ok(Some("2".into())));
    client.delivery().await;
    client.send(vec![ack("t", &["a"])]).await;
    client.next().await;
    engine.publish(batch(&["c", "d"]), cursor("4")).await.expect("stored");
    assert_eq!(engine.cursor("feed").await, Ok(Some("4".into())));
}

#[tokio::test]
async fn a_failed_storage_confirms_nothing_and_says_why() {
    let storage = Arc::new(MemoryStorage::default());
    let engine = engine(&storage, settings()).await;
    let mut client = Client::new(&engine);
    client.subscribe("t", Some("s"), 1).await;
    storage.fail();
    for confirm in [true, false] {
        client.publish("t", "a", 0, confirm).await;
        let refused = client.next().await;
        assert!(
            matches!(&refused, Seen::Outcome(_, Outcome::Refused(Refusal::Unavailable(why))) if why.0.contains("no space")),
            "{refused:?}"
        );
    }
    client.send(vec![ack("t", &["a"])]).await;
    let refused = client.next().await;
    assert!(matches!(refused, Seen::Outcome(_, Outcome::Refused(Refusal::Unavailable(_)))), "{refused:?}");
    let batch = vec![(topic("u"), event("u", "x", 0)), (topic("t"), event("t", "x", 0))];
    assert!(engine.publish(batch, None).await.is_err());
    client.nothing_comes().await;
    assert!(engine.health().unavailable.is_some());
}

#[tokio::test]
async fn what_the_storage_moves_is_committed_again_if_it_still_waits() {
    let storage = Arc::new(MemoryStorage::default());
    let first = engine(&storage, settings()).await;
    let mut client = Client::new(&first);
    client.subscribe("t", Some("s"), 1).await;
    for id in ["a", "b", "c"] {
        client.publish("t", id, 0, true).await;
    }
    for _ in 0..4 {
        client.next().await;
    }
    client.send(vec![ack("t", &["a"])]).await;
    client.next().await;
    client.delivery().await;
    client.send(vec![Op::Nack { topic: topic("t"), id: IdKey::of("b"), delay_ms: 60_000 }]).await;
    client.next().await;
    client.delivery().await;
    storage.janitor().rewrite(storage.events()).await.expect("moved");
    let moved: Vec<_> = storage
        .mutations()
        .into_iter()
        .filter_map(|mutation| match mutation {
            Mutation::Rewrite { event, holders } => Some((event.payload.id().into_owned(), holders)),
            _ => None,
        })
        .collect();
    assert_eq!(moved.iter().map(|(id, _)| id.as_str()).collect::<Vec<_>>(), ["b", "c"]);
    assert_eq!(moved[0].1[0].deliveries, 1);
    assert!(moved[0].1[0].due_at.is_some());
    // Moved once, they are not where they were: asking again for the old places moves nothing.
    let count = storage.mutations().len();
    let old = storage.events().into_iter().take(3).collect();
    storage.janitor().rewrite(old).await.expect("nothing to do");
    let rewrites = storage.mutations()[count..].iter().filter(|m| matches!(m, Mutation::Rewrite { .. })).count();
    assert_eq!(rewrites, 0);
    let second = engine(&Arc::new(storage.reopened()), settings()).await;
    let mut client = Client::new(&second);
    client.subscribe("t", Some("s"), 5).await;
    assert_eq!(client.delivery().await.0, "c");
    client.nothing_comes().await;
}

#[tokio::test(start_paused = true)]
async fn a_delay_and_a_time_out_end_by_themselves() {
    let timeout = TopicPolicy { ack_timeout_ms: 5_000, ..TopicPolicy::default() };
    let settings = EngineSettings { policies: Policies::new(vec![("*".into(), timeout)]), ..settings() };
    let engine = engine(&Arc::default(), settings).await;
    let mut client = Client::new(&engine);
    client.subscribe("t", Some("s"), 1).await;
    client.publish("t", "a", 0, true).await;
    client.next().await;
    assert_eq!(client.delivery().await, ("a".into(), 0));
    let start = tokio::time::Instant::now();
    assert_eq!(client.delivery().await, ("a".into(), 1));
    assert!(start.elapsed() >= Duration::from_millis(4_900), "{:?}", start.elapsed());
    client.send(vec![Op::Nack { topic: topic("t"), id: IdKey::of("a"), delay_ms: 3_000 }]).await;
    assert_eq!(client.next().await, Seen::Outcome(client.slot, Outcome::Settled { found: true }));
    let start = tokio::time::Instant::now();
    assert_eq!(client.delivery().await, ("a".into(), 2));
    assert!(start.elapsed() >= Duration::from_millis(2_900), "{:?}", start.elapsed());
}

#[tokio::test]
async fn closing_gives_back_what_is_in_flight_once() {
    let storage = Arc::new(MemoryStorage::default());
    let first = engine(&storage, settings()).await;
    let (mut one, mut two) = (Client::new(&first), Client::new(&first));
    one.subscribe("t", Some("s"), 1).await;
    two.subscribe("t", Some("s"), 1).await;
    one.publish("t", "a", 0, true).await;
    while !matches!(one.next().await, Seen::Outcome(_, Outcome::Published { .. })) {}
    first.close().await;
    let second = engine(&Arc::new(storage.reopened()), settings()).await;
    let mut client = Client::new(&second);
    client.subscribe("t", Some("s"), 1).await;
    assert_eq!(client.delivery().await, ("a".into(), 1));
}

#[tokio::test]
async fn topics_that_nobody_uses_make_room_for_new_ones() {
    let settings = EngineSettings { max_topics: 4, max_subscriptions: 2, ..settings() };
    let engine = engine(&Arc::default(), settings).await;
    let mut client = Client::new(&engine);
    client.subscribe("kept", Some("s"), 1).await;
    for n in 0..100 {
        client.publish(&format!("t{n}"), "a", 0, true).await;
        // Shards make room among their own topics only, so one that has none may refuse.
        let outcome = client.next_outcome().await;
        assert!(matches!(outcome, Outcome::Published { .. } | Outcome::Refused(Refusal::TooMany(_))), "{outcome:?}");
    }
    client.subscribe("kept2", None, 1).await;
    client.send(vec![Op::Subscribe { topic: topic("kept"), name: sub("other"), prefetch: 1 }]).await;
    let refused = client.next_outcome().await;
    assert!(matches!(refused, Outcome::Refused(_)), "{refused:?}");
}
