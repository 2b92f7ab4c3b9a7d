//! Dead letters between shards: atomic batches, and rewrites that wait for them.

use std::sync::Arc;

use super::memory::MemoryStorage;
use super::{Client, Seen, engine, event, settings, topic};
use crate::engine::{Engine, Op, Outcome};
use crate::letter::Reason;
use crate::name::{IdKey, SubscriptionName};
use crate::policy::{Policies, TopicPolicy};
use crate::storage::{Janitor, Mutation, Place, StoredEvent};

fn terminate(name: &str, id: &str) -> Op {
    Op::Terminate { topic: topic(name), id: IdKey::of(id), note: Some("why".into()) }
}

/// The batches that concern dead letters, with the number of letters published, settlements and removals in each.
fn batches(storage: &MemoryStorage) -> Vec<(usize, usize, usize)> {
    let of = |batch: Vec<Mutation>| {
        let letters = batch.iter().filter(|m| matches!(m, Mutation::Publish(e) if e.topic.as_str().ends_with(".dead")));
        let settled = batch.iter().filter(|m| matches!(m, Mutation::Settle { .. }));
        let forgotten = batch.iter().filter(|m| matches!(m, Mutation::Forget { .. }));
        (letters.count(), settled.count(), forgotten.count())
    };
    storage.batches().into_iter().map(of).filter(|counts| *counts != (0, 0, 0)).collect()
}

#[tokio::test]
async fn a_letter_and_its_settlement_are_one_batch_whichever_shards_own_the_topics() {
    // Some of these topics share a shard with their dead letters, most do not.
    for name in ["a", "b", "c", "d", "e", "f"] {
        let storage = Arc::new(MemoryStorage::default());
        let first = engine(&storage, settings()).await;
        let mut client = Client::new(&first);
        client.subscribe(name, Some("s"), 1).await;
        client.publish(name, "x", 0, false).await;
        assert_eq!(client.next().await, Seen::Outcome(client.slot, Outcome::Published { replaced: false }));
        client.delivery().await;
        client.send(vec![terminate(name, "x")]).await;
        assert_eq!(client.next().await, Seen::Outcome(client.slot, Outcome::Settled { found: true }));
        assert_eq!(batches(&storage), [(1, 1, 0)]);
        // A kill after the answer changes nothing, and the way back takes one batch as well.
        let second = engine(&Arc::new(storage.reopened()), settings()).await;
        let mut client = Client::new(&second);
        client.subscribe(name, Some("s"), 1).await;
        client.nothing_comes().await;
        client.send(vec![Op::Redrive { topic: topic(name), most: None }]).await;
        assert_eq!(client.next_outcome().await, Outcome::Redriven(1));
        assert_eq!(client.delivery().await, ("x".into(), 0));
        drop((first, second));
    }
}

#[tokio::test]
async fn a_redriven_event_and_the_removal_of_its_letter_are_one_batch() {
    let storage = Arc::new(MemoryStorage::default());
    let engine = engine(&storage, settings()).await;
    let mut client = Client::new(&engine);
    client.subscribe("t", Some("s"), 1).await;
    client.publish("t", "x", 0, false).await;
    assert_eq!(client.next().await, Seen::Outcome(client.slot, Outcome::Published { replaced: false }));
    client.delivery().await;
    client.send(vec![terminate("t", "x")]).await;
    client.next().await;
    client.send(vec![Op::Redrive { topic: topic("t"), most: Some(5) }]).await;
    assert_eq!(client.next_outcome().await, Outcome::Redriven(1));
    let batch = storage.batches().into_iter().find(|b| b.iter().any(|m| matches!(m, Mutation::Forget { .. })));
    let published =
        batch.expect("the letter is removed").into_iter().filter(|m| matches!(m, Mutation::Publish(_))).count();
    assert_eq!(published, 1);
}

#[tokio::test]
async fn an_event_on_its_way_to_another_shard_is_not_rewritten_until_it_has_arrived() {
    let storage = Arc::new(MemoryStorage::default());
    let policy = TopicPolicy { max_deliveries: 1, ..TopicPolicy::default() };
    let settings = super::EngineSettings { policies: Policies::new(vec![("t".into(), policy)]), ..settings() };
    let engine = engine(&storage, settings).await;
    let mut client = Client::new(&engine);
    client.subscribe("t", Some("s"), 1).await;
    client.publish("t", "x", 0, false).await;
    client.next().await;
    client.delivery().await;
    let events: Vec<(StoredEvent, Place)> = storage.events();
    storage.hold(true, true);
    client.send(vec![terminate("t", "x")]).await;
    // The storage has the other shard's batch before it asks to move the event.
    while batches(&storage).is_empty() {
        tokio::task::yield_now().await;
    }
    let janitor: Arc<dyn Janitor> = storage.janitor();
    let rewrite = tokio::spawn(janitor.rewrite(events));
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    let moved = |storage: &MemoryStorage| storage.mutations().iter().any(|m| matches!(m, Mutation::Rewrite { .. }));
    assert!(!moved(&storage), "the rewrite would give the event back to the subscription that it has left");
    storage.release();
    assert_eq!(client.next().await, Seen::Outcome(client.slot, Outcome::Settled { found: true }));
    rewrite.await.expect("no panic").expect("nothing is left to move");
    assert!(!moved(&storage));
}

#[tokio::test]
async fn the_payload_of_a_letter_is_read_back_if_it_is_not_in_memory() {
    let storage = Arc::new(MemoryStorage::default());
    let policy = TopicPolicy { max_deliveries: 1, ..TopicPolicy::default() };
    let policies = Policies::new(vec![("t".into(), policy)]);
    let settings = super::EngineSettings { policies, memory_budget_bytes: 0, ..settings() };
    let engine = engine(&storage, settings).await;
    let mut client = Client::new(&engine);
    client.subscribe("t", Some("s"), 50).await;
    for n in 0..50 {
        client.publish("t", &n.to_string(), 0, false).await;
    }
    let mut delivered = 0;
    while delivered < 50 {
        delivered += usize::from(matches!(client.next().await, Seen::Delivery(..)));
    }
    client.send(vec![Op::Detach { topic: topic("t") }]).await;
    client.next_outcome().await;
    let name = SubscriptionName::new("dead").ok();
    let peek = || Op::Peek { topic: topic("t.dead"), subscription: name.clone(), most: 100, after: None };
    let letters = loop {
        client.send(vec![peek()]).await;
        match client.next_outcome().await {
            Outcome::Peeked { deliveries: letters, .. } if letters.len() == 50 => break letters,
            _ => tokio::task::yield_now().await,
        }
    };
    for (n, letter) in letters.iter().enumerate() {
        assert_eq!(letter.payload.id(), n.to_string());
        let text = String::from_utf8(letter.payload.bytes().to_vec()).expect("it is JSON");
        assert!(
            text.contains(&format!("\"reason\":\"{}\",\"deliveries\":1", Reason::MaxDeliveries.as_str())),
            "{text}"
        );
    }
}

#[tokio::test]
async fn terminate_is_refused_when_the_storage_has_failed() {
    let storage = Arc::new(MemoryStorage::default());
    let engine = engine(&storage, settings()).await;
    let mut client = Client::new(&engine);
    client.subscribe("t", Some("s"), 1).await;
    client.publish("t", "x", 0, false).await;
    client.next().await;
    client.delivery().await;
    storage.fail();
    client.send(vec![terminate("t", "x")]).await;
    let answer = client.next_outcome().await;
    assert!(matches!(answer, Outcome::Refused(crate::engine::Refusal::Unavailable(_))), "{answer:?}");
}

#[tokio::test]
async fn a_publish_and_its_settlement_for_full_subscriptions_are_one_batch() {
    let storage = Arc::new(MemoryStorage::default());
    let overflow = crate::policy::Overflow::DropLowest;
    let policy = TopicPolicy { max_waiting: 1, overflow, ..TopicPolicy::default() };
    let settings = super::EngineSettings { policies: Policies::new(vec![("t".into(), policy)]), ..settings() };
    let engine = engine(&storage, settings).await;
    let mut client = Client::new(&engine);
    for name in ["full", "empty"] {
        client.subscribe("t", Some(name), 1).await;
        client.send(vec![Op::Detach { topic: topic("t") }]).await;
        client.next().await;
        if name == "full" {
            client.publish("t", "a", 9, true).await;
            client.next().await;
        }
    }
    client.send(vec![Op::Publish { topic: topic("t"), event: event("t", "b", 0), confirm: true }]).await;
    assert_eq!(client.next_outcome().await, Outcome::Published { replaced: false });
    let last = storage.batches().pop().expect("something was stored");
    assert!(matches!(&last[..], [Mutation::Publish(_), Mutation::Settle { .. }]), "{last:?}");
    client.publish("t", "c", 0, true).await;
    assert_eq!(client.next_outcome().await, Outcome::Published { replaced: false }, "the other subscription keeps it");
    client.publish("t", "d", -1, true).await;
    assert_eq!(client.next_outcome().await, Outcome::Dropped);
    engine.close().await;
}
