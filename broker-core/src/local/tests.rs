//! The engine over a storage whose commits the tests control.

mod client;
mod delays;
mod letters;
mod limits;
mod memory;
mod recordings;
mod reopening;
mod rewrite;
mod sources;

use std::sync::Arc;
use std::time::Duration;

use super::EngineSettings;
use crate::engine::{Engine, LinkEvent, Op, Outcome, Refusal};
use crate::event::{NewEvent, Payload, Priority};
use crate::name::IdKey;
use crate::policy::{Policies, TopicPolicy};
use client::{Client, Seen, ack, acknowledged, engine, event, settings, sub, topic};
use memory::MemoryStorage;

#[tokio::test]
async fn events_are_delivered_by_priority_and_within_the_prefetch() {
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
                // The first event may have been delivered before the others were published.
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
async fn a_confirmation_and_a_delivery_wait_until_the_event_is_durable() {
    let storage = Arc::new(MemoryStorage::default());
    let engine = engine(&storage, settings()).await;
    let mut client = Client::new(&engine);
    client.subscribe("t", None, 1).await;
    storage.hold(false, true);
    client.publish("t", "a", 0, true).await;
    client.nothing_comes().await;
    storage.release();
    assert_eq!(client.next().await, Seen::Outcome(2, Outcome::Published { replaced: false }));
    assert_eq!(client.delivery().await, ("a".into(), 0));
}

#[tokio::test]
async fn an_acknowledgement_is_answered_once_it_is_written_and_not_before() {
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
    storage.release_written();
    assert_eq!(client.next().await, Seen::Outcome(4, acknowledged(&[true], false)));
    assert_eq!(client.delivery().await, ("b".into(), 0));
}

#[tokio::test]
async fn pipelined_requests_of_one_client_take_effect_in_order() {
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
async fn a_lost_connection_returns_its_events_and_a_kill_loses_only_delivery_counts() {
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
    // The disconnection races with the new subscription; after it, all events are available.
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
async fn consumers_of_one_subscription_share_its_events_and_cannot_settle_each_others() {
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

#[tokio::test(start_paused = true)]
async fn a_delay_and_a_time_out_end_without_a_request() {
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
async fn closing_returns_events_in_flight_once() {
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
