//! Deliveries that are recorded because their number is limited.

use super::*;
use crate::storage::Mutation;

fn limited(most: u32) -> EngineSettings {
    let policy = TopicPolicy { max_deliveries: most, ..TopicPolicy::default() };
    EngineSettings { policies: Policies::new(vec![("limited".into(), policy)]), ..settings() }
}

/// The recorded deliveries: topic, subscription and count.
fn records(mutations: &[Mutation]) -> Vec<(String, String, u32)> {
    let redeliveries = mutations.iter().filter_map(|mutation| match mutation {
        Mutation::Redeliver { topic, subscription, events } => Some((topic, subscription, events)),
        _ => None,
    });
    let each = redeliveries.flat_map(|(topic, subscription, events)| {
        events.iter().map(move |event| (topic.to_string(), subscription.to_string(), event.deliveries))
    });
    each.collect()
}

fn record(deliveries: u32) -> (String, String, u32) {
    ("limited".into(), "s".into(), deliveries)
}

async fn waiting(client: &mut Client, name: &str) -> Option<u64> {
    client.send(vec![Op::Stats(Some(topic(name)))]).await;
    match client.next_outcome().await {
        Outcome::Stats(stats) => {
            stats.topics.first().map(|topic| topic.subscriptions.iter().map(|sub| sub.waiting).sum())
        }
        _ => None,
    }
}

/// Waits until this many events wait in a topic.
async fn until_waiting(client: &mut Client, name: &str, expected: u64) {
    let found = async {
        while waiting(client, name).await != Some(expected) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), found).await.expect("the events wait there within 30 s");
}

#[tokio::test(start_paused = true)]
async fn where_deliveries_are_limited_each_is_recorded_within_100_ms_and_nowhere_else() {
    let storage = Arc::new(MemoryStorage::default());
    let engine = engine(&storage, limited(3)).await;
    let (mut client, mut transient, mut publisher) = (Client::new(&engine), Client::new(&engine), Client::new(&engine));
    for topic in ["limited", "free"] {
        client.subscribe(topic, Some("s"), 1).await;
        transient.subscribe(topic, None, 1).await;
    }
    for topic in ["limited", "free"] {
        publisher.publish(topic, "a", 0, false).await;
    }
    while records(&storage.mutations()).is_empty() {
        client.next().await;
        tokio::time::sleep(Duration::from_millis(101)).await;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(records(&storage.mutations()), [record(1)]);
    let last = storage.batches().pop().unwrap();
    assert_eq!(last.len(), 1, "it had a batch of its own: {last:?}");
}

#[tokio::test(start_paused = true)]
async fn a_record_joins_the_next_batch_and_what_was_settled_before_has_none() {
    let storage = Arc::new(MemoryStorage::default());
    let engine = engine(&storage, limited(3)).await;
    let mut client = Client::new(&engine);
    client.subscribe("limited", Some("s"), 1).await;
    client.publish("limited", "a", 0, false).await;
    while client.next().await != Seen::Delivery("a".into(), 0) {}
    client.publish("limited", "b", 0, true).await;
    while client.next().await != Seen::Outcome(client.slot, Outcome::Published { replaced: false }) {}
    let batches = storage.batches();
    let joined = batches.iter().find(|batch| !records(batch).is_empty()).unwrap();
    assert!(matches!(joined[..], [Mutation::Publish(_), Mutation::Redeliver { .. }]), "{joined:?}");
    // The delivery of `b` follows the acknowledgement in its batch, and is settled in the next one.
    client.send(vec![ack("limited", &["a"]), ack("limited", &["b"])]).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(records(&storage.mutations()), [record(1)]);
}

#[tokio::test]
async fn an_event_whose_last_delivery_ended_with_a_kill_becomes_a_dead_letter_without_a_consumer() {
    let mut storage = Arc::new(MemoryStorage::default());
    for life in 0..2 {
        let engine = engine(&storage, limited(2)).await;
        let mut client = Client::new(&engine);
        client.subscribe("limited", Some("s"), 1).await;
        if life == 0 {
            client.publish("limited", "a", 0, false).await;
        }
        while client.next().await != Seen::Delivery("a".into(), life) {}
        while !records(&storage.mutations()).contains(&record(life + 1)) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let killed = Arc::new(storage.reopened());
        drop((client, engine));
        storage = killed;
    }
    let engine = engine(&storage, limited(2)).await;
    let mut client = Client::new(&engine);
    until_waiting(&mut client, "limited.dead", 1).await;
    until_waiting(&mut client, "limited", 0).await;
}

#[tokio::test]
async fn an_event_that_has_used_up_a_lowered_maximum_becomes_a_dead_letter_without_a_consumer() {
    let engine = engine(&Arc::default(), limited(5)).await;
    let mut client = Client::new(&engine);
    client.subscribe("limited", Some("s"), 3).await;
    for (id, times) in [("once", 1), ("twice", 2), ("delayed", 2)] {
        client.publish("limited", id, 0, false).await;
        for time in 0..times {
            while client.next().await != Seen::Delivery(id.into(), time) {}
            let delay_ms = if time + 1 < times { 0 } else { 3_600_000 };
            client.send(vec![Op::Nack { topic: topic("limited"), id: IdKey::of(id), delay_ms }]).await;
        }
    }
    while client.next().await != Seen::Outcome(client.slot, Outcome::Settled { found: true }) {}
    drop(client);
    let lowered = TopicPolicy { max_deliveries: 2, ..TopicPolicy::default() };
    engine.set_policies(Policies::new(vec![("limited".into(), lowered)])).await.unwrap();
    let mut other = Client::new(&engine);
    until_waiting(&mut other, "limited.dead", 2).await;
    assert_eq!(waiting(&mut other, "limited").await, Some(0), "the third is delayed");
}
