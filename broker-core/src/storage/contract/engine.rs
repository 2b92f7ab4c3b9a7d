//! Claims about a local engine over the storage, as its clients see it across restarts.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::ContractBackend;
use super::bench::topic;
use super::client::{Client, drop_engine, id_of, new_event, open_engine};
use crate::engine::{Cursor, Engine, Op, Outcome};
use crate::event::NewEvent;
use crate::name::{IdKey, TopicName};

/// A memory budget so large that no payload is read back.
const PLENTY: usize = 256 << 20;

async fn publish(engine: &dyn Engine, events: Vec<(TopicName, NewEvent)>) {
    let outcomes = engine.publish(events, None).await.expect("it is stored");
    assert!(outcomes.iter().all(|outcome| matches!(outcome, Outcome::Published { .. })), "{outcomes:?}");
}

/// The order of delivery of events with this many priorities: higher first, older first within one.
fn in_order(count: usize, priorities: usize) -> Vec<String> {
    let mut ids: Vec<_> = (0..count).collect();
    ids.sort_by_key(|number| (std::cmp::Reverse(number % priorities), *number));
    ids.into_iter().map(|number| format!("e{number}")).collect()
}

async fn publish_many(engine: &dyn Engine, count: usize, priorities: usize, bytes: usize) {
    let events: Vec<_> =
        (0..count).map(|number| new_event("t", &format!("e{number}"), (number % priorities) as i32, bytes)).collect();
    for part in events.chunks(250) {
        publish(engine, part.to_vec()).await;
    }
}

async fn drain(client: &mut Client, count: usize) -> Vec<String> {
    let mut ids = Vec::new();
    while ids.len() < count {
        ids.extend(client.drain_some("t").await);
    }
    ids
}

/// Every event in exact order, part of them before and part after a second restart.
pub async fn a_backlog_is_delivered_in_priority_order_after_a_restart<B: ContractBackend>() {
    const EVENTS: usize = 3_000;
    let dir = tempfile::tempdir().expect("a directory for the test");
    let (engine, storage) = open_engine::<B>(dir.path(), PLENTY).await;
    Client::new(&engine).subscribe("t", "s", 1).await;
    publish_many(&engine, EVENTS, 7, 100).await;
    drop_engine::<B>(engine, storage).await;

    let expected = in_order(EVENTS, 7);
    let (engine, _storage) = open_engine::<B>(dir.path(), PLENTY).await;
    let mut client = Client::new(&engine);
    // A prefetch of one, so that no redelivery disturbs the order.
    client.subscribe("t", "s", 1).await;
    assert_eq!(drain(&mut client, 100).await, expected[..100]);
    engine.close().await;
    drop((client, engine, _storage));

    let (engine, storage) = open_engine::<B>(dir.path(), PLENTY).await;
    let mut client = Client::new(&engine);
    client.subscribe("t", "s", 200).await;
    let rest = drain(&mut client, EVENTS - 100).await;
    assert!(rest == expected[100..], "the rest comes in order");
    assert_eq!(client.waiting("t").await, (0, 0));
    drop(client);
    drop_engine::<B>(engine, storage).await;
}

/// With 6 MB waiting and a budget of 64 KiB, payloads are read back in order, before and after a restart.
pub async fn a_backlog_beyond_the_memory_budget_is_read_back_in_order<B: ContractBackend>() {
    const EVENTS: usize = 6_000;
    let dir = tempfile::tempdir().expect("a directory for the test");
    let (engine, storage) = open_engine::<B>(dir.path(), 64 << 10).await;
    let mut client = Client::new(&engine);
    client.subscribe("t", "s", 1).await;
    drop(client);
    publish_many(&engine, EVENTS, 3, 1_000).await;
    let mut client = Client::new(&engine);
    client.subscribe("t", "s", 100).await;
    let expected = in_order(EVENTS, 3);
    let first = drain(&mut client, EVENTS / 2).await;
    assert!(first == expected[..first.len()], "the first half comes in order");
    drop(client);
    drop_engine::<B>(engine, storage).await;

    let (engine, storage) = open_engine::<B>(dir.path(), 64 << 10).await;
    let mut client = Client::new(&engine);
    client.subscribe("t", "s", 1).await;
    let left = EVENTS - first.len();
    let second = drain(&mut client, left).await;
    // Events in flight when the engine ended come first. With a prefetch of one the order is exact again.
    assert!(second == expected[first.len()..], "the second half comes in order");
    drop(client);
    drop_engine::<B>(engine, storage).await;
}

/// Every answered acknowledgement holds, after a stop of either kind.
pub async fn acknowledged_events_stay_away_after_a_restart<B: ContractBackend>() {
    let dir = tempfile::tempdir().expect("a directory for the test");
    let mut left: BTreeSet<String> = (0..60).map(|number| format!("e{number}")).collect();
    for round in 0..4_usize {
        let (engine, storage) = open_engine::<B>(dir.path(), PLENTY).await;
        let mut client = Client::new(&engine);
        client.subscribe("t", "s", 100).await;
        if round == 0 {
            let mut other = Client::new(&engine);
            other.subscribe("t", "other", 1).await;
            publish_many(&engine, 60, 1, 50).await;
        }
        let mut seen = BTreeSet::new();
        while seen.len() < left.len() {
            seen.insert(id_of(client.delivery().await));
        }
        assert_eq!(seen, left, "round {round}");
        // Out of order: every third.
        let acknowledged: Vec<_> = left.iter().skip(round % 3).step_by(3).cloned().collect();
        for id in acknowledged {
            client.ack("t", &id).await;
            left.remove(&id);
        }
        if round % 2 == 0 {
            drop(client);
            drop_engine::<B>(engine, storage).await;
        } else {
            engine.close().await;
        }
    }
    let (engine, storage) = open_engine::<B>(dir.path(), PLENTY).await;
    let mut client = Client::new(&engine);
    client.subscribe("t", "other", 100).await;
    for _ in 0..60 {
        client.delivery().await;
    }
    assert_eq!(client.waiting("t").await, (left.len() as u64, 60));
    drop(client);
    drop_engine::<B>(engine, storage).await;
}

/// A delivery count continues, a delay is neither lost nor shortened, and an event published with a delay keeps it.
pub async fn delivery_counts_and_delays_survive_restarts<B: ContractBackend>() {
    const HOUR_MS: u64 = 3_600_000;
    let dir = tempfile::tempdir().expect("a directory for the test");
    for round in 0..4_u32 {
        let (engine, storage) = open_engine::<B>(dir.path(), PLENTY).await;
        let mut client = Client::new(&engine);
        client.subscribe("t", "s", 10).await;
        if round == 0 {
            let mut later = new_event("t", "later", 9, 10);
            later.1.delay_ms = HOUR_MS;
            publish(&engine, vec![later, new_event("t", "put-off", 0, 10), new_event("t", "again", 0, 10)]).await;
            assert_eq!(id_of(client.delivery().await), "put-off");
            let nack = Op::Nack { topic: topic("t"), id: IdKey::of("put-off"), delay_ms: HOUR_MS };
            assert_eq!(client.ask(nack).await, Outcome::Settled { found: true });
        }
        let delivery = client.delivery().await;
        assert_eq!((delivery.redelivered, id_of(delivery)), (2 * round, "again".into()), "round {round}");
        let nack = Op::Nack { topic: topic("t"), id: IdKey::of("again"), delay_ms: 1 };
        assert_eq!(client.ask(nack).await, Outcome::Settled { found: true });
        let delivery = client.delivery().await;
        assert_eq!((delivery.redelivered, id_of(delivery)), (2 * round + 1, "again".into()), "round {round}");
        let nack = Op::Nack { topic: topic("t"), id: IdKey::of("again"), delay_ms: 300 };
        assert_eq!(client.ask(nack).await, Outcome::Settled { found: true });
        assert_eq!(client.waiting("t").await, (3, 0), "nothing else is due");
        drop_engine_and::<B>(client, engine, storage, round % 2 == 0).await;
    }
}

async fn drop_engine_and<B: ContractBackend>(
    client: Client,
    engine: crate::local::LocalEngine<B::Storage>,
    storage: Arc<B::Storage>,
    close: bool,
) {
    if close {
        engine.close().await;
    }
    drop(client);
    drop_engine::<B>(engine, storage).await;
}

/// Publishing an id again removes the older event permanently.
pub async fn a_replaced_event_does_not_come_back<B: ContractBackend>() {
    let dir = tempfile::tempdir().expect("a directory for the test");
    let (engine, storage) = open_engine::<B>(dir.path(), PLENTY).await;
    Client::new(&engine).subscribe("t", "s", 1).await;
    for (id, priority) in [("a", 0), ("b", 5), ("a", 3), ("b", 1), ("b", 2)] {
        publish(&engine, vec![new_event("t", id, priority, 10)]).await;
    }
    drop_engine::<B>(engine, storage).await;
    let (engine, storage) = open_engine::<B>(dir.path(), PLENTY).await;
    let mut client = Client::new(&engine);
    client.subscribe("t", "s", 10).await;
    assert_eq!(drain(&mut client, 2).await, ["a", "b"]);
    assert_eq!(client.waiting("t").await, (0, 0));
    drop(client);
    drop_engine::<B>(engine, storage).await;
}

/// One batch over several shards, across an unclean stop.
pub async fn a_sources_cursor_moves_with_its_events<B: ContractBackend>() {
    let dir = tempfile::tempdir().expect("a directory for the test");
    for round in 1..=4_u64 {
        let (engine, storage) = open_engine::<B>(dir.path(), PLENTY).await;
        let before = (round > 1).then(|| format!("token-{}", round - 1));
        assert_eq!(engine.cursor("feed").await.expect("it can tell"), before);
        if round == 1 {
            for name in ["a", "b", "c", "d"] {
                Client::new(&engine).subscribe(name, "s", 1).await;
            }
        }
        let events = ["a", "b", "c", "d"].map(|name| new_event(name, &format!("{name}{round}"), 0, 10));
        let cursor = Cursor { source: "feed".into(), value: format!("token-{round}") };
        engine.publish(events.to_vec(), Some(cursor)).await.expect("it is stored");
        drop_engine::<B>(engine, storage).await;
    }
    let (engine, storage) = open_engine::<B>(dir.path(), PLENTY).await;
    let mut client = Client::new(&engine);
    for name in ["a", "b", "c", "d"] {
        assert_eq!(client.waiting(name).await, (4, 0), "events of {name}");
    }
    drop(client);
    drop_engine::<B>(engine, storage).await;
}

/// Publishers and consumers run side by side on several topics, across a restart. Every event is delivered at least once, and
/// none after its acknowledgement.
pub async fn publishers_and_consumers_side_by_side_lose_nothing<B: ContractBackend>() {
    const TOPICS: usize = 4;
    const EVENTS: usize = 1_500;
    let dir = tempfile::tempdir().expect("a directory for the test");
    let (engine, storage) = open_engine::<B>(dir.path(), 256 << 10).await;
    let engine = Arc::new(engine);
    let mut publishers = Vec::new();
    let mut consumers = Vec::new();
    for number in 0..TOPICS {
        let name = format!("t{number}");
        let mut client = Client::new(&*engine);
        client.subscribe(&name, "s", 64).await;
        let (publishing, to) = (Arc::clone(&engine), name.clone());
        publishers.push(tokio::spawn(async move {
            let events: Vec<_> =
                (0..EVENTS).map(|event| new_event(&to, &format!("e{event}"), (event % 5) as i32, 300)).collect();
            for part in events.chunks(37) {
                publish(&*publishing, part.to_vec()).await;
            }
        }));
        consumers.push(tokio::spawn(async move {
            let mut done = BTreeSet::new();
            while done.len() < EVENTS / 3 {
                for id in client.drain_some(&name).await {
                    assert!(done.insert(id.clone()), "{id} came again after it was acknowledged");
                }
            }
            (name, done)
        }));
    }
    let mut acknowledged = BTreeMap::new();
    for consumer in consumers {
        let (name, done) = consumer.await.expect("the consumer ends");
        acknowledged.insert(name, done);
    }
    for publisher in publishers {
        publisher.await.expect("the publisher ends");
    }
    let engine = Arc::into_inner(engine).expect("the tasks have ended");
    drop_engine::<B>(engine, storage).await;

    let (engine, storage) = open_engine::<B>(dir.path(), 256 << 10).await;
    for (name, mut done) in acknowledged {
        let mut client = Client::new(&engine);
        client.subscribe(&name, "s", 64).await;
        while done.len() < EVENTS {
            for id in client.drain_some(&name).await {
                assert!(done.insert(id.clone()), "{id} of {name} came again after it was acknowledged");
            }
        }
        assert_eq!(client.waiting(&name).await, (0, 0), "{name} is drained");
    }
    drop_engine::<B>(engine, storage).await;
}
